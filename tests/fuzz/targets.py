"""What is fuzzed: for each target a Hypothesis strategy of inputs, and a check that fails on what must not happen.

Inputs are Python literals, so that a failing one can be kept in a file, read by people, and run again. A new target is
one more entry of `TARGETS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
from hypothesis import strategies as st

from schemas import codec
from schemas.compatibility import unreadable
from schemas.errors import InvalidFilterError, UndecodableError, UnresolvableError
from schemas.event import event_decoder
from schemas.examples import VERSIONS, order_schema
from schemas.rendering import render_json
from schemas.resolution import Resolver
from streams.core.filter_index import FilterIndex
from streams.core.filter_values import load_json
from streams.core.filters import parse_filter
from tests.avro import text as avro_text
from tests.filter_model import DOCUMENTS, PATTERNS, asks_for, dumps, read
from tests.filter_steps import PARSE_STEPS_MAX, steps
from tests.schema_pairs import pairs


class Target(msgspec.Struct, frozen=True):
    """`check` raises when something happens that must not."""

    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], None]


def must(held: object) -> None:
    """What an error says of itself, inside its handler."""
    assert held


# --- filters --------------------------------------------------------------------------------------

_OPERATORS = ("anything-but", "cidr", "equals-ignore-case", "exists", "numeric", "prefix", "suffix", "wildcard", "$or")
_WORDS = st.sampled_from(
    [
        *(*_OPERATORS, "a", "data", "true", "null", "10.0.0.0/8", "::/0", "é", "\ud800", "\\ud800"),
        *('"', "{", "}", "[", "]", ":", ",", "\\", "*", "\\*", "=", ">", "<=", "1", "-0", "1e999", "0.1", "NaN", " "),
    ]
)
_KEYS = st.sampled_from([*_OPERATORS, "a", "b"]) | st.text(max_size=3)
#: What JSON decodes to, with the words of patterns in it.
_OBJECTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6)
    | _WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=10,
)  # fmt: skip
#: Patterns with one thing changed: what people get wrong.
_NEARLY = st.tuples(PATTERNS.map(dumps), st.integers(0, 150), st.integers(0, 6), _WORDS | st.text(max_size=3)).map(
    lambda found: found[0][: found[1]] + found[3] + found[0][found[1] + found[2] :]
)
_FILTERS = st.one_of(st.text(max_size=40), st.lists(_WORDS, max_size=40).map("".join), _NEARLY, _OBJECTS)


def check_parser(pattern: Any) -> None:
    """Any text and any JSON value is a filter, or refused with a place; the work is bounded."""

    def parse() -> None:
        try:
            parsed = parse_filter(pattern)
        except InvalidFilterError as error:
            must(error.path.startswith("$") and error.sentence)
        else:
            assert parse_filter(json.loads(parsed.text, parse_float=Decimal, parse_int=Decimal)) is parsed

    assert steps(parse) < PARSE_STEPS_MAX
    if isinstance(pattern, str):
        return
    try:
        text = dumps(pattern)
    except UnicodeEncodeError:
        return
    assert accepts(text) == accepts(pattern)


def accepts(pattern: Any) -> bool:
    try:
        parse_filter(pattern)
    except InvalidFilterError:
        return False
    return True


def check_mutations(given: tuple[str, str]) -> None:
    """A pattern with a word put in at many places, and with a piece left out there: drawing inputs costs more than
    reading them, so each is read many times."""
    text, word = given
    for at in range(0, len(text), 1 + len(text) // 25):
        accepts(text[:at] + word + text[at:])
        accepts(text[:at] + text[at + 1 + len(word) :])


def check_matcher(given: tuple[list[str], list[str]]) -> None:
    """Each filter, and an index of all, agree with the plain model on each document."""
    patterns, documents = given
    filters = [parse_filter(pattern) for pattern in patterns]
    index = FilterIndex(filters)
    for document in documents:
        decoded = load_json(document.encode())
        wanted = [asks_for(read(pattern), read(document)) for pattern in patterns]
        assert [each.matches(decoded) for each in filters] == wanted
        assert index.select(decoded) == [at for at, each in enumerate(wanted) if each]


# --- events ---------------------------------------------------------------------------------------

_ENVELOPE = codec.own_schema("event.v2")
_ORDER = (
    '{"type": "record", "name": "Order", "fields": [{"name": "id", "type": "string"}, {"name": "total", "type": '
    '{"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}}, {"name": "at", "type": {"type": "long", '
    '"logicalType": "timestamp-millis"}}, {"name": "lines", "type": {"type": "array", "items": ["null", "double"]}}]}'
)
_TREE = (
    '{"type": "record", "name": "Tree", "fields": [{"name": "left", "type": ["null", "Tree"]}, {"name": "on", "type": '
    '{"type": "int", "logicalType": "date"}}, {"name": "key", "type": {"type": "string", "logicalType": "uuid"}}]}'
)
_SCHEMAS = [
    _ENVELOPE,
    codec.own_schema("event.v1"),
    _ORDER,
    _TREE,
    '{"type": "map", "values": {"type": "fixed", "name": "F", "size": 12, "logicalType": "duration"}}',
    '["null", "int", {"type": "enum", "name": "E", "symbols": ["A", "B"]}]',
]
_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "ce_id",
                "ce_type",
                "ce_time",
                "ce_tenant",
                "ce_subject",
                "ce_source",
                "traceparent",
                "tracestate",
                "other",
            ]
        ),
        st.none()
        | st.binary(max_size=12)
        | st.sampled_from([b"order.paid", b"2026-11-22T09:40:00Z", b"9999-12-31", b"a"]),
    ),
    max_size=6,
)
_ENVELOPES = st.fixed_dictionaries(
    {
        "id": st.text(max_size=5),
        "type": st.sampled_from(["order.paid", "", "..", "a b"]) | st.text(max_size=5),
        "tenant": st.sampled_from(["default", ""]) | st.text(max_size=5),
        "time": st.integers(-(2**63), 2**63 - 1),
        "data": st.binary(max_size=12) | DOCUMENTS.map(dumps).map(str.encode),
        "subject": st.none() | st.text(max_size=4),
        "traceparent": st.none() | st.text(max_size=4),
    }
)


def _envelope(fields: dict[str, Any]) -> bytes:
    return codec.encode(7, codec.parse_schema(_ENVELOPE, logical_types=False), fields)


_EVENTS = st.tuples(
    st.sampled_from(_SCHEMAS),
    st.binary(max_size=60).map(lambda payload: codec.wire_header(7) + payload) | _ENVELOPES.map(_envelope),
    _HEADERS,
)
_NAMES = st.sampled_from(["int", "long", "string", "bytes", "Event", "distributary.Event", "null", "x"])
_AVRO = st.recursive(
    _NAMES | st.none() | st.integers(-5, 5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.fixed_dictionaries(
            {"type": st.sampled_from(["record", "array", "map", "fixed", "enum", "int", "bytes"]) | inner},
            optional={
                "name": _NAMES,
                "namespace": _NAMES,
                "fields": st.lists(st.fixed_dictionaries({"name": _NAMES, "type": inner}), max_size=3) | inner,
                "items": inner,
                "values": inner,
                "size": st.integers(-2, 9),
                "symbols": st.lists(_NAMES, max_size=2),
                "logicalType": st.sampled_from(["decimal", "uuid", "date", "timestamp-millis", "duration", "x"]),
                "precision": st.integers(-2, 99),
                "default": inner,
            },
        )
    ),
    max_leaves=6,
).map(json.dumps)


def check_event(given: tuple[str, bytes, list[tuple[str, bytes | None]]]) -> None:
    """Any bytes are an event, or undecodable for a reason; any text is a schema, or a ValueError."""
    schema, value, headers = given
    try:
        decoder = event_decoder(schema)
    except ValueError:
        return
    try:
        event = decoder.decode(value, headers, 1_700_000_000_000)
    except UndecodableError as error:
        must(error.reason and error.detail)
    else:
        load_json(event.data)


def check_wire(value: bytes) -> None:
    """The header of any bytes is read, or undecodable for a reason."""
    try:
        assert 0 <= codec.wire_schema_id(value) < 1 << 32
    except UndecodableError as error:
        must(error.reason in ("truncated", "wrong_magic"))


# --- another version ------------------------------------------------------------------------------

_ORDERS = st.tuples(st.sampled_from(VERSIONS), st.sampled_from(VERSIONS)).map(
    lambda versions: (order_schema(versions[0]), order_schema(versions[1]))
)
_PAIRS = pairs(logical=True).map(lambda pair: (avro_text(pair[0]), avro_text(pair[1])))


def check_resolution(given: tuple[tuple[str, str], bytes]) -> None:
    """Any two schemas resolve or not, with a place; any bytes become JSON, or are undecodable or unresolvable."""
    (writer, reader), payload = given
    try:
        problems = unreadable(reader, writer)
    except ValueError:
        return  # one of the two is no schema
    assert all(problem.path.startswith("$") and problem.sentence for problem in problems)
    try:
        document = Resolver(writer, reader).record(codec.wire_header(7) + payload)
    except (UndecodableError, UnresolvableError) as error:
        must(str(error))
    else:
        load_json(render_json(document))


TARGETS = {
    "filter_parser": Target(_FILTERS, check_parser),
    "filter_mutations": Target(st.tuples(PATTERNS.map(dumps), _WORDS), check_mutations),
    "filter_matcher": Target(
        st.tuples(st.lists(PATTERNS.map(dumps), max_size=5), st.lists(DOCUMENTS.map(dumps), max_size=5)), check_matcher
    ),
    "event_decoder": Target(_EVENTS, check_event),
    "event_schema": Target(
        st.tuples(_AVRO | st.text(max_size=20), st.binary(max_size=30).map(lambda tail: bytes(5) + tail), _HEADERS),
        check_event,
    ),
    "resolution": Target(
        st.tuples(_ORDERS | _PAIRS | st.tuples(_AVRO, _AVRO), st.binary(max_size=60)), check_resolution
    ),
    "wire_format": Target(st.binary(max_size=12), check_wire),
}
