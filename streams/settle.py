"""Settling: what became of records, and their offsets, in one transaction for many.

Both stages hand their results here. While one transaction is committed (a dozen milliseconds), the next group gathers,
so groups grow with the load and a lone record waits for nobody. This file does not know what the records mean, and does
not decide what may be committed (the ledgers do).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from schemas.errors import StaleGroupError
from schemas.frame import OffsetLedger, Out
from schemas.metrics import REQUEST_US, Histogram
from streams.ports import Publisher

logger = logging.getLogger(__name__)

_STALE_PAUSE_S = 0.1  # a poll of the consumer, which is what refreshes the group metadata

#: Topic, partition, ledger, offsets, records, and the bytes of these.
Entry = tuple[str, int, OffsetLedger, Sequence[int], Sequence[Out], int]


class Settler:
    """Groups results into transactions, in the order in which they came."""

    def __init__(
        self,
        publisher: Publisher,
        *,
        group_records_max: int = 5_000,
        group_entries_max: int = 2_000,
        group_bytes_max: int = 16 << 20,
        backlog_records_max: int = 20_000,
        backlog_bytes_max: int = 64 << 20,
    ) -> None:
        """At most so many records, entries and bytes of values a transaction, of which the last entry may exceed the
        bound; `room()` waits while more than the backlog is gathered."""
        self._publisher = publisher
        self._group_records_max = group_records_max
        self._group_entries_max = group_entries_max
        self._group_bytes_max = group_bytes_max
        self._backlog_records_max = backlog_records_max
        self._backlog_bytes_max = backlog_bytes_max
        self._entries: deque[Entry] = deque()
        self._backlog = 0  # records gathered or being written, an entry without records counting as one
        self._backlog_bytes = 0  # of their values
        self._settled = 0  # records durable or void, ever
        self._since: float | None = None  # the loop's time at which the present transaction was begun
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        # For who measures, a few steps each transaction:
        self.written = 0  # transactions, ever
        self.refused = 0  # because the group had moved on
        self.seconds = Histogram(REQUEST_US, 1_000_000)

    def on_settled(self, listener: Callable[[], None]) -> None:
        """Call after every transaction."""
        self._listeners.append(listener)

    def settle(
        self, topic: str, partition: int, ledger: OffsetLedger, offsets: Sequence[int], records: Sequence[Out]
    ) -> None:
        """The offsets of this partition come to these records (none, when there is nothing to say)."""
        size = 0
        for record in records:
            if record[2]:
                size += len(record[2])
        self._entries.append((topic, partition, ledger, offsets, records, size))
        self._backlog += len(records) or 1
        self._backlog_bytes += size
        self._wake.set()

    @property
    def backlog(self) -> int:
        """Records not yet durable."""
        return self._backlog

    @property
    def backlog_bytes(self) -> int:
        """Of the values of records not yet durable."""
        return self._backlog_bytes

    def ticket(self) -> int:
        """What `settled` must reach for all that was handed over so far to be durable or void."""
        return self._settled + self._backlog

    @property
    def settled(self) -> int:
        """Records durable or void, ever."""
        return self._settled

    @property
    def busy_s(self) -> float:
        """For how long the present transaction has been on its way."""
        return 0.0 if self._since is None else asyncio.get_running_loop().time() - self._since

    async def room(self) -> None:
        """Wait while the backlog is above its bound."""
        while self._backlog > self._backlog_records_max or self._backlog_bytes > self._backlog_bytes_max:
            self._changed.clear()
            await self._changed.wait()

    async def flush(self) -> None:
        """Wait until everything handed over so far is durable or void, whatever comes meanwhile."""
        until = self.ticket()
        while self._settled < until:
            self._changed.clear()
            await self._changed.wait()

    async def run(self) -> None:
        """Write groups until cancelled. Raises what the publisher cannot wait out: the worker must stop then."""
        while True:
            await self._wake.wait()
            group, records, size = self._take()
            self._since = asyncio.get_running_loop().time()
            await self._publish(group)
            self.seconds.observe(round(self.busy_s * 1_000_000))
            self._since = None
            self._backlog -= records
            self._backlog_bytes -= size
            self._settled += records
            self._changed.set()
            for listener in self._listeners:
                listener()

    def _take(self) -> tuple[list[Entry], int, int]:
        """A group, with its records and bytes."""
        entries = self._entries
        group: list[Entry] = []
        records = size = 0
        while (
            entries
            and records < self._group_records_max
            and len(group) < self._group_entries_max
            and size < self._group_bytes_max
        ):
            entry = entries.popleft()
            group.append(entry)
            records += len(entry[4]) or 1
            size += entry[5]
        if not entries:
            self._wake.clear()
        return group, records, size

    async def _publish(self, group: list[Entry]) -> None:
        while True:
            records: list[Out] = []
            ledgers: dict[tuple[str, int], OffsetLedger] = {}
            moved: dict[tuple[str, int], OffsetLedger] = {}
            decisive = False
            for topic, partition, ledger, offsets, outs, _ in group:
                # A partition given up meanwhile is somebody else's: its results are void, its records come again there.
                if ledger.live:
                    ledgers[topic, partition] = ledger
                    records += outs
                    if offsets:
                        ledger.finish_all(offsets)
                        moved[topic, partition] = ledger
                        # What comes to records was not finished before; what comes to none may have been, by metadata.
                        decisive = decisive or bool(outs)
            if not ledgers:
                return
            # Where nothing moved, what the group has is said again: it looks at who says it.
            positions = [(*place, *ledger.progress()) for place, ledger in (moved or ledgers).items()]
            still_ours = partial(_all_live, ledgers.values())
            try:
                await self._publisher.publish(records, positions, still_ours, decisive=decisive or not records)
                self.written += 1
                return
            except StaleGroupError as error:
                self.refused += 1
                logger.info("the group has moved on (%s); settling again what is still ours", error)
                await asyncio.sleep(_STALE_PAUSE_S)


def _all_live(ledgers: Iterable[OffsetLedger]) -> bool:
    return all(ledger.live for ledger in ledgers)
