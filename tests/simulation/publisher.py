"""Producers as `connectors/publisher.py` and `connectors/plain_publisher.py` are, on the simulated Kafka.

What is the same: the order of the requests, which errors abort and repeat and which are raised, and that group metadata
is asked for when offsets are sent; without transactions, that each partition's records are there at a moment of their
own, and that offsets are handed on after all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence

from connectors.plain_publisher import CommitSoon
from schemas.errors import FencedError, StaleGroupError
from schemas.frame import Out
from tests.simulation.kafka import ProducerSession, SimKafka, TroubleError
from tests.simulation.loop import VirtualLoop

BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0)


class SimPublisher:
    """The `Publisher` port."""

    def __init__(
        self,
        loop: VirtualLoop,
        kafka: SimKafka,
        dice: random.Random,
        transactional_id: str,
        process: str,
        group: str,
        metadata: Callable[[], tuple[str, int]],
    ) -> None:
        self._loop = loop
        self._kafka = kafka
        self._dice = dice
        self._id = transactional_id
        self._process = process
        self._group = group
        self._metadata = metadata
        self._session: ProducerSession | None = None

    async def start(self) -> None:
        """Register the transactional id, which ends what a predecessor left open."""
        self._session = await self._kafka.call(self._loop, self._kafka.init_producer, self._id, self._process)

    async def publish(
        self,
        records: Sequence[Out],
        offsets: Sequence[tuple[str, int, int, str]],
        still_ours: Callable[[], bool] | None = None,
        *,
        decisive: bool = False,
    ) -> None:
        """See the port."""
        attempt = 0
        while not await self._publish_once(records, offsets, still_ours):
            await self._loop.pause(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
            attempt += 1

    async def _publish_once(
        self,
        records: Sequence[Out],
        offsets: Sequence[tuple[str, int, int, str]],
        still_ours: Callable[[], bool] | None,
    ) -> bool:
        session, kafka, loop = self._session, self._kafka, self._loop
        assert session is not None
        try:
            if len(records) > 1 and self._dice.random() < 0.2:  # it leaves in more than one batch
                half = len(records) // 2
                await kafka.call(loop, kafka.produce, session, records[:half])
                await kafka.call(loop, kafka.produce, session, records[half:])
            elif records:
                await kafka.call(loop, kafka.produce, session, records)
            if offsets:
                member = self._metadata()
                if still_ours is not None and not still_ours():
                    raise StaleGroupError("partitions were given up while their transaction was on its way")
                await kafka.call(loop, kafka.add_offsets, session, self._group, *member, offsets)
            await kafka.call(loop, kafka.end, session, True)
        except TroubleError:
            await kafka.call(loop, kafka.end, session, False)
            return False
        except StaleGroupError:
            await kafka.call(loop, kafka.end, session, False)
            raise
        return True

    async def close(self) -> None:
        """Abort what a cancelled publish left open."""
        session = self._session
        if session is not None and session.transaction is not None:
            with contextlib.suppress(FencedError):
                await self._kafka.call(self._loop, self._kafka.end, session, False)


#: As `connectors.plain_publisher.in_order`.
InOrder = Callable[[Sequence[Out]], list[Sequence[Out]]]


class SimPlainPublisher:
    """The `Publisher` port without transactions."""

    def __init__(
        self,
        loop: VirtualLoop,
        kafka: SimKafka,
        dice: random.Random,
        process: str,
        in_order: InOrder,
        commit: CommitSoon,
    ) -> None:
        self._loop = loop
        self._kafka = kafka
        self._dice = dice
        self._process = process
        self._in_order = in_order
        self._commit = commit

    async def start(self) -> None:
        """Nothing to register."""

    async def publish(
        self,
        records: Sequence[Out],
        offsets: Sequence[tuple[str, int, int, str]],
        still_ours: Callable[[], bool] | None = None,
        *,
        decisive: bool = False,
    ) -> None:
        """See the port."""
        for part in self._in_order(records):
            await self._write(part)
        if offsets:
            self._commit(offsets)

    async def _write(self, records: Sequence[Out]) -> None:
        """Until all are acknowledged."""
        batches: dict[tuple[str, int], list[Out]] = {}
        for topic, key, value, wanted, headers in records:
            partition = self._kafka.partition_of(topic, key, wanted)
            batches.setdefault((topic, partition), []).append((topic, key, value, partition, headers))
        await asyncio.gather(*map(self._write_batch, batches.values()))

    async def _write_batch(self, batch: list[Out]) -> None:
        half = len(batch) // 2 if self._dice.random() < 0.2 else 0  # it leaves in more than one request
        for part in (batch[:half], batch[half:]):
            attempt = 0
            while part:
                try:
                    await self._kafka.call(self._loop, self._kafka.write, self._process, part)
                    break
                except TroubleError:
                    await self._loop.pause(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
                    attempt += 1

    async def close(self) -> None:
        """Nothing to let go of."""
