"""Where records of a topic stand: on the fake and on a real Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from connectors.extents import TopicExtents
from connectors.local_kafka import Cluster
from connectors.memory import MemoryExtents, MemoryKafka
from streams.ports import Extents
from tests.helpers import eventually_async
from tests.topics import create_topics

START_MS = 1_760_000_000_000
#: Of the records of partition 0, by offset: out of order, as producers' clocks are.
TIMES = (10, 30, 20, 40)


@pytest.fixture(params=["memory", "kafka"])
def extents(request: pytest.FixtureRequest, prefix: str) -> Iterator[tuple[Extents, str]]:
    """Of a topic with two partitions, the second empty; in the first, four records and one that is not committed."""
    topic = f"{prefix}log"
    if request.param == "memory":
        now = iter(TIMES)
        memory = MemoryKafka({topic: 2}, now_ms=lambda: START_MS + next(now))
        memory.write([(topic, None, b"v", 0, None) for _ in TIMES])
        yield MemoryExtents(memory), topic
        return
    cluster: Cluster = request.getfixturevalue("kafka")
    config = {"bootstrap.servers": cluster.bootstrap}
    admin = AdminClient(dict(config))
    create_topics(admin, NewTopic(topic, 2, 1, config={"retention.ms": "-1"}))
    plain = Producer(config)
    for time_ms in TIMES:
        plain.produce(topic, b"v", partition=0, timestamp=START_MS + time_ms)
        assert plain.flush(60) == 0
    producer = Producer({**config, "transactional.id": topic})
    producer.init_transactions(60)
    producer.begin_transaction()
    producer.produce(topic, b"open", partition=0, timestamp=START_MS + 50)
    assert producer.flush(60) == 0
    yield TopicExtents(config), topic
    producer.abort_transaction()


#: (since, until, start, end), of the first partition.
CASES = (
    (None, None, 0, 4),  # what is in an open transaction stands behind
    (0, 1, 0, 0),
    (15, None, 1, 4),
    (20, 35, 1, 3),
    (30, 20, 1, 1),
    (40, 100, 3, 4),
    (41, None, 4, 4),
)


async def test_who_does_not_answer_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    nobody = TopicExtents({"bootstrap.servers": "127.0.0.1:1"})
    asking = asyncio.create_task(nobody("t", None, None))
    await eventually_async(lambda: "is not known" in caplog.text, message="it says so")
    assert not asking.done()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def test_extents(extents: tuple[Extents, str]) -> None:
    ask, topic = extents
    for since, until, start, end in CASES:
        times = (None if since is None else START_MS + since, None if until is None else START_MS + until)
        assert sorted(await ask(topic, *times)) == [(0, start, end), (1, 0, 0)]
