"""The engine under test: the real classes, put together as `streams/app.py` does, from simulated ports.

Everything that a mutant (`mutants.py`) may want to break is a method here. This is the only file of the simulation that
knows how a stage is made.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import msgspec

from connectors.memory import MemoryEndpointTable, MemoryRegistry, MemoryTable
from connectors.plain_publisher import in_order
from schemas import codec
from schemas.delivery import Delivery, Wire, decode_delivery
from schemas.frame import OffsetLedger, Out
from schemas.topics import Topics
from streams.core.breaker import NEVER, BreakerPolicy
from streams.core.ledger import Ledger
from streams.core.parked import ParkedLog
from streams.counters import Counters
from streams.dispatch import Dispatch
from streams.dispatch_state import DispatchLimits
from streams.fan_out import FanOut
from streams.ports import Clock, LogReader, Publisher
from streams.settle import Settler
from streams.wiring import OwnSchemas, register_own_schemas
from tests.simulation.consumer import SimConsumer
from tests.simulation.endpoints import SimSender
from tests.unit.stages import as_it_is

T = TypeVar("T")


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise RuntimeError("the coroutine waits for something")


REGISTRY = MemoryRegistry()
SCHEMAS: OwnSchemas = at_once(register_own_schemas(REGISTRY, Topics()))
EVENT = codec.parse_schema(codec.own_schema("event.v3"))
WIRE = Wire(codec.wire_header(SCHEMAS.delivery_v1), codec.wire_header(SCHEMAS.delivery))


def delivery_in(value: bytes) -> Delivery:
    """Of a record in either version."""
    return decode_delivery(value, 2 if value.startswith(WIRE.v2) else 1)


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What bounds a worker in this world, small enough to be reached."""

    in_flight_max: int = 64
    admitted_max: int = 400
    group_records_max: int = 5_000
    group_entries_max: int = 2_000
    backlog_records_max: int = 20_000
    frame_records_max: int = 20
    pending_max: int = 700
    span_max: int = 24_000
    read_records_max: int = 500
    replayed_max: int = 100
    circuit_results_min: int = NEVER
    origin_rate_max: float = 0.0

    @property
    def read_max(self) -> int:
        """Parked deliveries in memory."""
        return max(1, self.admitted_max // 2)


class SmallLedger(Ledger):
    """A ledger that is full early, so that a small world meets a full one."""

    __slots__ = ("bounds",)

    def __init__(self, position: int, metadata: str | None, bounds: Bounds) -> None:
        super().__init__(position, metadata)
        self.bounds = bounds

    @property
    def full(self) -> bool:
        """As the real one, with this world's numbers in the place of `SPAN_MAX`, `PENDING_MAX` and 500."""
        bounds = self.bounds
        if self._last - self._position + bounds.frame_records_max < bounds.span_max:
            return False
        return self.pending + bounds.frame_records_max > bounds.pending_max


class Engine:
    """Makes the parts of one worker."""

    #: The delivery stage.
    stage: type[Dispatch] = Dispatch

    def __init__(self, topics: Topics, bounds: Bounds, *, at_least_once: bool = False) -> None:
        self.topics = topics
        self.bounds = bounds
        #: Written without transactions.
        self.at_least_once = at_least_once

    def in_order(self, records: Sequence[Out]) -> list[Sequence[Out]]:
        """What is written without transactions, one part after the other."""
        return in_order(records)

    def ledger(self, topic: str, partition: int, position: int, metadata: str | None) -> OffsetLedger:
        """Of a newly assigned partition."""
        if topic == self.topics.parked:
            return ParkedLog(position)
        return SmallLedger(position, metadata, self.bounds)

    def settler(self, publisher: Publisher) -> Settler:
        return Settler(
            publisher,
            group_records_max=self.bounds.group_records_max,
            group_entries_max=self.bounds.group_entries_max,
            backlog_records_max=self.bounds.backlog_records_max,
        )

    def fan_out(self, table: MemoryTable, settler: Settler, clock: Clock, counters: Counters) -> FanOut:
        return FanOut(self.topics, table, REGISTRY, settler, clock, counters, SCHEMAS)

    def dispatch_topics(self) -> list[str]:
        """What the delivery group consumes."""
        topics = self.topics
        return [topics.deliveries, *topics.tiers.values(), topics.parked, topics.replay]

    def dispatch(
        self,
        table: MemoryTable,
        endpoints: MemoryEndpointTable,
        sender: SimSender,
        reader: LogReader,
        settler: Settler,
        clock: Clock,
        counters: Counters,
        consumer: SimConsumer,
        worker: str,
    ) -> Dispatch:
        bounds = self.bounds
        return self.stage(
            self.topics,
            table,
            endpoints,
            sender,
            reader,
            settler,
            clock,
            counters,
            SCHEMAS,
            hold=consumer.hold,
            release=consumer.release,
            ledger=consumer.ledger,
            opener=as_it_is,
            worker=worker,
            limits=DispatchLimits(
                in_flight_max=bounds.in_flight_max,
                admitted_max=bounds.admitted_max,
                read_max=bounds.read_max,
                replayed_max=bounds.replayed_max,
                origin_rate_max=bounds.origin_rate_max,
                circuit=BreakerPolicy(requests_min=bounds.circuit_results_min),
            ),
        )
