"""Rates and places of one endpoint."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from statistics import mean

import pytest

from streams.core.limits import GradientLimit, SlowStart, TokenBucket, parse_allowed_rate

Service = Callable[[random.Random], float]
MS = 0.001


class Endpoint:
    """A server that works on `capacity` requests at a time, the others wait there; and a client that always has as many
    under way as its limit allows. In virtual seconds."""

    def __init__(self, limit: GradientLimit, capacity: int, seed: int = 1) -> None:
        self.limit = limit
        self.workers = [0.0] * capacity  # when each is free
        self.dice = random.Random(seed)
        self.flying: list[tuple[float, float]] = []
        self.now = 0.0

    def serve(
        self,
        posts: int,
        service: Service,
        failing: float = 0.0,
        at_most: int | None = None,
        *,
        told_every_s: float = 0.0,
        burst: int | None = None,
    ) -> list[int]:
        """The limit after each POST. `at_most`: how many the client has to send at a time. `told_every_s`: it learns of
        answers only so often, of several together. `burst`: it has so many to send every second, not always one."""
        limits: list[int] = []
        left, next_burst = burst or posts, self.now + 1
        while len(limits) < posts:
            while left and len(self.flying) < min(self.limit.limit, at_most or self.limit.limit):
                start = max(self.now, heapq.heappop(self.workers))
                end = start + service(self.dice)
                heapq.heappush(self.workers, end)
                heapq.heappush(self.flying, (end, self.now))
                left -= 1 if burst else 0
            self.now = self.flying[0][0] if self.flying else next_burst
            if told_every_s:
                self.now = (self.now // told_every_s + 1) * told_every_s
            while self.flying and self.flying[0][0] <= self.now and len(limits) < posts:
                in_flight = len(self.flying)
                ended, started = heapq.heappop(self.flying)
                ok = self.dice.random() >= failing
                self.limit.observe(int((ended - started) * 1_000_000), in_flight, ok)
                limits.append(self.limit.limit)
                if not (told_every_s or burst):
                    break
            if burst and self.now >= next_burst:
                left, next_burst = burst, self.now + 1
        return limits


def always(seconds: float) -> Service:
    return lambda dice: seconds


def about(seconds: float) -> Service:
    return lambda dice: seconds * dice.lognormvariate(0, 0.4)


# --- token bucket -----------------------------------------------------------------------------------------------------


def test_a_burst_and_then_the_rate() -> None:
    bucket = TokenBucket(rate_per_s=10, burst=3)
    for _ in range(3):
        assert bucket.wait_s(100.0) == 0.0
        bucket.take(100.0)
    assert bucket.wait_s(100.0) == pytest.approx(0.1, abs=1e-5)
    assert bucket.wait_s(100.1) == 0.0
    bucket.take(100.1)
    assert bucket.wait_s(100.1) == pytest.approx(0.1, abs=1e-5)
    assert bucket.wait_s(100.3) == 0.0


def test_rates_below_one_a_second() -> None:
    bucket = TokenBucket(rate_per_s=1 / 60, burst=1)
    bucket.take(5.0)
    assert bucket.wait_s(5.0) == pytest.approx(60)
    assert bucket.wait_s(64.9) > 0
    assert bucket.wait_s(65.0) == 0.0


def test_what_is_taken_without_a_token_is_owed() -> None:
    bucket = TokenBucket(rate_per_s=2, burst=1)
    for _ in range(4):
        bucket.take(0.0)
    assert bucket.wait_s(0.0) == pytest.approx(2.0, abs=1e-5)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_rates_that_make_no_sense_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate_per_s"):
        TokenBucket(rate, 1)


@pytest.mark.parametrize("burst", [0.9, float("nan"), float("inf")])
def test_bursts_that_make_no_sense_are_refused(burst: float) -> None:
    with pytest.raises(ValueError, match="burst"):
        TokenBucket(1, burst)


# --- gradient limit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", [always(50 * MS), about(50 * MS)], ids=["always", "about"])
@pytest.mark.parametrize("capacity", [1, 4, 10, 30])
def test_it_comes_to_rest_where_the_endpoint_is_busy_and_little_waits(capacity: int, service: Service) -> None:
    endpoint = Endpoint(GradientLimit(100), capacity)
    endpoint.serve(3_000, service)
    rest = endpoint.serve(8_000, service)
    assert 0.8 * capacity <= mean(rest) <= 1.7 * capacity
    assert max(rest) <= 2 * capacity + 2


@pytest.mark.parametrize("service", [always(50 * MS), about(50 * MS)], ids=["always", "about"])
@pytest.mark.parametrize("capacity", [4, 10, 30, 60])
@pytest.mark.parametrize(("told_every_s", "bursts"), [(0.0, 0), (0.02, 0), (0.0, 1), (0.0, 3), (0.02, 3)])
def test_it_is_there_soon_and_stays_also_when_answers_and_work_come_in_bursts(
    service: Service, capacity: int, told_every_s: float, bursts: int
) -> None:
    endpoint = Endpoint(GradientLimit(200), capacity)
    burst = capacity * bursts or None
    limits = endpoint.serve(6_000, service, told_every_s=told_every_s, burst=burst)
    assert max(limits[: 4 * capacity + 40]) >= 0.8 * capacity
    assert 0.8 * capacity <= mean(limits[3_000:]) <= 2.5 * capacity + 2
    assert max(limits) <= 4.5 * capacity
    slow = endpoint.serve(3_000, always(200 * MS), told_every_s=told_every_s, burst=burst)
    assert 0.8 * capacity <= mean(slow[2_000:]) <= 2.5 * capacity + 2


def test_it_stays_within_its_bounds() -> None:
    endpoint = Endpoint(GradientLimit(20, limit_min=3), capacity=1_000)
    limits = endpoint.serve(2_000, always(MS))
    assert limits[0] == 3
    assert limits[-1] == max(limits) == 20
    assert min(endpoint.serve(500, always(MS), failing=1.0)) == 3


def test_what_is_not_used_does_not_grow() -> None:
    limit = GradientLimit(100)
    endpoint = Endpoint(limit, capacity=50)
    endpoint.serve(5_000, always(20 * MS), at_most=5)
    assert 5 <= limit.limit <= 8


def test_latency_that_doubles_shrinks_it_and_the_new_floor_is_learnt() -> None:
    endpoint = Endpoint(GradientLimit(100), capacity=20)
    before = mean(endpoint.serve(6_000, always(50 * MS))[3_000:])
    slow = endpoint.serve(6_000, always(100 * MS))
    assert min(slow[:1_000]) <= before / 4
    assert mean(slow[3_000:]) == pytest.approx(before, rel=0.3), "slower for good, but it still serves 20 at a time"
    assert mean(endpoint.serve(6_000, always(50 * MS))[3_000:]) == pytest.approx(before, rel=0.3)


def test_an_endpoint_that_loses_capacity_is_sent_less() -> None:
    limit = GradientLimit(100)
    endpoint = Endpoint(limit, capacity=30)
    endpoint.serve(4_000, always(50 * MS))
    endpoint.workers = endpoint.workers[:5]
    rest = endpoint.serve(6_000, always(50 * MS))[2_000:]
    assert mean(rest) <= 8


def test_a_floor_that_was_learnt_while_it_was_slow_does_not_stay() -> None:
    """Otherwise it would go on and on before latency were far above it."""
    endpoint = Endpoint(GradientLimit(100), capacity=8)
    endpoint.serve(8, always(10.0))
    rest = endpoint.serve(8_000, always(50 * MS))[3_000:]
    assert mean(rest) <= 13


def test_a_floor_that_was_learnt_by_luck_does_not_stay() -> None:
    endpoint = Endpoint(GradientLimit(100), capacity=8)
    endpoint.serve(8, always(5 * MS))
    assert mean(endpoint.serve(8_000, always(50 * MS))[2_000:]) >= 7


def test_failures_shrink_it_once_for_all_that_were_under_way() -> None:
    limit = GradientLimit(100)
    endpoint = Endpoint(limit, capacity=40)
    endpoint.serve(4_000, always(50 * MS))
    before, under_way = limit.limit, len(endpoint.flying) + 1
    for _ in range(under_way):
        limit.observe(15_000_000, under_way, ok=False)
    assert limit.limit == pytest.approx(before * GradientLimit.FAILED, abs=1)
    assert limit.limit > before / 2


def test_failures_without_end_leave_the_least_and_it_recovers() -> None:
    limit = GradientLimit(50)
    endpoint = Endpoint(limit, capacity=20)
    endpoint.serve(3_000, always(50 * MS))
    endpoint.serve(200, always(50 * MS), failing=1.0)
    assert limit.limit == 1
    assert mean(endpoint.serve(3_000, always(50 * MS))[1_000:]) >= 15


def test_answers_that_take_no_time_are_no_error() -> None:
    limit = GradientLimit(10)
    for _ in range(2_000):
        limit.observe(0, limit.limit, ok=True)
    assert limit.limit >= 5


@pytest.mark.parametrize(("least", "most"), [(0, 5), (6, 5)])
def test_limits_that_make_no_sense_are_refused(least: int, most: int) -> None:
    with pytest.raises(ValueError, match="limit_min"):
        GradientLimit(most, least)


# --- slow start and allowed rate --------------------------------------------------------------------------------------


def test_slow_start_adds_one_for_each_success() -> None:
    slow = SlowStart(3)
    seen = []
    for _ in range(4):
        seen.append(slow.limit)
        slow.succeeded()
    assert seen == [1, 2, 3, 3]


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("60", 1.0),
        (" 120 ", 2.0),
        ("1", 1 / 60),
        ("*", None),
        (None, None),
        ("", None),
        ("0", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),  # a digit, not an ASCII one
        ("many", None),
        ("9" * 10_000, 9_999_999_999 / 60),
    ],
)
def test_allowed_rates_are_by_the_minute(text: str | None, rate: float | None) -> None:
    assert parse_allowed_rate(text) == rate
