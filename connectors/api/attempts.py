"""Attempts searched, and how long endpoints take: /v1/attempts and /v1/subscriptions/{id}/latency.

Both need a database of attempts (`connectors/history/store.py`); without one they answer 409 and say what to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from connectors.api.deliveries import (
    LIMIT_MAX,
    TAG,
    AttemptsPage,
    Moment,
    asked,
    attempt_view,
    check_outcomes,
    cursor_place,
    place_cursor,
    to_ms,
)
from connectors.api.principal import acts_for
from connectors.api.problems import ProblemError
from connectors.api.routes import Answer, Call, Reply, Route
from connectors.api.subscriptions import found
from connectors.history.histogram import KINDS, percentile_us
from connectors.history.store import HistoryStore, Wanted
from schemas.delivery import OUTCOMES

HOUR_MS = 3_600_000
WINDOW_MS = 24 * HOUR_MS
_STATUS = re.compile(r"([1-5])xx|([1-5][0-9]{2}|0)")


class Attempts:
    """A service: the database, None where there is none."""

    def __init__(self, store: HistoryStore | None, now_ms: Callable[[], int]) -> None:
        self._store = store
        self.now_ms = now_ms

    @property
    def store(self) -> HistoryStore:
        """ProblemError 409 without one."""
        if self._store is None:
            raise ProblemError(
                409,
                "this needs a database of attempts; run `distributary history`, set DISTRIBUTARY_HISTORY, and start "
                "the API again",
            )
        return self._store


_Id = Annotated[str, Meta(max_length=256)] | None


class SearchQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is searched for: all that is given must fit. Times are RFC 3339."""

    tenant: Annotated[str | None, Meta(description="Of this tenant only; of an operator's key")] = None
    subscription: Annotated[_Id, Meta(description="Of this subscription")] = None
    delivery: Annotated[_Id, Meta(description="Of this delivery: the webhook-id")] = None
    event: Annotated[_Id, Meta(description="Of this event")] = None
    outcome: Annotated[tuple[str, ...], Meta(description=f"Only with these outcomes: {', '.join(OUTCOMES)}")] = ()
    status: Annotated[
        Annotated[str, Meta(pattern=f"^({_STATUS.pattern})$")] | None,
        Meta(description="404, or 5xx for all of them; 0: no response"),
    ] = None
    since: Annotated[Moment, Meta(description="Only attempts that were started then or later")] = None
    until: Annotated[Moment, Meta(description="Only attempts that were started before")] = None
    text: Annotated[
        Annotated[str, Meta(max_length=200)] | None,
        Meta(description="In the detail, the cause, the response's beginning or the event type"),
    ] = None
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX, description="At most so many on a page")] = 50
    cursor: Annotated[str | None, Meta(description="Where the page begins: `next` of the page before")] = None


class LatencyQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Of which time; the last 24 hours when nothing is said. Whole hours are counted."""

    since: Annotated[Moment, Meta(description="From the hour of this time on")] = None
    until: Annotated[Moment, Meta(description="Up to the hour of this time")] = None


class LatencyView(msgspec.Struct, kw_only=True):
    """Microseconds, at most 9 % too high; null without a value."""

    count: int
    p50_us: int | None
    p90_us: int | None
    p99_us: int | None


class Latency(msgspec.Struct, kw_only=True):
    """`attempt`: of POSTs alone. `delivered`: from the event's record in Kafka to the end of the POST that delivered
    it."""

    subscription_id: str
    since_ms: int
    until_ms: int
    attempt: LatencyView
    delivered: LatencyView


async def search(call: Call) -> Reply:
    """A page, newest first."""
    query: SearchQuery = call.query
    tenant = acts_for(call.principal, query.tenant)
    check_outcomes(query.outcome)
    before, _ = cursor_place(query.cursor)
    wanted = Wanted(
        delivery_id=query.delivery,
        event_id=query.event,
        subscription_id=query.subscription,
        tenant=tenant,
        outcomes=query.outcome,
        status=None if query.status is None else status_range(query.status),
        since_ms=to_ms(query.since) or 0,
        until_ms=to_ms(query.until),
        text=query.text,
    )
    page = await asked(call.get(Attempts).store.search(wanted, limit=query.limit, before=before))
    following = None if page.next is None else place_cursor(page.next, [])
    return Reply(
        AttemptsPage(items=[attempt_view(each) for each in page.attempts], next=following, partial=page.partial)
    )


async def latency(call: Call) -> Reply:
    """Percentiles of one subscription."""
    subscription = found(call)
    service = call.get(Attempts)
    until_ms = to_ms(call.query.until)
    if until_ms is None:
        until_ms = service.now_ms()
    since_ms = to_ms(call.query.since)
    if since_ms is None:
        since_ms = until_ms - WINDOW_MS
    counts = (await asked(service.store.latencies(subscription.id, since_ms, until_ms))).counts
    views = {kind: _view(counts[kind]) for kind in KINDS}
    return Reply(Latency(subscription_id=subscription.id, since_ms=since_ms, until_ms=until_ms, **views))


def status_range(text: str) -> tuple[int, int]:
    """The first and the last status of `404` or `5xx`. ValueError."""
    match = _STATUS.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no status such as 404 or 5xx")
    if match[1]:
        return int(match[1]) * 100, int(match[1]) * 100 + 99
    return int(text), int(text)


def _view(counts: dict[int, int]) -> LatencyView:
    def part(of: float) -> int | None:
        us = percentile_us(counts, of)
        return None if us is None else round(us)

    return LatencyView(count=sum(counts.values()), p50_us=part(0.5), p90_us=part(0.9), p99_us=part(0.99))


ROUTES = [
    Route(
        method="GET",
        path="/v1/attempts",
        handler=search,
        summary="Search attempts, newest first",
        tag=TAG,
        scope="deliveries:read",
        query=SearchQuery,
        answers={200: Answer(type=AttemptsPage, description="A page")},
        problems=(409,),
    ),
    Route(
        method="GET",
        path="/v1/subscriptions/{id}/latency",
        handler=latency,
        summary="How long a subscription's endpoint takes",
        tag=TAG,
        scope="deliveries:read",
        query=LatencyQuery,
        answers={200: Answer(type=Latency, description="Percentiles")},
        problems=(409,),
    ),
]
