"""Values of records for people and programs: decoded by the registry's schema, and made JSON.

The writer's schema alone decides: what is shown is what was written, in any version, also of records that are not ours.
"""

from __future__ import annotations

import base64
import datetime
from typing import Any

import orjson

from schemas import codec
from streams.ports import Registry


class Values:
    """Decodes framed values."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._schemas: dict[int, codec.Schema] = {}

    async def decode(self, value: bytes | None) -> Any:
        """What the value says, ready for JSON.

        UndecodableError, UnknownSchemaError, RegistryUnavailableError, or ValueError for a schema that is none.
        """
        schema_id = codec.wire_schema_id(value)
        schema = self._schemas.get(schema_id)
        if schema is None:
            schema = self._schemas[schema_id] = codec.parse_schema(await self._registry.schema(schema_id))
        assert value is not None  # wire_schema_id refuses it
        return readable(codec.decode(value, schema))


def readable(value: Any) -> Any:
    """As JSON has it: bytes as the JSON or text that they hold, else as base64; times as RFC 3339."""
    match value:
        case dict():
            return {str(name): readable(each) for name, each in value.items()}
        case list() | tuple():
            return [readable(each) for each in value]
        case bytes():
            return _text(value)
        case datetime.datetime():
            return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        case None | bool() | float() | str():
            return value
        case int():
            return value if -(2**63) <= value < 2**64 else str(value)
    return str(value)


def _text(raw: bytes) -> Any:
    if raw[:1] in (b"{", b"["):
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError:
            pass
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return base64.b64encode(raw).decode()


def iso(ms: int) -> str:
    """RFC 3339 in UTC; `-` for a time that is not known."""
    if ms <= 0:
        return "-"
    moment = datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
