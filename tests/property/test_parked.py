"""The promises of the log of parked deliveries, on any interleaving: nothing is lost, nothing finished comes again.

A world writes the log as the stage does (records, finish markers in groups, fences), follows it, reads it for those who
have an appetite, and restarts at any time from what was committed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.frame import Headers, Record
from streams.core.parked import FENCE, Lot, Order, ParkedLog, finished_by, finished_headers
from streams.lanes import Intake
from streams.parking import Parking

NAMES = ("a", "b", "c")
KEYS = ("k", "l")
CHUNK = 4  # records a read
ALL = 1_000


class Entry(msgspec.Struct, frozen=True):
    """A record of the log, as it is consumed."""

    offset_: int
    key_: bytes | None
    value_: bytes | None
    headers_: Headers | None

    def offset(self) -> int:
        return self.offset_

    def key(self) -> bytes | None:
        return self.key_

    def value(self) -> bytes | None:
        return self.value_

    def headers(self) -> Headers | None:
        return self.headers_

    def timestamp(self) -> tuple[int, int]:
        return (1, 1_000 + self.offset_)


class Held(NamedTuple):
    """A record that was handed over and is not finished."""

    name: str
    order: Order | None


class Reader:
    def __init__(self, log: list[Entry]) -> None:
        self._log = log

    async def read(self, partition: int, offset: int) -> Sequence[Record]:
        await asyncio.sleep(0)
        return [entry for entry in self._log if entry.offset_ >= offset][:CHUNK]

    async def close(self) -> None:
        pass


class World:
    """The log, what is finished in it, and one epoch after the other that works on it."""

    def __init__(self) -> None:
        self.log: list[Entry] = []
        self.next = 7
        self.parked: dict[int, Held] = {}  # every record that was parked, by offset
        self.finished: set[int] = set()  # durably
        self.committed = 0
        self.number = 0
        self.epochs = 0
        self.faults: list[str] = []
        self.begin()

    def begin(self) -> None:
        """A new epoch, from what is committed."""
        self.epochs += 1
        self.intake = Intake("parked", 0, ParkedLog(self.committed), 0)
        self.parking = Parking(
            Reader(self.log), Counter(), appetite=self.appetite, taken=self.taken, seen=self.seen, gone=self.gone
        )
        self.followed = sum(entry.offset_ < self.committed for entry in self.log)
        self.hunger = dict.fromkeys(NAMES, 0)
        self.held: dict[int, Held] = {}
        self.ended: list[tuple[int, Held, Entry]] = []  # with their markers, not durable yet
        self.refs: dict[int, Held] = {}  # ordered records known to be in the log, not in memory

    @property
    def index(self) -> ParkedLog:
        assert self.intake.log is not None
        return self.intake.log

    def write(self, key: bytes | None, value: bytes | None, headers: Headers | None) -> int:
        self.log.append(Entry(self.next, key, value, headers))
        self.next += 1
        return self.next - 1

    # --- what the stage would do ------------------------------------------------------------------------------------

    def appetite(self, name: str, lot: Lot) -> int:
        return self.hunger[name]

    def taken(self, intake: Intake, record: Record, name: str, order: Order | None) -> None:
        offset = record.offset()
        if offset in self.held or offset in self.finished or offset in {ended for ended, _, _ in self.ended}:
            self.faults.append(f"{offset} was handed over again")  # nobody sees what is raised in a task
        if self.parked[offset] != Held(name, order):
            self.faults.append(f"{offset} was handed over as {name}'s {order}")
        self.hunger[name] -= 1
        self.held[offset] = Held(name, order)
        self.refs.pop(offset, None)

    def seen(self, intake: Intake, name: str, offset: int, order: Order) -> None:
        self.refs[offset] = Held(name, order)

    def gone(self, intake: Intake, name: str, offset: int, order: Order | None) -> None:
        assert self.refs.pop(offset) == Held(name, order)

    async def read(self) -> None:
        self.parking.wake(self.intake)
        if self.intake.reading is not None:
            await asyncio.wait([self.intake.reading])

    def end_one(self, offset: int) -> None:
        held = self.held.pop(offset)
        headers = finished_headers(offset, self.index.floor_without(offset))
        if held.order is not None:
            headers.append(held.order.header())
        self.ended.append((offset, held, Entry(-1, held.name.encode(), None, headers)))

    # --- what may happen --------------------------------------------------------------------------------------------

    async def park(self, names: list[tuple[str, str | None]], gap: int) -> None:
        """Plain records, and ordered ones where there is a key."""
        for name, key in names:
            order = None
            if key is not None:
                self.number += 1
                order = Order(key, self.number)
            offset = self.write(name.encode(), b"x", [order.header()] if order else None)
            self.parked[offset] = Held(name, order)
        self.next += gap  # transaction markers

    async def follow(self, count: int) -> None:
        records = self.log[self.followed : self.followed + count]
        self.followed += len(records)
        self.parking.follow(self.intake, records)
        if records and not self.parking.fenced(0):
            token = f"epoch {self.epochs}"
            self.parking.fence(0, token, self.intake.ledger)
            self.write(None, None, [(FENCE, token.encode())])
        await self.read()

    async def crave(self, name: str, more: int) -> None:
        self.hunger[name] = more
        await self.read()

    async def want(self, picks: list[int]) -> None:
        """Ordered records are read when it is their turn."""
        for offset in picked(self.refs, picks):
            self.index.lots[self.refs[offset].name].wanted.add(offset)
        await self.read()

    async def loosen(self, name: str) -> None:
        if (lot := self.index.lots.get(name)) is not None:
            lot.loose = lot.ordered is not None

    async def put_back(self, picks: list[int], wanted: bool) -> None:
        for offset in picked(self.held, picks):
            held = self.held.pop(offset)
            self.index.put_back(offset, wanted=wanted or held.order is None)
            if held.order is not None:
                self.refs[offset] = held

    async def end(self, picks: list[int]) -> None:
        """Deliveries end, and their markers are on their way."""
        for offset in picked(self.held, picks):
            self.end_one(offset)

    async def commit(self) -> None:
        """One transaction: the markers, and how far the log is done."""
        for offset, _, _ in self.ended:
            self.index.finish(offset)
        position, metadata = self.index.progress()
        assert metadata == ""
        together = {offset for offset, _, _ in self.ended}
        for offset, held, entry in self.ended:
            self.finished.add(offset)
            self.write(entry.key_, None, entry.headers_)
            marker = finished_by(entry.headers_)
            assert marker is not None
            plain = Held(held.name, None)
            left = {at for at, one in self.parked.items() if one == plain} - self.finished - together
            assert all(marker[1] <= at for at in left), "a marker's floor is too high"
        self.ended.clear()
        self.committed = position
        self.next += 1

    async def deliver(self, name: str, count: int, back: int) -> None:
        """An endpoint takes some of what is parked for it, but for the first ones."""
        await self.follow(ALL)
        await self.follow(ALL)
        await self.crave(name, count)
        for offset in [offset for offset, held in self.held.items() if held.name == name][back:]:
            self.end_one(offset)
        await self.commit()

    async def restart(self, hungry: set[str], counts: list[int]) -> None:
        """What was not committed is void."""
        self.index.close()
        await self.read()
        self.begin()
        self.hunger |= dict.fromkeys(hungry, 5)
        for count in counts:
            await self.follow(count)

    async def settle_everything(self) -> None:
        """Whoever is hungry for all gets all, once."""
        for _ in range(200):
            self.hunger = dict.fromkeys(NAMES, ALL)
            for offset, held in self.refs.items():
                self.index.lots[held.name].wanted.add(offset)
            await self.follow(ALL)
            for offset in list(self.held):
                self.end_one(offset)
            await self.commit()
            if self.followed == len(self.log) and self.finished == set(self.parked):
                break
        assert self.finished == set(self.parked), "lost"
        await self.follow(ALL)
        assert self.index.lots == {}
        assert self.refs == {}

    # --- what always holds ------------------------------------------------------------------------------------------

    def check(self) -> None:
        assert self.faults == []
        unfinished = set(self.parked) - self.finished - {offset for offset, _, _ in self.ended}
        position = self.index.progress()[0]
        assert all(position <= offset for offset in unfinished), "an unfinished record is passed"
        assert all(self.committed <= offset for offset in set(self.parked) - self.finished)
        assert self.index.pending == len(self.held) + len(self.ended)
        opened = Counter(held.name for held in self.held.values())
        opened.update(held.name for _, held, _ in self.ended)
        for name, lot in self.index.lots.items():
            assert not lot.empty
            assert len(lot.opened) == opened[name]
            assert lot.done <= self.finished
            assert lot.wanted.isdisjoint(lot.opened | self.finished)
            if lot.ordered is not None:
                known = {at for at, held in self.parked.items() if held.name == name and held.order is not None}
                assert known - self.finished >= set(lot.ordered) or self.followed < len(self.log)


def picked(offsets: dict[int, Held], picks: list[int]) -> set[int]:
    line = sorted(offsets)
    return {line[pick % len(line)] for pick in picks} if line else set()


Step = Callable[[World], Awaitable[None]]


def _step(method: Callable[..., Awaitable[None]], *arguments: st.SearchStrategy[object]) -> st.SearchStrategy[Step]:
    return st.tuples(*arguments).map(lambda given: lambda world: method(world, *given))


name, picks = st.sampled_from(NAMES), st.lists(st.integers(0, 20), min_size=1, max_size=6)
count = st.integers(1, 6) | st.just(ALL)
DELIVER = _step(World.deliver, name, st.integers(1, 8), st.integers(0, 3))
RESTART = _step(World.restart, st.sets(name), st.lists(count, max_size=4))
STEPS = st.one_of(
    _step(World.park, st.lists(st.tuples(name, st.none()), min_size=1, max_size=8), st.integers(0, 2)),
    _step(
        World.park,
        st.lists(st.tuples(name, st.sampled_from([None, *KEYS])), min_size=1, max_size=8),
        st.integers(0, 2),
    ),
    _step(World.follow, count),
    _step(World.crave, name, st.integers(0, 8)),
    _step(World.want, picks),
    _step(World.loosen, name),
    _step(World.put_back, picks, st.booleans()),
    _step(World.end, picks),
    _step(World.commit),
    DELIVER,
    DELIVER,
    RESTART,
    RESTART,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, min_size=10, max_size=50))
def test_nothing_is_lost_and_nothing_finished_comes_again(steps: list[Step]) -> None:
    async def run() -> None:
        world = World()
        for step in steps:
            await step(world)
            world.check()
        await world.restart(set(), [])
        await world.settle_everything()
        world.check()

    asyncio.run(run())
