"""From a record of `events` to the deliveries of an event: decoded, matched, planned. Shared by fan-out and replays.

Only a registry that does not answer makes it wait. This file reads no topic and writes nothing; what cannot be decoded
is an error, what cannot be made for one subscription is said in the plan, and callers know what to do with both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from schemas import codec
from schemas.delivery import FRESH, Delivery, Pairs, Wire, decode_delivery, encode_fresh, encode_tail
from schemas.errors import UndecodableError
from schemas.event import CloudEventDecoder, Event, event_decoder
from schemas.frame import Headers, Record
from schemas.ids import delivery_id
from schemas.subscription import Subscription
from schemas.topics import DATA_BYTES_MAX, EVENT_BYTES_MAX
from streams.core.fanout import Plan, Targets, deliveries
from streams.core.formats import AVRO
from streams.core.views import View
from streams.counters import Counters
from streams.lookup import Decoders
from streams.ports import Clock, Registry, SubscriptionTable
from streams.versions import Versions

TARGETS_MAX = 50_000
DETAIL_LENGTH_MAX = 1_000


class Read(msgspec.Struct, frozen=True, gc=False):
    """An event as it was read: its record's value, and what that was written with."""

    event: Event
    received_ms: int
    value: bytes
    schema_id: int
    versioned: bool  # an envelope's data is JSON, and of no version


class Recipients:
    """Who gets deliveries, where they are written, and what they carry."""

    def __init__(
        self,
        table: SubscriptionTable,
        topic: str,
        wire: Wire,
        *,
        keep: Callable[[Subscription], bool] | None = None,
        headers: Pairs = (),
    ) -> None:
        """Of the table's subscriptions, those that `keep` says, or all. `headers` are put on every delivery."""
        self.topic = topic
        self.wire = wire
        self.headers = headers
        self._table = table
        self._keep = keep
        self._targets: dict[tuple[str, str], Targets] = {}

    def targets(self, tenant: str, event_type: str) -> Targets:
        """The matching ones of now, prepared; the same until the table changes."""
        matched = self._table.match(tenant, event_type)
        targets = self._targets.get((tenant, event_type))
        if targets is None or targets.subscriptions is not matched:  # the table changed
            if len(self._targets) >= TARGETS_MAX:
                self._targets.clear()
            targets = Targets(matched, targets, self._keep)
            self._targets[tenant, event_type] = targets
        return targets


class Planner:
    """Decoders and versions of one stage. For one event loop."""

    def __init__(self, registry: Registry, events_topic: str, clock: Clock, counters: Counters) -> None:
        self._clock = clock
        self._versions = Versions(registry, events_topic, clock, counters)
        self._decoders = Decoders(registry, counters, event_decoder)

    async def read(self, record: Record) -> Read:
        """The event in a record of the topic. UndecodableError when there is none."""
        kind, timestamp_ms = record.timestamp()
        received_ms = timestamp_ms if kind else self._clock.now_ms()
        return await self.read_value(record.value(), record.headers(), received_ms)

    async def read_value(self, value: bytes | None, headers: Headers | None, received_ms: int) -> Read:
        """The same of a value and its headers."""
        schema_id = codec.wire_schema_id(value)
        assert value is not None  # or there would be no schema id
        if len(value) > EVENT_BYTES_MAX:
            raise UndecodableError(
                "too_large", f"{len(value)} bytes are more than an event may have ({EVENT_BYTES_MAX})"
            )
        decoder = await self._decoders.of(schema_id)
        event = decoder.decode(value, headers, received_ms)
        if len(event.data) > DATA_BYTES_MAX:  # a delivery that no topic takes would end every worker that tries
            raise UndecodableError("too_large", f"its JSON of {len(event.data)} bytes is more than {DATA_BYTES_MAX}")
        return Read(event, received_ms, value, schema_id, type(decoder) is CloudEventDecoder)

    async def plan(self, read: Read, recipients: Recipients) -> Plan | None:
        """Its deliveries to the recipients of now; None when nobody asks for it."""
        event, schema_id = read.event, read.schema_id
        targets = recipients.targets(event.tenant, event.type)
        while read.versioned and targets.count and not self._versions.ready(schema_id, targets.parts):
            await self._versions.prepare(schema_id, targets.parts)
            targets = recipients.targets(event.tenant, event.type)  # the table may have changed meanwhile
        if not targets.count:
            return None
        views: Callable[[int], View]
        if read.versioned:
            views = self._versions.views(schema_id, read.value, event.data)
            written = views(0)
        else:
            written = View(read.value, event.data, 0)
            views = partial(_same, written)
        to = recipients
        return deliveries(to.topic, to.wire, event, read.received_ms, targets, written, views, to.headers)


def unmade(read: Read, subscription_id: str, recipients: Recipients) -> Delivery:
    """What a dead letter holds in place of a delivery that could not be made: the event as it came."""
    headers = recipients.headers
    fields = codec.put_string(subscription_id) + FRESH
    tail = encode_tail(read.event, read.received_ms, AVRO, read.value, headers)
    wire = recipients.wire.v2 if headers else recipients.wire.v1
    fresh = encode_fresh(wire, delivery_id(read.event.id, subscription_id), fields, tail)
    return decode_delivery(fresh, 2 if headers else 1)


def _same(written: View, _: int) -> View:
    return written
