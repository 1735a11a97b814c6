"""Reading a filter pattern: from JSON text, or from what JSON text decodes to, with the exact place of what is wrong.

The language is that of Amazon EventBridge's event patterns; docs/reference/filters.md says where this one differs. The
work is bounded by the size of what is read. This file does not match (`streams/core/filters.py`).
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Literal, NoReturn, TypeVar, cast

import msgspec

from schemas.errors import InvalidFilterError
from schemas.filter_json import NumberText, Repeating, decoded
from schemas.filter_pattern import (
    DEPTH_MAX,
    FILTER_BYTES_MAX,
    LEAVES_MAX,
    NUMBER_DIGITS_MAX,
    NUMBER_EXPONENT_MAX,
    OR_COMBINATIONS_MAX,
    WILDCARDS_MAX,
    Alternatives,
    AnythingBut,
    Cidr,
    Exact,
    Exists,
    Number,
    Pattern,
    Range,
    Scalar,
    Test,
    Text,
    TextOperator,
    canonical_text,
    number,
    test_text,
)

OPERATORS = (
    "anything-but",
    "cidr",
    "equals-ignore-case",
    "exists",
    "numeric",
    "prefix",
    "suffix",
    "wildcard",
)
_PLAIN_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*")
_CIDR_BITS = re.compile(r"[0-9]{1,3}")
_AnyTest = TypeVar("_AnyTest", bound=Test)


class ParsedPattern(msgspec.Struct, frozen=True):
    """A pattern that keeps every rule, and its canonical text."""

    pattern: Pattern
    text: str


def parse_pattern(pattern: object) -> ParsedPattern:
    """Read a pattern: a JSON text, or a decoded JSON object. InvalidFilterError names the place and what is needed.

    Numbers count as they are written, so give the text where there is one: a decoder that makes floats has lost digits.
    """
    if isinstance(pattern, str):
        pattern = decoded(pattern)
    if not isinstance(pattern, dict):
        _refuse("$", 'an object is needed, as {"data": {"status": ["paid"]}}')
    parsed = _Reader().pattern(pattern, "$", 1)
    text = canonical_text(parsed)
    if len(text.encode()) > FILTER_BYTES_MAX:
        _refuse("$", f"more than {FILTER_BYTES_MAX} bytes")
    return ParsedPattern(parsed, text)


# --- patterns -------------------------------------------------------------------------------------


class _Reader:
    """One reading; counts what is bounded in all of the pattern."""

    def __init__(self) -> None:
        self._leaves = 0
        self._characters = 0

    def pattern(self, given: dict[object, object], path: str, depth: int) -> Pattern:
        if depth > DEPTH_MAX:
            _refuse(path, f"nested more than {DEPTH_MAX} levels deep")
        if isinstance(given, Repeating):
            _refuse(_at(path, given.repeated), "this name stands twice in its object")
        if not given:
            _refuse(path, "an empty object says nothing; leave it out")
        fields: list[tuple[str, Pattern | Alternatives]] = []
        any_of: tuple[Pattern, ...] = ()
        for name, node in given.items():
            if not isinstance(name, str):
                _refuse(path, "names of fields are texts")
            place = _at(path, self._text(name, path))
            if name == "$or":
                any_of = self._any_of(node, place, depth)
            elif isinstance(node, dict):
                fields.append((name, self.pattern(node, place, depth + 1)))
            else:
                fields.append((name, self._alternatives(node, place)))
        fields.sort(key=lambda field: field[0])
        read = Pattern(tuple(fields), any_of)
        if _combinations(read) > OR_COMBINATIONS_MAX:
            _refuse(path, f"$or makes more than {OR_COMBINATIONS_MAX} combinations")
        return read

    def _any_of(self, given: object, path: str, depth: int) -> tuple[Pattern, ...]:
        if not isinstance(given, list | tuple) or len(given) < 2:
            _refuse(path, "a list of at least two objects is needed")
        read = []
        for place, branch in _items(given, path):
            if not isinstance(branch, dict):
                _refuse(place, 'an object is needed, as {"data": {"status": ["paid"]}}')
            read.append(self.pattern(branch, place, depth + 1))
        return tuple(sorted(read, key=canonical_text))

    def _alternatives(self, given: object, path: str) -> Alternatives:
        if not isinstance(given, list | tuple):
            _refuse(path, 'a list of alternatives is needed, as ["paid"], or an object with fields')
        if not given:
            _refuse(path, "an empty list matches nothing; name at least one alternative")
        return Alternatives(_in_order([self._test(item, place) for place, item in _items(given, path)]))

    def _test(self, given: object, path: str) -> Test:
        if not isinstance(given, dict):
            return Exact(self._scalar(given, path))
        operator, argument, place = self._operator(given, path)
        match operator:
            case "prefix" | "suffix" | "equals-ignore-case" | "wildcard":
                return self._text_test(operator, argument, place)
            case "anything-but":
                return self._anything_but(argument, place)
            case "numeric":
                self._leaf(place)
                return self._numeric(argument, place)
            case "cidr":
                return self._cidr(argument, place)
            case "exists":
                self._leaf(place)
                if not isinstance(argument, bool):
                    _refuse(place, "true or false is needed")
                return Exists(argument)
        names = ", ".join(OPERATORS)
        raise InvalidFilterError(place, f"no such operator; there are {names}")

    def _operator(self, given: dict[object, object], path: str) -> tuple[str, object, str]:
        """(name, argument, place of the argument)"""
        if len(given) != 1 or isinstance(given, Repeating):
            _refuse(path, 'an alternative has one operator, as {"prefix": "eu-"}')
        ((name, argument),) = given.items()
        if not isinstance(name, str):
            _refuse(path, "names of operators are texts")
        return name, argument, _at(path, self._text(name, path))

    def _text_test(self, operator: TextOperator, argument: object, path: str) -> Test:
        fold = operator == "equals-ignore-case"
        if operator in ("prefix", "suffix") and isinstance(argument, dict):
            inner, argument, path = self._operator(argument, path)
            if inner != "equals-ignore-case":
                _refuse(path, "only equals-ignore-case can stand here")
            fold = True
        self._leaf(path)
        if not isinstance(argument, str) or isinstance(argument, NumberText):
            _refuse(path, f"a text is needed, not {_kind(argument)}")
        text = self._text(argument, path)
        if operator != "wildcard":
            return Text(operator, text, fold)
        parts = wildcard_parts(text, path)
        if len(parts) == 1:  # what can be said without a wildcard is said so: it is shared, and indexed
            return Exact(parts[0])
        if len(parts) == 2 and "" in parts:
            return Text("prefix", parts[0]) if parts[1] == "" else Text("suffix", parts[1])
        return Text("wildcard", text)

    def _anything_but(self, argument: object, path: str) -> AnythingBut:
        if isinstance(argument, dict):
            operator, argument, path = self._operator(argument, path)
            if operator not in ("prefix", "suffix", "equals-ignore-case", "wildcard"):
                _refuse(path, "only equals-ignore-case, prefix, suffix and wildcard can stand inside anything-but")
            tests: list[Exact | Text] = []
            for place, item in _one_or_more(argument, path):
                tests.append(self._text_but(cast(TextOperator, operator), item, place))
            return AnythingBut(_in_order(tests))
        return AnythingBut(
            _in_order([Exact(self._scalar(item, place)) for place, item in _one_or_more(argument, path)])
        )

    def _text_but(self, operator: TextOperator, given: object, path: str) -> Text:
        self._leaf(path)
        if not isinstance(given, str) or isinstance(given, NumberText):
            _refuse(path, f"a text is needed, not {_kind(given)}")
        if not given:
            _refuse(path, "an empty text is not allowed here")
        if operator == "wildcard":
            wildcard_parts(given, path)
        return Text(operator, self._text(given, path), operator == "equals-ignore-case")

    def _numeric(self, argument: object, path: str) -> Test:
        if not isinstance(argument, list | tuple) or len(argument) not in (2, 4):
            _refuse(path, 'one or two comparisons are needed, as [">", 0, "<=", 5]')
        low: Number | None = None
        high: Number | None = None
        low_open = high_open = False
        for at in range(0, len(argument), 2):
            sign, place = argument[at], f"{path}[{at}]"
            bound = self._number(argument[at + 1], f"{path}[{at + 1}]")
            if sign == "=" and len(argument) == 2:
                return Exact(bound)
            if sign in (">", ">=") and low is None:
                low, low_open = bound, sign == ">"
            elif sign in ("<", "<=") and high is None:
                high, high_open = bound, sign == "<"
            else:
                _refuse(
                    place, 'one of "=", ">", ">=", "<", "<=" is needed; two make a range, one from below, one above'
                )
        if low is not None and high is not None:
            if low > high or (low == high and (low_open or high_open)):
                _refuse(path, "no number is in this range")
            if low == high:
                return Exact(low)
        return Range(low, low_open, high, high_open)

    def _cidr(self, argument: object, path: str) -> Cidr:
        self._leaf(path)
        if not isinstance(argument, str) or isinstance(argument, NumberText):
            _refuse(path, f"a text is needed, not {_kind(argument)}")
        address, slash, bits = self._text(argument, path).partition("/")
        try:
            parsed = ipaddress.ip_address(address[:64])
            scoped = parsed.version == 6 and parsed.scope_id is not None
            if not slash or not _CIDR_BITS.fullmatch(bits) or int(bits) > parsed.max_prefixlen or scoped:
                raise ValueError
        except ValueError:
            _refuse(
                path, "an address with its bits is needed, as 10.0.0.0/8 or 2001:db8::/32; one address is a.b.c.d/32"
            )
        host_bits = parsed.max_prefixlen - int(bits)
        version: Literal[4, 6] = 4 if parsed.version == 4 else 6
        return Cidr(version, int(parsed) >> host_bits << host_bits, int(bits))

    def _scalar(self, given: object, path: str) -> Scalar:
        self._leaf(path)
        if given is None or isinstance(given, bool):
            return given
        if isinstance(given, str) and not isinstance(given, NumberText):
            return self._text(given, path)
        if isinstance(given, NumberText | int | float | Decimal):
            return self._number(given, path)
        raise InvalidFilterError(path, "a text, a number, true, false, null or an operator is needed")

    def _number(self, given: object, path: str) -> Number:
        if isinstance(given, bool) or not isinstance(given, NumberText | int | float | Decimal):
            _refuse(path, f"a number is needed, not {_kind(given)}")
        if isinstance(given, int) and given.bit_length() > 1_024:
            _refuse(path, _NUMBER_RULE)
        try:
            # The shortest text that reads back as this float: what JSON writes for it, and what was meant.
            exact = given if isinstance(given, Decimal) else Decimal(repr(given) if isinstance(given, float) else given)
        except InvalidOperation:
            _refuse(path, _NUMBER_RULE)
        self._spend(len(exact.as_tuple().digits), path)
        if not exact.is_finite() or (exact and abs(exact.adjusted()) > NUMBER_EXPONENT_MAX):
            _refuse(path, _NUMBER_RULE)
        read = number(exact)
        if isinstance(read, Decimal) and len(read.as_tuple().digits) > NUMBER_DIGITS_MAX:
            _refuse(path, _NUMBER_RULE)
        return read

    def _text(self, given: str, path: str) -> str:
        self._spend(len(given), path)
        try:
            given.encode()
        except UnicodeEncodeError:
            _refuse(path, "not Unicode text: it holds half of a surrogate pair")
        return str(given)

    def _leaf(self, path: str) -> None:
        self._leaves += 1
        if self._leaves > LEAVES_MAX:
            _refuse(path, f"more than {LEAVES_MAX} alternatives in all")

    def _spend(self, characters: int, path: str) -> None:
        self._characters += characters
        if self._characters > FILTER_BYTES_MAX:
            _refuse(path, f"more than {FILTER_BYTES_MAX} bytes up to here")


_NUMBER_RULE = (
    f"a number of up to {NUMBER_DIGITS_MAX} digits is needed, 0 or between "
    f"1e-{NUMBER_EXPONENT_MAX} and 1e{NUMBER_EXPONENT_MAX}"
)


def wildcard_parts(text: str, path: str = "$") -> list[str]:
    """The texts between the `*` of a wildcard, one more than there are `*`. InvalidFilterError when it breaks a rule:
    `**`, a backslash before anything but `*` and a backslash, more than `WILDCARDS_MAX`."""
    parts: list[str] = []
    part: list[str] = []
    characters = iter(text)
    for character in characters:
        if character == "*":
            if parts and not part:
                _refuse(path, "** says no more than *; write one")
            parts.append("".join(part))
            part = []
        elif character == "\\":
            escaped = next(characters, "")
            if escaped not in ("*", "\\") or not escaped:
                _refuse(path, r"a backslash stands before * or another backslash only: \* and \\")
            part.append(escaped)
        else:
            part.append(character)
    parts.append("".join(part))
    if len(parts) - 1 > WILDCARDS_MAX:
        _refuse(path, f"more than {WILDCARDS_MAX} wildcards in one text")
    return parts


# --- small parts ----------------------------------------------------------------------------------


def _combinations(pattern: Pattern) -> int:
    """How many patterns without `$or` this one comes to. Bounded, since it is looked at from the inside out."""
    product = sum(map(_combinations, pattern.any_of)) or 1
    for _, node in pattern.fields:
        if isinstance(node, Pattern):
            product *= _combinations(node)
    return product


def _in_order(tests: list[_AnyTest]) -> tuple[_AnyTest, ...]:
    """Each once, in the order of canonical texts. Not by equality: True == 1."""
    by_text = {test_text(test): test for test in tests}
    return tuple(by_text[text] for text in sorted(by_text))


def _items(given: list[object] | tuple[object, ...], path: str) -> Iterator[tuple[str, object]]:
    return ((f"{path}[{at}]", item) for at, item in enumerate(given))


def _one_or_more(given: object, path: str) -> Iterator[tuple[str, object]]:
    if not isinstance(given, list | tuple):
        return iter([(path, given)])
    if not given:
        _refuse(path, "an empty list excludes nothing; name at least one value")
    return _items(given, path)


def _kind(value: object) -> str:
    """What a value is, in the words of JSON."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case NumberText() | int() | float() | Decimal():
            return "a number"
        case str():
            return "a text"
        case dict():
            return "an object"
        case list() | tuple():
            return "a list"
    return f"a {type(value).__name__}"


def _at(path: str, name: str) -> str:
    if _PLAIN_NAME.fullmatch(name) and len(name) <= 64:
        return f"{path}.{name}"
    return f"{path}[{json.dumps(name if len(name) <= 64 else name[:64] + '…')}]"


def _refuse(path: str, sentence: str) -> NoReturn:
    raise InvalidFilterError(path, sentence)
