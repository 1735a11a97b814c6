"""What a schema registry holds: versions of subjects, ids, compatibility levels. Plain memory, no I/O.

A folder (`connectors/registry_folder.py`) and a topic (`connectors/registry_topic.py`) fill it; the REST API reads it
(`connectors/registry_rest.py`). What may be written is decided in `connectors/registry_rules.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from schemas import codec
from schemas.references import Reference

#: What a registry that says nothing checks.
DEFAULT_LEVEL = "BACKWARD"


class Entry(msgspec.Struct, frozen=True):
    """One version of one subject. `schema` is the text as it was given, `deleted` the soft kind.

    `more` are fields of the record on the topic that are not ours; they are kept when it is written again.
    """

    subject: str
    version: int
    id: int
    schema: str
    type: str = "AVRO"
    references: tuple[Reference, ...] = ()
    deleted: bool = False
    more: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        """The full name of the record, or nothing when it is no record."""
        return record_name(self.schema)


def record_name(schema: str) -> str:
    """The full name that a schema's text declares; nothing for a text that names none."""
    try:
        tree = msgspec.json.decode(schema)
    except msgspec.DecodeError:
        return ""
    if not isinstance(tree, dict) or not isinstance(name := tree.get("name", ""), str):
        return ""
    namespace = tree.get("namespace")
    return f"{namespace}.{name}" if namespace and "." not in name else name


def _identity(schema: str, references: Iterable[Reference]) -> bytes:
    """Equal for schemas that are one to us: `codec.canonical`, and the same references."""
    try:
        text = codec.canonical(schema)
    except ValueError:  # in another language than JSON
        text = schema.encode()
    return hashlib.sha256(text + b"\0" + msgspec.json.encode(sorted(references))).digest()


class State:
    """All entries and settings. `level` is the compatibility level where none is set."""

    def __init__(self, level: str = DEFAULT_LEVEL) -> None:
        #: Settings by subject, as they stand in the record; under None those of all.
        self.configs: dict[str | None, Mapping[str, Any]] = {}
        self.modes: dict[str | None, str] = {}
        self.id_max = 0
        self._level = level
        self._subjects: dict[str, dict[int, Entry]] = {}
        self._by_id: dict[int, set[tuple[str, int]]] = {}
        self._ids: dict[bytes, int] = {}

    # --- changing -----------------------------------------------------------------------------------------------------

    def put(self, entry: Entry) -> None:
        """Add a version, or replace it."""
        self.remove(entry.subject, entry.version)
        self._subjects.setdefault(entry.subject, {})[entry.version] = entry
        self._by_id.setdefault(entry.id, set()).add((entry.subject, entry.version))
        self._ids.setdefault(_identity(entry.schema, entry.references), entry.id)
        self.id_max = max(self.id_max, entry.id)

    def remove(self, subject: str, version: int) -> None:
        """Forget a version; nothing happens when there is none."""
        entry = self._subjects.get(subject, {}).pop(version, None)
        if entry is None:
            return
        if not self._subjects[subject]:
            del self._subjects[subject]
        holders = self._by_id[entry.id]
        holders.discard((subject, version))
        if not holders:
            del self._by_id[entry.id]
            identity = _identity(entry.schema, entry.references)
            if self._ids.get(identity) == entry.id:
                del self._ids[identity]

    # --- asking -------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return sum(len(versions) for versions in self._subjects.values())

    def entries(self) -> Iterator[Entry]:
        """All that are not deleted, by subject and version."""
        for subject in self.subjects():
            yield from self.versions(subject)

    def subjects(self, *, deleted: bool = False) -> list[str]:
        """The subjects that have a version, in order; `deleted` counts softly deleted ones."""
        return sorted(name for name in self._subjects if self.versions(name, deleted=deleted))

    def versions(self, subject: str, *, deleted: bool = False) -> list[Entry]:
        """The versions of a subject, ascending; empty when it is not known."""
        held = self._subjects.get(subject, {})
        return [held[version] for version in sorted(held) if deleted or not held[version].deleted]

    def entry(self, subject: str, version: int, *, deleted: bool = False) -> Entry | None:
        """That version."""
        found = self._subjects.get(subject, {}).get(version)
        return None if found is None or (found.deleted and not deleted) else found

    def newest(self, subject: str) -> Entry | None:
        """The newest version that is not deleted."""
        return next(reversed(self.versions(subject)), None)

    def by_id(self, schema_id: int) -> list[Entry]:
        """Every version with this id, softly deleted ones too, by subject and version."""
        return [self._subjects[name][version] for name, version in sorted(self._by_id.get(schema_id, ()))]

    def id_of(self, schema: str, references: Iterable[Reference] = ()) -> int | None:
        """The id of a schema that any subject holds."""
        return self._ids.get(_identity(schema, references))

    def find(
        self, subject: str, schema: str, references: Iterable[Reference] = (), *, deleted: bool = False
    ) -> Entry | None:
        """The newest version of the subject with this schema."""
        identity = _identity(schema, references)
        schema_id = self._ids.get(identity)
        for entry in reversed(self.versions(subject, deleted=deleted)):
            if entry.id == schema_id or _identity(entry.schema, entry.references) == identity:
                return entry
        return None

    def referring(self, subject: str, version: int, *, deleted: bool = False) -> list[Entry]:
        """The entries that refer to that version."""
        return [
            entry
            for name in self.subjects(deleted=deleted)
            for entry in self.versions(name, deleted=deleted)
            if any((one.subject, one.version) == (subject, version) for one in entry.references)
        ]

    def level(self, subject: str | None) -> str:
        """The compatibility level that is in force."""
        for scope in (subject, None):
            if level := self.configs.get(scope, {}).get("compatibilityLevel"):
                return str(level)
        return self._level

    def mode(self, subject: str | None) -> str:
        """READWRITE, unless a registry that had this topic before was told otherwise."""
        return self.modes.get(subject) or self.modes.get(None) or "READWRITE"
