"""What commands that change the control plane have in common: the pen, and who asks, for the audit trail.

This file does not say what is changed (`editing.py`, and the desks of keys and sources do).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from connectors.admin import require_topics
from connectors.clock import SystemClock
from connectors.compacted import Follower
from connectors.pen import Pen
from schemas.access import SCOPES, Principal
from schemas.audit import Asked
from streams.cli.options import actor, open_registry
from streams.settings import Settings
from streams.wiring import OwnSchemas, client_config, control_pen, register_own_schemas

TableT = TypeVar("TableT", bound=Follower[Any])


def asking() -> Asked:
    """This command, now."""
    principal = Principal(actor=actor(), tenant=None, scopes=frozenset(SCOPES))
    return Asked(principal=principal, at_ms=SystemClock().now_ms())


@asynccontextmanager
async def writing(settings: Settings, table: Follower[Any]) -> AsyncIterator[tuple[Pen, Asked]]:
    """The pen, for changes that are decided on this table, and this command as who asks."""
    pen = control_pen(settings, [table])
    try:
        await pen.start()
        yield pen, asking()
    finally:
        await pen.close()


@asynccontextmanager
async def open_table(
    settings: Settings, topic: str, make: Callable[[Mapping[str, Any], str], TableT]
) -> AsyncIterator[tuple[TableT, OwnSchemas, Pen, Asked]]:
    """One kind of thing: its table, caught up, the registry's ids of our schemas, and what `writing` gives."""
    config = client_config(settings)
    await require_topics(config, [topic, settings.topics.audit])
    async with open_registry(settings) as registry:
        own = await register_own_schemas(registry, settings.topics)
    table = make(config, topic)
    await table.start()
    try:
        async with writing(settings, table) as (pen, asked):
            yield table, own, pen, asked
    finally:
        await table.stop()
