"""Operations as events: what operators may want to hear of, fanned out to the subscriptions of their own tenant.

A stage of the fan-out role that reads `operations` and hands what it reads to the ordinary fan-out, as events
`operation.<kind>` of one tenant. What is about that tenant's own subscriptions is passed over: an endpoint that is told
of its own failures would make more of them for ever. This file writes no operations.
"""

from __future__ import annotations

import hashlib

from schemas import codec
from schemas.errors import UndecodableError, UnresolvableError
from schemas.event import Event, checked
from schemas.frame import Frame, Out, Record
from schemas.operation_types import PREFIX
from schemas.rendering import render_json
from schemas.resolution import Resolver
from schemas.topics import Topics
from streams.counters import Counters
from streams.fan_out import FanOut
from streams.lookup import Decoders
from streams.planning import Read
from streams.ports import Registry
from streams.quarantine import quarantined
from streams.settle import Settler


class OperationEvents:
    """The stage; one per fan-out worker."""

    def __init__(
        self, topics: Topics, tenant: str, registry: Registry, fan_out: FanOut, settler: Settler, counters: Counters
    ) -> None:
        """`tenant` is whose subscriptions hear of operations."""
        self._topics = topics
        self._tenant = tenant
        self._fan_out = fan_out
        self._settler = settler
        self._counters = counters
        self._decoders = Decoders(registry, counters, Resolver)

    async def process(self, frame: Frame) -> None:
        """Fan a frame out and hand it to the settler; waits for room there."""
        ledger = frame.ledger
        if not ledger.live or ledger.retiring:
            return
        done = frame.open()
        for record in frame.records:
            try:
                outs = await self._deliveries(frame.partition, record)
            except UndecodableError as error:
                place = frame.topic, frame.partition
                outs = [quarantined(self._topics.quarantine, *place, record, error, self._counters)]
            done.append(record.offset())
            if outs:
                self._settler.settle(frame.topic, frame.partition, ledger, done, outs)
                await self._settler.room()
                done = []
        if done:
            self._settler.settle(frame.topic, frame.partition, ledger, done, [])

    async def _deliveries(self, partition: int, record: Record) -> list[Out]:
        """Of one operation. UndecodableError when it is none."""
        value = record.value()
        schema_id = codec.wire_schema_id(value)
        assert value is not None  # or there would be no schema id
        decoder = await self._decoders.of(schema_id)
        try:
            document = decoder.record(value)
            about, tenant = document["subscription_id"], document["tenant"]
            event = checked(
                Event(
                    id=_id(partition, record.offset(), value),
                    type=PREFIX + document["kind"],
                    tenant=self._tenant,
                    time_ms=document["at_ms"],
                    data=render_json(document),
                    subject=about or document.get("replay_id") or None,
                )
            )
        except UnresolvableError as error:
            raise UndecodableError("bad_data", f"the record cannot be written as JSON: {error}") from None
        except (KeyError, TypeError):  # any schema may be written with
            raise UndecodableError("not_an_operation", "the record is no distributary.Operation") from None
        if (about and tenant == self._tenant) or not self._fan_out.wanted(event):
            return []
        self._counters["events"] += 1
        kind, written_ms = record.timestamp()
        received_ms = written_ms if kind else event.time_ms
        return await self._fan_out.planned(Read(event, received_ms, value, schema_id, versioned=True))


def _id(partition: int, offset: int, value: bytes) -> str:
    """The event's: the same whenever this record is read, and of no other, also where a topic was made anew."""
    return "op_" + hashlib.blake2b(b"%d:%d:" % (partition, offset) + value, digest_size=15).hexdigest()
