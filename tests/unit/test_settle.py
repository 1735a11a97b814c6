"""The settler: groups in order, one transaction for many, and nothing for a partition that was given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from connectors.memory import MemoryMember
from schemas.errors import FencedError, RecordTooLargeError, StaleGroupError
from schemas.frame import Out
from streams.core.ledger import Ledger
from streams.settle import Settler
from tests.unit.stages import TOPICS, World, turns

SOURCE = TOPICS.events
OUT = TOPICS.attempts


def out(value: bytes) -> Out:
    return (OUT, b"k", value, 0, None)


def opened(count: int, position: int = 0) -> Ledger:
    ledger = Ledger(position)
    ledger.open(list(range(position, position + count)))
    return ledger


def values(world: World) -> list[bytes | None]:
    return [stored.value for stored in world.written(OUT)]


async def test_records_and_progress_go_together() -> None:
    world = World()
    ledger = opened(3)
    async with world.running():
        world.settler.settle(SOURCE, 0, ledger, (0, 1), (out(b"a"), out(b"b")))
        await world.settler.flush()
        assert values(world) == [b"a", b"b"]
        assert world.position(SOURCE) == 2
        world.settler.settle(SOURCE, 0, ledger, (2,), ())
        await world.settler.flush()
        assert world.position(SOURCE) == 3
    assert world.publisher.transactions == 2


async def test_what_is_finished_out_of_order_travels_in_the_metadata() -> None:
    world = World()
    async with world.running():
        world.settler.settle(SOURCE, 0, opened(4), (2,), (out(b"c"),))
        await world.settler.flush()
    offset, metadata = world.kafka.committed["group", SOURCE, 0]
    assert offset == 0
    assert Ledger(offset, metadata).open([0, 1, 2, 3]) == [2]


async def test_what_gathers_during_a_transaction_is_the_next_one() -> None:
    world = World()
    first, second = opened(2), opened(2)
    world.kafka.answers.clear()
    async with world.running():
        world.settler.settle(SOURCE, 0, first, (0,), (out(b"0"),))
        await turns()  # it is being written
        world.settler.settle(SOURCE, 0, first, (1,), (out(b"1"),))
        world.settler.settle(SOURCE, 1, second, (0, 1), (out(b"2"), out(b"3")))
        world.kafka.answers.set()
        await world.settler.flush()
    assert world.publisher.transactions == 2
    assert values(world) == [b"0", b"1", b"2", b"3"]
    assert (world.position(SOURCE, 0), world.position(SOURCE, 1)) == (2, 2)


@pytest.mark.parametrize(
    ("limits", "transactions"),
    [({"group_records_max": 4}, 5), ({"group_entries_max": 1}, 10), ({"group_bytes_max": 4}, 5)],
)
async def test_groups_are_bounded_and_keep_the_order(limits: dict[str, int], transactions: int) -> None:
    world = World(**limits)
    ledger = opened(10)
    for offset in range(10):
        world.settler.settle(SOURCE, 0, ledger, (offset,), (out(b"%d" % offset), out(b"%d'" % offset)))
    async with world.running():
        await world.settler.flush()
    assert values(world) == [value for offset in range(10) for value in (b"%d" % offset, b"%d'" % offset)]
    assert world.publisher.transactions == transactions


async def test_nothing_is_written_for_a_partition_that_was_given_up() -> None:
    world = World()
    gone, kept = opened(1), opened(1)
    world.settler.settle(SOURCE, 0, gone, (0,), (out(b"gone"),))
    world.settler.settle(SOURCE, 1, kept, (0,), (out(b"kept"),))
    gone.close()
    async with world.running():
        await world.settler.flush()
        assert values(world) == [b"kept"]
        assert (world.position(SOURCE, 0), world.position(SOURCE, 1)) == (None, 1)
        world.settler.settle(SOURCE, 0, gone, (), (out(b"gone"),))  # a group of nothing: no transaction
        await world.settler.flush()
    assert world.publisher.transactions == 1
    assert gone.progress() == (0, "")


async def test_a_stale_group_settles_again_what_is_still_ours() -> None:
    world = World()
    lost, kept = opened(1), opened(1)
    async with world.running():
        world.member.live = False  # the rebalance is not known here yet
        world.settler.settle(SOURCE, 0, lost, (0,), (out(b"lost"),))
        world.settler.settle(SOURCE, 1, kept, (0,), (out(b"kept"),))
        await turns()
        assert values(world) == []
        assert world.settler.backlog == 2
        lost.close()
        world.member = MemoryMember("group")
        await world.settler.flush()
    assert values(world) == [b"kept"]
    assert (world.position(SOURCE, 0), world.position(SOURCE, 1)) == (None, 1)


async def test_a_partition_lost_and_regained_while_its_transaction_waits_is_not_settled() -> None:
    """The member is live again, with a later epoch: the group would take the offsets (found by the simulation)."""
    world = World()
    lost, kept = opened(1), opened(1)
    world.kafka.answers.clear()
    async with world.running():
        world.settler.settle(SOURCE, 0, lost, (0,), (out(b"lost"),))
        world.settler.settle(SOURCE, 1, kept, (0,), (out(b"kept"),))
        await turns()
        lost.close()
        world.kafka.answers.set()
        await world.settler.flush()
    assert values(world) == [b"kept"]
    assert (world.position(SOURCE, 0), world.position(SOURCE, 1)) == (None, 1)


@pytest.mark.parametrize("error", [FencedError("fenced"), RecordTooLargeError("t", 9)])
async def test_what_waiting_does_not_mend_ends_it(error: Exception) -> None:
    class Failing:
        async def publish(self, *_: object, **__: object) -> None:
            raise error

    settler = Settler(Failing())
    settler.settle(SOURCE, 0, opened(1), (0,), ())
    with pytest.raises(type(error), match=str(error)[:20]):
        await settler.run()
    assert settler.backlog == 1  # not durable, and not claimed to be


async def test_room_waits_while_the_backlog_is_above_its_bound() -> None:
    world = World(backlog_records_max=3, group_records_max=1)
    ledger = opened(4)
    world.kafka.answers.clear()
    async with world.running():
        await world.settler.room()
        for offset in range(3):
            world.settler.settle(SOURCE, 0, ledger, (offset,), ())  # an entry without records counts as one
        await asyncio.wait_for(world.settler.room(), 1)
        world.settler.settle(SOURCE, 0, ledger, (3,), ())
        waiters = [asyncio.create_task(world.settler.room()) for _ in range(2)]
        await turns()
        assert not any(waiter.done() for waiter in waiters)
        world.kafka.answers.set()
        await asyncio.wait_for(asyncio.gather(*waiters), 5)
        await world.settler.flush()
        assert world.settler.backlog == 0


async def test_room_waits_for_bytes_too() -> None:
    world = World(backlog_bytes_max=8)
    ledger = opened(3)
    world.kafka.answers.clear()
    async with world.running():
        world.settler.settle(SOURCE, 0, ledger, (0,), (out(b"12345678"), (SOURCE, b"key", None, -1, None)))
        await asyncio.wait_for(world.settler.room(), 1)
        world.settler.settle(SOURCE, 0, ledger, (1,), (out(b"9"),))
        assert world.settler.backlog_bytes == 9
        waiter = asyncio.create_task(world.settler.room())
        await turns()
        assert not waiter.done()
        world.kafka.answers.set()
        await asyncio.wait_for(waiter, 5)
        await world.settler.flush()
        assert world.settler.backlog_bytes == 0


async def test_listeners_are_called_after_every_transaction_when_it_is_durable() -> None:
    world = World()
    ledger = opened(2)
    seen: list[int | None] = []
    world.settler.on_settled(lambda: seen.append(world.position(SOURCE)))
    async with world.running():
        for offset in range(2):
            world.settler.settle(SOURCE, 0, ledger, (offset,), ())
            await world.settler.flush()
    assert seen == [1, 2]


async def test_stale_for_ever_can_be_cancelled() -> None:
    world = World()
    world.member.live = False
    async with world.running():
        world.settler.settle(SOURCE, 0, opened(1), (0,), ())
        await turns()
    assert world.position(SOURCE) is None
    with pytest.raises(StaleGroupError):
        await world.publisher.publish([], [(SOURCE, 0, 1, "")])


async def test_a_publisher_is_told_which_transactions_their_offsets_give_away() -> None:
    """Offsets that come to records were not finished before; those that come to none may have been, by others."""
    told: list[tuple[list[int], bool]] = []

    class Heard:
        async def publish(
            self,
            records: Sequence[Out],
            offsets: Sequence[tuple[str, int, int, str]],
            still_ours: Callable[[], bool] | None = None,
            *,
            decisive: bool = False,
        ) -> None:
            told.append(([partition for _, partition, *_ in offsets], decisive))

    settler = Settler(Heard())
    zero, one = opened(9), opened(9)

    async def settled(*entries: tuple[int, Ledger, tuple[int, ...], tuple[Out, ...]]) -> tuple[list[int], bool]:
        for partition, ledger, offsets, records in entries:
            settler.settle(SOURCE, partition, ledger, offsets, records)
        await settler.flush()
        return told.pop()

    running = asyncio.create_task(settler.run())
    try:
        assert await settled((0, zero, (0,), (out(b"a"),)), (1, one, (), (out(b"b"),))) == ([0], True)
        assert await settled((0, zero, (1,), (out(b"a"),)), (1, one, (0,), ())) == ([0, 1], True)
        assert await settled((0, zero, (2,), ())) == ([0], True)
        assert await settled((0, zero, (3,), ()), (1, one, (), (out(b"b"),))) == ([0], False)
        assert await settled((0, zero, (), (out(b"a"),)), (1, one, (), (out(b"b"),))) == ([0, 1], False)
    finally:
        running.cancel()
    assert told == []
