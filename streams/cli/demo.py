"""`distributary demo`: the whole job on a real Kafka, checked from outside.

A worker and the receivers run in processes of their own; this one sends the events, reads what Kafka says became of
them, and compares it with what was expected and with what the receivers saw (`demo_audit.py`).
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import msgspec
import typer
from confluent_kafka import Message

from connectors.admin import ClusterError, apply_topics, delete_topics
from connectors.clock import SystemClock
from connectors.feed import Reader, Writer
from connectors.group_offsets import delete_groups
from connectors.guardian import Guarded, guarded
from connectors.local_kafka import Cluster, kafka_cluster
from connectors.receiver import Arrival, require_standardwebhooks
from schemas.event import Event, encode_event
from streams.cli.demo_audit import Result, Tally, audit
from streams.cli.demo_plan import TARGETS, Expected, endpoints, event, expected, subscriptions
from streams.cli.demo_view import View, show_result
from streams.cli.options import Bootstrap, load_settings, open_registry
from streams.cli.output import emit, note
from streams.cli.running import CommandError, run
from streams.cli.values import Values, subscription_value
from streams.new_secrets import new_secret
from streams.settings import Settings
from streams.wiring import ROLES, OwnSchemas, client_config, register_own_schemas

START_SECONDS = 60.0
#: After the last event is sent. Two retries of a second each, eight at a time, take a few; slow machines some more.
SETTLE_SECONDS = 45.0
SETTLE_SECONDS_PER_EVENT = 0.02
STOP_SECONDS = 15.0
_LOOK_SECONDS = 0.05


def demo(
    events: Annotated[int, typer.Option(min=1, max=100_000, help="How many events")] = 1_000,
    rate: Annotated[float, typer.Option(min=1, max=100_000, help="Events a second")] = 200,
    workers: Annotated[int, typer.Option(min=1, max=16, help="How many worker processes")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the topics in a given cluster")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Send events through healthy, flaky and dead endpoints on a real Kafka, and check what became of each.

    Every signature is checked with the standardwebhooks package. The last line of stdout is one JSON object; the exit
    code is 1 when anything is lost, badly signed, or not as it must be. Without --bootstrap, Kafka is started.

    Example: distributary demo --events 200
    """
    require_standardwebhooks()
    with (
        kafka_cluster(given=load_settings(bootstrap=bootstrap).bootstrap, progress=note) as cluster,
        tempfile.TemporaryDirectory(prefix="distributary-demo-") as directory,
    ):
        demonstration = Demonstration(cluster, Path(directory), events, rate)
        result, problems = run(lambda _: demonstration.run(workers, keep))
    show_result(result, problems)
    emit(msgspec.structs.asdict(result))
    if problems:
        raise typer.Exit(1)


class Demonstration:
    """One run of the demo on a cluster."""

    def __init__(self, cluster: Cluster, directory: Path, events: int, rate: float) -> None:
        self._cluster = cluster
        self._directory = directory
        self._clock = SystemClock()
        #: What the workers get; it wins over the user's environment and file. No registry: one of the user's must not
        #: fill with the demo's subjects, and our own schemas need none.
        self._environment = {
            "bootstrap": cluster.bootstrap,
            "prefix": f"demo-{secrets.token_hex(4)}.",
            "partitions": "4",
            "registry_url": "",
            "schemas": "",
            "proxy": "",
            "allow_private_networks": "true",
            # What is sent to an endpoint that is down would be parked until it is back; the demo is to end.
            "circuit_results_min": "0",
        }
        self._settings: Settings = load_settings(**self._environment)
        self._config = client_config(self._settings)
        self._rate = rate
        self._events = [event(n, 0) for n in range(events)]
        self._expected: dict[str, Expected] = expected([(each.id, each.type) for each in self._events])
        self._secrets = {target.id: new_secret() for target in TARGETS}
        self._event_times_ms: dict[str, int] = {}
        self._workers: list[tuple[Guarded, Path]] = []

    async def run(self, workers: int, keep: bool) -> tuple[Result, list[str]]:
        """The result, and what is wrong with it. CommandError when it could not take place."""
        topics = self._settings.topics
        note(f"Kafka: {self._broker()}")
        async with AsyncExitStack() as stack:
            if self._cluster.kind == "given" and not keep:
                stack.push_async_callback(self._remove)
            await apply_topics(self._config, topics.specs(), self._settings.replication_factor)
            receivers = stack.enter_context(ExitStack())
            receiver_port = await self._start_receiver(receivers)
            refused = stack.enter_context(socket.socket())
            refused.bind(("127.0.0.1", 0))  # without listen(): it is ours, and refuses every connection
            async with open_registry(self._settings) as registry:
                ids = await register_own_schemas(registry, topics)
                values = Values(registry)
                await self._subscribe(ids, receiver_port, refused.getsockname()[1])
                running = ExitStack()
                stack.push_async_callback(asyncio.to_thread, running.close)
                await self._start_workers(running, workers)
                note(f"{workers} worker{'s' if workers > 1 else ''} ready; sending {len(self._events)} events")
                await self._send_and_wait(ids, values)
                # Only what is stopped can be audited: nothing is added to the books any more.
                await asyncio.to_thread(running.close)
                tally = await self._books(values)
            arrivals = await _arrivals(receiver_port)
        return audit(tally, arrivals, self._event_times_ms, self._broker())

    def _broker(self) -> str:
        named = "Kafka" if self._cluster.version == "unknown" else f"Apache Kafka {self._cluster.version}"
        return f"{named} at {self._cluster.bootstrap} ({self._cluster.kind})"

    async def _start_receiver(self, stack: ExitStack) -> int:
        file = self._directory / "endpoints.json"
        file.touch(mode=0o600)
        file.write_bytes(msgspec.json.encode(endpoints(self._secrets)))
        log = self._directory / "receiver.log"
        command = [sys.executable, "-m", "connectors.receiver", "--endpoints", str(file)]
        child = stack.enter_context(guarded(command, log=log))
        line = await self._line(child, log, "{", "the receiver")
        return int(msgspec.json.decode(line)["port"])

    async def _start_workers(self, stack: ExitStack, workers: int) -> None:
        for n in range(workers):
            given = self._environment | {"worker_id": f"demo-{n}"}
            assignments = [f"DISTRIBUTARY_{name.upper()}={value}" for name, value in given.items()]
            log = self._directory / f"worker-{n}.log"
            command = ["env", *assignments, sys.executable, "-m", "streams.cli", "worker", "--role", "all"]
            self._workers.append((stack.enter_context(guarded(command, log=log, grace_seconds=STOP_SECONDS)), log))
        for child, log in self._workers:
            await self._line(child, log, "ready", "a worker")

    async def _watch_workers(self) -> None:
        """CommandError when a worker ends by itself; never returns."""
        while True:
            for child, log in self._workers:
                if child.ended():
                    raise CommandError(
                        f"a worker ended while it worked; it said: {(_whole_lines(log) or ['nothing'])[-1]}"
                    )
            await asyncio.sleep(_LOOK_SECONDS)

    async def _line(self, child: Guarded, log: Path, start: str, what: str) -> str:
        """The first whole line of the log that starts so. CommandError when the child ends or takes too long."""
        deadline = self._clock.monotonic() + START_SECONDS
        while True:
            lines = _whole_lines(log)
            if found := next((line for line in lines if line.startswith(start)), None):
                return found
            if child.ended():
                raise CommandError(f"{what} ended at its start: {lines[-1] if lines else 'it said nothing'}")
            if self._clock.monotonic() > deadline:
                said = f"; it said: {lines[-1]}" if lines else ""
                raise CommandError(f"{what} was not ready within {START_SECONDS:g} s{said}")
            await asyncio.sleep(_LOOK_SECONDS)

    async def _subscribe(self, ids: OwnSchemas, receiver_port: int, refused_port: int) -> None:
        async with Writer(self._config) as writer:
            for each in subscriptions(self._secrets, receiver_port, refused_port, self._clock.now_ms()):
                value = subscription_value(ids.subscription, each)
                await writer.write(self._settings.topics.subscriptions, each.id.encode(), value)

    async def _send_and_wait(self, ids: OwnSchemas, values: Values) -> None:
        """Until every delivery is settled, or the time for it is over: the audit says what is missing."""
        tally = Tally(self._expected)
        seconds = len(self._events) * (1 / self._rate + SETTLE_SECONDS_PER_EVENT) + SETTLE_SECONDS
        with View(tally, len(self._events)) as view:
            tasks: list[asyncio.Future[Any]] = [
                asyncio.ensure_future(asyncio.gather(self._send(ids.event, view), self._follow(tally, values, view))),
                asyncio.ensure_future(self._watch_workers()),
            ]
            try:
                done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        if tally.left:
            note(f"{tally.left} deliveries are not settled after {seconds:.0f} s", style="red")

    async def _send(self, schema_id: int, view: View) -> None:
        start = self._clock.monotonic()
        async with Writer(self._config, on_acked=self._acked) as writer:
            for n, each in enumerate(self._events):
                if (early := start + n / self._rate - self._clock.monotonic()) > 0:
                    await asyncio.sleep(early)
                now = msgspec.structs.replace(each, time_ms=self._clock.now_ms())
                await writer.write(self._settings.topics.events, _key(each), encode_event(schema_id, now))
                view.sent = n + 1

    def _acked(self, message: Message) -> None:
        key = message.key()
        assert isinstance(key, bytes)
        self._event_times_ms[key.decode()] = message.timestamp()[1]

    async def _follow(self, tally: Tally, values: Values, view: View) -> None:
        async with self._reader() as reader, aclosing(reader.batches(follow=True)) as batches:
            async for batch in batches:
                await self._take(tally, batch, values)
                view.advanced()
                if not tally.left:
                    return

    async def _books(self, values: Values) -> Tally:
        """Everything that Kafka has on the deliveries."""
        tally = Tally(self._expected)
        async with self._reader() as reader, aclosing(reader.batches(follow=False)) as batches:
            async for batch in batches:
                await self._take(tally, batch, values)
        return tally

    def _reader(self) -> Reader:
        topics = self._settings.topics
        return Reader(self._config, [topics.attempts, topics.dead], from_beginning=True)

    async def _take(self, tally: Tally, batch: Sequence[Message], values: Values) -> None:
        for message in batch:
            value: Mapping[str, Any] = await values.decode(message.value())
            if message.topic() == self._settings.topics.dead:
                tally.take_dead(value)
            else:
                tally.take_attempt(value)

    async def _remove(self) -> None:
        try:
            await delete_groups(self._config, [self._settings.group(role) for role in ROLES])
            await delete_topics(self._config, [spec.name for spec in self._settings.topics.specs()])
        except ClusterError as error:
            note(f"the demo's topics {self._settings.prefix}* could not all be removed: {error}", style="yellow")


def _whole_lines(file: Path) -> list[str]:
    return file.read_text(errors="replace").split("\n")[:-1] if file.exists() else []


def _key(event: Event) -> bytes:
    return event.id.encode()


async def _arrivals(port: int) -> dict[str, dict[str, Arrival]]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/arrivals") as response:
        return msgspec.json.decode(await response.read(), type=dict[str, dict[str, Arrival]])
