"""Schema pairs that Hypothesis makes: our verdict and our documents against fastavro's own reader, in both ways."""

from __future__ import annotations

import base64
import io
from typing import Any

import fastavro
import orjson
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from schemas import codec
from schemas.compatibility import unreadable
from schemas.errors import UndecodableError, UnresolvableError
from schemas.json_schema import json_schema
from schemas.rendering import render_json
from schemas.resolution import Resolver
from tests.avro import text, written
from tests.schema_pairs import covering, pairs, schemas, values

many = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], deadline=None)
REFUSED = object()


def valid(schema: Any) -> bool:
    """A type that grew away may still be referred to; such a schema is none."""
    try:
        codec.parse_schema(text(schema))
    except ValueError:
        return False
    return True


def ours(writer: Any, reader: Any, raw: bytes) -> Any:
    try:
        return Resolver(text(writer), text(reader)).record(raw)
    except UnresolvableError:
        return REFUSED


def fastavros(writer: Any, reader: Any, raw: bytes) -> Any:
    parsed = [codec.parse_schema(text(schema)) for schema in (writer, reader)]
    stream = io.BytesIO(raw)
    stream.seek(codec.HEADER_BYTES)
    try:
        return as_document(fastavro.schemaless_reader(stream, parsed[0], parsed[1]))
    except (fastavro.read.SchemaResolutionError, UnicodeDecodeError):
        return REFUSED


def as_document(value: Any) -> Any:
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case dict():
            return {key: as_document(item) for key, item in value.items()}
        case list():
            return [as_document(item) for item in value]
    return value


def same(one: Any, other: Any) -> bool:
    """The same JSON, but for the order of fields: fastavro keeps the writer's."""
    return orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)


@many
@given(pairs(), st.data())
def test_what_is_compatible_is_read_as_fastavro_reads_it_and_what_is_refused_it_refuses(pair: Any, data: Any) -> None:
    writer, reader = pair
    assume(valid(reader))
    problems = unreadable(text(reader), text(writer))
    raw = written(writer, data.draw(values(writer)))
    mine, theirs = ours(writer, reader, raw), fastavros(writer, reader, raw)
    if not problems:
        assert mine is not REFUSED
        assert theirs is not REFUSED
    if mine is REFUSED:
        assert theirs is REFUSED
    elif theirs is REFUSED:
        # fastavro compares the items of an array or map also when there are none, where nothing need be read.
        assert any("[*]" in problem.path for problem in problems)
    else:
        assert same(mine, theirs)


@many
@given(pairs())
def test_what_is_incompatible_has_a_record_that_cannot_be_read(pair: Any) -> None:
    writer, reader = pair
    assume(valid(reader))
    problems = unreadable(text(reader), text(writer))
    raws = [written(writer, value) for value in covering(writer)]
    mine = [ours(writer, reader, raw) is REFUSED for raw in raws]
    theirs = [fastavros(writer, reader, raw) is REFUSED for raw in raws]
    assert any(mine) == any(theirs) == bool(problems)


@many
@given(schemas(logical=True), st.data())
def test_a_document_is_valid_for_the_json_schema_of_its_avro_schema(schema: Any, data: Any) -> None:
    document = Resolver(text(schema)).record(written(schema, data.draw(values(schema))))
    Draft202012Validator(json_schema(text(schema))).validate(orjson.loads(render_json(document)))
    assert unreadable(text(schema), text(schema)) == []


@many
@given(pairs(logical=True), st.data())
def test_a_resolved_document_is_valid_for_the_reader_s(pair: Any, data: Any) -> None:
    writer, reader = pair
    assume(valid(reader))
    document = ours(writer, reader, written(writer, data.draw(values(writer))))
    if document is not REFUSED:
        Draft202012Validator(json_schema(text(reader))).validate(orjson.loads(render_json(document)))


@many
@given(pairs(logical=True), st.binary(max_size=60))
def test_no_bytes_raise_anything_but_undecodable_or_unresolvable(pair: Any, payload: bytes) -> None:
    writer, reader = pair
    assume(valid(reader))
    try:
        resolver = Resolver(text(writer), text(reader))
    except UnresolvableError:
        return
    try:
        render_json(resolver.record(codec.wire_header(1) + payload))
    except (UndecodableError, UnresolvableError) as error:
        assert str(error)  # noqa: PT017 - not every payload fails
