"""Following and reading the log: when reading begins, what is read at a time, and what is missing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from schemas.frame import Headers, Record
from streams.core.parked import FENCE, Lot, Order, ParkedLog, finished_headers
from streams.lanes import Intake
from streams.parking import Parking
from tests.unit.stages import Consumed, turns


class Scene:
    """A log of records, and somebody with an appetite for some of them."""

    def __init__(self) -> None:
        self.log: list[Consumed] = []
        self.reads: list[int] = []
        self.taken: list[int] = []
        self.gone: list[int] = []
        self.hunger: dict[str, int] = {}
        self.counters: Counter[str] = Counter()
        self.intake = Intake("parked", 0, ParkedLog(0), 0)
        self.parking = Parking(
            self, self.counters, appetite=self._appetite, taken=self._taken, seen=self._seen, gone=self._gone
        )

    async def read(self, partition: int, offset: int) -> Sequence[Record]:
        self.reads.append(offset)
        await asyncio.sleep(0)
        return [record for record in self.log if record.offset_ >= offset][:500]

    async def close(self) -> None:
        pass

    def _appetite(self, name: str, lot: Lot) -> int:
        return self.hunger.get(name, 0)

    def _taken(self, intake: Intake, record: Record, name: str, order: Order | None) -> None:
        self.hunger[name] -= 1
        self.taken.append(record.offset())

    def _seen(self, intake: Intake, name: str, offset: int, order: Order) -> None:
        pass

    def _gone(self, intake: Intake, name: str, offset: int, order: Order | None) -> None:
        self.gone.append(offset)

    def write(self, key: bytes | None, value: bytes | None, headers: Headers | None = None) -> Consumed:
        self.log.append(Consumed(len(self.log), value, 1, key, headers))
        return self.log[-1]

    def follow(self, *records: Consumed) -> None:
        self.parking.follow(self.intake, records)

    def fence(self, token: str = "t") -> None:
        self.parking.fence(0, token, self.intake.ledger)
        self.follow(self.write(None, None, [(FENCE, token.encode())]))


async def test_nothing_is_read_before_the_fence_was_seen() -> None:
    scene = Scene()
    scene.hunger = {"a": 10}
    records = [scene.write(b"a", b"x") for _ in range(2)]
    scene.follow(*records)
    scene.parking.wake(scene.intake)
    await turns()
    assert scene.reads == []
    scene.parking.fence(0, "mine", scene.intake.ledger)
    scene.follow(scene.write(None, None, [(FENCE, b"another's")]))
    assert not scene.parking.restored(0)
    scene.follow(scene.write(b"a", None, finished_headers(0, 1)))
    scene.follow(scene.write(None, None, [(FENCE, b"mine")]))
    assert scene.parking.restored(0)
    await turns()
    assert scene.taken == [1]


async def test_a_fence_of_a_lost_epoch_counts_for_nothing() -> None:
    scene = Scene()
    scene.fence()
    assert scene.parking.restored(0)
    scene.intake.ledger.close()
    assert not scene.parking.restored(0)
    assert not scene.parking.fenced(0)


async def test_a_chunk_is_read_once_for_a_lane_that_takes_a_few_at_a_time() -> None:
    scene = Scene()
    scene.follow(*(scene.write(b"a", b"x") for _ in range(400)))
    scene.fence()
    for _ in range(40):
        scene.hunger["a"] = 10
        scene.parking.wake(scene.intake)
        await turns()
    assert scene.taken == list(range(400))
    assert len(scene.reads) == 1


async def test_a_lane_without_appetite_does_not_stop_the_others() -> None:
    scene = Scene()
    scene.follow(*(scene.write(b"ab"[number % 2 : number % 2 + 1], b"x") for number in range(1_200)))
    scene.fence()
    scene.hunger = {"a": 0, "b": 600}
    scene.parking.wake(scene.intake)
    await turns()
    assert scene.taken == list(range(1, 1_200, 2))


async def test_what_retention_took_away_is_counted_where_it_was_known() -> None:
    scene = Scene()
    scene.follow(*(scene.write(b"a", b"x", [Order("k", number).header()]) for number in range(5)))
    scene.fence()
    log = scene.intake.log
    assert log is not None
    log.lots["a"].wanted.update((0, 1, 3))
    del scene.log[:3]
    scene.hunger = {"a": 10}
    scene.parking.wake(scene.intake)
    await turns()
    assert scene.taken == [3]
    assert sorted(scene.gone) == [0, 1]
    assert scene.counters == {"parked_missing": 2}


async def test_keys_that_are_not_text_stop_nobody() -> None:
    scene = Scene()
    scene.follow(scene.write(b"\xff\xfe", b"x"), scene.write(b"\xff", None, finished_headers(0, 0)))
    scene.follow(scene.write(None, b"x"), scene.write(b"a", b"x"))
    scene.fence()
    scene.hunger = {"a": 1}
    scene.parking.wake(scene.intake)
    await turns()
    assert scene.taken == [3]
