"""A worker that takes an endpoint over knows from its record what the one before knew."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.core.health import FAILING_PERSISTED_AFTER_MS, UNCHANGED, Health

START = 1_800_000_000_000
DISABLE_AFTER_MS = 600_000

answers = st.sampled_from([(200, None), (404, None), (429, None), (500, None), (0, "timeout"), (0, "shutdown")])
gone = st.just((410, None))
steps = st.lists(st.tuples(st.integers(0, 40_000), answers | gone, st.integers(0, 20_000)), max_size=80)


@settings(max_examples=300, deadline=None)
@given(steps, st.floats(0, 1, exclude_max=True))
@example([(1_000, (500, None), 0)] * 6 + [(30_000, (500, None), 0)] * 30, 0.0)
@example([(20_000, (404, None), 0)] * 6 + [(0, (200, None), 0)], 0.0)
def test_what_is_persisted_is_what_is_true(steps: list[tuple[int, tuple[int, str | None], int]], jitter: float) -> None:
    health, now = Health(), START
    stored = health.fields()
    failing_since = disabled = 0
    for wait_ms, (status, cause), took_ms in steps:
        now += wait_ms
        health.circuit.tick(now)
        before = health.circuit.state
        change = health.observe(status, cause, now, jitter, DISABLE_AFTER_MS, now - took_ms)
        if change.persist:
            stored = health.fields()

        newly = False
        if 200 <= status <= 299:
            failing_since = 0
        elif status != 429 and cause != "shutdown":
            failing_since = failing_since or now
            if not disabled and (status == 410 or now - failing_since >= DISABLE_AFTER_MS):
                disabled, newly = now, True
        assert health.failing_since_ms == failing_since
        assert health.disabled_ms == disabled
        assert change.disabled == newly

        after = health.circuit.state
        assert (change.circuit is not None) == (before != after)
        assert change.again == (before == "half_open" and after == "open")
        assert change.any == (change is not UNCHANGED)

        again = Health.restored(**stored)
        again.circuit.tick(now)
        assert again.circuit.state == after
        assert (again.disabled_ms, again.disabled_reason) == (health.disabled_ms, health.disabled_reason)
        if after != "closed":
            assert (again.circuit.until_ms, again.circuit.openings) == (
                health.circuit.until_ms,
                health.circuit.openings,
            )
        if again.failing_since_ms != failing_since:
            assert again.failing_since_ms == 0, "a time that is over would disable an endpoint that is well"
            assert status == 429 or cause == "shutdown" or now - failing_since < FAILING_PERSISTED_AFTER_MS
