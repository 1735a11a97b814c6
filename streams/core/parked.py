"""The index of one partition of `deliveries.parked`: what is parked for whom, from where on, and what may be committed.

Parked deliveries are written once and never rewritten: a record stays where it is until a *finish marker* with its
offset follows. Reading the partition from its committed offset on (`saw`, `saw_ordered`, `saw_finished`) rebuilds the
index; the committed offset is that of the first record that is not finished.

What one subscription has parked is a `Lot`. Most lots are *plain*: all that is kept of them is from where to where they
reach, since the records in between are read in order when they can be sent. Records of ordered subscriptions carry
their place (`Order`); for these each offset is kept, because keys wait for different times.

This file reads no record's value, and does not know when a subscription may be sent anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from schemas.frame import Headers
from streams.core.outstanding import NOWHERE, Outstanding

#: Marks the record that finishes another one: its offset, and the subscription's first unfinished offset.
FINISHED = "distributary-finished"
FLOOR = "distributary-floor"
#: The place of an ordered delivery: offset in `deliveries`, due time, key.
ORDER = "distributary-order"
#: A record that only says how far the log was read.
FENCE = "distributary-fence"

_DONE_MAX = 2_000  # then what the cursor has passed is dropped
_WANTED_AHEAD = 256  # of a lot whose order counts no more


class Order(NamedTuple):
    """The place of a delivery among those with its key: ascending by `number`, its first offset in `deliveries`."""

    key: str
    number: int
    due_ms: int = 0

    def header(self) -> tuple[str, bytes | None]:
        """As it travels with a parked record."""
        return (ORDER, f"{self.number} {self.due_ms} {self.key}".encode())


def order_of(headers: Headers | None) -> Order | None:
    """The place that a parked record carries; None for a plain one, and for what is not ours."""
    for name, value in headers or ():
        if name == ORDER and value is not None:
            try:
                number, due_ms, key = value.decode().split(" ", 2)
                return Order(key, int(number), int(due_ms)) if int(number) >= 0 else None
            except ValueError:
                return None
    return None


def finished_headers(offset: int, floor: int) -> Headers:
    """The headers of a finish marker."""
    return [(FINISHED, str(offset).encode()), (FLOOR, str(floor).encode())]


def finished_by(headers: Headers | None) -> tuple[int, int] | None:
    """(finished offset, first unfinished offset) when these are the headers of a finish marker of ours."""
    named = dict(headers or ())
    finished, floor = named.get(FINISHED), named.get(FLOOR)
    if finished is None:
        return None
    try:
        return int(finished), int(floor or 0)
    except ValueError:
        return None


class Lot:
    """What one subscription has parked in one partition and is not finished."""

    __slots__ = ("cursor", "done", "last", "loose", "opened", "ordered", "since_ms", "stuck", "wanted")

    def __init__(self, cursor: int) -> None:
        self.cursor = cursor  # plain records from here on were not read
        self.last = -1  # the last plain record that was seen
        self.since_ms = 0  # the timestamp of a record that is at least as old as every unread one
        self.done: set[int] = set()  # finished before a restart, and not before the cursor
        self.stuck = False  # the record at the cursor is known to be unfinished
        self.opened: set[int] = set()  # read, and not finished
        self.wanted: set[int] = set()  # to be read, whatever the cursor says
        self.ordered: Outstanding | None = None  # every unfinished ordered record
        self.loose = False  # its order counts no more: ordered records are wanted too, a few at a time

    @property
    def unread(self) -> bool:
        """Whether plain records may follow the cursor."""
        return self.cursor <= self.last

    def start_from(self, at: int) -> int:
        """The first offset from `at` on where something is to be read; far away when there is none."""
        if self.loose and not self.wanted:
            self.want_first()
            self.loose = bool(self.wanted)
        start = self.cursor if at <= self.cursor <= self.last else NOWHERE
        if self.wanted:
            start = min(start, min((offset for offset in self.wanted if offset >= at), default=NOWHERE))
        return start

    def want_first(self) -> None:
        """Ask for the first ordered records, whatever their order is."""
        for offset in self.ordered or ():
            if offset not in self.opened:
                self.wanted.add(offset)
                if len(self.wanted) >= _WANTED_AHEAD:
                    return

    @property
    def first_unread(self) -> int:
        """No record that is neither finished nor in memory stands before this offset."""
        first = self.cursor if self.cursor <= self.last else NOWHERE
        if self.wanted:
            first = min(first, *self.wanted)
        return min(first, next((one for one in self.ordered or () if one not in self.opened), NOWHERE))

    @property
    def floor(self) -> int:
        """No unfinished record of the lot stands before this offset."""
        floor = self.cursor if self.cursor <= self.last else NOWHERE
        for offsets in (self.opened, self.wanted):
            floor = min(floor, *offsets) if offsets else floor
        return floor if self.ordered is None else min(floor, self.ordered.first)

    @property
    def empty(self) -> bool:
        """Nothing is left."""
        return self.cursor > self.last and not (self.opened or self.wanted or self.ordered)


class ParkedLog:
    """One partition of the log in one assignment epoch. Implements `schemas.frame.OffsetLedger`: to finish an offset is
    to have its marker in the same transaction."""

    __slots__ = ("_holder", "_lot_of", "_position", "_rests", "_since_ms", "live", "lots", "retiring", "seen")

    def __init__(self, position: int) -> None:
        """`position` is the committed offset, or that of the first record."""
        self.lots: dict[str, Lot] = {}  # by subscription id; none of them empty
        self.seen = position  # records before this offset are in the index
        self.live = True
        self.retiring = False
        self._position = position
        self._lot_of: dict[int, str] = {}  # the subscription of each opened offset
        self._since_ms: dict[int, int] = {}  # the timestamp of each opened offset
        self._holder: Lot | None = None  # the lot that held the position when it was last looked for
        self._rests = 0

    # --- what the log says, in its order ----------------------------------------------------------

    def _reach(self, offset: int) -> None:
        if offset < self._position and not self.lots:  # the topic was made anew
            self._position = self.seen = offset
        self.seen = max(self.seen, offset + 1)

    def saw(self, offset: int, subscription_id: str, timestamp_ms: int) -> Lot:
        """A parked record."""
        self._reach(offset)
        lot = self.lots.get(subscription_id)
        if lot is None:
            lot = self.lots[subscription_id] = Lot(offset)
        if not (lot.unread or lot.wanted):
            lot.since_ms = timestamp_ms
        lot.last = offset
        return lot

    def saw_ordered(self, offset: int, subscription_id: str, timestamp_ms: int) -> Lot:
        """A parked record that carries its place."""
        self._reach(offset)
        lot = self.lots.get(subscription_id)
        if lot is None:
            lot = self.lots[subscription_id] = Lot(offset)
        if lot.ordered is None:
            lot.ordered = Outstanding()
        lot.since_ms = lot.since_ms or timestamp_ms
        lot.ordered.add(offset)
        return lot

    def saw_finished(self, offset: int, subscription_id: str, finished: int, floor: int) -> bool:
        """A marker. True when it finishes an ordered record: it was written before this epoch."""
        self._reach(offset)
        lot = self.lots.get(subscription_id)
        if lot is None:
            return False
        news = lot.ordered is not None and finished in lot.ordered and finished not in lot.opened
        if news:
            assert lot.ordered is not None
            lot.ordered.discard(finished)
            lot.wanted.discard(finished)
        elif lot.cursor <= finished <= lot.last:
            lot.done.add(finished)
        if floor > lot.cursor:  # only where it was not read in this epoch
            lot.cursor = floor
            if len(lot.done) > _DONE_MAX:
                lot.done = {one for one in lot.done if one >= floor}
        if lot.empty:
            self._drop(subscription_id, lot)
        return news

    def saw_nothing(self, offset: int) -> None:
        """A record that is about no delivery."""
        self._reach(offset)

    # --- reading ----------------------------------------------------------------------------------

    def take(self, subscription_id: str, lot: Lot, offset: int, timestamp_ms: int) -> None:
        """A record was read and is in memory from now on. What the cursor reads, it takes in order."""
        if offset <= lot.first_unread:  # only the oldest says how old the others may be
            lot.since_ms = timestamp_ms
        if offset in lot.wanted:
            lot.wanted.discard(offset)
        else:
            lot.cursor = offset + 1
        lot.opened.add(offset)
        self._lot_of[offset] = subscription_id
        self._since_ms[offset] = timestamp_ms

    def put_back(self, offset: int, *, wanted: bool = True) -> None:
        """It was not sent, and is to be read again: soon, or for an ordered record when it is its turn."""
        lot = self.lots[self._lot_of.pop(offset)]
        since_ms = self._since_ms.pop(offset)
        lot.since_ms = min(lot.since_ms or since_ms, since_ms)
        lot.opened.discard(offset)
        if wanted:
            lot.wanted.add(offset)

    def skip(self, subscription_id: str, lot: Lot, offset: int) -> None:
        """The cursor passes a record that is done, or is not its business."""
        lot.cursor = offset + 1
        lot.done.discard(offset)
        if lot.empty:
            self._drop(subscription_id, lot)

    def read_up_to(self, subscription_id: str, lot: Lot, offset: int) -> None:
        """No plain record of the lot stands between its cursor and this offset that was not taken or done."""
        lot.cursor = max(lot.cursor, offset)
        if lot.done:
            lot.done = {one for one in lot.done if one >= lot.cursor}
        if lot.empty:
            self._drop(subscription_id, lot)

    def lost(self, subscription_id: str, lot: Lot, offset: int) -> None:
        """A wanted record is not in the log any more (retention)."""
        lot.wanted.discard(offset)
        if lot.ordered is not None:
            lot.ordered.discard(offset)
        if lot.empty:
            self._drop(subscription_id, lot)

    def floor_without(self, offset: int) -> int:
        """For a marker: the first unfinished offset of the subscription when this opened one is finished."""
        lot = self.lots[self._lot_of[offset]]
        return min((lot.opened - {offset}) | lot.wanted | {lot.cursor})

    def _drop(self, subscription_id: str, lot: Lot) -> None:
        del self.lots[subscription_id]
        if self._holder is lot:
            self._holder = None

    # --- schemas.frame.OffsetLedger ---------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Never: what is not read costs next to nothing."""
        return False

    @property
    def restoring(self) -> bool:
        """Never: a fence says when the log was seen to its end."""
        return False

    @property
    def pending(self) -> int:
        """In memory and not finished."""
        return len(self._lot_of)

    def open(self, offsets: list[int]) -> list[int]:
        """Nothing to do: the log is read, not worked through. None was finished before a restart in this sense."""
        return []

    def finish(self, offset: int) -> None:
        """The marker of this offset is durable, or will be with the next transaction; a second time changes nothing."""
        subscription_id = self._lot_of.pop(offset, None)
        if subscription_id is None:
            return
        del self._since_ms[offset]
        lot = self.lots[subscription_id]
        lot.opened.discard(offset)
        if lot.ordered is not None:
            lot.ordered.discard(offset)
        if lot.empty:
            self._drop(subscription_id, lot)

    def finish_all(self, offsets: Sequence[int]) -> None:
        for offset in offsets:
            self.finish(offset)

    def progress(self) -> tuple[int, str]:
        """(first unfinished offset, ""): markers say the rest."""
        holder = self._holder
        if holder is not None and holder.floor <= self._position:
            return self._position, ""
        if (
            self._rests > 0 and self.lots
        ):  # with many lots, looking through all of them at each transaction would be the main work
            self._rests -= 1
            return self._position, ""
        position = self.seen
        self._holder = None
        for lot in self.lots.values():
            floor = lot.floor
            if floor < position:
                position, self._holder = floor, lot
        self._rests = len(self.lots) // 100
        self._position = max(self._position, position)
        return self._position, ""

    def retire(self) -> None:
        """The partition is about to be given up."""
        self.retiring = True

    def close(self) -> None:
        """It was given up or lost."""
        self.live = False

    def counts(self) -> Iterable[tuple[str, bool]]:
        """(subscription id, whether something of it waits to be read), for people who look."""
        return [(name, lot.unread or bool(lot.wanted)) for name, lot in self.lots.items()]
