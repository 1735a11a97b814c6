"""Documents against the JSON form of an Avro schema: an independent judge says the same, and places are told."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec
from schemas.examples import order_record, order_schema
from schemas.json_check import FAULTS_MAX, JsonCheck
from schemas.json_schema import json_schema
from schemas.resolution import Resolver

ORDER = order_schema(5)
EVERY = """{"type": "record", "name": "Every", "namespace": "t", "fields": [
    {"name": "flag", "type": "boolean"}, {"name": "small", "type": "int"}, {"name": "ratio", "type": "double"},
    {"name": "raw", "type": "bytes"}, {"name": "four", "type": {"type": "fixed", "name": "Four", "size": 4}},
    {"name": "side", "type": {"type": "enum", "name": "Side", "symbols": ["LEFT", "RIGHT"]}},
    {"name": "day", "type": {"type": "int", "logicalType": "date"}},
    {"name": "many", "type": {"type": "array", "items": "int"}},
    {"name": "by/name", "aliases": [], "type": {"type": "map", "values": "string"}},
    {"name": "maybe", "type": ["null", {"type": "record", "name": "In", "fields": [{"name": "n", "type": "int"}]}]},
    {"name": "either", "type": ["int", "string"]}]}""".replace("by/name", "by_name")
GOOD: dict[str, Any] = {
    "flag": True,
    "small": 1,
    "ratio": None,
    "raw": "AAEC",
    "four": "AAECAw==",
    "side": "LEFT",
    "day": "2026-01-01",
    "many": [1, 2],
    "by_name": {"a/b": "c"},
    "maybe": {"n": 1},
    "either": "x",
}


def order_document() -> Any:
    plain = codec.parse_schema(ORDER, logical_types=False)
    return orjson.loads(orjson.dumps(Resolver(ORDER).record(codec.encode(1, plain, order_record(5, 7)))))


def test_what_is_rendered_fits() -> None:
    assert JsonCheck(ORDER).faults(order_document()) == []
    assert JsonCheck(EVERY).faults(GOOD) == []
    assert JsonCheck(EVERY).faults(GOOD | {"maybe": None, "either": 5, "small": 2.0}) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"flag": 1}, ("/flag", "must be boolean")),
        ({"small": True}, ("/small", "must be integer")),
        ({"small": 2**31}, ("/small", "must be between -2147483648 and 2147483647")),
        ({"ratio": "1"}, ("/ratio", "must be number or null")),
        ({"raw": "?"}, ("/raw", "must be base64")),
        ({"raw": 1}, ("/raw", "must be string")),
        ({"four": "AAEC"}, ("/four", "must be base64 of 8 characters")),
        ({"side": "UP"}, ("/side", "must be one of LEFT, RIGHT")),
        ({"side": []}, ("/side", "must be one of LEFT, RIGHT")),
        ({"day": "yesterday"}, ("/day", "must be a date")),
        ({"many": {}}, ("/many", "must be array")),
        ({"many": [1, "2"]}, ("/many/1", "must be integer")),
        ({"by_name": []}, ("/by_name", "must be object")),
        ({"by_name": {"a/b~": 1}}, ("/by_name/a~1b~0", "must be string")),
        ({"maybe": {"n": "1"}}, ("/maybe/n", "must be integer")),
        ({"maybe": {}}, ("/maybe/n", "is missing")),
        ({"maybe": 5}, ("/maybe", "must be object")),
        ({"either": 1.5}, ("/either", "fits none of the types that the schema has for it")),
        ({"more": 1}, ("/more", "is not a field of the schema")),
    ],
)
def test_the_place_of_what_is_wrong(change: dict[str, Any], fault: tuple[str, str]) -> None:
    assert JsonCheck(EVERY).faults(GOOD | change) == [fault]


def test_all_that_is_wrong_is_told_up_to_a_bound() -> None:
    check = JsonCheck(EVERY)
    assert [path for path, _ in check.faults(GOOD | {"flag": 0, "many": ["a", "b"]})] == ["/flag", "/many/0", "/many/1"]
    assert len(check.faults(GOOD | {"many": ["a"] * 100})) == FAULTS_MAX
    assert check.faults([]) == [("", "must be object")]


LIST = """{"type": "record", "name": "L", "fields": [
    {"name": "next", "type": ["null", "L"]}, {"name": "n", "type": "int"}]}"""
TREE = """{"type": "record", "name": "A", "fields": [{"name": "x", "type": ["null", "int",
    {"type": "record", "name": "B", "fields": [{"name": "x", "type": ["A", "B", "int"]}]}, "A"]}]}"""


def nested(depth: int, name: str, innermost: Any, **more: Any) -> Any:
    document = innermost
    for _ in range(depth):
        document = {name: document, **more}
    return document


def test_documents_within_documents_end() -> None:
    assert JsonCheck(LIST).faults(nested(50, "next", None, n=1)) == []
    assert JsonCheck(LIST).faults(nested(50, "next", 7, n=1)) == [("/next" * 50, "must be object")]
    assert JsonCheck(LIST).faults(nested(5_000, "next", None, n=1)) == [("", "is nested too deeply")]
    assert JsonCheck(TREE).faults(nested(5, "x", 1)) == []
    (fault,) = JsonCheck(TREE).faults(nested(60, "x", "wrong"))
    assert "takes too long" in fault[1]


def test_a_type_without_values_takes_none() -> None:
    none = '{"type": "record", "name": "N", "fields": [{"name": "a", "type": []}]}'
    assert JsonCheck(none).faults({"a": 1}) == [("/a", "cannot have a value")]


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**33), 2**33)
    | st.floats(allow_nan=False, width=32)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def places(document: Any) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = [()]
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for name, value in items:
        found += [(name, *rest) for rest in places(value)]
    return found


def changed(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    document = copy.deepcopy(document)
    inside = document
    for name in place[:-1]:
        inside = inside[name]
    inside[place[-1]] = value
    return document


@given(st.data())
def test_an_independent_judge_says_the_same(data: st.DataObject) -> None:
    text, good = data.draw(st.sampled_from([(EVERY, GOOD), (ORDER, order_document())]))
    place = data.draw(st.sampled_from(places(good)))
    document = changed(good, place, data.draw(JSON_VALUES))
    judge = jsonschema.Draft202012Validator(json_schema(text))
    faults = [fault for fault in JsonCheck(text).faults(document) if not fault[1].startswith("must be base64")]
    assert (faults == []) == judge.is_valid(document)
