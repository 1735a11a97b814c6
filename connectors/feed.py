"""Reading topics and writing records for people and tools: the command line, the demo, tests.

`Reader` reads by assignment, without a group, and commits nothing. `Writer` is a plain idempotent producer whose
records are acknowledged by all in-sync replicas. The engine's own path is `frames.py` and `publisher.py`; nothing
here is part of it, decodes values or takes part in transactions.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from connectors.admin import ClusterError, answer, connected, require_topics, silent_logger, translated, unavailable
from connectors.clock import SystemClock
from connectors.publisher import RECORD_BYTES_MAX
from connectors.unsubscribed import unsubscribed

log = logging.getLogger(__name__)

T = TypeVar("T")

BATCH_RECORDS = 500
POLL_SECONDS = 0.1
REQUEST_SECONDS = 30.0
#: Twice the longest that a transaction of ours may stay open.
OPEN_TRANSACTIONS_SECONDS = 30.0
QUEUED_RECORDS_MAX = 100_000
#: An unacknowledged record fails after this long.
ACKNOWLEDGE_SECONDS = 30.0


class Reader:
    """Committed records of some topics, from their start or from the end as of opening. An async context manager.

    With `last`, from the start is from at most so many offsets before the end of each partition; with `start`, of one
    topic, its partitions are read from these offsets on, and those that it does not name from their start.

    ClusterError when the cluster does not answer or a topic is missing.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        topics: Sequence[str],
        *,
        from_beginning: bool,
        last: int = 0,
        start: Sequence[int] | None = None,
    ) -> None:
        self._config = dict(config)
        self._last = last
        self._start = start
        #: Where reading began, by topic and partition.
        self.began: dict[tuple[str, int], int] = {}
        self._topics = topics
        self._from_beginning = from_beginning
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._errors: list[KafkaError] = []
        #: Partitions with records that were not read yet when the reader was opened, or since.
        self._behind: set[tuple[str, int]] = set()
        self._closing = False

    async def __aenter__(self) -> Self:
        await require_topics(self._config, self._topics)
        await self._run(self._open)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        await self._run(self._consumer.close)
        self._thread.shutdown()

    async def batches(self, *, follow: bool, idle: bool = False) -> AsyncGenerator[list[Message], None]:
        """Records, ascending by offset within a partition. Without `follow`, until all that was there is read. With
        `idle`, also an empty batch each `POLL_SECONDS` in which nothing came.

        ClusterError when no broker answers any more; with `follow` it waits for one.
        """
        while follow or self._behind:
            messages = await self._run(self._consume)
            if messages or idle:
                yield messages
            if self._errors:
                self._meet(self._errors.pop(), follow)

    # --- on the reader's thread ---------------------------------------------------------------------------------

    def _open(self) -> None:
        self._consumer = Consumer(
            {
                **self._config,
                **unsubscribed("reader"),
                "error_cb": self._errors.append,
            },
            logger=silent_logger(),
        )
        try:
            start = [self._position(place) for topic in self._topics for place in self._places(topic)]
        except KafkaException as error:
            raise unavailable(self._config, error.args[0]) from None
        self._consumer.assign(start)

    def _places(self, topic: str) -> list[TopicPartition]:
        found = self._consumer.list_topics(topic, REQUEST_SECONDS).topics[topic]
        return [TopicPartition(topic, number) for number in sorted(found.partitions)]

    def _position(self, place: TopicPartition) -> TopicPartition:
        """Resolved now, so that "the end" does not depend on when the first fetch happens."""
        low, high = self._consumer.get_watermark_offsets(place, REQUEST_SECONDS)
        if self._last:
            low = max(low, high - self._last)
        offset = low if self._from_beginning else high
        if self._start is not None:
            asked = self._start[place.partition] if place.partition < len(self._start) else 0
            offset = min(max(low, asked), high)
        if offset < high:
            self._behind.add((place.topic, place.partition))
        self.began[place.topic, place.partition] = offset
        return TopicPartition(place.topic, place.partition, offset)

    def _consume(self) -> list[Message]:
        if self._closing:
            return []
        records = []
        for message in self._consumer.consume(BATCH_RECORDS, POLL_SECONDS):
            error = message.error()
            if error is None:
                records.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._behind.discard((message.topic(), message.partition()))
            else:
                self._errors.append(error)
        return records

    # ------------------------------------------------------------------------------------------------------------

    def _meet(self, error: KafkaError, follow: bool) -> None:
        self._errors.clear()
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION):
            raise ClusterError(f"the topic was removed while it was read ({error.str()}); run it again")
        if not follow and (error.code() == KafkaError._ALL_BROKERS_DOWN or not error.retriable()):
            raise unavailable(self._config, error)
        log.warning("Kafka: %s; waiting", error.str())

    async def _run(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)


async def wait_for_open_transactions(config: Mapping[str, Any], topic: str) -> None:
    """Wait until every transaction that is open now on the topic is over, so that a `Reader` opened next sees all that
    was committed before. ClusterError when one stays open for longer than any of ours may.
    """
    admin = await asyncio.to_thread(connected, config)
    clock = SystemClock()
    deadline = clock.monotonic() + OPEN_TRANSACTIONS_SECONDS
    written = await asyncio.to_thread(_ends, config, admin, topic, IsolationLevel.READ_UNCOMMITTED)
    while True:
        readable = await asyncio.to_thread(_ends, config, admin, topic, IsolationLevel.READ_COMMITTED)
        if all(readable[partition] >= end for partition, end in written.items()):
            return
        if clock.monotonic() > deadline:
            raise ClusterError(f"a transaction on {topic} has stayed open for too long; ask again when it has ended")
        await asyncio.sleep(POLL_SECONDS)


async def partitions(config: Mapping[str, Any]) -> dict[str, int]:
    """How many partitions each topic has. ClusterError."""
    found = await asyncio.to_thread(lambda: connected(config).list_topics(timeout=REQUEST_SECONDS).topics)
    return {name: len(topic.partitions) for name, topic in found.items()}


def _ends(config: Mapping[str, Any], admin: AdminClient, topic: str, isolation: IsolationLevel) -> dict[int, int]:
    with translated(config):
        partitions = admin.list_topics(topic, timeout=REQUEST_SECONDS).topics[topic].partitions
        asked = {TopicPartition(topic, number): OffsetSpec.latest() for number in partitions}  # type: ignore[no-untyped-call]
        found = admin.list_offsets(asked, isolation_level=isolation, request_timeout=REQUEST_SECONDS)
        return {place.partition: answer(future).offset for place, future in found.items()}


class Writer:
    """Writes records and waits for their acknowledgement. An async context manager; leaving it flushes.

    `on_acked` is told of every acknowledged record, one at a time, on threads of the writer.
    """

    def __init__(self, config: Mapping[str, Any], *, on_acked: Callable[[Message], None] | None = None) -> None:
        #: How many records were acknowledged.
        self.acked = 0
        self._config = dict(config)
        self._on_acked = on_acked
        self._failed: tuple[KafkaError, Message] | None = None
        self._lock = threading.Lock()  # reports come on the poller's thread and on that of a flush
        self._halt = threading.Event()
        self._producer = Producer(
            {
                "linger.ms": 2,
                "compression.type": "lz4",
                "partitioner": "murmur2_random",  # as the Java clients: a key's partition is the same for all
                "queue.buffering.max.messages": QUEUED_RECORDS_MAX,
                "message.max.bytes": RECORD_BYTES_MAX,
                "delivery.timeout.ms": int(ACKNOWLEDGE_SECONDS * 1000),
                **self._config,
                "enable.idempotence": True,
                "on_delivery": self._reported,
            },
            logger=silent_logger(),
        )
        self._poller = threading.Thread(target=self._poll, name="writer", daemon=True)

    async def __aenter__(self) -> Self:
        self._poller.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                await self.flush()
        finally:
            self._halt.set()
            self._producer.purge()  # only after a failure is there anything left
            await asyncio.to_thread(self._poller.join)

    async def write(
        self, topic: str, key: bytes, value: bytes | None, headers: list[tuple[str, str | bytes | None]] | None = None
    ) -> None:
        """Queue a record; waits while the queue is full. ClusterError when an earlier one failed or this cannot go."""
        while True:
            self._raise_failed()
            try:
                self._producer.produce(topic, value, key, headers=headers)
            except BufferError:
                await asyncio.to_thread(self._producer.flush, POLL_SECONDS)
            except KafkaException as error:
                raise self._refused(error.args[0], topic, value) from None
            else:
                return

    async def flush(self) -> None:
        """Wait until everything queued is acknowledged. ClusterError for the first record that was not."""
        while await asyncio.to_thread(self._producer.flush, POLL_SECONDS) and self._failed is None:
            pass
        self._raise_failed()

    def _raise_failed(self) -> None:
        if self._failed is not None:
            error, message = self._failed
            raise self._refused(error, message.topic() or "", message.value())

    def _refused(self, error: KafkaError, topic: str, value: bytes | None) -> ClusterError:
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            size = len(value or b"")
            return ClusterError(f"a record of {size} bytes is more than the topic {topic} takes; make it smaller")
        if error.code() == KafkaError._MSG_TIMED_OUT:
            error = KafkaError(KafkaError._TIMED_OUT)
        return unavailable(self._config, error)

    def _reported(self, error: KafkaError | None, message: Message) -> None:
        with self._lock:
            if error is None:
                self.acked += 1
                if self._on_acked is not None:
                    self._on_acked(message)
            elif self._failed is None:
                self._failed = (error, message)

    def _poll(self) -> None:
        while not self._halt.is_set():
            self._producer.poll(POLL_SECONDS)
