"""The table of API keys: the latest record of every key on `api.keys`, in memory.

This file checks no secret (`connectors/api/key_check.py`), and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.compacted import OnProgress
from connectors.keyed import KeyedTable
from schemas.api_key import ApiKey, decode_key


class KeysTable(KeyedTable[ApiKey]):
    """The key of a record is the API key's id, its value a framed api_key.v1. Keys are here whatever their state."""

    def __init__(self, conf: Mapping[str, Any], topic: str, *, on_progress: OnProgress | None = None) -> None:
        super().__init__(
            conf,
            topic,
            what="API key",
            key="the API key's id",
            decode=decode_key,
            id_of=lambda key: key.id,
            on_progress=on_progress,
        )

    def every(self) -> list[ApiKey]:
        """All of them, by id."""
        return [self._by_id[key_id] for key_id in sorted(self._by_id)]
