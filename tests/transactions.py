"""Waiting for what tests wrote in transactions of their own to be there for those who read committed records.

A commit returns when the coordinator has decided on it: the markers, which let readers pass, are written a moment
later (a second, on a busy machine). Who reads to "the end" before that ends too early. This file writes nothing.
"""

from __future__ import annotations

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from tests.helpers import eventually

REQUEST_SECONDS = 60.0


def readable(bootstrap: str, topic: str) -> None:
    """Wait until every transaction that is open on the topic now has ended."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    partitions = admin.list_topics(topic, timeout=REQUEST_SECONDS).topics[topic].partitions
    places = [TopicPartition(topic, number) for number in partitions]

    def ends(isolation: IsolationLevel) -> list[int]:
        """Nothing while a partition's broker does not know yet that it leads it, as of a topic that is new."""
        asked = {place: OffsetSpec.latest() for place in places}  # type: ignore[no-untyped-call]
        answers = admin.list_offsets(asked, isolation_level=isolation, request_timeout=REQUEST_SECONDS)
        try:
            return [answers[place].result().offset for place in places]
        except KafkaException as error:
            if not error.args[0].retriable() and error.args[0].code() != KafkaError.NOT_LEADER_FOR_PARTITION:
                raise
            return []

    written = eventually(lambda: ends(IsolationLevel.READ_UNCOMMITTED))

    def passed() -> bool:
        found = ends(IsolationLevel.READ_COMMITTED)
        return bool(found) and all(end >= last for end, last in zip(found, written, strict=True))

    eventually(passed, message=f"what is committed can be read in {topic}")
