"""The scheduler and its loops: when what happens, and what does not happen to the dead."""

from __future__ import annotations

import asyncio

import pytest

from tests.simulation.loop import Scheduler, StuckError, VirtualLoop


def never() -> bool:
    return False


def test_time_stands_still_until_nothing_is_ready_and_then_jumps() -> None:
    scheduler = Scheduler()
    loop = VirtualLoop(scheduler)
    seen: list[tuple[str, float]] = []

    async def work() -> None:
        seen.append(("begin", loop.time()))
        await asyncio.sleep(0)
        seen.append(("same time", loop.time()))
        async with asyncio.timeout(5):
            await loop.pause(3600 - 3596)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        seen.append(("end", asyncio.get_running_loop().time()))

    loop.call_soon(loop.create_task, work())
    assert scheduler.run(lambda: len(seen) == 3, seconds_max=100)
    assert seen == [("begin", 0.0), ("same time", 0.0), ("end", 9.0)]
    with pytest.raises(StuckError, match="nothing is ready and nothing is scheduled"):
        scheduler.run(never, seconds_max=100)
    loop.bury()


def test_timers_come_in_their_order_and_cancelled_ones_do_not_move_time() -> None:
    scheduler = Scheduler()
    loop = VirtualLoop(scheduler)
    seen: list[str] = []
    loop.call_later(2, seen.append, "b")
    loop.call_later(1, seen.append, "a")
    loop.call_later(2, seen.append, "c")
    loop.call_later(50, seen.append, "never").cancel()
    scheduler.after(3, seen.append, "world")
    with pytest.raises(StuckError):
        scheduler.run(never, seconds_max=100)
    assert seen == ["a", "b", "c", "world"]
    assert scheduler.now == 3
    loop.bury()


def test_the_run_ends_before_what_comes_too_late() -> None:
    scheduler = Scheduler()
    seen: list[str] = []
    scheduler.after(10, seen.append, "late")
    assert not scheduler.run(never, seconds_max=9)
    assert (seen, scheduler.now) == ([], 9)
    assert scheduler.run(lambda: seen, seconds_max=11)


def test_a_killed_loop_does_nothing_any_more_and_others_go_on() -> None:
    scheduler = Scheduler()
    dead, alive = VirtualLoop(scheduler), VirtualLoop(scheduler)
    seen: list[str] = []

    async def work(loop: VirtualLoop, name: str) -> None:
        try:
            while True:
                await loop.pause(1)
                seen.append(name)
        finally:
            seen.append(f"{name} cleans up")

    for loop, name in ((dead, "dead"), (alive, "alive")):
        loop.call_soon(loop.create_task, work(loop, name))
    scheduler.run(never, seconds_max=2.5)
    dead.kill()
    scheduler.run(never, seconds_max=4.5)
    assert seen == ["dead", "alive", "dead", "alive", "alive", "alive"]
    for loop in (dead, alive):
        loop.bury()


def test_a_fuse_strikes_between_two_callbacks_of_one_moment() -> None:
    scheduler = Scheduler()
    loop = VirtualLoop(scheduler)
    seen: list[int] = []
    for number in range(5):
        loop.call_soon(seen.append, number)
    loop.fuse = 3
    with pytest.raises(StuckError):
        scheduler.run(never, seconds_max=1)
    assert seen == [0, 1, 2]
    assert loop.state == "dead"
    loop.bury()


def test_a_frozen_loop_finds_what_came_meanwhile_in_its_order() -> None:
    scheduler = Scheduler()
    loop = VirtualLoop(scheduler)
    seen: list[tuple[str, float]] = []
    loop.call_later(1, lambda: seen.append(("timer", loop.time())))
    loop.freeze()
    scheduler.after(2, lambda: loop.call_soon(lambda: seen.append(("message", loop.time()))))
    scheduler.after(7, loop.thaw)
    with pytest.raises(StuckError):
        scheduler.run(never, seconds_max=100)
    assert seen == [("timer", 7.0), ("message", 7.0)]
    loop.bury()


def test_an_exception_that_nobody_caught_is_told() -> None:
    scheduler = Scheduler()
    loop = VirtualLoop(scheduler)
    told: list[object] = []
    loop.on_exception = lambda context: told.append(context["exception"])
    loop.call_soon(lambda: 1 // 0)
    with pytest.raises(StuckError):
        scheduler.run(never, seconds_max=1)
    assert isinstance(told[0], ZeroDivisionError)
    loop.bury()


def test_a_failure_ends_the_run() -> None:
    scheduler = Scheduler()
    loop = VirtualLoop(scheduler)

    def find() -> None:
        scheduler.failure = AssertionError("found")

    loop.call_soon(find)
    loop.call_soon(pytest.fail)
    with pytest.raises(AssertionError, match="found"):
        scheduler.run(never, seconds_max=1)
    loop.bury()
