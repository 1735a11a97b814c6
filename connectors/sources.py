"""The table of sources: the latest record of every source on `sources`, in memory.

This file verifies no request (`connectors/api/receiving.py` does), and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.compacted import OnProgress
from connectors.keyed import KeyedTable
from schemas.source import Source, decode_source


class SourcesTable(KeyedTable[Source]):
    """The key of a record is the source's id, its value a framed source.v1."""

    def __init__(self, conf: Mapping[str, Any], topic: str, *, on_progress: OnProgress | None = None) -> None:
        super().__init__(
            conf,
            topic,
            what="source",
            key="the source's id",
            decode=decode_source,
            id_of=lambda source: source.id,
            on_progress=on_progress,
            keep_offsets=True,
        )

    def sources(self) -> list[Source]:
        """All of them, by tenant and id."""
        return sorted(self._by_id.values(), key=lambda source: (source.tenant, source.id))
