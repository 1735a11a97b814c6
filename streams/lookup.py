"""Schemas for the stages: looked up in the registry, waited for when it is out of reach.

A record is not bad because the registry is down; it is bad when the registry answers that it has no such schema. What
a schema's text is made into is the caller's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from schemas.errors import RegistryUnavailableError, UndecodableError, UnknownSchemaError
from streams.counters import Counters
from streams.ports import Registry

logger = logging.getLogger(__name__)

_PAUSE_S = 1.0

#: As many schemas as a topic may have had, and more.
DECODERS_MAX = 10_000

_Answer = TypeVar("_Answer")
_Decoder = TypeVar("_Decoder")


async def schema_text(registry: Registry, schema_id: int, counters: Counters) -> str:
    """The schema's text. UndecodableError `unknown_schema` when the registry has none of this id."""
    try:
        return await answered(lambda: registry.schema(schema_id), counters)
    except UnknownSchemaError:
        raise UndecodableError("unknown_schema", f"the registry has no schema of id {schema_id}") from None


async def answered(ask: Callable[[], Awaitable[_Answer]], counters: Counters) -> _Answer:
    """What the registry answers, however long it is out of reach."""
    while True:
        try:
            return await ask()
        except RegistryUnavailableError as error:
            counters["registry_waits"] += 1
            logger.warning("waiting for the schema registry: %s", error)
            await asyncio.sleep(_PAUSE_S)


class Decoders(Generic[_Decoder]):
    """What `make` makes of the text of a schema (ValueError when it cannot), once for each id."""

    def __init__(self, registry: Registry, counters: Counters, make: Callable[[str], _Decoder]) -> None:
        self._registry = registry
        self._counters = counters
        self._make = make
        self._made: dict[int, _Decoder] = {}

    async def of(self, schema_id: int) -> _Decoder:
        """That of this id. UndecodableError `unknown_schema` or `bad_schema`."""
        made = self._made.get(schema_id)
        if made is not None:
            return made
        text = await schema_text(self._registry, schema_id, self._counters)
        try:
            made = self._make(text)
        except ValueError as error:
            raise UndecodableError("bad_schema", f"the schema of id {schema_id} cannot be read: {error}") from None
        if len(self._made) >= DECODERS_MAX:
            self._made.clear()
        self._made[schema_id] = made
        return made
