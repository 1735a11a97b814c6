"""Making, changing and removing sources: what the HTTP API and the command line have in common.

Each change goes through the pen, with its audit record in the same transaction. Secrets are sealed here, before
anything is written. This file receives nothing (`connectors/api/receiving.py`) and knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from connectors.pen import Pen
from connectors.providers import providers
from connectors.sources import SourcesTable
from schemas.audit import Asked, audit_out, audit_record
from schemas.errors import InvalidSourceError, UnsealableError
from schemas.frame import Out
from schemas.sealing import key_of
from schemas.source import Source, checked_with, encode_source, source_from_fields

KIND = "source"
#: Sources of one tenant.
SOURCES_MAX = 1_000


class UnknownSourceError(Exception):
    """There is no such source, for whoever asks."""


class SourceConflictError(Exception):
    """The change cannot be made as things are; one sentence with the next step."""


class SourceChangedError(Exception):
    """The source is not the version that the change was meant for."""


class SourceTopics(NamedTuple):
    """Where the records go, and what stands before them (`schemas.codec.wire_header`)."""

    sources: str
    sources_header: bytes
    audit: str
    audit_header: bytes


class Sealer(NamedTuple):
    """`open(text, place)` gives a sealed secret in clear (UnsealableError), `seal(text, place)` the other way round;
    what is in clear stays so where there are no keys. `primary()` is the id of the key that seals, empty for none."""

    open: Callable[[str, str], str]
    seal: Callable[[str, str], str]
    primary: Callable[[], str]


def place(source_id: str) -> str:
    """Where a source's secrets stand, for what seals them: no subscription's place is the same."""
    return f"sources/{source_id}/secrets"


class SourceDesk:
    """Every method takes the change as it was asked for: by whom, and when. InvalidSourceError says what may not be
    asked, and the errors of `Pen.change` pass through."""

    def __init__(self, table: SourcesTable, pen: Pen, topics: SourceTopics, sealer: Sealer) -> None:
        """The table keeps offsets."""
        self.table = table
        self._pen = pen
        self._topics = topics
        self._sealer = sealer

    def find(self, asked: Asked, source_id: str) -> Source:
        """The source. UnknownSourceError, also where it is another tenant's."""
        source = self.table.get(source_id)
        if source is None or not asked.principal.sees(source.tenant):
            raise UnknownSourceError(f"there is no source {source_id}")
        return source

    def version(self, source_id: str) -> int | None:
        """A number that is another one after each change; None for what is not there."""
        return self.table.offset_of(source_id)

    async def put(
        self, asked: Asked, fields: Mapping[str, Any], *, new: bool = False, version: int | None = None
    ) -> tuple[Source, bool]:
        """The source with these fields of its JSON form, and whether it was created.

        Without `secrets`, one that exists keeps its own. With `new`, there must be none of this id; with a `version`,
        it must be of that. SourceConflictError, SourceChangedError; UnknownSourceError when it is another tenant's.
        """
        source_id = str(fields.get("id", ""))
        created = False

        def decide() -> list[Out]:
            nonlocal created
            before = self.table.get(source_id)
            created = before is None
            if new and before is not None:
                raise SourceConflictError(f"there is a source {source_id} already; choose another id")
            self._check_version(source_id, version)
            if before is not None:
                self.find(asked, source_id)
            elif len(self._of(str(fields.get("tenant", "default")))) >= SOURCES_MAX:
                raise SourceConflictError(f"there are {SOURCES_MAX} sources already; delete those that nobody uses")
            after = self.prepared(fields, before, asked.at_ms)
            if not asked.principal.sees(after.tenant):
                raise UnknownSourceError(f"there is no tenant {after.tenant}")
            return self._written(asked, "created" if before is None else "updated", before, after)

        await self._pen.change(decide, about=(KIND, source_id))
        return self.find(asked, source_id), created

    def prepared(self, fields: Mapping[str, Any], before: Source | None, now_ms: int) -> Source:
        """The source to write, sealed. InvalidSourceError."""
        given = dict(fields)
        if before is not None and "secrets" not in given:
            given = {"secrets_expire_ms": before.secrets_expire_ms} | given | {"secrets": before.secrets}
        source = source_from_fields(given)
        where = place(source.id)
        try:
            clear = tuple(self._sealer.open(text, where) for text in source.secrets)
        except UnsealableError as error:
            raise InvalidSourceError(f"secrets: {error}") from None
        checked_with(msgspec.structs.replace(source, secrets=clear), providers())
        kept = before.secrets if before is not None else ()
        secrets = tuple(
            text if text in kept else self._sealer.seal(secret, where)
            for text, secret in zip(source.secrets, clear, strict=True)
        )
        created_ms = before.created_ms if before is not None else now_ms
        return msgspec.structs.replace(source, secrets=secrets, created_ms=created_ms, updated_ms=now_ms)

    async def delete(self, asked: Asked, source_id: str, *, version: int | None = None) -> Source:
        """What it was. UnknownSourceError, SourceChangedError."""
        gone: list[Source] = []

        def decide() -> list[Out]:
            before = self.find(asked, source_id)
            self._check_version(source_id, version)
            gone[:] = [before]
            return self._written(asked, "deleted", before, None)

        await self._pen.change(decide, about=(KIND, source_id))
        return gone[0]

    async def reseal(self, asked: Asked, source_id: str) -> bool:
        """Have all its secrets sealed by the primary key; whether there was anything to do.

        UnknownSourceError, UnsealableError.
        """
        changed = False

        def decide() -> list[Out]:
            nonlocal changed
            before, where, primary = self.find(asked, source_id), place(source_id), self._sealer.primary()
            changed = any(key_of(text) != primary for text in before.secrets)
            if not changed:
                return []
            secrets = tuple(
                text if key_of(text) == primary else self._sealer.seal(self._sealer.open(text, where), where)
                for text in before.secrets
            )
            return self._written(asked, "resealed", before, msgspec.structs.replace(before, secrets=secrets))

        await self._pen.change(decide, about=(KIND, source_id))
        return changed

    def _of(self, tenant: str) -> list[Source]:
        return [each for each in self.table.sources() if each.tenant == tenant]

    def _check_version(self, source_id: str, version: int | None) -> None:
        if version is not None and self.table.offset_of(source_id) != version:
            raise SourceChangedError(f"the source {source_id} has changed meanwhile; look at it, and ask again")

    def _written(self, asked: Asked, action: str, before: Source | None, after: Source | None) -> list[Out]:
        topics = self._topics
        source = after or before
        assert source is not None  # something happens to something
        value = encode_source(topics.sources_header, after) if after is not None else None
        record = audit_record(asked, action, KIND, source.id, source.tenant, before, after)
        return [
            (topics.sources, source.id.encode(), value, -1, None),
            audit_out(topics.audit, topics.audit_header, record),
        ]
