"""Filters: does an event's document match a pattern.

`parse_filter` reads and checks a pattern; equal patterns, however they are written, are one `Filter`, compiled once. A
match runs a bounded number of steps for each value that it looks at: no regular expressions, no backtracking.

A document is what JSON decodes to. Numbers are compared exactly: ints and Decimals as they are, a float as the shortest
text that reads back as it (which is what JSON writes for it). `load_json` loses no digit. This file does not choose
which of many filters to look at (`streams/core/filter_index.py`).
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any, assert_never
from weakref import WeakValueDictionary

import msgspec

from schemas.filter_parse import parse_pattern, wildcard_parts
from schemas.filter_pattern import Alternatives, AnythingBut, Cidr, Exact, Exists, Pattern, Range, Test, Text

Document = dict[str, Any]
#: Whether an object has what a part of a pattern asks for.
Matcher = Callable[[Document], bool]
#: Whether one value does: a text, number, boolean or null, never an object or array.
Check = Callable[[Any], bool]


class Filter:
    """A checked pattern. Equal and hashed by its canonical text; made by `parse_filter` only."""

    __slots__ = ("__weakref__", "_match", "pattern", "reads_data", "text")

    def __init__(self, pattern: Pattern, text: str) -> None:
        self.pattern = pattern
        #: The canonical JSON text: `parse_filter(filter.text) is filter`.
        self.text = text
        #: Whether the event's data is looked at, or only what is around it.
        self.reads_data = _names_data(pattern)
        self._match: Matcher | None = None

    def matches(self, document: Document) -> bool:
        """Whether the document has everything that the pattern asks for."""
        return self.matcher(document)

    @property
    def matcher(self) -> Matcher:
        """`matches` as a function. Compiled when it is first asked for: a worker holds many filters that no event of
        its partitions meets."""
        if self._match is None:
            self._match = compile_pattern(self.pattern)
        return self._match

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Filter) and self.text == other.text)

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Filter({self.text})"


#: Every filter that is in use, by its canonical text (a pure memo).
_filters: WeakValueDictionary[str, Filter] = WeakValueDictionary()


def parse_filter(pattern: object) -> Filter:
    """The filter of a pattern: a JSON text, or a decoded JSON object. InvalidFilterError with the place in it.

    Costs a look-up where the pattern is the text of a filter in use.
    """
    if isinstance(pattern, str):
        known = _filters.get(pattern)
        if known is not None:
            return known
    parsed = parse_pattern(pattern)
    return _filters.setdefault(parsed.text, Filter(parsed.pattern, parsed.text))


def _names_data(pattern: Pattern) -> bool:
    return any(name == "data" for name, _ in pattern.fields) or any(map(_names_data, pattern.any_of))


# --- documents ------------------------------------------------------------------------------------


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond what a Decimal can hold: 0, or nothing that JSON readers take
        if float(text) != 0:
            raise ValueError("a number is too large") from None
        return Decimal(0)


_decoder = msgspec.json.Decoder(float_hook=_decimal)


def load_json(data: bytes) -> Any:
    """Decode JSON for `matches`: every digit of every number is kept. ValueError when it is not JSON.

    As fast as orjson, which makes floats of decimals and of integers beyond 64 bits.
    """
    try:
        return _decoder.decode(data)
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


# --- compiling ------------------------------------------------------------------------------------

_MISSING: Any = object()
#: Types whose values are compared as they are. Booleans are not: True == 1.
PLAIN = frozenset({str, int, Decimal, type(None)})
NUMBERS = frozenset({int, Decimal})
_TRUE, _FALSE, _NO_KEY = object(), object(), object()


def scalar_key(value: Any) -> Any:
    """What stands for a scalar in sets: equal for equal JSON values, and True is not 1. A float that JSON cannot write
    is null there."""
    if type(value) in PLAIN:
        return value
    if value is True:
        return _TRUE
    if value is False:
        return _FALSE
    if type(value) is float:
        return Decimal(repr(value)) if math.isfinite(value) else None
    return _NO_KEY  # nothing that JSON decodes to


def scalars(values: Iterable[Any]) -> Iterator[Any]:
    """The texts, numbers, booleans and nulls in an array and the arrays in it, in order."""
    waiting = [iter(values)]
    while waiting:
        for value in waiting[-1]:
            if type(value) is list:
                waiting.append(iter(value))
                break
            if type(value) is not dict:
                yield value
        else:
            waiting.pop()


def objects(values: Iterable[Any]) -> Iterator[Document]:
    """The objects in an array and the arrays in it, in order."""
    waiting = [iter(values)]
    while waiting:
        for value in waiting[-1]:
            if type(value) is list:
                waiting.append(iter(value))
                break
            if type(value) is dict:
                yield value
        else:
            waiting.pop()


def compile_pattern(pattern: Pattern) -> Matcher:
    """A function of a document."""
    parts = [_field(name, node) for name, node in sorted(pattern.fields, key=_cost)]
    if pattern.any_of:
        parts.append(_any_of([compile_pattern(branch) for branch in pattern.any_of]))
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2:
        first, second = parts
        return lambda document: first(document) and second(document)
    every = tuple(parts)

    def matches(document: Document) -> bool:
        for part in every:  # noqa: SIM110 - half the cost of all() with a generator
            if not part(document):
                return False
        return True

    return matches


def _cost(field: tuple[str, Pattern | Alternatives]) -> int:
    """Exact values first: they cost least, and exclude most."""
    node = field[1]
    if isinstance(node, Pattern):
        return 1
    return 0 if all(isinstance(test, Exact) for test in node.tests) else 2


def _any_of(branches: list[Matcher]) -> Matcher:
    def matches(document: Document) -> bool:
        for branch in branches:  # noqa: SIM110 - as above
            if branch(document):
                return True
        return False

    return matches


def _field(name: str, node: Pattern | Alternatives) -> Matcher:
    if isinstance(node, Pattern):
        return _inside(name, compile_pattern(node))
    return _leaf(name, node)


def _inside(name: str, matches: Matcher) -> Matcher:
    """A field that is an object, or an array of which one object has everything. Where there is no object, it is as if
    there were an empty one, so that what must not exist does not."""
    without = matches({})

    def inside(document: Document) -> bool:
        value = document.get(name, _MISSING)
        if type(value) is dict:
            return matches(value)
        if type(value) is list:
            found = False
            for each in objects(value):
                if matches(each):
                    return True
                found = True
            return not found and without
        return without

    return inside


def _leaf(name: str, node: Alternatives) -> Matcher:
    """A field that is a value, or an array of which one value is an alternative."""
    wanted = frozenset(scalar_key(test.value) for test in node.tests if isinstance(test, Exact))
    others = [_check(test) for test in node.tests if not isinstance(test, Exact | Exists)]
    if Exists(True) in node.tests:
        others = [lambda value: True]
    without = Exists(False) in node.tests

    def check(value: Any) -> bool:
        if scalar_key(value) in wanted:
            return True
        for other in others:  # noqa: SIM110 - as above
            if other(value):
                return True
        return False

    def among(value: Any) -> bool:
        """The rare kinds: nothing there, an object, an array, a boolean, a float."""
        if value is _MISSING or type(value) is dict:
            return without
        if type(value) is not list:
            return check(value)
        found = False
        for each in scalars(value):
            if check(each):
                return True
            found = True
        return not found and without

    if not others:

        def exact(document: Document) -> bool:
            value = document.get(name, _MISSING)
            return value in wanted if type(value) in PLAIN else among(value)

        return exact

    def leaf(document: Document) -> bool:
        value = document.get(name, _MISSING)
        return check(value) if type(value) in PLAIN else among(value)

    return leaf


# --- one value ------------------------------------------------------------------------------------


def _check(test: Test) -> Check:
    match test:
        case Exact(value):
            key = scalar_key(value)
            return lambda given: bool(scalar_key(given) == key)
        case Text():
            return _text(test)
        case AnythingBut(tests):
            excluded = [_check(each) for each in tests if not isinstance(each, Exact)]
            values = frozenset(scalar_key(each.value) for each in tests if isinstance(each, Exact))
            if not excluded:
                return lambda given: scalar_key(given) not in values
            return lambda given: not any(each(given) for each in excluded)
        case Range():
            return _range(test)
        case Cidr(version, network, bits):
            host_bits = (32 if version == 4 else 128) - bits
            wanted = (version, network >> host_bits)

            def in_network(given: Any) -> bool:
                found = address(given)
                return found is not None and (found[0], found[1] >> host_bits) == wanted

            return in_network
        case Exists(wanted):
            return lambda given: wanted
    assert_never(test)


def _text(test: Text) -> Check:
    text = test.text.casefold() if test.fold else test.text
    match test.operator, test.fold:
        case "prefix", False:
            return lambda given: type(given) is str and given.startswith(text)
        case "prefix", True:
            return lambda given: type(given) is str and given.casefold().startswith(text)
        case "suffix", False:
            return lambda given: type(given) is str and given.endswith(text)
        case "suffix", True:
            return lambda given: type(given) is str and given.casefold().endswith(text)
        case "equals-ignore-case", _:
            return lambda given: type(given) is str and given.casefold() == text
    return _wildcard(wildcard_parts(text))


def _wildcard(parts: list[str]) -> Check:
    """Each part is looked for once, from where the one before ended: the first place is never worse than a later one,
    so nothing is tried twice."""
    if len(parts) == 1:  # inside anything-but, a wildcard without a wildcard is left as it is
        return lambda given: bool(given == parts[0])
    first, *middle, last = parts
    length_min = sum(map(len, parts))

    def matches(given: Any) -> bool:
        if type(given) is not str or len(given) < length_min:
            return False
        if not (given.startswith(first) and given.endswith(last)):
            return False
        at, end = len(first), len(given) - len(last)
        for part in middle:
            at = given.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return at <= end

    return matches


def _range(test: Range) -> Check:
    low, low_open, high, high_open = test.low, test.low_open, test.high, test.high_open

    def within(given: Any) -> bool:
        if type(given) not in NUMBERS:
            if type(given) is not float or not math.isfinite(given):
                return False
            given = Decimal(repr(given))
        if low is not None and (given <= low if low_open else given < low):
            return False
        return high is None or (given < high if high_open else given <= high)

    return within


def address(value: Any) -> tuple[int, int] | None:
    """(4 or 6, the address as a number) of a text that is an IP address, without a zone; else None."""
    # The longest is an IPv6 address that ends with an IPv4 one; a zone is part of no network.
    if type(value) is not str or not 2 <= len(value) <= 45 or "%" in value:
        return None
    try:
        found = ipaddress.ip_address(value)
    except ValueError:
        return None
    return found.version, int(found)
