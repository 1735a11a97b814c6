"""What the tests of whole workers share: topics with subscriptions and events, workers, and a look at the results."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from connectors.admin import apply_topics
from schemas import codec
from schemas.delivery import dead_letter_schema
from schemas.endpoint import EndpointState, Operation, decode_operation, decode_state
from schemas.event import Event, encode_event
from schemas.frame import Headers
from schemas.subscription import Subscription, subscription_to_json
from streams.app import Worker
from streams.settings import Settings
from streams.wiring import OwnSchemas, Role, make_registry, register_own_schemas
from tests.helpers import eventually, eventually_async

ROOT = Path(__file__).parents[2]
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
BOTH: tuple[Role, ...] = ("fan-out", "delivery")
PARTITIONS = 4
#: How long a reader waits for the end of transactions: their markers come within milliseconds, on a slow day seconds.
OPEN_TRANSACTIONS_S = 10.0


class Site:
    """Topics of one prefix, with what a producer and an operator do to them, and readers of what came of it."""

    def __init__(self, settings: Settings, schemas: OwnSchemas) -> None:
        self.settings = settings
        self.topics = settings.topics
        self.schemas = schemas
        self._client = {"bootstrap.servers": settings.bootstrap}
        self._producer = Producer(
            {**self._client, "linger.ms": 5, "message.max.bytes": 16 << 20, "partitioner": "murmur2_random"}
        )

    @classmethod
    async def made(cls, bootstrap: str, prefix: str, **settings: Any) -> Site:
        values: dict[str, Any] = {
            "bootstrap": bootstrap,
            "prefix": prefix,
            "partitions": PARTITIONS,
            "allow_private_networks": True,
            "drain_s": 5.0,
        }
        site_settings = Settings(**(values | settings))
        topics = site_settings.topics
        await apply_topics({"bootstrap.servers": bootstrap}, topics.specs(), 1)
        registry = make_registry(site_settings)
        schemas = await register_own_schemas(registry, topics)
        await registry.close()
        return cls(site_settings, schemas)

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(
        self,
        topic: str,
        records: Iterable[tuple[bytes | None, bytes | None]],
        *,
        partition: int = -1,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> None:
        """(key, value) records, durable on return; written now unless `timestamp_ms` says when."""
        for key, value in records:
            more: Any = {"headers": headers} if headers else {}
            if timestamp_ms is not None:
                more["timestamp"] = timestamp_ms
            while True:
                try:
                    self._producer.produce(topic, value, key, partition, **more)
                    break
                except BufferError:
                    self._producer.poll(0.1)
        assert self._producer.flush(120) == 0

    def subscribe(self, subscription_id: str, url: str, **fields: Any) -> None:
        values: dict[str, Any] = {"event_types": ("order.*",), "secrets": (SECRET,), "max_in_flight": 32} | fields
        value = subscription_to_json(Subscription(id=subscription_id, url=url, **values))
        self.write(self.topics.subscriptions, [(subscription_id.encode(), value)])

    def unsubscribe(self, subscription_id: str) -> None:
        self.write(self.topics.subscriptions, [(subscription_id.encode(), None)])

    def event(self, event_id: str, event_type: str = "order.created", data: bytes = b'{"n":1}') -> bytes:
        return encode_event(self.schemas.event, Event(event_id, event_type, "default", 1_700_000_000_000, data))

    def send(self, ids: Iterable[str], event_type: str = "order.created") -> None:
        self.write(self.topics.events, ((id_.encode(), self.event(id_, event_type)) for id_ in ids))

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(
        self, *topics: str, isolation: str = "read_committed", patience_s: float = OPEN_TRANSACTIONS_S
    ) -> list[Any]:
        """All committed records, as confluent_kafka's messages; or with `read_uncommitted` all that are in the log.

        A commit is over before its markers are everywhere, so a transaction that is open where reading ends is waited
        for; but no longer than `patience_s`, since one of a worker that was killed or frozen stays open.
        """
        consumer = Consumer(
            {
                **self._client,
                "group.id": f"{self.settings.prefix}reader",
                "isolation.level": isolation,
                "enable.partition.eof": True,
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 10,
            }
        )
        try:
            cluster = consumer.list_topics(timeout=60).topics
            partitions = [TopicPartition(topic, number, 0) for topic in topics for number in cluster[topic].partitions]
            consumer.assign(partitions)
            found: list[Any] = []
            ends: dict[Any, int] = {}  # of the log of each place, when reading first came to one
            ended: set[Any] = set()
            deadline: float | None = None
            while len(ended) < len(partitions) and (deadline is None or time.monotonic() < deadline):
                messages = consumer.consume(5_000, 0.05)  # it waits for so many, or so long
                for message in messages:
                    error, place = message.error(), cast(Any, (message.topic(), message.partition()))
                    if error is None:
                        found.append(message)
                        deadline = deadline if place in ended else None  # it goes on
                    elif error.code() == KafkaError._PARTITION_EOF:  # others pass: a connection that was lost, say
                        if place not in ends:
                            watermarks = consumer.get_watermark_offsets(TopicPartition(*place), cached=True)
                            ends[place] = watermarks[1]
                        if cast(int, message.offset()) >= ends[place]:
                            ended.add(place)
                if deadline is None and len(ends) == len(partitions):
                    deadline = time.monotonic() + patience_s
            return found
        finally:
            consumer.close()

    def readable(self, topic: str) -> int:
        """How many offsets of it are committed: as good as a count of its records, and sooner known."""
        consumer = Consumer(self._client | {"group.id": f"{self.settings.prefix}reader"})
        try:
            partitions = consumer.list_topics(topic, 60).topics[topic].partitions
            ends = (consumer.get_watermark_offsets(TopicPartition(topic, number), 60) for number in partitions)
            return sum(high for _, high in ends)
        finally:
            consumer.close()

    def attempts(self, **options: Any) -> list[dict[str, Any]]:
        return self._decoded(self.topics.attempts, codec.own_schema("attempt.v1"), **options)

    def dead(self) -> list[dict[str, Any]]:
        return self._decoded(self.topics.dead, dead_letter_schema())

    def states(self) -> list[EndpointState]:
        return [decode_state(message.value()) for message in self.read(self.topics.endpoints_state)]

    def operations(self) -> list[Operation]:
        return [decode_operation(message.value()) for message in self.read(self.topics.operations)]

    def _decoded(self, topic: str, schema: str, **options: Any) -> list[dict[str, Any]]:
        parsed = codec.parse_schema(schema)
        return [codec.decode(message.value(), parsed) for message in self.read(topic, **options)]

    def outcomes(self) -> Counter[tuple[str, str]]:
        """How often each (delivery id, outcome) is in `attempts`."""
        return Counter((one["delivery_id"], one["outcome"]) for one in self.attempts())

    # --- workers -----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def worker(self, roles: Sequence[Role] = BOTH) -> AsyncIterator[Worker]:
        """One in this process, ready."""
        ready, stop = asyncio.Event(), asyncio.Event()
        worker = Worker(self.settings, roles, on_ready=ready.set)
        running = asyncio.create_task(worker.run(stop))
        try:
            await eventually_async(
                lambda: ready.is_set() or running.done(), timeout_s=120, message="the worker is ready"
            )
            if not running.done():
                yield worker
        finally:
            stop.set()
            await asyncio.wait_for(running, 120)

    @contextlib.contextmanager
    def worker_process(
        self,
        worker_id: str,
        roles: Sequence[Role] = BOTH,
        *,
        log: Path,
        program: Sequence[str] = ("tests.integration.worker_process",),
    ) -> Iterator[WorkerProcess]:
        """One of its own, as this module with these arguments; it is gone when the block is left."""
        settings = self.settings
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DISTRIBUTARY_")} | {
            "DISTRIBUTARY_BOOTSTRAP": str(settings.bootstrap),
            "DISTRIBUTARY_PREFIX": settings.prefix,
            "DISTRIBUTARY_PARTITIONS": str(settings.partitions),
            "DISTRIBUTARY_ALLOW_PRIVATE_NETWORKS": "true",
            "DISTRIBUTARY_DRAIN_S": str(settings.drain_s),
            "DISTRIBUTARY_GUARANTEE": settings.guarantee,
            "DISTRIBUTARY_CIRCUIT_RESULTS_MIN": str(settings.circuit_results_min),
            "DISTRIBUTARY_OPERATIONS_WINDOW_S": str(settings.operations_window_s),
            "DISTRIBUTARY_WORKER_ID": worker_id,
        }
        command = [sys.executable, "-m", *program, *roles]
        with (
            log.open("ab") as errors,
            subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors) as process,
        ):
            try:
                yield WorkerProcess(process)
            finally:
                process.kill()


class WorkerProcess:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def ready(self) -> None:
        """Wait until partitions are assigned to every role."""
        assert self.says() == "ready"

    def says(self) -> str:
        """The next line of its stdout; nothing when it has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def kill(self) -> None:
        """kill -9, and gone on return."""
        self._process.kill()
        self._process.wait(120)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def terminate(self) -> int:
        """SIGTERM; the exit code of an orderly end."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(120)

    def ends(self) -> int:
        """Wait for it; the exit code."""
        return self._process.wait(120)

    def ended(self) -> bool:
        return self._process.poll() is not None


def until(condition: Any, message: str, timeout_s: float = 120.0) -> None:
    eventually(condition, timeout_s=timeout_s, message=message)
