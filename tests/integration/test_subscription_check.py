"""A bad subscription ends in quarantine once, however many workers follow the topic and however often they start."""

from __future__ import annotations

import asyncio

from confluent_kafka import Producer

from connectors.admin import apply_topics
from connectors.local_kafka import Cluster
from schemas.subscription import subscription_to_json
from streams.app import Worker
from streams.quarantine import REASON, SOURCE_OFFSET, SOURCE_TOPIC
from streams.settings import Settings
from streams.wiring import client_config
from tests.helpers import eventually_async
from tests.integration.workers import Site
from tests.subscriptions_topic import sub

BAD_URL = b'{"id":"bad","url":"ftp://nowhere","event_types":["*"],"secrets":["whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]}'


def read_all(settings: Settings, topic: str) -> list[tuple[bytes | None, bytes | None, dict[str, bytes | None]]]:
    """Every committed record of a topic: (key, value, headers)."""
    site = Site(settings, None)  # type: ignore[arg-type]  # writes no event of its own
    return [(each.key(), each.value(), dict(each.headers() or ())) for each in site.read(topic)]


async def test_each_bad_record_is_quarantined_once(kafka: Cluster, prefix: str) -> None:
    settings = Settings(bootstrap=kafka.bootstrap, prefix=prefix, partitions=1, drain_s=2)
    topics = settings.topics
    await apply_topics(client_config(settings), topics.specs(), 1)
    producer = Producer(client_config(settings))
    producer.produce(topics.subscriptions, BAD_URL, b"bad")
    producer.produce(topics.subscriptions, subscription_to_json(sub("good")), b"good")
    producer.produce(topics.subscriptions, b"\x00\x00\x00\x00\x07nonsense", b"good")
    assert producer.flush(60) == 0

    for _ in range(2):  # the second worker finds the same records, and nothing to do
        stop, ready = asyncio.Event(), asyncio.Event()
        worker = Worker(settings, ["fan-out"], on_ready=ready.set)
        running = asyncio.create_task(worker.run(stop))
        await eventually_async(lambda: ready.is_set() or running.done())  # noqa: B023
        counted = await eventually_async(lambda: len(read_all(settings, topics.quarantine)) >= 2)
        assert counted
        stop.set()
        await running

    kept = read_all(settings, topics.quarantine)
    assert [(key, value, headers[REASON]) for key, value, headers in kept] == [
        (b"bad", BAD_URL.replace(b"A" * 32, "…".encode()), b"invalid"),
        (b"good", b"\x00\x00\x00\x00\x07nonsense", b"unknown_schema"),
    ]
    assert [headers[SOURCE_TOPIC] for *_, headers in kept] == [topics.subscriptions.encode()] * 2
    assert [headers[SOURCE_OFFSET] for *_, headers in kept] == [b"0", b"2"]
