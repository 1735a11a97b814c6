"""Replays: the rules of an order's fields, and the records."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schemas import codec
from schemas.errors import UndecodableError
from schemas.post import CAUSES
from schemas.replay import (
    ERROR_CLASS_OF_CAUSE,
    InvalidReplayError,
    Place,
    Progress,
    Replay,
    Selection,
    Span,
    Unsent,
    checked_replay,
    checked_selection,
    decode_progress,
    decode_replay,
    encode_progress,
    encode_replay,
)

HEADER = codec.wire_header(3)
FULL = Selection(
    source="dead",
    tenant="acme",
    subscriptions=("sub_1", "sub_2"),
    event_types=("order.created", "order.*", "*"),
    event_ids=("evt 1",),
    since_ms=1,
    until_ms=2,
    reasons=("exhausted",),
    error_classes=("5xx", "timeout"),
    places=(Place(0, 7), Place(3, 0)),
    replayed=True,
)


def test_an_order_comes_back_and_has_the_fields_of_its_schema() -> None:
    full = Replay(id="rpl_1", created_ms=5, by="cli:me@here", why="again", selection=FULL, rate_max=0.5, again=True)
    small = Replay(id="rpl_2", created_ms=5, by="", selection=Selection(source="events"), wanted="running")
    for order in (full, small, msgspec.structs.replace(small, starts=(Place(0, 7), Place(3, 0)))):
        assert decode_replay(encode_replay(HEADER, order)) == order
    fields = codec.parse_schema(codec.own_schema("replay.v1"))["fields"]
    assert _fields(fields) == _defaults(Replay)
    (selection,) = (field["type"]["fields"] for field in fields if field["name"] == "selection")
    assert _fields(selection) == _defaults(Selection)


def test_progress_comes_back_and_has_the_fields_of_its_schema() -> None:
    full = Progress(
        id="rpl_1",
        state="running",
        spans=(Span("events", 0, 1, 9, 4), Span("events", 1, 0, 0, 0)),
        read=4,
        counted=8,
        counted_bytes=800,
        sent=3,
        skipped=1,
        detail="so",
        started_ms=1,
        updated_ms=2,
        finished_ms=3,
        unsent=(Unsent("sub_1", 0, 3, 5),),
    )
    for progress in (full, Progress(id="rpl_1", state="waiting")):
        assert decode_progress(encode_progress(HEADER, progress)) == progress
    fields = codec.parse_schema(codec.own_schema("replay_progress.v1"))["fields"]
    assert _fields(fields) == _defaults(Progress)


def _fields(fields: list[dict[str, Any]]) -> dict[str, Any]:
    return {each["name"]: each.get("default", msgspec.NODEFAULT) for each in fields}


def _defaults(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Of the struct, as JSON has them; `wanted` of Avro's symbols and Python's literals are the same texts."""
    found = {each.name: each.default for each in msgspec.structs.fields(kind)}
    return {name: [] if default == () else default for name, default in found.items()}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tenant": "a b"}, "tenant: 'a b'"),
        ({"subscriptions": ("a.b",)}, "subscriptions: 'a.b'"),
        ({"subscriptions": ("a",) * 1_001}, "subscriptions: more than 1000"),
        ({"event_types": ("order.*.x",)}, "event_types"),
        ({"event_types": ("a",) * 101}, "event_types: more than 100"),
        ({"event_ids": ("",)}, "event_ids: '' is empty"),
        ({"event_ids": ("x" * 513,)}, "event_ids"),
        ({"since_ms": -1}, "until_ms: not after since_ms"),
        ({"since_ms": 5, "until_ms": 5}, "until_ms: not after since_ms"),
        ({"source": "events", "reasons": ("gone",)}, "source dead only"),
        ({"source": "deliveries", "places": (Place(0, 0),)}, "source dead only"),
        ({"reasons": ("Not found",)}, "reasons: 'Not found'"),
        ({"error_classes": ("500",)}, "error_classes: '500' is none of 2xx"),
        ({"places": (Place(0, -1),)}, "places: negative"),
    ],
)
def test_a_selection_that_cannot_be_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidReplayError, match=said):
        checked_selection(Selection(**({"source": "dead"} | fields)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"id": ""}, "id"),
        ({"why": "x" * 1_001}, "why: longer than 1000"),
        ({"rate_max": -1.0}, "rate_max: not between 0 and 100,000"),
        ({"rate_max": float("nan")}, "rate_max"),
        ({"selection": Selection(source="events", tenant="")}, "tenant"),
        ({"selection": Selection(source="dead"), "starts": (Place(0, 0),)}, "starts: only of the source events"),
        ({"selection": Selection(source="events", since_ms=5), "starts": (Place(0, 0),)}, "in place of since_ms"),
        ({"starts": (Place(-1, 0),)}, "starts: negative"),
        ({"starts": (Place(0, 1), Place(0, 2))}, "named twice"),
        ({"starts": tuple(Place(each, 0) for each in range(1_001))}, "starts: more than 1000"),
    ],
)
def test_an_order_that_cannot_be_is_refused_and_is_no_record(fields: dict[str, Any], said: str) -> None:
    least: dict[str, Any] = {"id": "rpl_1", "created_ms": 1, "by": "", "selection": Selection(source="events")}
    order = Replay(**(least | fields))
    with pytest.raises(InvalidReplayError, match=said):
        checked_replay(order)
    with pytest.raises(UndecodableError) as refused:
        decode_replay(encode_replay(HEADER, order))
    assert refused.value.reason == "bad_field"


def test_what_is_no_record() -> None:
    strange = msgspec.structs.replace(Progress(id="a", state="waiting"), state="flying")
    for value in (None, b"", encode_progress(HEADER, strange)):
        with pytest.raises(UndecodableError):
            decode_progress(value)


def test_every_cause_has_a_class() -> None:
    assert set(ERROR_CLASS_OF_CAUSE) == CAUSES
