"""What a POST's result means for its delivery: a decision as data.

Rules: design.md, "Status", after Standard Webhooks 1.0. This file does not read a clock, and does not write anything.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from schemas.post import PostResult
from streams.core.retry import next_due_ms, parse_retry_after_ms


class RetryAt(msgspec.Struct, frozen=True, gc=False):
    """Not delivered; the next attempt is due then (milliseconds since the epoch)."""

    due_ms: int


class Dead(msgspec.Struct, frozen=True, gc=False):
    """Given up. `reason`: `exhausted` (the schedule ended), `gone` (410), `rejected` (a status the subscription names)
    or `invalid_endpoint` (a request that must not be sent)."""

    reason: str


class Interrupted(msgspec.Struct, frozen=True, gc=False):
    """This worker stops: nothing can be said, so nothing is written, and the next worker tries again."""


#: On an attempt that did not succeed.
Verdict = RetryAt | Dead | Interrupted

INTERRUPTED = Interrupted()


def succeeded(result: PostResult) -> bool:
    """A 2xx answer, and nothing else."""
    return 200 <= result.status <= 299


def judge(
    result: PostResult,
    *,
    attempts: int,
    schedule_ms: Sequence[int],
    reject_statuses: Sequence[int],
    now_ms: int,
    jitter: float,
) -> Verdict:
    """The verdict on the attempt number `attempts` (1 for the first), which did not succeed. Times in milliseconds,
    `jitter` in [0, 1)."""
    status = result.status
    if result.cause == "shutdown":
        return INTERRUPTED
    if result.cause == "invalid_request":
        return Dead("invalid_endpoint")
    if status == 410:  # Standard Webhooks: the consumer asks for no more; RFC 9110, 15.5.11
        return Dead("gone")
    if status in reject_statuses:
        return Dead("rejected")
    wait = parse_retry_after_ms(result.retry_after, now_ms)
    due = next_due_ms(schedule_ms, attempts, now_ms, jitter, wait)
    return Dead("exhausted") if due is None else RetryAt(due)
