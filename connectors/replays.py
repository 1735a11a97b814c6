"""The tables of replays: the orders, and how far each has come, in memory.

How the topics are followed is in `connectors/compacted.py`. This file writes nothing and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any

from connectors.keyed import KeyedTable
from schemas.replay import Progress, Replay, decode_progress, decode_replay


class ReplaysTable(KeyedTable[Replay]):
    """The topic `replays`: orders by id, and all of them."""

    def __init__(self, conf: Mapping[str, Any], topic: str) -> None:
        super().__init__(
            conf,
            topic,
            what="replay",
            key="the replay's id",
            decode=decode_replay,
            id_of=attrgetter("id"),
            keep_offsets=True,
        )

    def __iter__(self) -> Iterator[Replay]:
        """All of them, in no order; while nothing changes the table."""
        return iter(self._by_id.values())


class ProgressTable(KeyedTable[Progress]):
    """The topic `replays.progress`: how far replays have come, by id."""

    def __init__(self, conf: Mapping[str, Any], topic: str) -> None:
        super().__init__(
            conf,
            topic,
            what="progress of a replay",
            key="the replay's id",
            decode=decode_progress,
            id_of=attrgetter("id"),
            keep_offsets=True,
        )
