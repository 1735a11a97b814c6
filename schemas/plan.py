"""What is done to each value of one schema on its way to another: planned once for a pair of schemas.

The plan is the writer's schema again, with a step beside each type whose values must change. Every place where a value
could fail to be resolved is found on the way. This file decodes nothing: `schemas/resolution.py` runs the plan, and
`schemas/matching.py` has the rules of single types.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, cast

import fastavro

from schemas import codec
from schemas.defaults import InvalidDefault, default_value
from schemas.matching import Node, branch_for, definitions, describe, digits_of, family, kind_of, looked_up, mismatch
from schemas.rendering import form_of

Step = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why some record, or every one, cannot be resolved. `kind` is a name that Confluent's registry uses."""

    kind: str
    path: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Stands in a document for what could not be resolved, when the place of it is looked for."""

    sentence: str


class Plan:
    """A schema to decode with, of the writer's bytes, whose steps make of it what the reader wants.

    `problems` are all reasons why some record could not be resolved; `dead` is one for which none can be.
    """

    def __init__(self, writer: Node, reader: Node) -> None:
        self._writer_named, self._reader_named = definitions(writer), definitions(reader)
        self._recursive = codec.RECURSIVE in writer
        self._names: dict[tuple[str, str | None], str] = {}
        self._dead: dict[str, Problem | None] = {}
        self._count = 0
        self.problems: list[Problem] = []
        self._tree, self.dead = self._node(writer, reader, "$")

    def decoder(self, step: str) -> codec.Schema:
        """The schema for `codec.decode`; its steps are called by the logical type `step`.

        It is a record, which takes no bytes of its own, with the one field `value`.
        """
        tree = {"type": "record", "name": "n0", "fields": [{"name": "value", "type": _with_steps(self._tree, step)}]}
        parsed = cast(codec.Schema, fastavro.parse_schema(tree, named_schemas={}))
        if self._recursive:
            parsed[codec.RECURSIVE] = True
        return parsed

    # Types are built in the order in which they will stand in the schema: a named one is defined where it comes first.

    def _node(self, writer: Node, reader: Node, path: str) -> tuple[Node, Problem | None]:
        writer, reader = looked_up(writer, self._writer_named), looked_up(reader, self._reader_named)
        if isinstance(writer, list):
            return self._union(writer, reader, path)
        if isinstance(reader, list):
            branch = branch_for(writer, self._writer_named, reader, self._reader_named)
            if branch is None:
                return self._failing(writer, "MISSING_UNION_BRANCH", path, _no_branch(writer))
            return self._node(writer, branch, path)
        if wrong := mismatch(writer, reader):
            return self._failing(writer, wrong[0], path, wrong[1])
        match kind_of(writer):
            case "record":
                return self._record(writer, reader, path)
            case "enum":
                return self._enum(writer, reader, path)
            case ("array" | "map") as kind:
                key = "items" if kind == "array" else "values"
                # One without items is read whatever its items should be, so it never fails as a whole.
                inner, _ = self._node(writer[key], reader[key], f"{path}[*]")
                return {"type": kind, key: inner}, None
        return self._leaf(writer, reader), None

    def _union(self, writer: list[Node], reader: Node, path: str) -> tuple[Node, Problem | None]:
        planned = [self._node(branch, reader, path) for branch in writer]
        dead = [problem for _, problem in planned]
        # A union that has no branch cannot be written at all; one whose every branch fails cannot be read.
        return [branch for branch, _ in planned], dead[0] if dead and all(dead) else None

    def _record(self, writer: dict[str, Any], reader: dict[str, Any], path: str) -> tuple[Node, Problem | None]:
        key = (writer["name"], reader["name"])
        if key in self._names:
            name = self._names[key]
            return name, self._dead.get(name)  # None for a record inside itself: whether it fails is still open
        name = self._names[key] = self._new_name()
        sources = _sources(writer, reader)
        renamed = {source: field for field, source in zip(reader["fields"], sources, strict=True) if source is not None}
        fields: list[dict[str, Any]] = []
        dropped: list[str] = []
        dead: Problem | None = None
        for field in writer["fields"]:
            if wanted := renamed.get(field["name"]):
                inner, problem = self._node(field["type"], wanted["type"], f"{path}.{wanted['name']}")
                dead = dead or problem
                fields.append({"name": wanted["name"], "type": inner})
            else:
                dropped.append(f"dropped_{len(dropped)}_{name}")
                fields.append({"name": dropped[-1], "type": self._raw(field["type"])})
        defaults: dict[str, Any] = {}
        missing = None
        for field, source in zip(reader["fields"], sources, strict=True):
            if source is None:
                problem = self._default(field, defaults, f"{path}.{field['name']}")
                missing = missing or problem
        self._dead[name] = dead = dead or missing
        step = _projection([field["name"] for field in fields], [field["name"] for field in reader["fields"]], defaults)
        node = {"type": "record", "name": name, "fields": fields}
        if missing is not None:
            return node | {"step": _failure(missing.sentence), "marking_step": step}, dead
        return node | {"step": step}, dead

    def _default(self, field: dict[str, Any], defaults: dict[str, Any], path: str) -> Problem | None:
        if "default" not in field:
            sentence = "is not in what was written, and has no default"
        else:
            try:
                defaults[field["name"]] = default_value(field["type"], field["default"], self._reader_named, form_of)
            except InvalidDefault as error:
                sentence = f"is not in what was written, and {error}"
            else:
                return None
        defaults[field["name"]] = Mark(sentence)
        return self._problem("READER_FIELD_MISSING_DEFAULT_VALUE", path, sentence)

    def _enum(self, writer: dict[str, Any], reader: dict[str, Any], path: str) -> tuple[Node, Problem | None]:
        known = set(reader["symbols"])
        missing = [symbol for symbol in writer["symbols"] if symbol not in known]
        node = {"type": "enum", "name": self._new_name(), "symbols": writer["symbols"]}
        if not missing:
            return node, None
        if "default" in reader:
            default = reader["default"]
            return node | {"step": lambda symbol: symbol if symbol in known else default}, None

        def step(symbol: str) -> str:
            if symbol not in known:
                raise ValueError(f"the symbol {symbol} is unknown to enum {reader['name']}, which has no default")
            return symbol

        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        sentence = f"written with symbols that enum {reader['name']} lacks, and it has no default: {shown}"
        problem = self._problem("MISSING_ENUM_SYMBOLS", path, sentence)
        return node | {"step": step}, problem if len(missing) == len(writer["symbols"]) else None

    def _leaf(self, writer: Node, reader: Node) -> Node:
        steps = [step for step in (_converted(writer, reader), form_of(reader)) if step is not None]
        node = self._raw(writer)
        if not steps:
            return node
        node = node if isinstance(node, dict) else {"type": node}
        if len(steps) == 1:
            return node | {"step": steps[0]}
        first, second = steps
        return node | {"step": lambda value: second(first(value))}

    def _failing(self, writer: Node, kind: str, path: str, sentence: str) -> tuple[Node, Problem]:
        node = self._raw(writer, shared=False)
        node = node if isinstance(node, dict) else {"type": node}
        return node | {"step": _failure(sentence)}, self._problem(kind, path, sentence)

    def _raw(self, writer: Node, shared: bool = True) -> Node:
        """The type as it is decoded when nobody looks at it: without logical types, and without steps."""
        writer = looked_up(writer, self._writer_named)
        match kind_of(writer):
            case "union":
                return [self._raw(branch) for branch in writer]
            case "array":
                return {"type": "array", "items": self._raw(writer["items"])}
            case "map":
                return {"type": "map", "values": self._raw(writer["values"])}
            case "enum":
                return {"type": "enum", "name": self._new_name(), "symbols": writer["symbols"]}
            case "fixed":
                return {"type": "fixed", "name": self._new_name(), "size": writer["size"]}
            case "record":
                key = (writer["name"], None)
                if shared and key in self._names:
                    return self._names[key]
                name = self._new_name()
                if shared:
                    self._names[key] = name
                fields = [{"name": field["name"], "type": self._raw(field["type"])} for field in writer["fields"]]
                return {"type": "record", "name": name, "fields": fields}
        return kind_of(writer)

    def _problem(self, kind: str, path: str, sentence: str) -> Problem:
        problem = Problem(kind, path, sentence)
        self.problems.append(problem)
        return problem

    def _new_name(self) -> str:
        self._count += 1
        return f"n{self._count}"


def _with_steps(node: Node, step: str) -> Node:
    """A copy in which each type that has a step says so in a way that fastavro calls `step`."""
    if isinstance(node, list):
        return [_with_steps(branch, step) for branch in node]
    if not isinstance(node, dict):
        return node
    copy = dict(node)
    if copy.get("step") is not None:
        copy["logicalType"] = step
    for key in ("items", "values"):
        if key in copy:
            copy[key] = _with_steps(copy[key], step)
    if "fields" in copy:
        copy["fields"] = [field | {"type": _with_steps(field["type"], step)} for field in copy["fields"]]
    return copy


def _failure(sentence: str) -> Step:
    def step(_: Any) -> Any:
        raise ValueError(sentence)

    return step


def _no_branch(writer: Node) -> str:
    return f"written as {describe(writer)}, for which the union has no branch"


def _sources(writer: dict[str, Any], reader: dict[str, Any]) -> list[str | None]:
    """For each field of the reader's record the writer's field that it is read from, by name, else by alias.

    A writer's field is read once: what a reader's field has by name, another's alias does not take.
    """
    written = {field["name"] for field in writer["fields"]}
    left = written - {field["name"] for field in reader["fields"]}
    sources: list[str | None] = []
    for field in reader["fields"]:
        names = [field["name"]] if field["name"] in written else [a for a in field.get("aliases", ()) if a in left]
        sources.append(names[0] if names else None)
        left.difference_update(names[:1])
    return sources


def _projection(decoded: list[str], wanted: list[str], defaults: dict[str, Any]) -> Step | None:
    """From the fields as they are decoded to those wanted, in the order of the reader's schema."""
    if decoded == wanted:
        return None
    unwanted = [name for name in decoded if name not in set(wanted)]
    if [name for name in decoded if name not in unwanted] + list(defaults) != wanted:
        pick = itemgetter(*wanted) if len(wanted) > 1 else lambda record: tuple(record[name] for name in wanted)
        return lambda record: dict(zip(wanted, pick(record | defaults), strict=True))

    def step(record: dict[str, Any]) -> dict[str, Any]:
        for name in unwanted:
            del record[name]
        record.update(defaults)
        return record

    return step


def _converted(writer: Node, reader: Node) -> Step | None:
    """The promotion of a value from the writer's type to the reader's, or from one unit of time to another."""
    kinds = kind_of(writer), kind_of(reader)
    match kinds:
        case (("int" | "long"), ("float" | "double")):
            return float
        case "string", "bytes":
            return str.encode
        case "bytes", "string":
            return _as_text
    steps = digits_of(reader) - digits_of(writer)
    if steps == 0 or None in (family(writer), family(reader)):
        return None
    factor: int = 10 ** abs(steps)
    # To a coarser unit by rounding down: the second that a moment lies in stays the same, also before 1970.
    return (lambda number: number * factor) if steps > 0 else (lambda number: number // factor)


def _as_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError("written as bytes that are not UTF-8, which cannot be read as string") from None
