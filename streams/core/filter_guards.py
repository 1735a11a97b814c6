"""Guards: what a document has for certain when it matches a pattern, in a form that can be looked up.

A *probe* is one such thing: "the value at `data.customer` is `c-17`", "the text at `data.path` begins with `img/`". A
guard is probes of which at least one holds for every document that matches; most patterns have several to choose from,
and the index takes what few others share. A guard never says that a document does match. This file makes guards and the
keys of values; it does not keep an index (`streams/core/filter_index.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from schemas.filter_parse import wildcard_parts
from schemas.filter_pattern import Alternatives, Cidr, Exact, Exists, Number, Pattern, Range, Test, Text
from streams.core.filter_values import NO_KEY, address_of, number_of, scalar_key

#: Longer texts are looked up by so many characters of theirs.
KEY_LENGTH_MAX = 64
#: Ranges are looked up by powers of two up to this one; wider ones only by whether there is a value.
RANGE_POWER_MAX = 128
_LOOKED_UP_MAX = Decimal(2) ** RANGE_POWER_MAX

Kind = Literal[
    "above",
    "any",
    "below",
    "exact",
    "fold",
    "fold-prefix",
    "fold-suffix",
    "network4",
    "network6",
    "prefix",
    "range",
    "suffix",
]


class Probe(NamedTuple):
    """A value at `path` has this key, by the way that `kind` and `size` make keys of values (`key_of`); for `above` and
    `below`, a number there is not below or not above it."""

    path: tuple[str, ...]
    kind: Kind
    size: int
    key: Any


class Probes(NamedTuple):
    """One of these holds."""

    probes: tuple[Probe, ...]


class Choice(NamedTuple):
    """Each of these is a guard."""

    guards: tuple[Guard, ...]


class Union(NamedTuple):
    """These are a guard together."""

    guards: tuple[Guard, ...]


Guard = Probes | Choice | Union


def guard_of(pattern: Pattern, path: tuple[str, ...] = ()) -> Guard | None:
    """The guard of a pattern; None when a document may match by what it does not have."""
    choices: list[Guard] = []
    for name, node in pattern.fields:
        below = (*path, name)
        found = guard_of(node, below) if isinstance(node, Pattern) else _of_alternatives(node, below)
        if found is not None:
            choices.append(found)
    branches = [guard_of(branch, path) for branch in pattern.any_of]
    together = tuple(branch for branch in branches if branch is not None)
    if together and len(together) == len(branches):
        choices.append(Union(together))
    if not choices:
        return None
    return choices[0] if len(choices) == 1 else Choice(tuple(choices))


def _of_alternatives(node: Alternatives, path: tuple[str, ...]) -> Guard | None:
    if Exists(False) in node.tests:
        return None
    probes: list[Probe] = []
    for test in node.tests:
        found = list(_of_test(test, path))
        if not found:
            return Probes((Probe(path, "any", 0, None),))
        probes += found
    return Probes(tuple(dict.fromkeys(probes)))


def _of_test(test: Test, path: tuple[str, ...]) -> Iterator[Probe]:
    """None where nothing but the presence of a value is certain."""
    match test:
        case Exact(value):
            yield Probe(path, "exact", 0, scalar_key(value))
        case Text(operator, text, fold):
            yield from _of_text(operator, text.casefold() if fold else text, fold, path)
        case Range(low, _, high, _):
            yield from _of_range(low, high, path)
        case Cidr(version, network, bits) if bits:
            host_bits = (32 if version == 4 else 128) - bits
            yield Probe(path, "network4" if version == 4 else "network6", host_bits, network >> host_bits)


def _of_text(operator: str, text: str, fold: bool, path: tuple[str, ...]) -> Iterator[Probe]:
    if operator == "wildcard":
        first, *_, last = wildcard_parts(text)
        operator, text = ("prefix", first) if len(first) >= len(last) else ("suffix", last)
    if operator == "equals-ignore-case":
        if len(text) <= KEY_LENGTH_MAX:
            yield Probe(path, "fold", 0, text)
            return
        operator = "prefix"
    size = min(len(text), KEY_LENGTH_MAX)
    if not size:
        return
    if operator == "prefix":
        yield Probe(path, "fold-prefix" if fold else "prefix", size, text[:size])
    else:
        yield Probe(path, "fold-suffix" if fold else "suffix", size, text[-size:])


def _of_range(low: Number | None, high: Number | None, path: tuple[str, ...]) -> Iterator[Probe]:
    """The line of numbers is cut into pieces of a power of two; a range is in two neighbours at most of the smallest
    power for which that is so."""
    if low is None or high is None or not -_LOOKED_UP_MAX < low <= high < _LOOKED_UP_MAX:
        yield Probe(path, "below", 0, high) if low is None else Probe(path, "above", 0, low)
        return
    first, last = math.floor(low), math.floor(high)
    power = 0
    while (last >> power) - (first >> power) > 1:
        power += 1
    yield Probe(path, "range", power, first >> power)
    if first >> power != last >> power:
        yield Probe(path, "range", power, last >> power)


def key_of(kind: Kind, size: int, value: Any) -> Any:
    """What a value is looked up by; `NO_KEY` when nothing of this kind can be about it. Not for `above` and `below`."""
    match kind:
        case "exact":
            return scalar_key(value)
        case "any":
            return None
        case "range":
            return _piece(value, size)
        case "network4" | "network6":
            found = address_of(value)
            return found[1] >> size if found is not None and found[0] == (4 if kind == "network4" else 6) else NO_KEY
    if type(value) is not str:
        return NO_KEY
    match kind:
        # As in `streams/core/filters.py`: only so many characters are folded as are compared.
        case "fold":
            return value.casefold() if len(value) <= KEY_LENGTH_MAX else NO_KEY
        case "prefix":
            return value[:size]
        case "suffix":
            return value[-size:]
        case "fold-prefix":
            return value[:size].casefold()[:size]
    return value[-size:].casefold()[-size:]


def _piece(value: Any, power: int) -> Any:
    number = number_of(value)
    # Whole numbers of millions of digits are not made of a short text like 1e999999.
    if number is None or (type(number) is Decimal and number and number.adjusted() > RANGE_POWER_MAX):
        return NO_KEY
    return math.floor(number) >> power


def cheapest(guard: Guard, shared: Mapping[Probe, int]) -> tuple[int, tuple[Probe, ...]]:
    """(cost, probes) of the guard to look this filter up by: the one that the fewest others share. `shared` counts what
    `counted` gives."""
    match guard:
        case Probes(probes):
            return sum(shared[_as_counted(each)] * _WEIGHTS.get(each.kind, 1) for each in probes), probes
        case Choice(guards):
            return min((cheapest(each, shared) for each in guards), key=lambda found: found[0])
    found = [cheapest(each, shared) for each in guard.guards]
    return sum(cost for cost, _ in found), tuple(dict.fromkeys(probe for _, probes in found for probe in probes))


#: A value is better looked for than half a line of numbers, and that is better than the mere presence of one.
_WEIGHTS: dict[str, int] = {"above": 2, "below": 2, "any": 4}


def counted(guard: Guard) -> Iterator[Probe]:
    """Every probe in it, as it is counted to know how many filters share it."""
    if isinstance(guard, Probes):
        yield from map(_as_counted, guard.probes)
    else:
        for each in guard.guards:
            yield from counted(each)


def _as_counted(probe: Probe) -> Probe:
    # A number meets the filters of all bounds on one side of it.
    return probe._replace(key=None) if probe.kind in ("above", "below") else probe
