"""`quarantine`: how a quarantined record is shown to people, as a line and as a page.

What is said of it is made in `streams/quarantine_page.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from streams.cli.output import clean, many

#: Bytes of the value that a page shows; `--raw` has all.
DUMPED_BYTES = 512


def one_line(document: dict[str, Any]) -> tuple[str, str]:
    """(line, style) of what `described` says, with `resent` and `discarded`."""
    resent = "  resent" if document["resent"] else "  discarded" if document["discarded"] else ""
    line = (
        f"{document['place']}  {document['time']}  {document['reason']}  from {document['source'] or '?'}"
        f"  {document['size_bytes']} bytes{resent}  {document['detail']}"
    )
    return line, "dim" if resent else "yellow"


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
    yield _row("value", many(document["size_bytes"], "byte"))
    if value:
        yield from hex_dump(value[:DUMPED_BYTES])
        if len(value) > DUMPED_BYTES:
            yield f"{'':10}… {many(len(value) - DUMPED_BYTES, 'byte')} more (--raw writes all)"
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
