"""A topic of attempts, filled in transactions as workers fill it: some of them aborted."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import Producer

from connectors.clock import SystemClock
from connectors.publisher import PRODUCER_CONFIG
from connectors.registry_folder import FolderRegistry
from schemas import codec
from schemas.delivery import FRESH, Attempt, Delivery, decode_delivery, encode_attempt, encode_fresh, encode_tail
from schemas.event import Event
from schemas.ids import delivery_id
from schemas.topics import Topics
from streams.wiring import register_own_schemas

TRANSACTION = 500


def delivery(subscription_id: str, number: int, at_ms: int) -> Delivery:
    event = Event(f"evt_{number}", "order.created", "acme", at_ms, b"{}", f"o-{number}")
    field = codec.put_string(subscription_id) + FRESH
    header = codec.wire_header(1)
    value = encode_fresh(header, delivery_id(event.id, subscription_id), field, encode_tail(event, at_ms, "a/b", b"{}"))
    return decode_delivery(value)


async def attempt_header(topics: Topics) -> bytes:
    """Of the schema that attempts are written with, by the registry that commands use when none is named."""
    registry = FolderRegistry(None, monotonic=SystemClock().monotonic)
    return codec.wire_header((await register_own_schemas(registry, topics)).attempt)


class AttemptLog:
    """Writes to the topic."""

    def __init__(self, bootstrap: str, topic: str, header: bytes) -> None:
        self.topic = topic
        self.header = header
        self._producer = Producer({**PRODUCER_CONFIG, "bootstrap.servers": bootstrap, "transactional.id": topic})
        self._producer.init_transactions()

    def write(self, attempts: Iterable[tuple[Delivery, Attempt]]) -> None:
        """In transactions; every fifth is written twice, and the first time aborted."""
        waiting = list(attempts)
        for number, begin in enumerate(range(0, len(waiting), TRANSACTION)):
            part = waiting[begin : begin + TRANSACTION]
            if number % 5 == 4:
                self._produce(part)
                self._producer.flush()
                self._producer.abort_transaction()
            self._produce(part)
            self._producer.commit_transaction()

    def raw(self, value: bytes | None) -> None:
        """One record that may be anything."""
        self._producer.begin_transaction()
        self._producer.produce(self.topic, value, b"s1")
        self._producer.commit_transaction()

    def _produce(self, part: list[tuple[Delivery, Attempt]]) -> None:
        self._producer.begin_transaction()
        for one, made in part:
            self._producer.produce(self.topic, encode_attempt(self.header, one, made), one.subscription_id.encode())
        self._producer.poll(0)
