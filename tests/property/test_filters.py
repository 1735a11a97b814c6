"""Compiled filters and the index against the plain model, over patterns and documents of every kind."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from schemas.filter_parse import parse_pattern
from schemas.filter_pattern import canonical_text
from streams.core.filter_index import FilterIndex
from streams.core.filter_values import load_json
from streams.core.filters import Filter, parse_filter
from tests.filter_model import DOCUMENTS, NAMES, PATTERNS, asks_for, dumps, fits, read, tokens


def expected(pattern: Any, document: Any) -> bool:
    return asks_for(read(dumps(pattern)), read(dumps(document)))


@settings(deadline=None)
@given(PATTERNS, DOCUMENTS)
def test_a_filter_is_what_the_model_says(pattern: Any, document: Any) -> None:
    matched = parse_filter(dumps(pattern)).matches(load_json(dumps(document).encode()))
    assert matched == expected(pattern, document)


@settings(deadline=None)
@given(PATTERNS, DOCUMENTS)
def test_a_document_of_python_values_is_the_same(pattern: Any, document: Any) -> None:
    assert parse_filter(pattern).matches(document) == expected(pattern, document)


@settings(deadline=None)
@given(PATTERNS)
def test_the_canonical_text_says_the_same_and_is_its_own(pattern: Any) -> None:
    parsed = parse_filter(dumps(pattern))
    assert parse_filter(pattern) is parsed
    assert parse_filter(" " + parsed.text) is parsed
    assert canonical_text(parsed.pattern) == parsed.text
    assert canonical_text(parse_pattern(parsed.text).pattern) == parsed.text


@settings(deadline=None)
@given(PATTERNS, DOCUMENTS, st.randoms(use_true_random=False))
def test_order_says_nothing(pattern: Any, document: Any, random: Any) -> None:
    def shuffled(node: Any) -> Any:
        match node:
            case dict():
                return {name: shuffled(node[name]) for name in random.sample(list(node), len(node))}
            case [">" | ">=" | "<" | "<=" | "=", *_]:
                return node
            case list():
                return [shuffled(each) for each in random.sample(node, len(node))]
        return node

    assert parse_filter(shuffled(pattern)) is parse_filter(pattern)


@settings(deadline=None)
@given(st.lists(st.none() | PATTERNS, max_size=12), DOCUMENTS)
def test_the_index_selects_what_matches(patterns: list[Any], document: Any) -> None:
    index = FilterIndex([None if pattern is None else parse_filter(pattern) for pattern in patterns])
    wanted = [at for at, pattern in enumerate(patterns) if pattern is None or expected(pattern, document)]
    assert index.select(load_json(dumps(document).encode())) == wanted


@settings(deadline=None)
@given(PATTERNS, st.integers(1, 40), DOCUMENTS)
def test_the_index_knows_equal_filters_from_others(pattern: Any, copies: int, document: Any) -> None:
    # Filters that share most of what they could be filed under.
    patterns = [{"data": pattern, "number": [number]} for number in range(copies)]
    found = {"data": document, "number": copies // 2}
    index = FilterIndex([parse_filter(each) for each in patterns * 2])
    single = [at for at, each in enumerate(patterns * 2) if expected(each, found)]
    assert index.select(found) == single


class Changing(RuleBasedStateMachine):
    """Filters come and go; the index that lives through it selects what a new one does."""

    @initialize(patterns=st.lists(PATTERNS, min_size=3, max_size=6))
    def start(self, patterns: list[Any]) -> None:
        self.filters: list[Filter | None] = [parse_filter(pattern) for pattern in patterns]
        self.index = FilterIndex(self.filters)

    @rule(pattern=PATTERNS | st.none(), at=st.integers(0, 20))
    def insert(self, pattern: Any, at: int) -> None:
        self.filters.insert(at, None if pattern is None else parse_filter(pattern))
        self.index.replace(self.filters)

    @rule(at=st.integers(0, 20))
    def remove(self, at: int) -> None:
        del self.filters[at : at + 1]
        self.index.replace(self.filters)

    @rule(document=DOCUMENTS)
    def select(self, document: Any) -> None:
        matching = [at for at, each in enumerate(self.filters) if each is None or each.matches(document)]
        assert self.index.select(document) == matching
        assert FilterIndex(self.filters).select(document) == matching

    @invariant()
    def says_what_it_reads(self) -> None:
        used = [each for each in getattr(self, "filters", []) if each is not None]
        if used:
            assert self.index.reads_document
            assert self.index.reads_data == any("data" in each.text for each in used if each.reads_data)


TestChanging = Changing.TestCase
TestChanging.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)


@settings(deadline=None)
@given(NAMES, st.text(st.sampled_from("ab*\\"), max_size=6))
def test_the_model_of_wildcards_is_right_itself(name: str, text: str) -> None:
    escaped = text.replace("\\", "\\\\").replace("*", "\\*")
    assert fits(tokens(escaped), text)
    assert fits(tokens("*"), text)
    assert fits(tokens(f"{escaped}*"), text + name)
    assert not fits(tokens(escaped), text + name)


@pytest.mark.parametrize("pattern", [{"a": [1]}, {"a": [True]}, {"a": [None]}, {"a": ["1"]}])
def test_the_model_knows_kinds_apart(pattern: dict[str, Any]) -> None:
    assert [value for value in (1, True, None, "1") if expected(pattern, {"a": value})] == pattern["a"][:1]
