"""The table of event types: what the compacted topic `event.types` says of each, in memory.

How the topic is followed is in `connectors/compacted.py`. This file writes nothing.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from typing import Any

from connectors.compacted import Follower
from schemas.errors import UndecodableError
from schemas.event_type import EventType, decode_event_type


class EventTypeTable(Follower[EventType]):
    """Event types by name. For one event loop; `start` once, then `stop`.

    The key of a record is the name, its value a framed event_type.v1; null removes. A record that is neither changes
    nothing, is logged and counted (`bad`).
    """

    def __init__(self, conf: Mapping[str, Any], topic: str) -> None:
        super().__init__(conf, topic, what="event type", decode=_decoded, apply=self._put_or_remove, keep_offsets=True)
        self._types: dict[str, EventType] = {}
        self._names: list[str] = []  # in order

    def get(self, name: str) -> EventType | None:
        """What is said of this type; None for nothing."""
        return self._types.get(name)

    def after(self, name: str | None) -> Iterator[EventType]:
        """By name, from the one behind this on; while nothing changes the table."""
        start = 0 if name is None else bisect.bisect_right(self._names, name)
        for each in self._names[start:]:
            yield self._types[each]

    def __len__(self) -> int:
        return len(self._types)

    def _put_or_remove(self, change: EventType | str) -> EventType | None:
        if isinstance(change, str):
            old = self._types.pop(change, None)
            if old is not None:
                del self._names[bisect.bisect_left(self._names, change)]
            return old
        old = self._types.get(change.name)
        if old is None:
            bisect.insort(self._names, change.name)
        self._types[change.name] = change
        return old


def _decoded(key: bytes | None, value: bytes | None) -> EventType | str:
    """UndecodableError: one of `decode_event_type`, `no_key` or `key_mismatch`."""
    if key is None:
        raise UndecodableError("no_key", "the record has no key; it must be the event type")
    if value is None:
        return key.decode("utf-8", "replace")
    event_type = decode_event_type(value)
    if event_type.name.encode() != key:
        raise UndecodableError("key_mismatch", f"the key is not the event type {event_type.name}")
    return event_type
