"""Edges of filters that the reference does not show, and the work of matching. Examples of each operator, checked too:
docs/reference/filters.md."""

from __future__ import annotations

import gc
import weakref
from decimal import Decimal
from typing import Any

import pytest

from streams.core.filter_values import load_json
from streams.core.filters import parse_filter
from tests.filter_steps import steps


def matches(pattern: dict[str, Any], value: Any) -> bool:
    return parse_filter({"a": [pattern]}).matches({"a": value})


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 1.0, Decimal("1.000"), Decimal("1E0")])
def test_a_number_is_what_json_writes_for_it(value: Any) -> None:
    for pattern in ({"a": [1]}, {"a": [{"numeric": [">=", 1, "<", 1.5]}]}):
        assert parse_filter(pattern).matches({"a": value})
        assert not parse_filter({"a": [{"anything-but": 1}]}).matches({"a": value})


def test_a_float_is_its_shortest_text() -> None:
    assert parse_filter('{"a": [0.1]}').matches({"a": 0.1})
    assert parse_filter('{"a": [1e23]}').matches({"a": 1e23})
    assert not parse_filter('{"a": [{"numeric": [">", 0.1]}]}').matches({"a": 0.1})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_float_that_json_cannot_write_is_null(value: float) -> None:
    assert parse_filter({"a": [None]}).matches({"a": value})
    assert not matches({"numeric": [">", 0]}, value)
    assert not matches({"numeric": ["<=", 0]}, value)
    assert not parse_filter({"a": [{"anything-but": None}]}).matches({"a": value})


def test_numbers_of_any_length_lose_nothing() -> None:
    long = "1" + "0" * 3_000
    document = load_json(f'{{"a": {long}1, "b": 0.{"3" * 100_000}, "c": 1e-99999999999999999999}}'.encode())
    assert matches({"numeric": [">", 10**50]}, document["a"])
    assert parse_filter({"b": [{"numeric": ["<", 1]}], "c": [0]}).matches(document)


@pytest.mark.parametrize("value", [True, False, "5", None])
def test_what_is_no_number_is_in_no_range(value: Any) -> None:
    assert not matches({"numeric": [">", -100]}, value)


@pytest.mark.parametrize("text", [b"{", b'"\xff"', b"1e99999999999999999999", b"[" * 100_000])
def test_what_is_not_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        load_json(text)


# --- kinds ----------------------------------------------------------------------------------------


def test_texts_are_asked_of_texts_only() -> None:
    for operator in ("prefix", "suffix"):
        assert matches({operator: ""}, "")
        assert matches({operator: ""}, "x")
        others: tuple[Any, ...] = (1, None, True, {}, [])
        assert not any(matches({operator: ""}, value) for value in others)
    assert not any(matches({"wildcard": "*1*"}, value) for value in (1, 111, None))
    assert not any(matches({"cidr": "0.0.0.0/0"}, value) for value in (1, None, "", "1" * 50))


def test_objects_and_values_in_one_array() -> None:
    mixed = {"a": [{"b": 1}, "x", [{"b": 2}, "y"]]}
    assert parse_filter({"a": ["y"]}).matches(mixed)
    assert parse_filter({"a": {"b": [2]}}).matches(mixed)
    assert not parse_filter({"a": [{"exists": False}]}).matches(mixed)
    assert parse_filter({"a": [{"exists": False}]}).matches({"a": [{"b": 1}]})
    assert not parse_filter({"a": {"b": [{"exists": False}]}}).matches(mixed)
    assert parse_filter({"a": {"c": [{"exists": False}]}}).matches({"a": "no object"})


def test_what_json_does_not_decode_to_is_equal_to_nothing() -> None:
    assert not parse_filter({"a": [None, 1, "x", True]}).matches({"a": b"x"})


def test_case_is_folded_by_character() -> None:
    """What lets folding stop after as many characters as are compared."""
    for character in map(chr, (*range(0xD800), *range(0xE000, 0x11000))):
        assert character.casefold()
        assert ("a" + character + "ß").casefold() == "a" + character.casefold() + "ss"
    assert matches({"prefix": {"equals-ignore-case": "STRASS"}}, "Straße")
    assert matches({"suffix": {"equals-ignore-case": "SSE"}}, "Straße")


def test_parts_of_a_wildcard_do_not_overlap() -> None:
    assert not matches({"wildcard": "ab*ba"}, "aba")
    assert matches({"wildcard": "ab*ba"}, "abba")
    assert not matches({"wildcard": "*ab*ba"}, "xaba")
    assert not matches({"wildcard": "a*b*b"}, "ab")


# --- sharing and work -----------------------------------------------------------------------------


def test_equal_filters_are_one_and_none_outlives_its_use() -> None:
    first = parse_filter('{"a": [1, "x"]}')
    assert parse_filter({"a": ["x", 1.0]}) is first
    assert parse_filter(first.text) is first
    text = first.text
    assert steps(lambda: parse_filter(text)) < 10
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None
    assert parse_filter(text).text == text


def test_what_a_filter_reads() -> None:
    assert parse_filter({"data": {"a": [1]}}).reads_data
    assert parse_filter({"$or": [{"type": ["x"]}, {"$or": [{"id": ["x"]}, {"data": {"a": [1]}}]}]}).reads_data
    assert not parse_filter({"type": [{"prefix": "data"}], "a": {"data": [1]}}).reads_data
    assert repr(parse_filter({"a": [1]})) == 'Filter({"a":[1]})'


@pytest.mark.parametrize(
    ("pattern", "document"),
    [
        ({"a": [{"wildcard": "*".join("a" * 17)}]}, {"a": "a" * 1_000_000}),
        ({"a": [{"wildcard": "*" + "ab" * 500 + "*" + "ab" * 500 + "c*"}]}, {"a": "ab" * 500_000}),
        ({"a": [{"anything-but": {"wildcard": ["*a*b", "*a*c"]}}]}, {"a": "a" * 1_000_000}),
        ({"a": [{"equals-ignore-case": "ß"}, {"prefix": {"equals-ignore-case": "ß"}}]}, {"a": "ß" * 1_000_000}),
        ({"a": [{"cidr": "::/0"}]}, {"a": "1:" * 500_000}),
        ({"a": list(range(1_000))}, {"a": -1}),
    ],
)
def test_a_long_text_costs_no_more_lines_than_a_short_one(pattern: Any, document: Any) -> None:
    wanted = parse_filter(pattern)
    wanted.matches({})
    assert steps(lambda: wanted.matches(document)) < 150


def test_an_array_costs_so_many_lines_an_element() -> None:
    wanted = parse_filter({"$or": [{"a": {"b": [{"wildcard": "*x*"}]}}, {"a": {"b": [{"numeric": [">", 5]}]}}]})
    elements: list[Any] = [{"b": [1, "y"]}] * 500
    for _ in range(400):
        elements = [elements]  # as deep as JSON readers go
    assert steps(lambda: wanted.matches({"a": elements})) < 500 * 150
