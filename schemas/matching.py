"""Which Avro types can be read as which (Avro 1.12, "Schema Resolution"): the rules for one pair of types.

`schemas/plan.py` applies them to whole schemas. This file does not go into records and reads no data. Where the
specification leaves something open, or is stricter or laxer than is of use, the rule says so.
"""

from __future__ import annotations

from typing import Any

from schemas.rendering import DIGITS, logical_type

#: A parsed schema's node: the name of a primitive or of a named type, a list of branches, or a dictionary.
Node = Any
#: The definitions of a parsed schema by full name.
Named = dict[str, dict[str, Any]]

#: What a type may be read as besides itself.
PROMOTIONS: dict[str, tuple[str, ...]] = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
    "string": ("bytes",),
    "bytes": ("string",),
}
_NAMED = ("record", "enum", "fixed")


def definitions(node: Node) -> Named:
    """All named types that a parsed schema defines."""
    found: Named = {}
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            if kind_of(node) in _NAMED:
                found[node["name"]] = node
            waiting += children(node)
    return found


def children(node: dict[str, Any]) -> list[Node]:
    """The types inside a type that is no union."""
    match kind_of(node):
        case "record":
            return [field["type"] for field in node["fields"]]
        case "array":
            return [node["items"]]
        case "map":
            return [node["values"]]
    return []


def kind_of(node: Node) -> str:
    """`record`, `int`, ...; `union`. An error is a record. A reference has to be looked up first."""
    if isinstance(node, list):
        return "union"
    kind = node["type"] if isinstance(node, dict) else node
    return "record" if kind == "error" else str(kind)


def looked_up(node: Node, named: Named) -> Node:
    """The definition that a reference stands for; any other node as it is."""
    return named.get(node, node) if isinstance(node, str) else node


def describe(node: Node) -> str:
    """A type in a sentence: `int`, `enum shop.Status`, `timestamp-millis`."""
    kind = kind_of(node)
    if kind in _NAMED and logical_type(node) is None:
        return f"{kind} {node['name']}"
    return logical_type(node) or kind


def matches(writer: Node, writer_named: Named, reader: Node, reader_named: Named) -> bool:
    """Whether two types match. A union matches anything: which of its branches does, depends on the record."""
    writer, reader = looked_up(writer, writer_named), looked_up(reader, reader_named)
    while kind_of(writer) == kind_of(reader) and kind_of(writer) in ("array", "map"):
        (writer,), (reader,) = children(writer), children(reader)
        writer, reader = looked_up(writer, writer_named), looked_up(reader, reader_named)
    kinds = kind_of(writer), kind_of(reader)
    return "union" in kinds or mismatch(writer, reader) is None


def mismatch(writer: Node, reader: Node) -> tuple[str, str] | None:
    """Why two types, neither a union nor a reference, do not match: (kind, sentence), or None when they do.

    The kinds are those of Confluent's registry.
    """
    kinds = kind_of(writer), kind_of(reader)
    if kinds[0] != kinds[1] and kinds[1] not in PROMOTIONS.get(kinds[0], ()):
        return "TYPE_MISMATCH", f"written as {describe(writer)}, which cannot be read as {describe(reader)}"
    if kinds[0] in _NAMED and not same_name(writer, reader):
        return "NAME_MISMATCH", (
            f"written as {kinds[0]} {writer['name']}; {reader['name']} has another name and no alias for it"
        )
    if kinds == ("fixed", "fixed") and writer["size"] != reader["size"]:
        return "FIXED_SIZE_MISMATCH", f"written with {writer['size']} bytes, not the {reader['size']} that are expected"
    return _logical_mismatch(writer, reader)


def same_name(writer: dict[str, Any], reader: dict[str, Any]) -> bool:
    """Whether the unqualified names are equal, or the reader has an alias for the writer's.

    Namespaces do not count, as in the specification ("unqualified"), for aliases as well.
    """
    name = _unqualified(writer["name"])
    return name == _unqualified(reader["name"]) or name in map(_unqualified, reader.get("aliases", ()))


def _unqualified(name: str) -> str:
    return name.rpartition(".")[2]


def _logical_mismatch(writer: Node, reader: Node) -> tuple[str, str] | None:
    """Where both sides have a logical type, the meaning must be the same: a date is no time of day.

    The specification says so of decimals only (scale and precision must match); here a decimal's precision may change,
    since no value is lost by it. Units of times may differ: `units` converts. A side without a logical type reads or
    writes the type underneath.
    """
    names = logical_type(writer), logical_type(reader)
    if None in names:
        return None
    if family(writer) != family(reader):
        return "TYPE_MISMATCH", f"written as {names[0]}, which means something else than {names[1]}"
    scales = [node.get("scale", 0) for node in (writer, reader)] if names[0] == "decimal" else [0, 0]
    if scales[0] != scales[1]:
        return "TYPE_MISMATCH", f"written as a decimal of scale {scales[0]}, not {scales[1]}"
    return None


def family(node: Node) -> str | None:
    """The logical type without its unit: `timestamp` for all of its resolutions."""
    name = logical_type(node)
    if name is None:
        return None
    head, _, unit = name.rpartition("-")
    return head if unit in DIGITS else name


def digits_of(node: Node) -> int:
    """Digits after the second of a time or timestamp; 0 for anything else."""
    return DIGITS.get((logical_type(node) or "").rpartition("-")[2], 0)


def branch_for(writer: Node, writer_named: Named, union: list[Node], reader_named: Named) -> Node | None:
    """The branch of the reader's union that a type is read as; None when there is none.

    One of the same full name, else the first of the same type, else the first that matches. The specification says only
    the first that matches, by which `bytes` would be read as the text of `["string", "bytes"]`, and an `int` as the
    floating-point number of `["double", "int"]`, even with one schema on both sides; Avro's own implementation for Java
    looks for the same type first, as this does.
    """
    writer = looked_up(writer, writer_named)

    def distance(branch: Node) -> int:
        branch = looked_up(branch, reader_named)
        if kind_of(branch) != kind_of(writer):
            return 2
        return int(kind_of(writer) in _NAMED and branch["name"] != writer["name"])

    candidates = [branch for branch in union if matches(writer, writer_named, branch, reader_named)]
    return min(candidates, key=distance, default=None)  # of equals, the first
