"""How the index files filters, what changing one costs, and what an event costs whatever is in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streams.core.filter_index import FilterIndex
from streams.core.filters import Filter, parse_filter
from tests.filter_steps import steps

MANY = 2_000


def index_of(make: Callable[[int], Any], count: int) -> tuple[FilterIndex, list[Filter | None]]:
    filters: list[Filter | None] = [parse_filter(make(number)) for number in range(count)]
    return FilterIndex(filters), filters


def lines(index: FilterIndex, document: Any) -> int:
    index.select(document)  # what is compiled at the first match is not counted
    return steps(lambda: index.select(document))


def test_positions_of_equal_filters_and_of_none() -> None:
    one, two = parse_filter({"a": [1]}), parse_filter({"a": [2]})
    index = FilterIndex([one, None, two, one])
    assert index.select({"a": 1}) == [0, 1, 3]
    assert index.select({"a": [2, 1]}) == [0, 1, 2, 3]
    assert index.select({}) == [1]
    assert FilterIndex().select({"a": 1}) == []


def test_what_is_read_of_a_document() -> None:
    index = FilterIndex([None])
    assert (index.reads_document, index.reads_data) == (False, False)
    index.replace([None, parse_filter({"type": ["x"]})])
    assert (index.reads_document, index.reads_data) == (True, False)
    index.replace([parse_filter({"data": {"a": [1]}})])
    assert (index.reads_document, index.reads_data) == (True, True)


KINDS: dict[str, tuple[Callable[[int], Any], Any]] = {
    "exact": (lambda n: {"data": {"k": [f"c-{n}"], "region": ["eu"]}}, {"data": {"k": "c-7", "region": "eu"}}),
    "numbers": (lambda n: {"data": {"k": [n]}}, {"data": {"k": 7.0}}),
    "in arrays": (lambda n: {"data": {"k": {"l": [n]}}}, {"data": {"k": [{"l": -1}, {"l": [7]}]}}),
    "ignoring case": (lambda n: {"data": {"k": [{"equals-ignore-case": f"C-{n}"}]}}, {"data": {"k": "c-7"}}),
    "long, ignoring case": (
        lambda n: {"data": {"k": [{"equals-ignore-case": f"C-{n}-{'x' * 80}"}]}},
        {"data": {"k": "c-7-" + "x" * 80}},
    ),
    "prefix": (lambda n: {"data": {"k": [{"prefix": f"{n:05}"}]}}, {"data": {"k": "00007/x"}}),
    "prefix of its own length": (
        lambda n: {"data": {"k": [{"prefix": f"{n:05}" + "x" * (n % 90)}]}},
        {"data": {"k": "00007" + "x" * 7}},
    ),
    "suffix": (lambda n: {"data": {"k": [{"suffix": f"{n:05}"}]}}, {"data": {"k": "x/00007"}}),
    "prefix ignoring case": (
        lambda n: {"data": {"k": [{"prefix": {"equals-ignore-case": f"A{n:05}"}}]}},
        {"data": {"k": "a00007x"}},
    ),
    "suffix ignoring case": (
        lambda n: {"data": {"k": [{"suffix": {"equals-ignore-case": f"{n:05}A"}}]}},
        {"data": {"k": "xa00007a"}},
    ),
    "wildcard": (lambda n: {"data": {"k": [{"wildcard": f"{n:05}/*.png"}]}}, {"data": {"k": "00007/a.png"}}),
    "wildcard at the start": (lambda n: {"data": {"k": [{"wildcard": f"*x*{n:05}"}]}}, {"data": {"k": "ax00007"}}),
    "range": (lambda n: {"data": {"k": [{"numeric": [">=", n * 10, "<", n * 10 + 10]}]}}, {"data": {"k": 73.5}}),
    "above": (lambda n: {"data": {"k": [{"numeric": [">", -n]}]}}, {"data": {"k": 2 - MANY}}),
    "below": (lambda n: {"data": {"k": [{"numeric": ["<=", n]}]}}, {"data": {"k": MANY - 1.0}}),
    "network": (lambda n: {"data": {"k": [{"cidr": f"10.{n >> 8}.{n & 255}.0/24"}]}}, {"data": {"k": "10.0.7.9"}}),
    "network of IPv6": (
        lambda n: {"data": {"k": [{"cidr": f"2001:db8:{n:x}::/48"}]}},
        {"data": {"k": "2001:db8:7::1"}},
    ),
    "$or": (lambda n: {"$or": [{"data": {"k": [n]}}, {"data": {"l": [n]}}]}, {"data": {"l": 7}}),
    "one path each": (lambda n: {"data": {f"k{n}": [{"exists": True}]}}, {"data": {"k7": 1}}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_many_cost_what_few_do(kind: str) -> None:
    make, document = KINDS[kind]
    few, _ = index_of(make, 10)
    many, filters = index_of(make, MANY)
    matching = [at for at, each in enumerate(filters) if each is not None and each.matches(document)]
    assert len(matching) == 1
    assert many.select(document) == matching
    # A prefix of another length is another look-up; there are up to 64 of them.
    assert lines(many, document) < 3 * lines(few, document) + (64 * 12 if "own length" in kind else 0) + 40


def test_equal_filters_are_tried_once() -> None:
    same = parse_filter({"data": {"k": [{"wildcard": "*x*"}]}})
    document = {"data": {"k": "axb"}}
    assert FilterIndex([same] * MANY).select(document) == list(range(MANY))
    assert lines(FilterIndex([same] * MANY), document) == lines(FilterIndex([same]), document)


def test_what_nothing_can_be_said_of_is_tried_on_every_document() -> None:
    index, _ = index_of(lambda n: {"$or": [{"a": [n]}, {"b": [{"exists": False}]}]}, 5)
    assert index.select({"a": 3, "b": 1}) == [3]
    assert index.select({}) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_one_change_among_many_files_one_filter(kind: str) -> None:
    make, document = KINDS[kind]
    index, filters = index_of(make, MANY)
    before = index.select(document)
    position = before[0]
    removed, filters[position] = filters[position], parse_filter({"data": {"other": [1]}})
    first = steps(lambda: index.replace(filters))
    assert position not in index.select(document)
    filters[position] = removed
    second = steps(lambda: index.replace(filters))
    assert index.select(document) == before
    # A few lines for each filter to number it, and not the hundreds that filing each takes.
    assert max(first, second) < 15 * MANY


def test_changes_that_add_up_file_all_anew() -> None:
    # At first all regions differ and all customers are one; in the end it is the other way round.
    index, filters = index_of(lambda n: {"data": {"customer": ["c"], "region": [f"r-{n}"]}}, 50)
    for at in range(50):
        filters[at] = parse_filter({"data": {"customer": [f"c-{at}"], "region": ["r"]}})
        index.replace(filters)
        assert index.select({"data": {"customer": f"c-{at}", "region": "r"}}) == [at]
        assert index.select({"data": {"customer": "c", "region": f"r-{at}"}}) == []
    few, _ = index_of(lambda n: {"data": {"customer": [f"c-{n}"], "region": ["r"]}}, 2)
    document = {"data": {"customer": "c-1", "region": "r"}}
    assert lines(index, document) <= lines(few, document) + 20
    index.replace([])
    assert index.select(document) == []


@pytest.mark.parametrize(
    "document",
    [
        {"data": {"k": "x" * 1_000_000}},
        {"data": {"k": "ß" * 1_000_000}},
        {"data": {"k": 10**1000}},
        {"data": {"k": float("inf")}},
        {"data": {f"f{at}": 1 for at in range(10_000)}},
    ],
)
def test_no_document_makes_the_index_slow(document: Any) -> None:
    makes = [make for make, _ in KINDS.values()]
    filters = [parse_filter(makes[at % len(makes)](at)) for at in range(MANY)]
    index = FilterIndex(filters)
    matching = [at for at, each in enumerate(filters) if each.matches(document)]
    assert index.select(document) == matching
    assert lines(index, document) < 10_000 + 50 * len(matching)


def test_an_array_that_meets_the_same_filters_again_and_again() -> None:
    filters = [parse_filter({"a": {"b": [{"anything-but": f"{number}"}]}}) for number in range(100)]
    index = FilterIndex(filters)
    document = {"a": [{"b": "x"}] * 500}
    assert index.select(document) == list(range(100))
    assert lines(index, document) < 500 * 40 + 100 * 40


def test_texts_that_folding_makes_longer_are_found() -> None:
    for pattern, value in (
        ({"prefix": {"equals-ignore-case": "ss"}}, "ßx"),
        ({"prefix": {"equals-ignore-case": "s"}}, "ß"),
        ({"suffix": {"equals-ignore-case": "ss"}}, "xß"),
        ({"suffix": {"equals-ignore-case": "s"}}, "ß"),
        ({"equals-ignore-case": "ß" * 64}, "ss" * 64),
        ({"equals-ignore-case": "SS" * 33}, "ß" * 33),
    ):
        wanted = parse_filter({"a": [pattern]})
        assert wanted.matches({"a": value})
        assert FilterIndex([wanted]).select({"a": value}) == [0]
