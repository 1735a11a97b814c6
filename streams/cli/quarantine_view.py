"""`quarantine`: how a quarantined record is shown, as a line, as a page, and as JSON.

A page has the value decoded as far as possible, what the registry says of its schema now, and what would become of the
record. This file reads no topic.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import orjson

from schemas import codec
from schemas.errors import UndecodableError, UnknownSchemaError
from streams.cli.output import clean
from streams.cli.quarantine_check import Judge
from streams.cli.quarantine_log import Discarded, Quarantined
from streams.cli.values import Values, iso
from streams.ports import Registry

#: Bytes of the value that a page shows; `--raw` has all.
DUMPED_BYTES = 512
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


def one_line(document: dict[str, Any]) -> tuple[str, str]:
    """(line, style) of what `described` says, with `resent` and `discarded`."""
    resent = "  resent" if document["resent"] else "  discarded" if document["discarded"] else ""
    line = (
        f"{document['place']}  {document['time']}  {document['reason']}  from {document['source'] or '?'}"
        f"  {document['size_bytes']} bytes{resent}  {document['detail']}"
    )
    return line, "dim" if resent else "yellow"


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


# --- for people -----------------------------------------------------------------------------------------------------


def lines(document: dict[str, Any], value: bytes | None) -> Iterator[str]:
    """The page for people; `value` is dumped unless it is None."""
    yield _row("place", document["place"] + ("  (resent)" if document["resent"] else ""))
    if discarded := document["discarded"]:
        yield _row("discarded", f"{discarded['time']}  by {discarded['by']}: {discarded['why']}")
    yield _row("time", document["time"])
    yield _row("reason", f"{document['reason']}: {document['detail']}")
    first = "" if document["original"] == document["source"] else f", and at first {document['original']}"
    yield _row("from", (document["source"] or "?") + first)
    yield _row("key", "-" if document["key"] is None else document["key"])
    for header in document["headers"]:
        yield _row("header", f"{header['name']}: {header['value']}")
    yield _row("schema", _schema_line(document["schema"]))
    yield _row("value", f"{document['size_bytes']} bytes")
    if value:
        yield from hex_dump(value[:DUMPED_BYTES])
        if len(value) > DUMPED_BYTES:
            yield f"{'':10}… {len(value) - DUMPED_BYTES} bytes more (--raw writes all)"
    yield _row("decoded", _json(document["value"]) if "value" in document else f"no: {document['value_error']}")
    now = document["now"]
    if now["accepted"]:
        yield _row("now", f"it would be accepted, as {_json(now['as'])}")
    else:
        yield _row("now", f"it would come back: {now['reason']}: {now['detail']}")


def hex_dump(data: bytes) -> Iterator[str]:
    """Sixteen bytes a line: the offset, the bytes in hexadecimal, and those that are ASCII as text."""
    for at in range(0, len(data), 16):
        part = data[at : at + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        yield f"{'':10}{at:04x}  {part.hex(' '):<47}  {text}"


def _row(name: str, text: str) -> str:
    return clean(f"{name:<10}{text}")


def _schema_line(schema: dict[str, Any] | None) -> str:
    if schema is None:
        return "the value does not name one"
    if not schema["known"]:
        return f"id {schema['id']}, which the registry does not have"
    versions = ", ".join(f"{each['subject']} v{each['version']}" for each in schema["versions"])
    return f"id {schema['id']}: {schema.get('name') or schema.get('detail')} ({versions or 'under no subject'})"


def _json(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _text(raw: bytes | None) -> str | None:
    """As text, or in hexadecimal when it is none."""
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return f"0x{raw.hex()}"
