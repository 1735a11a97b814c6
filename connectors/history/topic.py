"""What became of deliveries, read from the topic `attempts` backwards: the newest first, in bounded steps.

A subscription's attempts stand in one partition, among those of others. So a page is found by reading that partition
back from a position, a step at a time, until the page is full, or so much has been read, or so much time has passed;
then it says where to go on. This file keeps nothing, and sees no further back than the topic's retention; a database
(`sql_store.py`) may take its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from connectors.admin import silent_logger
from connectors.history.attempts import HistoryPage, HistoryUnavailableError, LoggedAttempt, Place, Wants
from connectors.unsubscribed import unsubscribed
from schemas import codec
from schemas.errors import UndecodableError
from schemas.partitions import partition_of

T = TypeVar("T")

#: Records that are read at once, backwards: few at first, since what is asked for is mostly new.
STEP_MIN, STEP_MAX = 1_000, 20_000
#: Records that are looked at for one page.
SCAN_MAX = 100_000
#: How long one page may take.
PAGE_SECONDS = 5.0
REQUEST_SECONDS = 5.0
#: Reads at the same time, each with a consumer.
READERS_MAX = 2
PREFETCH_KIB_MAX = 8 * 1024
#: Records are in the order in which they were written, which is not quite that of their attempts: how far apart.
DISORDER_MS = 15 * 60 * 1000
_POLL_S = 0.1


class KafkaHistory:
    """`History` on the topic itself."""

    def __init__(
        self,
        config: Mapping[str, Any],
        topic: str,
        monotonic: Callable[[], float],
        *,
        scan_max: int = SCAN_MAX,
        page_seconds: float = PAGE_SECONDS,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        """`config` is librdkafka's of the connection; nothing is connected until the first read."""
        self._config = {
            **config,
            **unsubscribed("history"),
            "queued.max.messages.kbytes": PREFETCH_KIB_MAX,
            "fetch.queue.backoff.ms": 10,
            "fetch.wait.max.ms": 50,
        }
        self._topic = topic
        self._monotonic = monotonic
        self._scan_max = scan_max
        self._page_seconds = page_seconds
        self.request_seconds = request_seconds
        self._threads = ThreadPoolExecutor(READERS_MAX, thread_name_prefix="history")
        self._places = asyncio.Semaphore(READERS_MAX)
        self._local = threading.local()
        self._consumers: list[Consumer] = []
        self._partitions = 0
        self._halt = threading.Event()

    async def page(
        self,
        subscription_id: str,
        wants: Wants,
        *,
        limit: int,
        before: Place | None = None,
        since_ms: int = 0,
        until_ms: int | None = None,
        outcomes: Collection[str] = (),
    ) -> HistoryPage:
        """See the port. Outcomes are not looked up by: all that is read is asked for."""
        key = subscription_id.encode()

        def read(consumer: Consumer) -> HistoryPage:
            partition = partition_of(key, self._count(consumer))
            scan = _Scan(self, consumer, partition, self._monotonic() + self._page_seconds, self._scan_max)
            end = scan.start(None if before is None else before.offset, since_ms)

            def fits(attempt: LoggedAttempt) -> bool:
                started = attempt.started_ms
                return since_ms <= started and (until_ms is None or started <= until_ms) and wants(attempt)

            return scan.page(end, lambda message: message.key() == key, fits, limit)

        return await self._run(read)

    async def find(self, delivery_id: str) -> LoggedAttempt | None:
        """See the port: the newest of each partition are looked at, `SCAN_MAX` in all."""
        wanted = codec.put_string(delivery_id)

        def read(consumer: Consumer) -> LoggedAttempt | None:
            count = self._count(consumer)
            deadline = self._monotonic() + self._page_seconds
            for partition in range(count):
                scan = _Scan(self, consumer, partition, deadline, self._scan_max // count)
                found = scan.page(
                    scan.start(None, 0),
                    lambda message: (message.value() or b"").startswith(wanted, codec.HEADER_BYTES),
                    lambda _: True,
                    1,
                )
                if found.attempts:
                    return found.attempts[0]
            return None

        return await self._run(read)

    async def close(self) -> None:
        """End reads under way, and let go."""
        self._halt.set()
        await asyncio.to_thread(self._threads.shutdown)
        for consumer in self._consumers:
            await asyncio.to_thread(consumer.close)
        self._consumers.clear()

    async def _run(self, read: Callable[[Consumer], T]) -> T:
        try:
            async with asyncio.timeout(self.request_seconds):
                await self._places.acquire()
        except TimeoutError:
            raise HistoryUnavailableError("many others are reading attempts; try again") from None
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._with_consumer, read)
        finally:
            self._places.release()

    # --- on a thread of its own -----------------------------------------------------------------------------

    def _with_consumer(self, read: Callable[[Consumer], T]) -> T:
        consumer: Consumer | None = getattr(self._local, "consumer", None)
        try:
            if consumer is None:
                consumer = self._local.consumer = Consumer(self._config, logger=silent_logger())
                self._consumers.append(consumer)
            return read(consumer)
        except KafkaException as error:
            raise HistoryUnavailableError(f"attempts cannot be read: {error.args[0].str()}; try again") from None
        finally:
            if consumer is not None:
                with contextlib.suppress(KafkaException):
                    consumer.unassign()  # or it would fetch on

    def _count(self, consumer: Consumer) -> int:
        if not self._partitions:
            found = consumer.list_topics(self._topic, self.request_seconds).topics[self._topic]
            if found.error is not None:
                raise KafkaException(found.error)
            self._partitions = len(found.partitions)
        return self._partitions

    def over(self, deadline: float) -> bool:
        """Whether reading must end."""
        return self._halt.is_set() or self._monotonic() > deadline

    @property
    def topic(self) -> str:
        """What is read."""
        return self._topic


class _Scan:
    """One partition read backwards."""

    def __init__(
        self, history: KafkaHistory, consumer: Consumer, partition: int, deadline: float, scan_max: int
    ) -> None:
        self._history = history
        self._consumer = consumer
        self._partition = partition
        self._deadline = deadline
        self._left = scan_max

    def start(self, before: int | None, since_ms: int) -> int:
        """The offset to begin before."""
        self._low, high = self._consumer.get_watermark_offsets(self._place(0), self._history.request_seconds)
        if since_ms > DISORDER_MS:
            # All before the first of this time or later are older. Its opposite, the first that is too new, says
            # nothing of those behind it: one wrong clock would hide them.
            earliest = self._place(since_ms - DISORDER_MS)  # of which the offset is a time, here
            (found,) = self._consumer.offsets_for_times([earliest], self._history.request_seconds)
            if found.error is not None:
                raise KafkaException(found.error)
            self._low = min(max(self._low, found.offset), high) if found.offset >= 0 else high
        return high if before is None else min(before, high)

    def page(self, end: int, is_one: Callable[[Any], bool], wants: Wants, limit: int) -> HistoryPage:
        """Attempts before `end`, newest first."""
        found: list[LoggedAttempt] = []
        step = STEP_MIN
        while end > self._low:
            if self._left <= 0 or self._history.over(self._deadline):
                return HistoryPage(found, self._before(end), True)
            begin = max(self._low, end - min(step, self._left))
            messages = self._between(begin, end)
            if messages is None:  # out of time in the middle of a step: it is read again
                return HistoryPage(found, self._before(end), True)
            for message in reversed(messages):
                attempt = _attempt(message) if is_one(message) else None
                if attempt is not None and wants(attempt):
                    found.append(attempt)
                    if len(found) == limit:
                        older = self._before(attempt.offset) if attempt.offset > self._low else None
                        return HistoryPage(found, older, False)
            self._left -= end - begin
            end = begin
            step = min(2 * step, STEP_MAX)
        return HistoryPage(found, None, False)

    def _between(self, begin: int, end: int) -> list[Any] | None:
        """The records from one offset up to another; None when time is up before."""
        self._consumer.assign([self._place(begin)])
        found: list[Any] = []
        while not self._history.over(self._deadline):
            for message in self._consumer.consume(500, _POLL_S if not found else 0.02):
                error = message.error()
                if error is None:
                    offset = message.offset()
                    assert offset is not None, "a consumed record has one"
                    if offset < end:
                        found.append(message)
                    if offset >= end - 1:
                        return found
                elif error.code() == KafkaError._PARTITION_EOF:
                    return found
                elif error.fatal() or not error.retriable():
                    raise KafkaException(error)
        return None

    def _before(self, offset: int) -> Place:
        return Place(0, self._partition, offset)

    def _place(self, offset: int) -> TopicPartition:
        return TopicPartition(self._history.topic, self._partition, offset)


_SCHEMA = codec.parse_schema(codec.own_schema("attempt.v1"))


def _attempt(message: Any) -> LoggedAttempt | None:
    """None for what is no attempt."""
    try:
        codec.wire_schema_id(message.value())
        fields = codec.decode(message.value(), _SCHEMA)
    except UndecodableError:
        return None
    return LoggedAttempt(message.partition(), message.offset(), **fields)
