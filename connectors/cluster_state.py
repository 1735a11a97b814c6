"""How a cluster and its consumer groups stand, for whoever looks for what is wrong.

Each function makes a client of its own and blocks in a thread, as those of `connectors/admin.py` do. This file does
NOT judge what it sees, joins no group and commits nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import OffsetSpec

from connectors.admin import REQUEST_SECONDS, connected, silent_logger, translated, unavailable
from connectors.clock import SystemClock
from connectors.group_offsets import listed_offsets
from connectors.kafka_rights import DENIED, denied
from connectors.unsubscribed import unsubscribed
from schemas.frame import Record

_POLL_S = 0.1

#: Topic, partition, offset.
Place = tuple[str, int, int]


async def list_brokers(config: Mapping[str, Any]) -> list[str]:
    """host:port of every broker that the cluster has now. ClusterError."""
    brokers = (await asyncio.to_thread(lambda: connected(config).list_topics(timeout=REQUEST_SECONDS))).brokers
    return sorted(f"{broker.host}:{broker.port}" for broker in brokers.values())


async def leaderless(config: Mapping[str, Any], topics: Sequence[str]) -> list[str]:
    """Partitions without a leader, as topic[number]: nothing can be read from them or written to them. ClusterError."""
    metadata = await asyncio.to_thread(lambda: connected(config).list_topics(timeout=REQUEST_SECONDS))
    return [
        f"{name}[{number}]"
        for name in topics
        if name in metadata.topics
        for number, partition in sorted(metadata.topics[name].partitions.items())
        if partition.leader < 0
    ]


async def newest_timestamps(config: Mapping[str, Any], topics: Sequence[str]) -> dict[str, int]:
    """By topic the greatest timestamp of its records, in milliseconds since the epoch; without topics that are empty.

    Topics that do not exist are left out too. ClusterError.
    """
    return await asyncio.to_thread(_newest_timestamps, config, topics)


async def first_records(config: Mapping[str, Any], places: Sequence[Place]) -> dict[tuple[str, int], Record]:
    """By partition the first committed record at the offset or behind it; without partitions that have none.

    ClusterError when Kafka does not answer in time.
    """
    return await asyncio.to_thread(_first_records, config, places) if places else {}


async def try_transactions(config: Mapping[str, Any], transactional_id: str) -> None:
    """Get ready for transactions under this id, as a worker does, and begin none. ClusterError when that fails.

    What stays behind is the id, which Kafka forgets by itself.
    """
    await asyncio.to_thread(_try_transactions, config, transactional_id)


def _newest_timestamps(config: Mapping[str, Any], topics: Sequence[str]) -> dict[str, int]:
    admin = connected(config)
    with translated(config):
        present = admin.list_topics(timeout=REQUEST_SECONDS).topics
        spec = OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]
        places = [(name, each) for name in topics if name in present for each in present[name].partitions]
        found: dict[str, int] = {}
        for (topic, _), info in listed_offsets(admin, places, spec).items():
            if info.timestamp >= 0:
                found[topic] = max(found.get(topic, 0), info.timestamp)
    return found


def _first_records(config: Mapping[str, Any], places: Sequence[Place]) -> dict[tuple[str, int], Record]:
    errors: list[KafkaError] = []
    consumer = Consumer(
        {
            "fetch.wait.max.ms": 50,
            "queued.max.messages.kbytes": 4_096,
            **config,
            **unsubscribed("doctor"),
            "error_cb": errors.append,
        },
        logger=silent_logger(),
    )
    clock = SystemClock()
    try:
        consumer.assign([TopicPartition(*place) for place in places])
        waited = {(topic, partition) for topic, partition, _ in places}
        found: dict[tuple[str, int], Record] = {}
        deadline = clock.monotonic() + REQUEST_SECONDS
        while waited:
            if clock.monotonic() > deadline:
                raise unavailable(config, errors[-1] if errors else KafkaError(KafkaError._TIMED_OUT))
            for message in consumer.consume(500, _POLL_S):
                error, topic, partition = message.error(), message.topic(), message.partition()
                assert topic is not None
                assert partition is not None
                if error is None and (topic, partition) in waited:
                    found[topic, partition] = message  # type: ignore[assignment]
                elif error is not None and error.code() != KafkaError._PARTITION_EOF:
                    errors.append(error)
                    continue
                if (topic, partition) in waited:
                    waited.discard((topic, partition))
                    consumer.incremental_unassign([TopicPartition(topic, partition)])
    except KafkaException as error:
        raise unavailable(config, error.args[0]) from None
    finally:
        consumer.close()
    return found


def _try_transactions(config: Mapping[str, Any], transactional_id: str) -> None:
    try:
        producer = Producer({**config, "transactional.id": transactional_id}, logger=silent_logger())
        producer.init_transactions(REQUEST_SECONDS)
    except KafkaException as error:
        cause = error.args[0]
        if cause.code() in DENIED:
            raise denied(cause, "WRITE", transaction=transactional_id) from None
        raise unavailable(config, cause) from None
