"""The JSON form of each type and logical type, at its limits, without loss."""

from __future__ import annotations

import base64
import datetime
import math
import uuid
from decimal import Decimal
from typing import Any

import fastavro
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec
from schemas.errors import UndecodableError
from schemas.rendering import form_of, logical_type, render_json
from schemas.resolution import Resolver
from tests.avro import decimal, field, fixed, logical, record, text, written

UTC = datetime.UTC
DAY_MS = 86_400_000


def form(schema: Any, value: Any) -> Any:
    found = form_of(schema)
    assert found is not None
    return found(value)


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        (logical("int", "date"), 20_779, "2026-11-22"),
        (logical("int", "date"), -719_162, "0001-01-01"),
        (logical("int", "date"), 2_932_896, "9999-12-31"),
        (logical("int", "time-millis"), 0, "00:00:00.000"),
        (logical("int", "time-millis"), DAY_MS - 1, "23:59:59.999"),
        (logical("long", "time-micros"), 3_723_000_004, "01:02:03.000004"),
        (logical("long", "timestamp-millis"), 0, "1970-01-01T00:00:00.000Z"),
        (logical("long", "timestamp-millis"), -1, "1969-12-31T23:59:59.999Z"),
        (logical("long", "timestamp-millis"), 253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (logical("long", "timestamp-micros"), 1, "1970-01-01T00:00:00.000001Z"),
        (logical("long", "timestamp-nanos"), 1, "1970-01-01T00:00:00.000000001Z"),
        (logical("long", "timestamp-nanos"), 2**63 - 1, "2262-04-11T23:47:16.854775807Z"),
        (logical("long", "local-timestamp-millis"), 1, "1970-01-01T00:00:00.001"),
        (logical("long", "local-timestamp-micros"), 1, "1970-01-01T00:00:00.000001"),
        (logical("long", "local-timestamp-nanos"), 1, "1970-01-01T00:00:00.000000001"),
        (decimal(4, 2), b"", "0.00"),
        (decimal(4, 2), b"\x07", "0.07"),
        (decimal(4, 2), b"\xf9", "-0.07"),
        (decimal(4, 2), b"\x04\xd2", "12.34"),
        (decimal(4, 0), b"\xff\x7f", "-129"),
        (decimal(9, 9), b"\x01", "0.000000001"),
        (logical("bytes", "decimal", precision=4), b"\x04\xd2", "1234"),
        (fixed(2, logicalType="decimal", precision=4, scale=1), b"\xff\xff", "-0.1"),
        (logical("bytes", "big-decimal"), b"\x04\x04\xd2\x04", "12.34"),
        (fixed(16, logicalType="uuid"), bytes(range(16)), "00010203-0405-0607-0809-0a0b0c0d0e0f"),
        (fixed(12, logicalType="duration"), b"\x01\0\0\0\x02\0\0\0\xdb\x0d\0\0", "P1M2DT3.547S"),
        (fixed(12, logicalType="duration"), b"\xff" * 12, "P4294967295M4294967295DT4294967.295S"),
        ("bytes", b"\0\xff", "AP8="),
        (fixed(3), b"abc", "YWJj"),
    ],
)
def test_the_form_of_a_value(schema: Any, value: Any, expected: str) -> None:
    assert form(schema, value) == expected


@pytest.mark.parametrize(
    ("schema", "value", "sentence"),
    [
        (logical("int", "date"), -719_163, "outside of the years 1 to 9999"),
        (logical("int", "date"), 2_932_897, "outside of the years 1 to 9999"),
        (logical("int", "time-millis"), -1, "a time of -1 is not within a day"),
        (logical("int", "time-millis"), DAY_MS, "is not within a day"),
        (logical("long", "time-micros"), DAY_MS * 1000, "is not within a day"),
        (logical("long", "timestamp-millis"), 253_402_300_800_000, "outside of the years"),
        (logical("long", "timestamp-micros"), -(2**63), "outside of the years"),
        (decimal(4, 2), b"\x01" * 4097, "a decimal of 4097 bytes"),
        (decimal(9999, 5000), b"\x01", "a scale of 5000, more than 4096"),
        (logical("bytes", "big-decimal"), b"\x02\x01\x01", "a scale of -1, less than 0"),
        (logical("bytes", "big-decimal"), b"\x02\x01\xfe\xff\xff\xff\x0f", "a scale of 2147483647"),
        (logical("bytes", "big-decimal"), b"\x04\x01", "ends before its scale does"),
        (logical("bytes", "big-decimal"), b"\x02\x01", "ends before its scale does"),
    ],
)
def test_a_value_without_a_form(schema: Any, value: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        form(schema, value)


@pytest.mark.parametrize("schema", ["null", "boolean", "int", "long", "float", "double", "string", {"type": "string"}])
def test_what_json_has_itself_has_no_form(schema: Any) -> None:
    assert form_of(schema) is None


@pytest.mark.parametrize(
    "schema",
    [
        logical("long", "date"),
        logical("string", "decimal", precision=1),
        logical("int", "timestamp-millis"),
        logical("string", "duration"),
        fixed(11, logicalType="duration"),
        fixed(15, logicalType="uuid"),
        logical("int", "unheard-of"),
        logical("int", 3),  # type: ignore[arg-type]
        "int",
        ["int"],
    ],
)
def test_a_logical_type_that_does_not_fit_is_ignored(schema: Any) -> None:
    assert logical_type(schema) is None


# --- round trips: what people read back is what was written ---------------------------------------------------


@given(st.dates())
def test_dates(day: datetime.date) -> None:
    days = (day - datetime.date(1970, 1, 1)).days
    assert datetime.date.fromisoformat(form(logical("int", "date"), days)) == day


@given(st.datetimes(timezones=st.just(UTC)), st.sampled_from(["", "local-"]))
def test_moments(moment: datetime.datetime, local: str) -> None:
    micros = (moment - datetime.datetime(1970, 1, 1, tzinfo=UTC)) // datetime.timedelta(microseconds=1)
    found = form(logical("long", f"{local}timestamp-micros"), micros)
    assert datetime.datetime.fromisoformat(found) == (moment.replace(tzinfo=None) if local else moment)
    millis = form(logical("long", f"{local}timestamp-millis"), micros // 1000)
    assert found.startswith(millis.removesuffix("Z"))


@given(st.times())
def test_times_of_day(time: datetime.time) -> None:
    micros = ((time.hour * 60 + time.minute) * 60 + time.second) * 1_000_000 + time.microsecond
    assert datetime.time.fromisoformat(form(logical("long", "time-micros"), micros)) == time


@given(st.integers(-(10**60), 10**60), st.integers(0, 40))
def test_decimals(unscaled: int, scale: int) -> None:
    data = unscaled.to_bytes(30, "big", signed=True)
    sign, digits, exponent = Decimal(form(decimal(61, scale), data)).as_tuple()
    assert (int("".join(map(str, digits))) * (-1 if sign else 1), exponent) == (unscaled, -scale)


@pytest.mark.parametrize("size", [99, 100, 4096])
def test_long_decimals_lose_nothing(size: int) -> None:
    for first in (b"\x7f", b"\x80"):
        found = form(decimal(9, 2), first + b"\xff" * (size - 1))
        exact = Decimal(int.from_bytes(first + b"\xff" * (size - 1), "big", signed=True))
        sign, digits, _ = exact.as_tuple()
        plain = "".join(map(str, digits))
        assert found == f"{'-' if sign else ''}{plain[:-2]}.{plain[-2:]}"


@given(st.binary(max_size=50))
def test_bytes(data: bytes) -> None:
    assert base64.b64decode(form("bytes", data), validate=True) == data


@given(st.uuids())
def test_uuids(identity: uuid.UUID) -> None:
    assert uuid.UUID(form(fixed(16, logicalType="uuid"), identity.bytes)) == identity


def test_fastavro_writes_what_is_read_back() -> None:
    moment = datetime.datetime(2026, 11, 22, 10, 0, 0, 123_000, tzinfo=UTC)
    schema = record(
        field("day", logical("int", "date")),
        field("at", logical("long", "timestamp-millis")),
        field("price", decimal(9, 2)),
        field("ref", logical("string", "uuid")),
    )
    value = {"day": moment.date(), "at": moment, "price": Decimal("-18.49"), "ref": uuid.UUID(int=5)}
    raw = codec.encode(1, fastavro.parse_schema(schema, named_schemas={}), value)  # type: ignore[arg-type]
    assert orjson.loads(render_json(Resolver(text(schema)).record(raw))) == {
        "day": "2026-11-22",
        "at": "2026-11-22T10:00:00.123Z",
        "price": "-18.49",
        "ref": "00000000-0000-0000-0000-000000000005",
    }


# --- numbers and text -----------------------------------------------------------------------------------------


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_integer_is_exact_in_the_text(number: int) -> None:
    document = Resolver('"long"').record(written("long", number))
    assert render_json(document) == str(number).encode()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_in_json_is_null(number: float) -> None:
    assert render_json(Resolver('"double"').record(written("double", number))) == b"null"


@pytest.mark.parametrize("document", [{"n": 2**70}, {"s": {1, 2}}, {"t": "\ud800"}, {1: 2}, b""])
def test_what_json_cannot_say(document: object) -> None:
    with pytest.raises(UndecodableError) as caught:
        render_json(document)
    assert caught.value.reason == "bad_data"
