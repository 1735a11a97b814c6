"""Fan-out: from frames of events to delivery records, settled with the events' offsets.

Each event is planned (`streams/planning.py`) for the subscriptions of now; results go to the settler frame by frame, so
the order of a source partition is kept. What cannot be decoded goes to quarantine with its reason, what cannot be
made for one subscription goes to its dead letters, and the stream goes on; only a registry that does not answer makes
it wait. This stage sees ports; it does not consume and does not write.
"""

from __future__ import annotations

import msgspec

from schemas.errors import UndecodableError
from schemas.event import Event
from schemas.frame import Frame, Out, Record
from schemas.topics import Topics
from streams.core.fanout import Failure
from streams.counters import Counters
from streams.planning import DETAIL_LENGTH_MAX, Planner, Read, Recipients, unmade
from streams.ports import Clock, Registry, SubscriptionTable
from streams.quarantine import quarantined
from streams.records import DeliverySchemas, Records
from streams.settle import Settler
from streams.tracing import FanOutSpans

PART_RECORDS = 5_000
PART_BYTES = 16 << 20


class FanOut:
    """The stage; one per worker."""

    def __init__(
        self,
        topics: Topics,
        table: SubscriptionTable,
        registry: Registry,
        settler: Settler,
        clock: Clock,
        counters: Counters,
        schema_ids: DeliverySchemas,
        spans: FanOutSpans | None = None,
    ) -> None:
        """`spans` traces events; None costs nothing."""
        self._topics = topics
        self._settler = settler
        self._clock = clock
        self._counters = counters
        self._records = Records(topics, schema_ids)
        self._planner = Planner(registry, topics.events, clock, counters)
        self._recipients = Recipients(table, topics.deliveries, self._records.wire)
        self._spans = spans
        self.matched = 0  # events that a subscription asks for, ever

    async def process(self, frame: Frame) -> None:
        """Plan a frame and hand it to the settler; waits for room there."""
        ledger = frame.ledger
        if not ledger.live or ledger.retiring:
            return
        done = frame.open()
        # A frame of large events, or of events that match thousands of subscriptions, is planned in parts: no more than
        # a part and one event's deliveries are in memory beyond the settler's backlog.
        outs: list[Out] = []
        size = 0
        for record in frame.records:
            planned = await self._plan_or_quarantine(frame, record)
            done.append(record.offset())
            outs += planned
            if planned:  # the deliveries of an event are about equally large
                size += len(planned) * len(planned[-1][2] or b"")
            if len(outs) >= PART_RECORDS or size >= PART_BYTES:
                self._settler.settle(frame.topic, frame.partition, ledger, done, outs)
                await (self._settler.flush() if size >= PART_BYTES else self._settler.room())
                done, outs, size = [], [], 0
        self._counters["events"] += len(frame.records)
        if done:
            self._settler.settle(frame.topic, frame.partition, ledger, done, outs)
        await self._settler.room()

    async def _plan_or_quarantine(self, frame: Frame, record: Record) -> list[Out]:
        try:
            return await self._plan(record, frame.partition)
        except UndecodableError as error:
            return [quarantined(self._topics.quarantine, frame.topic, frame.partition, record, error, self._counters)]

    async def _plan(self, record: Record, partition: int) -> list[Out]:
        """The deliveries of one event. UndecodableError when it is not an event."""
        read = await self._planner.read(record)
        if self._spans is None or not self.wanted(read.event):
            return await self.planned(read)
        span, event = self._spans.start(read.event, record, partition)
        planned = await self.planned(msgspec.structs.replace(read, event=event))
        self._spans.end(span, planned)
        return planned

    def wanted(self, event: Event) -> bool:
        """Whether any subscription asks for it."""
        return bool(self._recipients.targets(event.tenant, event.type).count)

    async def planned(self, read: Read) -> list[Out]:
        """The deliveries of an event, and dead letters in place of those that cannot be made."""
        plan = await self._planner.plan(read, self._recipients)
        if plan is None:
            self._counters["unmatched"] += 1
            return []
        self.matched += 1
        self._counters["deliveries"] += len(plan.records)
        if plan.filtered:
            self._counters["filtered"] += plan.filtered
        records = plan.records
        for subscription_id, failure in plan.failed:
            records += self._dead(read, subscription_id, failure)
        return records

    def _dead(self, read: Read, subscription_id: str, failure: Failure) -> tuple[Out, Out]:
        """The end of a delivery that was never one: a dead letter with the event as it came."""
        self._counters[f"dead:{failure.reason}"] += 1
        delivery, now_ms = unmade(read, subscription_id, self._recipients), self._clock.now_ms()
        detail = failure.detail[:DETAIL_LENGTH_MAX]
        end = self._records.end(delivery, "rejected", now_ms, detail)
        return end, self._records.dead_letter(delivery, failure.reason, detail, now_ms)
