"""Events through the API on a real Kafka: acknowledged means written, once, whoever dies or repeats."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from connectors.clock import SystemClock
from connectors.ingest import Ingest, IngestLimits, Once, event_key, kafka_ingest
from connectors.local_kafka import Cluster
from schemas.codec import own_schema
from schemas.event import Event, event_decoder
from tests.helpers import eventually_async
from tests.integration.workers import Site
from tests.transactions import readable

DECODER = event_decoder(own_schema("event.v3"))


def ids_of(site: Site) -> Counter[str]:
    """How often each event's id is on the topic."""
    return Counter(DECODER.decode(each.value(), None, 0).id for each in site.read(site.topics.events))


@asynccontextmanager
async def ingest(site: Site, name: str, **limits: Any) -> AsyncIterator[Ingest]:
    made = kafka_ingest(
        {"bootstrap.servers": site.settings.bootstrap},
        site.topics,
        transactional_id=f"{site.settings.prefix}{name}",
        event_schema=site.schemas.event,
        seen_schema=site.schemas.seen,
        clock=SystemClock(),
        limits=IngestLimits(**{"wait_s": 60.0} | limits),
    )
    try:
        await made.start()
        yield made
    finally:
        await made.close()


def entries(port: Ingest, ids: list[str], digest: bytes = b"d") -> list[Any]:
    return [
        port.entry(Event(each, "a", "acme", 1, b"{}", each), Once(event_key("acme", each), digest, each))
        for each in ids
    ]


async def test_what_one_process_published_another_one_knows(kafka: Cluster, prefix: str) -> None:
    site = await Site.made(kafka.bootstrap, prefix)
    async with ingest(site, "one") as one, ingest(site, "two") as two:
        await one.publish(entries(one, ["e1", "e2"]))
        await eventually_async(lambda: two.knows(event_key("acme", "e2")), message="two has followed")
        answer = await two.publish(entries(two, ["e1", "e2", "e3"]))
        assert answer.duplicates == {0, 1}
    readable(kafka.bootstrap, site.topics.seen)
    async with ingest(site, "one") as again:
        assert (await again.publish(entries(again, ["e1", "e2", "e3"]))).duplicates == {0, 1, 2}
    assert ids_of(site) == {"e1": 1, "e2": 1, "e3": 1}


async def test_concurrent_calls_share_transactions_and_keep_the_order_of_a_subject(kafka: Cluster, prefix: str) -> None:
    site = await Site.made(kafka.bootstrap, prefix)
    async with ingest(site, "one") as port:

        async def client(subject: int) -> None:
            for n in range(50):
                event = Event(f"{subject}-{n}", "a", "acme", 1, b"{}", f"s{subject}")
                await port.publish([port.entry(event)])

        await asyncio.gather(*(client(subject) for subject in range(20)))
    seen: dict[str, list[int]] = {}
    for message in site.read(site.topics.events):
        subject, _, number = DECODER.decode(message.value(), None, 0).id.partition("-")
        seen.setdefault(subject, []).append(int(number))
    assert all(numbers == list(range(50)) for numbers in seen.values())
    assert len(seen) == 20


async def test_of_a_long_log_only_what_can_be_remembered_is_read(kafka: Cluster, prefix: str) -> None:
    site = await Site.made(kafka.bootstrap, prefix)
    numbers = itertools.count()
    async with ingest(site, "one") as port:
        for _ in range(10):
            await port.publish(entries(port, [f"e{next(numbers)}" for _ in range(200)]))
    async with ingest(site, "one", marks_max=1_000) as port:
        assert port.known <= 1_000
        last = [f"e{n}" for n in range(1_200, 2_000)]
        assert len((await port.publish(entries(port, last))).duplicates) == 800
    async with ingest(site, "one", marks_max=100) as port:
        assert len((await port.publish(entries(port, [f"e{n}" for n in range(1_950, 2_000)]))).duplicates) == 50
        assert len((await port.publish(entries(port, ["e0"]))).duplicates) == 0  # long forgotten
