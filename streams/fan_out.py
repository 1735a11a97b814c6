"""Fan-out: from frames of events to delivery records, settled with the events' offsets.

Each event is decoded, matched against the subscriptions of now, and planned; results go to the settler frame by frame,
so the order of a source partition is kept. What cannot be decoded goes to quarantine with its reason and the stream
goes on; only a registry that does not answer makes it wait. This stage sees ports; it does not consume and does not
write.
"""

from __future__ import annotations

from schemas import codec
from schemas.errors import UndecodableError
from schemas.event import EventDecoder, event_decoder
from schemas.frame import Frame, Out, Record
from schemas.topics import DATA_BYTES_MAX, EVENT_BYTES_MAX, Topics
from streams.core.fanout import Targets, deliveries
from streams.counters import Counters
from streams.lookup import schema_text
from streams.ports import Clock, Registry, SubscriptionTable
from streams.quarantine import quarantined
from streams.settle import Settler

DECODERS_MAX = 10_000
TARGETS_MAX = 50_000
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
        delivery_schema_id: int,
    ) -> None:
        """`delivery_schema_id` is the registry's id of delivery.v1."""
        self._topics = topics
        self._table = table
        self._registry = registry
        self._settler = settler
        self._clock = clock
        self._counters = counters
        self._header = codec.wire_header(delivery_schema_id)
        self._decoders: dict[int, EventDecoder] = {}
        self._targets: dict[tuple[str, str], Targets] = {}

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
        if not targets.count:
            self._counters["unmatched"] += 1
            return []
        self._counters["deliveries"] += targets.count
        return deliveries(self._topics.deliveries, self._header, event, received_ms, targets)

    def _targets_of(self, tenant: str, event_type: str) -> Targets:
        matched = self._table.match(tenant, event_type)
        targets = self._targets.get((tenant, event_type))
        if targets is None or targets.subscriptions is not matched:  # the table changed
            if len(self._targets) >= TARGETS_MAX:
                self._targets.clear()
            targets = Targets(matched)
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
