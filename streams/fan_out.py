"""Fan-out: from frames of events to delivery records, settled with the events' offsets.

Each event is decoded, matched against the subscriptions of now, and planned; results go to the settler frame by frame,
so the order of a source partition is kept. What cannot be decoded goes to quarantine with its reason, what cannot be
made for one subscription goes to its dead letters, and the stream goes on; only a registry that does not answer makes
it wait. This stage sees ports; it does not consume and does not write.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from schemas import codec
from schemas.delivery import FRESH, decode_delivery, encode_fresh, encode_tail
from schemas.errors import UndecodableError
from schemas.event import CloudEventDecoder, Event, EventDecoder, event_decoder
from schemas.frame import Frame, Out, Record
from schemas.ids import delivery_id
from schemas.topics import DATA_BYTES_MAX, EVENT_BYTES_MAX, Topics
from streams.core.fanout import Failure, Targets, deliveries
from streams.core.formats import AVRO
from streams.core.views import View
from streams.counters import Counters
from streams.lookup import schema_text
from streams.ports import Clock, Registry, SubscriptionTable
from streams.quarantine import quarantined
from streams.records import DeliverySchemas, Records
from streams.settle import Settler
from streams.versions import Versions

DECODERS_MAX = 10_000
TARGETS_MAX = 50_000
PART_RECORDS = 5_000
PART_BYTES = 16 << 20
DETAIL_LENGTH_MAX = 1_000


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
    ) -> None:
        self._topics = topics
        self._table = table
        self._registry = registry
        self._settler = settler
        self._clock = clock
        self._counters = counters
        self._records = Records(topics, schema_ids)
        self._versions = Versions(registry, topics.events, clock, counters)
        self._decoders: dict[int, EventDecoder] = {}
        self._targets: dict[tuple[str, str], Targets] = {}
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
            return await self._plan(record)
        except UndecodableError as error:
            return [quarantined(self._topics.quarantine, frame.topic, frame.partition, record, error, self._counters)]

    async def _plan(self, record: Record) -> list[Out]:
        """The deliveries of one event. UndecodableError when it is not an event."""
        value = record.value()
        schema_id = codec.wire_schema_id(value)
        assert value is not None  # or there would be no schema id
        if len(value) > EVENT_BYTES_MAX:
            raise UndecodableError(
                "too_large", f"{len(value)} bytes are more than an event may have ({EVENT_BYTES_MAX})"
            )
        decoder = self._decoders.get(schema_id) or await self._decoder(schema_id)
        kind, timestamp_ms = record.timestamp()
        received_ms = timestamp_ms if kind else self._clock.now_ms()
        event = decoder.decode(value, record.headers(), received_ms)
        if len(event.data) > DATA_BYTES_MAX:  # a delivery that no topic takes would end every worker that tries
            raise UndecodableError("too_large", f"its JSON of {len(event.data)} bytes is more than {DATA_BYTES_MAX}")
        targets = self._targets_of(event.tenant, event.type)
        versioned = type(decoder) is CloudEventDecoder  # an envelope's data is JSON, and of no version
        while versioned and targets.count and not self._versions.ready(schema_id, targets.parts):
            await self._versions.prepare(schema_id, targets.parts)
            targets = self._targets_of(event.tenant, event.type)  # the table may have changed meanwhile
        if not targets.count:
            self._counters["unmatched"] += 1
            return []
        self.matched += 1
        views: Callable[[int], View]
        if versioned:
            views = self._versions.views(schema_id, value, event.data)
            written = views(0)
        else:
            written = View(value, event.data, 0)
            views = partial(_same, written)
        plan = deliveries(self._topics.deliveries, self._records.wire, event, received_ms, targets, written, views)
        self._counters["deliveries"] += len(plan.records)
        if plan.filtered:
            self._counters["filtered"] += plan.filtered
        records = plan.records
        for subscription_id, failure in plan.failed:
            records += self._dead(event, received_ms, value, subscription_id, failure)
        return records

    def _dead(
        self, event: Event, received_ms: int, value: bytes, subscription_id: str, failure: Failure
    ) -> tuple[Out, Out]:
        """The end of a delivery that was never one: a dead letter with the event as it came."""
        self._counters[f"dead:{failure.reason}"] += 1
        fields = codec.put_string(subscription_id) + FRESH
        tail = encode_tail(event, received_ms, AVRO, value)
        fresh = encode_fresh(self._records.wire.v1, delivery_id(event.id, subscription_id), fields, tail)
        delivery, now_ms = decode_delivery(fresh), self._clock.now_ms()
        detail = failure.detail[:DETAIL_LENGTH_MAX]
        end = self._records.end(delivery, "rejected", now_ms, detail)
        return end, self._records.dead_letter(delivery, failure.reason, detail, now_ms)

    def _targets_of(self, tenant: str, event_type: str) -> Targets:
        matched = self._table.match(tenant, event_type)
        targets = self._targets.get((tenant, event_type))
        if targets is None or targets.subscriptions is not matched:  # the table changed
            if len(self._targets) >= TARGETS_MAX:
                self._targets.clear()
            targets = Targets(matched, targets)
            self._targets[tenant, event_type] = targets
        return targets

    async def _decoder(self, schema_id: int) -> EventDecoder:
        text = await schema_text(self._registry, schema_id, self._counters)
        try:
            decoder = event_decoder(text)
        except ValueError as error:
            raise UndecodableError("bad_schema", f"the schema of id {schema_id} cannot be read: {error}") from None
        if len(self._decoders) >= DECODERS_MAX:
            self._decoders.clear()
        self._decoders[schema_id] = decoder
        return decoder


def _same(written: View, _: int) -> View:
    return written
