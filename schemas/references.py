"""Schemas that refer to others in the registry: found one by one, and written out as one text.

Confluent's registry lets an Avro schema name types that other subjects define. Everything after the registry knows one
text per schema, so what is referred to is written in where it is first named. This file fetches nothing: who runs
`gathering` does. Bounded in number and size; a cycle is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any

import msgspec
import orjson

#: Schemas that one schema refers to, over any number of steps.
REFERENCES_MAX = 100
#: Of all of them, and of the text that comes of it.
REFERENCES_BYTES_MAX = 4 << 20

_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
_NAMED = frozenset({"record", "error", "enum", "fixed"})


class Reference(msgspec.Struct, frozen=True, order=True):
    """The full name of a type, and the version of the subject that defines it."""

    name: str
    subject: str
    version: int


#: A schema as the registry has it: its text, and what it refers to.
Referring = tuple[str, Sequence[Reference]]


def gathering(references: Sequence[Reference]) -> Generator[Reference, Referring, dict[str, str]]:
    """Yields each reference that must be looked up, once, and is sent what the registry has; returns texts by name.

    ValueError for a cycle, and for more than the bounds.
    """
    texts: dict[str, str] = {}
    known: dict[tuple[str, int], str] = {}

    def visit(wanted: Sequence[Reference], path: tuple[tuple[str, int], ...]) -> Generator[Reference, Referring, None]:
        for reference in wanted:
            key = (reference.subject, reference.version)
            if key in path:
                raise ValueError(f"the schema refers to itself by way of {reference.subject} version {key[1]}")
            if key not in known:
                if len(known) == REFERENCES_MAX:
                    raise ValueError(f"the schema refers to more than {REFERENCES_MAX} others")
                text, further = yield reference
                known[key] = text
                if sum(map(len, known.values())) > REFERENCES_BYTES_MAX:
                    raise ValueError(f"the schemas that it refers to are larger than {REFERENCES_BYTES_MAX} bytes")
                yield from visit(further, (*path, key))
            texts[reference.name] = known[key]

    yield from visit(references, ())
    return texts


async def written_out(
    schema: str, references: Sequence[Reference], fetch: Callable[[Reference], Awaitable[Referring]]
) -> str:
    """The schema with all that it refers to in it. ValueError as in `gathering` and `write_out`."""
    steps = gathering(references)
    try:
        wanted = next(steps)
        while True:
            wanted = steps.send(await fetch(wanted))
    except StopIteration as end:
        return write_out(schema, end.value)


def put_together(schema: str, references: Sequence[Reference], look_up: Callable[[Reference], Referring]) -> str:
    """`written_out` where nothing is waited for."""
    steps = gathering(references)
    try:
        wanted = next(steps)
        while True:
            wanted = steps.send(look_up(wanted))
    except StopIteration as end:
        return write_out(schema, end.value)


def write_out(schema: str, definitions: Mapping[str, str]) -> str:
    """The text, with each defined type written in where it is first named. ValueError when a text is not JSON."""
    if not definitions:
        return schema
    try:
        written = orjson.dumps(_Writer(definitions).schema(orjson.loads(schema), ""))
    except RecursionError:
        raise ValueError("the schema is nested too deeply") from None
    except TypeError:  # orjson's own limit, of 254 levels
        raise ValueError("the schema is nested too deeply") from None
    if len(written) > REFERENCES_BYTES_MAX:
        raise _too_large()
    return written.decode()


def _too_large() -> ValueError:
    return ValueError(f"the schema with its references is larger than {REFERENCES_BYTES_MAX} bytes")


class _Writer:
    """Walks a schema as a parser does: names are looked up in the namespace around them, and defined once."""

    def __init__(self, definitions: Mapping[str, str]) -> None:
        self._definitions = {name: orjson.loads(text) for name, text in definitions.items()}
        self._sizes = {name: len(text) for name, text in definitions.items()}
        self._defined: set[str] = set()
        # What has no name of its own is written out wherever it is referred to: of a few that each have the one before
        # twice, that is more than any memory. So it is counted before it is done, not after.
        self._repeated = 0

    def schema(self, node: Any, namespace: str) -> Any:
        if isinstance(node, str):
            return self._name(node, namespace)
        if isinstance(node, list):
            return [self.schema(branch, namespace) for branch in node]
        if not isinstance(node, dict):
            return node
        kind = node.get("type")
        if kind in _NAMED:
            return self._named(node, namespace)
        if kind == "array":
            return node | {"items": self.schema(node.get("items"), namespace)}
        if kind == "map":
            return node | {"values": self.schema(node.get("values"), namespace)}
        if isinstance(kind, str) and kind not in _PRIMITIVES:
            return self._name(kind, namespace)  # {"type": "Money"}, which Avro allows and fastavro does not
        return node | {"type": self.schema(kind, namespace)}

    def _name(self, name: str, namespace: str) -> Any:
        if name in _PRIMITIVES:
            return name
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        for candidate in (full, name):
            if candidate in self._defined:
                return candidate
            if candidate in self._definitions:
                definition = self._definitions[candidate]
                if isinstance(definition, dict) and definition.get("type") in _NAMED:
                    return self._named({"namespace": ""} | definition, "")
                self._repeated += self._sizes[candidate]
                if self._repeated > REFERENCES_BYTES_MAX:
                    raise _too_large()
                return self.schema(definition, "")
        return name  # defined by the schema itself, or a mistake that the parser will name

    def _named(self, node: dict[str, Any], namespace: str) -> Any:
        name = str(node.get("name", ""))
        space = name.rpartition(".")[0] if "." in name else str(node.get("namespace", namespace) or "")
        full = name if "." in name or not space else f"{space}.{name}"
        if full in self._defined and full in self._definitions:
            return full  # two of the texts define it
        self._defined.add(full)
        fields = node.get("fields")
        if not isinstance(fields, list):
            return node
        written = [
            field | {"type": self.schema(field.get("type"), space)} if isinstance(field, dict) else field
            for field in fields
        ]
        return node | {"fields": written}
