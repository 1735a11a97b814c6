"""Two transactional producers that take turns, so that no transaction waits for the markers of the one before.

A commit returns when the decision is durable; then brokers write a marker into every partition of the transaction.
Until that is done, the same producer cannot begin another one (CONCURRENT_TRANSACTIONS), and a worker with little to do
spends more time on that than on anything else. The other producer can.

Transactions still follow each other: one is begun when the one before has been committed, never beside it. This file
does not know what a transaction is made of (`publisher.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from connectors.publisher import Committed, TransactionalPublisher
from schemas.frame import Out


class PairedPublisher:
    """Implements `streams.ports.Publisher`. One `publish` at a time.

    Offsets that wait for their markers may be overtaken by those of the next transaction: the group keeps the later
    written ones, whichever marker comes first (Kafka's OffsetMetadataManager compares where they lie in its log).
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        transactional_id: str,
        group: Callable[[], object],
        committed: Committed | None = None,
    ) -> None:
        """As `TransactionalPublisher`; the ids are `<transactional_id>.0` and `.1`."""
        self._next, self._other = (
            TransactionalPublisher(config, f"{transactional_id}.{turn}", group, committed) for turn in range(2)
        )

    async def start(self) -> None:
        """Register both ids, which ends what a predecessor left open. KafkaException when the cluster refuses."""
        await asyncio.gather(self._next.start(), self._other.start())

    async def publish(
        self,
        records: Sequence[Out],
        offsets: Sequence[tuple[str, int, int, str]],
        still_ours: Callable[[], bool] | None = None,
        *,
        decisive: bool = False,
    ) -> None:
        """One transaction; see the port."""
        turn = self._next
        await turn.publish(records, offsets, still_ours, decisive=decisive)
        self._next, self._other = self._other, turn

    async def close(self) -> None:
        """Let go; an open transaction is aborted."""
        await asyncio.gather(self._next.close(), self._other.close())
