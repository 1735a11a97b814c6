"""Orders of replays on a pen in memory: what is refused before anything is written, and what is shown of one."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, cast

import msgspec
import pytest

from connectors import replay_desk
from connectors.api.replay_documents import ANSWER_MS, NewReplay, replay_view
from connectors.pen import Decide, Pen
from connectors.replay_desk import (
    ReplayConflictError,
    ReplayDesk,
    ReplayTopics,
    Rules,
    Since,
    UnknownReplayError,
    new_order,
    start_of,
    wrong_start,
)
from schemas.access import SCOPES, Principal
from schemas.audit import Asked, decode_audit
from schemas.codec import wire_header
from schemas.replay import InvalidReplayError, Place, Progress, Replay, Selection, Span, State, decode_replay
from schemas.subscription import Subscription
from schemas.topics import Topics
from streams.core.replay import doubled, may_want

TOPICS = Topics()


class Orders:
    def __init__(self) -> None:
        self.by_id: dict[str, Replay] = {}

    def get(self, id_: str) -> Replay | None:
        return self.by_id.get(id_)

    def __iter__(self) -> Iterator[Replay]:
        return iter(self.by_id.values())


class MemoryPen:
    """Writes into the table at once."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.actions: list[tuple[str, str, str | None]] = []

    async def change(self, decide: Decide, *, about: Hashable = None) -> None:
        for topic, key, value, _, _ in decide():
            if topic == TOPICS.audit:
                record = decode_audit(value)
                self.actions.append((record.action, record.resource_id, record.tenant))
            elif value is None:
                del self.orders.by_id[(key or b"").decode()]
            else:
                assert topic == TOPICS.replays
                self.orders.by_id[(key or b"").decode()] = decode_replay(value)


class Desk:
    """A desk, and what is behind it."""

    def __init__(self) -> None:
        self.orders = Orders()
        self.pen = MemoryPen(self.orders)
        self.progresses: dict[str, Progress] = {}
        self.count = 0
        topics = ReplayTopics(TOPICS.replays, wire_header(1), TOPICS.audit, wire_header(2))
        rules = Rules(doubled, may_want)
        self.desk = ReplayDesk(
            self.orders, self.progresses, cast(Pen, self.pen), topics, self.new_id, rules, tenant_rate_max=500.0
        )

    def new_id(self) -> str:
        self.count += 1
        return f"rpl_{self.count}"

    def is_now(self, replay_id: str, state: State, **fields: Any) -> None:
        self.progresses[replay_id] = Progress(id=replay_id, state=state, **fields)

    async def make(self, tenant: str | None = "acme", at_ms: int = 5, **fields: Any) -> Replay:
        order = {name: fields.pop(name) for name in ("wanted", "again", "rate_max", "why") if name in fields}
        selection = Selection(**({"source": "events", "tenant": tenant} | fields))
        who = asked(tenant, at_ms)
        return await self.desk.create(who, new_order(who, self.new_id(), selection, **order))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def asked(tenant: str | None = "acme", at_ms: int = 5) -> Asked:
    return Asked(principal=Principal(actor="key:k", tenant=tenant, scopes=frozenset(SCOPES)), at_ms=at_ms)


async def test_an_order_is_written_with_who_and_why(desk: Desk) -> None:
    order = await desk.make(subscriptions=("a",), why="it was down")
    assert desk.desk.find(asked(), order.id) == (order, None)
    assert (order.by, order.created_ms, order.wanted, order.rate_max, order.why) == (
        *("key:k", 5, "running", 100.0),
        "it was down",
    )
    for wish in ("paused", "running", "cancelled"):
        assert (await desk.desk.change(asked(), order.id, cast(Any, wish))).wanted == wish
    assert (await desk.desk.change(asked(), order.id, "cancelled")).wanted == "cancelled", "again: no change"
    assert [action for action, _, _ in desk.pen.actions] == ["created", "paused", "resumed", "cancelled"]
    assert {each[1:] for each in desk.pen.actions} == {(order.id, "acme")}


async def test_the_rate_is_changed_with_a_wish_or_without(desk: Desk) -> None:
    order = await desk.make()
    assert (await desk.desk.change(asked(), order.id, "paused", 5.0)).rate_max == 5.0
    assert (await desk.desk.change(asked(), order.id, None, 7.0)).wanted == "paused"
    await desk.desk.change(asked(), order.id)
    with pytest.raises(InvalidReplayError, match="rate_max"):
        await desk.desk.change(asked(), order.id, None, -1.0)
    assert [action for action, _, _ in desk.pen.actions] == ["created", "paused", "changed"]


async def test_a_tenant_asks_for_so_many_a_second_and_an_operator_for_more(desk: Desk) -> None:
    said = "^rate_max: ask for 500 deliveries a second at most; an operator may exceed it$"
    for rate in (0.0, 500.5):
        with pytest.raises(InvalidReplayError, match=said):
            await desk.make(rate_max=rate)
    order = await desk.make(rate_max=500.0)
    with pytest.raises(InvalidReplayError, match=said):
        await desk.desk.change(asked(), order.id, None, 501.0)
    assert (await desk.desk.change(asked(None), order.id, "paused", 0.0)).rate_max == 0
    assert (await desk.desk.change(asked(), order.id, "running")).rate_max == 0  # as the operator said
    await desk.make(None, rate_max=100_000.0)


async def test_a_plan_is_started(desk: Desk) -> None:
    order = await desk.make(wanted="planned")
    await desk.desk.change(asked(), order.id, "running")
    assert [action for action, _, _ in desk.pen.actions] == ["created", "started"]


async def test_others_replays_do_not_exist(desk: Desk) -> None:
    order = await desk.make()
    everybodys = await desk.make(None)
    for id_ in (order.id, everybodys.id, "rpl_none"):
        with pytest.raises(UnknownReplayError, match=f"there is no replay {id_}"):
            desk.desk.find(asked("rival"), id_)
        with pytest.raises(UnknownReplayError):
            await desk.desk.change(asked("rival"), id_, "cancelled")
    assert [each.id for each, _ in desk.desk.every("acme")] == [order.id]
    assert len(desk.desk.every()) == 2
    assert len(desk.pen.actions) == 2


async def test_the_same_is_not_sent_twice_unless_it_is_meant(desk: Desk) -> None:
    first = await desk.make(subscriptions=("a",), since_ms=1, until_ms=4)
    with pytest.raises(ReplayConflictError, match=f"the replay {first.id} sends some of the same"):
        await desk.make(subscriptions=("a",), since_ms=3, until_ms=9, wanted="planned")
    await desk.make(subscriptions=("a",), since_ms=4, until_ms=9)
    await desk.make(subscriptions=("b",), since_ms=3, until_ms=9)
    await desk.make(subscriptions=("a",), since_ms=1, until_ms=4, again=True)
    one, other = [await desk.make(event_types=("x",), wanted="planned") for _ in range(2)]
    await desk.desk.change(asked(), one.id, "running")
    with pytest.raises(ReplayConflictError, match=one.id):
        await desk.desk.change(asked(), other.id, "running")


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
async def test_what_has_ended_is_not_changed(desk: Desk, state: State) -> None:
    order = await desk.make()
    desk.is_now(order.id, state)
    for wish in ("running", "paused", "cancelled"):
        with pytest.raises(ReplayConflictError, match=f"the replay {order.id} is {state}; order another one"):
            await desk.desk.change(asked(), order.id, cast(Any, wish))
    assert desk.orders.by_id[order.id].wanted == "running"


async def test_one_that_is_being_cancelled_is_not_resumed(desk: Desk) -> None:
    order = await desk.make()
    await desk.desk.change(asked(), order.id, "cancelled")
    desk.is_now(order.id, "running")
    with pytest.raises(ReplayConflictError, match="is cancelled; order another one"):
        await desk.desk.change(asked(), order.id, "running")


async def test_a_tenant_has_so_many_under_way_and_no_more(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_desk, "OPEN_MAX", 2)
    first = await desk.make(event_ids=("1",))
    await desk.make(event_ids=("2",))
    with pytest.raises(ReplayConflictError, match="2 replays are under way already"):
        await desk.make(event_ids=("3",))
    with pytest.raises(ReplayConflictError, match="under way"):
        desk.desk.added(asked(), start_of(asked(), "rpl_s", SUBSCRIPTION, Since()))
    await desk.make("rival", event_ids=("3",))
    await desk.make(None, event_ids=("3",))
    desk.is_now(first.id, "done")
    await desk.make(event_ids=("3",))


async def test_the_oldest_that_ended_give_way(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_desk, "REPLAYS_MAX", 3)
    ids = [(await desk.make(event_ids=(str(n),), at_ms=n)).id for n in range(3)]
    desk.is_now(ids[1], "done")
    desk.is_now(ids[2], "done")
    last = await desk.make(event_ids=("9",), at_ms=9)
    assert sorted(desk.orders.by_id) == sorted([ids[0], ids[2], last.id]), "one that is under way stays"


SUBSCRIPTION = Subscription(id="a", tenant="acme", url="https://a.example/", event_types=("*",))


def test_a_subscription_starts_in_the_past() -> None:
    order = start_of(asked(), "rpl_s", SUBSCRIPTION, Since(3))
    assert order.selection == Selection(source="events", tenant="acme", subscriptions=("a",), since_ms=3)
    assert (order.wanted, order.why) == ("running", "the start of the subscription a")
    order = start_of(asked(), "rpl_s", SUBSCRIPTION, Since(starts=(Place(1, 7),)))
    assert (order.selection.since_ms, order.starts) == (None, (Place(1, 7),))


@pytest.mark.parametrize(
    ("starts", "said"),
    [
        ((Place(0, 0), Place(1, 20)), None),  # 0 is there no more; 20 is the next
        ((Place(2, 0),), "events has no partition 2, but 0 to 1"),
        ((Place(0, 5), Place(1, 21)), "partition 1 of events ends at 20, before 21; leave it out to start there now"),
    ],
)
def test_an_offset_to_start_at_is_one_that_was_or_is_next(starts: tuple[Place, ...], said: str | None) -> None:
    assert wrong_start("events", starts, [(0, 3, 10), (1, 0, 20)]) == said


def test_what_is_asked_for_over_http_becomes_a_selection() -> None:
    body = msgspec.json.decode(
        '{"source": "dead", "since": "1970-01-01T00:00:01Z", "until": "1970-01-01T02:00:02+02:00",'
        ' "reasons": ["exhausted"], "error_classes": ["5xx"]}',
        type=NewReplay,
    )
    assert body.selection("acme") == Selection(
        source="dead",
        tenant="acme",
        since_ms=1_000,
        until_ms=2_000,
        reasons=("exhausted",),
        error_classes=("5xx",),
    )
    assert (body.rate_max, body.plan, body.again) == (100.0, False, False)
    with pytest.raises(InvalidReplayError, match="since"):
        new_order(asked(), "rpl_1", Selection(source="events", since_ms=5, until_ms=5))


ORDER = Replay(id="rpl_1", created_ms=1_000, by="cli:me@here", selection=Selection(source="events"), wanted="running")


def progress(state: State, *positions: int, **fields: Any) -> Progress:
    spans = tuple(Span("events", n, 100, 200, 100 + position) for n, position in enumerate(positions))
    return Progress(id="rpl_1", state=state, spans=spans, **fields)


@pytest.mark.parametrize(
    ("now", "percent", "counted", "seconds_left", "ends_ms"),
    [
        (progress("waiting"), 0.0, None, None, 0),
        (progress("counting", 50, 0, counted=400), 25.0, None, None, 0),
        (progress("planned", 100, 100, counted=401), 0.0, 401, 5, 0),
        (progress("running", 0, 1, counted=400, sent=100), 0.5, 400, 3, 8_000),
        (progress("paused", 60, 0, counted=400, sent=100), 30.0, 400, 3, 0),
        (progress("paused", 100, 100, counted=400), 0.0, 400, 4, 0),
        (progress("done", counted=0), 100.0, 0, None, 0),
        (progress("done", 100, 100, counted=400, sent=400), 100.0, 400, None, 0),
        (progress("cancelled", 50, 50, counted=400, sent=200), 50.0, 400, None, 0),
        (progress("failed", 50, 50, counted=7), 50.0, None, None, 0),
    ],
)
def test_how_far_one_is(
    now: Progress, percent: float, counted: int | None, seconds_left: int | None, ends_ms: int
) -> None:
    view = replay_view(ORDER, now, 5_000)
    assert (view.state, view.percent, view.counted, view.seconds_left, view.ends_ms) == (
        *(now.state, percent, counted),
        *(seconds_left, ends_ms),
    )


def test_without_a_cap_nobody_knows_when_it_ends() -> None:
    order = msgspec.structs.replace(ORDER, rate_max=0.0)
    view = replay_view(order, progress("running", 50, counted=400, sent=100), 5_000)
    assert (view.seconds_left, view.ends_ms) == (None, 0)


def test_one_that_nobody_looked_at_says_so_after_a_while() -> None:
    view = replay_view(ORDER, None, ORDER.created_ms + ANSWER_MS)
    assert (view.state, view.detail) == ("waiting", "")
    view = replay_view(ORDER, None, ORDER.created_ms + ANSWER_MS + 1)
    assert view.detail == "no worker with the role replay has looked at it yet"
    view = replay_view(msgspec.structs.replace(ORDER, wanted="cancelled"), None, ORDER.created_ms + ANSWER_MS + 1)
    assert (view.state, view.detail) == ("cancelled", "")
