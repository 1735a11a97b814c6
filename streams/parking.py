"""Parked deliveries: indexed as they are written to the log, read when they can be sent.

Each partition of `deliveries.parked` that this worker has is followed like any other (`follow`), which costs no more
than looking at keys. When somebody has an appetite, one task for each partition reads on from the first record that
anybody wants, in one direction for as long as that serves anyone, like a lift. What is read is handed to the dispatcher
with its place; nothing is rewritten.

Whether a record is finished, a marker further on says. So nothing is read before the log was seen as it was when this
epoch began: a *fence*, written then, has come by.

This file does not know lanes, and does not write.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence

from schemas.frame import OffsetLedger, Record
from streams.core.parked import FENCE, Lot, Order, ParkedLog, finished_by, order_of
from streams.counters import Counters
from streams.lanes import Intake
from streams.ports import LogReader

logger = logging.getLogger(__name__)

#: Reads that are kept, of different partitions: up to 500 records each.
KEPT_MAX = 4
_AGAIN_S = 0.1
_AFTER_ERROR_S = 1.0

#: How many more of these records may be taken into memory now. It may be asked for each record.
Appetite = Callable[[str, Lot], int]
#: A record was read for somebody with an appetite, and counts as in memory.
Taken = Callable[[Intake, Record, str, Order | None], None]
#: An ordered record was seen.
Seen = Callable[[Intake, str, int, Order], None]
#: An ordered record is finished, as a marker of another epoch said, or lost: then its place is not known.
Gone = Callable[[Intake, str, int, Order | None], None]


class _Fence:
    """A record that was sent after the log, in the epoch of this ledger."""

    __slots__ = ("ledger", "seen", "token")

    def __init__(self, token: bytes, ledger: OffsetLedger) -> None:
        self.token = token
        self.ledger = ledger
        self.seen = False


class Parking:
    """The partitions of the log that are ours, by their number."""

    def __init__(
        self, reader: LogReader, counters: Counters, *, appetite: Appetite, taken: Taken, seen: Seen, gone: Gone
    ) -> None:
        self._reader = reader
        self._counters = counters
        self._appetite = appetite
        self._taken = taken
        self._seen = seen
        self._gone = gone
        self._intakes: dict[int, Intake] = {}
        #: The last read of a partition: its epoch, where it began, and what came.
        self._kept: dict[int, tuple[Intake, int, Sequence[Record]]] = {}
        self._fences: dict[int, _Fence] = {}

    # --- following --------------------------------------------------------------------------------

    def follow(self, intake: Intake, records: Iterable[Record]) -> list[str]:
        """Take note of records of the log; the subscriptions that have something new there."""
        log = intake.log
        assert log is not None
        self._intakes[intake.partition] = intake
        new: dict[str, None] = {}
        for record in records:
            offset, key = record.offset(), record.key()
            if record.value() is None:
                self._follow_mark(intake, log, record)
                continue
            subscription_id = _name(key)
            order = order_of(record.headers())
            if order is None:
                log.saw(offset, subscription_id, record.timestamp()[1])
            else:
                log.saw_ordered(offset, subscription_id, record.timestamp()[1])
                self._seen(intake, subscription_id, offset, order)
            new[subscription_id] = None
        return list(new)

    def _follow_mark(self, intake: Intake, log: ParkedLog, record: Record) -> None:
        headers = record.headers()
        marker = finished_by(headers)
        if marker is None:
            log.saw_nothing(record.offset())
            fence = self._fences.get(intake.partition)
            if fence is not None and dict(headers or ()).get(FENCE) == fence.token:
                fence.seen = True
                self.wake(intake)
            return
        subscription_id = _name(record.key())
        if log.saw_finished(record.offset(), subscription_id, *marker):
            self._gone(intake, subscription_id, marker[0], order_of(headers))

    def waiting(self) -> Iterator[tuple[str, int]]:
        """(subscription id, timestamp) of a record at least as old as what each has parked and not read."""
        for intake in self._intakes.values():
            assert intake.log is not None
            for name, lot in intake.log.lots.items():
                if lot.since_ms and (lot.unread or lot.opened or lot.ordered):
                    yield name, lot.since_ms

    def intake(self, partition: int) -> Intake | None:
        """Where the partition's log is followed."""
        return self._intakes.get(partition)

    def fence(self, partition: int, token: str, ledger: OffsetLedger) -> None:
        """A fence with this token is being written, in the epoch of this ledger."""
        self._fences[partition] = _Fence(token.encode(), ledger)

    def fenced(self, partition: int) -> bool:
        """Whether one was written in this epoch."""
        fence = self._fences.get(partition)
        return fence is not None and fence.ledger.live

    def restored(self, partition: int) -> bool:
        """Whether everything that was in the log when this epoch began was seen."""
        fence = self._fences.get(partition)
        return fence is not None and fence.seen and fence.ledger.live

    def holders(self, subscription_id: str) -> list[Intake]:
        """Where something of the subscription is parked."""
        return [one for one in self._intakes.values() if one.log is not None and subscription_id in one.log.lots]

    def expired(self, before_ms: int) -> list[tuple[Intake, Lot]]:
        """Lots with a record that may be older."""
        return [
            (intake, lot)
            for intake in self._intakes.values()
            if intake.log is not None
            for lot in intake.log.lots.values()
            if lot.since_ms and lot.since_ms < before_ms
        ]

    def forget(self, intake: Intake) -> None:
        """The partition is not ours any more."""
        if self._intakes.get(intake.partition) is intake:
            del self._intakes[intake.partition]
        self._fences.pop(intake.partition, None)
        self._kept.pop(intake.partition, None)
        if intake.reading is not None:
            intake.reading.cancel()

    # --- reading ----------------------------------------------------------------------------------

    def wake(self, intake: Intake) -> None:
        """Somebody may have an appetite for what is parked there."""
        if intake.reading is not None or not self.restored(intake.partition):
            return
        if intake.ledger.live and not intake.ledger.retiring:
            intake.reading = asyncio.get_running_loop().create_task(
                self._read(intake), name=f"read parked {intake.partition}"
            )
            intake.reading.add_done_callback(lambda task: self._ended(intake, task))

    def wake_all(self) -> None:
        """There is room again."""
        for intake in self._intakes.values():
            self.wake(intake)

    def _ended(self, intake: Intake, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error(
                "reading parked deliveries of partition %s failed: %s", intake.partition, error, exc_info=error
            )
            asyncio.get_running_loop().call_later(_AFTER_ERROR_S, self.wake, intake)

    async def _read(self, intake: Intake) -> None:
        try:
            assert intake.log is not None
            await self._ride(intake, intake.log)
        finally:
            intake.reading = None  # at once: who comes from now on starts a new ride

    async def _ride(self, intake: Intake, log: ParkedLog) -> None:
        """Read up and up, and from the first again, until there is nothing that anybody wants."""
        at = 0
        while _open(log):
            start = self._start(log, at)
            if start is None:
                if at == 0:
                    return
                at = 0  # from the first again
                continue
            records = await self._records(intake, start)
            if not _open(log):
                return
            if not records:  # the other consumer has seen more than this one
                asyncio.get_running_loop().call_later(_AGAIN_S, self.wake, intake)
                return
            at = min(records[-1].offset() + 1, log.seen)
            self._serve(intake, log, records, start, at)

    async def _records(self, intake: Intake, start: int) -> Sequence[Record]:
        """The records from an offset on, from the last read where it reaches that far: a lane takes a few at a time."""
        number = intake.partition
        kept = self._kept.get(number)
        if kept is not None and kept[0] is intake and kept[1] <= start <= kept[2][-1].offset():
            return kept[2][bisect_left(kept[2], start, key=_offset_of) :]
        records = await self._reader.read(number, start)
        self._kept.pop(number, None)
        if records:
            self._kept[number] = (intake, start, records)
            if len(self._kept) > KEPT_MAX:
                del self._kept[next(iter(self._kept))]
        return records

    def _start(self, log: ParkedLog, at: int) -> int | None:
        """The first offset from `at` on that somebody wants who has an appetite."""
        start = log.seen
        for name, lot in log.lots.items():
            first = lot.start_from(at)
            if first < start and ((lot.done and not lot.stuck) or self._appetite(name, lot) > 0):
                start = first
        return start if start < log.seen else None

    def _serve(self, intake: Intake, log: ParkedLog, records: Sequence[Record], start: int, end: int) -> None:
        """Hand over what is wanted between two offsets."""
        hoped = {
            name: {offset for offset in lot.wanted if start <= offset < end}
            for name, lot in log.lots.items()
            if lot.wanted
        }
        stopped: set[str] = set()
        for record in records:
            offset = record.offset()
            if offset >= end:  # not in the index yet
                break
            if record.value() is None:
                continue
            name = _name(record.key())
            lot = log.lots.get(name)
            if lot is None or name in stopped:
                continue
            order = order_of(record.headers())
            if offset in lot.wanted:
                hoped.get(name, set()).discard(offset)
            elif not start <= lot.cursor <= offset:  # it has not been read up to here, or was read before
                continue
            elif order is not None or offset in lot.done:
                log.skip(name, lot, offset)
                continue
            if self._appetite(name, lot) <= 0:
                stopped.add(name)
                lot.stuck = True
                continue
            lot.stuck = False
            log.take(name, lot, offset, record.timestamp()[1])
            self._taken(intake, record, name, order)
        for name, lot in list(log.lots.items()):
            if name in stopped:
                continue
            if gone := hoped.get(name):
                self._lose(intake, log, name, lot, gone & lot.wanted)
            if lot.unread and start <= lot.cursor < end:
                log.read_up_to(name, lot, end)

    def _lose(self, intake: Intake, log: ParkedLog, name: str, lot: Lot, gone: set[int]) -> None:
        if not gone:
            return
        logger.error("%s parked deliveries of %s are not in the log any more (retention)", len(gone), name)
        self._counters["parked_missing"] += len(gone)
        for offset in gone:
            log.lost(name, lot, offset)
            self._gone(intake, name, offset, None)


def _name(key: bytes | None) -> str:
    """The subscription; for a foreign key, something that has no subscription."""
    return (key or b"").decode(errors="replace")


def _open(log: ParkedLog) -> bool:
    return log.live and not log.retiring


def _offset_of(record: Record) -> int:
    return record.offset()
