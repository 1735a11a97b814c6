"""Dead letters: /v1/dead-letters. Looked at, counted and exported.

Reads are bounded: a page may hold few or no items and still have a `next`. This file changes nothing
(`dead_actions.py` does).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from connectors.admin import ClusterError
from connectors.api.cursors import cursor_positions, positions_cursor
from connectors.api.deliveries import Moment, to_ms
from connectors.api.limits import Places
from connectors.api.principal import acts_for
from connectors.api.problems import Fault, ProblemError, not_found
from connectors.api.routes import Answer, Call, Reply, Route
from connectors.dead_documents import (
    PAYLOAD_BYTES_MAX,
    DeadDocument,
    DeadView,
    Judge,
    SubscriptionCount,
    Tally,
    dead_document,
    dead_view,
    parse_id,
    wanted,
    within,
)
from connectors.dead_letters import DeadLetters
from schemas.dead_letter import DeadState, Filed
from schemas.replay import (
    ERROR_CLASSES,
    WORDS_MAX,
    InvalidReplayError,
    Place,
    Selection,
    checked_selection,
)

TAG = "dead-letters"
LIMIT_MAX = 200
#: Named one by one in a request: of dead letters each is looked up, and a URL must hold what they are sought by.
IDS_MAX = 100
#: Counting and exporting at the same time, each with a consumer; and of one caller.
STREAMS_MAX, STREAMS_OF_CALLER_MAX = 4, 2
#: Who does not take a part of an export for so long is let go.
WRITE_SECONDS, PART_BYTES = 30.0, 64 << 10
COUNT_SECONDS = 5.0
NDJSON = "application/x-ndjson"
ID = re.compile(r"[0-9]{1,9}-[0-9]{1,18}")


class Dead:
    """A service: where they are, and what is known of them besides. `monotonic` are seconds that never go back."""

    def __init__(
        self,
        letters: DeadLetters,
        judge: Judge,
        monotonic: Callable[[], float],
        *,
        write_seconds: float = WRITE_SECONDS,
    ) -> None:
        self.letters = letters
        self.judge = judge
        self.monotonic = monotonic
        self.write_seconds = write_seconds
        self.stopping = False
        #: For reading them all.
        self.places = Places(STREAMS_MAX, STREAMS_OF_CALLER_MAX, "as many read all dead letters as may; try again")

    async def stop(self, _: web.Application) -> None:
        """End all exports, soon."""
        self.stopping = True


class DeadFilter(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which: all that is given must fit. Times are RFC 3339, of the dead letter's record."""

    tenant: Annotated[str | None, Meta(description="Of this tenant only; of an operator's key")] = None
    subscription: Annotated[
        tuple[str, ...], Meta(max_length=IDS_MAX, description="Of these subscriptions; repeat it for several")
    ] = ()
    event_type: Annotated[
        tuple[str, ...], Meta(max_length=IDS_MAX, description="Of these types: order.created, order.*, *")
    ] = ()
    event: Annotated[tuple[str, ...], Meta(max_length=IDS_MAX, description="Of the events with these ids")] = ()
    reason: Annotated[
        tuple[str, ...], Meta(max_length=WORDS_MAX, description="Given up for these reasons, such as exhausted")
    ] = ()
    error_class: Annotated[
        tuple[str, ...],
        Meta(max_length=WORDS_MAX, description=f"By the last attempt: {', '.join(sorted(ERROR_CLASSES))}"),
    ] = ()
    since: Annotated[Moment, Meta(description="Not before this time")] = None
    until: Annotated[Moment, Meta(description="Before this time")] = None

    def selection(self, tenant: str | None, places: tuple[Place, ...] = (), *, replayed: bool = False) -> Selection:
        """For this tenant, None for all. InvalidReplayError."""
        return checked_selection(
            Selection(
                source="dead",
                tenant=tenant,
                subscriptions=self.subscription,
                event_types=self.event_type,
                event_ids=self.event,
                reasons=self.reason,
                error_classes=self.error_class,
                since_ms=to_ms(self.since),
                until_ms=to_ms(self.until),
                places=places,
                replayed=replayed,
            )
        )


class ExportQuery(DeadFilter, kw_only=True):
    """Which."""

    state: Annotated[DeadState | None, Meta(description="Those in this state")] = None


class SummaryQuery(ExportQuery, kw_only=True):
    """Which, and where to go on counting."""

    cursor: Annotated[str | None, Meta(description="Where to go on: `next` of the part before")] = None


class ListQuery(SummaryQuery, kw_only=True):
    """Which."""

    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX, description="At most so many on a page")] = 50


class DeadPage(msgspec.Struct, kw_only=True):
    """The newest first. `next` is the cursor of what is older, null for nothing; `partial`: looking took too long, and
    `next` goes on with it. `unreadable` records among those that were looked at are no dead letters."""

    items: list[DeadView]
    next: str | None
    partial: bool
    unreadable: int


class DeadSummary(msgspec.Struct, kw_only=True):
    """Counts. Where `next` is not null, there was more than could be read in one request: ask on with it, and add up.
    `read` of `total` records were read by this request. Of subscriptions, the hundred with the most."""

    count: int
    payload_bytes: int
    states: dict[str, int]
    reasons: dict[str, int]
    error_classes: dict[str, int]
    subscriptions: list[SubscriptionCount]
    oldest_ms: int
    newest_ms: int
    read: int
    total: int
    unreadable: int
    next: str | None


# --- looking ----------------------------------------------------------------------------------------------------------


async def list_dead_letters(call: Call) -> Reply:
    """A page."""
    query: ListQuery = call.query
    dead = call.get(Dead)
    selection = _asked(call, query)
    wants = wanted(dead.judge, selection, query.state)

    def make(filed: Filed) -> DeadView | None:
        acts = wants(filed)
        return None if acts is None else dead_view(dead.judge, filed, acts)

    with reading():
        page = await dead.letters.page(
            make, within(selection), limit=query.limit, before=cursor_positions(query.cursor)
        )
    following = None if page.next is None else positions_cursor(page.next)
    return Reply(DeadPage(items=list(page.items), next=following, partial=page.partial, unreadable=page.unreadable))


async def summary(call: Call) -> Reply:
    """Counts, for at most a few seconds."""
    query: SummaryQuery = call.query
    dead, tally = call.get(Dead), Tally()
    selection = _asked(call, query)
    wants = wanted(dead.judge, selection, query.state)
    start = cursor_positions(query.cursor)
    deadline = dead.monotonic() + COUNT_SECONDS

    def make(filed: Filed) -> DeadView | None:
        acts = wants(filed)
        if acts is not None:
            tally.add(dead.judge, filed, acts)
        return None

    read = total = unreadable = 0
    following = None
    with reading(), dead.places.place(call.principal.caller):
        async with aclosing(dead.letters.stream(make, within(selection), start=start)) as batches:
            async for batch in batches:
                read, total, unreadable = batch.read, batch.total, batch.unreadable
                if read < total and dead.monotonic() > deadline:
                    following = positions_cursor(batch.positions)
                    break
    return Reply(
        DeadSummary(
            count=tally.count,
            payload_bytes=tally.payload_bytes,
            states=tally.states,
            reasons=tally.reasons,
            error_classes=tally.error_classes,
            subscriptions=tally.subscriptions(),
            oldest_ms=tally.oldest_ms,
            newest_ms=tally.newest_ms,
            read=read,
            total=total,
            unreadable=unreadable,
            next=following,
        )
    )


async def get_dead_letter(call: Call) -> Reply:
    """One, with every attempt."""
    dead = call.get(Dead)
    (filed,) = await named(call, (call.params["id"],), None)
    return Reply(dead_document(dead.judge, filed, dead.judge.acts()(filed), bytes_max=PAYLOAD_BYTES_MAX))


async def export(call: Call) -> web.StreamResponse:
    """All that fit, a line each, in the order of each partition."""
    query: ExportQuery = call.query
    dead = call.get(Dead)
    selection = _asked(call, query)
    wants = wanted(dead.judge, selection, query.state)

    def make(filed: Filed) -> bytes | None:
        acts = wants(filed)
        return None if acts is None else msgspec.json.encode(dead_document(dead.judge, filed, acts)) + b"\n"

    with reading(), dead.places.place(call.principal.caller):
        async with aclosing(dead.letters.stream(make, within(selection))) as batches:
            first = await anext(batches, None)  # whatever is wrong is said before the stream begins
            response = web.StreamResponse(headers={"Cache-Control": "no-store", "X-Request-Id": call.request_id})
            response.content_type = NDJSON
            await response.prepare(call.request)
            if call.request.method == "HEAD" or first is None:
                return response
            try:
                await _write(response, first.items, dead.write_seconds)
                async for batch in batches:
                    if dead.stopping:
                        raise ConnectionResetError
                    await _write(response, batch.items, dead.write_seconds)
            except (ConnectionError, TimeoutError, ClusterError):
                # A stream that does not end as it should is all that can be said now.
                if call.request.transport is not None:
                    call.request.transport.abort()
    return response


async def _write(response: web.StreamResponse, lines: Sequence[bytes], part_seconds: float) -> None:
    """TimeoutError when a part is not taken in time: whoever asked has a place that others wait for."""
    content = b"".join(lines)
    for start in range(0, len(content), PART_BYTES):
        async with asyncio.timeout(part_seconds):
            await response.write(content[start : start + PART_BYTES])


async def named(call: Call, ids: tuple[str, ...], tenant: str | None) -> list[Filed]:
    """Those with these ids. ProblemError 404 for one that is not there, or another tenant's."""
    places = {id_: parse_id(id_) for id_ in ids}
    with reading():
        found = await call.get(Dead).letters.get([(each.partition, each.offset) for each in places.values()])
    letters = []
    for id_, place in places.items():
        filed = found.get((place.partition, place.offset))
        whose = None if filed is None else filed.letter.facts.tenant
        if filed is None or not call.principal.sees(whose) or tenant not in (None, whose):
            raise not_found(f"dead letter {id_}, or no longer")
        letters.append(filed)
    return letters


def _asked(call: Call, query: DeadFilter) -> Selection:
    """What the query selects. ProblemError 400, 403."""
    try:
        return query.selection(acts_for(call.principal, query.tenant))
    except InvalidReplayError as error:
        raise ProblemError(400, f"the query is not understood: {error}", errors=[fault(error, "?")]) from None


_FIELDS = {"subscriptions": "subscription", "event_types": "event_type", "event_ids": "event", "reasons": "reason"}
_FIELDS |= {"error_classes": "error_class", "until_ms": "until"}


def fault(error: Exception, before: str) -> Fault:
    """What is wrong with a selection, at the field of the request that says it."""
    field = str(error).partition(":")[0]
    return Fault(before + _FIELDS.get(field, field), str(error))


@contextmanager
def reading() -> Iterator[None]:
    """ProblemError 503 while Kafka does not answer."""
    try:
        yield
    except ClusterError as error:
        raise ProblemError(503, str(error), headers={"Retry-After": "1"}) from None


_PAGED = Answer(type=DeadPage, description="A page")
ROUTES = [
    Route(
        method="GET",
        path="/v1/dead-letters",
        handler=list_dead_letters,
        summary="Dead letters, newest first",
        tag=TAG,
        scope="deliveries:read",
        query=ListQuery,
        answers={200: _PAGED},
    ),
    Route(
        method="GET",
        path="/v1/dead-letters/summary",
        handler=summary,
        summary="Dead letters, counted",
        tag=TAG,
        scope="deliveries:read",
        query=SummaryQuery,
        answers={200: Answer(type=DeadSummary, description="Counts")},
    ),
    Route(
        method="GET",
        path="/v1/dead-letters/export",
        handler=export,
        summary="Dead letters with all their payloads, a line of JSON each",
        description="An answer that ends early was not complete.",
        tag=TAG,
        scope="deliveries:read",
        query=ExportQuery,
        answers={200: Answer(type=str, media=NDJSON, description="A line each, as the route of one answers")},
        streams=True,
    ),
    Route(
        method="GET",
        path="/v1/dead-letters/{id}",
        handler=get_dead_letter,
        summary="One dead letter, its payload and every attempt",
        tag=TAG,
        scope="deliveries:read",
        params={"id": ID},
        answers={200: Answer(type=DeadDocument, description="All that is known of it")},
    ),
]
