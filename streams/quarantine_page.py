"""A quarantined record as JSON has it: in short, and all about it, decoded as far as possible.

All about it is also what the registry says of its schema now, and what would become of the record. This file reads no
topic.
"""

from __future__ import annotations

import base64
from typing import Any

from schemas import codec
from schemas.errors import UndecodableError, UnknownSchemaError
from streams.ports import Registry
from streams.quarantine_check import Judge
from streams.quarantine_log import Discarded, Quarantined
from streams.values import Values, iso

HIDDEN = "hidden, it may hold secrets (--reveal)"


def described(record: Quarantined) -> dict[str, Any]:
    """What a list says of it."""
    return {
        "place": str(record.place),
        "time": iso(record.time_ms),
        "key": _text(record.key),
        "reason": record.reason,
        "detail": record.detail,
        "source": None if record.source is None else str(record.source),
        "original": None if record.original is None else str(record.original),
        "size_bytes": len(record.value or b""),
    }


def told(marker: Discarded | None) -> dict[str, str] | None:
    """Who discarded it, and why; None for nobody."""
    return None if marker is None else {"time": iso(marker.time_ms), "by": marker.by, "why": marker.why}


async def page(record: Quarantined, registry: Registry, judge: Judge) -> dict[str, Any]:
    """All about it. RegistryUnavailableError."""
    document = described(record)
    document["headers"] = [{"name": name, "value": _text(value)} for name, value in record.headers]
    value = record.value
    document["value_base64"] = None if value is None else base64.b64encode(value).decode()
    document["schema"] = await _schema(value, registry)
    try:
        document["value"] = await Values(registry).decode(value)
    except (UndecodableError, UnknownSchemaError, ValueError) as error:
        document["value_error"] = str(error)
    document["now"] = await _now(record, judge)
    return document


async def _schema(value: bytes | None, registry: Registry) -> dict[str, Any] | None:
    """What the registry says of the schema that the value names; None when it names none."""
    try:
        schema_id = codec.wire_schema_id(value)
    except UndecodableError:
        return None
    try:
        text = await registry.schema(schema_id)
    except UnknownSchemaError as error:
        return {"id": schema_id, "known": False, "detail": str(error)}
    versions = [{"subject": subject, "version": version} for subject, version in await registry.versions_of(schema_id)]
    try:
        parsed: Any = codec.parse_schema(text)
    except ValueError as error:
        return {"id": schema_id, "known": True, "versions": versions, "detail": str(error)}
    name = parsed.get("name", parsed.get("type", "")) if isinstance(parsed, dict) else ""
    return {"id": schema_id, "known": True, "versions": versions, "name": name}


async def _now(record: Quarantined, judge: Judge) -> dict[str, Any]:
    if record.source is None:
        return {"accepted": False, "reason": "no_source", "detail": "its headers do not say where it came from"}
    try:
        document = await judge.judge(record.source.topic, record.key, record.value, record.headers, record.time_ms)
    except UndecodableError as error:
        return {"accepted": False, "reason": error.reason, "detail": error.detail}
    return {"accepted": True, "as": document}


def hidden(document: dict[str, Any]) -> dict[str, Any]:
    """The page without what may be secret."""
    kept = {name: value for name, value in document.items() if name not in ("value", "value_error", "value_base64")}
    now = document["now"]
    return kept | {"value": HIDDEN, "now": now | {"as": HIDDEN} if "as" in now else now}


def _text(raw: bytes | None) -> str | None:
    """As text, or in hexadecimal when it is none."""
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return f"0x{raw.hex()}"
