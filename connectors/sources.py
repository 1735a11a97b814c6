"""The table of sources: the latest record of every source on `sources`, in memory.

How the topic is followed is in `connectors/compacted.py`. This file verifies no request (`connectors/api/receiving.py`
does), and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.compacted import Follower, OnProgress
from schemas.errors import UndecodableError
from schemas.source import Source, decode_source


class SourcesTable(Follower[Source]):
    """For one event loop; `start` once, then `stop`.

    The key of a record is the source's id, its value a framed source.v1; null removes. A record that is neither changes
    nothing, is logged and counted (`bad`).
    """

    def __init__(self, conf: Mapping[str, Any], topic: str, *, on_progress: OnProgress | None = None) -> None:
        super().__init__(
            conf,
            topic,
            what="source",
            decode=_decoded,
            apply=self._put_or_remove,
            on_progress=on_progress,
            keep_offsets=True,
        )
        self._sources: dict[str, Source] = {}

    def get(self, source_id: str) -> Source | None:
        """The source of this id. The same object until its record changes."""
        return self._sources.get(source_id)

    def sources(self) -> list[Source]:
        """All of them, by tenant and id."""
        return sorted(self._sources.values(), key=lambda source: (source.tenant, source.id))

    def __len__(self) -> int:
        return len(self._sources)

    def _put_or_remove(self, change: Source | str) -> Source | None:
        if isinstance(change, str):
            return self._sources.pop(change, None)
        old = self._sources.get(change.id)
        self._sources[change.id] = change
        return old


def _decoded(key: bytes | None, value: bytes | None) -> Source | str:
    """UndecodableError: one of `decode_source`, `no_key` or `key_mismatch`."""
    if key is None:
        raise UndecodableError("no_key", "the record has no key; it must be the source's id")
    if value is None:
        return key.decode("utf-8", "replace")
    source = decode_source(value)
    if source.id.encode() != key:
        raise UndecodableError("key_mismatch", f"the key is not the source's id {source.id}")
    return source
