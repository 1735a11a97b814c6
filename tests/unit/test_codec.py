"""The wire format, schemas as text, and what is refused because a few bytes could decode into anything."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas import codec
from schemas.errors import UndecodableError


def record(*types: Any, name: str = "R") -> dict[str, Any]:
    return {
        "type": "record",
        "name": name,
        "fields": [{"name": f"f{n}", "type": kind} for n, kind in enumerate(types)],
    }


def array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def parsed(tree: Any, **options: bool) -> codec.Schema:
    return codec.parse_schema(orjson.dumps(tree).decode(), **options)


HEADER = codec.wire_header(7)
NODE = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}


# --- the wire format ----------------------------------------------------------------------------------------


def test_the_header_is_magic_and_a_big_endian_id() -> None:
    assert codec.wire_header(0x01020304) == b"\x00\x01\x02\x03\x04"
    assert codec.wire_schema_id(b"\x00\x01\x02\x03\x04rest") == 0x01020304


@pytest.mark.parametrize(
    ("value", "reason"),
    [(None, "no_value"), (b"", "truncated"), (b"\x00\x00\x00\x01", "truncated"), (b"{}   ", "wrong_magic")],
)
def test_what_is_not_in_the_wire_format(value: bytes | None, reason: str) -> None:
    with pytest.raises(UndecodableError) as error:
        codec.wire_schema_id(value)
    assert error.value.reason == reason


# --- decode and encode --------------------------------------------------------------------------------------


def test_a_record_comes_back() -> None:
    schema = parsed(record("string", "long"))
    value = codec.encode(7, schema, {"f0": "a", "f1": -1})
    assert value == HEADER + b"\x02a\x01"
    assert codec.decode(value, schema) == {"f0": "a", "f1": -1}


def test_a_reader_sees_an_older_record_with_its_own_defaults() -> None:
    writer = parsed(record("string"))
    tree = record("string", "long")
    tree["fields"][1]["default"] = 5
    assert codec.decode(HEADER + b"\x02a", writer, parsed(tree)) == {"f0": "a", "f1": 5}


@pytest.mark.parametrize(
    ("payload", "reason", "detail"),
    [
        (b"", "truncated", "ends before"),
        (b"\x0aabc", "truncated", "ends before"),
        (b"\x09abcde", "truncated", "ends before"),  # a negative length
        (b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01abc", "truncated", "ends before"),
        (b"\x02\xff", "avro", "UnicodeDecodeError"),
        (b"\x02ab", "avro", "1 bytes follow"),
    ],
)
def test_what_does_not_decode(payload: bytes, reason: str, detail: str) -> None:
    with pytest.raises(UndecodableError, match=detail) as error:
        codec.decode(HEADER + payload, parsed(record("string")))
    assert error.value.reason == reason


def test_schemas_that_do_not_resolve() -> None:
    with pytest.raises(UndecodableError) as error:
        codec.decode(HEADER + b"\x02a", parsed(record("string")), parsed(record("long")))
    assert error.value.reason == "avro"


def test_a_record_that_does_not_fit_is_refused() -> None:
    schema = parsed(record("string"))
    for misfit in ({}, {"f0": 1}, None):
        with pytest.raises(ValueError, match="does not fit its schema"):
            codec.encode(7, schema, misfit)


# --- schemas ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "1",
        "null",
        '"unheard"',
        '{"type": "record"}',
        '{"type": "record", "name": "R", "fields": [{}]}',
    ],
)
def test_what_is_no_schema(text: str) -> None:
    with pytest.raises(ValueError, match="not a valid Avro schema"):
        codec.parse_schema(text)


@pytest.mark.parametrize("levels", [300, 1000, 5000])
def test_a_schema_nested_too_deeply_is_refused_not_fatal(levels: int) -> None:
    text = '{"type":"array","items":' * levels + '"int"' + "}" * levels
    with pytest.raises(ValueError, match=r"deep|depth"):
        codec.canonical(text)
    if levels > 300:
        with pytest.raises(ValueError, match=r"deep|depth"):
            codec.parse_schema(text)


def test_without_logical_types_values_stay_primitives() -> None:
    tree = record({"type": "long", "logicalType": "timestamp-millis"})
    assert codec.decode(HEADER + b"\x02", parsed(tree, logical_types=False)) == {"f0": 1}
    assert codec.decode(HEADER + b"\x02", parsed(tree))["f0"].year == 1970


def test_every_own_schema_but_those_with_a_reference_stands_alone() -> None:
    folder = Path(codec.__file__).parent / "avro"
    for name in {file.stem for file in folder.glob("*.avsc")} - {"dead_letter.v1", "dead_letter.v2"}:
        codec.parse_schema(codec.own_schema(name))


def test_an_id_depends_on_meaning_only() -> None:
    plain = '{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":1}]}'
    field = '{"doc": "!", "default": 1, "type": "int", "name": "a"}'
    same = f' {{"fields": [{field}], "doc": "d", "name": "R", "type": "record"}}'
    other = plain.replace('"default":1', '"default":2')
    assert codec.content_id(plain) == codec.content_id(same)
    assert codec.content_id(plain) != codec.content_id(other)
    assert 1 <= codec.content_id(plain) < 2**31


def test_a_default_with_a_key_named_doc_is_meaning() -> None:
    tree = record({"type": "map", "values": "int"})
    tree["fields"][0]["default"] = {"doc": 1}
    assert b'"doc":1' in codec.canonical(orjson.dumps(tree).decode())


# --- hostile schemas and bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tree",
    [
        record(array("null")),
        record(array({"type": "null"})),
        array(record()),
        array(record("null", "null")),
        array({"type": "fixed", "name": "F", "size": 0}),
        record({"type": "fixed", "name": "F", "size": 0}, array("F")),
        record(record("null", name="E"), array("E")),
        record({"type": "map", "values": array("null")}),
        record(["null", array("null")]),
        array({"type": "record", "name": "N", "fields": [{"name": "n", "type": "N"}]}),
    ],
)
def test_an_array_whose_items_take_no_bytes_is_refused(tree: Any) -> None:
    with pytest.raises(ValueError, match="items of an array take no bytes"):
        parsed(tree)


def test_looking_for_bytes_looks_into_each_record_once() -> None:
    tree = record("null", name="T0")
    for level in range(1, 41):
        tree = record(tree, tree["name"], name=f"T{level}")
    with pytest.raises(ValueError, match="items of an array take no bytes"):
        parsed(array(tree))


@pytest.mark.parametrize(
    "tree",
    [
        record("null"),
        record({"type": "map", "values": "null"}),
        array(["null"]),
        array(array("int")),
        array(record("null", "int")),
        array({"type": "enum", "name": "E", "symbols": ["A"]}),
        {"type": "record", "name": "Tree", "fields": [{"name": "children", "type": array("Tree")}]},
    ],
)
def test_other_arrays_and_empty_things_are_not_refused(tree: Any) -> None:
    parsed(tree)


def test_a_record_that_contains_itself_decodes() -> None:
    assert codec.decode(HEADER + b"\x02\x02\x00", parsed(NODE)) == {"next": {"next": {"next": None}}}


# A process of its own: what these guard against kills the process or hangs it.
DEEP = """
from schemas import codec
from schemas.errors import UndecodableError
import orjson, sys
writer, reader, payload = orjson.loads(sys.argv[1])
schema = codec.parse_schema(orjson.dumps(writer).decode())
reader = reader and codec.parse_schema(orjson.dumps(reader).decode())
try:
    codec.decode(codec.wire_header(7) + bytes([payload]) * 500_000, schema, reader)
except UndecodableError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        (NODE, None),
        (record(NODE, "int"), record("string", name="R") | {"fields": []}),  # skipped by the reader
        ({"type": "record", "name": "N", "fields": [{"name": "n", "type": "N"}]}, None),
        (record({"type": "map", "values": NODE}, array("Node"), "Node"), None),
    ],
)
def test_no_depth_of_data_ends_the_process(writer: Any, reader: Any) -> None:
    arguments = orjson.dumps([writer, reader, 2]).decode()
    command = [sys.executable, "-c", DEEP, arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "Error" in done.stdout or "ends before" in done.stdout) == (0, True), done.stderr


def test_a_record_that_contains_itself_in_a_union_at_the_top_is_refused() -> None:
    with pytest.raises(ValueError, match="union at the top"):
        parsed(["null", NODE])


@pytest.mark.parametrize(
    "kind",
    [
        {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
        {"type": "fixed", "name": "F", "size": 4097, "logicalType": "decimal", "precision": 9, "scale": 2},
    ],
)
def test_a_decimal_of_many_bytes_is_refused(kind: Any) -> None:
    payload = b"\x01" * 4097
    if kind["type"] == "bytes":
        payload = codec.put_bytes(payload)
    with pytest.raises(UndecodableError, match="a decimal of 4097 bytes"):
        codec.decode(HEADER + payload, parsed(record(kind)))


def test_an_ordinary_decimal_decodes_in_every_reader() -> None:
    kind = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
    assert codec.decode(HEADER + b"\x04\x00\x7b", parsed(record(kind))) == {"f0": Decimal("1.23")}
    node = {**NODE, "fields": [*NODE["fields"], {"name": "price", "type": kind}]}
    assert codec.decode(HEADER + b"\x00\x04\x00\x7b", parsed(node)) == {
        "next": None,
        "price": Decimal("1.23"),
    }


# --- primitives ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "data"),
    [
        (codec.get_long, b""),
        (codec.get_long, b"\x80"),
        (codec.get_long, b"\x80" * 11 + b"\x00"),
        (codec.get_bytes, b"\x04a"),
        (codec.get_bytes, b"\x01aa"),
        (codec.get_string, b"\x04a"),
    ],
)
def test_reading_past_the_end_is_an_index_error(read: Any, data: bytes) -> None:
    with pytest.raises(IndexError):
        read(data, 0)
