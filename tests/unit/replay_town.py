"""The world of the tests of replays: events, deliveries and dead letters in memory, orders, and stages that run them.

A stage may be killed at any await, and the next one goes on. Run tests in `tests.unit.virtual.virtual`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import msgspec

from connectors.memory import (
    MemoryExtents,
    MemoryKafka,
    MemoryLogReader,
    MemoryMember,
    MemoryPublisher,
    MemoryRegistry,
    MemoryTable,
    Stored,
)
from schemas import codec
from schemas.delivery import REPLAY_HEADER, Delivery, Try, encode_delivery
from schemas.endpoint import Operation, decode_operation
from schemas.event import Event, encode_event
from schemas.frame import Record
from schemas.ids import delivery_id
from schemas.replay import Progress, Replay, Selection, decode_progress
from streams.core.match import MatchIndex
from streams.counters import Counters
from streams.planning import Planner
from streams.ports import SpanReader
from streams.records import DeliverySchemas, Records
from streams.replay import Replaying, ReplayLimits
from streams.replay_sources import Maker
from tests.unit.stages import TOPICS, delivery_of, subscription
from tests.unit.virtual import START_MS, LoopClock, until

SCHEMAS = DeliverySchemas(delivery_v1=77, delivery=78, attempt=79, dead_letter=80, operation=81)
PROGRESS = 82
SMALL = ReplayLimits(deliveries_max=5, read_max=10)


class Orders:
    """The table of orders, written to directly; tells the stage that runs."""

    def __init__(self) -> None:
        self.by_id: dict[str, Replay] = {}
        self.stage: Replaying | None = None

    def __iter__(self) -> Iterator[Replay]:
        return iter(self.by_id.values())

    def put(self, order: Replay) -> Replay:
        old = self.by_id.get(order.id)
        self.by_id[order.id] = order
        if self.stage is not None:
            self.stage.order_changed(old, order)
        return order

    def change(self, order_id: str, **fields: Any) -> None:
        self.put(msgspec.structs.replace(self.by_id[order_id], **fields))

    def remove(self, order_id: str) -> None:
        old = self.by_id.pop(order_id)
        if self.stage is not None:
            self.stage.order_changed(old, None)


class ReplayTown:
    def __init__(self, limits: ReplayLimits = SMALL, bytes_max: dict[str, int] | None = None) -> None:
        self.clock = LoopClock()
        specs = {spec.name: spec.partitions for spec in TOPICS.specs()}
        self.now_ms: int | None = None  # of what is written; the clock's when there is none
        self.kafka = MemoryKafka(
            specs, bytes_max, now_ms=lambda: self.clock.now_ms() if self.now_ms is None else self.now_ms
        )
        self.table = MemoryTable(MatchIndex())
        self.registry = MemoryRegistry()
        self.counters = Counters()
        self.records = Records(TOPICS, SCHEMAS)
        self.orders = Orders()
        self.limits = limits
        self.table_is_behind = False  # that of progress: it knows nothing
        self.readers = 0
        self.behind_until_ms = 0  # the broker of partition 2 shows nothing until then

    # --- what there is --------------------------------------------------------------------------

    def subscribe(self, subscription_id: str, **fields: Any) -> None:
        self.table.put(subscription(subscription_id, **fields))

    async def events(self, *ids: str, partition: int = -1, event_type: str = "order.created", **fields: Any) -> None:
        schema_id = await self.registry.register("e", codec.own_schema("event.v3"))
        for id_ in ids:
            event = Event(id_, event_type, fields.get("tenant", "default"), START_MS, fields.get("data", b'{"n":1}'))
            self.kafka.write([(TOPICS.events, id_.encode(), encode_event(schema_id, event), partition, None)])

    async def delivery(self, event_id: str, subscription_id: str, *, replay: str = "", **fields: Any) -> Delivery:
        """As fan-out makes it, after a try."""
        self.subscribe("made_by_fan_out", tenant=fields.get("tenant", "default"))
        await self.events(event_id, **fields)
        record = self.kafka.records[TOPICS.events].pop()
        maker = self.maker()
        read = await maker.planner.read_value(record.value, None, START_MS)
        recipients = maker.recipients(order(), frozenset({"made_by_fan_out"}))
        recipients.headers = ()
        plan = await maker.planner.plan(read, recipients)
        assert plan is not None
        ((_, _, value, _, _),) = plan.records
        self.table.delete("made_by_fan_out")
        delivery = delivery_of(value or b"")
        name = delivery_id(event_id, subscription_id)
        ids = codec.put_bytes(name.encode()) + codec.put_string(subscription_id)
        tries = (Try(START_MS, 5, fields.get("status", 500), fields.get("cause", "")),)
        delivery = msgspec.structs.replace(
            delivery,
            id=name,
            subscription_id=subscription_id,
            ids=ids,
            attempt=1,
            tries=tries,
            first_attempt_ms=START_MS,
        )
        return msgspec.structs.replace(delivery, headers=((REPLAY_HEADER, replay),)) if replay else delivery

    async def delivered(self, event_id: str, subscription_id: str, *, partition: int = 0, **fields: Any) -> None:
        made = await self.delivery(event_id, subscription_id, **fields)
        fresh = msgspec.structs.replace(made, attempt=0, tries=(), first_attempt_ms=0)
        value = encode_delivery(self.records.wire, fresh)
        self.kafka.write([(TOPICS.deliveries, subscription_id.encode(), value, partition, None)])

    async def died(self, event_id: str, subscription_id: str, reason: str = "exhausted", **fields: Any) -> Stored:
        delivery = await self.delivery(event_id, subscription_id, **fields)
        self.kafka.write([self.records.dead_letter(delivery, reason, "", START_MS)])
        return self.kafka.records[TOPICS.dead][-1]

    # --- orders ---------------------------------------------------------------------------------

    def order(self, order_id: str = "rpl_1", **fields: Any) -> Replay:
        return self.orders.put(order(order_id, **fields))

    def progress(self, order_id: str = "rpl_1") -> Progress | None:
        """As it was last written."""
        for stored in reversed(self.kafka.records[TOPICS.replays_progress]):
            if stored.key == order_id.encode():
                return decode_progress(stored.value)
        return None

    def get(self, replay_id: str) -> Progress | None:
        """As the table of progress does."""
        return None if self.table_is_behind else self.progress(replay_id)

    def state(self, order_id: str = "rpl_1") -> str:
        progress = self.progress(order_id)
        return "" if progress is None else progress.state

    async def comes_to(self, state: str, order_id: str = "rpl_1", seconds: float = 600) -> Progress:
        await until(lambda: self.state(order_id) == state, seconds, f"{state}, not {self.state(order_id)}")
        progress = self.progress(order_id)
        assert progress is not None
        return progress

    # --- what came of it ------------------------------------------------------------------------

    def sent(self) -> list[Delivery]:
        return [delivery_of(stored.value or b"") for stored in self.kafka.records[TOPICS.replay]]

    def names(self) -> Counter[tuple[str, str]]:
        """How often each delivery was sent, by id and replay."""
        return Counter((each.id, dict(each.headers)[REPLAY_HEADER]) for each in self.sent())

    def operations(self) -> list[Operation]:
        return [decode_operation(stored.value) for stored in self.kafka.records[TOPICS.operations]]

    # --- stages ---------------------------------------------------------------------------------

    def maker(self) -> Maker:
        planner = Planner(self.registry, TOPICS.events, self.clock, self.counters)
        return Maker(TOPICS, self.table, planner, self.records, self.clock)

    def reader(self, topic: str) -> SpanReader:
        town = self

        class Counted(MemoryLogReader):
            async def read(self, partition: int, offset: int) -> Sequence[Record]:
                found = await super().read(partition, offset)
                if partition != 2 or town.clock.now_ms() >= town.behind_until_ms:
                    return found
                self._reached[partition] = 0
                return []

            async def close(self) -> None:
                town.readers -= 1
                await super().close()

        self.readers += 1
        return Counted(self.kafka, topic)

    async def stage(self) -> Replaying:
        publisher = MemoryPublisher(self.kafka, "replay", lambda: MemoryMember("none"))
        await publisher.start()
        return Replaying(
            self.maker(),
            self.orders,
            self,
            self.reader,
            MemoryExtents(self.kafka),
            publisher,
            self.clock,
            self.counters,
            PROGRESS,
            self.limits,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """One stage, which is killed in the end."""
        stage = await self.stage()
        self.orders.stage = stage
        self.table.on_change(lambda _, __: stage.subscription_changed())
        task = asyncio.create_task(stage.run())
        try:
            yield task
            if task.done():
                task.result()
        finally:
            if self.orders.stage is stage:
                self.orders.stage = None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def order(order_id: str = "rpl_1", **fields: Any) -> Replay:
    of_order = {
        name: fields.pop(name) for name in ("rate_max", "wanted", "created_ms", "again", "starts") if name in fields
    }
    values: dict[str, Any] = {"created_ms": START_MS, "by": "test", "wanted": "running", "rate_max": 0.0} | of_order
    return Replay(id=order_id, selection=Selection(**({"source": "events"} | fields)), **values)
