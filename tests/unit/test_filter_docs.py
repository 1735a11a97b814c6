"""Every example in docs/reference/filters.md, and the numbers in it."""

from __future__ import annotations

import re

import pytest

from schemas import filter_pattern
from schemas.errors import InvalidFilterError
from schemas.filter_parse import OPERATORS
from schemas.subscription import subscription_from_json
from streams.core.filter_index import FilterIndex
from streams.core.filter_values import load_json
from streams.core.filters import parse_filter
from tests.docs import ROOT, fences, tables

DOCUMENT = ROOT / "docs/reference/filters.md"
TEXT = DOCUMENT.read_text()
ROWS = re.findall(r"^\| (`\{.+`) \| (`\{.+`) \| (`\{.+`) \|$", TEXT, re.MULTILINE)
SPAN = re.compile(r"`([^`]+)`")


@pytest.mark.parametrize(("cell", "matching", "others"), ROWS, ids=[row[0] for row in ROWS])
def test_an_example(cell: str, matching: str, others: str) -> None:
    (text,) = SPAN.findall(cell)
    wanted = parse_filter(text)
    index = FilterIndex([wanted])
    for span in SPAN.findall(matching):
        assert wanted.matches(load_json(span.encode())), span
        assert index.select(load_json(span.encode())) == [0], span
    for span in SPAN.findall(others):
        assert not wanted.matches(load_json(span.encode())), span
        assert index.select(load_json(span.encode())) == [], span


def test_every_table_of_examples_is_read_and_every_operator_has_one() -> None:
    assert len(ROWS) == len(re.findall(r"^\| `\{", TEXT, re.MULTILINE)) > 30
    used = " ".join(row[0] for row in ROWS)
    assert all(f'"{operator}"' in used for operator in (*OPERATORS, "$or"))


def test_the_subscription_and_the_refusal_that_are_shown() -> None:
    subscription, _, wrong, sentence = fences(DOCUMENT)
    secret = f'"secrets": ["whsec_{"A" * 43}="], '
    accepted = subscription_from_json(subscription.text.replace('"url"', secret + '"url"'))
    assert parse_filter(accepted.filter).text == accepted.filter
    with pytest.raises(InvalidFilterError) as caught:
        parse_filter(wrong.text)
    assert f"{caught.value}\n" == sentence.text


def test_the_bounds() -> None:
    said = [int(row[1].split()[0].replace(",", "")) for row in tables(TEXT, "What is refused")]
    assert said == [
        filter_pattern.FILTER_BYTES_MAX,
        filter_pattern.DEPTH_MAX,
        filter_pattern.LEAVES_MAX,
        filter_pattern.OR_COMBINATIONS_MAX,
        filter_pattern.WILDCARDS_MAX,
        filter_pattern.NUMBER_DIGITS_MAX,
        filter_pattern.NUMBER_EXPONENT_MAX,
    ]
