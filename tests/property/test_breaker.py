"""The circuit breaker against a slow model that keeps every result."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.core.breaker import BUCKETS, JITTER_MAX, TRANSITIONS, Breaker, BreakerPolicy, Event

POLICY = BreakerPolicy(window_ms=1_000, requests_min=3, open_ms_min=200, open_ms_max=900)
BUCKET_MS = POLICY.window_ms // BUCKETS
START = 1_800_000_000_000

results = st.lists(st.tuples(st.integers(0, 400), st.sampled_from(["succeeded", "failed", "tick"])), max_size=120)


@settings(max_examples=300, deadline=None)
@given(results, st.floats(0, 1, exclude_max=True))
@example([(0, "failed")] * 3 + [(200, "tick"), (0, "failed"), (400, "tick"), (0, "succeeded")], 0.0)
def test_it_does_what_the_table_and_the_window_say(steps: list[tuple[int, str]], jitter: float) -> None:
    breaker, now = Breaker(POLICY), START
    kept: list[tuple[int, bool]] = []
    openings = 0
    for wait_ms, what in steps:
        now += wait_ms
        before = breaker.state
        event: Event | None
        if what == "tick":
            changed = breaker.tick(now)
            event = "elapsed" if before == "open" and now >= breaker.until_ms else None
        elif what == "succeeded":
            changed = breaker.succeeded(now)
            event = "succeeded"
        else:
            changed = breaker.failed(now, jitter)
            event = "failed"
        if before == "closed" and what != "tick":
            kept.append((now // BUCKET_MS, what == "failed"))
            window = [failed for bucket, failed in kept if bucket > now // BUCKET_MS - BUCKETS]
            if what == "failed" and len(window) >= POLICY.requests_min and sum(window) * 2 >= len(window):
                event = "tripped"
        expected = before if event is None else TRANSITIONS[before, event]
        assert breaker.state == expected
        assert changed == (before != expected)
        if changed and expected == "open":
            openings += 1
            least = min(POLICY.open_ms_min << (openings - 1), POLICY.open_ms_max)
            assert breaker.opened_ms == now
            assert least <= breaker.until_ms - now <= least * (1 + JITTER_MAX)
        if changed and expected == "closed":
            openings = 0
            kept.clear()
        assert breaker.openings == openings


@given(st.lists(st.integers(-(10**7), 10**7), max_size=60), st.data())
def test_no_clock_keeps_it_open_for_ever(steps: list[int], data: st.DataObject) -> None:
    """Whatever the clock does, it opens only by failures, and closes once time passes and a probe succeeds."""
    breaker, now = Breaker(POLICY), START
    for step in steps:
        now += step
        breaker.tick(now)
        if data.draw(st.booleans()):
            breaker.failed(now, 0.5)
        else:
            breaker.succeeded(now)
    for _ in range(2 + POLICY.open_ms_max // 500):
        now += 500
        breaker.tick(now)
    if breaker.state != "closed":
        assert breaker.succeeded(now)
    assert breaker.state == "closed"
