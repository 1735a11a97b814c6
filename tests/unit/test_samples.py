"""Samples: valid for the schema they were made for, always the same, and refused where none can be made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from schemas import samples
from schemas.json_schema import json_schema
from schemas.samples import sample

EXAMPLES = sorted((Path(__file__).parents[2] / "schemas/examples").glob("*.avsc"))


def record(*fields: Any, name: str = "R") -> str:
    given = [{"name": f"f{n}", "type": each} for n, each in enumerate(fields)]
    return json.dumps({"type": "record", "name": name, "fields": given})


def logical(base: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"type": base, "logicalType": kind} | more


def valid(avro: str) -> Any:
    document = sample(avro)
    jsonschema.Draft202012Validator(json_schema(avro)).validate(document)
    assert sample(avro) == document
    return document


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_the_examples_have_samples(path: Path) -> None:
    assert valid(path.read_text())["lines"][0]["sku"] == "sku"


def test_every_type_has_one() -> None:
    plain = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"]
    fixed = {"type": "fixed", "name": "F", "size": 5}
    enum = {"type": "enum", "name": "E", "symbols": ["ONE", "TWO"]}
    document = valid(record(*plain, fixed, enum, {"type": "array", "items": "F"}, {"type": "map", "values": "E"}))
    assert document["f7"] == "f7"
    assert document["f11"] == {"key": "ONE"}


def test_every_logical_type_has_one() -> None:
    document = valid(
        record(
            logical("int", "date"),
            logical("int", "time-millis"),
            logical("long", "time-micros"),
            *(logical("long", f"{kind}-{unit}") for kind in ("timestamp", "local-timestamp") for unit in UNITS),
            logical("bytes", "decimal", precision=9, scale=2),
            logical("bytes", "decimal", precision=2, scale=2),
            logical("fixed", "decimal", precision=9, scale=0, size=4, name="D"),
            logical("bytes", "big-decimal"),
            logical("string", "uuid"),
            logical("fixed", "uuid", size=16, name="U"),
            logical("fixed", "duration", size=12, name="P"),
        )
    )
    assert document["f0"] == "2026-01-01"
    assert document["f3"] == "2026-01-01T12:00:00.000Z"
    assert [document[f"f{n}"] for n in range(9, 13)] == ["12.34", "0.01", "1234", "12.34"]


UNITS = ("millis", "micros", "nanos")


def test_a_union_is_its_first_branch_with_a_value() -> None:
    one = {"type": "record", "name": "One", "fields": [{"name": "x", "type": "int"}]}
    two = {"type": "record", "name": "Two", "fields": [{"name": "x", "type": "int"}, {"name": "y", "type": "int"}]}
    assert valid(record(["null", "string"], [two, one])) == {"f0": "f0", "f1": {"x": 1, "y": 1}}


def test_a_record_that_may_contain_itself_does_so_no_more_than_it_must() -> None:
    assert valid(record(["null", "R"], {"type": "array", "items": "R"}, {"type": "map", "values": "R"})) == {
        "f0": None,
        "f1": [],
        "f2": {},
    }


def test_where_none_can_be_made_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="must contain itself"):
        sample(record("R"))
    monkeypatch.setattr(samples, "VALUES_MAX", 3)
    with pytest.raises(ValueError, match="more than 3 values"):
        sample(record("int", "int", "int"))
    deep: Any = "int"
    for _ in range(90):
        deep = {"type": "array", "items": deep}
    monkeypatch.setattr(samples, "VALUES_MAX", 10_000)
    valid(record(deep))
