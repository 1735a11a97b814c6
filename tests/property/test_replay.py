"""What a replay selects, against a plain reading of its fields; its states; the guard."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.delivery import Try
from schemas.replay import ENDED, ERROR_CLASSES, Place, Progress, Replay, Selection, State, Wanted
from schemas.subscription import Subscription
from streams.core.match import MatchIndex
from streams.core.replay import (
    CHANGES,
    Candidate,
    doubled,
    error_class,
    may_want,
    next_state,
    selects,
    skips,
)

WANTED, STATES = get_args(Wanted), get_args(State)
TYPES = ("a", "a.b", "a.b.c", "ab", "b.c")
PATTERNS = (*TYPES, "*", "a.*", "a.b.*", "b.*")


def few(values: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), max_size=2).map(tuple)


places = st.builds(Place, st.integers(0, 1), st.integers(0, 2))
times = st.integers(0, 5)
selections = st.builds(
    Selection,
    source=st.just("dead"),
    tenant=st.sampled_from((None, "t", "u")),
    subscriptions=few(("s1", "s2")),
    event_types=few(PATTERNS),
    event_ids=few(("e1", "e2")),
    since_ms=st.none() | times,
    until_ms=st.none() | times,
    reasons=few(("gone", "exhausted")),
    error_classes=few(("4xx", "none")),
    places=st.lists(places, max_size=2).map(tuple),
    replayed=st.booleans(),
)
candidates = st.builds(
    Candidate,
    timestamp_ms=times,
    tenant=st.sampled_from(("t", "u")),
    event_type=st.sampled_from(TYPES),
    event_id=st.sampled_from(("e1", "e2")),
    subscription_id=st.sampled_from((None, "s1", "s2")),
    reason=st.sampled_from(("gone", "exhausted")),
    error_class=st.sampled_from(("4xx", "none")),
    place=places,
    replayed=st.booleans(),
)


def as_subscribed(patterns: tuple[str, ...], event_type: str) -> bool:
    """By the index that fan-out asks: a replay's patterns mean what those of subscriptions do."""
    index = MatchIndex()
    index.put(Subscription(id="s", url="https://a.example", event_types=patterns))
    return bool(index.match("default", event_type))


@given(selections, candidates)
def test_what_is_selected(s: Selection, it: Candidate) -> None:
    by_field = [
        s.tenant in (None, it.tenant),
        not s.subscriptions or it.subscription_id is None or it.subscription_id in s.subscriptions,
        not s.event_types or as_subscribed(s.event_types, it.event_type),
        not s.event_ids or it.event_id in s.event_ids,
        s.since_ms is None or s.since_ms <= it.timestamp_ms,
        s.until_ms is None or it.timestamp_ms < s.until_ms,
        not s.reasons or it.reason in s.reasons,
        not s.error_classes or it.error_class in s.error_classes,
        not s.places or it.place in s.places,
    ]
    assert selects(s)(it) == all(by_field)
    assert skips(s, it) == (it.replayed and not s.replayed)


@given(st.integers(200, 599), st.sampled_from(("timeout", "tls_failed", "reset", "of an older version")))
def test_error_classes(status: int, cause: str) -> None:
    assert error_class(Try(0, 0, status)) == f"{status // 100}xx"
    assert {error_class(None), error_class(Try(0, 0, 0, cause)), error_class(Try(0, 0, status))} <= ERROR_CLASSES


# --- states -----------------------------------------------------------------------------------------------------------


@given(st.sampled_from(WANTED), st.sampled_from((None, *STATES)), st.booleans(), st.booleans())
def test_states(wanted: Wanted, state: State | None, pending: bool, finished: bool) -> None:
    after = next_state(wanted, state, pending=pending, finished=finished)
    if state in ENDED:
        assert after == state
        return
    if wanted == "cancelled":
        assert after == "cancelled"
        return
    assert after not in ("failed", "cancelled")
    assert (after == "done") == (state == "running" and finished)  # nothing else ends one
    if after == "running":  # whoever delivers was asked to, and has counted before
        assert state in ("running", "planned", "paused", "counting")
        assert wanted == "running" or state == "running"
    assert (after == "waiting") == (state in (None, "waiting") and pending)


@pytest.mark.parametrize(
    ("wanted", "states"),
    [
        ("planned", ["waiting", "counting", "counting", "planned", "planned"]),
        ("running", ["waiting", "counting", "counting", "running", "running", "done"]),
        ("paused", ["waiting", "counting", "counting", "paused", "paused"]),
    ],
)
def test_the_way_of_an_order(wanted: Wanted, states: list[State]) -> None:
    happens = [(True, False), (False, False), (False, False), (False, True), (False, False), (False, True)]
    state: State | None = None
    for (pending, finished), expected in zip(happens, states, strict=False):
        state = next_state(wanted, state, pending=pending, finished=finished)
        assert state == expected


def test_paused_and_resumed() -> None:
    assert next_state("paused", "running") == "paused"
    assert next_state("running", "paused") == "running"
    assert next_state("running", "planned") == "running"
    assert next_state("paused", "planned") == "paused"


def order(wanted: Wanted = "running", **fields: object) -> Replay:
    selection = Selection(source="events", **fields)  # type: ignore[arg-type]
    return Replay(id="rpl_1", created_ms=1_000, by="", selection=selection, wanted=wanted)


@given(st.sampled_from(WANTED), st.sampled_from((None, *STATES)), st.sampled_from(WANTED))
def test_what_may_be_asked(wanted: Wanted, state: State | None, then: Wanted) -> None:
    progress = None if state is None else Progress(id="rpl_1", state=state)
    allowed = may_want(order(wanted), progress, then)
    assert allowed == (state not in ENDED and (then == wanted or then in CHANGES[wanted]))


# --- the guard, and the cost ------------------------------------------------------------------------------------------


#: (since, until) as the rules of selections let them be.
spans = st.tuples(st.none() | times, st.none() | times).filter(lambda it: it[1] is None or it[1] > (it[0] or 0))


@given(spans, spans)
def test_the_guard_sees_times_that_overlap(a: tuple[int | None, int | None], b: tuple[int | None, int | None]) -> None:
    mine, other = order(since_ms=a[0], until_ms=a[1]), order(since_ms=b[0], until_ms=b[1])
    other = msgspec.structs.replace(other, id="rpl_2")
    covered = [set(range(start or 0, 1_001 if end is None else end)) for start, end in (a, b)]
    assert (doubled(mine, [(other, None)]) == other) == bool(covered[0] & covered[1])


@pytest.mark.parametrize(
    ("other", "state", "is_doubled"),
    [
        (order(subscriptions=("s2", "s1")), "done", True),
        (order(subscriptions=("s2", "s1")), "running", True),
        (order("paused", subscriptions=("s1", "s2")), "paused", True),
        (order(subscriptions=("s1", "s2"), replayed=True), None, True),
        (order("planned", subscriptions=("s1", "s2")), "planned", False),
        (order("cancelled", subscriptions=("s1", "s2")), "cancelled", False),
        (order(subscriptions=("s1", "s2")), "failed", False),
        (order(subscriptions=("s1",)), "done", False),
        (order(), "done", False),
        (order(subscriptions=("s1", "s2"), tenant="t"), "done", False),
        (order(subscriptions=("s1", "s2"), event_types=("a",)), "done", False),
        (order(subscriptions=("s1", "s2"), event_ids=("a",)), "done", False),
    ],
)
def test_the_guard_sees_equal_selections_that_deliver(other: Replay, state: State | None, is_doubled: bool) -> None:
    mine = order(subscriptions=("s1", "s2"))
    other = msgspec.structs.replace(other, id="rpl_2")
    others = [(mine, None), (other, None if state is None else Progress(id="rpl_2", state=state))]
    assert doubled(mine, others) == (other if is_doubled else None)
    assert doubled(msgspec.structs.replace(mine, again=True), others) is None


@pytest.mark.parametrize("state", [None, "waiting", "running", "paused", "done", "failed"])
def test_of_dead_letters_an_equal_order_is_a_double_while_it_goes_on(state: State | None) -> None:
    mine, other = (
        Replay(id=name, created_ms=5, by="", selection=Selection(source="dead"), wanted="running") for name in "ab"
    )
    others = [(other, None if state is None else Progress(id="b", state=state))]
    assert (doubled(mine, others) is None) == (state in ENDED)
