"""The timing wheel and the schedule."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.subscription import STANDARD_RETRY_SCHEDULE_MS
from streams.core.retry import (
    HOLD_MS_MIN,
    HOLDS_ASCENDING,
    JITTER_MAX,
    RETRY_AFTER_MS_MAX,
    next_due_ms,
    parse_retry_after_ms,
    slack_ms,
    tier_hold_ms,
)

NOW = 1_800_000_000_000
jitters = st.floats(0, 1, exclude_max=True)


@given(st.integers(0, 40 * 24 * 3600 * 1000))
def test_hopping_through_the_tiers_is_never_early_and_late_within_the_slack(delay_ms: int) -> None:
    due = NOW + delay_ms
    slack = slack_ms(delay_ms)
    now = NOW
    hops = 0
    while True:
        hold = tier_hold_ms(due - now, slack)
        assert hold in HOLDS_ASCENDING
        assert hold <= due - now + slack or hold == HOLD_MS_MIN
        now += hold
        hops += 1
        if due - now < HOLD_MS_MIN:  # dispatch waits this out in memory
            break
    assert now - due <= max(slack, HOLD_MS_MIN)
    assert hops <= 12 + delay_ms // HOLDS_ASCENDING[-1]


@given(jitters)
def test_a_standard_retry_takes_few_hops(jitter: float) -> None:
    for attempts, delay in enumerate(STANDARD_RETRY_SCHEDULE_MS, 1):
        due = next_due_ms(STANDARD_RETRY_SCHEDULE_MS, attempts, NOW, jitter)
        assert due is not None
        now, hops = NOW, 0
        while due - now >= HOLD_MS_MIN:
            now += tier_hold_ms(due - now, slack_ms(due - NOW))
            hops += 1
        assert NOW + delay <= now + HOLD_MS_MIN
        assert hops <= 6


@given(st.lists(st.integers(0, 10**9), max_size=20), st.integers(1, 25), jitters)
def test_jitter_only_adds_and_is_bounded(schedule: list[int], attempts: int, jitter: float) -> None:
    due = next_due_ms(schedule, attempts, NOW, jitter)
    if attempts > len(schedule):
        assert due is None
    else:
        delay = schedule[attempts - 1]
        assert due is not None
        assert delay <= due - NOW <= delay * (1 + JITTER_MAX)


@given(st.integers(0, 10**12), jitters)
def test_retry_after_only_postpones_and_is_bounded(retry_after_ms: int, jitter: float) -> None:
    plain = next_due_ms([5_000], 1, NOW, jitter)
    asked = next_due_ms([5_000], 1, NOW, jitter, retry_after_ms)
    assert plain is not None
    assert asked is not None
    assert asked == max(plain, NOW + min(retry_after_ms, RETRY_AFTER_MS_MAX))


def test_the_default_schedule_is_that_of_standard_webhooks() -> None:
    """5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h after each failure: ten attempts."""
    hours = [delay / 3_600_000 for delay in STANDARD_RETRY_SCHEDULE_MS]
    assert hours == pytest.approx([5 / 3600, 5 / 60, 0.5, 2, 5, 10, 14, 20, 24])
    assert next_due_ms(STANDARD_RETRY_SCHEDULE_MS, 10, NOW, 0.0) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("", None),
        ("120", 120_000),
        (" 7 ", 7_000),
        ("0", 0),
        ("-5", None),
        ("1.5", None),
        ("٣", None),  # a digit, not an ASCII one
        ("99999999999999999999999", RETRY_AFTER_MS_MAX),
        ("soon", None),
        ("Fri, 31 Feb 2027 99:99:99 GMT", None),
    ],
)
def test_retry_after_fields(text: str | None, expected: int | None) -> None:
    assert parse_retry_after_ms(text, NOW) == expected


@given(st.integers(-(10**9), 10**9))
def test_retry_after_dates(seconds: int) -> None:
    moment = datetime.fromtimestamp(NOW / 1000 + seconds, UTC)
    parsed = parse_retry_after_ms(format_datetime(moment, usegmt=True), NOW)
    assert parsed == (min(seconds * 1000, RETRY_AFTER_MS_MAX) if seconds > 0 else None)
