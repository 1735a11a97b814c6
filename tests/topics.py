"""Topics of a test's own, which are there when they have been created."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from tests.helpers import eventually

SECONDS = 60.0


def create_topics(admin: AdminClient, *topics: NewTopic) -> None:
    """On return, brokers have the logs of all partitions: the controller answers before they know of a topic."""
    for created in admin.create_topics(list(topics)).values():
        created.result(SECONDS)
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked: dict[TopicPartition, Any] = {
        TopicPartition(topic.topic, number): latest for topic in topics for number in range(topic.num_partitions)
    }

    def there() -> bool:
        try:
            for end in admin.list_offsets(asked, request_timeout=SECONDS).values():
                end.result(SECONDS)
        except KafkaException:
            return False
        return True

    eventually(there, message=f"the brokers have {[topic.topic for topic in topics]}")
