"""The JSON form of Avro values: what each type and logical type looks like in a rendered document.

It works on values as they are encoded, so that nothing is lost on the way: a timestamp is its 64-bit integer, a decimal
its bytes. This file does not decode and does not resolve schemas (`schemas/resolution.py`).
"""

from __future__ import annotations

import base64
import datetime
import uuid
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from typing import Any

import orjson

from schemas.codec import DECIMAL_BYTES_MAX, get_bytes, get_long
from schemas.errors import UndecodableError

#: From the value as it is encoded (int, str or bytes) to its JSON form. ValueError with a sentence when it has none.
Form = Callable[[Any], Any]

#: Logical types that are taken for what they are, each with the types it may stand on (Avro 1.12, "Logical Types").
#: On any other type, and under any other name, a logical type is ignored, as the specification has it.
LOGICAL_BASES: dict[str, tuple[str, ...]] = {
    "date": ("int",),
    "time-millis": ("int",),
    "time-micros": ("long",),
    "timestamp-millis": ("long",),
    "timestamp-micros": ("long",),
    "timestamp-nanos": ("long",),
    "local-timestamp-millis": ("long",),
    "local-timestamp-micros": ("long",),
    "local-timestamp-nanos": ("long",),
    "decimal": ("bytes", "fixed"),
    "big-decimal": ("bytes",),
    "uuid": ("string", "fixed"),
    "duration": ("fixed",),
}
#: Fractions of a second, as a power of ten.
DIGITS = {"millis": 3, "micros": 6, "nanos": 9}
_FIXED_SIZES = {"uuid": 16, "duration": 12}
_DAY_MINUTES = 24 * 60
_EPOCH_ORDINAL = datetime.date(1970, 1, 1).toordinal()
_LAST_ORDINAL = datetime.date.max.toordinal()


_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")


def on_one_line(json: bytes) -> bytes:
    """The same JSON without line ends, for formats with a document on each line: in valid JSON, a raw line end is never
    inside a text, so it is white space (RFC 8259, sections 2 and 7)."""
    return json.translate(_LINE_ENDS)


def logical_type(node: Any) -> str | None:
    """The logical type of a schema's node (parsed); None when it has none, or one that does not fit and is ignored."""
    if not isinstance(node, dict):
        return None
    name = node.get("logicalType")
    if not isinstance(name, str) or node["type"] not in LOGICAL_BASES.get(name, ()):
        return None
    if node["type"] == "fixed" and name in _FIXED_SIZES and node["size"] != _FIXED_SIZES[name]:
        return None
    return name


def form_of(node: Any) -> Form | None:
    """How values of a schema's node without children are rendered; None when they are JSON already."""
    name = logical_type(node)
    if name is None:
        kind = node["type"] if isinstance(node, dict) else node
        return _base64 if kind in ("bytes", "fixed") else None
    match name:
        case "date":
            return _date
        case "decimal":
            scale = node.get("scale", 0)
            return lambda data: decimal_text(data, scale)
        case "big-decimal":
            return _big_decimal
        case "uuid":
            return _uuid if node["type"] == "fixed" else None
        case "duration":
            return _duration
    digits = DIGITS[name.rpartition("-")[2]]
    if name.startswith("time-"):
        return lambda number: _time(number, digits)
    if name.startswith("local-"):
        return lambda number: moment_text(number, digits)
    return lambda number: moment_text(number, digits) + "Z"


def render_json(document: object) -> bytes:
    """A document, of JSON's own types, as UTF-8 JSON without white space. NaN and the infinities become null.

    UndecodableError `bad_data` for what JSON cannot say: text with half a surrogate pair, an integer beyond 64 bits.
    """
    try:
        return orjson.dumps(document)
    except TypeError as error:  # orjson.JSONEncodeError is one
        raise UndecodableError("bad_data", f"the record cannot be written as JSON: {error}") from None


# --- each form ----------------------------------------------------------------------------------------------


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@lru_cache(1024)  # a memo: events of a day share their date, and those of a minute more
def _date(days: int) -> str:
    ordinal = _EPOCH_ORDINAL + days
    if not 1 <= ordinal <= _LAST_ORDINAL:
        raise ValueError(f"{days} days since 1970 is a date outside of the years 1 to 9999")
    return datetime.date.fromordinal(ordinal).isoformat()


def _time(number: int, digits: int) -> str:
    if not 0 <= number < _DAY_MINUTES * 60 * 10**digits:
        raise ValueError(f"a time of {number} is not within a day")
    return moment_text(number, digits)[len("1970-01-01T") :]


def moment_text(number: int, digits: int) -> str:
    """A time since 1970 in units of 10^-digits seconds, as `2026-11-22T10:00:00.123`: always that many digits."""
    second = 10**digits
    minute, rest = divmod(number, 60 * second)
    return f"{_minute(minute)}{rest // second:02}.{rest % second:0{digits}}"


@lru_cache(1024)
def _minute(minutes: int) -> str:
    days, minutes = divmod(minutes, _DAY_MINUTES)
    return f"{_date(days)}T{minutes // 60:02}:{minutes % 60:02}:"


def decimal_text(data: bytes, scale: int) -> str:
    """A two's-complement integer times 10^-scale, in plain digits with `scale` of them after the point.

    Nothing is rounded, also where the value has more digits than the schema's precision says.
    """
    if scale > DECIMAL_BYTES_MAX:
        raise ValueError(f"a decimal with a scale of {scale}, more than {DECIMAL_BYTES_MAX}")
    if len(data) > DECIMAL_BYTES_MAX:
        raise ValueError(f"a decimal of {len(data)} bytes, more than {DECIMAL_BYTES_MAX}")
    number = int.from_bytes(data, "big", signed=True)
    # By way of Decimal where it may be long: the plain conversion is refused by Python beyond 4,300 digits.
    digits = str(abs(number)) if len(data) < 100 else str(Decimal(abs(number)))
    sign = "-" if number < 0 else ""
    if scale == 0:
        return sign + digits
    if len(digits) <= scale:
        digits = digits.rjust(scale + 1, "0")
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}"


def _big_decimal(data: bytes) -> str:
    try:
        unscaled, at = get_bytes(data, 0)
        scale, at = get_long(data, at)
    except IndexError:
        raise ValueError("a big-decimal that ends before its scale does") from None
    if scale < 0:
        raise ValueError(f"a big-decimal with a scale of {scale}, less than 0")
    return decimal_text(unscaled, scale)


def _uuid(data: bytes) -> str:
    return str(uuid.UUID(bytes=data))


def _duration(data: bytes) -> str:
    months, days, millis = (int.from_bytes(data[at : at + 4], "little") for at in (0, 4, 8))
    return f"P{months}M{days}DT{millis // 1000}.{millis % 1000:03}S"
