"""Avro schemas, schemas that they may have grown into, and records of them: made by Hypothesis.

Unions are in an order, and names of kinds, in which fastavro does not deviate from the specification (see
`schemas/resolution.py`), so that its own resolution can be asked for the answer. Logical types are an option, since of
those it knows less.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from tests import avro

PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "string", "bytes")
#: A branch before those that it could be promoted to, and never both of string and bytes.
UNION_ORDER = ("null", "boolean", "int", "long", "float", "double", "string")
LOGICAL: tuple[tuple[Any, Any], ...] = (
    (avro.logical("int", "date"), st.integers(-700_000, 2_900_000)),
    (avro.logical("int", "time-millis"), st.integers(0, 86_399_999)),
    (avro.logical("long", "time-micros"), st.integers(0, 86_399_999_999)),
    (avro.logical("long", "timestamp-millis"), st.integers(-(10**13), 10**14)),
    (avro.logical("long", "timestamp-micros"), st.integers(-(10**16), 10**17)),
    (avro.logical("long", "local-timestamp-nanos"), st.integers(-(2**63), 2**63 - 1)),
    (avro.decimal(9, 2), st.binary(max_size=8)),
    (avro.logical("string", "uuid"), st.uuids().map(str)),
)
_RAW: dict[str, Any] = {
    "null": st.none(),
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "string": st.text(max_size=5),
    "bytes": st.text(max_size=3).map(str.encode),  # UTF-8, for those that are read as string
}
_DEFAULTS: dict[str, Any] = {"null": None, "boolean": True, "int": 3, "long": 4, "double": 1.5, "string": "d"}


@dataclass
class _Maker:
    """Draws one schema; names are not repeated."""

    draw: Any
    logical: bool
    named: list[str] = field(default_factory=list)
    around: list[str] = field(default_factory=list)

    def name(self, kind: str) -> str:
        self.named.append(f"{kind}{len(self.named)}")
        return self.named[-1]

    def node(self, depth: int) -> Any:
        kinds = ["primitive"] * 3 + ["enum", "fixed", "again"] + ["logical"] * self.logical
        if depth > 0:
            kinds += ["record", "record", "array", "map", "union", "union"]
        match self.draw(st.sampled_from(kinds)):
            case "logical":
                return self.draw(st.sampled_from([kind for kind, _ in LOGICAL]))
            case "enum":
                return avro.enum(*self.symbols(), name=self.name("E"))
            case "fixed":
                return avro.fixed(self.draw(st.integers(1, 3)), self.name("F"))
            case "again" if self.around:  # contains itself, with a way out
                return ["null", self.draw(st.sampled_from(self.around))]
            case "record":
                return self.record(depth)
            case "array":
                return avro.array(self.takes_bytes(self.node(depth - 1)))
            case "map":
                return avro.mapping(self.node(depth - 1))
            case "union":
                return self.union(depth)
        return self.draw(st.sampled_from(PRIMITIVES))

    def takes_bytes(self, node: Any) -> Any:
        """Items of an array that `codec.parse_schema` takes."""
        return ["null", "int"] if node == "null" or (isinstance(node, dict) and node.get("type") == "record") else node

    def symbols(self) -> list[str]:
        return list(self.draw(st.lists(st.sampled_from("ABCD"), min_size=1, max_size=3, unique=True)))

    def record(self, depth: int) -> Any:
        made = avro.record(name=self.name("R"))
        self.around.append(made["name"])
        names = self.draw(st.lists(st.sampled_from("abcdef"), max_size=4, unique=True))
        made["fields"] = [avro.field(each, self.node(depth - 1)) for each in names]
        self.around.pop()
        return made

    def union(self, depth: int) -> list[Any]:
        chosen = self.draw(st.sets(st.sampled_from(UNION_ORDER), min_size=1, max_size=3))
        branches: list[Any] = [kind for kind in UNION_ORDER if kind in chosen]
        for extra in self.draw(st.sets(st.sampled_from(["enum", "record", "record2", "array"]), max_size=2)):
            match extra:
                case "enum":
                    branches.append(avro.enum(*self.symbols(), name=self.name("E")))
                case "array":
                    branches.append(avro.array(self.draw(st.sampled_from(["int", "string"]))))
                case _:
                    branches.append(self.record(depth - 1) if depth > 1 else avro.record(name=self.name("R")))
        return branches

    # --- what it may have grown into ---

    def grown(self, node: Any) -> Any:
        """The schema as a later, or an earlier, version may have it: most of it as it is."""
        if self.draw(st.integers(0, 15)) == 0:
            return self.draw(st.sampled_from(["string", "double", ["null", "long"]]))
        if isinstance(node, list):
            branches = [self.grown(branch) if not isinstance(branch, str) else branch for branch in node]
            kept = [branch for branch in branches if not isinstance(branch, list) and self.draw(st.integers(0, 7)) > 0]
            return _ordered(kept or ["null"])
        if isinstance(node, str):
            later = {"int": ["long", "double"], "long": ["float"], "string": ["bytes"], "bytes": ["string"]}.get(node)
            return self.draw(st.sampled_from([node, node, *later])) if later else node
        match node["type"]:
            case "record":
                return self.grown_record(node)
            case "array":
                return avro.array(self.takes_bytes(self.grown(node["items"])))
            case "map":
                return avro.mapping(self.grown(node["values"]))
            case "enum":
                symbols = self.symbols() if self.draw(st.booleans()) else node["symbols"]
                default = {"default": symbols[0]} if self.draw(st.booleans()) else {}
                return node | {"symbols": symbols} | default
            case "fixed" if self.draw(st.integers(0, 7)) == 0:
                return node | {"size": node["size"] + 1}
        return node

    def grown_record(self, node: Any) -> Any:
        fields = []
        for each in node["fields"]:
            match self.draw(st.sampled_from(["kept"] * 6 + ["dropped", "renamed"])):
                case "kept":
                    fields.append(each | {"type": self.grown(each["type"])})
                case "renamed":
                    fields.append(each | {"type": self.grown(each["type"]), "name": f"new_{each['name']}"})
                    fields[-1]["aliases"] = [each["name"]]
        for kind in self.draw(st.sets(st.sampled_from(sorted(_DEFAULTS)), max_size=2)):
            default = {"default": _DEFAULTS[kind]} if self.draw(st.integers(0, 3)) else {}
            fields.append(avro.field(f"added_{kind}", kind, **default))
        return node | {"fields": list(self.draw(st.permutations(fields)))}


def _ordered(branches: list[Any]) -> list[Any]:
    """Each branch once, in the order in which none is hidden behind a promotion."""
    seen = {_identity(branch): branch for branch in branches}
    kinds = list(seen.values())
    if "string" in kinds:
        kinds = [branch for branch in kinds if branch != "bytes"]
    return sorted(kinds, key=lambda branch: UNION_ORDER.index(branch) if branch in UNION_ORDER else len(UNION_ORDER))


def _identity(branch: Any) -> str:
    """By which fastavro's writer is told the branch that is meant."""
    return str(branch if isinstance(branch, str) else branch.get("name", branch["type"]))


@st.composite
def schemas(draw: Any, logical: bool = False) -> Any:
    """A record's schema, as a tree."""
    return _Maker(draw, logical).record(3)


@st.composite
def pairs(draw: Any, logical: bool = False) -> tuple[Any, Any]:
    """A writer's schema and a reader's: most often one that it may have grown into."""
    maker = _Maker(draw, logical)
    writer = maker.record(3)
    reader = maker.grown_record(writer) if draw(st.integers(0, 9)) else _Maker(draw, logical).record(3)
    # A type that a field no longer has may be referred to elsewhere: such a schema is none.
    return writer, reader


@dataclass
class _Values:
    """Draws values of a schema, logical types as the primitives underneath."""

    draw: Any
    named: dict[str, Any]

    def value(self, node: Any, depth: int) -> Any:
        if isinstance(node, list):
            ends = [branch for branch in node if branch == "null"]
            branch = self.draw(st.sampled_from(ends if depth <= 0 and ends else node))
            return _identity(branch), self.value(branch, depth - 1)
        if isinstance(node, str) and node in self.named:
            node = self.named[node]
        if isinstance(node, str):
            return self.draw(_RAW[node])
        for kind, strategy in LOGICAL:
            if node == kind:
                return self.draw(strategy)
        match node["type"]:
            case "record":
                self.named[node["name"]] = node
                return {each["name"]: self.value(each["type"], depth - 1) for each in node["fields"]}
            case "array":
                return [self.value(node["items"], depth - 1) for _ in range(self.length(depth))]
            case "map":
                return {f"k{n}": self.value(node["values"], depth - 1) for n in range(self.length(depth))}
            case "enum":
                self.named[node["name"]] = node
                return self.draw(st.sampled_from(node["symbols"]))
            case "fixed":
                self.named[node["name"]] = node
                return self.draw(st.binary(min_size=node["size"], max_size=node["size"]))
        raise AssertionError(node)

    def length(self, depth: int) -> int:
        return int(self.draw(st.integers(0, 2))) if depth > 0 else 0


def values(schema: Any) -> st.SearchStrategy[Any]:
    """A record of a schema's tree."""

    @st.composite
    def make(draw: Any) -> Any:
        return _Values(draw, {}).value(schema, 6)

    return make()


def covering(node: Any, named: dict[str, Any] | None = None, inside: tuple[str, ...] = ()) -> list[Any]:
    """Values of a schema that have, together, each branch of each union, each symbol, and items in each array and map.

    Of a record that contains itself, two levels of it.
    """
    named = {} if named is None else named
    if isinstance(node, list):
        return [(_identity(branch), value) for branch in node for value in covering(branch, named, inside)]
    if isinstance(node, str) and node in named:
        node = named[node]
    if isinstance(node, str):
        return [{"null": None, "boolean": True, "string": "s", "bytes": b"b", "float": 1.5, "double": 1.5}.get(node, 1)]
    match node["type"]:
        case "record":
            named[node["name"]] = node
            if inside.count(node["name"]) >= 2:
                return []
            columns = [covering(each["type"], named, (*inside, node["name"])) for each in node["fields"]]
            if not all(columns):
                return []  # it has no end on this way
            rows = range(max(map(len, columns), default=1))
            names = [each["name"] for each in node["fields"]]
            return [
                {name: column[row % len(column)] for name, column in zip(names, columns, strict=True)} for row in rows
            ]
        case "array":
            return [covering(node["items"], named, inside)]
        case "map":
            return [{f"k{n}": each for n, each in enumerate(covering(node["values"], named, inside))}]
        case "enum":
            named[node["name"]] = node
            return list(node["symbols"])
        case "fixed":
            named[node["name"]] = node
            return [bytes(node["size"])]
    return covering(node["type"])
