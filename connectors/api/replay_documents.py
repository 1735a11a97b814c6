"""Replays as the API and the command line show them, and as they are asked for.

This file orders nothing (`connectors/replay_desk.py`). Pure.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from connectors.api.deliveries import Moment, to_ms
from schemas.replay import (
    ENDED,
    EVENT_IDS_MAX,
    RATE_DEFAULT,
    RATE_MAX,
    SUBSCRIPTIONS_MAX,
    WHY_CHARACTERS_MAX,
    WORDS_MAX,
    Place,
    Progress,
    Replay,
    Selection,
    Source,
    State,
    Wanted,
)
from schemas.subscription import EVENT_TYPES_MAX, ID_PATTERN, TENANT_PATTERN

Id = Annotated[str, Meta(pattern=f"^{ID_PATTERN.pattern}$")]

#: A worker that is there takes an order up sooner.
ANSWER_MS = 15_000


class NewReplay(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is to be sent again, and how fast. All that is given must fit. Times are RFC 3339."""

    source: Annotated[
        Source, Meta(description="events: matched again; deliveries: as they were matched; dead: dead letters")
    ] = "events"
    tenant: Annotated[str, Meta(pattern=f"^{TENANT_PATTERN.pattern}$")] | None = None
    subscriptions: Annotated[
        tuple[Id, ...], Meta(max_length=SUBSCRIPTIONS_MAX, description="For these subscriptions only")
    ] = ()
    event_types: Annotated[
        tuple[str, ...], Meta(max_length=EVENT_TYPES_MAX, description="Of these types only: order.created, order.*")
    ] = ()
    event_ids: Annotated[tuple[str, ...], Meta(max_length=EVENT_IDS_MAX, description="Of these events only")] = ()
    since: Annotated[Moment, Meta(description="What came to Kafka then or later")] = None
    until: Annotated[Moment, Meta(description="What came to Kafka before")] = None
    reasons: Annotated[
        tuple[str, ...], Meta(max_length=WORDS_MAX, description="dead only: why they were given up")
    ] = ()
    error_classes: Annotated[
        tuple[str, ...],
        Meta(max_length=WORDS_MAX, description="dead only: how the last attempt failed, as 5xx or timeout"),
    ] = ()
    replayed: Annotated[bool, Meta(description="Also what a replay has sent before")] = False
    rate_max: Annotated[float, Meta(ge=0, le=RATE_MAX, description="Deliveries a second; 0 for no limit")] = (
        RATE_DEFAULT
    )
    why: Annotated[str, Meta(max_length=WHY_CHARACTERS_MAX, description="For people, and the audit trail")] = ""
    plan: Annotated[bool, Meta(description="Only count what would be sent; start it later, or never")] = False
    again: Annotated[bool, Meta(description="Although a replay of the same exists")] = False

    def selection(self, tenant: str | None) -> Selection:
        """What it selects, for this tenant. InvalidReplayError."""
        return Selection(
            source=self.source,
            tenant=tenant,
            subscriptions=self.subscriptions,
            event_types=self.event_types,
            event_ids=self.event_ids,
            since_ms=to_ms(self.since),
            until_ms=to_ms(self.until),
            reasons=self.reasons,
            error_classes=self.error_classes,
            replayed=self.replayed,
        )


class ReplayChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is wanted of it from now on; what is not sent stays as it is."""

    wanted: Literal["running", "paused", "cancelled"] | UnsetType = UNSET
    rate_max: Annotated[float, Meta(ge=0, le=RATE_MAX)] | UnsetType = UNSET


class ReplayView(msgspec.Struct, kw_only=True):
    """A replay and how far it is. Times are milliseconds since the epoch, 0 for none.

    `percent` is of what is to be read: of the count while that goes on, of the run then. `counted` and `counted_bytes`
    are what it sends in all, null until all is counted. `seconds_left` is an estimate at `rate_max`, and `ends_ms` when
    that is; null and 0 where nobody knows. `skipped` was selected and is not sent: it has no subscription now, or a
    replay has sent it.
    """

    id: str
    tenant: str | None
    created_ms: int
    by: str
    why: str
    selection: Selection
    starts: tuple[Place, ...]
    rate_max: float
    again: bool
    wanted: Wanted
    state: State
    detail: str
    percent: float
    read: int
    counted: int | None
    counted_bytes: int | None
    sent: int
    skipped: int
    seconds_left: int | None
    ends_ms: int
    started_ms: int
    updated_ms: int
    finished_ms: int


def replay_view(order: Replay, progress: Progress | None, now_ms: int) -> ReplayView:
    """As it is shown; without progress, no worker has looked at it yet."""
    now = progress or Progress(id=order.id, state="cancelled" if order.wanted == "cancelled" else "waiting")
    counted = now.counted if now.sent or now.state in ("planned", "running", "paused", "done") else None
    seconds = None
    if counted is not None and order.rate_max and now.state not in ENDED:
        seconds = math.ceil(max(0, counted - now.sent) / order.rate_max)
    detail = now.detail
    if progress is not None and not detail and now.state == "waiting":
        detail = "until all workers know its subscription, and something may be sent to it"
    if progress is None and not detail and now.state == "waiting" and now_ms - order.created_ms > ANSWER_MS:
        detail = "no worker with the role replay has looked at it yet"
    return ReplayView(
        id=order.id,
        tenant=order.selection.tenant,
        created_ms=order.created_ms,
        by=order.by,
        why=order.why,
        selection=order.selection,
        starts=order.starts,
        rate_max=order.rate_max,
        again=order.again,
        wanted=order.wanted,
        state=now.state,
        detail=detail,
        percent=_percent(now),
        read=now.read,
        counted=counted,
        counted_bytes=None if counted is None else now.counted_bytes,
        sent=now.sent,
        skipped=now.skipped,
        seconds_left=seconds,
        ends_ms=now_ms + seconds * 1000 if seconds is not None and now.state == "running" else 0,
        started_ms=now.started_ms,
        updated_ms=now.updated_ms,
        finished_ms=now.finished_ms,
    )


def _percent(progress: Progress) -> float:
    """To a tenth. Until the run begins, the positions are those of the count, which ends where the spans do."""
    if progress.state == "done":
        return 100.0
    whole = sum(span.end - span.start for span in progress.spans)
    read = sum(span.position - span.start for span in progress.spans)
    if not whole or (progress.state in ("planned", "paused") and read == whole):
        return 0.0
    return math.floor(1000 * read / whole) / 10
