"""Engines that are broken on purpose, each in one way: what a checker that objects to nothing would let pass.

They break what is put together from the engine's parts, not the parts' own code, so that they stay what they are when
that changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from connectors.memory import MemoryTable
from schemas.delivery import encode_delivery
from schemas.frame import Frame, OffsetLedger, Out
from schemas.post import PostDone
from schemas.subscription import Subscription
from schemas.topics import Topics
from streams.counters import Counters
from streams.dispatch import Dispatch
from streams.fan_out import FanOut
from streams.lanes import Intake
from streams.ports import Clock, Publisher, Route
from streams.settle import Settler
from tests.simulation.endpoints import SimSender
from tests.simulation.engine import WIRE, Engine, SmallLedger, delivery_in

# --- transactions -----------------------------------------------------------------------------------------------------


class _Rewriting(Settler):
    """Records on their way to the settler go through `change`."""

    def __init__(self, publisher: Publisher, change: Callable[[Sequence[Out]], Sequence[Out]], **options: int) -> None:
        super().__init__(publisher, **options)
        self._change = change

    def settle(
        self, topic: str, partition: int, ledger: OffsetLedger, offsets: Sequence[int], records: Sequence[Out]
    ) -> None:
        super().settle(topic, partition, ledger, offsets, self._change(records))


class _Changed(Engine):
    """What the settler is handed is changed on the way."""

    def settler(self, publisher: Publisher) -> Settler:
        return _Rewriting(publisher, self.change)

    def change(self, records: Sequence[Out]) -> Sequence[Out]:
        """To be broken."""
        return records

    def again(self, record: Out) -> bool:
        """Whether this record is a delivery's next place."""
        topics = self.topics
        return record[2] is not None and record[0] in (*topics.tiers.values(), topics.parked)


class ResettingSettler(_Changed):
    """A retry begins from the first attempt."""

    def change(self, records: Sequence[Out]) -> Sequence[Out]:
        return [self._reset(record) if self.again(record) else record for record in records]

    def _reset(self, record: Out) -> Out:
        topic, key, value, partition, headers = record
        assert value is not None
        delivery = msgspec.structs.replace(delivery_in(value), attempt=0, first_attempt_ms=0, tries=())
        return (topic, key, encode_delivery(WIRE, delivery), partition, headers)


class DoublingSettler(_Changed):
    """Retries are written twice."""

    def change(self, records: Sequence[Out]) -> Sequence[Out]:
        return [one for record in records for one in ((record, record) if self.again(record) else (record,))]


class ForgetfulSettler(_Changed):
    """What is to be tried again is not in the log of attempts."""

    def change(self, records: Sequence[Out]) -> Sequence[Out]:
        if not any(map(self.again, records)):
            return records
        return [record for record in records if record[0] != self.topics.attempts]


class LosingFanOut(_Changed):
    """Every seventh delivery is not written."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._numbers = itertools.count(1)

    def change(self, records: Sequence[Out]) -> Sequence[Out]:
        return [record for record in records if record[0] != self.topics.deliveries or next(self._numbers) % 7]


class _OffsetsFirst:
    """A publisher that writes offsets and records in two transactions."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def publish(
        self,
        records: Sequence[Out],
        offsets: Sequence[tuple[str, int, int, str]],
        still_ours: Callable[[], bool] | None = None,
        *,
        decisive: bool = False,
    ) -> None:
        await self._publisher.publish([], offsets, still_ours)
        await self._publisher.publish(records, [])


class OffsetsFirst(Engine):
    """Offsets are committed before what became of them is written."""

    def settler(self, publisher: Publisher) -> Settler:
        return super().settler(_OffsetsFirst(publisher))


class MarksAtOnce(Engine):
    """Without transactions, a parked delivery may be marked as finished before what became of it is written."""

    def in_order(self, records: Sequence[Out]) -> list[Sequence[Out]]:
        return [records]


class _Heedless:
    """A publisher that does not ask whether the partitions are still those of its epoch."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def publish(
        self,
        records: Sequence[Out],
        offsets: Sequence[tuple[str, int, int, str]],
        still_ours: Callable[[], bool] | None = None,
        *,
        decisive: bool = False,
    ) -> None:
        await self._publisher.publish(records, offsets)


class HeedlessPublisher(Engine):
    """What an earlier epoch had to say is written by a later one."""

    def settler(self, publisher: Publisher) -> Settler:
        return super().settler(_Heedless(publisher))


# --- ledgers ----------------------------------------------------------------------------------------------------------


class _PastHoles(SmallLedger):
    __slots__ = ()

    def progress(self) -> tuple[int, str]:
        return self._last + 1, ""


class LedgerPastHoles(Engine):
    """What was opened counts as finished."""

    def ledger(self, topic: str, partition: int, position: int, metadata: str | None) -> OffsetLedger:
        if topic == self.topics.parked:
            return super().ledger(topic, partition, position, metadata)
        return _PastHoles(position, metadata, self.bounds)


class LedgerWithoutMemory(Engine):
    """What was finished beyond the committed offset is not read from its metadata."""

    def ledger(self, topic: str, partition: int, position: int, metadata: str | None) -> OffsetLedger:
        return super().ledger(topic, partition, position, None)


class _Immortal(SmallLedger):
    __slots__ = ()

    def close(self) -> None:
        """Not."""

    def retire(self) -> None:
        """Not either."""


class LedgerForEver(Engine):
    """A partition given up is worked on."""

    def ledger(self, topic: str, partition: int, position: int, metadata: str | None) -> OffsetLedger:
        if topic == self.topics.parked:
            return super().ledger(topic, partition, position, metadata)
        return _Immortal(position, metadata, self.bounds)


# --- what dispatch sees -----------------------------------------------------------------------------------------------


class _Wrapping(Engine):
    """Dispatch with other ports than it should have."""

    def dispatch(self, table: MemoryTable, *args: Any) -> Dispatch:
        endpoints, sender, reader, settler, clock, *rest = args
        return super().dispatch(
            self.table(table), endpoints, self.sender(sender), reader, settler, self.clock(clock), *rest
        )

    def table(self, table: MemoryTable) -> MemoryTable:
        return table

    def sender(self, sender: SimSender) -> SimSender:
        return sender

    def clock(self, clock: Clock) -> Clock:
        return clock


class _FreshIds:
    """A sender that sends each request under an id of its own."""

    def __init__(self, sender: SimSender) -> None:
        self._sender = sender
        self._numbers = itertools.count()
        self.route = sender.route

    def post(self, route: Route, headers: Sequence[tuple[str, str]], body: bytes, done: PostDone) -> None:
        number = next(self._numbers)
        changed = [(name, f"{text}{number}" if name == "webhook-id" else text) for name, text in headers]
        self._sender.post(route, changed, body, done)


class FreshIds(_Wrapping):
    """Every attempt has another `webhook-id`."""

    def sender(self, sender: SimSender) -> SimSender:
        return _FreshIds(sender)  # type: ignore[return-value]


class _Fast:
    """A clock that is ahead."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.monotonic = clock.monotonic
        self.jitter = clock.jitter

    def now_ms(self) -> int:
        return self._clock.now_ms() + 3_000


class FastClock(_Wrapping):
    """Retries come three seconds early."""

    def clock(self, clock: Clock) -> Clock:
        return _Fast(clock)


class _Unordered:
    """A table in which no subscription is ordered."""

    def __init__(self, table: MemoryTable) -> None:
        self._table = table
        self._known: dict[Subscription, Subscription] = {}

    def get(self, subscription_id: str) -> Subscription | None:
        return _unordered(self._table.get(subscription_id))

    def on_change(self, callback: Callable[[Subscription | None, Subscription | None], None]) -> None:
        self._table.on_change(lambda old, new: callback(_unordered(old), _unordered(new)))


def _unordered(subscription: Subscription | None) -> Subscription | None:
    return None if subscription is None else msgspec.structs.replace(subscription, ordered=False)


class Unordered(_Wrapping):
    """Ordered subscriptions are treated like any other."""

    def table(self, table: MemoryTable) -> MemoryTable:
        return _Unordered(table)  # type: ignore[return-value]


class Unbounded(Engine):
    """A worker has more places than it may."""

    def dispatch(self, *args: Any) -> Dispatch:
        bounds = self.bounds
        self.bounds = msgspec.structs.replace(bounds, in_flight_max=1_000, admitted_max=10_000)
        try:
            return super().dispatch(*args)
        finally:
            self.bounds = bounds


class _OneAtATime(Dispatch):
    """Takes a frame when the last one's POSTs have ended."""

    async def admit(self, frame: Frame) -> None:
        await super().admit(frame)
        while self.in_flight:
            self._changed.clear()
            self._giving_up = 1  # so that every answer is told
            await self._changed.wait()
        self._giving_up = 0


class OneAtATime(Engine):
    """An endpoint that hangs holds back all others."""

    stage = _OneAtATime


class _WithoutLane(Topics, frozen=True):
    """Under which what comes from the replay lane looks like any other first attempt."""

    @property
    def replay(self) -> str:
        return ""


class ReplaysInLine(Engine):
    """What is replayed stands in line with what is live."""

    def dispatch(self, *args: Any) -> Dispatch:
        topics = self.topics
        self.topics = _WithoutLane(topics.prefix, topics.partitions)
        try:
            return super().dispatch(*args)
        finally:
            self.topics = topics


class _Patient(Dispatch):
    """Takes nothing else until there is room for what is replayed."""

    def _block(self, intake: Intake, wait_s: float | None) -> None:
        if not intake.replay:
            super()._block(intake, wait_s)


class PatientReplays(Engine):
    """A replay that has no room holds up the stream of frames."""

    stage = _Patient


class StuckTiers(Engine):
    """What was held is never fetched again."""

    def dispatch(self, *args: Any) -> Dispatch:
        *_, consumer, _ = args
        consumer.release = _nothing
        return super().dispatch(*args)


def _nothing(topic: str, partition: int) -> None:
    """Where something should have been done."""


class QuietFanOut(Engine):
    """Fan-out knows nothing of subscriptions that are paused."""

    def fan_out(self, table: MemoryTable, settler: Settler, clock: Clock, counters: Counters) -> FanOut:
        return super().fan_out(_Active(table), settler, clock, counters)  # type: ignore[arg-type]


class _Active:
    def __init__(self, table: MemoryTable) -> None:
        self._table = table

    def match(self, tenant: str, event_type: str) -> Sequence[Subscription]:
        return [one for one in self._table.match(tenant, event_type) if one.state == "active"]


MUTANTS: Mapping[str, type[Engine]] = {
    mutant.__name__: mutant
    for mutant in (
        ResettingSettler, DoublingSettler, ForgetfulSettler, LosingFanOut, OffsetsFirst, HeedlessPublisher,
        MarksAtOnce, LedgerPastHoles, LedgerWithoutMemory, LedgerForEver, FreshIds, FastClock, Unordered, Unbounded,
        OneAtATime, ReplaysInLine, PatientReplays, StuckTiers, QuietFanOut,
    )
}  # fmt: skip
