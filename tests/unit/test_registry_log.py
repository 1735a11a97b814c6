"""The records of `_schemas`: bytes as Confluent's registry has them, and what a sequence of them comes to."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.registry_log import (
    BadRecordError,
    Change,
    Key,
    apply,
    decode,
    encode_key,
    encode_value,
    highest_id,
    schema_change,
)
from connectors.registry_state import Entry, State
from schemas.references import Reference

TEXT = '{"type":"string"}'


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (Key("SCHEMA", "orders-value", 3), '{"keytype":"SCHEMA","subject":"orders-value","version":3,"magic":1}'),
        (Key("SCHEMA", "ä", 1), '{"keytype":"SCHEMA","subject":"ä","version":1,"magic":1}'),
        (Key("CONFIG", "orders-value"), '{"keytype":"CONFIG","subject":"orders-value","magic":0}'),
        (Key("CONFIG"), '{"keytype":"CONFIG","magic":0}'),
        (Key("DELETE_SUBJECT", "s"), '{"keytype":"DELETE_SUBJECT","subject":"s","magic":0}'),
        (Key("NOOP"), '{"keytype":"NOOP","magic":0}'),
    ],
)
def test_keys_are_the_bytes_that_compaction_compares(key: Key, text: str) -> None:
    assert encode_key(key) == text.encode()
    assert decode(text.encode(), None) == (key, None)


def test_a_version_is_written_as_the_format_has_it() -> None:
    plain = Entry("s", 1, 7, TEXT)
    assert encode_value(schema_change(plain)[1]) == (
        b'{"subject":"s","version":1,"id":7,"schema":"{\\"type\\":\\"string\\"}","deleted":false}'
    )
    full = Entry("s", 2, 8, "{}", "JSON", (Reference("N", "other", 3),), True, {"metadata": {"tags": {}}})
    assert encode_value(schema_change(full)[1]) == (
        b'{"subject":"s","version":2,"id":8,"schemaType":"JSON",'
        b'"references":[{"name":"N","subject":"other","version":3}],'
        b'"metadata":{"tags":{}},"schema":"{}","deleted":true}'
    )


def test_what_is_written_is_read_as_it_was() -> None:
    entry = Entry("s", 2, 8, "{}", "JSON", (Reference("N", "other", 3),), True, {"metadata": {"tags": {}}})
    state = State()
    key, value = schema_change(entry)
    change = decode(encode_key(key), encode_value(value))
    assert change is not None
    apply(state, change)
    assert state.by_id(8) == [entry]


@pytest.mark.parametrize(
    "key",
    [
        None,
        b"",
        b"\x00\x01",
        b"[]",
        b"{}",
        b'{"keytype":"SCHEMA","magic":1,"version":1}',
        b'{"keytype":"SCHEMA","magic":1,"subject":7,"version":1}',
        b'{"keytype":"SCHEMA","magic":1,"subject":"s","version":"x"}',
    ],
)
def test_a_record_of_something_else_is_said_to_be_bad(key: bytes | None) -> None:
    with pytest.raises(BadRecordError, match="record"):
        decode(key, b"{}")


@pytest.mark.parametrize(
    "value", [b"", b"[]", b"{}", b'{"subject":"s","version":1,"id":"x","schema":"","deleted":false}']
)
def test_a_bad_value_is_said_to_be_bad(value: bytes) -> None:
    with pytest.raises(BadRecordError):
        decode(encode_key(Key("SCHEMA", "s", 1)), value)


def test_kinds_of_the_future_say_nothing() -> None:
    assert decode(b'{"keytype":"CONTEXT","tenant":"default","context":".x","magic":0}', b"{}") is None


def played(*changes: Change) -> State:
    state = State()
    for change in changes:
        apply(state, change)
    return state


def schema(subject: str, version: int, schema_id: int, **fields: Any) -> Change:
    value = {
        "subject": subject,
        "version": version,
        "id": schema_id,
        "schema": f'"{"string" if schema_id % 2 else "long"}"',
    }
    return Key("SCHEMA", subject, version), value | {"deleted": False} | fields


def test_a_subject_is_deleted_softly_up_to_a_version() -> None:
    state = played(
        schema("s", 1, 1),
        schema("s", 2, 2),
        (Key("DELETE_SUBJECT", "s"), {"subject": "s", "version": 2}),
        schema("s", 3, 3),
    )
    assert [entry.version for entry in state.versions("s")] == [3]
    assert [entry.deleted for entry in state.versions("s", deleted=True)] == [True, True, False]
    assert [entry.version for entry in state.by_id(1)] == [1]


def test_null_removes_for_good_and_ids_go_on() -> None:
    state = played(schema("s", 1, 4, deleted=True), (Key("SCHEMA", "s", 1), None), (Key("SCHEMA", "t", 9), None))
    assert (len(state), state.by_id(4), state.subjects(deleted=True), state.id_max) == (0, [], [], 4)
    assert played(highest_id(17)).id_max == 17
    assert played((Key("NOOP"), None)).id_max == 0


def test_a_cleared_subject_is_gone() -> None:
    assert len(played(schema("s", 1, 1), (Key("CLEAR_SUBJECT", "s"), {"subject": "s"}))) == 0


def test_settings_of_a_subject_and_of_all() -> None:
    state = played(
        (Key("CONFIG"), {"compatibilityLevel": "FULL"}),
        (Key("CONFIG", "s"), {"subject": "s", "compatibilityLevel": "NONE"}),
        (Key("MODE", "s"), {"mode": "READONLY"}),
    )
    assert [state.level(subject) for subject in ("s", "t", None)] == ["NONE", "FULL", "FULL"]
    assert [state.mode(subject) for subject in ("s", "t", None)] == ["READONLY", "READWRITE", "READWRITE"]
    apply(state, (Key("CONFIG", "s"), None))
    apply(state, (Key("CONFIG"), None))
    apply(state, (Key("MODE", "s"), None))
    assert (state.level("s"), state.mode("s")) == ("BACKWARD", "READWRITE")


def test_one_schema_has_one_id_as_long_as_anybody_holds_it() -> None:
    state = played(schema("s", 1, 1), schema("t", 1, 1))
    assert state.id_of('"string"') == 1
    apply(state, (Key("SCHEMA", "s", 1), None))
    assert state.id_of(' "string"') == 1
    apply(state, (Key("SCHEMA", "t", 1), None))
    assert state.id_of('"string"') is None
