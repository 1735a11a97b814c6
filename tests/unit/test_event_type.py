"""Event types: the rules of their fields, and their record."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schemas import codec
from schemas.errors import UndecodableError
from schemas.event_type import (
    DESCRIPTION_CHARACTERS_MAX,
    EXAMPLE_BYTES_MAX,
    EventType,
    InvalidEventTypeError,
    checked_type,
    decode_event_type,
    encode_event_type,
)

HEADER = codec.wire_header(3)


def test_a_record_comes_back_and_has_the_fields_of_its_schema() -> None:
    full = EventType(
        name="order.created",
        description="An order was placed.",
        group="Orders",
        schema="shop.Order",
        example='{"number":1}',
        deprecated=True,
        created_ms=1,
        updated_ms=2,
    )
    for each in (full, EventType(name="a")):
        assert decode_event_type(encode_event_type(HEADER, each)) == each
    fields = codec.parse_schema(codec.own_schema("event_type.v1"))["fields"]
    ours = msgspec.structs.fields(EventType)
    assert [each["name"] for each in fields] == [each.name for each in ours]
    assert [each.get("default", msgspec.NODEFAULT) for each in fields] == [each.default for each in ours]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "order created"}, "name: 'order created'"),
        ({"name": "order.*"}, "name"),
        ({"description": "x" * (DESCRIPTION_CHARACTERS_MAX + 1)}, "description: longer than 4096 characters"),
        ({"group": "x" * 129}, "group"),
        ({"schema": "x" * 257}, "schema"),
        ({"example": "{"}, "example: not JSON"),
        ({"example": '"' + "x" * EXAMPLE_BYTES_MAX + '"'}, "example: longer than"),
    ],
)
def test_one_that_cannot_be_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidEventTypeError, match=said):
        checked_type(EventType(**({"name": "a"} | fields)))


def test_a_record_that_is_none_is_refused() -> None:
    with pytest.raises(UndecodableError) as refused:
        decode_event_type(encode_event_type(HEADER, EventType(name="a b")))
    assert refused.value.reason == "bad_field"
    with pytest.raises(UndecodableError):
        decode_event_type(HEADER + b"\x02")
    with pytest.raises(UndecodableError):
        decode_event_type(None)
