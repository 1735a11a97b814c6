"""Dead letters retried and discarded: POST /v1/dead-letters/retry and /discard.

Retrying is a replay from the dead letters (`connectors/replay_desk.py`), discarding a mark
(`connectors/dead_marks.py`). Nothing is deleted by either, and both say who and why.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from connectors.api.control import Control
from connectors.api.dead_letters import COUNT_SECONDS, ID, TAG, Dead, DeadFilter, fault, named, reading
from connectors.api.principal import acts_for
from connectors.api.problems import ProblemError, invalid
from connectors.api.replay_documents import ReplayView, replay_view
from connectors.api.replays import done
from connectors.api.routes import Answer, Call, Header, Reply, Route
from connectors.api.subscriptions import Listing
from connectors.dead_choice import ChoiceError, choose, to_send
from connectors.dead_documents import MarkView, dead_id, mark_view
from connectors.dead_marks import DeadDesk, TooManyMarksError
from connectors.replay_desk import ReplayDesk, new_order
from schemas.dead_letter import Filed, closing
from schemas.dead_mark import InvalidMarkError
from schemas.replay import RATE_DEFAULT, RATE_MAX, WHY_CHARACTERS_MAX, InvalidReplayError, Place, Selection
from schemas.subscription import TENANT_PATTERN

#: Named one by one in a request; each is looked up.
IDS_MAX = 100


class Chosen(DeadFilter, kw_only=True):
    """Which: `ids`, or filters, or `all`."""

    ids: Annotated[
        tuple[Annotated[str, Meta(pattern=f"^{ID.pattern}$")], ...],
        Meta(max_length=IDS_MAX, description="Exactly these"),
    ] = ()
    all: Annotated[bool, Meta(description="All there are, when there is no filter")] = False
    tenant: Annotated[str, Meta(pattern=f"^{TENANT_PATTERN.pattern}$")] | None = None


class Retry(Chosen, kw_only=True):
    """What to send again, and how fast."""

    rate_max: Annotated[float, Meta(ge=0, le=RATE_MAX, description="Deliveries a second; 0 for no limit")] = (
        RATE_DEFAULT
    )
    why: Annotated[str, Meta(max_length=WHY_CHARACTERS_MAX, description="For people, and the audit trail")] = ""
    replayed: Annotated[bool, Meta(description="Also what a replay had sent, and failed again")] = False
    plan: Annotated[bool, Meta(description="Only count what would be sent; start it later, or never")] = False
    again: Annotated[bool, Meta(description="Although it was retried or discarded already")] = False


class Discard(Chosen, kw_only=True):
    """What to discard, and why."""

    why: Annotated[str, Meta(min_length=1, max_length=WHY_CHARACTERS_MAX, description="For who looks for it later")]


async def retry(call: Call) -> Reply:
    """As a replay."""
    body: Retry = call.body
    desk, asked, dead = call.get(ReplayDesk), call.get(Control).asked(call), call.get(Dead)
    tenant, letters = await _chosen(call, body)
    if letters:
        acts = dead.judge.acts()
        for filed in letters:
            act = closing(acts(filed))
            if act is not None and not body.again:
                raise ProblemError(409, f"{dead_id(filed)} was {act.state} already, by {act.id}; say again to retry it")
            name, found = filed.letter.delivery.subscription_id, call.get(Listing).subscriptions
            if (there := found.get(name)) is None or there.tenant != filed.letter.facts.tenant:
                raise ProblemError(409, f"{dead_id(filed)} cannot be sent: its subscription {name} is gone")
        # They are named, so they are meant, also where a replay had sent them.
        selection = _selection(body, tenant, letters, replayed=True)
    else:
        selection = await _open(call, _selection(body, tenant, [], replayed=body.replayed), body.again)
    order = new_order(
        asked,
        desk.new_id(),
        selection,
        why=body.why,
        rate_max=body.rate_max,
        wanted="planned" if body.plan else "running",
        again=body.again,
    )
    await done(desk.create(asked, order))
    return Reply(replay_view(order, None, asked.at_ms), 201, {"Location": f"/v1/replays/{order.id}"})


async def _open(call: Call, selection: Selection, again: bool) -> Selection:
    """Of those that fit, what is open. ProblemError."""
    dead = call.get(Dead)
    deadline = dead.monotonic() + COUNT_SECONDS
    with reading(), dead.places.place(call.principal.caller):
        choice = await choose(dead.letters, dead.judge, selection, None, lambda *_: dead.monotonic() < deadline)
    try:
        return to_send(selection, choice, again=again)
    except ChoiceError as error:
        raise ProblemError(409, str(error)) from None


async def discard(call: Call) -> Reply:
    """With a mark."""
    body: Discard = call.body
    tenant, letters = await _chosen(call, body)
    selection = _selection(body, tenant, letters)
    with reading():
        ends = await call.get(Dead).letters.ends()
    try:
        mark = await call.get(DeadDesk).discard(call.get(Control).asked(call), selection, body.why, ends)
    except InvalidMarkError as error:
        raise _wrong(error) from None
    except TooManyMarksError as error:
        raise ProblemError(409, str(error)) from None
    return Reply(mark_view(mark), 201)


async def _chosen(call: Call, body: Chosen) -> tuple[str | None, list[Filed]]:
    """The tenant, and those that are named. ProblemError."""
    tenant = acts_for(call.principal, body.tenant)
    filters = any(getattr(body, name) for name in DeadFilter.__struct_fields__ if name != "tenant")
    ways = [bool(body.ids), filters or (body.tenant is not None and call.principal.tenant is None), body.all]
    if sum(ways) != 1:
        raise invalid("say which: ids, or filters, or all", "/ids")
    return tenant, await named(call, body.ids, tenant) if body.ids else []


def _selection(body: Chosen, tenant: str | None, letters: list[Filed], *, replayed: bool = False) -> Selection:
    places = tuple(Place(filed.partition, filed.offset) for filed in letters)
    try:
        return body.selection(tenant, places, replayed=replayed)
    except InvalidReplayError as error:
        raise _wrong(error) from None


def _wrong(error: Exception) -> ProblemError:
    return ProblemError(422, str(error), errors=[fault(error, "/")])


ROUTES = [
    Route(
        method="POST",
        path="/v1/dead-letters/retry",
        handler=retry,
        summary="Send dead letters again, with a replay",
        description="What was retried or discarded already is left out, and refused (409) where it is named, unless "
        "`again` says that it is meant. Each is sent by one replay only, also where two are ordered at once.",
        tag=TAG,
        scope="replays:write",
        body=Retry,
        answers={
            201: Answer(type=ReplayView, description="It is ordered", headers=(Header("Location", "Where it is"),))
        },
        problems=(404, 409),
    ),
    Route(
        method="POST",
        path="/v1/dead-letters/discard",
        handler=discard,
        summary="Discard dead letters, with a mark that says who and why",
        description="They stay where they are, and can still be retried.",
        tag=TAG,
        scope="deliveries:write",
        body=Discard,
        answers={201: Answer(type=MarkView, description="The mark")},
        problems=(404, 409),
    ),
]
