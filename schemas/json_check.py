"""Whether a JSON document is what records of an Avro schema are rendered as, and where it is not.

It checks what `schemas/json_schema.py` says, in the words that it uses and no others, and that bytes are base64. Made
once for a schema, as functions inside each other. This file encodes nothing as Avro.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from typing import Any

from schemas.json_schema import json_schema

#: What is wrong with one document is told up to so many places.
FAULTS_MAX = 20
#: Branches of unions that are tried for one document: of unions within each other, the document decides how many.
BRANCHES_MAX = 100_000

Fault = tuple[str, str]  # a JSON pointer (RFC 6901), a sentence
_Check = Callable[[Any, str], Iterator[Fault]]

_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: (
        (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())
    ),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


class JsonCheck:
    """Checks documents, of JSON's own types."""

    def __init__(self, avro: str) -> None:
        """ValueError when the text is not a valid Avro schema."""
        schema = json_schema(avro)
        self._left = 0
        self._named: dict[str, _Check] = {}
        for name, definition in schema.get("$defs", {}).items():
            self._named[f"#/$defs/{name}"] = self._made(definition)
        self._check = self._made(schema)

    def faults(self, document: Any) -> list[Fault]:
        """What is wrong, in the order of the document, at most `FAULTS_MAX` places; none when it fits."""
        found: list[Fault] = []
        self._left = BRANCHES_MAX
        try:
            for fault in self._check(document, ""):
                found.append(fault)
                if len(found) == FAULTS_MAX:
                    break
        except RecursionError:
            found.append(("", "is nested too deeply"))
        except _TooManyError:
            found.append(("", "takes too long to compare with its schema, which has unions within unions"))
        return found

    def _made(self, schema: dict[str, Any]) -> _Check:
        if "$ref" in schema:
            named, name = self._named, schema["$ref"]

            def late(value: Any, path: str) -> Iterator[Fault]:
                return named[name](value, path)  # not known yet: a record may contain itself

            return late
        if "anyOf" in schema:
            others = [self._made(branch) for branch in schema["anyOf"] if branch != {"type": "null"}]
            if len(others) == 1 < len(schema["anyOf"]):
                return _optional(others[0])
            return self._any_of([self._made(branch) for branch in schema["anyOf"]])
        if "enum" in schema:
            return _one_of(schema["enum"])
        if "not" in schema:
            return lambda _, path: iter([(path, "cannot have a value")])
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        match kinds:
            case ["object"] if "properties" in schema:
                return _record({name: self._made(each) for name, each in schema["properties"].items()})
            case ["object"]:
                return _map(self._made(schema["additionalProperties"]))
            case ["array"]:
                return _array(self._made(schema["items"]))
            case ["string"]:
                return _text(schema)
            case ["integer"]:
                return _integer(schema["minimum"], schema["maximum"])
        return _typed(kinds)

    def _any_of(self, branches: list[_Check]) -> _Check:
        def check(value: Any, path: str) -> Iterator[Fault]:
            for branch in branches:
                self._left -= 1
                if self._left < 0:
                    raise _TooManyError
                if next(branch(value, path), None) is None:
                    return
            yield path, "fits none of the types that the schema has for it"

        return check


class _TooManyError(Exception):
    """Of branches tried."""


def _typed(kinds: list[str]) -> _Check:
    fits = [_TYPES[kind] for kind in kinds]
    said = f"must be {' or '.join(kinds)}"

    def check(value: Any, path: str) -> Iterator[Fault]:
        if not any(each(value) for each in fits):
            yield path, said

    return check


def _integer(least: int, most: int) -> _Check:
    fits = _TYPES["integer"]

    def check(value: Any, path: str) -> Iterator[Fault]:
        if not fits(value):
            yield path, "must be integer"
        elif not least <= value <= most:
            yield path, f"must be between {least} and {most}"

    return check


def _text(schema: dict[str, Any]) -> _Check:
    pattern = re.compile(schema["pattern"]) if "pattern" in schema else None
    encoded = schema.get("contentEncoding") == "base64"
    length = schema.get("minLength")  # of a fixed, which is as long as it is at most
    form = schema.get("format", "text of the form " + schema.get("pattern", ""))

    def check(value: Any, path: str) -> Iterator[Fault]:
        if not isinstance(value, str):
            yield path, "must be string"
        elif pattern is not None and not pattern.search(value):
            yield path, f"must be a {form}"
        elif encoded and not (_is_base64(value) and length in (None, len(value))):
            yield path, "must be base64" + (f" of {length} characters" if length else "")

    return check


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _one_of(symbols: list[str]) -> _Check:
    said = f"must be one of {', '.join(symbols[:20])}" + ("…" if len(symbols) > 20 else "")

    def check(value: Any, path: str) -> Iterator[Fault]:
        if not (isinstance(value, str) and value in symbols):
            yield path, said

    return check


def _array(item: _Check) -> _Check:
    def check(value: Any, path: str) -> Iterator[Fault]:
        if not isinstance(value, list):
            yield path, "must be array"
            return
        for index, each in enumerate(value):
            yield from item(each, f"{path}/{index}")

    return check


def _map(values: _Check) -> _Check:
    def check(value: Any, path: str) -> Iterator[Fault]:
        if not isinstance(value, dict):
            yield path, "must be object"
            return
        for name, each in value.items():
            yield from values(each, f"{path}/{_escaped(name)}")

    return check


def _record(fields: dict[str, _Check]) -> _Check:
    def check(value: Any, path: str) -> Iterator[Fault]:
        if not isinstance(value, dict):
            yield path, "must be object"
            return
        for name, field in fields.items():
            if name in value:
                yield from field(value[name], f"{path}/{_escaped(name)}")
            else:
                yield f"{path}/{_escaped(name)}", "is missing"
        for name in value:
            if name not in fields:
                yield f"{path}/{_escaped(name[:80])}", "is not a field of the schema"

    return check


def _optional(inner: _Check) -> _Check:
    """Apart from other unions: it says what is wrong inside, and looks there once."""
    return lambda value, path: iter(()) if value is None else inner(value, path)


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
