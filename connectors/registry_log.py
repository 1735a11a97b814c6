"""The records of a `_schemas` topic, in the format of Confluent's registry: read into a `State`, and written.

Keys and values are JSON. A key has the fields `keytype`, `subject`, `version` and `magic`, in this order, since
compaction compares bytes. SCHEMA holds a version, DELETE_SUBJECT deletes softly up to a version, CONFIG and MODE hold
settings of a subject or, without one, of all; null removes. NOOP says nothing; other kinds (contexts, associations) are
left alone. This file reads no topic and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from connectors.registry_state import Entry, State
from schemas.references import Reference

#: The version of each kind's key format.
_MAGIC = {"SCHEMA": 1, "CONFIG": 0, "MODE": 0, "DELETE_SUBJECT": 0, "CLEAR_SUBJECT": 0, "NOOP": 0}
#: The highest id ever given, in the value of our NOOP records; Confluent's registry does not read that value.
_ID_MAX = "distributary.id_max"


class Key(NamedTuple):
    """What a record is about; `version` is 0 and `subject` None where the kind has none."""

    kind: str
    subject: str | None = None
    version: int = 0


#: A record: its value is None where it removes what the key stands for.
Change = tuple[Key, Mapping[str, Any] | None]


class _Schema(msgspec.Struct):
    """The value of a SCHEMA record."""

    subject: str
    version: int
    id: int
    schema: str
    schemaType: str | None = None  # noqa: N815 - the format's spelling
    references: tuple[Reference, ...] | None = None
    deleted: bool = False


_OURS = frozenset(_Schema.__struct_fields__)


class BadRecordError(ValueError):
    """A record that is none of this format; one sentence."""


def encode_key(key: Key) -> bytes:
    """The key's bytes, as Confluent's registry writes them."""
    fields: dict[str, object] = {"keytype": key.kind}
    if key.subject is not None:
        fields["subject"] = key.subject
    if key.version:
        fields["version"] = key.version
    return msgspec.json.encode(fields | {"magic": _MAGIC[key.kind]})


def encode_value(value: Mapping[str, Any] | None) -> bytes | None:
    """The value's bytes."""
    return None if value is None else msgspec.json.encode(value)


def decode(key: bytes | None, value: bytes | None) -> Change | None:
    """What a record says; None when it says nothing to us. BadRecordError."""
    try:
        fields = msgspec.json.decode(key or b"")
        kind = fields["keytype"]
        if kind not in _MAGIC:
            return None
        named = Key(
            kind, msgspec.convert(fields.get("subject"), str | None), msgspec.convert(fields.get("version", 0), int)
        )
        held = msgspec.json.decode(value, type=dict[str, Any]) if value is not None else None
        if kind == "SCHEMA" and held is not None:
            msgspec.convert(held, _Schema)
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError) as error:
        raise BadRecordError(f"it is no record of a schema registry ({error})") from None
    if kind in ("SCHEMA", "DELETE_SUBJECT", "CLEAR_SUBJECT") and named.subject is None:
        raise BadRecordError(f"a {kind} record without a subject")
    return named, held


def schema_change(entry: Entry) -> Change:
    """The record that holds this version."""
    value: dict[str, Any] = {"subject": entry.subject, "version": entry.version, "id": entry.id}
    if entry.type != "AVRO":
        value["schemaType"] = entry.type
    if entry.references:
        value["references"] = entry.references
    value |= entry.more
    return Key("SCHEMA", entry.subject, entry.version), value | {"schema": entry.schema, "deleted": entry.deleted}


def highest_id(schema_id: int) -> Change:
    """A NOOP that remembers the highest id after its schema is gone."""
    return Key("NOOP"), {_ID_MAX: schema_id}


def apply(state: State, change: Change) -> None:
    """Take a record in, in the order of the topic."""
    (kind, subject, version), value = change
    match kind:
        case "SCHEMA":
            assert subject is not None
            if value is None:
                state.remove(subject, version)
            else:
                state.put(_entry(subject, version, value))
        case "DELETE_SUBJECT" | "CLEAR_SUBJECT" if value is not None:
            assert subject is not None
            for entry in state.versions(subject, deleted=True):
                if kind == "CLEAR_SUBJECT":
                    state.remove(subject, entry.version)
                elif entry.version <= value.get("version", 0) and not entry.deleted:
                    state.put(msgspec.structs.replace(entry, deleted=True))
        case "CONFIG" if value is not None:
            state.configs[subject] = value
        case "CONFIG":
            state.configs.pop(subject, None)
        case "MODE" if value is not None:
            state.modes[subject] = str(value.get("mode", "READWRITE"))
        case "MODE":
            state.modes.pop(subject, None)
        case "NOOP" if value is not None and isinstance(value.get(_ID_MAX), int):
            state.id_max = max(state.id_max, value[_ID_MAX])


def _entry(subject: str, version: int, value: Mapping[str, Any]) -> Entry:
    read = msgspec.convert(value, _Schema)
    return Entry(
        subject,
        version,
        read.id,
        read.schema,
        read.schemaType or "AVRO",
        read.references or (),
        read.deleted,
        {name: field for name, field in value.items() if name not in _OURS},
    )
