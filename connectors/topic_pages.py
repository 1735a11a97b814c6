"""The records of a topic: the newest first by pages, one by its place, and all of them as a stream.

What is not wanted is dropped as it is read, and of what is wanted only what `make` makes of it is kept, so memory does
not grow with payloads. A record that cannot be read is counted and passed over. This file does not know what records
mean (`dead_letters.py`, `streams/quarantine_service.py`), nor which are wanted, and writes nothing.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from connectors.admin import silent_logger, unavailable
from connectors.unsubscribed import unsubscribed
from schemas.errors import UndecodableError
from schemas.partitions import partition_of

T = TypeVar("T")

#: Offsets of one partition that are read at once, backwards: few at first, since what is asked for is mostly new.
STEP_MIN, STEP_MAX = 200, 5_000
#: Offsets that are looked at for one page, and how long that may take.
SCAN_MAX = 100_000
PAGE_SECONDS = 5.0
REQUEST_SECONDS = 10.0
#: Of records handed over by librdkafka at once, by the size of the largest so far; and what it fetches ahead.
BATCH_RECORDS, BATCH_BYTES = 500, 8 << 20
PREFETCH_KIB_MAX = 4_096
_POLL_S = 0.1


class Where(msgspec.Struct, frozen=True):
    """Where to look: the records of one key stand in one partition, among others. What is older than `since_ms`, by
    Kafka's time, need not be looked at, but may be."""

    key: bytes | None = None
    since_ms: int = 0


#: Asked of each record, ascending in a step of a page and in a stream, on a thread: what is kept of it, None when it is
#: not wanted. UndecodableError for one that cannot be read.
Make = Callable[[Message], T | None]
#: By partition: for pages the offset below which to go on, for streams the one from which.
Positions = Mapping[int, int]


class Page(msgspec.Struct, Generic[T], frozen=True):
    """`next` is None when nothing is left. `partial`: it ended because of its bounds, not because it was full."""

    items: Sequence[T]
    next: Positions | None
    partial: bool
    unreadable: int


class Batch(msgspec.Struct, Generic[T], frozen=True):
    """A part of a stream. `positions` are where it goes on; `read` of `total` offsets are looked at so far."""

    items: Sequence[T]
    positions: Positions
    read: int
    total: int
    unreadable: int


class _Side(Generic[T]):
    """One partition read backwards: all from `end` on was looked at, `found` is what came of it, newest first."""

    def __init__(self, low: int, end: int) -> None:
        self.low, self.end, self.step = low, end, STEP_MIN
        self.found: deque[tuple[int, int, T]] = deque()

    @property
    def hungry(self) -> bool:
        return not self.found and self.end > self.low

    @property
    def before(self) -> int:
        return self.found[0][1] + 1 if self.found else self.end


class TopicPages:
    """For one event loop; `close` it. Pages wait for each other, streams do not. ClusterError from all of it."""

    def __init__(
        self,
        config: Mapping[str, Any],
        topic: str,
        monotonic: Callable[[], float],
        *,
        scan_max: int = SCAN_MAX,
        page_seconds: float = PAGE_SECONDS,
    ) -> None:
        """`config` is librdkafka's of the connection. Nothing is connected until the first read."""
        self._config = dict(config)
        self._topic = topic
        self._monotonic = monotonic
        self._scan_max = scan_max
        self._page_seconds = page_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"pages {topic}")
        self._reading: _Reading | None = None

    async def page(
        self,
        make: Make[T],
        where: Where,
        *,
        limit: int,
        before: Positions | None = None,
        keep: Callable[[T], bool] | None = None,
    ) -> Page[T]:
        """At most `limit` of what `make` makes, the newest first, of what stands below `before` (None: all there is
        now). `keep` is asked about each, from the newest of a partition to its oldest, whether it belongs onto a page.
        """
        return await self._run(lambda reading: self._page(reading, make, where, limit, before, keep))

    async def get(self, places: Sequence[tuple[int, int]], make: Make[T]) -> dict[tuple[int, int], T]:
        """What is made of those that stand at these places, (partition, offset); where there is none, nothing."""
        return await self._run(lambda reading: self._get(reading, places, make))

    async def visit(self, spans: Mapping[int, tuple[int, int]], make: Make[Any]) -> None:
        """Ask `make` of the records of these offsets, ascending within a partition."""

        await self._run(lambda reading: _made(reading.window(spans), make))

    async def ends(self) -> dict[int, int]:
        """One past the last offset of each partition, as of now."""
        bounds = await self._run(lambda reading: reading.bounds(Where()))
        return {partition: high for partition, (_, high) in bounds.items()}

    async def stream(
        self, make: Make[T], where: Where, *, start: Positions | None = None
    ) -> AsyncGenerator[Batch[T], None]:
        """All that is there now, in the order of each partition, from `start` on (None: the beginning)."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="stream") as thread:
            reading = _Reading(self._config, self._topic, self._monotonic)
            try:
                batches = reading.forward(make, where, start)
                while (batch := await loop.run_in_executor(thread, next, batches, None)) is not None:
                    yield batch
            finally:
                reading.halt.set()
                await asyncio.shield(loop.run_in_executor(thread, reading.close))

    async def close(self) -> None:
        """End what is under way, and let go."""
        if self._reading is not None:
            self._reading.halt.set()
            await asyncio.get_running_loop().run_in_executor(self._thread, self._reading.close)
        self._thread.shutdown()

    async def _run(self, read: Callable[[_Reading], T]) -> T:
        def work() -> T:
            if self._reading is None:
                self._reading = _Reading(self._config, self._topic, self._monotonic)
            return read(self._reading)

        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # --- on the thread ------------------------------------------------------------------------------------------------

    def _page(
        self,
        reading: _Reading,
        make: Make[T],
        where: Where,
        limit: int,
        before: Positions | None,
        keep: Callable[[T], bool] | None,
    ) -> Page[T]:
        deadline = self._monotonic() + self._page_seconds
        sides: dict[int, _Side[T]] = {}
        for partition, (low, high) in reading.bounds(where).items():
            sides[partition] = _Side(low, high if before is None else min(high, before.get(partition, high)))
        items: list[T] = []
        left, unreadable, begun = self._scan_max, 0, False
        while len(items) < limit:
            hungry = {partition: side for partition, side in sides.items() if side.hungry}
            if hungry:
                if left <= 0 or (begun and self._monotonic() > deadline):
                    break
                steps = {partition: min(side.step, side.end - side.low) for partition, side in hungry.items()}
                unreadable += reading.backward(hungry, make, keep)
                left -= sum(steps.values())
                begun = True
                continue
            fullest = [side for side in sides.values() if side.found]
            if not fullest:
                break
            items.append(max(fullest, key=lambda side: side.found[0][:2]).found.popleft()[2])
        more = any(side.found or side.hungry for side in sides.values())
        following = {partition: side.before for partition, side in sides.items()} if more else None
        return Page(items, following, more and len(items) < limit, unreadable)

    def _get(self, reading: _Reading, places: Sequence[tuple[int, int]], make: Make[T]) -> dict[tuple[int, int], T]:
        bounds = reading.bounds(Where())
        waiting: dict[int, list[int]] = {}
        for partition, offset in set(places):
            low, high = bounds.get(partition, (0, 0))
            if low <= offset < high:
                waiting.setdefault(partition, []).append(offset)
        found: dict[tuple[int, int], T] = {}
        while waiting:  # one of each partition at a time
            spans = {partition: (offsets[-1], offsets[-1] + 1) for partition, offsets in waiting.items()}
            made, _ = _made(reading.window(spans), make)
            found |= {(partition, offset): item for partition, _, offset, item in made}
            waiting = {partition: offsets[:-1] for partition, offsets in waiting.items() if offsets[1:]}
        return found


class _Reading:
    """A consumer and what is done with it; all on one thread."""

    def __init__(self, config: Mapping[str, Any], topic: str, monotonic: Callable[[], float]) -> None:
        self.halt = threading.Event()
        self._config = dict(config)
        self._topic = topic
        self._monotonic = monotonic
        self._errors: list[KafkaError] = []
        self._opened: Consumer | None = None
        self._largest = 1
        self._known: dict[int, TopicPartition] = {}

    @property
    def _consumer(self) -> Consumer:
        if self._opened is None:
            self._opened = Consumer(
                {
                    "queued.max.messages.kbytes": PREFETCH_KIB_MAX,
                    "fetch.wait.max.ms": 50,
                    **self._config,
                    **unsubscribed("pages"),
                    "error_cb": self._errors.append,
                },
                logger=silent_logger(),
            )
        return self._opened

    def close(self) -> None:
        """Let go."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def bounds(self, where: Where) -> dict[int, tuple[int, int]]:
        """The first offset and one past the last, of each partition that records may stand in, as of now."""
        with self._translated():
            found = self._consumer.list_topics(self._topic, REQUEST_SECONDS).topics[self._topic]
            if found.error is not None:
                raise KafkaException(found.error)
            numbers: Collection[int] = sorted(found.partitions)
            if where.key is not None:
                numbers = [partition_of(where.key, len(found.partitions))]
            bounds = {number: self._watermarks(number) for number in numbers}
            if where.since_ms:
                # All before the first of this time or later are older. Its opposite, the first that is too new, says
                # nothing of those behind it: one wrong clock would hide them.
                for number, offset in self._at(where.since_ms, numbers).items():
                    low, high = bounds[number]
                    bounds[number] = (min(max(low, offset), high), high)
        return bounds

    def _watermarks(self, partition: int) -> tuple[int, int]:
        low, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), REQUEST_SECONDS)
        return low, high

    def _at(self, time_ms: int, partitions: Collection[int]) -> dict[int, int]:
        """The first offset whose record is of this time or later, past the last where there is none."""
        asked = [TopicPartition(self._topic, partition, time_ms) for partition in partitions]
        found: dict[int, int] = {}
        for place in self._consumer.offsets_for_times(asked, REQUEST_SECONDS):
            if place.error is not None:
                raise KafkaException(place.error)
            found[place.partition] = place.offset if place.offset >= 0 else 1 << 62  # none
        return found

    def backward(self, sides: Mapping[int, _Side[T]], make: Make[T], keep: Callable[[T], bool] | None) -> int:
        """A step back in each of them; how many records could not be read. Nothing changes when Kafka fails."""
        spans = {partition: (max(side.low, side.end - side.step), side.end) for partition, side in sides.items()}
        made, unreadable = _made(self.window(spans), make)
        for partition, time_ms, offset, item in reversed(made):
            if keep is None or keep(item):
                sides[partition].found.append((time_ms, offset, item))
        for partition, side in sides.items():
            side.end, side.step = spans[partition][0], min(2 * side.step, STEP_MAX)
        return unreadable

    def forward(self, make: Make[T], where: Where, start: Positions | None) -> Iterator[Batch[T]]:
        """See `TopicPages.stream`."""
        spans = {}
        for partition, (low, high) in self.bounds(where).items():
            spans[partition] = (low if start is None else min(max(low, start.get(partition, low)), high), high)
        total = sum(high - low for low, high in spans.values())
        positions = {partition: low for partition, (low, _) in spans.items()}
        unreadable = 0
        for messages in self._batches(spans, positions):
            made, bad = _made(messages, make)
            items, unreadable = [item for *_, item in made], unreadable + bad
            left = sum(high - positions[partition] for partition, (_, high) in spans.items())
            yield Batch(items, dict(positions), total - left, total, unreadable)

    def window(self, spans: Mapping[int, tuple[int, int]]) -> Iterator[Message]:
        """The records of these offsets, ascending within a partition."""
        for messages in self._batches(spans, {}):
            yield from messages

    def _batches(self, spans: Mapping[int, tuple[int, int]], positions: dict[int, int]) -> Iterator[list[Message]]:
        """Records in parts; `positions` are kept up to date. ClusterError when nothing comes for too long."""
        waiting = {partition: end for partition, (begin, end) in spans.items() if begin < end}
        paused: list[TopicPartition] = []
        if not waiting:
            return
        consumer = self._consumer
        self._errors.clear()
        consumer.assign([TopicPartition(self._topic, partition, spans[partition][0]) for partition in waiting])
        try:
            deadline = self._monotonic() + REQUEST_SECONDS
            while waiting:
                most = max(1, min(BATCH_RECORDS, BATCH_BYTES // self._largest))
                found = []
                for message in consumer.consume(most, _POLL_S):
                    partition = message.partition() or 0
                    if (error := message.error()) is not None:
                        if error.code() == KafkaError._PARTITION_EOF:
                            positions[partition] = waiting.pop(partition, spans[partition][1])
                        else:
                            self._errors.append(error)
                        continue
                    deadline = self._monotonic() + REQUEST_SECONDS
                    offset = message.offset() or 0
                    if partition in waiting and offset < waiting[partition]:
                        found.append(message)
                        self._largest = max(self._largest, len(message.value() or b""))
                        positions[partition] = offset + 1
                    if partition in waiting and offset >= waiting[partition] - 1:
                        positions[partition] = waiting.pop(partition)
                        paused.append(TopicPartition(self._topic, partition))
                        consumer.pause(paused[-1:])  # or it would go on past the end
                if self.halt.is_set() or self._monotonic() > deadline:
                    timed_out = KafkaError(KafkaError._TIMED_OUT)
                    raise unavailable(self._config, self._errors[-1] if self._errors else timed_out)
                if found or not waiting:
                    yield found
        finally:
            consumer.resume(paused)  # librdkafka remembers it beyond the assignment
            consumer.unassign()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            raise unavailable(self._config, error.args[0]) from None


def _made(messages: Iterable[Message], make: Make[T]) -> tuple[list[tuple[int, int, int, T]], int]:
    """(partition, time, offset, what was made) of what is wanted, and how many could not be read."""
    made: list[tuple[int, int, int, T]] = []
    unreadable = 0
    for message in messages:
        try:
            item = make(message)
        except UndecodableError:
            unreadable += 1
            continue
        if item is not None:
            made.append((message.partition() or 0, time_of(message), message.offset() or 0, item))
    return made, unreadable


def time_of(message: Message) -> int:
    """Kafka's time in ms since the epoch, 0 for none."""
    kind, time_ms = message.timestamp()
    return time_ms if kind else 0
