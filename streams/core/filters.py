"""Filters: does an event's document match a pattern.

`parse_filter` reads and checks a pattern; equal patterns, however they are written, are one `Filter`, compiled once. A
match runs a bounded number of steps for each value that it looks at: no regular expressions, no backtracking. This file
does not choose which of many filters to look at (`streams/core/filter_index.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never
from weakref import WeakValueDictionary

from schemas.filter_parse import parse_pattern, wildcard_parts
from schemas.filter_pattern import Alternatives, AnythingBut, Cidr, Exact, Exists, Pattern, Range, Text
from streams.core.filter_guards import Guard, guard_of
from streams.core.filter_values import MISSING, PLAIN, Document, address_of, number_of, objects, scalar_key, scalars

#: Whether an object has what a part of a pattern asks for.
Matcher = Callable[[Document], bool]
#: Whether one value does: a text, number, boolean or null, never an object or array.
Check = Callable[[Any], bool]


class Filter:
    """A checked pattern. Made by `parse_filter` only, which gives the same object for equal patterns as long as it is
    in use: so identity is equality of `text`."""

    __slots__ = ("__weakref__", "_guard", "_matcher", "pattern", "reads_data", "text")

    def __init__(self, pattern: Pattern, text: str) -> None:
        self.pattern = pattern
        #: The canonical JSON text: `parse_filter(filter.text) is filter`.
        self.text = text
        #: Whether the event's data is looked at, or only what is around it.
        self.reads_data = _names_data(pattern)
        self._matcher: Matcher | None = None
        self._guard: Guard | Any | None = MISSING

    def matches(self, document: Document) -> bool:
        """Whether the document has everything that the pattern asks for."""
        matcher = self._matcher
        if matcher is None:  # when it is first needed: a worker holds many filters that none of its events meets
            matcher = self._matcher = _compiled(self.pattern)
        return matcher(document)

    @property
    def guard(self) -> Guard | None:
        """What a document that matches has for certain; None when nothing can be said. Made once."""
        if self._guard is MISSING:
            self._guard = guard_of(self.pattern)
        guard: Guard | None = self._guard
        return guard

    def __repr__(self) -> str:
        return f"Filter({self.text})"


#: Every filter that is in use, by its canonical text (a pure memo).
_filters: WeakValueDictionary[str, Filter] = WeakValueDictionary()


def parse_filter(pattern: object) -> Filter:
    """The filter of a pattern: a JSON text, or a decoded JSON object. InvalidFilterError with the place in it.

    Costs a look-up where the pattern is the canonical text of a filter in use.
    """
    if isinstance(pattern, str):
        known = _filters.get(pattern)
        if known is not None:
            return known
    parsed = parse_pattern(pattern)
    return _filters.setdefault(parsed.text, Filter(parsed.pattern, parsed.text))


def _names_data(pattern: Pattern) -> bool:
    return any(name == "data" for name, _ in pattern.fields) or any(map(_names_data, pattern.any_of))


# --- objects --------------------------------------------------------------------------------------


def _compiled(pattern: Pattern) -> Matcher:
    parts = [_field(name, node) for name, node in sorted(pattern.fields, key=_cost)]
    if pattern.any_of:
        parts.append(_any_of(tuple(map(_compiled, pattern.any_of))))
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


def _any_of(branches: tuple[Matcher, ...]) -> Matcher:
    def matches(document: Document) -> bool:
        for branch in branches:  # noqa: SIM110 - as above
            if branch(document):
                return True
        return False

    return matches


def _field(name: str, node: Pattern | Alternatives) -> Matcher:
    if isinstance(node, Pattern):
        return _inside(name, _compiled(node))
    return _leaf(name, node)


def _inside(name: str, matches: Matcher) -> Matcher:
    """A field that is an object, or an array of which one object has everything. Where there is no object, it is as if
    there were an empty one, so that what must not exist does not."""
    without = matches({})

    def inside(document: Document) -> bool:
        value = document.get(name, MISSING)
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
    without = Exists(False) in node.tests
    wanted = frozenset(scalar_key(test.value) for test in node.tests if isinstance(test, Exact))
    others = [_check(test) for test in node.tests if not isinstance(test, Exact) and test != Exists(False)]
    check = _one_of(wanted, others) if others else lambda value: scalar_key(value) in wanted

    def among(value: Any) -> bool:
        """The rarer kinds: nothing there, an object, an array, a boolean."""
        if value is MISSING or type(value) is dict:
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
            value = document.get(name, MISSING)
            return value in wanted if type(value) in PLAIN else among(value)

        return exact

    def leaf(document: Document) -> bool:
        value = document.get(name, MISSING)
        return check(value) if type(value) in PLAIN else among(value)

    return leaf


# --- one value ------------------------------------------------------------------------------------


def _one_of(wanted: frozenset[Any], others: list[Check]) -> Check:
    if not wanted and len(others) == 1:
        return others[0]

    def check(value: Any) -> bool:
        if scalar_key(value) in wanted:
            return True
        for other in others:  # noqa: SIM110 - as above
            if other(value):
                return True
        return False

    return check


def _check(test: AnythingBut | Range | Cidr | Exists | Text) -> Check:
    match test:
        case Text():
            return _text(test)
        case AnythingBut(tests):
            values = frozenset(scalar_key(each.value) for each in tests if isinstance(each, Exact))
            excluded = [_check(each) for each in tests if isinstance(each, Text)]
            if not excluded:
                return lambda given: scalar_key(given) not in values
            return lambda given: not any(each(given) for each in excluded)
        case Range():
            return _range(test)
        case Cidr():
            return _network(test)
        case Exists():
            return lambda given: test.wanted
    assert_never(test)


def _text(test: Text) -> Check:
    """Folding never makes a text shorter, and folds each character by itself: only so many characters are folded as
    are compared."""
    text = test.text.casefold() if test.fold else test.text
    size = len(text)
    match test.operator, test.fold:
        case "prefix", False:
            return lambda given: type(given) is str and given.startswith(text)
        case "prefix", True:
            return lambda given: type(given) is str and given[:size].casefold().startswith(text)
        case "suffix", False:
            return lambda given: type(given) is str and given.endswith(text)
        case "suffix", True:
            return lambda given: type(given) is str and given[max(0, len(given) - size) :].casefold().endswith(text)
        case "equals-ignore-case", _:
            return lambda given: type(given) is str and len(given) <= size and given.casefold() == text
    return _wildcard(wildcard_parts(text))


def _wildcard(parts: list[str]) -> Check:
    """Each part is looked for once, from where the one before ended: the first place is never worse than a later one,
    so nothing is tried twice."""
    if len(parts) == 1:  # inside anything-but, a wildcard without a wildcard is left as it is
        return lambda given: type(given) is str and given == parts[0]
    first, *middle, last = parts
    length_min = len(first) + len(last)

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
        return True

    return matches


def _range(test: Range) -> Check:
    low, low_open, high, high_open = test.low, test.low_open, test.high, test.high_open

    def within(given: Any) -> bool:
        number = number_of(given)
        if number is None:
            return False
        if low is not None and (number <= low if low_open else number < low):
            return False
        return high is None or (number < high if high_open else number <= high)

    return within


def _network(test: Cidr) -> Check:
    host_bits = (32 if test.version == 4 else 128) - test.bits
    wanted = (test.version, test.network >> host_bits)

    def within(given: Any) -> bool:
        found = address_of(given)
        return found is not None and (found[0], found[1] >> host_bits) == wanted

    return within
