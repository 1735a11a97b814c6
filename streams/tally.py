"""Counting what piles up: of dead letters and of quarantined records, one operation for many.

A stage of the fan-out role that reads those topics as they are written. Records are gathered by the clock: those of one
subscription (or, in quarantine, of one partition) whose times fall into the same window are told of together, once it
is over. Their offsets are finished by the transaction that writes the operation, so a crash tells of none twice and
forgets none. This file changes nothing about the records, and decides nothing about who hears of operations.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

import msgspec

from schemas.dead_letter import decode_dead_letter
from schemas.endpoint import Kind, Operation
from schemas.errors import UndecodableError
from schemas.frame import Frame, OffsetLedger, Out, Record
from streams.ports import Clock
from streams.quarantine import REASON
from streams.records import Records
from streams.settle import Settler

logger = logging.getLogger(__name__)

#: How long after its end a window waits for records on their way, and after the last one that came.
GRACE_MS = 1_000
DETAIL_LENGTH_MAX = 500


class Item(msgspec.Struct, frozen=True):
    """What is counted of one record."""

    subscription_id: str
    tenant: str
    reason: str


Read = Callable[[Record], Item | None]


class _Window:
    """Records that are told of together."""

    __slots__ = ("end_ms", "item", "last_ms", "offsets", "reasons", "seen_ms")

    def __init__(self, item: Item, end_ms: int) -> None:
        self.item = item
        self.end_ms = end_ms
        self.offsets: list[int] = []
        self.reasons: Counter[str] = Counter()
        self.last_ms = 0  # when the newest record was written
        self.seen_ms = 0  # when the last one came here


class _Partition:
    """The open windows of one partition, in one epoch."""

    def __init__(self, ledger: OffsetLedger) -> None:
        self.ledger = ledger
        self.windows: dict[str, _Window] = {}


class Tally:
    """The stage; one for each of the two topics."""

    def __init__(
        self,
        kind: Kind,
        read: Read,
        settler: Settler,
        clock: Clock,
        records: Records,
        *,
        window_ms: int,
    ) -> None:
        """`read` tells what is counted of a record, None for nothing; UndecodableError when it is not one of ours."""
        self._kind = kind
        self._read = read
        self._settler = settler
        self._clock = clock
        self._records = records
        self._window_ms = window_ms
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def process(self, frame: Frame) -> None:
        """Count a frame; what it completes goes to the settler."""
        ledger = frame.ledger
        if not ledger.live or ledger.retiring:
            return
        place = frame.topic, frame.partition
        partition = self._partitions.get(place)
        if partition is None or partition.ledger is not ledger:
            partition = self._partitions[place] = _Partition(ledger)
        done = frame.open()
        outs: list[Out] = []
        for record in frame.records:
            try:
                item = self._read(record)
            except UndecodableError as error:
                # It stays where it is, as somebody wrote it: in quarantine, a copy of it would ask to be resent.
                logger.warning("%s[%s]@%s is passed over: %s", *place, record.offset(), error)
                item = None
            if item is None:
                done.append(record.offset())
            else:
                self._count(partition, frame.partition, record, item, done, outs)
        if ledger.full:  # nothing more is read until something is finished
            self._close(partition, frame.partition, list(partition.windows), done, outs)
        if done:
            self._settler.settle(*place, ledger, done, outs)
        self._watch()
        await self._settler.room()

    def look(self) -> None:
        """Tell of the windows that are over; called by a timer while any is open."""
        now_ms = self._clock.now_ms()
        for place, partition in list(self._partitions.items()):
            if not partition.ledger.live:  # somebody else's: it counts them again
                del self._partitions[place]
                continue
            over = [
                name
                for name, window in partition.windows.items()
                if now_ms >= max(window.end_ms, window.seen_ms) + GRACE_MS
            ]
            if over:
                done: list[int] = []
                outs: list[Out] = []
                self._close(partition, place[1], over, done, outs)
                self._settler.settle(*place, partition.ledger, done, outs)
        self._watch()

    def _watch(self) -> None:
        if self._timer is None and any(partition.windows for partition in self._partitions.values()):
            self._timer = asyncio.get_running_loop().call_later(GRACE_MS / 2_000, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.look()

    def _count(
        self, partition: _Partition, number: int, record: Record, item: Item, done: list[int], outs: list[Out]
    ) -> None:
        kind, written_ms = record.timestamp()
        now_ms = self._clock.now_ms()
        at_ms = min(written_ms, now_ms) if kind else now_ms  # a clock ahead of ours must not hold a window open
        name = item.subscription_id
        window = partition.windows.get(name)
        if window is not None and at_ms >= window.end_ms:
            self._close(partition, number, [name], done, outs)
            window = None
        if window is None:
            window = _Window(item, (at_ms // self._window_ms + 1) * self._window_ms)
            partition.windows[name] = window
        window.offsets.append(record.offset())
        window.reasons[item.reason] += 1
        window.last_ms = max(window.last_ms, at_ms)
        window.seen_ms = now_ms

    def _close(self, partition: _Partition, number: int, names: list[str], done: list[int], outs: list[Out]) -> None:
        for name in names:
            window = partition.windows.pop(name)
            done += window.offsets
            outs.append(self._records.operation(self._told(window, number)))

    def _told(self, window: _Window, number: int) -> Operation:
        reasons = window.reasons.most_common()
        detail = ", ".join(f"{count} {reason}" for reason, count in reasons)
        return Operation(
            kind=self._kind,
            subscription_id=window.item.subscription_id,
            tenant=window.item.tenant,
            at_ms=window.last_ms,
            reason=reasons[0][0] if len(reasons) == 1 else "",
            detail=detail[:DETAIL_LENGTH_MAX],
            count=len(window.offsets),
            partition=number,
            first_offset=window.offsets[0],
            last_offset=window.offsets[-1],
        )


def dead_letter(record: Record) -> Item:
    """Of a record of `deliveries.dead`; UndecodableError."""
    letter = decode_dead_letter(record.value())
    return Item(letter.delivery.subscription_id, letter.facts.tenant, letter.reason)


def quarantined_record(record: Record) -> Item | None:
    """Of a record of `events.quarantine`; None for the marker of one that was resent or discarded."""
    reasons = [raw for name, raw in record.headers() or () if name == REASON]
    if not reasons:
        return None
    return Item("", "", (reasons[-1] or b"").decode("utf-8", "replace"))
