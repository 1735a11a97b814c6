"""The table of API keys: the latest record of every key on `api.keys`, in memory.

How the topic is followed is in `connectors/compacted.py`. This file checks no secret (`connectors/api/key_check.py`),
and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.compacted import Follower, OnProgress
from schemas.api_key import ApiKey, decode_key
from schemas.errors import UndecodableError


class KeysTable(Follower[ApiKey]):
    """For one event loop; `start` once, then `stop`.

    The key of a record is the API key's id, its value a framed api_key.v1; null removes. A record that is neither
    changes nothing, is logged and counted (`bad`).
    """

    def __init__(self, conf: Mapping[str, Any], topic: str, *, on_progress: OnProgress | None = None) -> None:
        super().__init__(
            conf, topic, what="API key", decode=_decoded, apply=self._put_or_remove, on_progress=on_progress
        )
        self._keys: dict[str, ApiKey] = {}

    def get(self, key_id: str) -> ApiKey | None:
        """The key of this id, whatever its state. The same object until its record changes."""
        return self._keys.get(key_id)

    def every(self) -> list[ApiKey]:
        """All of them, by id."""
        return [self._keys[key_id] for key_id in sorted(self._keys)]

    def __len__(self) -> int:
        return len(self._keys)

    def _put_or_remove(self, change: ApiKey | str) -> ApiKey | None:
        if isinstance(change, str):
            return self._keys.pop(change, None)
        old = self._keys.get(change.id)
        self._keys[change.id] = change
        return old


def _decoded(key: bytes | None, value: bytes | None) -> ApiKey | str:
    """UndecodableError: one of `decode_key`, `no_key` or `key_mismatch`."""
    if key is None:
        raise UndecodableError("no_key", "the record has no key; it must be the API key's id")
    if value is None:
        return key.decode("utf-8", "replace")
    found = decode_key(value)
    if found.id.encode() != key:
        raise UndecodableError("key_mismatch", f"the key is not the API key's id {found.id}")
    return found
