"""What is said of an event type: its description, its schema, an example.

One for the whole installation, not for each tenant. This file asks no registry whether the schema exists.
"""

from __future__ import annotations

import msgspec
import orjson

from schemas import codec
from schemas.errors import InvalidSubscriptionError, UndecodableError
from schemas.subscription import check_event_type

DESCRIPTION_CHARACTERS_MAX = 4_096
GROUP_CHARACTERS_MAX = 128
SUBJECT_CHARACTERS_MAX = 256
EXAMPLE_BYTES_MAX = 64 << 10


class InvalidEventTypeError(ValueError):
    """An event type that must not be kept; the message names the field."""


class EventType(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Field for field `schemas/avro/event_type.v1.avsc`. Times are milliseconds since the epoch; 0 for unknown."""

    name: str
    description: str = ""
    group: str = ""
    schema: str = ""
    example: str = ""
    deprecated: bool = False
    created_ms: int = 0
    updated_ms: int = 0


def checked_type(event_type: EventType) -> EventType:
    """The event type when every rule of its fields holds; InvalidEventTypeError otherwise."""
    try:
        check_event_type(event_type.name)
    except InvalidSubscriptionError:
        raise InvalidEventTypeError(f"name: {event_type.name[:80]!r} is not dotted segments") from None
    for field, most in (
        ("description", DESCRIPTION_CHARACTERS_MAX),
        ("group", GROUP_CHARACTERS_MAX),
        ("schema", SUBJECT_CHARACTERS_MAX),
    ):
        if len(getattr(event_type, field)) > most:
            raise InvalidEventTypeError(f"{field}: longer than {most} characters")
    if len(event_type.example.encode()) > EXAMPLE_BYTES_MAX:
        raise InvalidEventTypeError(f"example: longer than {EXAMPLE_BYTES_MAX} bytes")
    if event_type.example:
        try:
            orjson.loads(event_type.example)
        except orjson.JSONDecodeError as error:
            raise InvalidEventTypeError(f"example: not JSON: {error}") from None
    return event_type


_SCHEMA = codec.parse_schema(codec.own_schema("event_type.v1"))


def encode_event_type(header: bytes, event_type: EventType) -> bytes:
    """The framed value of event_type.v1; `header` is that of `codec.wire_header`."""
    return codec.encode_struct(header, _SCHEMA, event_type)


def decode_event_type(value: bytes | None) -> EventType:
    """The event type in a framed value that was written with event_type.v1; UndecodableError when it was not."""
    try:
        return checked_type(codec.decode_struct(value, _SCHEMA, EventType))
    except InvalidEventTypeError as error:
        raise UndecodableError("bad_field", str(error)) from None
