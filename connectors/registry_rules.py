"""What may be written to a schema registry, and which records come of it: Confluent's rules, on a `State`.

Each function answers with the changes to write, in order, and with what the caller is told; or refuses with Confluent's
code. This file writes nothing: `connectors/registry_topic.py` does, when nobody else can.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from connectors.registry_log import Change, Key, highest_id, schema_change
from connectors.registry_state import Entry, State
from schemas import codec
from schemas.compatibility import Level, incompatibilities
from schemas.references import Reference, Referring, put_together

T = TypeVar("T")

#: Confluent's codes; the first three digits are the HTTP status.
NO_SUBJECT, NO_VERSION, NO_SCHEMA = 40401, 40402, 40403
SUBJECT_DELETED, SUBJECT_NOT_DELETED, VERSION_DELETED, VERSION_NOT_DELETED = 40404, 40405, 40406, 40407
NO_OWN_LEVEL, NO_OWN_MODE = 40408, 40409
INCOMPATIBLE = 409
BAD_SCHEMA, BAD_VERSION, BAD_LEVEL, NOT_PERMITTED, REFERRED_TO, BAD_SUBJECT, TOO_LARGE = (
    42201,
    42202,
    42203,
    42205,
    42206,
    42208,
    42209,
)
STORE_FAILED, TIMED_OUT = 50001, 50002

SCHEMA_BYTES_MAX = 1 << 20
SUBJECT_CHARS_MAX = 1_000
#: Versions in all; what a registry holds is held in memory.
ENTRIES_MAX = 100_000


class RefusedError(Exception):
    """An answer with an error document: the code, and a sentence."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Asked(msgspec.Struct):
    """The body that registers, looks up or checks a schema; other fields belong to features that are not here."""

    schema: str
    schemaType: str = "AVRO"  # noqa: N815 - the API's spelling
    references: tuple[Reference, ...] | None = None


class Decision(NamedTuple, Generic[T]):
    """What to write, and what to answer once it is written."""

    changes: Sequence[Change]
    answer: T


def register(state: State, subject: str, asked: Asked) -> Decision[Entry]:
    """The schema as the subject's next version, unless the subject has it: then that version, and nothing to write."""
    references = asked.references or ()
    text = checked(state, asked)
    if held := state.find(subject, asked.schema, references):
        return Decision((), held)
    _require_writable(state, subject)
    if not subject or len(subject) > SUBJECT_CHARS_MAX or not subject.isprintable():
        raise RefusedError(BAD_SUBJECT, f"a subject has 1 to {SUBJECT_CHARS_MAX} printable characters")
    if len(state) >= ENTRIES_MAX:
        raise RefusedError(NOT_PERMITTED, f"there are {ENTRIES_MAX} versions already; delete some permanently")
    if problems := _problems(state, subject, text, [entry.version for entry in state.versions(subject)]):
        raise RefusedError(
            INCOMPATIBLE,
            f"the schema is incompatible with an earlier one of the subject {subject!r} "
            f"(level {state.level(subject)}): {'; '.join(problems)}",
        )
    version = max((entry.version for entry in state.versions(subject, deleted=True)), default=0) + 1
    schema_id = state.id_of(asked.schema, references) or state.id_max + 1
    entry = Entry(subject, version, schema_id, asked.schema, references=references)
    return Decision((schema_change(entry),), entry)


def look_up(state: State, subject: str, asked: Asked, *, deleted: bool) -> Entry:
    """The version of the subject that has this schema."""
    checked(state, asked)
    existing(state, subject, deleted=deleted)
    found = state.find(subject, asked.schema, asked.references or (), deleted=deleted)
    if found is None:
        raise RefusedError(NO_SCHEMA, "Schema not found")
    return found


def compatible(state: State, subject: str, asked: Asked, version: str | None) -> list[str]:
    """Why the schema is incompatible with that version of the subject, or with all that its level asks for; empty: it
    is not. As Confluent's, a subject that is not known, or its `latest`, has nothing to be incompatible with."""
    text = checked(state, asked)
    if version is None:
        return _problems(state, subject, text, [entry.version for entry in state.versions(subject)])
    number = version_number(version)
    entry = state.newest(subject) if number == -1 else state.entry(subject, number)
    if entry is None and number != -1:
        raise RefusedError(NO_VERSION, f"Version {version} not found")
    return _problems(state, subject, text, [entry.version] if entry else [])


def delete_version(state: State, subject: str, version: str, *, permanent: bool) -> Decision[int]:
    """Delete one version: softly, or for good after that."""
    number = version_number(version)
    known = existing(state, subject, deleted=True)
    if number == -1:
        newest = state.newest(subject) or (known[-1] if permanent else None)
        if newest is None:
            raise RefusedError(NO_SUBJECT, f"Subject '{subject}' not found")
        number = newest.version
    entry = state.entry(subject, number, deleted=True)
    if entry is None:
        raise RefusedError(NO_VERSION, f"Version {number} not found")
    if entry.deleted and not permanent:
        raise RefusedError(
            VERSION_DELETED, f"Subject '{subject}' Version {number} was soft deleted; set permanent=true"
        )
    if not entry.deleted and permanent:
        raise RefusedError(VERSION_NOT_DELETED, f"Subject '{subject}' Version {number} was not deleted softly first")
    _require_writable(state, subject)
    _require_unreferred(state, [entry], permanent=permanent)
    if not permanent:
        return Decision((schema_change(msgspec.structs.replace(entry, deleted=True)),), number)
    changes = _gone(state, [entry])
    if len(known) == 1:
        changes += _settings_gone(state, subject)
    return Decision(changes, number)


def delete_subject(state: State, subject: str, *, permanent: bool) -> Decision[list[int]]:
    """Delete all versions: softly, or for good after that; with the subject's settings then."""
    known = existing(state, subject, deleted=True)
    alive = state.versions(subject)
    if not permanent and not alive:
        raise RefusedError(SUBJECT_DELETED, f"Subject '{subject}' was soft deleted; set permanent=true")
    if permanent and alive:
        raise RefusedError(SUBJECT_NOT_DELETED, f"Subject '{subject}' was not deleted softly first")
    _require_writable(state, subject)
    _require_unreferred(state, known if permanent else alive, permanent=permanent)
    if not permanent:
        numbers = [entry.version for entry in alive]
        return Decision(((Key("DELETE_SUBJECT", subject), {"subject": subject, "version": numbers[-1]}),), numbers)
    # From the newest down: a version may refer to an earlier one of its subject.
    return Decision(_gone(state, known[::-1]) + _settings_gone(state, subject), [entry.version for entry in known])


def set_level(state: State, subject: str | None, level: str) -> Decision[str]:
    """Set the compatibility level of a subject, or of all; other settings stay."""
    if level not in Level.__members__:
        raise RefusedError(BAD_LEVEL, f"Invalid compatibility level; it is one of {', '.join(Level)}")
    value: dict[str, Any] = {} if subject is None else {"subject": subject}
    value |= {**state.configs.get(subject, {}), "compatibilityLevel": level}
    return Decision(((Key("CONFIG", subject), value),), level)


def clear_level(state: State, subject: str | None) -> Decision[str]:
    """Back to what holds for all, or to the default; answers what was in force."""
    if subject is not None and subject not in state.configs:
        raise RefusedError(NO_SUBJECT, f"Subject '{subject}' not found")
    return Decision(((Key("CONFIG", subject), None),), state.level(subject))


# --- what they share --------------------------------------------------------------------------------------------------


def existing(state: State, subject: str, *, deleted: bool = False) -> list[Entry]:
    """The versions of a subject, at least one."""
    entries = state.versions(subject, deleted=deleted)
    if not entries:
        raise RefusedError(NO_SUBJECT, f"Subject '{subject}' not found")
    return entries


def version_number(given: str) -> int:
    """The number of a version in a path, -1 for the newest."""
    if given in ("latest", "-1"):
        return -1
    if not (given.isascii() and given.isdecimal() and 0 < int(given[:10]) < 1 << 31):
        raise RefusedError(BAD_VERSION, f"The specified version '{given}' is not a valid version id")
    return int(given)


def checked(state: State, asked: Asked) -> str:
    """The schema's text with what it refers to in it, once it is known to be one."""
    if asked.schemaType != "AVRO":
        raise RefusedError(BAD_SCHEMA, f"schemas of type {asked.schemaType} are not supported, only AVRO")
    if len(asked.schema) > SCHEMA_BYTES_MAX or len(asked.schema.encode()) > SCHEMA_BYTES_MAX:
        raise RefusedError(TOO_LARGE, f"the schema is larger than {SCHEMA_BYTES_MAX} bytes")
    try:
        text = _together(state, asked.schema, asked.references or ())
        codec.parse_schema(text)
    except ValueError as error:
        raise RefusedError(BAD_SCHEMA, str(error)) from None
    return text


def _together(state: State, schema: str, references: Sequence[Reference]) -> str:
    def fetch(reference: Reference) -> Referring:
        entry = state.entry(reference.subject, reference.version, deleted=True)
        if entry is None:
            raise ValueError(f"it refers to version {reference.version} of {reference.subject}, which does not exist")
        return entry.schema, entry.references

    return put_together(schema, references, fetch)


def _problems(state: State, subject: str, text: str, versions: Sequence[int]) -> list[str]:
    """Why the schema and those versions are incompatible at the subject's level."""
    earlier = [
        entry for version in versions if (entry := state.entry(subject, version)) is not None and entry.type == "AVRO"
    ]
    try:
        level = Level(state.level(subject))
        texts = [_together(state, entry.schema, entry.references) for entry in earlier]
    except ValueError as error:  # of a foreign record: a level of the future, a reference to what was deleted
        raise RefusedError(NOT_PERMITTED, f"nothing can be said of the subject {subject}: {error}") from None
    return [
        f"version {earlier[reason.against].version}: "
        f"{'the new one cannot read what it wrote' if reason.backward else 'it cannot read what the new one writes'}: "
        f"{reason.problem.path}: {reason.problem.sentence}"
        for reason in incompatibilities(level, text, texts)
    ]


def _require_writable(state: State, subject: str) -> None:
    if (mode := state.mode(subject)) != "READWRITE":
        raise RefusedError(NOT_PERMITTED, f"Subject {subject} is in mode {mode}; only READWRITE may be written")


def _require_unreferred(state: State, entries: Sequence[Entry], *, permanent: bool) -> None:
    """None of them is referred to from outside of them."""
    together = {(entry.subject, entry.version) for entry in entries}
    for entry in entries:
        for other in state.referring(entry.subject, entry.version, deleted=permanent):
            if (other.subject, other.version) not in together:
                raise RefusedError(
                    REFERRED_TO,
                    f"One or more references exist to version {entry.version} of {entry.subject}, "
                    f"from version {other.version} of {other.subject}",
                )


def _gone(state: State, entries: Sequence[Entry]) -> list[Change]:
    changes: list[Change] = [(Key("SCHEMA", entry.subject, entry.version), None) for entry in entries]
    if any(entry.id == state.id_max for entry in entries):
        # Compaction will forget it, and events with that id are still on topics: nothing else may get it.
        changes.insert(0, highest_id(state.id_max))
    return changes


def _settings_gone(state: State, subject: str) -> list[Change]:
    changes: list[Change] = []
    if subject in state.configs:
        changes.append((Key("CONFIG", subject), None))
    if subject in state.modes:
        changes.append((Key("MODE", subject), None))
    return changes
