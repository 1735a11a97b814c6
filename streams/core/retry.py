"""When the next attempt is due, and which retry tier carries the delivery until then.

The schedule is Standard Webhooks' unless the subscription has its own; jitter only adds, so that no attempt comes
early. Tiers are a timing wheel: a delivery goes to the largest tier whose hold fits into its wait, and when the tier
releases it, it is delivered if due and hops on if not. This file does not read a clock and makes no random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import parsedate_to_datetime

from schemas.topics import HOLDS_MS

#: At most this part of a delay is added, so that endpoints that failed together are not tried together again.
JITTER_MAX = 0.1
#: A server may ask for patience, but not for more than this (RFC 9110, 10.2.3 sets no bound; we must).
RETRY_AFTER_MS_MAX = 24 * 3600 * 1000

HOLDS_ASCENDING: tuple[int, ...] = tuple(sorted(HOLDS_MS.values()))
HOLD_MS_MIN = HOLDS_ASCENDING[0]


def next_due_ms(
    schedule_ms: Sequence[int], attempts: int, now_ms: int, jitter: float, retry_after_ms: int | None = None
) -> int | None:
    """When the attempt after `attempts` failed ones is due; None when the schedule is exhausted.

    `jitter` is uniform in [0, 1). `retry_after_ms` only ever postpones.
    """
    if attempts > len(schedule_ms):
        return None
    delay = schedule_ms[attempts - 1]
    due = now_ms + delay + int(delay * JITTER_MAX * jitter)
    if retry_after_ms is not None:
        due = max(due, now_ms + min(retry_after_ms, RETRY_AFTER_MS_MAX))
    return due


def tier_hold_ms(wait_ms: int, slack_ms: int = 0) -> int:
    """The hold of the tier for a delivery that must wait this long: the largest that fits, at least the smallest.

    The next larger one serves as well when it is late by no more than `slack_ms`: without, the few seconds that jitter
    adds to half an hour would cost a dozen hops through the small tiers.
    """
    hold = HOLD_MS_MIN
    for candidate in HOLDS_ASCENDING:
        if candidate > wait_ms + slack_ms:
            break
        hold = candidate
    return hold


def slack_ms(delay_ms: int) -> int:
    """How late an attempt with this delay may come: as much as jitter may add to it."""
    return int(max(delay_ms, 0) * JITTER_MAX)


def parse_retry_after_ms(text: str | None, now_ms: int) -> int | None:
    """RFC 9110, 10.2.3: delay seconds or an HTTP date, as milliseconds from now; None for anything else or the past."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(int(text[:10]) * 1000, RETRY_AFTER_MS_MAX)
    try:
        moment = parsedate_to_datetime(text)
        wait = int(moment.timestamp() * 1000) - now_ms
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
    return min(wait, RETRY_AFTER_MS_MAX) if wait > 0 else None
