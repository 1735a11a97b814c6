"""Avro schemas and records for tests, in few words."""

from __future__ import annotations

from typing import Any

import orjson

from schemas import codec


def text(tree: Any) -> str:
    """A schema as it stands in a registry."""
    return orjson.dumps(tree).decode()


def record(*fields: Any, name: str = "R", **more: Any) -> dict[str, Any]:
    """A record's schema."""
    return {"type": "record", "name": name, "fields": list(fields), **more}


def field(name: str, kind: Any, **more: Any) -> dict[str, Any]:
    """A field of it."""
    return {"name": name, "type": kind, **more}


def array(items: Any) -> dict[str, Any]:
    """An array's schema."""
    return {"type": "array", "items": items}


def mapping(values: Any) -> dict[str, Any]:
    """A map's schema."""
    return {"type": "map", "values": values}


def enum(*symbols: str, name: str = "E", **more: Any) -> dict[str, Any]:
    """An enum's schema."""
    return {"type": "enum", "name": name, "symbols": list(symbols), **more}


def fixed(size: int, name: str = "F", **more: Any) -> dict[str, Any]:
    """A fixed's schema."""
    return {"type": "fixed", "name": name, "size": size, **more}


def logical(kind: str, name: str, **more: Any) -> dict[str, Any]:
    """A logical type on a primitive."""
    return {"type": kind, "logicalType": name, **more}


def decimal(precision: int, scale: int) -> dict[str, Any]:
    """A decimal on bytes."""
    return logical("bytes", "decimal", precision=precision, scale=scale)


def written(schema: Any, value: Any) -> bytes:
    """The framed value of a record whose logical types are the primitives underneath."""
    return codec.encode(7, codec.parse_schema(text(schema), logical_types=False), value)
