"""Schemas for the stages: looked up in the registry, waited for when it is out of reach.

A record is not bad because the registry is down; it is bad when the registry answers that it has no such schema. This
file does not parse schemas.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from schemas.errors import RegistryUnavailableError, UndecodableError, UnknownSchemaError
from streams.counters import Counters
from streams.ports import Registry

logger = logging.getLogger(__name__)

_PAUSE_S = 1.0

_Answer = TypeVar("_Answer")


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
