"""The records that the delivery stage writes: what became of deliveries, and of endpoints.

This file makes records and decides nothing; the stage hands them to the settler.
"""

from __future__ import annotations

import msgspec

from schemas import codec
from schemas.delivery import (
    EXCERPT_BYTES_MAX,
    Attempt,
    Delivery,
    Try,
    Wire,
    encode_attempt,
    encode_dead_letter,
    encode_delivery,
)
from schemas.endpoint import EndpointState, Operation, encode_operation, encode_state
from schemas.frame import Out
from schemas.post import PostResult
from schemas.topics import Topics
from streams.core.parked import FENCE, Order, finished_headers


class DeliverySchemas(msgspec.Struct, frozen=True):
    """The registry's ids of our record schemas. `delivery_v1` is what deliveries without headers are written with."""

    delivery_v1: int
    delivery: int
    attempt: int
    dead_letter: int
    endpoint_state: int = 0
    operation: int = 0


class Records:
    """Makes them under one table of topics and one set of schema ids."""

    def __init__(self, topics: Topics, schema_ids: DeliverySchemas) -> None:
        self._topics = topics
        self._attempts_topic = topics.attempts
        self._tiers = topics.tiers
        self.wire = Wire(codec.wire_header(schema_ids.delivery_v1), codec.wire_header(schema_ids.delivery))
        self._attempt_header = codec.wire_header(schema_ids.attempt)
        self._dead_header = codec.wire_header(schema_ids.dead_letter)
        self._state_header = codec.wire_header(schema_ids.endpoint_state)
        self._operation_header = codec.wire_header(schema_ids.operation)

    def attempt(
        self, delivery: Delivery, number: int, outcome: str, started_ms: int, result: PostResult, due_ms: int = 0
    ) -> Out:
        """One POST and what it came to."""
        attempt = Attempt(
            number,
            outcome,
            started_ms,
            result.duration_us,
            result.status,
            result.cause or "",
            result.detail or "",
            result.excerpt and result.excerpt[:EXCERPT_BYTES_MAX],
            due_ms,
        )
        value = encode_attempt(self._attempt_header, delivery, attempt)
        return (self._attempts_topic, delivery.subscription_id.encode(), value, -1, None)

    def end(self, delivery: Delivery, outcome: str, now_ms: int, detail: str) -> Out:
        """The end of a delivery without a POST, in the log of attempts."""
        attempt = Attempt(delivery.attempt, outcome, now_ms, detail=detail)
        value = encode_attempt(self._attempt_header, delivery, attempt)
        return (self._attempts_topic, delivery.subscription_id.encode(), value, -1, None)

    def dead_letter(self, delivery: Delivery, reason: str, detail: str, now_ms: int) -> Out:
        """A delivery given up."""
        value = encode_dead_letter(self._dead_header, delivery, reason, detail, now_ms)
        return (self._topics.dead, delivery.subscription_id.encode(), value, -1, None)

    def to_tier(self, delivery: Delivery, hold_ms: int, partition: int) -> Out:
        """To the partition of the tier that the delivery came from, whatever the key hashes to: it must stay with this
        endpoint's worker."""
        value = encode_delivery(self.wire, delivery)
        return (self._tiers[hold_ms], delivery.subscription_id.encode(), value, partition, None)

    def parked(self, delivery: Delivery, partition: int, order: Order | None) -> Out:
        """To the same partition of the parked ones, with its place where it has one."""
        value = encode_delivery(self.wire, delivery)
        headers = None if order is None else [order.header()]
        return (self._topics.parked, delivery.subscription_id.encode(), value, partition, headers)

    def finished(self, subscription_id: str, partition: int, offset: int, floor: int, order: Order | None) -> Out:
        """The marker that finishes a parked record, with the place that it had."""
        headers = finished_headers(offset, floor)
        if order is not None:
            headers.append(order.header())
        return (self._topics.parked, subscription_id.encode(), None, partition, headers)

    def fence(self, partition: int, token: str) -> Out:
        """A record whose return says that everything before it was seen."""
        return (self._topics.parked, None, None, partition, [(FENCE, token.encode())])

    def state(self, state: EndpointState) -> Out:
        """An endpoint's health."""
        value = encode_state(self._state_header, state)
        return (self._topics.endpoints_state, state.subscription_id.encode(), value, -1, None)

    def operation(self, operation: Operation) -> Out:
        """What an operator may want to hear of."""
        value = encode_operation(self._operation_header, operation)
        return (self._topics.operations, operation.key, value, -1, None)


def after(delivery: Delivery, number: int, due_ms: int, started_ms: int, result: PostResult) -> Delivery:
    """The delivery with this attempt in its memory."""
    entry = Try(started_ms, result.duration_us, result.status, result.cause or "", result.excerpt[:EXCERPT_BYTES_MAX])
    return msgspec.structs.replace(
        delivery,
        attempt=number,
        due_ms=due_ms,
        first_attempt_ms=delivery.first_attempt_ms or started_ms,
        tries=(*delivery.tries, entry),
    )
