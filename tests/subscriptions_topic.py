"""A subscriptions topic of a test's own: created, written to, and followed by a table."""

from __future__ import annotations

from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from connectors.memory import MemoryRegistry
from connectors.subscriptions import SubscriptionsTable
from schemas import codec
from schemas.frame import Headers
from schemas.subscription import Subscription, checked, subscription_to_json
from streams.core.match import MatchIndex
from tests.topics import create_topics

SECRET = "whsec_" + "A" * 32


def sub(subscription_id: str, *event_types: str, **other: Any) -> Subscription:
    """A valid subscription; to every event type when none is given."""
    fields = {"url": f"https://{subscription_id.replace('_', '-')}.example.com/", "secrets": (SECRET,)}
    return checked(Subscription(id=subscription_id, event_types=event_types or ("*",), **fields | other))


def fields_of(subscription: Subscription) -> dict[str, Any]:
    """What fastavro writes."""
    return {
        name: list(value) if isinstance(value := getattr(subscription, name), tuple) else value
        for name in Subscription.__struct_fields__
    }


class CompactedTopic:
    """A topic; writing returns when the broker has it."""

    def __init__(
        self, bootstrap: str, name: str, *, partitions: int = 1, cleanup: str = "compact", create: bool = True
    ) -> None:
        self.conf: dict[str, Any] = {"bootstrap.servers": bootstrap}
        self.name = name
        self._producer = Producer(self.conf)
        if not create:
            return
        topic = NewTopic(name, partitions, 1, config={"cleanup.policy": cleanup})
        create_topics(AdminClient(self.conf), topic)

    def write(
        self, key: bytes | str | None, value: bytes | None, *, partition: int = 0, headers: Headers | None = None
    ) -> None:
        """One record as it is."""
        self._producer.produce(self.name, value, key, partition=partition, headers=list(headers or []))
        assert self._producer.flush(60) == 0


class SubscriptionsTopic(CompactedTopic):
    """One of subscriptions."""

    def __init__(self, bootstrap: str, name: str, **options: Any) -> None:
        super().__init__(bootstrap, name, **options)
        self.registry = MemoryRegistry()

    def write_all(self, subscriptions: list[Subscription]) -> None:
        """Many at once, as JSON."""
        for number, subscription in enumerate(subscriptions):
            self._producer.produce(self.name, subscription_to_json(subscription), subscription.id, partition=0)
            if number % 10_000 == 0:
                self._producer.flush(60)
        assert self._producer.flush(60) == 0

    def put(self, subscription: Subscription, **where: Any) -> None:
        """One subscription, as JSON."""
        self.write(subscription.id, subscription_to_json(subscription), **where)

    async def put_avro(self, subscription: Subscription) -> None:
        """One subscription in our own schema."""
        text = codec.own_schema("subscription.v4")
        schema_id = await self.registry.register("subscriptions-value", text)
        self.write(subscription.id, codec.encode(schema_id, codec.parse_schema(text), fields_of(subscription)))

    def table(self, *, conf: dict[str, Any] | None = None, **options: Any) -> SubscriptionsTable:
        """A table that follows it; `stop` it."""
        parts: dict[str, Any] = {"index": MatchIndex(), "schemas": self.registry}
        return SubscriptionsTable(self.conf | (conf or {}), self.name, **parts | options)
