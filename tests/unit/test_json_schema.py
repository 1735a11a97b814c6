"""JSON Schema of documents: each type, what it takes, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from schemas.json_schema import DIALECT, json_schema
from tests.avro import array, decimal, enum, field, fixed, logical, mapping, record, text


def takes(schema: Any, document: Any) -> bool:
    found = json_schema(text(schema))
    Draft202012Validator.check_schema(found)
    return Draft202012Validator(found).is_valid(document)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ("null", [None], [0, ""]),
        ("boolean", [True, False], [0, None]),
        ("int", [-(2**31), 2**31 - 1], [2**31, -(2**31) - 1, 1.5, "1", True]),
        ("long", [-(2**63), 2**63 - 1], [2**63, "1"]),
        ("double", [1.5, 1, None], ["NaN", True]),
        ("float", [1.5, None], ["1"]),
        ("string", ["", "é"], [None, 1]),
        ("bytes", ["", "YQ=="], [None, 1]),
        (fixed(3), ["YWJj"], ["", "YWI=YWI=", 1]),
        (fixed(4), ["YWJjZA=="], ["YWJj"]),
        (enum("A", "B"), ["A"], ["C", 0]),
        (array("int"), [[], [1]], [["a"], {}]),
        (mapping("int"), [{}, {"a": 1}], [{"a": "b"}, []]),
        (["null", "string"], [None, "a"], [1]),
        ([], [], [None, 1, {}]),
        (record(field("a", "int")), [{"a": 1}], [{}, {"a": 1, "b": 2}, {"a": "1"}, []]),
        (logical("int", "date"), ["2026-11-22"], ["2026-11-22T00:00:00.000Z", 20_000]),
        (logical("int", "time-millis"), ["10:00:00.123"], ["10:00:00", "10:00:00.123456"]),
        (logical("long", "time-micros"), ["10:00:00.123456"], ["10:00:00.123"]),
        (
            logical("long", "timestamp-millis"),
            ["2026-11-22T10:00:00.123Z"],
            ["2026-11-22T10:00:00.123", "2026-11-22T10:00:00Z", 1],
        ),
        (logical("long", "timestamp-nanos"), ["2026-11-22T10:00:00.123456789Z"], ["2026-11-22T10:00:00.123Z"]),
        (
            logical("long", "local-timestamp-micros"),
            ["2026-11-22T10:00:00.123456"],
            ["2026-11-22T10:00:00.123456Z"],
        ),
        (decimal(4, 2), ["0.07", "-12.34"], ["12", "12.3", ".07", 12.34]),
        (decimal(4, 0), ["12", "-3"], ["12.0"]),
        (logical("bytes", "big-decimal"), ["12", "-0.5"], [".5", 1]),
        (logical("string", "uuid"), ["00010203-0405-0607-0809-0a0b0c0d0e0f"], [1]),
        (
            fixed(16, logicalType="uuid"),
            ["00010203-0405-0607-0809-0a0b0c0d0e0f"],
            ["00010203-0405-0607-0809-0A0B0C0D0E0F", "x"],
        ),
        (fixed(12, logicalType="duration"), ["P1M2DT3.547S"], ["P1M", "AAAA"]),
        (logical("long", "date"), [1], ["2026-11-22"]),
    ],
)
def test_what_it_takes_and_what_it_refuses(schema: Any, good: list[Any], bad: list[Any]) -> None:
    assert [takes(schema, document) for document in good] == [True] * len(good)
    assert [takes(schema, document) for document in bad] == [False] * len(bad)


def test_a_record_that_contains_itself() -> None:
    node = record(field("v", "int"), field("next", ["null", "Node"]), name="Node", namespace="shop")
    assert takes(node, {"v": 1, "next": {"v": 2, "next": None}})
    assert not takes(node, {"v": 1, "next": {"v": "2", "next": None}})
    assert list(json_schema(text(node))["$defs"]) == ["shop.Node"]


@pytest.mark.parametrize("kind", [fixed(1), enum("A"), fixed(12, "F", logicalType="duration"), record(name="F")])
def test_a_named_type_is_defined_once_and_referred_to(kind: Any) -> None:
    found = json_schema(text(record(field("x", kind), field("y", kind["name"]))))
    properties = found["$defs"]["R"]["properties"]
    assert properties["x"] == properties["y"] == {"$ref": f"#/$defs/{kind['name']}"}
    assert set(found["$defs"]) == {"R", kind["name"]}


def test_documentation_is_kept() -> None:
    found = json_schema(text(record(field("x", enum("A", doc="An enum."), doc="A field."), doc="A record.")))
    assert found["$schema"] == DIALECT
    assert found["$defs"]["R"]["description"] == "A record."
    assert found["$defs"]["R"]["properties"]["x"]["description"] == "A field."
    assert found["$defs"]["E"]["description"] == "An enum."


def test_what_is_no_schema() -> None:
    with pytest.raises(ValueError, match="not a valid Avro schema"):
        json_schema("{")
