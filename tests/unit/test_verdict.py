"""What each answer of an endpoint means."""

from __future__ import annotations

import pytest

from schemas.post import CAUSES, PostResult
from streams.core.verdict import INTERRUPTED, Dead, RetryAt, Verdict, judge, succeeded

NOW = 1_000_000


def verdict(result: PostResult, attempts: int = 1, reject: tuple[int, ...] = ()) -> Verdict:
    return judge(result, attempts=attempts, schedule_ms=(1_000, 2_000), reject_statuses=reject, now_ms=NOW, jitter=0.0)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_is_delivered(status: int) -> None:
    assert succeeded(PostResult(status, 1))


@pytest.mark.parametrize("status", [0, 199, 300, 404, 500])
def test_nothing_else_is(status: int) -> None:
    assert not succeeded(PostResult(status, 1))


@pytest.mark.parametrize("status", [300, 301, 304, 308, 400, 401, 404, 408, 429, 500, 502, 503, 504, 599])
def test_everything_else_is_tried_again(status: int) -> None:
    assert verdict(PostResult(status, 1)) == RetryAt(NOW + 1_000)


def test_the_schedule_is_followed_and_ends() -> None:
    failed = PostResult(500, 1)
    assert verdict(failed, attempts=2) == RetryAt(NOW + 2_000)
    assert verdict(failed, attempts=3) == Dead("exhausted")


def test_gone_ends_it_at_once() -> None:
    assert verdict(PostResult(410, 1)) == Dead("gone")


def test_statuses_the_subscription_rejects_end_it_at_once() -> None:
    assert verdict(PostResult(422, 1), reject=(422,)) == Dead("rejected")


def test_retry_after_postpones() -> None:
    assert verdict(PostResult(503, 1, retry_after="60")) == RetryAt(NOW + 60_000)
    assert verdict(PostResult(503, 1, retry_after="nonsense")) == RetryAt(NOW + 1_000)


@pytest.mark.parametrize("cause", sorted(CAUSES - {"shutdown", "invalid_request"}))
def test_no_response_is_tried_again(cause: str) -> None:
    assert verdict(PostResult(0, 1, cause, "why")) == RetryAt(NOW + 1_000)


def test_a_request_that_must_not_be_sent_is_never_tried_again() -> None:
    assert verdict(PostResult(0, 1, "invalid_request", "why")) == Dead("invalid_endpoint")


def test_a_stopping_worker_says_nothing() -> None:
    assert verdict(PostResult(0, 1, "shutdown", "why")) == INTERRUPTED
