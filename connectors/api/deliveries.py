"""What became of deliveries: /v1/subscriptions/{id}/attempts and /deliveries, /v1/deliveries/{id}.

Newest first. Pages are found by looking back through a log, within bounds: one may hold few or no items and still have
a `next`; `partial` says that. Where the log is kept is not this file's matter (`connectors/history/`).
"""

from __future__ import annotations

import base64
import binascii
import datetime
import re
import struct
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from connectors.api.problems import Fault, ProblemError, not_found
from connectors.api.routes import Answer, Call, Reply, Route
from connectors.api.subscriptions import found
from connectors.history.attempts import History, HistoryPage, HistoryUnavailableError, LoggedAttempt, Place, Wants
from schemas.delivery import OUTCOMES
from schemas.subscription import ID_PATTERN

LIMIT_MAX = 200
#: Deliveries with older attempts that a cursor remembers to have shown, 8 bytes each; beyond, the first is forgotten.
CARRIED_MAX = 256
DELIVERY_ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,128}")
_MARK_BYTES = 8
_PLACE = struct.Struct(">qqq")


class Past:
    """A service: where to look."""

    def __init__(self, history: History) -> None:
        self.history = history


Moment = Annotated[datetime.datetime, Meta(tz=True)] | None


class PastQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is asked for. Times are RFC 3339."""

    outcome: Annotated[tuple[str, ...], Meta(description=f"Only with these outcomes: {', '.join(OUTCOMES)}")] = ()
    since: Annotated[Moment, Meta(description="Only attempts that were started then or later")] = None
    until: Annotated[Moment, Meta(description="Only attempts that were started before")] = None
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX, description="At most so many on a page")] = 50
    cursor: Annotated[str | None, Meta(description="Where the page begins: `next` of the page before")] = None


class DeliveryQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Where to look."""

    subscription: Annotated[
        str | None, Meta(description="The subscription's id: it is looked further back in its attempts alone")
    ] = None


class AttemptView(msgspec.Struct, kw_only=True):
    """One POST, or a delivery's end without one. `excerpt` is the beginning of the response, as text; `due_ms` is when
    the next attempt is due, 0 for none. Times are milliseconds since the epoch."""

    delivery_id: str
    subscription_id: str
    event_id: str
    event_type: str
    tenant: str
    event_time_ms: int
    received_ms: int
    subject: str | None
    attempt: int
    outcome: str
    started_ms: int
    duration_us: int
    status: int
    cause: str
    detail: str
    excerpt: str
    due_ms: int


class AttemptsPage(msgspec.Struct, kw_only=True):
    """Newest first. `next` is the cursor of what is older, null for nothing; `partial`: looking took too long, so there
    may be more than is shown before `next`'s page begins."""

    items: list[AttemptView]
    next: str | None
    partial: bool


class DeliveryView(msgspec.Struct, kw_only=True):
    """A delivery, with what became of it so far: its latest attempt."""

    id: str
    subscription_id: str
    event_id: str
    event_type: str
    tenant: str
    event_time_ms: int
    subject: str | None
    attempts: int
    outcome: str
    latest: AttemptView


class DeliveriesPage(msgspec.Struct, kw_only=True):
    """As a page of attempts: deliveries in the order of their latest attempts."""

    items: list[DeliveryView]
    next: str | None
    partial: bool


class DeliveryHistory(msgspec.Struct, kw_only=True):
    """One delivery and its attempts, newest first; `partial` when not all were found."""

    delivery: DeliveryView
    attempts: list[AttemptView]
    partial: bool


async def list_attempts(call: Call) -> Reply:
    """Of one subscription."""
    before, _ = cursor_place(call.query.cursor)
    page = await _page(call, _filter(call), before, outcomes=call.query.outcome)
    following = None if page.next is None else place_cursor(page.next, [])
    return Reply(
        AttemptsPage(items=[attempt_view(each) for each in page.attempts], next=following, partial=page.partial)
    )


async def list_deliveries(call: Call) -> Reply:
    """Of one subscription, each with its latest attempt."""
    before, carried = cursor_place(call.query.cursor)
    shown = dict.fromkeys(carried)
    fits = _filter(call)

    def wants(attempt: LoggedAttempt) -> bool:
        mark = _mark(attempt.delivery_id)
        latest = mark not in shown
        if attempt.attempt > 1:
            shown[mark] = None  # older ones will come
        elif not latest:
            del shown[mark]
        return latest and fits(attempt)

    page = await _page(call, wants, before)
    following = None if page.next is None else place_cursor(page.next, list(shown)[-CARRIED_MAX:])
    return Reply(
        DeliveriesPage(items=[_delivery(each) for each in page.attempts], next=following, partial=page.partial)
    )


async def get_delivery(call: Call) -> Reply:
    """One, and all its attempts."""
    history, delivery_id = call.get(Past).history, call.params["id"]
    missing = not_found(f"delivery {delivery_id} among the newest attempts; name its subscription to look further back")
    subscription_id = call.query.subscription
    if subscription_id is None:
        newest = await asked(history.find(delivery_id))
        if newest is None:
            raise missing
        subscription_id = newest.subscription_id
    elif not ID_PATTERN.fullmatch(subscription_id):
        raise missing

    def wants(attempt: LoggedAttempt) -> bool:
        return attempt.delivery_id == delivery_id

    latest = await asked(history.page(subscription_id, wants, limit=1))
    if not latest.attempts or not call.principal.sees(latest.attempts[0].tenant):
        raise missing
    first: LoggedAttempt = latest.attempts[0]
    attempts, partial = [first], False
    if first.attempt > 1 and latest.next is not None:
        older = await asked(history.page(subscription_id, wants, limit=first.attempt - 1, before=latest.next))
        attempts += older.attempts
        partial = older.partial
    views = [attempt_view(each) for each in attempts]
    return Reply(DeliveryHistory(delivery=_delivery(first), attempts=views, partial=partial))


async def _page(call: Call, wants: Wants, before: Place | None, outcomes: Sequence[str] = ()) -> HistoryPage:
    query: PastQuery = call.query
    subscription = found(call)
    page: HistoryPage = await asked(
        call.get(Past).history.page(
            subscription.id,
            wants,
            limit=query.limit,
            before=before,
            since_ms=to_ms(query.since) or 0,
            until_ms=to_ms(query.until),
            outcomes=outcomes,
        )
    )
    return page


async def asked(question: Any) -> Any:
    """The answer; ProblemError 503 when there is none now."""
    try:
        return await question
    except HistoryUnavailableError as error:
        raise ProblemError(503, str(error), headers={"Retry-After": "1"}) from None


def to_ms(moment: datetime.datetime | None) -> int | None:
    """Since the epoch."""
    return None if moment is None else int(moment.timestamp() * 1000)


def check_outcomes(outcomes: Sequence[str]) -> None:
    """ProblemError 400 for one that there is not."""
    for outcome in outcomes:
        if outcome not in OUTCOMES:
            detail = f"{outcome[:40]!r} is none of {', '.join(OUTCOMES)}"
            raise ProblemError(400, f"outcome: {detail}", errors=[Fault("?outcome", detail)])


def _filter(call: Call) -> Callable[[LoggedAttempt], bool]:
    """Which attempts are meant, of those that the caller may see: the subscription's id may have been another tenant's
    before."""
    query: PastQuery = call.query
    sees = call.principal.sees
    check_outcomes(query.outcome)
    outcomes = frozenset(query.outcome or OUTCOMES)
    since, until = to_ms(query.since) or 0, to_ms(query.until)

    def fits(attempt: LoggedAttempt) -> bool:
        started = attempt.started_ms
        timely = since <= started and (until is None or started < until)
        return timely and attempt.outcome in outcomes and sees(attempt.tenant)

    return fits


# --- cursors: a place, and which deliveries were shown that have older attempts --------------------------------


def _mark(delivery_id: str) -> bytes:
    return blake2b(delivery_id.encode(), digest_size=_MARK_BYTES).digest()


def place_cursor(place: Place, carried: list[bytes]) -> str:
    """Of what is older."""
    return base64.urlsafe_b64encode(_PLACE.pack(*place) + b"".join(carried)).rstrip(b"=").decode()


def cursor_place(text: str | None) -> tuple[Place | None, list[bytes]]:
    """What it was made of. ProblemError 400."""
    if not text:
        return None, []
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        whole = _PLACE.size <= len(raw) <= _PLACE.size + CARRIED_MAX * _MARK_BYTES
        if not whole or len(raw) % _MARK_BYTES:
            raise ValueError
        place = Place(*_PLACE.unpack_from(raw))
        if min(place) < 0:
            raise ValueError
    except (ValueError, binascii.Error):
        detail = "the cursor is none of ours; leave it out to begin with the first page"
        raise ProblemError(400, detail, errors=[Fault("?cursor", detail)]) from None
    return place, [raw[at : at + _MARK_BYTES] for at in range(_PLACE.size, len(raw), _MARK_BYTES)]


# --- views ----------------------------------------------------------------------------------------------------


def attempt_view(attempt: LoggedAttempt) -> AttemptView:
    """As it is shown."""
    fields = {name: getattr(attempt, name) for name in AttemptView.__struct_fields__}
    return AttemptView(**fields | {"excerpt": attempt.excerpt.decode("utf-8", "replace")})


def _delivery(latest: LoggedAttempt) -> DeliveryView:
    return DeliveryView(
        id=latest.delivery_id,
        subscription_id=latest.subscription_id,
        event_id=latest.event_id,
        event_type=latest.event_type,
        tenant=latest.tenant,
        event_time_ms=latest.event_time_ms,
        subject=latest.subject,
        attempts=latest.attempt,
        outcome=latest.outcome,
        latest=attempt_view(latest),
    )


TAG = "deliveries"
ROUTES = [
    Route(
        method="GET",
        path="/v1/subscriptions/{id}/attempts",
        handler=list_attempts,
        summary="Attempts of a subscription, newest first",
        tag=TAG,
        scope="deliveries:read",
        query=PastQuery,
        answers={200: Answer(type=AttemptsPage, description="A page")},
    ),
    Route(
        method="GET",
        path="/v1/subscriptions/{id}/deliveries",
        handler=list_deliveries,
        summary="Deliveries of a subscription with their latest attempt, newest first",
        tag=TAG,
        scope="deliveries:read",
        query=PastQuery,
        answers={200: Answer(type=DeliveriesPage, description="A page")},
    ),
    Route(
        method="GET",
        path="/v1/deliveries/{id}",
        handler=get_delivery,
        summary="One delivery and its attempts",
        tag=TAG,
        scope="deliveries:read",
        params={"id": DELIVERY_ID_PATTERN},
        query=DeliveryQuery,
        answers={200: Answer(type=DeliveryHistory, description="What became of it so far")},
    ),
]
