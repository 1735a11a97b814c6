"""What every clock does, and how the manual one is moved."""

from __future__ import annotations

import pytest

from connectors.clock import SystemClock
from connectors.memory import ManualClock
from streams.ports import Clock


@pytest.fixture(params=[SystemClock, ManualClock])
def clock(request: pytest.FixtureRequest) -> Clock:
    made: Clock = request.param()
    return made


def test_the_wall_clock_is_in_milliseconds_since_the_epoch(clock: Clock) -> None:
    assert 1_700_000_000_000 < clock.now_ms() < 10_000_000_000_000


def test_monotonic_never_goes_back(clock: Clock) -> None:
    seen = [clock.monotonic() for _ in range(100)]
    assert seen == sorted(seen)


def test_jitter_is_in_the_unit_interval(clock: Clock) -> None:
    assert all(0 <= clock.jitter() < 1 for _ in range(1000))


def test_the_manual_clock_moves_both_times_and_only_forward() -> None:
    clock = ManualClock(now_ms=5_000, jitter=0.25)
    assert (clock.now_ms(), clock.monotonic(), clock.jitter()) == (5_000, 0.0, 0.25)
    clock.advance_ms(1_500)
    clock.next_jitter = 0.5
    assert (clock.now_ms(), clock.monotonic(), clock.jitter()) == (6_500, 1.5, 0.5)
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance_ms(-1)
