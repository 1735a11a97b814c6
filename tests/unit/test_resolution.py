"""Avro 1.12, "Schema Resolution": each rule as a case, and where fastavro's own resolution deviates from it."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import fastavro
import pytest

from schemas import codec
from schemas.compatibility import unreadable
from schemas.defaults import InvalidDefault, default_value
from schemas.errors import UndecodableError, UnresolvableError
from schemas.rendering import form_of
from schemas.resolution import Resolver
from tests.avro import array, decimal, enum, field, fixed, logical, mapping, record, text, written

PRIMITIVES: dict[str, Any] = {
    "null": None,
    "boolean": True,
    "int": 7,
    "long": 8,
    "float": 1.5,
    "double": 2.5,
    "bytes": b"ab",
    "string": "cd",
}
PROMOTED: dict[tuple[str, str], Any] = {
    ("int", "long"): 7,
    ("int", "float"): 7.0,
    ("int", "double"): 7.0,
    ("long", "float"): 8.0,
    ("long", "double"): 8.0,
    ("float", "double"): 1.5,
    ("string", "bytes"): "Y2Q=",
    ("bytes", "string"): "ab",
}
A, B = field("a", "int"), field("b", "int")


def resolved(writer: Any, value: Any, reader: Any) -> Any:
    return Resolver(text(writer), text(reader)).record(written(writer, value))


def refused(writer: Any, value: Any, reader: Any) -> UnresolvableError:
    """At construction, or for this record."""
    with pytest.raises(UnresolvableError) as caught:
        resolved(writer, value, reader)
    return caught.value


def refused_at_once(writer: Any, reader: Any) -> UnresolvableError:
    with pytest.raises(UnresolvableError) as caught:
        Resolver(text(writer), text(reader))
    return caught.value


def by_fastavro(writer: Any, value: Any, reader: Any) -> Any:
    """What its own resolution makes of it."""
    parsed = [fastavro.parse_schema(schema, named_schemas={}) for schema in (writer, reader)]
    stream = io.BytesIO(written(writer, value))
    stream.seek(codec.HEADER_BYTES)
    return fastavro.schemaless_reader(stream, *parsed)  # type: ignore[arg-type]


# --- to match, one of these must hold -----------------------------------------------------------------------


@pytest.mark.parametrize("reader", PRIMITIVES)
@pytest.mark.parametrize("writer", PRIMITIVES)
def test_both_are_the_same_primitive_or_the_writer_s_may_be_promoted(writer: str, reader: str) -> None:
    value = PRIMITIVES[writer]
    if writer == reader:
        assert resolved(writer, value, reader) == ("YWI=" if writer == "bytes" else value)
    elif (writer, reader) in PROMOTED:
        found = resolved(writer, value, reader)
        assert (found, type(found)) == (PROMOTED[writer, reader], type(PROMOTED[writer, reader]))
    else:
        error = refused_at_once(writer, reader)
        assert (error.path, error.sentence) == ("$", f"written as {writer}, which cannot be read as {reader}")


def test_both_are_arrays_whose_items_match() -> None:
    assert resolved(array("int"), [1, 2], array("double")) == [1.0, 2.0]
    assert refused(array("int"), [1], array("string")).path == "$[0]"
    assert refused_at_once(array("int"), mapping("int")).path == "$"


def test_both_are_maps_whose_values_match() -> None:
    assert resolved(mapping("int"), {"a": 1}, mapping("long")) == {"a": 1}
    error = refused(mapping("int"), {"a": 1, "b c": 2}, mapping("string"))
    assert error.path == "$.a"
    assert refused(mapping("int"), {"b c": 2}, mapping("string")).path == "$['b c']"


def test_both_are_enums_whose_unqualified_names_match() -> None:
    assert resolved(enum("A", name="old.E"), "A", enum("A", name="new.E")) == "A"
    assert "new.D has another name" in refused_at_once(enum("A", name="old.E"), enum("A", name="new.D")).sentence
    assert resolved(enum("A", name="old.E"), "A", enum("A", name="new.D", aliases=["old.E"])) == "A"


def test_both_are_fixed_whose_sizes_and_unqualified_names_match() -> None:
    assert resolved(fixed(2, "old.F"), b"ab", fixed(2, "new.F")) == "YWI="
    assert refused_at_once(fixed(2), fixed(3)).sentence == "written with 2 bytes, not the 3 that are expected"
    assert "another name" in refused_at_once(fixed(2, "F"), fixed(2, "G")).sentence


def test_both_are_records_with_the_same_unqualified_name() -> None:
    assert resolved(record(A, name="old.R"), {"a": 1}, record(A, name="new.R")) == {"a": 1}
    assert "another name" in refused_at_once(record(A, name="R"), record(A, name="S")).sentence
    for alias in ("R", "old.R"):
        assert resolved(record(A, name="old.R"), {"a": 1}, record(A, name="S", aliases=[alias])) == {"a": 1}


def test_types_of_different_kinds_do_not_match_whatever_their_names() -> None:
    for writer, reader in ((enum("A", name="X"), fixed(1, "X")), (record(name="X"), enum("A", name="X"))):
        assert "cannot be read as" in refused_at_once(writer, reader).sentence
    assert "cannot be read as" in refused_at_once(fixed(1), "bytes").sentence


# --- records --------------------------------------------------------------------------------------------------


def test_the_order_of_fields_may_differ_and_the_document_has_the_reader_s() -> None:
    found = resolved(record(A, B), {"a": 1, "b": 2}, record(B, A))
    assert (found, list(found)) == ({"a": 1, "b": 2}, ["b", "a"])


def test_fields_of_the_same_name_are_resolved_recursively() -> None:
    inner = record(field("x", "int"), name="Inner"), record(field("x", "double"), name="Inner")
    writer, reader = (record(field("in", each)) for each in inner)
    assert resolved(writer, {"in": {"x": 1}}, reader) == {"in": {"x": 1.0}}


def test_the_writer_s_field_that_the_reader_has_not_is_ignored() -> None:
    nested = record(field("x", array(["null", mapping("string")])), name="Inner")
    writer = record(field("gone", nested), A, field("gone2", "Inner"))
    value = {"gone": {"x": [None, {"k": "v"}]}, "a": 1, "gone2": {"x": []}}
    assert resolved(writer, value, record(A)) == {"a": 1}
    assert resolved(writer, value, record()) == {}


def test_the_default_of_the_reader_s_field_that_the_writer_has_not() -> None:
    found = resolved(record(A), {"a": 1}, record(field("b", "int", default=5), A))
    assert (found, list(found)) == ({"b": 5, "a": 1}, ["b", "a"])
    assert resolved(record(B), {"b": 1}, record(field("a", "int", default=5))) == {"a": 5}


def test_without_a_default_it_is_an_error() -> None:
    error = refused_at_once(record(A), record(A, B))
    assert (error.path, str(error)) == ("$.b", "$.b: is not in what was written, and has no default")


def test_without_a_default_inside_an_array_it_is_an_error_where_there_is_an_item() -> None:
    writer, reader = (record(field("l", array(record(A, *more, name="L")))) for more in ((), (B,)))
    assert resolved(writer, {"l": []}, reader) == {"l": []}
    error = refused(writer, {"l": [{"a": 1}]}, reader)
    assert (error.path, error.sentence) == ("$.l[0].b", "is not in what was written, and has no default")


def test_a_field_is_found_by_an_alias() -> None:
    assert resolved(record(A), {"a": 1}, record(field("z", "double", aliases=["y", "a"]))) == {"z": 1.0}


def test_a_name_goes_before_an_alias_and_nothing_is_read_twice() -> None:
    reader = record(field("b", "int", aliases=["a"], default=9), A)
    assert resolved(record(A), {"a": 1}, reader) == {"b": 9, "a": 1}
    assert resolved(record(A, B), {"a": 1, "b": 2}, record(field("b", "int", aliases=["a"]))) == {"b": 2}
    both = record(field("x", "int", aliases=["a"], default=8), field("y", "int", aliases=["a"], default=9))
    assert resolved(record(A), {"a": 1}, both) == {"x": 1, "y": 9}


def test_the_writer_s_aliases_do_not_count() -> None:
    assert refused_at_once(record(field("b", "int", aliases=["a"])), record(A)).path == "$.a"
    assert "another name" in refused_at_once(record(name="S", aliases=["R"]), record(name="R")).sentence


def test_documentation_and_the_writer_s_defaults_do_not_count() -> None:
    writer = record(field("a", "int", doc="x", default=3), doc="y")
    assert resolved(writer, {"a": 1}, record(A)) == {"a": 1}


# --- defaults: the JSON in a schema stands for a value ----------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "default", "document"),
    [
        ("null", None, None),
        ("boolean", False, False),
        ("int", -(2**31), -(2**31)),
        ("long", 2**63 - 1, 2**63 - 1),
        ("double", 1, 1.0),
        ("string", "é", "é"),
        ("bytes", "\u00ff\u0000", "/wA="),
        (fixed(1), "\u00ff", "/w=="),
        (enum("A", "B"), "B", "B"),
        (array("bytes"), ["a"], ["YQ=="]),
        (mapping("int"), {"k": 1}, {"k": 1}),
        (record(field("x", "int"), field("y", "bytes", default="b"), name="D"), {"x": 1}, {"x": 1, "y": "Yg=="}),
        (["null", "string"], None, None),
        (["null", "string"], "later branch", "later branch"),
        (["int", "double"], 1.5, 1.5),
        (logical("int", "date"), 1, "1970-01-02"),
        (logical("long", "timestamp-millis"), 1, "1970-01-01T00:00:00.001Z"),
        (decimal(4, 2), "\u00ff", "-0.01"),
    ],
)
def test_a_default(kind: Any, default: Any, document: Any) -> None:
    found = resolved(record(A), {"a": 1}, record(field("n", kind, default=default)))
    assert (found, type(found["n"])) == ({"n": document}, type(document))


@pytest.mark.parametrize(
    ("kind", "default", "sentence"),
    [
        ("null", 0, "the default is no value of null"),
        ("boolean", 0, "the default is no value of boolean"),
        ("int", True, "the default is no value of int"),
        ("int", 2**31, "the default is no value of int"),
        ("int", 1.5, "the default is no value of int"),
        ("double", False, "the default is no value of double"),
        ("string", None, "the default is no value of string"),
        ("bytes", "\u0100", "a character beyond U"),
        (fixed(2), "a", "the default is no value of fixed"),
        (enum("A"), "B", "the default is no value of enum"),
        (array("int"), ["a"], "the default is no value of int"),
        (mapping("int"), [], "the default is no value of map"),
        (record(field("x", "int"), name="D"), {}, "the default lacks the field x"),
        (["null", "string"], 1, "the default fits no branch of the union"),
        (logical("int", "date"), 2**30, "the default is 1073741824 days since 1970"),
    ],
)
def test_a_default_that_is_none(kind: Any, default: Any, sentence: str) -> None:
    with pytest.raises(InvalidDefault, match=sentence):
        default_value(kind, default, {}, form_of)


def test_the_place_of_a_default_that_is_none() -> None:
    error = refused_at_once(record(A), record(field("n", enum("A"), default="B")))
    assert (error.path, error.sentence) == ("$.n", "is not in what was written, and the default is no value of enum")


def test_a_default_that_has_no_end() -> None:
    endless = record(field("r", "R", default={}))
    assert "nested too deeply" in refused_at_once(record(), endless).sentence


def doubling(levels: int, innermost: Any, **more: Any) -> Any:
    """Records of which each has the one before it twice."""
    node = record(innermost, name="T0")
    for level in range(1, levels + 1):
        name = node["name"]
        node = record(field("x", node, **more), field("y", name, **more), name=f"T{level}")
    return node


def test_a_default_that_doubles_with_each_line() -> None:
    reader = record(field("v", doubling(40, field("x", "int", default=1), default={}), default={}))
    assert "more than 10000 values" in refused_at_once(record(), reader).sentence


def test_a_schema_whose_types_refer_to_types_twice_is_planned_once_for_each() -> None:
    writer, reader = doubling(40, field("x", enum("A", "B"))), doubling(40, field("x", enum("A")))
    assert [problem.path for problem in unreadable(text(reader), text(writer))] == ["$" + ".x" * 41]


# --- enums ----------------------------------------------------------------------------------------------------


def test_a_symbol_that_the_reader_has_not_is_its_default() -> None:
    reader = enum("A", "C", default="C")
    assert [resolved(enum("A", "B"), symbol, reader) for symbol in "AB"] == ["A", "C"]


def test_without_a_default_the_record_cannot_be_read() -> None:
    assert resolved(enum("A", "B"), "A", enum("A")) == "A"
    error = refused(enum("A", "B"), "B", enum("A"))
    assert error.sentence == "the symbol B is unknown to enum E, which has no default"
    assert "lacks, and it has no default: A, B" in refused_at_once(enum("A", "B"), enum("C")).sentence


# --- unions ---------------------------------------------------------------------------------------------------


def test_both_are_unions() -> None:
    assert [resolved(["null", "int"], value, ["double", "null"]) for value in (None, 1)] == [None, 1.0]
    error = refused(["null", "int"], 1, ["null", "string"])
    assert error.sentence == "written as int, for which the union has no branch"
    assert "no branch" in refused_at_once(["int", "long"], ["null", "string"]).sentence


def test_the_reader_s_is_a_union() -> None:
    assert resolved("int", 1, ["null", "double"]) == 1.0
    assert "no branch" in refused_at_once("int", ["null", "string"]).sentence
    assert resolved(array("int"), [1], ["null", array("long")]) == [1]
    assert "no branch" in refused_at_once(array("int"), ["null", array("string")]).sentence


def test_the_writer_s_is_a_union() -> None:
    assert resolved(["null", "int"], 1, "double") == 1.0
    assert refused(["null", "int"], None, "double").sentence == "written as null, which cannot be read as double"
    assert refused_at_once(["null", "int"], "string").path == "$"


def test_each_branch_of_named_types_is_read_as_its_own() -> None:
    branches = [record(field("v", "int"), name=name) for name in ("P", "Q")]
    reader = [record(field("v", "double"), name="Q"), record(field("v", "string"), name="P")]
    assert resolved(branches, ("Q", {"v": 1}), reader) == {"v": 1.0}
    assert refused(branches, ("P", {"v": 1}), reader).path == "$.v"


def test_the_place_inside_unions_arrays_and_maps() -> None:
    inner = [record(field("x", ["null", kind]), name="I") for kind in ("int", "string")]
    writer, reader = (record(field("m", mapping(array(["null", each])))) for each in inner)
    value = {"m": {"k": [None, {"x": None}, {"x": 1}]}}
    assert refused(writer, value, reader).path == "$.m.k[2].x"


# --- named types ------------------------------------------------------------------------------------------------


def test_one_named_type_at_two_places_may_be_read_as_two() -> None:
    writer = record(field("p", record(field("v", "int"), name="P")), field("q", "P"))
    reader = record(field("p", record(field("v", "int"), name="P")), field("q", record(A, name="Q", aliases=["P"])))
    assert refused_at_once(writer, reader).path == "$.q.a"
    reader["fields"][1]["type"] = record(field("w", "double", aliases=["v"]), name="Q", aliases=["P"])
    assert resolved(writer, {"p": {"v": 1}, "q": {"v": 2}}, reader) == {"p": {"v": 1}, "q": {"w": 2.0}}


def test_one_named_type_may_be_skipped_here_and_not_match_there() -> None:
    writer = record(field("gone", record(A, name="P")), field("q", ["null", "P"]))
    reader = record(field("q", ["null", "int"]))
    assert resolved(writer, {"gone": {"a": 1}, "q": None}, reader) == {"q": None}
    assert refused(writer, {"gone": {"a": 1}, "q": ("P", {"a": 1})}, reader).path == "$.q"


def test_a_type_that_never_resolves_is_refused_at_once_also_where_it_comes_second() -> None:
    writer = record(field("l", array(record(A, name="P"))), field("p", "P"))
    reader = record(field("l", array(record(A, B, name="P"))), field("p", "P"))
    assert refused_at_once(writer, reader).sentence == "is not in what was written, and has no default"


def test_a_record_that_contains_itself() -> None:
    def node(kind: str, *more: Any) -> Any:
        return record(field("v", kind), field("next", ["null", "N"]), *more, name="N")

    value = {"v": 1, "next": {"v": 2, "next": None}}
    assert resolved(node("int"), value, node("double", field("w", "int", default=3))) == {
        "v": 1.0,
        "w": 3,
        "next": {"v": 2.0, "next": None, "w": 3},
    }
    assert resolved(record(field("n", node("int")), A), {"n": value, "a": 1}, record(A)) == {"a": 1}
    broken = record(field("e", enum("A", "B")), field("next", ["null", "N"]), name="N")
    narrow = record(field("e", enum("A")), field("next", ["null", "N"]), name="N")
    chain: Any = {"e": "B", "next": None}
    for _ in range(3):
        chain = {"e": "A", "next": chain}
    assert refused(broken, chain, narrow).path == "$.next.next.next.e"


# --- logical types ----------------------------------------------------------------------------------------------

MILLIS, MICROS = logical("long", "timestamp-millis"), logical("long", "timestamp-micros")


@pytest.mark.parametrize(
    ("writer", "value", "reader", "document"),
    [
        ("long", 1, MILLIS, "1970-01-01T00:00:00.001Z"),
        (MILLIS, 1, "long", 1),
        (MILLIS, 1, "double", 1.0),
        ("int", 1, MILLIS, "1970-01-01T00:00:00.001Z"),
        (MILLIS, -1, MICROS, "1969-12-31T23:59:59.999000Z"),
        (MICROS, -1, MILLIS, "1969-12-31T23:59:59.999Z"),
        (MICROS, 1_999_999, logical("long", "timestamp-nanos"), "1970-01-01T00:00:01.999999000Z"),
        (logical("int", "time-millis"), 1, logical("long", "time-micros"), "00:00:00.001000"),
        (logical("long", "local-timestamp-micros"), 1999, logical("long", "local-timestamp-millis"), None),
        (decimal(4, 2), b"\x7f", decimal(9, 2), "1.27"),
        (decimal(4, 2), b"\x7f", "bytes", "fw=="),
        ("bytes", b"\x7f", decimal(9, 2), "1.27"),
        ("string", "\x7f", decimal(9, 2), "1.27"),
        (logical("string", "uuid"), "x", "string", "x"),
        (logical("long", "date"), 1, MILLIS, "1970-01-01T00:00:00.001Z"),  # no logical type: not on a long
        (logical("int", "unheard-of"), 1, logical("int", "date"), "1970-01-02"),
    ],
)
def test_the_reader_s_logical_type_counts_and_units_are_converted(
    writer: Any, value: Any, reader: Any, document: Any
) -> None:
    expected = "1970-01-01T00:00:00.001" if document is None else document
    assert resolved(record(field("v", writer)), {"v": value}, record(field("v", reader))) == {"v": expected}


@pytest.mark.parametrize(
    ("writer", "reader", "sentence"),
    [
        (decimal(4, 2), decimal(4, 1), "written as a decimal of scale 2, not 1"),
        (MILLIS, logical("long", "local-timestamp-millis"), "which means something else than local-timestamp-millis"),
        (logical("int", "date"), MILLIS, "written as date, which means something else than timestamp-millis"),
        (logical("int", "date"), logical("int", "time-millis"), "something else than time-millis"),
        (MILLIS, "int", "written as timestamp-millis, which cannot be read as int"),
    ],
)
def test_what_means_something_else_does_not_match(writer: Any, reader: Any, sentence: str) -> None:
    assert sentence in refused_at_once(writer, reader).sentence


def test_a_value_without_a_json_form_has_its_place() -> None:
    schema = record(field("days", array(logical("int", "date"))))
    with pytest.raises(UnresolvableError, match="outside of the years 1 to 9999") as caught:
        Resolver(text(schema)).record(written(schema, {"days": [1, 2**30]}))
    assert caught.value.path == "$.days[1]"
    error = refused(record(field("t", "bytes")), {"t": b"\xff"}, record(field("t", "string")))
    assert error.path == "$.t"
    assert "not UTF-8" in error.sentence


# A process of its own: what this guards against kills the process.
DEEP = """
from schemas import codec
from schemas.errors import UndecodableError, UnresolvableError
from schemas.resolution import Resolver
import sys
resolver = Resolver(*sys.argv[1:3])
for depth in (100, 100_000):
    try:
        resolver.record(codec.wire_header(7) + bytes([2, 2] * depth + [0, 0]))
    except (UndecodableError, UnresolvableError) as error:
        print(type(error).__name__)
"""


def test_no_depth_of_data_ends_the_process() -> None:
    def node(*symbols: str) -> str:
        return text(record(field("e", enum(*symbols)), field("next", ["null", "N"]), name="N"))

    command = [sys.executable, "-c", DEEP, node("A", "B"), node("A")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["UnresolvableError", "UndecodableError"]), done.stderr


# --- as written, and what is not Avro ---------------------------------------------------------------------------


def test_without_a_reader_the_document_is_that_of_what_was_written() -> None:
    schema = record(field("u", ["string", "bytes", decimal_fixed()]), field("e", enum("A", "B", default="A")))
    for value, document in (("x", "x"), (b"\xff", "/w=="), (("D", b"\x01"), "0.1")):
        assert Resolver(text(schema)).record(written(schema, {"u": value, "e": "B"})) == {"u": document, "e": "B"}


def decimal_fixed() -> Any:
    return fixed(1, "D", logicalType="decimal", precision=2, scale=1)


def test_a_type_other_than_a_record_and_names_of_ours() -> None:
    assert Resolver('"int"').record(written("int", 3)) == 3
    schema = record(field("n1", "int", doc="-"), field("value", fixed(1, "n0")), name="n1")
    assert resolved(schema, {"n1": 1, "value": b"a"}, schema) == {"n1": 1, "value": "YQ=="}


@pytest.mark.parametrize("name", ["distributary.step", "distributary.marking-step"])
def test_a_schema_that_uses_the_name_of_our_hook(name: str) -> None:
    schema = record(field("v", logical("int", name, step="x")))
    assert Resolver(text(schema)).record(written(schema, {"v": 3})) == {"v": 3}


def test_what_is_no_schema_and_what_is_no_record() -> None:
    with pytest.raises(ValueError, match="not a valid Avro schema"):
        Resolver("{")
    with pytest.raises(ValueError, match="not a valid Avro schema"):
        Resolver('"int"', "nothing")
    for payload, reason in ((b"", "truncated"), (b"\x02\x02", "avro")):
        with pytest.raises(UndecodableError) as caught:
            Resolver(text(record(A)), text(record(field("a", "long")))).record(codec.wire_header(1) + payload)
        assert caught.value.reason == reason


# --- where fastavro's own resolution deviates -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("writer", "value", "reader", "ours", "fastavros"),
    [
        (record(field("u", "int")), {"u": 1}, record(field("u", ["double", "int"])), {"u": 1}, {"u": 1.0}),
        (record(A, B), {"a": 1, "b": 2}, record(field("b", "int", aliases=["a"])), {"b": 2}, {"b": 1}),
        (record(), {}, record(field("b", "bytes", default="a")), {"b": "YQ=="}, {"b": "a"}),
        (
            record(),
            {},
            record(field("d", record(field("x", "int", default=1), name="D"), default={})),
            {"d": {"x": 1}},
            {"d": {}},
        ),
        (record(field("t", logical("int", "date"))), {"t": 0}, record(field("t", "int")), {"t": 0}, None),
        (
            record(field("t", "int")),
            {"t": 0},
            record(field("t", logical("int", "date"))),
            {"t": "1970-01-01"},
            {"t": 0},
        ),
        (
            record(field("d", decimal(2, 1))),
            {"d": b"\x04\xd2"},
            record(field("d", decimal(2, 1))),
            {"d": "123.4"},
            None,
        ),
    ],
)
def test_fastavro_s_deviations(writer: Any, value: Any, reader: Any, ours: Any, fastavros: Any) -> None:
    assert resolved(writer, value, reader) == ours
    theirs = by_fastavro(writer, value, reader)
    if fastavros is not None:
        assert theirs == fastavros
    else:
        assert str(next(iter(theirs.values()))) in ("1970-01-01", "1.2E+2")


def test_fastavro_takes_types_of_one_name_for_a_match_whatever_they_are() -> None:
    writer, reader = record(field("v", enum("A", name="X"))), record(field("v", record(A, name="X")))
    assert "cannot be read as" in refused_at_once(writer, reader).sentence
    with pytest.raises(KeyError):
        by_fastavro(writer, {"v": "A"}, reader)


def test_fastavro_mixes_up_types_of_one_name_in_two_namespaces() -> None:
    def union(kind: str) -> Any:
        return [record(field("v", "int"), name="p.X"), record(field("v", kind), name="q.X")]

    writer, reader = record(field("u", union("int"))), record(field("u", union("double")))
    value = {"u": ("q.X", {"v": 1})}
    assert type(resolved(writer, value, reader)["u"]["v"]) is float
    assert type(by_fastavro(writer, value, reader)["u"]["v"]) is int
