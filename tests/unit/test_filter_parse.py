"""What a filter pattern may be, and the place in it that an error names."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from typing import Any

import orjson
import pytest

from schemas.errors import InvalidFilterError
from schemas.filter_parse import parse_pattern
from schemas.filter_pattern import (
    DEPTH_MAX,
    FILTER_BYTES_MAX,
    LEAVES_MAX,
    NUMBER_DIGITS_MAX,
    NUMBER_EXPONENT_MAX,
    OR_COMBINATIONS_MAX,
    WILDCARDS_MAX,
)
from tests.filter_steps import PARSE_STEPS_MAX, steps


def refused(pattern: object) -> InvalidFilterError:
    with pytest.raises(InvalidFilterError) as caught:
        parse_pattern(pattern)
    assert str(caught.value) == f"{caught.value.path}: {caught.value.sentence}"
    return caught.value


@pytest.mark.parametrize(
    ("text", "path", "part"),
    [
        # the whole
        ("", "$", "not JSON"),
        ("{", "$", "not JSON"),
        ("[1]", "$", "an object is needed"),
        ('"x"', "$", "an object is needed"),
        ("7", "$", "an object is needed"),
        ("{}", "$", "empty object"),
        ('{"a": {}}', "$.a", "empty object"),
        ('{"a": [1], "b": [2], "a": [3]}', "$.a", "stands twice"),
        ('{"a": {"b": [1], "b": [1]}}', "$.a.b", "stands twice"),
        ('{"a": "\ud800"}', "$", "surrogate"),
        ("[" * 9_000, "$", "levels deep"),
        # fields
        ('{"a": "x"}', "$.a", "list of alternatives"),
        ('{"a": 1}', "$.a", "list of alternatives"),
        ('{"a": null}', "$.a", "list of alternatives"),
        ('{"a": []}', "$.a", "at least one alternative"),
        ('{"a": [[1]]}', "$.a[0]", "an operator is needed"),
        ('{"a b": {"c.d": ["x", []]}}', '$["a b"]["c.d"][1]', "an operator is needed"),
        ('{"a": ["\\ud800"]}', "$.a[0]", "surrogate"),
        ('{"\\ud800": [1]}', "$", "surrogate"),
        ('{"a": [{"\\ud800": 1}]}', "$.a[0]", "surrogate"),
        # operators
        ('{"a": [{}]}', "$.a[0]", "one operator"),
        ('{"a": [{"prefix": "x", "suffix": "y"}]}', "$.a[0]", "one operator"),
        ('{"a": [{"prefix": "x", "prefix": "y"}]}', "$.a[0]", "one operator"),
        ('{"a": [{"regex": "x"}]}', "$.a[0].regex", "no such operator; there are anything-but, cidr"),
        ('{"a": [{"prefix": 1}]}', "$.a[0].prefix", "a text is needed, not a number"),
        ('{"a": [{"prefix": null}]}', "$.a[0].prefix", "not null"),
        ('{"a": [{"prefix": true}]}', "$.a[0].prefix", "not true"),
        ('{"a": [{"suffix": ["x"]}]}', "$.a[0].suffix", "not a list"),
        ('{"a": [{"prefix": {"suffix": "x"}}]}', "$.a[0].prefix.suffix", "only equals-ignore-case"),
        ('{"a": [{"prefix": {}}]}', "$.a[0].prefix", "one operator"),
        ('{"a": [{"suffix": {"equals-ignore-case": 1}}]}', "$.a[0].suffix.equals-ignore-case", "a text is needed"),
        ('{"a": [{"equals-ignore-case": {"prefix": "x"}}]}', "$.a[0].equals-ignore-case", "not an object"),
        ('{"a": [{"wildcard": "x**"}]}', "$.a[0].wildcard", "** says no more"),
        ('{"a": [{"wildcard": "**"}]}', "$.a[0].wildcard", "** says no more"),
        ('{"a": [{"wildcard": "\\\\x"}]}', "$.a[0].wildcard", "a backslash"),
        ('{"a": [{"wildcard": "x\\\\"}]}', "$.a[0].wildcard", "a backslash"),
        ('{"a": [{"exists": "true"}]}', "$.a[0].exists", "true or false"),
        ('{"a": [{"exists": 1}]}', "$.a[0].exists", "true or false"),
        # anything-but
        ('{"a": [{"anything-but": []}]}', "$.a[0].anything-but", "excludes nothing"),
        ('{"a": [{"anything-but": ["x", ["y"]]}]}', "$.a[0].anything-but[1]", "an operator is needed"),
        ('{"a": [{"anything-but": {"cidr": "10.0.0.0/8"}}]}', "$.a[0].anything-but.cidr", "inside anything-but"),
        ('{"a": [{"anything-but": {"prefix": ""}}]}', "$.a[0].anything-but.prefix", "empty text"),
        ('{"a": [{"anything-but": {"prefix": ["x", 1]}}]}', "$.a[0].anything-but.prefix[1]", "a text is needed"),
        ('{"a": [{"anything-but": {"suffix": []}}]}', "$.a[0].anything-but.suffix", "excludes nothing"),
        ('{"a": [{"anything-but": {"wildcard": ["a*", "**"]}}]}', "$.a[0].anything-but.wildcard[1]", "** says"),
        # numbers
        ('{"data": {"amount": [{"numeric": [">", "5"]}]}}', "$.data.amount[0].numeric[1]", "not a text"),
        ('{"a": [{"numeric": [">", true]}]}', "$.a[0].numeric[1]", "not true"),
        ('{"a": [{"numeric": ["!=", 1]}]}', "$.a[0].numeric[0]", 'one of "="'),
        ('{"a": [{"numeric": [1, 1]}]}', "$.a[0].numeric[0]", 'one of "="'),
        ('{"a": [{"numeric": [">", 1, ">", 2]}]}', "$.a[0].numeric[2]", "two make a range"),
        ('{"a": [{"numeric": ["=", 1, "<", 2]}]}', "$.a[0].numeric[0]", "two make a range"),
        ('{"a": [{"numeric": [">", 1, "=", 2]}]}', "$.a[0].numeric[2]", "two make a range"),
        ('{"a": [{"numeric": [">", 1, "<"]}]}', "$.a[0].numeric", "one or two comparisons"),
        ('{"a": [{"numeric": []}]}', "$.a[0].numeric", "one or two comparisons"),
        ('{"a": [{"numeric": 5}]}', "$.a[0].numeric", "one or two comparisons"),
        ('{"a": [{"numeric": [">", 2, "<", 1]}]}', "$.a[0].numeric", "no number"),
        ('{"a": [{"numeric": [">", 1, "<=", 1.0]}]}', "$.a[0].numeric", "no number"),
        ('{"a": [NaN]}', "$.a[0]", "a number of up to"),
        ('{"a": [-Infinity]}', "$.a[0]", "a number of up to"),
        ('{"a": [1e99999999999999999999]}', "$.a[0]", "a number of up to"),
        (f'{{"a": [1e{NUMBER_EXPONENT_MAX + 1}]}}', "$.a[0]", "a number of up to"),
        (f'{{"a": [1e-{NUMBER_EXPONENT_MAX + 1}]}}', "$.a[0]", "a number of up to"),
        (f'{{"a": [{"7" * (NUMBER_DIGITS_MAX + 1)}]}}', "$.a[0]", "a number of up to"),
        # networks
        ('{"a": [{"cidr": 10}]}', "$.a[0].cidr", "a text is needed"),
        ('{"a": [{"cidr": "10.0.0.1"}]}', "$.a[0].cidr", "an address with its bits"),
        ('{"a": [{"cidr": "10.0.0.0/33"}]}', "$.a[0].cidr", "an address with its bits"),
        ('{"a": [{"cidr": "10.0.0.0/255.0.0.0"}]}', "$.a[0].cidr", "an address with its bits"),
        ('{"a": [{"cidr": "10.0.0.0/-1"}]}', "$.a[0].cidr", "an address with its bits"),
        ('{"a": [{"cidr": "10.0.0/8"}]}', "$.a[0].cidr", "an address with its bits"),
        ('{"a": [{"cidr": "fe80::1%eth0/64"}]}', "$.a[0].cidr", "an address with its bits"),
        ('{"a": [{"cidr": "::/129"}]}', "$.a[0].cidr", "an address with its bits"),
        ('{"a": [{"cidr": "::/٣"}]}', "$.a[0].cidr", "an address with its bits"),
        # $or
        ('{"$or": {"a": [1]}}', "$.$or", "at least two"),
        ('{"$or": [{"a": [1]}]}', "$.$or", "at least two"),
        ('{"$or": [{"a": [1]}, [1]]}', "$.$or[1]", "an object is needed"),
        ('{"$or": [{"a": [1]}, {}]}', "$.$or[1]", "empty object"),
        ('{"data": {"$or": [{"a": [1]}, {"b": [{"exists": 0}]}]}}', "$.data.$or[1].b[0].exists", "true or false"),
    ],
)
def test_what_is_wrong_and_where(text: str, path: str, part: str) -> None:
    error = refused(text)
    assert error.path == path
    assert part in error.sentence


@pytest.mark.parametrize("value", [None, 5, b'{"a": [1]}', ["a"], object()])
def test_only_texts_and_objects_are_patterns(value: object) -> None:
    assert refused(value).path == "$"


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ({1: ["x"]}, "$"),
        ({"a": [{1: "x"}]}, "$.a[0]"),
        ({"a": [b"x"]}, "$.a[0]"),
        ({"a": {"b": {1, 2}}}, "$.a.b"),
        ({"a": [{"prefix": b"x"}]}, "$.a[0].prefix"),
        ({"a": [float("nan")]}, "$.a[0]"),
        ({"a": [Decimal("sNaN")]}, "$.a[0]"),
        ({"a": [Decimal("-Infinity")]}, "$.a[0]"),
        ({"a": [1 << 100_000]}, "$.a[0]"),
        ({"a": [Decimal("1" * 20_000)]}, "$.a[0]"),
    ],
)
def test_what_json_cannot_decode_to_is_refused(pattern: Any, path: str) -> None:
    assert refused(pattern).path == path


def test_a_pattern_that_contains_itself_is_too_deep() -> None:
    pattern: dict[str, Any] = {}
    pattern["a"] = pattern
    assert "levels deep" in refused(pattern).sentence


# --- the canonical text ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ('{ "b": [2, 1, 1], "a": ["x"] }', '{"a":["x"],"b":[1,2]}'),
        ('{"a": [1, 1.0, 1e0, 10e-1]}', '{"a":[1]}'),
        ('{"a": [true, 1]}', '{"a":[1,true]}'),
        ('{"a": [-0.0, 0e999999]}', '{"a":[0]}'),
        ('{"a": [12.50]}', '{"a":[12.5]}'),
        ('{"a": [1000000000000000000]}', '{"a":[1E+18]}'),
        ('{"a": [123456789012345678901]}', '{"a":[123456789012345678901]}'),
        ('{"a": [{"numeric": ["=", 5.0]}]}', '{"a":[5]}'),
        ('{"a": [{"numeric": ["<=", 5, ">=", 5]}]}', '{"a":[5]}'),
        ('{"a": [{"numeric": ["<", 9, ">=", 1]}]}', '{"a":[{"numeric":[">=",1,"<",9]}]}'),
        ('{"a": [{"numeric": ["<=", 9]}]}', '{"a":[{"numeric":["<=",9]}]}'),
        ('{"a": [{"wildcard": "x"}]}', '{"a":["x"]}'),
        ('{"a": [{"wildcard": "x\\\\*"}]}', '{"a":["x*"]}'),
        ('{"a": [{"wildcard": "x*"}]}', '{"a":[{"prefix":"x"}]}'),
        ('{"a": [{"wildcard": "*x"}]}', '{"a":[{"suffix":"x"}]}'),
        ('{"a": [{"wildcard": "*"}]}', '{"a":[{"prefix":""}]}'),
        ('{"a": [{"wildcard": "x*\\\\\\\\y"}]}', '{"a":[{"wildcard":"x*\\\\\\\\y"}]}'),
        ('{"a": [{"anything-but": ["y"]}]}', '{"a":[{"anything-but":"y"}]}'),
        ('{"a": [{"anything-but": ["y", "x", "y"]}]}', '{"a":[{"anything-but":["x","y"]}]}'),
        ('{"a": [{"anything-but": {"prefix": ["y"]}}]}', '{"a":[{"anything-but":{"prefix":"y"}}]}'),
        ('{"a": [{"prefix": {"equals-ignore-case": "y"}}]}', '{"a":[{"prefix":{"equals-ignore-case":"y"}}]}'),
        ('{"a": [{"cidr": "10.1.2.3/8"}]}', '{"a":[{"cidr":"10.0.0.0/8"}]}'),
        ('{"a": [{"cidr": "2001:DB8:0:0::7/32"}]}', '{"a":[{"cidr":"2001:db8::/32"}]}'),
        ('{"a": [{"exists": false}, null]}', '{"a":[null,{"exists":false}]}'),
        ('{"$or": [{"b": [1]}, {"a": [1]}], "$and": [1]}', '{"$and":[1],"$or":[{"a":[1]},{"b":[1]}]}'),
        ('{"a": ["\\u00e9\\/\\u0000"]}', '{"a":["é/\\u0000"]}'),
    ],
)
def test_canonical_text(written: str, canonical: str) -> None:
    assert parse_pattern(written).text == canonical
    assert parse_pattern(canonical).text == canonical
    assert orjson.loads(canonical)


def test_a_float_is_the_number_that_json_writes_for_it() -> None:
    assert parse_pattern({"a": [0.1, 1e23, 2.0]}).text == '{"a":[0.1,1E+23,2]}'


def test_objects_and_tuples_are_read_as_their_text() -> None:
    assert parse_pattern({"a": ("x", {"anything-but": (1, 2)})}) == parse_pattern('{"a":["x",{"anything-but":[1,2]}]}')


# --- bounds: what is just allowed, and one more ---------------------------------------------------


def accepted(pattern: object) -> str:
    return parse_pattern(pattern).text


def nested(levels: int) -> str:
    return '{"a":' * levels + "[1]" + "}" * levels


def wildcards(number: int) -> str:
    return orjson.dumps({"a": [{"wildcard": "*".join("x" * (number + 1))}]}).decode()


def combinations(branches: int, times: int) -> str:
    ors = orjson.dumps([{"a": [number]} for number in range(branches)]).decode()
    fields = ",".join(f'"f{at}":{{"$or":{ors}}}' for at in range(times))
    return f"{{{fields}}}"


def test_every_bound_holds_at_its_edge() -> None:
    assert accepted(nested(DEPTH_MAX))
    assert "levels deep" in refused(nested(DEPTH_MAX + 1)).sentence
    assert accepted({"a": list(range(LEAVES_MAX))})
    assert refused({"a": list(range(LEAVES_MAX + 1))}).path == f"$.a[{LEAVES_MAX}]"
    assert refused({"a": [{"anything-but": list(range(LEAVES_MAX + 1))}]}).path == f"$.a[0].anything-but[{LEAVES_MAX}]"
    assert accepted(wildcards(WILDCARDS_MAX))
    assert "wildcards" in refused(wildcards(WILDCARDS_MAX + 1)).sentence
    assert OR_COMBINATIONS_MAX == 10**3
    assert accepted(combinations(10, 3))
    assert "combinations" in refused(combinations(10, 4)).sentence
    assert "combinations" in refused(combinations(11, 3)).sentence
    assert accepted({"a": [Decimal(f"{'7' * NUMBER_DIGITS_MAX}e-{NUMBER_EXPONENT_MAX}")]})
    assert accepted(f'{{"a": [1e{NUMBER_EXPONENT_MAX}, -1e-{NUMBER_EXPONENT_MAX}]}}')


def test_the_size_of_text_objects_and_canonical_text() -> None:
    room = FILTER_BYTES_MAX - len('{"a":[""]}')
    assert accepted(f'{{"a":["{"x" * room}"]}}')
    assert "bytes" in refused(f'{{"a":["{"x" * room}x"]}}').sentence
    assert "bytes" in refused(f'{{"a":["{"é" * (room // 2 + 1)}"]}}').sentence
    assert "bytes" in refused({"a": ["x" * (FILTER_BYTES_MAX + 1)]}).sentence
    assert "bytes" in refused({"é" * (FILTER_BYTES_MAX // 2): [1]}).sentence
    assert accepted('{"a":[' + ",".join(f"1e17,{at}" for at in range(499)) + "]}")


@pytest.mark.parametrize(
    "pattern",
    [
        nested(3_000),
        '{"$or":[' * 1_000,
        "{" * 16_000,
        '{"a":[' + "1," * 8_000 + "1]}",
        '{"a":[' + '{"exists":true},' * 999 + "1]}",
        '{"a":[{"wildcard":"' + "*a" * 8_000 + '"}]}',
        '{"a":[{"wildcard":"' + "\\\\\\\\" * 4_000 + '"}]}',
        f'{{"a":[{"9" * 16_000}]}}',
        '{"$or":[{"a":[1]},' * 30 + '{"b":["' + "x" * 10_000 + '"]}' + ',{"c":[2]}]}' * 30,
        combinations(2, 300),
        {"a": ["x" * 10_000_000]},
        {"a": [1] * 1_000_000},
        {f"f{at}": [1] for at in range(100_000)},
        {"a": [1 << 10_000_000]},
    ],
)
def test_work_is_bounded_whatever_is_read(pattern: object) -> None:
    def read() -> None:
        with contextlib.suppress(InvalidFilterError):
            parse_pattern(pattern)

    assert steps(read) < PARSE_STEPS_MAX
