"""Avro on Kafka: the Confluent wire format, schemas as text, and the primitives of the hand-written encoders.

Wire format: one byte 0, the schema id as four bytes big-endian, then the Avro binary encoding; resolution is
fastavro's. This file does not fetch schemas (`connectors/registry.py`) and knows no record of ours
by name.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any, TypeVar, cast

import fastavro
import msgspec
import orjson
from fastavro import _read_py as fastavro_python
from fastavro.read import LOGICAL_READERS
from fastavro.schema import SchemaParseException

from schemas.errors import UndecodableError, UnresolvableError

MAGIC = b"\x00"
_HEADER = struct.Struct(">bI")
HEADER_BYTES = _HEADER.size

Schema = dict[str, Any]
T = TypeVar("T")


# --- the wire format ----------------------------------------------------------------------------------------


def wire_header(schema_id: int) -> bytes:
    """The five bytes before the Avro payload."""
    return _HEADER.pack(0, schema_id)


def wire_schema_id(value: bytes | None) -> int:
    """The schema id of a framed value. UndecodableError: `no_value`, `truncated` or `wrong_magic`."""
    if value is None:
        raise UndecodableError("no_value", "the record has no value")
    if len(value) < HEADER_BYTES:
        detail = f"{len(value)} bytes are too few for the wire format's header of {HEADER_BYTES}"
        raise UndecodableError("truncated", detail)
    magic, schema_id = _HEADER.unpack_from(value)
    if magic != 0:
        detail = f"the first byte is {value[0]:#04x}, not 0x00: not in Confluent's wire format"
        raise UndecodableError("wrong_magic", detail)
    return cast(int, schema_id)


# --- schemas ------------------------------------------------------------------------------------------------


def own_schema(name: str) -> str:
    """The text of one of our schemas by its file's stem, as `delivery.v1`."""
    return resources.files("schemas").joinpath("avro", f"{name}.avsc").read_text("utf-8")


@cache
def own_schemas() -> tuple[tuple[str, int], ...]:
    """(record, version) of every schema of ours, in order."""
    names = (file.name.removesuffix(".avsc") for file in resources.files("schemas").joinpath("avro").iterdir())
    found = (name.rpartition(".v") for name in names)
    return tuple(sorted((stem, int(version)) for stem, _, version in found))


def canonical(schema: str) -> bytes:
    """The text of a schema without documentation and white space, keys sorted: equal for equal meaning to us.

    Avro's own Parsing Canonical Form also drops defaults, aliases and logical types, which change what a
    reader sees; schemas that differ in those must not share an id. ValueError when the text is not JSON or
    nested too deeply.
    """
    try:
        return orjson.dumps(_without_doc(orjson.loads(schema)), option=orjson.OPT_SORT_KEYS)
    except (RecursionError, TypeError):  # TypeError: orjson's own limit, of 254 levels
        raise ValueError("the schema is nested too deeply") from None


def _without_doc(node: Any) -> Any:
    if isinstance(node, dict):
        # "doc" is documentation only where a schema or field stands; a field's default may have such a key.
        return {key: value if key == "default" else _without_doc(value) for key, value in node.items() if key != "doc"}
    if isinstance(node, list):
        return [_without_doc(item) for item in node]
    return node


def content_id(schema: str) -> int:
    """A schema id that depends only on the canonical text: 1 to 2^31 - 1, the same on every machine."""
    digest = hashlib.sha256(canonical(schema)).digest()
    return int.from_bytes(digest[:4], "big") % 0x7FFF_FFFF + 1


def parse_schema(schema: str, *, logical_types: bool = True) -> Schema:
    """Parse for `decode` and `encode`; ValueError with a sentence when it is not a valid Avro schema.

    With `logical_types=False`, values stay the primitives that they are encoded as. Refused besides: what
    would let a few bytes of data decode into any amount of memory (`_walk`).
    """
    try:
        tree = orjson.loads(schema)
        if not logical_types:
            tree = _without_logical_types(tree)
        # A dictionary of its own, since two versions of a record have the same name.
        parsed = fastavro.parse_schema(tree, named_schemas={})
        if _walk(parsed, {}, ()):
            if not isinstance(parsed, dict):
                raise ValueError("a record that contains itself is not supported inside a union at the top")
            parsed[RECURSIVE] = True
        return cast(Schema, parsed)
    except RecursionError:
        raise ValueError("not a valid Avro schema: nested too deeply") from None
    except (SchemaParseException, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a valid Avro schema: {error}") from None


#: Our mark in a parsed schema (fastavro ignores what it does not know): a record in it contains itself.
RECURSIVE = "__recursive__"


def _walk(node: Any, named: dict[str, Any], inside: tuple[str, ...]) -> bool:
    """Whether a record contains itself. ValueError for an array whose items take no bytes: its count alone,
    ten bytes, would be a loop of 2^63 turns. `named` collects definitions, `inside` names the records around.
    """
    if isinstance(node, str):
        return node in inside
    children = []
    if isinstance(node, list):
        children = node
    elif node["type"] in ("record", "error"):
        named[node["name"]] = node
        inside = (*inside, node["name"])
        children = [field["type"] for field in node["fields"]]
    elif node["type"] == "map":
        children = [node["values"]]
    elif node["type"] == "array":
        children = [node["items"]]
    elif node["type"] == "fixed":
        named[node["name"]] = node
    found = [_walk(child, named, inside) for child in children]  # all of them, also after the first True
    if isinstance(node, dict) and node["type"] == "array" and _takes_no_bytes(node["items"], named, set()):
        raise ValueError("the items of an array take no bytes")
    return any(found)


def _takes_no_bytes(node: Any, named: dict[str, Any], seen: set[str]) -> bool:
    """`seen` are records that were looked into: they are being so, or take none, as the first that does ends it all."""
    if isinstance(node, list):
        return False  # a union's branch number
    if isinstance(node, str):
        if node in named:
            return node in seen or _takes_no_bytes(named[node], named, seen)
        return node == "null"
    kind = node["type"]
    if kind in ("record", "error"):
        seen.add(node["name"])
        return all(_takes_no_bytes(field["type"], named, seen) for field in node["fields"])
    if kind == "fixed":
        return cast(int, node["size"]) == 0
    return bool(kind == "null")


def _without_logical_types(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: value if key == "default" else _without_logical_types(value)
            for key, value in node.items()
            if key != "logicalType"
        }
    if isinstance(node, list):
        return [_without_logical_types(item) for item in node]
    return node


def decode(value: bytes, writer: Schema, reader: Schema | None = None, *, named: bool = False) -> Any:
    """Decode a framed value by Avro's schema resolution. UndecodableError: `truncated` or `avro`.

    With `named`, what stands in a union beside other named types comes as (its type's name, value), as `encode` takes
    it.

    Bytes left over after the record count as undecodable too: it was written with another schema.
    """
    stream = io.BytesIO(value)
    stream.seek(HEADER_BYTES)
    # Of a record that contains itself, the data decides how deep it goes. fastavro's compiled reader then
    # runs over the C stack and takes the process with it; its Python one raises RecursionError.
    module = fastavro_python if RECURSIVE in writer else fastavro
    try:
        if named:
            result = module.schemaless_reader(
                stream, writer, reader, return_named_type=True, return_named_type_override=True
            )
        else:
            result = module.schemaless_reader(stream, writer, reader)
    except (EOFError, struct.error):
        raise UndecodableError("truncated", "the Avro payload ends before the record does") from None
    except UnresolvableError:  # of `schemas/resolution.py`, whose steps run inside fastavro's reader
        raise
    except Exception as error:  # noqa: BLE001 - fastavro raises what its parts raise: IndexError, OverflowError, ...
        raise UndecodableError("avro", f"{type(error).__name__}: {error}") from None
    if left := len(value) - stream.tell():
        raise UndecodableError("avro", f"{left} bytes follow the record: written with another schema")
    return result


def encode_struct(header: bytes, schema: Schema, value: msgspec.Struct) -> bytes:
    """The framed value of a struct that has the schema's fields; `header` is that of `wire_header`."""
    return encode(wire_schema_id(header), schema, msgspec.to_builtins(value, builtin_types=(bytes,)))


def decode_struct(value: bytes | None, schema: Schema, kind: type[T]) -> T:
    """The struct in a framed value that was written with the schema; UndecodableError when it was not: one of
    `wire_schema_id` and `decode`, or `avro` for fields that are not the struct's."""
    try:
        return msgspec.convert(decode_framed(value, schema), kind)
    except msgspec.ValidationError as error:
        raise UndecodableError("avro", str(error)) from None


def decode_framed(value: bytes | None, schema: Schema) -> Any:
    """The fields in a framed value that was written with the schema; UndecodableError as of `decode_struct`."""
    wire_schema_id(value)
    assert value is not None  # wire_schema_id refuses it
    return decode(value, schema)


def decode_whole(value: bytes | None, read: Callable[[bytes, int], tuple[T, int]], what: str) -> T:
    """What `read` makes of the bytes after the header of a framed value, of which nothing may be left.

    `read` gets the value and where to begin, and returns where it ended. UndecodableError: one of `wire_schema_id`,
    `truncated` or `avro`; `what` names the record in it.
    """
    wire_schema_id(value)
    assert value is not None  # wire_schema_id refuses it
    try:
        made, at = read(value, HEADER_BYTES)
    except IndexError:
        raise UndecodableError("truncated", f"the {what} ends before its last field") from None
    except UnicodeDecodeError as error:
        raise UndecodableError("avro", f"a string is not UTF-8: {error}") from None
    if at != len(value):
        raise UndecodableError("avro", f"{len(value) - at} bytes follow the {what}")
    return made


#: Digits cost quadratically: a decimal of 4 KiB takes 2 ms, one of 1 MiB more than 20 s.
DECIMAL_BYTES_MAX = 4096


def _bounded(read: Any) -> Any:
    def bounded(data: bytes, writer: Schema | None = None, reader: Schema | None = None) -> Any:
        if len(data) > DECIMAL_BYTES_MAX:
            raise ValueError(f"a decimal of {len(data)} bytes, more than {DECIMAL_BYTES_MAX}")
        return read(data, writer, reader)

    return bounded


for _readers in (LOGICAL_READERS, fastavro_python.LOGICAL_READERS):  # type: ignore[attr-defined]
    for _kind in ("bytes-decimal", "fixed-decimal"):
        _readers[_kind] = _bounded(_readers[_kind])


def encode(schema_id: int, schema: Schema, record: object) -> bytes:
    """A framed value. ValueError when the record does not fit the schema."""
    stream = io.BytesIO()
    stream.write(wire_header(schema_id))
    try:
        fastavro.schemaless_writer(stream, schema, record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"the record does not fit its schema: {error}") from None
    return stream.getvalue()


# --- primitives for hand-written encoders and decoders ------------------------------------------------------
# Avro 1.12 specification, "Binary encoding": int and long are zig-zag variable-length; string and bytes are a
# long and that many bytes. A hand-written encoder is four times as fast as fastavro's general one on our flat
# records; the property tests hold each to fastavro's answer.

_SMALL = tuple(bytes((n,)) if n < 128 else bytes((n & 0x7F | 0x80, n >> 7)) for n in range(16_384))
#: The same fourteen bits as two bytes that more follow.
_CONTINUED = tuple(bytes((n & 0x7F | 0x80, n >> 7 | 0x80)) for n in range(16_384))


def put_long(number: int) -> bytes:
    """Zig-zag varint of a 64-bit integer."""
    z = (number << 1) ^ (number >> 63)
    if z < 16_384:
        return _SMALL[z]
    if z < 1 << 42:  # times in milliseconds: fourteen bits at a time instead of seven
        if z < 1 << 28:
            return _CONTINUED[z & 0x3FFF] + _SMALL[z >> 14]
        return _CONTINUED[z & 0x3FFF] + _CONTINUED[z >> 14 & 0x3FFF] + _SMALL[z >> 28]
    out = bytearray()
    while z > 0x7F:
        out.append(z & 0x7F | 0x80)
        z >>= 7
    out.append(z)
    return bytes(out)


def put_bytes(data: bytes) -> bytes:
    """Length and data."""
    return put_long(len(data)) + data


def put_string(text: str) -> bytes:
    """Length in bytes and UTF-8."""
    return put_bytes(text.encode())


def get_long(data: bytes, at: int) -> tuple[int, int]:
    """(number, position after it). IndexError past the end."""
    byte = data[at]
    at += 1
    if byte < 0x80:  # one byte: lengths of ids and small counters, by far the most
        return (byte >> 1) ^ -(byte & 1), at
    z = byte & 0x7F
    shift = 7
    while True:
        byte = data[at]
        at += 1
        z |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (z >> 1) ^ -(z & 1), at
        shift += 7
        if shift > 63:
            raise IndexError("a variable-length integer of more than ten bytes")


def get_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    """(bytes, position after them). IndexError when the data ends before."""
    length, at = get_long(data, at)
    end = at + length
    if length < 0 or end > len(data):
        raise IndexError("a length that points past the end")
    return data[at:end], end


def get_string(data: bytes, at: int) -> tuple[str, int]:
    """(text, position after it). IndexError when the data ends before it, UnicodeDecodeError if not UTF-8."""
    raw, at = get_bytes(data, at)
    return raw.decode(), at
