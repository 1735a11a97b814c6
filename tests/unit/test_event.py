"""Events of both forms: what is taken, what is refused and why, and how a foreign record reads as JSON."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec
from schemas.errors import UndecodableError
from schemas.event import (
    DEFAULT_TENANT,
    CloudEventDecoder,
    EnvelopeDecoder,
    Event,
    checked,
    cloud_event_attributes,
    encode_event,
    event_decoder,
)
from schemas.frame import Headers

V3 = codec.own_schema("event.v3")
NUMBER = '{"type": "record", "name": "N", "fields": [{"name": "n", "type": "long"}]}'
GOOD = Event("evt_1", "order.created", "acme", 1_700_000_000_123, b'{"a": 1}', "o/1", "00-a-b-01", "/shop")
SEVEN = codec.encode(3, codec.parse_schema(NUMBER), {"n": 7})


def reason_of(event: Event) -> str:
    with pytest.raises(UndecodableError) as caught:
        checked(event)
    return caught.value.reason


def test_an_envelope_comes_back_as_it_was_written() -> None:
    assert event_decoder(V3).decode(encode_event(9, GOOD), None, 0) == GOOD
    bare = Event("e", "a", "default", 0, b"1")
    assert event_decoder(V3).decode(encode_event(9, bare), None, 0) == bare


@given(
    st.text(max_size=80),
    st.integers(0, 2**45),
    st.binary(max_size=80),
    st.tuples(*[st.none() | st.text(max_size=20)] * 3),
)
def test_an_envelope_is_what_fastavro_writes(
    text: str, time_ms: int, data: bytes, more: tuple[str | None, ...]
) -> None:
    written = encode_event(7, Event(text, text, text, time_ms, data, *more))
    fields = {"id": text, "type": text, "tenant": text, "time": time_ms, "data": data}
    optional = dict(zip(("subject", "traceparent", "source"), more, strict=True))
    assert written == codec.encode(7, codec.parse_schema(V3, logical_types=False), fields | optional)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": ""}, "no_id"),
        ({"id": "é" * 257}, "bad_field"),
        ({"type": ""}, "bad_type"),
        ({"type": "order..created"}, "bad_type"),
        ({"type": "order.*"}, "bad_type"),
        ({"type": "a\nb"}, "bad_type"),
        ({"type": "x" * 257}, "bad_type"),
        ({"tenant": ""}, "bad_field"),
        ({"tenant": "a b"}, "bad_field"),
        ({"tenant": "x" * 129}, "bad_field"),
        ({"subject": "x" * 1025}, "bad_field"),
        ({"traceparent": "x" * 1025}, "bad_field"),
        ({"time_ms": -1}, "bad_field"),
        ({"time_ms": 253_402_300_800_000}, "bad_field"),
    ],
)
def test_each_rule_of_a_field(change: dict[str, Any], reason: str) -> None:
    bad = msgspec.structs.replace(GOOD, **change)
    for _ in range(2):  # what was seen once is not remembered as good
        assert reason_of(bad) == reason


@pytest.mark.parametrize(
    "change",
    [
        {"id": "é" * 256},
        {"type": "com.example/orders:v1.Created-now_1"},
        {"type": "x" * 256},
        {"tenant": "x" * 128},
        {"subject": "x" * 1024},
        {"time_ms": 0},
        {"time_ms": 253_402_300_799_999},
    ],
)
def test_the_limits_themselves_are_taken(change: dict[str, Any]) -> None:
    good = msgspec.structs.replace(GOOD, **change)
    assert checked(good) is good


@pytest.mark.parametrize("data", [b"", b"{", b'{"a":NaN}', b"\xff", b'"\xff"', b"{} {}", b"'a'", b"1e400"])
def test_data_that_is_not_json(data: bytes) -> None:
    value = encode_event(9, msgspec.structs.replace(GOOD, data=data))
    with pytest.raises(UndecodableError) as caught:
        event_decoder(V3).decode(value, None, 0)
    assert caught.value.reason == "bad_data"


@pytest.mark.parametrize("data", [b"null", b"123456789012345678901234567890", '"é"'.encode(), b' {"a":1} '])
def test_data_that_is_json_is_kept_as_it_is(data: bytes) -> None:
    value = encode_event(9, msgspec.structs.replace(GOOD, data=data))
    assert event_decoder(V3).decode(value, None, 0).data == data


def test_the_name_of_the_record_tells_an_envelope() -> None:
    tree = orjson.loads(V3)
    whole_name = {key: value for key, value in tree.items() if key != "namespace"} | {"name": "distributary.Event"}
    assert isinstance(event_decoder(V3), EnvelopeDecoder)
    assert isinstance(event_decoder(orjson.dumps(whole_name).decode()), EnvelopeDecoder)
    for other in (tree | {"namespace": "shop"}, {key: value for key, value in tree.items() if key != "namespace"}):
        assert isinstance(event_decoder(orjson.dumps(other).decode()), CloudEventDecoder)
    assert isinstance(event_decoder('"string"'), CloudEventDecoder)


def test_an_envelope_without_a_field_that_must_be_there() -> None:
    tree = orjson.loads(V3)
    tree["fields"] = [field for field in tree["fields"] if field["name"] != "type"]
    schema = orjson.dumps(tree).decode()
    fields = {"id": "e", "tenant": "default", "time": 0, "data": b"1", "subject": None, "traceparent": None}
    value = codec.encode(9, codec.parse_schema(schema, logical_types=False), fields)
    with pytest.raises(UndecodableError) as caught:
        event_decoder(schema).decode(value, None, 0)
    assert caught.value.reason == "avro"


def test_a_cloud_event() -> None:
    headers: Headers = [
        ("content-type", b"application/avro"),
        ("ce_specversion", b"1.0"),
        ("ce_id", b"c1"),
        ("ce_type", b"com.example.order.created"),
        ("ce_source", b"/shop"),
        ("ce_time", b"2026-01-02T03:04:05.678+02:00"),
        ("ce_subject", "é".encode()),
        ("ce_tenant", b"acme"),
        ("traceparent", b"00-1-2-01"),
        ("ce_null", None),
    ]
    at = datetime.datetime(2026, 1, 2, 1, 4, 5, 678_000, tzinfo=datetime.UTC)
    assert event_decoder(NUMBER).decode(SEVEN, headers, 99) == Event(
        "c1", "com.example.order.created", "acme", int(at.timestamp() * 1000), b'{"n":7}', "é", "00-1-2-01", "/shop"
    )


def test_what_a_cloud_event_may_leave_out() -> None:
    event = event_decoder(NUMBER).decode(SEVEN, [("ce_id", b"c1"), ("ce_type", b"a.b")], 99)
    assert event == Event("c1", "a.b", DEFAULT_TENANT, 99, b'{"n":7}')


def test_its_own_traceparent_wins_over_the_record_s() -> None:
    headers: Headers = [("traceparent", b"outer"), ("ce_traceparent", b"inner"), ("ce_id", b"1"), ("ce_type", b"a")]
    assert event_decoder(NUMBER).decode(SEVEN, headers, 0).traceparent == "inner"


@pytest.mark.parametrize(
    ("headers", "found", "beside_its_own"),
    [
        ([("traceparent", b"outer"), ("tracestate", b"a=1")], ("outer", "a=1"), None),  # which is of another trace
        ([("traceparent", b"inner"), ("tracestate", b"a=1")], ("inner", "a=1"), "a=1"),
        ([("tracestate", b"a=1")], (None, None), "a=1"),
        ([("traceparent", b"\xff"), ("tracestate", b"\xff")], (None, None), None),
        ([("traceparent", b"x" * 1025)], (None, None), None),
        ([("traceparent", b"outer"), ("tracestate", b"a=1\n")], ("outer", "a=1"), None),
        ([("traceparent", b"outer"), ("tracestate", "a=é".encode())], ("outer", None), None),
        ([("traceparent", None), ("other", b"\xff")], (None, None), None),
        (None, (None, None), None),
    ],
)
def test_the_trace_of_a_record_is_that_of_an_envelope_without_one(
    headers: Headers | None, found: tuple[str | None, str | None], beside_its_own: str | None
) -> None:
    """As producers set it that OpenTelemetry instruments; and it never costs an event."""
    decode = event_decoder(codec.own_schema("event.v3")).decode
    event = decode(encode_event(1, Event("1", "a", DEFAULT_TENANT, 0, b"1")), headers, 0)
    assert (event.traceparent, event.tracestate) == found
    own = decode(encode_event(1, Event("1", "a", DEFAULT_TENANT, 0, b"1", traceparent="inner")), headers, 0)
    assert (own.traceparent, own.tracestate) == ("inner", beside_its_own)


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([("ce_traceparent", b"inner"), ("ce_tracestate", b"a=1"), ("tracestate", b"b=2")], "a=1"),
        ([("ce_traceparent", b"inner"), ("tracestate", b"b=2")], None),
        ([("traceparent", b"outer"), ("tracestate", b"b=2"), ("ce_tracestate", b"a=1")], "b=2"),
        ([("tracestate", b"b=2")], None),
    ],
)
def test_a_tracestate_belongs_to_the_traceparent_beside_it(headers: Headers, found: str | None) -> None:
    event = event_decoder(NUMBER).decode(SEVEN, [("ce_id", b"1"), ("ce_type", b"a"), *headers], 0)
    assert event.tracestate == found


@pytest.mark.parametrize("time", ["2026-01-02", "2026-01-02T03:04:05", "now", "", "9999-99-99T00:00:00Z"])
def test_a_ce_time_that_is_none(time: str) -> None:
    headers: Headers = [("ce_id", b"1"), ("ce_type", b"a"), ("ce_time", time.encode())]
    with pytest.raises(UndecodableError) as caught:
        event_decoder(NUMBER).decode(SEVEN, headers, 0)
    assert caught.value.reason == "bad_field"


@pytest.mark.parametrize("headers", [None, [], [("traceparent", b"1")], [("ce_id", None)], [("other", b"\xff")]])
def test_headers_that_do_not_make_an_event(headers: Headers | None) -> None:
    assert cloud_event_attributes(headers) == {}


def test_a_record_that_json_cannot_say() -> None:
    date = '{"type": "record", "name": "D", "fields": [{"name": "d", "type": {"type": "int", "logicalType": "date"}}]}'
    value = codec.wire_header(1) + codec.put_long(3_000_000)
    with pytest.raises(UndecodableError, match=r"\$\.d: 3000000 days since 1970") as caught:
        event_decoder(date).decode(value, [("ce_id", b"1"), ("ce_type", b"a")], 0)
    assert caught.value.reason == "bad_data"
