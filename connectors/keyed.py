"""Tables of a compacted topic whose records have an id, which is their key: the latest record of each, in memory.

How the topic is followed is in `connectors/compacted.py`. This file does not know what the records are, and writes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from connectors.compacted import Follower, OnProgress
from schemas.errors import UndecodableError

V = TypeVar("V")


class KeyedTable(Follower[V]):
    """For one event loop; `start` once, then `stop`.

    The key of a record is what `id_of` says of its value; null removes. A record that is none, or stands under another
    key, changes nothing, is logged and counted (`bad`).
    """

    def __init__(
        self,
        conf: Mapping[str, Any],
        topic: str,
        *,
        what: str,
        key: str,
        decode: Callable[[bytes], V],
        id_of: Callable[[V], str],
        on_progress: OnProgress | None = None,
        keep_offsets: bool = False,
    ) -> None:
        """`what` and `key` name a record and its key in sentences. `decode` raises UndecodableError."""
        super().__init__(
            conf,
            topic,
            what=what,
            decode=self._decoded,
            apply=self._put_or_remove,
            on_progress=on_progress,
            keep_offsets=keep_offsets,
        )
        self._key = key
        self._decode_value = decode
        self._id_of = id_of
        self._by_id: dict[str, V] = {}

    def get(self, id_: str) -> V | None:
        """The one of this id; None when there is none. The same object until its record changes."""
        return self._by_id.get(id_)

    def __len__(self) -> int:
        return len(self._by_id)

    def _put_or_remove(self, change: V | str) -> V | None:
        if isinstance(change, str):
            return self._by_id.pop(change, None)
        id_ = self._id_of(change)
        old = self._by_id.get(id_)
        self._by_id[id_] = change
        return old

    def _decoded(self, key: bytes | None, value: bytes | None) -> V | str:
        """On the thread. UndecodableError: one of `decode`'s, `no_key` or `key_mismatch`."""
        if key is None:
            raise UndecodableError("no_key", f"the record has no key; it must be {self._key}")
        if value is None:
            return key.decode("utf-8", "replace")
        found = self._decode_value(value)
        id_ = self._id_of(found)
        if id_.encode() != key:
            raise UndecodableError("key_mismatch", f"the key is not {self._key} {id_}")
        return found
