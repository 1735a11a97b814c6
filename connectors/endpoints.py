"""The table of endpoints' health: the latest state of every endpoint on `endpoints.state`, in memory.

This file does not decide whether a state still holds: it may be about a URL that the subscription does not have any
more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from connectors.compacted import OnProgress
from connectors.keyed import KeyedTable
from schemas.endpoint import EndpointState, decode_state

EndpointChanged = Callable[[EndpointState | None, EndpointState | None], None]


class EndpointTable(KeyedTable[EndpointState]):
    """The `EndpointTable` port on a Kafka topic. The key of a record is the subscription's id, its value a framed
    endpoint_state.v1. There is none of an endpoint that never failed."""

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
            key="the subscription's id",
            decode=decode_state,
            id_of=lambda state: state.subscription_id,
            on_progress=on_progress,
            keep_offsets=keep_offsets,
        )

    def states(self) -> list[EndpointState]:
        """All of them, in no order."""
        return list(self._by_id.values())
