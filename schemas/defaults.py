"""The default of a reader's field, as the value that it stands for.

In a schema a default is JSON (Avro 1.12, "Complex Types"): bytes are text of which each character is a byte, and of a
union any branch may match. This file knows no binary encoding.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from schemas.matching import Named, Node, kind_of, looked_up
from schemas.rendering import Form

_INTEGERS = {"int": 31, "long": 63}
DEPTH_MAX = 64
#: Values in one default: types that have another twice, each with a default, would double them with each line.
VALUES_MAX = 10_000


class InvalidDefault(ValueError):
    """A default that is no value of its type; the message is a sentence."""


def default_value(node: Node, default: Any, named: Named, form_of: Any) -> Any:
    """The value of a default, its leaves in the form that `form_of(node)` gives them. InvalidDefault."""
    return _value(node, default, named, form_of, 0, itertools.count())


def _value(node: Node, default: Any, named: Named, form_of: Any, depth: int, seen: Iterator[int]) -> Any:
    if depth > DEPTH_MAX:
        raise InvalidDefault("the default is nested too deeply")
    if next(seen) >= VALUES_MAX:
        raise InvalidDefault(f"the default has more than {VALUES_MAX} values")
    node = looked_up(node, named)
    kind = kind_of(node)

    def inner(child: Node, value: Any) -> Any:
        return _value(child, value, named, form_of, depth + 1, seen)

    match kind, default:
        case "union", _:
            return _of_union(node, default, inner)
        case "record", dict():
            fields = {}
            for field in node["fields"]:
                if field["name"] not in default and "default" not in field:
                    raise InvalidDefault(f"the default lacks the field {field['name']}")
                fields[field["name"]] = inner(field["type"], default.get(field["name"], field.get("default")))
            return fields
        case "array", list():
            return [inner(node["items"], item) for item in default]
        case "map", dict():
            return {key: inner(node["values"], item) for key, item in default.items()}
    value = _leaf(node, kind, default)
    form: Form | None = form_of(node)
    try:
        return value if form is None else form(value)
    except ValueError as error:
        raise InvalidDefault(f"the default is {error}") from None


def _of_union(union: list[Node], default: Any, inner: Any) -> Any:
    for branch in union:
        try:
            return inner(branch, default)
        except InvalidDefault:
            continue
    raise InvalidDefault("the default fits no branch of the union")


def _leaf(node: Node, kind: str, default: Any) -> Any:
    match kind, default:
        case "null", None:
            return None
        case "boolean", bool():
            return default
        case (("int" | "long"), int()) if not isinstance(default, bool):
            if -(2 ** _INTEGERS[kind]) <= default < 2 ** _INTEGERS[kind]:
                return default
        case (("float" | "double"), (int() | float())) if not isinstance(default, bool):
            return float(default)
        case "string", str():
            return default
        case "enum", str() if default in node["symbols"]:
            return default
        case (("bytes" | "fixed"), str()):
            try:
                data = default.encode("latin-1")
            except UnicodeEncodeError:
                raise InvalidDefault("the default has a character beyond U+00FF, which is no byte") from None
            if kind == "bytes" or len(data) == node["size"]:
                return data
    raise InvalidDefault(f"the default is no value of {kind}")
