"""Compatibility: each reason with its place, and which versions each level compares."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.compatibility import Level, incompatibilities, unreadable
from tests.avro import array, enum, field, fixed, mapping, record, text

V1 = record(field("a", "int"))
WITH_DEFAULT = record(field("a", "int"), field("b", "int", default=0))
WITHOUT_DEFAULT = record(field("a", "int"), field("b", "int"))
WIDER = record(field("a", "long"))


def reasons(reader: Any, writer: Any) -> list[tuple[str, str]]:
    return [(problem.kind, problem.path) for problem in unreadable(text(reader), text(writer))]


@pytest.mark.parametrize(
    ("writer", "reader", "expected"),
    [
        (V1, V1, []),
        (V1, WITH_DEFAULT, []),
        (WITHOUT_DEFAULT, V1, []),
        (V1, WIDER, []),
        ("string", "bytes", []),
        (V1, WITHOUT_DEFAULT, [("READER_FIELD_MISSING_DEFAULT_VALUE", "$.b")]),
        (V1, record(field("a", "string")), [("TYPE_MISMATCH", "$.a")]),
        (WIDER, V1, [("TYPE_MISMATCH", "$.a")]),
        (V1, record(field("a", "int"), name="Other"), [("NAME_MISMATCH", "$")]),
        (record(field("a", fixed(1))), record(field("a", fixed(2))), [("FIXED_SIZE_MISMATCH", "$.a")]),
        (record(field("a", enum("A", "B"))), record(field("a", enum("B"))), [("MISSING_ENUM_SYMBOLS", "$.a")]),
        (record(field("a", enum("A", "B"))), record(field("a", enum("B", default="B"))), []),
        (record(field("a", ["null", "int"])), V1, [("TYPE_MISMATCH", "$.a")]),
        (record(field("a", ["null", "int"])), record(field("a", ["null", "long"])), []),
        (V1, record(field("a", ["null", "int"])), []),
        (
            record(field("a", ["null", "int", "string"])),
            record(field("a", ["null", "int"])),
            [("MISSING_UNION_BRANCH", "$.a")],
        ),
        (
            record(field("m", mapping(array(record(field("x", "int"), name="X"))))),
            record(field("m", mapping(array(record(field("x", "string"), field("y", "int"), name="X"))))),
            [("TYPE_MISMATCH", "$.m[*][*].x"), ("READER_FIELD_MISSING_DEFAULT_VALUE", "$.m[*][*].y")],
        ),
        (
            record(field("v", "int"), field("next", ["null", "N"]), name="N"),
            record(field("v", "string"), field("next", ["null", "N"]), name="N"),
            [("TYPE_MISMATCH", "$.v")],
        ),
    ],
)
def test_each_reason_and_its_place(writer: Any, reader: Any, expected: list[tuple[str, str]]) -> None:
    assert reasons(reader, writer) == expected


def test_all_reasons_are_given_not_only_the_first() -> None:
    writer = record(field("a", "int"), field("b", enum("A")), field("c", "string"))
    reader = record(field("a", "string"), field("b", enum("B")), field("d", "string"))
    assert [path for _, path in reasons(reader, writer)] == ["$.a", "$.b", "$.d"]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (Level.NONE, []),
        (Level.BACKWARD, []),  # V3 reads what V2 wrote
        (Level.BACKWARD_TRANSITIVE, [(0, True)]),  # but not what V1 wrote
        (Level.FORWARD, [(1, False)]),  # V2 does not read what V3 writes
        (Level.FORWARD_TRANSITIVE, [(0, False), (1, False)]),
        (Level.FULL, [(1, False)]),
        (Level.FULL_TRANSITIVE, [(0, True), (0, False), (1, False)]),
    ],
)
def test_what_each_level_compares(level: Level, expected: list[tuple[int, bool]]) -> None:
    first = record(field("a", "int"))
    second = record(field("a", "int"), field("b", "int", default=0))
    third = record(field("a", "long"), field("b", "int"))
    found = incompatibilities(level, text(third), [text(first), text(second)])
    assert [(reason.against, reason.backward) for reason in found] == expected


@pytest.mark.parametrize("level", Level)
def test_the_first_version_is_compatible_with_nothing_before_it(level: Level) -> None:
    assert incompatibilities(level, text(V1), []) == []


def test_what_is_no_schema() -> None:
    with pytest.raises(ValueError, match="not a valid Avro schema"):
        unreadable("{", '"int"')
    with pytest.raises(ValueError, match="NOT_ONE"):
        Level("NOT_ONE")
