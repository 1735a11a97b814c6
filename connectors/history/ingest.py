"""From the topic of attempts into a store: all partitions, committed records only, each once, for as long as it runs.

Reads by itself, without a group: the store knows the positions. While one batch is written, the next one is read. When
the store or Kafka is away it waits, acquires anew and goes on from the store's positions, so nothing of what it knew
before can be wrong. This file knows no database.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition

from connectors.admin import ClusterError, silent_logger
from connectors.history.attempts import HistoryUnavailableError, LoggedAttempt
from connectors.history.store import Batch, HistoryStore, Span, StoreMismatchError
from connectors.unsubscribed import unsubscribed
from schemas import codec
from schemas.errors import RegistryUnavailableError, UndecodableError, UnknownSchemaError

log = logging.getLogger(__name__)

#: Many: rows of one index page are written together, and what one transaction costs is shared.
BATCH_RECORDS = 20_000
#: How long a batch is waited for; then it is what has come.
BATCH_SECONDS = 0.2
PREFETCH_KIB_MAX = 32 * 1024
REQUEST_SECONDS = 10.0
#: Between two looks at whether another process still writes, or the store or Kafka is back.
AGAIN_SECONDS = 1.0
#: Between two steps of retention that had nothing more to do, and two looks for new partitions.
TRIM_SECONDS = 10.0
PARTITIONS_SECONDS = 30.0


class Retention(msgspec.Struct, frozen=True):
    """What is kept: attempts of so long ago, and so many."""

    age_ms: int
    attempts_max: int


class HistoryIngest:
    """Fills a store. `schema` gives the text of a writer's schema by its id, on the event loop."""

    def __init__(
        self,
        config: Mapping[str, Any],
        topic: str,
        store: HistoryStore,
        schema: Callable[[int], Any],
        retention: Retention,
        *,
        now_ms: Callable[[], int],
        monotonic: Callable[[], float],
        on_acquired: Callable[[], None] = lambda: None,
        on_waiting: Callable[[], None] = lambda: None,
        batch_records: int = BATCH_RECORDS,
    ) -> None:
        self._config = config
        self._topic = topic
        self._store = store
        self._schema = schema
        self._retention = retention
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._on_acquired, self._on_waiting = on_acquired, on_waiting
        self._batch_records = batch_records
        #: Attempts stored by this process, and records that are none.
        self.stored = self.undecodable = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`. A store that cannot be used at first raises HistoryUnavailableError; later it is waited for,
        as Kafka and the registry are. StoreMismatchError at any time."""
        worked = waiting = False
        while not stop.is_set():
            try:
                positions = await self._store.acquire(self._topic)
                worked = True
                if positions is not None:
                    waiting = False
                    await self._fill(positions, stop)
                elif not waiting:
                    waiting = True
                    self._on_waiting()
            except (HistoryUnavailableError, ClusterError, RegistryUnavailableError) as error:
                if not worked:
                    raise
                log.warning("%s; waiting", error)
            await _pause(stop, AGAIN_SECONDS)
        await self._store.release()

    async def _fill(self, positions: Mapping[int, int], stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        reader = _Reader(self, positions, loop)
        thread = ThreadPoolExecutor(1, thread_name_prefix="attempts")
        writing: asyncio.Task[None] | None = None
        try:
            await loop.run_in_executor(thread, reader.open)
            self._on_acquired()
            trimmed = -TRIM_SECONDS
            while not stop.is_set():
                batch = await loop.run_in_executor(thread, reader.next)
                if writing is not None:
                    await writing
                    writing = None
                if batch is not None:
                    writing = asyncio.create_task(self._write(batch), name="history write")
                if self._monotonic() - trimmed >= TRIM_SECONDS:
                    before_ms = self._now_ms() - self._retention.age_ms
                    more = await self._store.trim(before_ms, self._retention.attempts_max)
                    trimmed = self._monotonic() - (TRIM_SECONDS if more else 0)
        finally:
            if writing is not None:
                # What was written is written; an error would hide the one that ends this.
                await asyncio.gather(writing, return_exceptions=True)
            await loop.run_in_executor(thread, reader.close)
            thread.shutdown(wait=False)

    async def _write(self, batch: Batch) -> None:
        await self._store.write(batch)
        self.stored += len(batch.attempts)

    # --- for the reader -----------------------------------------------------------------------------------------

    @property
    def topic(self) -> str:
        """What is read."""
        return self._topic

    @property
    def batch_records(self) -> int:
        """At most so many at once."""
        return self._batch_records

    def consumer(self) -> Consumer:
        """A new one."""
        return Consumer(
            {
                **self._config,
                **unsubscribed("history"),
                "enable.partition.eof": False,
                # What retention took before it was read is said (`_Reader.open`), not passed over.
                "auto.offset.reset": "error",
                "queued.max.messages.kbytes": PREFETCH_KIB_MAX,
                "fetch.queue.backoff.ms": 10,
            },
            logger=silent_logger(),
        )

    def schema(self, schema_id: int) -> Any:
        """A coroutine: the text."""
        return self._schema(schema_id)

    def monotonic(self) -> float:
        """The clock."""
        return self._monotonic()


class _Reader:
    """The consumer, on one thread."""

    def __init__(self, ingest: HistoryIngest, positions: Mapping[int, int], loop: asyncio.AbstractEventLoop) -> None:
        self._ingest = ingest
        self._loop = loop
        #: Where the store is once all batches so far are written; None for partitions that it has never seen.
        self._reached: dict[int, int | None] = dict(positions)
        self._consumer = ingest.consumer()
        self._read: set[int] = set()
        self._looked = 0.0
        self._schemas: dict[int, codec.Schema | None] = {}

    def open(self) -> None:
        """Begin where the store is. ClusterError, StoreMismatchError."""
        with _translated():
            self._look()

    def next(self) -> Batch | None:
        """What has come; None for nothing. ClusterError."""
        with _translated():
            if self._ingest.monotonic() - self._looked > PARTITIONS_SECONDS:
                self._look()
            messages = self._consumer.consume(self._ingest.batch_records, BATCH_SECONDS)
            attempts: list[LoggedAttempt] = []
            ends: dict[int, int] = {}
            for message in messages:
                error = message.error()
                if error is not None:
                    if error.retriable() and not error.fatal():
                        continue
                    raise KafkaException(error)
                partition, offset = message.partition(), message.offset()
                assert partition is not None, "a consumed record has one"
                assert offset is not None, "and the other"
                ends[partition] = offset + 1
                attempt = self._attempt(message.value(), partition, offset)
                if attempt is not None:
                    attempts.append(attempt)
        if not ends:
            return None
        spans = {partition: Span(self._reached.get(partition), end) for partition, end in ends.items()}
        self._reached |= ends
        return Batch(attempts, spans)

    def close(self) -> None:
        """Let go."""
        self._consumer.close()

    def _look(self) -> None:
        self._looked = self._ingest.monotonic()
        found = self._consumer.list_topics(self._ingest.topic, REQUEST_SECONDS).topics[self._ingest.topic]
        if found.error is not None:
            raise KafkaException(found.error)
        new = sorted(set(found.partitions) - self._read)
        if new:
            self._consumer.incremental_assign([self._start(number) for number in new])
            self._read.update(new)

    def _start(self, partition: int) -> TopicPartition:
        place = TopicPartition(self._ingest.topic, partition)
        low, high = self._consumer.get_watermark_offsets(place, REQUEST_SECONDS)
        reached = self._reached.get(partition)
        if reached is None:
            return TopicPartition(self._ingest.topic, partition, low)
        if reached > high:
            raise StoreMismatchError(
                f"the store has read {self._ingest.topic}[{partition}] up to {reached}, and it ends at {high}: it was "
                "made anew; name another store"
            )
        if reached < low:
            log.error(
                "%s[%d]: records %d to %d were removed by the topic's retention before they were read",
                *(self._ingest.topic, partition, reached, low - 1),
            )
        return TopicPartition(self._ingest.topic, partition, max(low, reached))

    def _attempt(self, value: bytes | None, partition: int, offset: int) -> LoggedAttempt | None:
        try:
            schema_id = codec.wire_schema_id(value)
            if schema_id not in self._schemas:
                self._schemas[schema_id] = self._learn(schema_id)
            schema = self._schemas[schema_id]
            if schema is not None and value is not None:
                fields = codec.decode(value, schema)
                return LoggedAttempt(partition, offset, *_values(fields))
        except (UndecodableError, KeyError, TypeError):
            pass
        self._ingest.undecodable += 1
        log.warning("%s[%d]@%d is no attempt; passed over", self._ingest.topic, partition, offset)
        return None

    def _learn(self, schema_id: int) -> codec.Schema | None:
        """None for a schema that there is not. Waits while the registry is down."""
        try:
            text = asyncio.run_coroutine_threadsafe(self._ingest.schema(schema_id), self._loop).result()
            return codec.parse_schema(text)
        except (UnknownSchemaError, ValueError):
            return None


_values = itemgetter(*LoggedAttempt.__struct_fields__[2:])


@contextlib.contextmanager
def _translated() -> Any:
    try:
        yield
    except KafkaException as error:
        raise ClusterError(f"attempts cannot be read: {error.args[0].str()}; check Kafka") from None


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
