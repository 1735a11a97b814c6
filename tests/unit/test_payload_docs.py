"""docs/reference/payloads.md: its table has every type, and each example is what is rendered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from schemas.matching import kind_of
from schemas.rendering import LOGICAL_BASES, logical_type, render_json
from schemas.resolution import Resolver
from tests.avro import array, decimal, enum, field, fixed, logical, mapping, record, text, written

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "payloads.md"
MILLIS = 1_795_341_600_123
MICROS = MILLIS * 1000 + 456
NANOS = MICROS * 1000 + 789
OF_DAY = 36_000_123_456
WRITTEN: dict[str, tuple[Any, Any]] = {
    "null": ("null", None),
    "boolean": ("boolean", True),
    "int": ("int", 42),
    "long": ("long", 2**63 - 1),
    "float": ("float", 0.1),
    "double": ("double", 0.1),
    "string": ("string", "Ada"),
    "bytes": ("bytes", b"\0\xff"),
    "fixed": (fixed(3), b"abc"),
    "enum": (enum("PAID"), "PAID"),
    "array": (array("int"), [1, 2]),
    "map": (mapping("int"), {"a": 1}),
    "record": (record(field("id", "string"), field("note", ["null", "string"])), {"id": "o-1", "note": None}),
    "union": (["null", "string"], "Ada"),
    "date": (logical("int", "date"), 20_779),
    "time-millis": (logical("int", "time-millis"), OF_DAY // 1000),
    "time-micros": (logical("long", "time-micros"), OF_DAY),
    "timestamp-millis": (logical("long", "timestamp-millis"), MILLIS),
    "timestamp-micros": (logical("long", "timestamp-micros"), MICROS),
    "timestamp-nanos": (logical("long", "timestamp-nanos"), NANOS),
    "local-timestamp-millis": (logical("long", "local-timestamp-millis"), MILLIS),
    "local-timestamp-micros": (logical("long", "local-timestamp-micros"), MICROS),
    "local-timestamp-nanos": (logical("long", "local-timestamp-nanos"), NANOS),
    "decimal": (decimal(9, 2), (-1849).to_bytes(2, "big", signed=True)),
    "big-decimal": (logical("bytes", "big-decimal"), b"\x06\x02\xd2\x44\x08"),
    "uuid": (fixed(16, logicalType="uuid"), bytes(range(16))),
    "duration": (fixed(12, logicalType="duration"), b"\x01\0\0\0\x02\0\0\0\xdb\x0d\0\0"),
}
ROWS = re.findall(r"^\| `([\w-]+)` \|.*\| `(.*)` \|$", PAGE.read_text(), re.MULTILINE)


def test_every_type_has_a_row() -> None:
    assert [name for name, _ in ROWS] == list(WRITTEN)
    assert set(LOGICAL_BASES) <= set(WRITTEN)


@pytest.mark.parametrize(("name", "example"), ROWS)
def test_each_example_is_what_is_rendered(name: str, example: str) -> None:
    schema, value = WRITTEN[name]
    assert (logical_type(schema) or kind_of(schema)) == name
    assert render_json(Resolver(text(schema)).record(written(schema, value))).decode() == example
