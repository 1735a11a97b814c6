"""Promises of the token bucket and of the gradient limit for any sequence."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.core.limits import GradientLimit, TokenBucket

pauses = st.lists(st.floats(0, 20), min_size=1, max_size=80)


@given(st.floats(0.01, 5_000), st.floats(1, 50), pauses, st.floats(0, 1e9))
def test_never_more_than_the_burst_and_the_rate(rate: float, burst: float, pauses: list[float], now: float) -> None:
    """In every span of time, for whoever waits as long as told."""
    bucket = TokenBucket(rate, burst)
    taken = []
    for pause in pauses:
        now += pause
        wait = bucket.wait_s(now)
        now += wait
        assert bucket.wait_s(now) <= 1e-6, "whoever waited as told has its token"
        bucket.take(now)
        taken.append(now)
    for first in range(0, len(taken), 7):
        for last in range(first, len(taken)):
            span = taken[last] - taken[first]
            assert last - first + 1 <= burst + rate * (span + 3e-6) + 1e-6


@given(st.floats(0.01, 5_000), st.floats(1, 50), st.integers(1, 200))
def test_the_rate_is_reached(rate: float, burst: float, takes: int) -> None:
    """Never less either: n tokens take no longer than n intervals."""
    bucket = TokenBucket(rate, burst)
    now = 1_000.0
    for _ in range(takes):
        now += bucket.wait_s(now)
        bucket.take(now)
    assert now - 1_000.0 <= max(0.0, takes - burst + 1) / rate + 1e-6


@given(
    st.integers(1, 5),
    st.integers(0, 60),
    st.lists(st.tuples(st.integers(0, 10**8), st.integers(1, 100), st.booleans()), max_size=300),
)
def test_the_limit_is_always_within_its_bounds(least: int, more: int, results: list[tuple[int, int, bool]]) -> None:
    limit = GradientLimit(least + more, least)
    for duration_us, in_flight, ok in results:
        before = limit.limit
        limit.observe(duration_us, in_flight, ok)
        assert least <= limit.limit <= least + more
        assert limit.limit <= 2 * before + 1 or limit.limit <= before + 8
        assert len(limit._samples) <= 2 * (least + more) + GradientLimit.WINDOW_MIN
