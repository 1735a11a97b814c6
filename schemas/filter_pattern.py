"""A filter pattern: its parts, its canonical text, and the bounds it is held to.

`parse_pattern` (`schemas/filter_parse.py`) makes these values. This file does not read JSON and does not match
(`streams/core/filters.py`).
"""

from __future__ import annotations

import ipaddress
import json
from decimal import Decimal
from typing import Literal, assert_never

import msgspec

#: Of the pattern as it is written, and of its canonical text, in UTF-8.
FILTER_BYTES_MAX = 16_384
#: Objects inside each other, `$or` included.
DEPTH_MAX = 32
#: Alternatives of all fields together, values inside `anything-but` counted one by one.
LEAVES_MAX = 1_000
#: What the pattern would come to if it were written without `$or`, as so many patterns of which one must match.
OR_COMBINATIONS_MAX = 1_000
#: `*` in one wildcard.
WILDCARDS_MAX = 16
#: Of one number, without leading and trailing zeros; and the power of ten of its first digit.
NUMBER_DIGITS_MAX = 64
NUMBER_EXPONENT_MAX = 400

#: A number as it is compared: exact, and an int where it is a whole one of up to 18 digits.
Number = int | Decimal
Scalar = str | Number | bool | None
TextOperator = Literal["prefix", "suffix", "equals-ignore-case", "wildcard"]


class Exact(msgspec.Struct, frozen=True):
    """The value itself."""

    value: Scalar


class Text(msgspec.Struct, frozen=True):
    """A text that begins, ends, or reads so; `fold` ignores case. `wildcard` keeps its text as it is written, with
    `\\*` and `\\\\` for the characters themselves."""

    operator: TextOperator
    text: str
    fold: bool = False


class AnythingBut(msgspec.Struct, frozen=True):
    """Any value that none of these matches; all of them are `Exact`, or all are `Text` with one operator."""

    tests: tuple[Exact | Text, ...]


class Range(msgspec.Struct, frozen=True):
    """A number between bounds; None is no bound."""

    low: Number | None
    low_open: bool
    high: Number | None
    high_open: bool


class Cidr(msgspec.Struct, frozen=True):
    """A text that is an address of this network. `network` is the address of its first host bit cleared."""

    version: Literal[4, 6]
    network: int
    bits: int


class Exists(msgspec.Struct, frozen=True):
    """Whether there is a value at all."""

    wanted: bool


Test = Exact | Text | AnythingBut | Range | Cidr | Exists


class Alternatives(msgspec.Struct, frozen=True):
    """What one field must be one of; never empty."""

    tests: tuple[Test, ...]


class Pattern(msgspec.Struct, frozen=True):
    """An object's fields, each of which must match, and of `any_of` one (none when it is empty). Fields ascend by
    name."""

    fields: tuple[tuple[str, Pattern | Alternatives], ...]
    any_of: tuple[Pattern, ...]


# --- canonical text -------------------------------------------------------------------------------


def canonical_text(pattern: Pattern) -> str:
    """JSON without spaces, keys and alternatives in order: equal for patterns that are written differently and say the
    same. Reading it gives the same pattern."""
    members = [f"{_quoted(name)}:{_node_text(node)}" for name, node in pattern.fields]
    if pattern.any_of:
        members.append(f'"$or":[{",".join(map(canonical_text, pattern.any_of))}]')
    return "{" + ",".join(members) + "}"


def _node_text(node: Pattern | Alternatives) -> str:
    if isinstance(node, Pattern):
        return canonical_text(node)
    return f"[{','.join(map(test_text, node.tests))}]"


def test_text(test: Test) -> str:
    """The canonical text of one alternative."""
    match test:
        case Exact(value):
            return _scalar_text(value)
        case Text(operator, text, fold):
            inner = f'{{"equals-ignore-case":{_quoted(text)}}}' if fold and operator in _WITH_CASE else _quoted(text)
            return f'{{"{operator}":{inner}}}'
        case AnythingBut(tests):
            return f'{{"anything-but":{_but_text(tests)}}}'
        case Range():
            return f'{{"numeric":[{",".join(_bounds(test))}]}}'
        case Cidr(version, network, bits):
            address = ipaddress.IPv4Address(network) if version == 4 else ipaddress.IPv6Address(network)
            return f'{{"cidr":"{address}/{bits}"}}'
        case Exists(wanted):
            return f'{{"exists":{_scalar_text(wanted)}}}'
    assert_never(test)


_WITH_CASE = ("prefix", "suffix")


def _but_text(tests: tuple[Exact | Text, ...]) -> str:
    first = tests[0]
    parts = [_quoted(test.text) if isinstance(test, Text) else _scalar_text(test.value) for test in tests]
    listed = parts[0] if len(parts) == 1 else f"[{','.join(parts)}]"
    return f'{{"{first.operator}":{listed}}}' if isinstance(first, Text) else listed


def _bounds(test: Range) -> list[str]:
    if test.low == test.high and test.low is not None:
        return ['"="', _scalar_text(test.low)]
    bounds = []
    if test.low is not None:
        bounds += ['">"' if test.low_open else '">="', _scalar_text(test.low)]
    if test.high is not None:
        bounds += ['"<"' if test.high_open else '"<="', _scalar_text(test.high)]
    return bounds


def _scalar_text(value: Scalar) -> str:
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def number(value: Decimal) -> Number:
    """The number in the one form that it is kept in: without trailing zeros, an int where that has up to 18 digits."""
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)  # not infinite, and a number
    end = len(digits)
    while end and digits[end - 1] == 0:
        end -= 1
    if not end:
        return 0
    exponent += len(digits) - end
    if exponent >= 0 and end + exponent <= 18:
        return int(value)
    return Decimal((sign, digits[:end], exponent))
