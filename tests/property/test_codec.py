"""The hand-written primitives against fastavro, and the decoder against arbitrary bytes."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import fastavro
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec
from schemas.delivery import dead_letter_schema
from schemas.errors import UndecodableError

LONG = st.integers(-(2**63), 2**63 - 1)
OWN = {
    name: codec.own_schema(name)
    for name in (
        "attempt.v1",
        "delivery.v1",
        "endpoint_state.v1",
        "event.v1",
        "event.v2",
        "event.v3",
        "operation.v1",
        "operation.v2",
        "subscription.v1",
        "subscription.v2",
        "subscription.v3",
        "subscription.v4",
    )
} | {"dead_letter.v1": dead_letter_schema()}
PARSED = {name: codec.parse_schema(text) for name, text in OWN.items()}


def by_fastavro(kind: str, value: Any) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, {"type": kind}, value)
    return stream.getvalue()


EDGES = [edge + step for shift in range(0, 64, 7) for edge in (2**shift // 2, -(2**shift) // 2) for step in (-1, 0, 1)]


@pytest.mark.parametrize("number", [*EDGES, 2**63 - 1, -(2**63), 8191, 8192, -8192, -8193])
def test_a_long_at_the_edges_of_its_lengths(number: int) -> None:
    assert codec.put_long(number) == by_fastavro("long", number)
    assert codec.get_long(codec.put_long(number), 0)[0] == number


@given(LONG, st.binary(max_size=5), st.binary(max_size=5))
def test_a_long(number: int, before: bytes, after: bytes) -> None:
    encoded = codec.put_long(number)
    assert encoded == by_fastavro("long", number)
    assert codec.get_long(before + encoded + after, len(before)) == (number, len(before + encoded))


@given(st.binary(max_size=20_000))
def test_bytes(data: bytes) -> None:
    encoded = codec.put_bytes(data)
    assert encoded == by_fastavro("bytes", data)
    assert codec.get_bytes(encoded + b"x", 0) == (data, len(encoded))


@given(st.text())
def test_a_string(text: str) -> None:
    encoded = codec.put_string(text)
    assert encoded == by_fastavro("string", text)
    assert codec.get_string(encoded, 0) == (text, len(encoded))


@given(st.binary(max_size=20))
def test_a_long_from_any_bytes(data: bytes) -> None:
    try:
        number, at = codec.get_long(data, 0)
    except IndexError:
        return
    if -(2**63) <= number < 2**63:
        assert fastavro.schemaless_reader(io.BytesIO(data), {"type": "long"}, None) == number
    assert 0 < at <= min(len(data), 10)


# Lengths and counts far out are what breaks decoders, and what plain random bytes seldom hold.
HOSTILE = st.lists(
    st.one_of(st.binary(max_size=10), LONG.map(codec.put_long), st.just(codec.put_long(-(2**63)))),
    max_size=30,
).map(b"".join)


@given(st.sampled_from(sorted(PARSED)), st.none() | st.sampled_from(sorted(PARSED)), HOSTILE)
def test_decode_raises_nothing_but_undecodable(writer: str, reader: str | None, payload: bytes) -> None:
    value = codec.wire_header(7) + payload
    with contextlib.suppress(UndecodableError):
        codec.decode(value, PARSED[writer], None if reader is None else PARSED[reader])


@given(st.binary(max_size=12))
def test_a_schema_id_or_undecodable(value: bytes) -> None:
    try:
        schema_id = codec.wire_schema_id(value)
    except UndecodableError:
        assert len(value) < codec.HEADER_BYTES or not value.startswith(codec.MAGIC)
    else:
        assert value.startswith(codec.wire_header(schema_id))


@given(st.sampled_from(sorted(OWN)), st.randoms(use_true_random=False), st.text(max_size=5))
def test_ids_are_stable_under_key_order_white_space_and_documentation(name: str, random: Any, doc: str) -> None:
    def restated(node: Any) -> Any:
        if isinstance(node, list):
            return [restated(item) for item in node]
        if not isinstance(node, dict):
            return node
        items = [(key, value if key == "default" else restated(value)) for key, value in node.items()]
        random.shuffle(items)
        return dict(items) | ({"doc": doc} if "name" in node else {})

    text = OWN[name]
    again = orjson.dumps(restated(orjson.loads(text)), option=random.choice([0, orjson.OPT_INDENT_2])).decode()
    assert codec.canonical(again) == codec.canonical(text)
    assert codec.content_id(again) == codec.content_id(text)


def test_no_two_own_schemas_share_an_id() -> None:
    assert len({codec.content_id(text) for text in OWN.values()}) == len(OWN)
