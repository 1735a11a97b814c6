"""What became of dead letters: by replays and marks, whatever order they come in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from schemas import codec
from schemas.dead_letter import DeadLetter, Filed, state_of
from schemas.dead_mark import DeadMark, End, InvalidMarkError, checked_mark, decode_mark, encode_mark
from schemas.delivery import REPLAY_HEADER
from schemas.errors import UndecodableError
from schemas.replay import Place, Progress, Replay, Selection, Span, State, Unsent, Wanted
from streams.core import dead
from streams.core.dead import acts, already_sent, candidate
from streams.core.replay import Candidate
from tests.unit.test_dead_letter import NOW, a_delivery

TOPIC = "deliveries.dead"


def filed(offset: int = 5, partition: int = 0, *, marker: bool = False) -> Filed:
    headers = ((REPLAY_HEADER, "rpl_0"),) if marker else ()
    return Filed(partition, offset, NOW, DeadLetter("exhausted", "", NOW, a_delivery(headers=headers)))


def a_replay(
    id_: str = "rpl_1",
    *,
    at_ms: int = NOW,
    state: State = "running",
    position: int = 10,
    sent: int = 1,
    topic: str = TOPIC,
    wanted: Wanted = "planned",
    unsent: tuple[Unsent, ...] = (),
    **selection: Any,
) -> tuple[Replay, Progress]:
    order = Replay(
        id=id_,
        created_ms=at_ms,
        by="key:1",
        why="it is back",
        selection=Selection(source="dead", **selection),
        wanted=wanted,
    )
    spans = (Span(topic, 0, 2, 20, position),)
    return order, Progress(id=id_, state=state, spans=spans, sent=sent, unsent=unsent)


def a_mark(id_: str = "mrk_1", *, at_ms: int = NOW, end: int = 10, **selection: Any) -> DeadMark:
    return DeadMark(
        id=id_,
        at_ms=at_ms,
        by="cli:me",
        why="old",
        selection=Selection(source="dead", **selection),
        ends=(End(0, end),),
    )


def state(it: Filed, replays: Any = (), marks: Any = ()) -> str:
    return state_of(acts(TOPIC, replays, marks)(it))


def test_what_nobody_touched_is_open() -> None:
    assert state(filed()) == "open"


def test_a_replay_has_retried_what_it_has_read_past() -> None:
    replays = [a_replay()]
    assert [state(filed(offset), replays) for offset in (1, 2, 9, 10)] == ["open", "retried", "retried", "open"]
    assert state(filed(partition=1), replays) == "open"
    (act,) = acts(TOPIC, replays, [])(filed())
    assert (act.id, act.by, act.why, act.at_ms) == ("rpl_1", "key:1", "it is back", NOW)


@pytest.mark.parametrize("other", ["waiting", "counting", "planned"])
def test_counting_retries_nothing(other: State) -> None:
    assert state(filed(), [a_replay(state=other)]) == "open"
    assert state(filed(), [a_replay(state="cancelled", sent=0)]) == "open"
    assert state(filed(), [a_replay(state="cancelled")]) == "retried"
    order, _ = a_replay()
    assert state(filed(), [(order, None)]) == "open"


@pytest.mark.parametrize("wanted", ["running", "paused"])
def test_what_a_replay_is_still_to_send_is_not_open(wanted: Wanted) -> None:
    it = filed(15)  # beyond its position
    for other in ("waiting", "counting", "running", "paused"):
        assert state(it, [a_replay(state=other, sent=0, wanted=wanted)]) == "retried", other
        assert state(filed(20), [a_replay(state=other, sent=0, wanted=wanted)]) == "open"  # came later
    order, _ = a_replay(wanted=wanted)
    for progress in (None, Progress(id="rpl_1", state="waiting")):
        assert state(it, [(order, progress)]) == "retried"
    for ended in ("done", "cancelled", "failed"):
        assert state(it, [a_replay(state=ended, wanted=wanted)]) == "open", ended
    assert state(it, [a_replay(wanted="cancelled")]) == "open"
    for replay in (a_replay(wanted=wanted), (order, None)):
        assert not already_sent(TOPIC, [replay])(candidate(it))
    assert already_sent(TOPIC, [a_replay(wanted=wanted)])(candidate(filed(9)))


def test_what_a_replay_passed_over_since_nobody_was_there_is_open_and_says_so() -> None:
    gone = a_replay(state="done", sent=0, unsent=(Unsent("sub_1", 0, 4, 6),))
    assert [state(filed(offset), [gone]) for offset in (4, 5)] == ["open", "open"]
    (act,) = acts(TOPIC, [gone], [])(filed())
    assert (act.state, act.id, act.why) == ("skipped", "rpl_1", "its subscription is gone, or takes it no more")
    others = a_replay(
        state="done", unsent=(Unsent("sub_2", 0, 4, 6), Unsent("sub_1", 1, 4, 6), Unsent("sub_1", 0, 6, 7))
    )
    assert state(filed(), [others]) == "retried"
    assert state(filed(), [gone], [a_mark(at_ms=NOW - 1)]) == "discarded"
    assert not already_sent(TOPIC, [gone])(candidate(filed()))
    assert already_sent(TOPIC, [others])(candidate(filed()))


def test_only_what_is_selected_counts() -> None:
    chosen: list[dict[str, Any]] = [
        {"tenant": "acme"},
        {"subscriptions": ("sub_1",)},
        {"event_types": ("order.*",)},
        {"reasons": ("exhausted",)},
        {"error_classes": ("5xx",)},
        {"places": (Place(0, 5),)},
        {"since_ms": NOW},
    ]
    others: list[dict[str, Any]] = [
        {"tenant": "other"},
        {"subscriptions": ("sub_2",)},
        {"event_types": ("invoice.*",)},
        {"reasons": ("gone",)},
        {"error_classes": ("timeout",)},
        {"places": (Place(0, 6),)},
        {"since_ms": NOW + 1},
    ]
    for selection, other in zip(chosen, others, strict=True):
        assert state(filed(), [a_replay(**selection)]) == "retried"
        assert state(filed(), [a_replay(**other)]) == "open"
        assert state(filed(), marks=[a_mark(**selection)]) == "discarded"
        assert state(filed(), marks=[a_mark(**other)]) == "open"


def test_a_replay_passes_over_what_carries_a_marker() -> None:
    assert candidate(filed(marker=True)).replayed
    assert state(filed(marker=True), [a_replay()]) == "open"
    assert state(filed(marker=True), [a_replay(replayed=True)]) == "retried"


def test_replays_of_other_sources_and_topics_retry_no_dead_letter() -> None:
    order, progress = a_replay()
    events = msgspec.structs.replace(order, selection=Selection(source="events"))
    assert state(filed(), [(events, progress)]) == "open"
    assert state(filed(), [a_replay(topic="deliveries")]) == "open"


def test_what_was_done_last_counts_and_all_of_it_is_told() -> None:
    replays, marks = [a_replay(at_ms=NOW + 2)], [a_mark(at_ms=NOW + 1)]
    assert state(filed(), replays, marks) == "retried"
    assert state(filed(), replays, [a_mark(at_ms=NOW + 3)]) == "discarded"
    assert [act.id for act in acts(TOPIC, replays, marks)(filed())] == ["rpl_1", "mrk_1"]


def test_a_mark_ends_where_it_says() -> None:
    assert [state(filed(offset), marks=[a_mark()]) for offset in (9, 10)] == ["discarded", "open"]
    assert state(filed(partition=1), marks=[a_mark()]) == "open"


def test_marks_are_written_and_read() -> None:
    header = codec.wire_header(1)
    for mark in (a_mark(), a_mark(tenant="acme", places=(Place(3, 4),), error_classes=("none",), until_ms=NOW)):
        assert decode_mark(encode_mark(header, mark)) == mark


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": ""}, "id"),
        ({"why": " "}, "why"),
        ({"why": "x" * 1_001}, "why"),
        ({"selection": Selection(source="events")}, "selection"),
        ({"selection": Selection(source="dead", tenant="no tenant")}, "tenant"),
    ],
)
def test_marks_that_must_not_be(change: dict[str, Any], field: str) -> None:
    mark = msgspec.structs.replace(a_mark(), **change)
    with pytest.raises(InvalidMarkError, match=f"^{field}: "):
        checked_mark(mark)
    with pytest.raises(UndecodableError, match=field):
        decode_mark(encode_mark(codec.wire_header(1), mark))


def test_what_other_tenants_discarded_is_not_asked_about_a_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def selecting(selection: Selection) -> Callable[[Candidate], bool]:
        def selected(_: Candidate) -> bool:
            asked.append(selection.tenant)
            return True

        return selected

    monkeypatch.setattr(dead, "selects", selecting)
    made = acts(TOPIC, [a_replay(tenant="other")], [a_mark("mrk_2", tenant="other"), a_mark(tenant="acme"), a_mark()])
    assert {act.id for act in made(filed())} == {"mrk_1"}
    assert sorted(asked, key=str) == [None, "acme"]
