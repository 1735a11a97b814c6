"""Reading a topic again: the records of a partition from any offset, on demand.

For what was parked and can be sent now. No group and no commits: each partition in use has an assigned consumer that
reads ahead, so reading on costs no round trip; going back costs one. At the end of the log nothing is fetched until the
next read. This file does not know what the records mean, nor which of them are still to be done (`streams` does).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from connectors.kafka_rights import denied
from connectors.unsubscribed import unsubscribed
from schemas.frame import Record

logger = logging.getLogger(__name__)

RECORDS_MAX = 500
CONSUMERS_MAX = 4
PREFETCH_KIB_MAX = 4_096
#: Records between the last one read and the wanted offset that are read over; beyond, a new fetch is cheaper.
SKIP_MAX = 5_000
_POLL_S = 0.05  # how soon a wait for the brokers notices `close()`
_DOUBT_AFTER = 6  # polls in vain
_ASK_TIMEOUT_S = 1.0


class KafkaLogReader:
    """Implements `streams.ports.LogReader` and `SpanReader`.

    `seeks` counts the reads that could not go on where the last one ended.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        topic: str,
        *,
        uncommitted: bool = False,
        consumers_max: int = CONSUMERS_MAX,
    ) -> None:
        """`config` needs `bootstrap.servers`; nothing is connected until the first read. With `uncommitted`, records of
        open and of aborted transactions are read too."""
        self._config = {
            **config,
            **unsubscribed("log-reader"),
            "isolation.level": "read_uncommitted" if uncommitted else "read_committed",
            "queued.max.messages.kbytes": PREFETCH_KIB_MAX,
            # A full queue is looked at again soon, not after a second, and a fetch at the end answers soon.
            "fetch.queue.backoff.ms": 20,
            "fetch.wait.max.ms": 50,
            "fetch.error.backoff.ms": 100,
        }
        self._topic = topic
        self._cursors: dict[int, _Cursor] = {}  # the least recently used one first
        self._choosing = asyncio.Lock()
        self._reads = asyncio.Semaphore(consumers_max)
        self._closed = False
        self._seeks = 0
        self._consumers_max = consumers_max
        self._reached: dict[int, int] = {}

    async def read(self, partition: int, offset: int) -> Sequence[Record]:
        """See the port. Waits while no broker answers; ClusterError for a missing right; RuntimeError once the reader
        is closed."""
        async with self._reads:
            cursor = await self._take(partition)
            try:
                return await cursor.read(offset)
            finally:
                cursor.readers -= 1
                self._reached[partition] = cursor.reached

    def reached(self, partition: int) -> int:
        """See the port."""
        return self._reached.get(partition, 0)

    async def close(self) -> None:
        """End reads under way, and let go."""
        self._closed = True
        async with self._choosing:
            for cursor in self._cursors.values():
                await self._drop(cursor)
            self._cursors.clear()

    @property
    def seeks(self) -> int:
        """Reads that had to fetch anew."""
        return self._seeks + sum(cursor.seeks for cursor in self._cursors.values())

    @property
    def consumers(self) -> int:
        """How many partitions have a consumer now."""
        return len(self._cursors)

    async def _take(self, partition: int) -> _Cursor:
        """The partition's cursor, as the most recently used one, with this read counted."""
        async with self._choosing:
            if self._closed:
                raise RuntimeError("the log reader is closed")
            cursor = self._cursors.pop(partition, None)
            if cursor is None:
                if (
                    len(self._cursors) >= self._consumers_max
                ):  # one is idle at least: there are no more reads than cursors
                    idle = next(number for number, other in self._cursors.items() if not other.readers)
                    await self._drop(self._cursors.pop(idle))
                cursor = _Cursor(self._config, self._topic, partition)
            self._cursors[partition] = cursor
            cursor.readers += 1
            return cursor

    async def _drop(self, cursor: _Cursor) -> None:
        await cursor.close()
        self._seeks += cursor.seeks


class _Cursor:
    """One partition's consumer, where it stands, and the only thread that calls it."""

    def __init__(self, config: Mapping[str, Any], topic: str, partition: int) -> None:
        self.readers = 0  # on the loop
        self.seeks = 0
        self._config = config
        self._topic = topic
        self._partition = partition
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"log-{topic}-{partition}")
        self._halt = threading.Event()
        self._consumer: Consumer | None = None
        self._next = 0  # one past the last record consumed
        self.reached = 0  # the same, or where the log's end was met
        self._ended = True  # nothing is assigned: not yet, or because the log's end was met
        self._complained = False

    async def read(self, offset: int) -> Sequence[Record]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, offset)

    async def close(self) -> None:
        self._halt.set()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    # --- on the cursor's thread -------------------------------------------------------------------

    def _read(self, offset: int) -> Sequence[Record]:
        consumer = self._consumer
        if consumer is None:
            consumer = self._consumer = Consumer({**self._config, "error_cb": self._complain}, logger=logger)
        if self._ended or not self._next <= offset <= self._next + SKIP_MAX:
            consumer.assign([TopicPartition(self._topic, self._partition, offset)])
            self._next, self.reached, self._ended = offset, 0, False
            self.seeks += 1
        waited = 0
        while not self._halt.is_set():
            # The first record is waited for, the rest is what is there: consume() alone would wait for them all.
            messages = consumer.consume(1, _POLL_S)
            if messages:
                messages += consumer.consume(RECORDS_MAX - 1, 0)
            records = self._records(messages, offset)
            waited += 1
            if not messages and waited % _DOUBT_AFTER == 0:
                self._ended = self._beyond_end(consumer)
            if self._ended:  # until the next read, which asks anew, nothing needs to be fetched
                consumer.unassign()
            if records or self._ended:
                return records
        raise RuntimeError("the log reader is closed")

    def _beyond_end(self, consumer: Consumer) -> bool:
        """Whether the next record stands behind the first open transaction: librdkafka tells of an end only where it
        meets it."""
        try:
            place = TopicPartition(self._topic, self._partition)
            _, end = consumer.get_watermark_offsets(place, timeout=_ASK_TIMEOUT_S)
        except KafkaException as error:
            self._complain(error.args[0])
            return False
        return self._next >= end

    def _records(self, messages: list[Any], offset: int) -> Sequence[Record]:
        records: list[Record] = []
        for message in messages:
            error = message.error()
            if error is None:
                self._next = self.reached = message.offset() + 1
                self._ended = self._complained = False
                if message.offset() >= offset:
                    records.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._ended = True
                self.reached = max(self.reached, message.offset())
            elif error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise denied(error, "READ", topic=self._topic)
            elif error.fatal():
                raise KafkaException(error)
            else:
                self._complain(error)
        return records

    def _complain(self, error: KafkaError) -> None:
        """Once until records arrive again; librdkafka goes on trying by itself."""
        if not self._complained:
            self._complained = True
            logger.warning("reading %s[%s]: %s; waiting", self._topic, self._partition, error.str())

    def _close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
