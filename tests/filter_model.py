"""What filters mean, said a second time: a slow, plain matcher that works on patterns as they are written, and
Hypothesis strategies for patterns and documents that meet each other often. Shares no code with the real one.
"""

from __future__ import annotations

import ipaddress
import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import strategies as st

# --- the model ------------------------------------------------------------------------------------


def asks_for(pattern: dict[str, Any], document: dict[str, Any]) -> bool:
    """Whether the document has all that the pattern asks for; both as `read` gives them."""
    for name, wanted in pattern.items():
        if name == "$or":
            if not any(asks_for(branch, document) for branch in wanted):
                return False
            continue
        found = flat(document[name]) if name in document else []
        if isinstance(wanted, dict):
            inner = [each for each in found if isinstance(each, dict)] or [{}]
            if not any(asks_for(wanted, each) for each in inner):
                return False
        else:
            values = [each for each in found if not isinstance(each, dict)]
            if not any(meets(test, values) for test in wanted):
                return False
    return True


def flat(value: Any) -> list[Any]:
    """The elements of arrays and of the arrays in them; a value alone is its own element."""
    return [each for item in value for each in flat(item)] if isinstance(value, list) else [value]


def meets(test: Any, values: list[Any]) -> bool:
    if isinstance(test, dict) and "exists" in test:
        return bool(bool(values) == test["exists"])
    return any(is_met(test, value) for value in values)


def is_met(test: Any, value: Any) -> bool:
    if not isinstance(test, dict):
        return type(test) is type(value) and test == value
    ((operator, given),) = test.items()
    if operator == "anything-but":
        if isinstance(given, dict):
            ((inner, texts),) = given.items()
            listed = [{inner: text} for text in (texts if isinstance(texts, list) else [texts])]
        else:
            listed = given if isinstance(given, list) else [given]
        return not any(is_met(each, value) for each in listed)
    if operator == "numeric":
        pairs = zip(given[::2], given[1::2], strict=True)
        return isinstance(value, Fraction) and all(compare(sign, value, bound) for sign, bound in pairs)
    if not isinstance(value, str):
        return False
    if operator == "cidr":
        try:
            return ipaddress.ip_address(value) in ipaddress.ip_network(given, strict=False) and "%" not in value
        except ValueError:
            return False
    if isinstance(given, dict):
        given, value = given["equals-ignore-case"].casefold(), value.casefold()
    match operator:
        case "prefix":
            return bool(value[: len(given)] == given)
        case "suffix":
            return bool(value[::-1][: len(given)] == given[::-1])
        case "equals-ignore-case":
            return bool(value.casefold() == given.casefold())
        case "wildcard":
            return fits(tokens(given), value)
    raise AssertionError(operator)


def compare(sign: str, value: Fraction, bound: Fraction) -> bool:
    return {
        "=": value == bound,
        ">": value > bound,
        ">=": value >= bound,
        "<": value < bound,
        "<=": value <= bound,
    }[sign]


def tokens(wildcard: str) -> list[str]:
    """Characters to be met one by one; `any` stands for `*`."""
    found, at = [], 0
    while at < len(wildcard):
        if wildcard[at] == "\\":
            at += 1
            found.append(wildcard[at])
        else:
            found.append("any" if wildcard[at] == "*" else wildcard[at])
        at += 1
    return found


def fits(wildcard: list[str], text: str) -> bool:
    """Row by row: after how many characters of the text the tokens so far may end."""
    ends = {0}
    for token in wildcard:
        if token == "any":
            ends = {end for end in range(len(text) + 1) if any(begin <= end for begin in ends)}
        else:
            ends = {end + 1 for end in ends if text[end : end + 1] == token}
    return len(text) in ends


def read(text: str) -> Any:
    """JSON with exact numbers, all of one type."""
    return json.loads(text, parse_int=Fraction, parse_float=Fraction)


# --- strategies -----------------------------------------------------------------------------------


def dumps(value: Any) -> str:
    """JSON text; Decimals with all their digits."""
    match value:
        case dict():
            return "{" + ",".join(f"{json.dumps(name)}:{dumps(each)}" for name, each in value.items()) + "}"
        case list():
            return "[" + ",".join(map(dumps, value)) + "]"
        case Decimal():
            return str(value)
    return json.dumps(value)


NAMES = st.sampled_from(["a", "b", "data", "a b"])
_LETTERS = st.sampled_from("abAB*\\ßſİ")
SOME_TEXTS = st.text(_LETTERS, min_size=1, max_size=5) | st.sampled_from(
    ["10.0.0.1", "10.0.1.255", "::1", "2001:db8::7", "::ffff:10.0.0.1", "1", "true", "x" * 70, "x" * 70 + "y"]
)
TEXTS = SOME_TEXTS | st.just("")
NUMBERS = (
    st.integers(-3, 12)
    | st.sampled_from([1 << 53, (1 << 53) + 1, 1 << 70, 10**30, -(10**30)])
    | st.sampled_from(
        ["0.1", "0.10", "0.1000000000000000000001", "1.0", "1.5", "1e2", "100.0", "2E+1", "-0.0", "1e-7"]
    ).map(Decimal)
)
SCALARS = TEXTS | NUMBERS | st.booleans() | st.none()
DOCUMENTS = st.dictionaries(
    NAMES,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


def _wildcard(parts: list[str]) -> str:
    return "*".join(part.replace("\\", "\\\\").replace("*", "\\*") for part in parts)


WILDCARDS = st.tuples(TEXTS, st.lists(SOME_TEXTS, max_size=2), TEXTS).map(
    lambda found: _wildcard([found[0], *found[1], found[2]])  # a `*` between each two of them
)
_BOUNDS: list[int | Decimal] = [-5, 0, Decimal("0.1"), Decimal("0.10000000000000000000005"), 1, 10, 1 << 53, 10**30]
_BELOW_AND_ABOVE = [(low, high) for at, low in enumerate(_BOUNDS) for high in _BOUNDS[at + 1 :]]
RANGES = st.one_of(
    st.tuples(st.sampled_from(["=", "<", "<=", ">", ">="]), NUMBERS).map(list),
    st.tuples(st.sampled_from([">", ">="]), st.sampled_from(_BELOW_AND_ABOVE), st.sampled_from(["<", "<="])).map(
        lambda found: [found[0], found[1][0], found[2], found[1][1]]
    ),
)
NETWORKS = st.sampled_from(
    ["10.0.0.0/8", "10.0.1.7/24", "10.0.0.1/32", "0.0.0.0/0", "::/0", "2001:db8::/32", "::1/128"]
)
_FOLDED = TEXTS.map(lambda text: {"equals-ignore-case": text})


def _one_or_more(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return values | st.lists(values, min_size=1, max_size=3)


def _operator(name: str, arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return arguments.map(lambda argument: {name: argument})


TESTS = st.one_of(
    SCALARS,
    _operator("prefix", TEXTS | _FOLDED),
    _operator("suffix", TEXTS | _FOLDED),
    _operator("equals-ignore-case", TEXTS),
    _operator("wildcard", WILDCARDS),
    _operator("anything-but", _one_or_more(SCALARS)),
    *(
        _operator("anything-but", _operator(name, _one_or_more(SOME_TEXTS)))
        for name in ("prefix", "suffix", "equals-ignore-case")
    ),
    _operator("anything-but", _operator("wildcard", _one_or_more(WILDCARDS))),
    _operator("numeric", RANGES),
    _operator("exists", st.booleans()),
    _operator("cidr", NETWORKS),
)
ALTERNATIVES = st.lists(TESTS, min_size=1, max_size=3)
PATTERNS: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.dictionaries(NAMES, ALTERNATIVES, min_size=1, max_size=3),
    lambda inner: st.one_of(
        st.dictionaries(NAMES, ALTERNATIVES | inner, min_size=1, max_size=3),
        st.tuples(
            st.dictionaries(NAMES, ALTERNATIVES | inner, max_size=2), st.lists(inner, min_size=2, max_size=3)
        ).map(lambda found: {**found[0], "$or": found[1]}),
    ),
    max_leaves=4,
)
