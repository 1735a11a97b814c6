"""The circuit breaker: its table, its window, how long it stays open."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from streams.core.breaker import TRANSITIONS, Breaker, BreakerPolicy, Event, IllegalTransitionError, State, after

POLICY = BreakerPolicy()
NOW = 1_800_000_000_000
STATES: tuple[State, ...] = get_args(State)
EVENTS: tuple[Event, ...] = get_args(Event)


def opened(jitter: float = 0.0) -> Breaker:
    breaker = Breaker(POLICY)
    assert [breaker.failed(NOW, jitter) for _ in range(5)] == [False] * 4 + [True]
    return breaker


@pytest.mark.parametrize(("state", "event"), list(product(STATES, EVENTS)))
def test_what_is_not_in_the_table_raises(state: State, event: Event) -> None:
    if (state, event) in TRANSITIONS:
        assert after(state, event) == TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalTransitionError, match=event):
            after(state, event)


def test_every_state_can_be_reached_and_left() -> None:
    moves = {(state, to) for (state, _), to in TRANSITIONS.items() if state != to}
    assert {to for _, to in moves} == set(STATES)
    assert {state for state, _ in moves} == set(STATES)
    assert ("open", "closed") not in moves, "an endpoint is probed before its circuit closes"


@pytest.mark.parametrize(
    ("failures", "successes", "opens"), [(4, 0, False), (5, 5, True), (5, 6, False), (50, 49, True)]
)
def test_it_opens_by_ratio_and_never_on_few_results(failures: int, successes: int, opens: bool) -> None:
    breaker = Breaker(POLICY)
    for _ in range(successes):
        assert not breaker.succeeded(NOW)
    changed = [breaker.failed(NOW, 0.0) for _ in range(failures)]
    assert any(changed) == opens
    assert breaker.state == ("open" if opens else "closed")


def test_the_window_forgets() -> None:
    breaker = Breaker(POLICY)
    for _ in range(4):
        breaker.failed(NOW, 0.0)
    assert not breaker.failed(NOW + POLICY.window_ms, 0.0)
    assert breaker.state == "closed"


def test_the_window_remembers_for_nine_tenths_of_itself() -> None:
    breaker = Breaker(POLICY)
    for part in range(4):
        assert not breaker.failed(NOW + part * POLICY.window_ms * 9 // 10 // 4, 0.0)
    assert breaker.failed(NOW + POLICY.window_ms * 9 // 10 - 1, 0.0)


def test_a_busy_endpoint_opens_when_it_fails_long_after_its_successes() -> None:
    breaker = Breaker(POLICY)
    for _ in range(10_000):
        breaker.succeeded(NOW)
    changed = [breaker.failed(NOW + 40_000, 0.0) for _ in range(5)]
    assert changed == [False] * 4 + [True]


def test_results_that_come_while_it_is_open_change_nothing() -> None:
    breaker = opened()
    until_ms = breaker.until_ms
    assert not breaker.succeeded(NOW + 1)
    assert not breaker.failed(NOW + 1, 0.9)
    assert (breaker.state, breaker.until_ms, breaker.openings) == ("open", until_ms, 1)


def test_one_success_closes_a_half_open_one_with_a_clean_window() -> None:
    breaker = opened()
    assert breaker.tick(breaker.until_ms)
    assert breaker.state == "half_open"
    assert breaker.succeeded(breaker.until_ms)
    assert (breaker.state, breaker.openings) == ("closed", 0)
    assert not breaker.failed(breaker.until_ms, 0.0)


def test_each_failed_probe_doubles_the_wait_up_to_its_bound() -> None:
    breaker, now, waits = opened(), NOW, []
    for _ in range(6):
        waits.append(breaker.until_ms - now)
        assert not breaker.tick(breaker.until_ms - 1)
        now = breaker.until_ms
        assert breaker.tick(now)
        assert not breaker.tick(now), "it is half open already"
        assert breaker.failed(now, 0.0)
    assert waits == [5_000, 10_000, 20_000, 30_000, 30_000, 30_000]
    assert breaker.openings == 7


def test_jitter_adds_a_tenth_at_most() -> None:
    assert opened(0.999_999).until_ms - NOW == pytest.approx(POLICY.open_ms_min * 1.1, abs=1)


def test_time_outs_from_before_it_opened_are_stale() -> None:
    breaker = opened()
    assert breaker.stale(NOW - 15_000, NOW + 100)
    assert breaker.stale(NOW, NOW + 100)
    assert not breaker.stale(NOW + 1, NOW + 100)
    assert not Breaker(POLICY).stale(NOW, NOW)
    assert not breaker.stale(NOW - 7_000, NOW - 6_000), "the clock was set back: nothing is held against the probe"


def test_a_clock_that_is_set_back_does_not_keep_it_open() -> None:
    breaker = opened()
    assert not breaker.tick(NOW - 1)
    assert breaker.tick(NOW - 3_600_000)
    counting = Breaker(POLICY)
    for _ in range(4):
        counting.failed(NOW, 0.0)
    assert [counting.failed(NOW - 3_600_000, 0.0) for _ in range(5)] == [False] * 4 + [True]


def test_an_open_one_is_restored_as_it_was() -> None:
    breaker = opened()
    again = Breaker.restored(POLICY, breaker.opened_ms, breaker.until_ms, breaker.openings)
    assert (again.state, again.opened_ms) == ("open", NOW)
    for each in (breaker, again):
        assert not each.tick(NOW + 4_999)
        assert each.tick(NOW + 5_000)
        assert each.failed(NOW + 5_000, 0.0)
        assert (each.until_ms, each.openings) == (NOW + 15_000, 2)


def test_openings_without_end_do_not_overflow() -> None:
    breaker = Breaker.restored(POLICY, NOW, NOW, 10**9)
    assert breaker.tick(NOW)
    assert breaker.failed(NOW, 0.0)
    assert breaker.until_ms == NOW + POLICY.open_ms_max


@pytest.mark.parametrize(
    "values",
    [
        {"window_ms": 9},
        {"requests_min": 0},
        {"failure_ratio": 0.0},
        {"failure_ratio": 1.1},
        {"open_ms_min": 0},
        {"open_ms_min": 2, "open_ms_max": 1},
    ],
)
def test_policies_that_make_no_sense_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        BreakerPolicy(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [
        {"window_ms": 10},
        {"requests_min": 1},
        {"failure_ratio": 1.0},
        {"open_ms_min": 1},
        {"open_ms_min": 7, "open_ms_max": 7},
    ],
)
def test_the_least_and_the_most_are_taken(values: dict[str, float]) -> None:
    breaker = Breaker(BreakerPolicy(**values))  # type: ignore[arg-type]
    changed = [breaker.failed(NOW, 0.0) for _ in range(breaker.policy.requests_min)]
    assert changed[-1]
    assert breaker.until_ms == NOW + breaker.policy.open_ms_min
