"""JSON text of a filter pattern, decoded so that nothing is lost that would have to be refused: numbers keep their
text, and an object that names a field twice says so. This file does not know what a pattern is.
"""

from __future__ import annotations

import json

from schemas.errors import InvalidFilterError
from schemas.filter_pattern import DEPTH_MAX, FILTER_BYTES_MAX


class NumberText(str):
    """A number as the text has it."""

    __slots__ = ()


class Repeating(dict[str, object]):
    """A decoded object that names a field twice."""

    repeated = ""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) == len(pairs):
        return fields
    repeating = Repeating(fields)
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            repeating.repeated = name
            break
        seen.add(name)
    return repeating


def decoded(text: str) -> object:
    """What the text decodes to; InvalidFilterError when it is too large, or not JSON."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidFilterError("$", "not Unicode text: it holds half of a surrogate pair") from None
    if size > FILTER_BYTES_MAX:
        raise InvalidFilterError("$", f"more than {FILTER_BYTES_MAX} bytes")
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_int=NumberText, parse_float=NumberText, parse_constant=NumberText
        )
    except json.JSONDecodeError as error:
        raise InvalidFilterError("$", f"not JSON: {error}") from None
    except RecursionError:
        raise InvalidFilterError("$", f"nested more than {DEPTH_MAX} levels deep") from None
