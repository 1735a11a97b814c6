"""Publishing events for others: acknowledged by Kafka, grouped into transactions, each event once.

Whoever receives events over HTTP hands them in here and answers when `publish` returns: then Kafka has them. An event
and the record that it was seen (`ingest.seen`) are one transaction; all entries of one call are in the same one, so a
call is written whole or not at all. While a transaction is committed the next group gathers, so a lone event waits for
nobody and a busy process writes thousands at once.

A repetition is told by its key: what this process has published or is about to, and what others have as far as the
topic is followed. Two processes that are asked to publish one key within the milliseconds that following takes both
do. This file reads no HTTP, validates no event and knows no tenant.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from connectors.paired_publisher import PairedPublisher
from connectors.seen import Known, SeenTable, SeenWindow, mark_of
from schemas import codec
from schemas.errors import RecordTooLargeError
from schemas.event import Event, encode_event
from schemas.frame import Headers, Out
from schemas.seen import Seen, encode_seen
from schemas.topics import Topics
from schemas.trace_context import TRACESTATE

log = logging.getLogger(__name__)

DAY_MS = 24 * 3600 * 1000
GROUP_RECORDS_MAX = 5_000
#: Seconds that who is turned away is asked to wait.
RETRY_S = 1


class Clock(Protocol):
    """Of `connectors/clock.py`."""

    def now_ms(self) -> int: ...


class Publisher(Protocol):
    """`streams.ports.Publisher`, as far as it is used: one transaction at a time."""

    async def start(self) -> None: ...

    async def publish(self, records: Sequence[Out], offsets: Sequence[tuple[str, int, int, str]]) -> None: ...

    async def close(self) -> None: ...


class Follower(Protocol):
    """What fills the window (`connectors/seen.py:SeenTable`)."""

    async def start(self) -> None: ...

    @property
    def trouble(self) -> str: ...

    async def stop(self) -> None: ...


class Once(msgspec.Struct, frozen=True, gc=False):
    """What makes a repetition one.

    `key` is one of `event_key`, `request_key` and `source_key`. `digest` is of what is published under it
    (`schemas.seen.digest_of`); empty, any repetition counts as the same. `id` is what a repetition is answered with.
    """

    key: bytes
    digest: bytes
    id: str


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An event as its record, and what makes it one of a kind, if anything does."""

    record: Out
    once: Once | None = None


class Published(msgspec.Struct, frozen=True):
    """Kafka has it all. `id` is that of the call's `once` as it was first published, "" without one; `repeated` says
    that the whole call had been; `duplicates` are the positions of entries that had been."""

    id: str = ""
    repeated: bool = False
    duplicates: frozenset[int] = frozenset()


class ConflictError(Exception):
    """A key was used before for something else; nothing was written. `positions` are those of the entries, empty for
    the call's own key."""

    def __init__(self, positions: Sequence[int]) -> None:
        super().__init__("the key was used before with another content; use a new one for a new event")
        self.positions = tuple(positions)


class UnavailableError(Exception):
    """Not now: Kafka does not answer, or more waits than is kept. `maybe`: it may yet be written, so only a repetition
    with the same key is safe. `retry_s` is how long to wait."""

    def __init__(self, sentence: str, *, maybe: bool = False, retry_s: int = RETRY_S) -> None:
        super().__init__(sentence)
        self.maybe = maybe
        self.retry_s = retry_s


class IngestLimits(msgspec.Struct, frozen=True, kw_only=True):
    """`window_ms` and `marks_max`: how long and how many keys are remembered. `queue_records_max` and
    `queue_bytes_max`: what may wait for Kafka; a single call may exceed both when nothing waits. `wait_s`: how long a
    call waits for Kafka's answer."""

    window_ms: int = DAY_MS
    marks_max: int = 500_000
    queue_records_max: int = 50_000
    queue_bytes_max: int = 64 << 20
    wait_s: float = 10.0


class _Call:
    """What one call asks to be written."""

    __slots__ = ("future", "marks", "records", "size", "taken")

    def __init__(self, records: list[Out], size: int, marks: list[tuple[bytes, Known]]) -> None:
        self.records = records
        self.size = size
        self.marks = marks
        self.taken = False
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Ingest:
    """For one event loop; `start` once, then `close`."""

    def __init__(
        self,
        publisher: Publisher,
        window: SeenWindow,
        follower: Follower,
        topics: Topics,
        *,
        event_schema: int,
        seen_schema: int,
        clock: Clock,
        limits: IngestLimits,
    ) -> None:
        """The schema ids are those of event.v3 and seen.v1."""
        self.limits = limits
        self._publisher = publisher
        self._window = window
        self._follower = follower
        self._topics = topics
        self._event_schema = event_schema
        self._seen_header = codec.wire_header(seen_schema)
        self._clock = clock
        self._pending: dict[bytes, tuple[_Call, Known]] = {}
        self._queue: deque[_Call] = deque()
        self._taken: list[_Call] = []  # in the transaction of now
        self._queued_records = self._queued_bytes = 0  # of calls that are not answered, also those being written
        self._wake = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._trouble = ""

    # --- life -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """End what a predecessor left open, and read what was seen. KafkaException, TableError."""
        await self._publisher.start()
        await self._follower.start()
        self._running = asyncio.create_task(self._run(), name="ingest")

    @property
    def trouble(self) -> str:
        """What keeps it from publishing until the process is started again; empty when all is well."""
        return self._trouble or self._follower.trouble

    async def close(self) -> None:
        """Let go; calls that wait fail, what is not committed is aborted."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._publisher.close()
        await self._follower.stop()

    # --- publishing -----------------------------------------------------------------------------------------

    def entry(self, event: Event, once: Once | None = None) -> Entry:
        """Of an event that is in order (`schemas.event.checked`), as the envelope, keyed for its order."""
        value = encode_event(self._event_schema, event)
        headers: Headers | None = [(TRACESTATE, event.tracestate.encode())] if event.tracestate else None
        return Entry((self._topics.events, key_of(event), value, -1, headers), once)

    @property
    def events_topic(self) -> str:
        """Where events are written to."""
        return self._topics.events

    @property
    def queued(self) -> int:
        """Records that wait for Kafka, or are being written."""
        return self._queued_records

    @property
    def known(self) -> int:
        """Keys that are remembered."""
        return len(self._window)

    def knows(self, key: bytes) -> bool:
        """Whether what has this key was published, as far as is remembered."""
        return self._window.get(mark_of(key)) is not None

    async def publish(self, entries: Sequence[Entry], once: Once | None = None) -> Published:
        """All of it in one transaction, but what was published before; returns when Kafka has it.

        `once` is of the call as a whole. ConflictError, UnavailableError, RecordTooLargeError: nothing of it was
        written, but where UnavailableError says that it may be.
        """
        while True:
            marks, waits, answer = self._sorted(entries, once)
            if not waits:
                break
            await self._join(waits)
        if answer.repeated or len(answer.duplicates) == len(entries):
            return answer
        await self._write(entries, marks, answer.duplicates)
        return answer

    def _sorted(
        self, entries: Sequence[Entry], once: Once | None
    ) -> tuple[list[tuple[Once, bytes]], set[_Call], Published]:
        """What is new, whom to wait for, and the answer if nobody. ConflictError."""
        waits: set[_Call] = set()
        marks: list[tuple[Once, bytes]] = []
        if once is not None:
            mark = mark_of(once.key)
            known = self._known(mark, waits)
            if known is not None:
                if differ(known, once):
                    raise ConflictError(())
                return marks, waits, Published(known.id, True, frozenset(range(len(entries))))
            marks.append((once, mark))
        own: dict[bytes, Once] = {}
        duplicates: list[int] = []
        conflicts: list[int] = []
        for position, entry in enumerate(entries):
            each = entry.once
            if each is None:
                continue
            mark = mark_of(each.key)
            earlier: Known | Once | None = self._known(mark, waits) or own.get(mark)
            if earlier is None:
                own[mark] = each
                marks.append((each, mark))
            elif differ(earlier, each):
                conflicts.append(position)
            else:
                duplicates.append(position)
        if conflicts:
            raise ConflictError(conflicts)
        return marks, waits, Published(once.id if once else "", False, frozenset(duplicates))

    def _known(self, mark: bytes, waits: set[_Call]) -> Known | None:
        pending = self._pending.get(mark)
        if pending is None:
            return self._window.get(mark)
        waits.add(pending[0])
        return pending[1]

    async def _join(self, calls: set[_Call]) -> None:
        """Wait for what others are having written; UnavailableError when that comes to nothing."""
        done, late = await asyncio.wait({call.future for call in calls}, timeout=self.limits.wait_s)
        if late:
            raise UnavailableError("Kafka has not yet taken what this repeats; try again", maybe=True)
        for future in done:
            if future.exception() is not None:
                raise UnavailableError("what this repeats could not be written; try again")

    async def _write(
        self, entries: Sequence[Entry], marks: list[tuple[Once, bytes]], duplicates: frozenset[int]
    ) -> None:
        records = [each.record for each in entries]
        if duplicates:
            records = [record for position, record in enumerate(records) if position not in duplicates]
        size = sum(len(record[2] or b"") for record in records)
        self._find_room(len(records) + len(marks), size)
        now_ms = self._clock.now_ms()
        topic, header = self._topics.seen, self._seen_header
        for once, _ in marks:
            value = encode_seen(header, Seen(once.id, once.digest, now_ms))
            records.append((topic, once.key, value, -1, None))
        call = _Call(records, size, [(mark, Known(once.id, once.digest)) for once, mark in marks])
        for mark, known in call.marks:
            self._pending[mark] = (call, known)
        self._queue.append(call)
        self._queued_records += len(records)
        self._queued_bytes += size
        self._wake.set()
        done, _ = await asyncio.wait([call.future], timeout=self.limits.wait_s)
        if done:
            call.future.result()
        elif call.taken:
            raise UnavailableError(
                "Kafka does not answer, and may yet take it; try again with the same key", maybe=True
            )
        else:
            self._queue.remove(call)
            self._ended(call, UnavailableError("Kafka does not answer"))
            raise UnavailableError("Kafka does not answer; nothing was written, try again")

    def _find_room(self, records: int, size: int) -> None:
        if self._running is None or self._running.done():
            raise UnavailableError("this process cannot write to Kafka any more; try again", retry_s=5)
        limits = self.limits
        full = (
            self._queued_records + records > limits.queue_records_max
            or self._queued_bytes + size > limits.queue_bytes_max
        )
        if full and self._queued_records:
            raise UnavailableError("more events wait for Kafka than are kept; nothing was written, try again")

    # --- writing --------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._take()
                await self._publish(self._taken)
                self._taken = []
        except BaseException as error:
            why = "this process was stopped"
            if not isinstance(error, asyncio.CancelledError):
                self._trouble = why = str(error)
                log.error("nothing can be published any more: %s", error)
            for call in self._taken:
                self._ended(call, UnavailableError(f"{why}; try again with the same key", maybe=True))
            while self._queue:
                self._ended(self._queue.popleft(), UnavailableError(f"{why}; nothing was written, try again"))
            raise

    def _take(self) -> None:
        calls = self._taken
        size = 0
        while self._queue and size < GROUP_RECORDS_MAX:
            call = self._queue.popleft()
            call.taken = True
            calls.append(call)
            size += len(call.records)
        if not self._queue:
            self._wake.clear()

    async def _publish(self, calls: list[_Call]) -> None:
        records = calls[0].records if len(calls) == 1 else [record for call in calls for record in call.records]
        try:
            await self._publisher.publish(records, ())
        except RecordTooLargeError as error:
            if len(calls) > 1:  # whose it is: each by itself
                for call in calls:
                    await self._publish([call])
            else:
                self._ended(calls[0], error)
            return
        now_ms = self._clock.now_ms()
        for call in calls:
            for mark, known in call.marks:
                self._window.add(mark, known, now_ms, now_ms)
            self._ended(call, None)

    def _ended(self, call: _Call, error: Exception | None) -> None:
        if call.future.done():
            return
        for mark, _ in call.marks:
            self._pending.pop(mark, None)
        self._queued_records -= len(call.records)
        self._queued_bytes -= call.size
        if error is None:
            call.future.set_result(None)
        else:
            call.future.set_exception(error)
            call.future.exception()  # seen, also when nobody waits any more


def kafka_ingest(
    config: Mapping[str, Any],
    topics: Topics,
    *,
    transactional_id: str,
    event_schema: int,
    seen_schema: int,
    clock: Clock,
    limits: IngestLimits | None = None,
) -> Ingest:
    """On a real Kafka; `config` is librdkafka's of the connection. A second process with the same transactional id ends
    the first; what a process left open is ended sooner by one with its id."""
    limits = limits or IngestLimits()
    window = SeenWindow(limits.window_ms, limits.marks_max)
    return Ingest(
        PairedPublisher(config, transactional_id, lambda: None),
        window,
        SeenTable(config, topics.seen, window, marks_max=limits.marks_max, now_ms=clock.now_ms),
        topics,
        event_schema=event_schema,
        seen_schema=seen_schema,
        clock=clock,
        limits=limits,
    )


def event_key(tenant: str, event_id: str) -> bytes:
    """Of an event that has an id of its producer's, on `ingest.seen`."""
    return f"{tenant}/{event_id}".encode()


def request_key(tenant: str, idempotency_key: str) -> bytes:
    """Of a request; no tenant begins with the question mark."""
    return f"?{tenant}/{idempotency_key}".encode()


def source_key(source_id: str, provider_id: str) -> bytes:
    """Of what a provider sent to a source; no tenant begins with the at sign."""
    return f"@{source_id}/{provider_id}".encode()


def differ(known: Known | Once, once: Once) -> bool:
    """Whether the key was used for something else."""
    return bool(known.digest and once.digest) and known.digest != once.digest


def key_of(event: Event) -> bytes:
    """The record's key: events of one subject keep their order, and those of a tenant that have none."""
    return (event.subject or event.tenant).encode()
