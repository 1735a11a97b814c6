"""Quarantined records: /v1/quarantine. Looked at, resent and discarded, by operators: they are nobody's yet.

What is resent, and what would become of a record now, is not this file's matter: the composition root gives it as a
`Store` (`streams/quarantine_service.py`). Values that may hold a subscription's secrets are not shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta

from connectors.api.control import Control
from connectors.api.cursors import cursor_positions, positions_cursor
from connectors.api.deliveries import Moment, to_ms
from connectors.api.problems import ProblemError, invalid
from connectors.api.routes import Answer, Call, Reply, Route
from schemas.audit import Asked
from schemas.replay import WHY_CHARACTERS_MAX

TAG = "quarantine"
LIMIT_MAX = 200
IDS_MAX = 100
#: Of those that were not resent, so many are named.
SKIPPED_MAX = 100
ID = re.compile(r"[0-9]{1,9}-[0-9]{1,18}")

State = Literal["open", "resent", "discarded"]
#: Partition and offset.
At = tuple[int, int]


class DiscardView(msgspec.Struct, kw_only=True):
    """Who discarded it, and why."""

    at_ms: int
    by: str
    why: str


class QuarantinedView(msgspec.Struct, kw_only=True):
    """A quarantined record in short.

    `source` is where it stood, null when it does not say so; `original` where it stood before it was resent for the
    first time.
    """

    id: str
    time_ms: int
    state: State
    reason: str
    detail: str
    key: str | None
    source: str | None
    original: str | None
    size_bytes: int
    discarded: DiscardView | None


class QuarantinedDocument(QuarantinedView, kw_only=True):
    """All about it: its value decoded as far as possible, what the registry says of its schema, and what would become
    of it now."""

    content: dict[str, Any]


class QuarantinePage(msgspec.Struct, kw_only=True):
    """The newest first. `next` is the cursor of what is older, null for nothing; `partial`: looking took too long, and
    goes on there."""

    items: list[QuarantinedView]
    next: str | None
    partial: bool


class Skipped(msgspec.Struct, kw_only=True):
    """One that was not resent, and why not."""

    id: str
    reason: str
    detail: str


class Resent(msgspec.Struct, kw_only=True):
    """How many were resent, or would be; of those that were not, the first hundred."""

    resent: int
    skipped: int
    examples: list[Skipped]


class Discarded(msgspec.Struct, kw_only=True):
    """How many were discarded."""

    discarded: int


class Narrowed(msgspec.Struct, frozen=True):
    """Which records: these, or all that fit. None does not restrict."""

    places: tuple[At, ...] = ()
    reason: str | None = None
    topic: str | None = None
    partition: int | None = None
    since_ms: int | None = None
    until_ms: int | None = None


class Store(Protocol):
    """The records, and what is done about them. ProblemError for what cannot be done."""

    async def newest(
        self, which: Narrowed, state: State | None, limit: int, before: Mapping[int, int] | None
    ) -> tuple[list[QuarantinedView], Mapping[int, int] | None, bool]:
        """At most `limit`, of what stands below `before` (by partition; None: all there is now); below what to go on,
        None when nothing is left; whether it ended because of its bounds, not because it was full."""

    async def get(self, place: At) -> QuarantinedDocument: ...

    async def resend(self, which: Narrowed, asked: Asked, *, again: bool, force: bool, dry_run: bool) -> Resent: ...

    async def discard(self, which: Narrowed, asked: Asked, why: str) -> int: ...


class Quarantine:
    """A service."""

    def __init__(self, store: Store) -> None:
        self.store = store


class Filters(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which: all that is given must fit. Times are RFC 3339."""

    reason: Annotated[Annotated[str, Meta(max_length=64)] | None, Meta(description="Put aside for this reason")] = None
    topic: Annotated[Annotated[str, Meta(max_length=249)] | None, Meta(description="From this topic, as events")] = None
    partition: Annotated[
        Annotated[int, Meta(ge=0, le=1_000_000)] | None, Meta(description="From this partition of it")
    ] = None
    since: Annotated[Moment, Meta(description="Not before this time")] = None
    until: Annotated[Moment, Meta(description="Before this time")] = None

    def which(self, ids: tuple[str, ...] = ()) -> Narrowed:
        """These, or all that fit."""
        return Narrowed(
            places=tuple(_place(each) for each in ids),
            reason=self.reason,
            topic=self.topic,
            partition=self.partition,
            since_ms=to_ms(self.since),
            until_ms=to_ms(self.until),
        )


class QuarantineQuery(Filters, kw_only=True):
    """Which."""

    state: Annotated[State | None, Meta(description="Those in this state")] = None
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX, description="At most so many on a page")] = 50
    cursor: Annotated[str | None, Meta(description="Where the page begins: `next` of the page before")] = None


class Chosen(Filters, kw_only=True):
    """Which: `ids`, or filters, or `all`."""

    ids: Annotated[
        tuple[Annotated[str, Meta(pattern=f"^{ID.pattern}$")], ...],
        Meta(max_length=IDS_MAX, description="Exactly these"),
    ] = ()
    all: Annotated[bool, Meta(description="All there are, when there is no filter")] = False

    def chosen(self) -> Narrowed:
        """ProblemError 422 when it is not said, or twice."""
        filters = any(getattr(self, name) is not None for name in Filters.__struct_fields__)
        if bool(self.ids) + filters + self.all != 1:
            raise invalid("say which: ids, or filters, or all", "/ids")
        return self.which(self.ids)


class Resend(Chosen, kw_only=True):
    """What to resend."""

    again: Annotated[bool, Meta(description="Also what was resent or discarded already")] = False
    force: Annotated[bool, Meta(description="Also what would come back")] = False
    dry_run: Annotated[bool, Meta(description="Only say what would be resent")] = False


class Discard(Chosen, kw_only=True):
    """What to discard, and why."""

    why: Annotated[str, Meta(min_length=1, max_length=WHY_CHARACTERS_MAX, description="For who looks for it later")]


async def list_quarantined(call: Call) -> Reply:
    """A page."""
    _operator(call)
    query: QuarantineQuery = call.query
    before = cursor_positions(query.cursor)
    items, following, partial = await call.get(Quarantine).store.newest(query.which(), query.state, query.limit, before)
    return Reply(
        QuarantinePage(items=items, next=None if following is None else positions_cursor(following), partial=partial)
    )


async def get_quarantined(call: Call) -> Reply:
    """One of them."""
    _operator(call)
    return Reply(await call.get(Quarantine).store.get(_place(call.params["id"])))


async def resend(call: Call) -> Reply:
    """To where they came from."""
    _operator(call)
    body: Resend = call.body
    asked = call.get(Control).asked(call)
    store = call.get(Quarantine).store
    return Reply(await store.resend(body.chosen(), asked, again=body.again, force=body.force, dry_run=body.dry_run))


async def discard(call: Call) -> Reply:
    """With markers that say who and why."""
    _operator(call)
    body: Discard = call.body
    asked = call.get(Control).asked(call)
    return Reply(Discarded(discarded=await call.get(Quarantine).store.discard(body.chosen(), asked, body.why)))


def _operator(call: Call) -> None:
    if call.principal.tenant is not None:
        raise ProblemError(403, "what is in quarantine is nobody's yet; an operator's key sees it")


def _place(id_: str) -> At:
    partition, _, offset = id_.partition("-")
    return int(partition), int(offset)


ROUTES = [
    Route(
        method="GET",
        path="/v1/quarantine",
        handler=list_quarantined,
        summary="Quarantined records, newest first; for operators",
        tag=TAG,
        scope="deliveries:read",
        query=QuarantineQuery,
        answers={200: Answer(type=QuarantinePage, description="A page")},
    ),
    Route(
        method="POST",
        path="/v1/quarantine/resend",
        handler=resend,
        summary="Write quarantined records to where they came from; for operators",
        description="Only what would be accepted now is resent, unless `force` says otherwise.",
        tag=TAG,
        scope="deliveries:write",
        body=Resend,
        answers={200: Answer(type=Resent, description="What was resent, and what was not")},
        problems=(404, 409),
    ),
    Route(
        method="POST",
        path="/v1/quarantine/discard",
        handler=discard,
        summary="Discard quarantined records, with who and why; for operators",
        description="They stay where they are, and can still be resent.",
        tag=TAG,
        scope="deliveries:write",
        body=Discard,
        answers={200: Answer(type=Discarded, description="They are marked")},
        problems=(404, 409),
    ),
    Route(
        method="GET",
        path="/v1/quarantine/{id}",
        handler=get_quarantined,
        summary="One quarantined record, and what would become of it now; for operators",
        tag=TAG,
        scope="deliveries:read",
        params={"id": ID},
        answers={200: Answer(type=QuarantinedDocument, description="All that is known of it")},
    ),
]
