"""Whether events are of a known type, and their data is what the type's schema says.

The schema is the newest version of the subject that the event type names, as the registry answers. This file keeps no
event types (`connectors/event_types.py`) and encodes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from connectors.api.problems import ProblemError
from schemas.errors import UnknownSchemaError
from schemas.event import EventDecoder, event_decoder
from schemas.event_type import EventType
from schemas.json_check import JsonCheck
from schemas.subjects import LATEST, Version

#: Schemas that are kept prepared.
SCHEMAS_MAX = 1_000


class Types(Protocol):
    """The event types that there are."""

    def get(self, name: str) -> EventType | None: ...


class Registry(Protocol):
    """Of the port `streams.ports.Registry`."""

    async def schema(self, schema_id: int) -> str: ...

    async def version(self, subject: str, number: int) -> Version: ...

    async def versions_of(self, schema_id: int) -> Iterable[tuple[str, int]]: ...


class EventChecks:
    """For one event loop. With `strict`, an event type that nobody has described is refused."""

    def __init__(self, types: Types, registry: Registry, *, strict: bool) -> None:
        self._types = types
        self._registry = registry
        self._strict = strict
        self._checks: dict[int, JsonCheck] = {}
        self._decoders: dict[int, EventDecoder] = {}

    def unknown(self, names: Iterable[str]) -> set[str]:
        """Those that are refused because nobody has described them."""
        return {name for name in names if self._types.get(name) is None} if self._strict else set()

    async def of(self, names: Iterable[str]) -> dict[str, JsonCheck]:
        """The check of each type whose data must fit a schema. RegistryUnavailableError, ProblemError 422."""
        found: dict[str, JsonCheck] = {}
        for name in names:
            described = self._types.get(name)
            if described is None or not described.schema:
                continue
            try:
                version = await self._registry.version(described.schema, LATEST)
            except UnknownSchemaError as error:
                raise ProblemError(422, f"events of {name} cannot be checked: {error}") from None
            check = self._checks.get(version.id)
            if check is None:
                if len(self._checks) >= SCHEMAS_MAX:
                    self._checks.clear()
                check = self._checks[version.id] = JsonCheck(version.text)
            found[name] = check
        return found

    async def decoder(self, schema_id: int) -> EventDecoder:
        """Of what was written with this schema. ProblemError 422 for an unknown id."""
        found = self._decoders.get(schema_id)
        if found is None:
            try:
                found = event_decoder(await self._registry.schema(schema_id))
            except UnknownSchemaError as error:
                raise ProblemError(422, f"{error}; register it first") from None
            except ValueError as error:
                raise ProblemError(422, f"the schema {schema_id} cannot be used: {error}") from None
            if len(self._decoders) >= SCHEMAS_MAX:
                self._decoders.clear()
            self._decoders[schema_id] = found
        return found

    async def fits(self, schema_id: int, name: str) -> None:
        """ProblemError 422 when events of this type may not be written with this schema."""
        described = self._types.get(name)
        if described is not None and described.schema:
            subjects = {subject for subject, _ in await self._registry.versions_of(schema_id)}
            if described.schema not in subjects:
                sentence = f"the schema {schema_id} is no version of {described.schema}, which events of {name} need"
                raise ProblemError(422, sentence)
