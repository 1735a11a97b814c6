"""The table of event types: what the compacted topic `event.types` says of each, in memory.

This file writes nothing.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from typing import Any

from connectors.keyed import KeyedTable
from schemas.event_type import EventType, decode_event_type


class EventTypeTable(KeyedTable[EventType]):
    """Event types by name. The key of a record is the name, its value a framed event_type.v1."""

    def __init__(self, conf: Mapping[str, Any], topic: str) -> None:
        super().__init__(
            conf,
            topic,
            what="event type",
            key="the event type",
            decode=decode_event_type,
            id_of=lambda event_type: event_type.name,
            keep_offsets=True,
        )
        self._names: list[str] = []  # in order

    def after(self, name: str | None) -> Iterator[EventType]:
        """By name, from the one behind this on; while nothing changes the table."""
        start = 0 if name is None else bisect.bisect_right(self._names, name)
        for each in self._names[start:]:
            yield self._by_id[each]

    def _put_or_remove(self, change: EventType | str) -> EventType | None:
        old = super()._put_or_remove(change)
        if isinstance(change, str):
            if old is not None:
                del self._names[bisect.bisect_left(self._names, change)]
        elif old is None:
            bisect.insort(self._names, change.name)
        return old
