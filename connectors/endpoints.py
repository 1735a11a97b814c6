"""The table of endpoints' health: the latest state of every endpoint on `endpoints.state`, in memory.

How the topic is followed is in `connectors/compacted.py`. This file does not decide whether a state still holds: it may
be about a URL that the subscription does not have any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from connectors.compacted import Follower, OnProgress
from schemas.endpoint import EndpointState, decode_state
from schemas.errors import UndecodableError

EndpointChanged = Callable[[EndpointState | None, EndpointState | None], None]


class EndpointTable(Follower[EndpointState]):
    """The `EndpointTable` port on a Kafka topic. For one event loop; `start` once, then `stop`.

    The key of a record is the subscription's id, its value a framed endpoint_state.v1; null removes. A record that is
    neither changes nothing, is logged and counted (`bad`).
    """

    def __init__(
        self,
        conf: Mapping[str, Any],
        topic: str,
        *,
        on_progress: OnProgress | None = None,
        keep_offsets: bool = False,
    ) -> None:
        super().__init__(
            conf,
            topic,
            what="endpoint state",
            decode=_decoded,
            apply=self._put_or_remove,
            on_progress=on_progress,
            keep_offsets=keep_offsets,
        )
        self._states: dict[str, EndpointState] = {}

    def get(self, subscription_id: str) -> EndpointState | None:
        """The state of this subscription's endpoint; None for one that never failed."""
        return self._states.get(subscription_id)

    def states(self) -> list[EndpointState]:
        """All of them, in no order."""
        return list(self._states.values())

    def __len__(self) -> int:
        return len(self._states)

    def _put_or_remove(self, change: EndpointState | str) -> EndpointState | None:
        if isinstance(change, str):
            return self._states.pop(change, None)
        old = self._states.get(change.subscription_id)
        self._states[change.subscription_id] = change
        return old


def _decoded(key: bytes | None, value: bytes | None) -> EndpointState | str:
    """UndecodableError: one of `decode_state`, `no_key` or `key_mismatch`."""
    if key is None:
        raise UndecodableError("no_key", "the record has no key; it must be the subscription's id")
    if value is None:
        return key.decode("utf-8", "replace")
    state = decode_state(value)
    if state.subscription_id.encode() != key:
        raise UndecodableError("key_mismatch", f"the key is not the subscription's id {state.subscription_id}")
    return state
