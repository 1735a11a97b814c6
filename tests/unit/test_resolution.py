"""Avro 1.12, "Schema Resolution": each rule as a case, and where fastavro's own resolution deviates from it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from schemas import codec
from schemas.errors import UnresolvableError
from schemas.resolution import Resolver


def text(tree: Any) -> str:
    return orjson.dumps(tree).decode()


def record(*fields: Any, name: str = "R", **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def field(name: str, kind: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


def resolved(writer: Any, value: Any, reader: Any) -> Any:
    raw = codec.encode(7, codec.parse_schema(text(writer), logical_types=False), value)
    return Resolver(text(writer), text(reader)).record(raw)


def test_a_record_becomes_the_document_of_a_newer_one() -> None:
    writer = record(field("n", "int"), field("gone", "string"))
    reader = record(field("added", "string", default="x"), field("number", "double", aliases=["n"]))
    document = resolved(writer, {"n": 3, "gone": "-"}, reader)
    assert (document, list(document)) == ({"added": "x", "number": 3.0}, ["added", "number"])


def test_the_place_of_what_cannot_be_read() -> None:
    def order(*symbols: str) -> Any:
        line = record(field("status", {"type": "enum", "name": "S", "symbols": list(symbols)}), name="L")
        return record(field("lines", {"type": "array", "items": line}))

    with pytest.raises(UnresolvableError, match="the symbol B is unknown to enum S") as caught:
        resolved(order("A", "B"), {"lines": [{"status": "A"}, {"status": "B"}]}, order("A"))
    assert caught.value.path == "$.lines[1].status"


def test_what_no_record_can_be_read_as_is_refused_at_once() -> None:
    with pytest.raises(UnresolvableError, match="has no default") as caught:
        Resolver(
            text(record(field("a", record(name="A")))), text(record(field("a", record(field("b", "int"), name="A"))))
        )
    assert caught.value.path == "$.a.b"
