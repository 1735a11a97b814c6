"""Replays: /v1/replays.

How one is ordered and changed is in `connectors/replay_desk.py`; a worker with the role replay does it. A tenant's key
replays what is that tenant's, to its subscriptions.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta

from connectors.api.control import Control
from connectors.api.cursors import LIMIT_MAX, cursor, position
from connectors.api.principal import acts_for
from connectors.api.problems import ProblemError, invalid, not_found
from connectors.api.replay_documents import NewReplay, ReplayChange, ReplayView, replay_view
from connectors.api.routes import Answer, Call, Header, Reply, Route
from connectors.api.subscriptions import Listing
from connectors.replay_desk import ReplayConflictError, ReplayDesk, UnknownReplayError, new_order
from schemas.audit import Asked
from schemas.replay import InvalidReplayError, Replay, Source, State

T = TypeVar("T")

TAG = "replays"


class ReplayQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a list is narrowed to."""

    tenant: Annotated[str | None, Meta(description="Of this tenant only; of an operator's key")] = None
    source: Annotated[Source | None, Meta(description="From this source only")] = None
    state: Annotated[State | None, Meta(description="Those in this state")] = None
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX, description="At most so many on a page")] = 100
    cursor: Annotated[str | None, Meta(description="Where the page begins: `next` of the page before")] = None


class ReplayPage(msgspec.Struct, kw_only=True):
    """A page, the newest first; `next` is the cursor of the next one, null on the last."""

    items: list[ReplayView]
    next: str | None


async def create_replay(call: Call) -> Reply:
    """It is ordered; a worker takes it up."""
    body: NewReplay = call.body
    desk, asked = call.get(ReplayDesk), call.get(Control).asked(call)
    tenant = acts_for(call.principal, body.tenant)
    check_subscriptions(call, tenant, body.subscriptions)
    order = await done(_created(desk, asked, body, tenant))
    return Reply(replay_view(order, None, asked.at_ms), 201, {"Location": f"/v1/replays/{order.id}"})


async def _created(desk: ReplayDesk, asked: Asked, body: NewReplay, tenant: str | None) -> Replay:
    order = new_order(
        asked,
        desk.new_id(),
        body.selection(tenant),
        why=body.why,
        rate_max=body.rate_max,
        wanted="planned" if body.plan else "running",
        again=body.again,
    )
    return await desk.create(asked, order)


async def list_replays(call: Call) -> Reply:
    """A page of them."""
    query: ReplayQuery = call.query
    desk, now_ms = call.get(ReplayDesk), call.get(Control).now_ms()
    last: Any = position(query.cursor, tuple[int, str])
    found = [
        view
        for order, progress in desk.every(acts_for(call.principal, query.tenant))
        if (last is None or (order.created_ms, order.id) < tuple(last))
        and query.source in (None, order.selection.source)
        and (view := replay_view(order, progress, now_ms)).state == (query.state or view.state)
    ]
    page = found[: query.limit]
    following = cursor(page[-1].created_ms, page[-1].id) if len(found) > query.limit else None
    return Reply(ReplayPage(items=page, next=following))


async def get_replay(call: Call) -> Reply:
    """One of them, and how far it is."""
    asked = call.get(Control).asked(call)
    try:
        found = call.get(ReplayDesk).find(asked, call.params["id"])
    except UnknownReplayError as error:
        raise _unknown(error) from None
    return Reply(replay_view(*found, asked.at_ms))


async def change_replay(call: Call) -> Reply:
    """Started, paused, resumed, cancelled, or at another rate; a worker does so within a second or two."""
    body: ReplayChange = call.body
    asked = call.get(Control).asked(call)
    desk = call.get(ReplayDesk)
    wish, rate_max = body.wanted or None, None if body.rate_max is UNSET else body.rate_max
    order = await done(desk.change(asked, call.params["id"], wish, rate_max))
    return Reply(replay_view(*desk.find(asked, order.id), asked.at_ms))


async def done(change: Awaitable[T]) -> T:
    """What the change returns; its refusals as problems."""
    try:
        return await change
    except InvalidReplayError as error:
        field = str(error).partition(":")[0]
        raise invalid(str(error), f"/{field}" if field in NewReplay.__struct_fields__ else "") from None
    except UnknownReplayError as error:
        raise _unknown(error) from None
    except ReplayConflictError as error:
        raise ProblemError(409, str(error)) from None


def check_subscriptions(call: Call, tenant: str | None, ids: tuple[str, ...]) -> None:
    """Those that are named are there, and that tenant's. ProblemError 422."""
    for index, id_ in enumerate(ids):
        subscription = call.get(Listing).subscriptions.get(id_)
        if subscription is None or tenant not in (None, subscription.tenant):
            raise invalid(f"subscriptions: there is no subscription {id_}", f"/subscriptions/{index}")


def _unknown(error: UnknownReplayError) -> ProblemError:
    return not_found(str(error).removeprefix("there is no "))


_ONE = Answer(type=ReplayView, description="The replay")
ROUTES = [
    Route(
        method="POST",
        path="/v1/replays",
        handler=create_replay,
        summary="Send again what was sent before, or plan it",
        description="The same twice is refused (409) unless `again` says that it is meant.",
        tag=TAG,
        scope="replays:write",
        body=NewReplay,
        answers={
            201: Answer(type=ReplayView, description="It is ordered", headers=(Header("Location", "Where it is"),))
        },
        problems=(409,),
    ),
    Route(
        method="GET",
        path="/v1/replays",
        handler=list_replays,
        summary="List replays, the newest first",
        tag=TAG,
        scope="replays:read",
        query=ReplayQuery,
        answers={200: Answer(type=ReplayPage, description="A page")},
    ),
    Route(
        method="GET",
        path="/v1/replays/{id}",
        handler=get_replay,
        summary="One replay, and how far it is",
        tag=TAG,
        scope="replays:read",
        answers={200: _ONE},
    ),
    Route(
        method="PATCH",
        path="/v1/replays/{id}",
        handler=change_replay,
        summary="Start a planned replay; pause, resume or cancel one, or change its rate",
        tag=TAG,
        scope="replays:write",
        body=ReplayChange,
        answers={200: _ONE},
        problems=(409,),
    ),
]
