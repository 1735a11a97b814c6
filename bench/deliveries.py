"""`deliveries`: the delivery agent, from records in Kafka to answered POSTs settled in Kafka, next to a bare aiohttp
POST loop."""

from __future__ import annotations

import asyncio

import aiohttp

from bench import harness
from bench.fan_out import DATA, settings, subscriptions
from bench.harness import cpu_s, report, until
from schemas import codec
from schemas.delivery import FRESH, encode_fresh, encode_tail
from schemas.event import Event
from schemas.ids import delivery_id
from schemas.subscription import subscription_to_json
from streams.app import Worker
from streams.core.fanout import render
from streams.wiring import make_registry, register_own_schemas

DELIVERIES = 60_000
ENDPOINTS = 16
POSTS = 15_000
CONNECTIONS = 64
WARM_PART = 0.2
ROUNDS = 3


async def engine(bootstrap: str, prefix: str, partitions: int, deliveries: int) -> None:
    """A role: a delivery worker; reports deliveries a CPU second, from the first fifth until all are settled."""
    worker = Worker(settings(bootstrap, prefix, partitions), ["delivery"])
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    counters = worker.counters
    await until(lambda: counters["delivered"] >= deliveries * WARM_PART)
    first, started = counters["delivered"], cpu_s()
    await until(lambda: counters["delivered"] >= deliveries)
    stop.set()
    await running
    report((counters["delivered"] - first) / (cpu_s() - started))


async def raw_aiohttp(port: int, posts: int) -> None:
    """A role: POSTs a CPU second, with nothing else to do: no Kafka, no signature, no log."""
    body = render(Event("evt_1", "order.created", "default", 1_700_000_000_000, DATA), "standard")[1]
    headers = {
        "content-type": "application/json",
        "webhook-id": "dlv_" + "0" * 30,
        "webhook-timestamp": "1700000000",
        "webhook-signature": "v1," + "A" * 43 + "=",
    }
    numbers = iter(range(posts))
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    ) as session:

        async def lane() -> None:
            for _ in numbers:
                async with session.post(
                    f"http://127.0.0.1:{port}/hook", data=body, headers=headers, allow_redirects=False
                ) as response:
                    await response.read()

        started = cpu_s()
        await asyncio.gather(*(lane() for _ in range(CONNECTIONS)))
        report(posts / (cpu_s() - started))


def fill(bootstrap: str, partitions: int, url: str, deliveries: int, endpoints: int) -> str:
    """Topics with subscriptions and delivery records, as fan-out writes them; the prefix."""
    topics = harness.new_topics(bootstrap, partitions)
    registry = make_registry(settings(bootstrap, topics.prefix, partitions))
    schema_ids = asyncio.run(register_own_schemas(registry, topics))
    producer = harness.filler(bootstrap)
    wanted = subscriptions(url, endpoints)
    for subscription in wanted:
        producer.produce(topics.subscriptions, subscription_to_json(subscription), subscription.id)
    header = codec.wire_header(schema_ids.delivery)
    for number in range(deliveries):
        event = Event(f"evt_{number:020d}", "order.created", "default", 1_700_000_000_000, DATA, f"o-{number}")
        content_type, body = render(event, "standard")
        tail = encode_tail(event, event.time_ms, content_type, body)
        subscription = wanted[number % endpoints]
        value = encode_fresh(
            header, delivery_id(event.id, subscription.id), codec.put_string(subscription.id) + FRESH, tail
        )
        producer.produce(topics.deliveries, value, subscription.id)
        if number % 20_000 == 0:
            producer.poll(0)
    producer.flush()
    return topics.prefix


def main(bootstrap: str) -> None:
    """Ours and aiohttp in turns against one sink, the best of each. aiohttp as `asyncio.run` has it, which is the
    reference, and on uvloop, where it is faster on some machines and not on others."""
    ours, stock, uvloop = [], [], []
    with harness.role("bench.sink:serve") as sink:
        port = sink.line()
        for _ in range(ROUNDS):
            prefix = fill(bootstrap, 8, f"http://127.0.0.1:{port}/hook", DELIVERIES, ENDPOINTS)
            ours.append(
                harness.run(
                    "bench.deliveries:engine", bootstrap=bootstrap, prefix=prefix, partitions=8, deliveries=DELIVERIES
                )
            )
            stock.append(harness.run("bench.deliveries:raw_aiohttp", port=port, posts=POSTS, stock_loop=True))
            uvloop.append(harness.run("bench.deliveries:raw_aiohttp", port=port, posts=POSTS))
    best = max(ours)
    for name, figures in (("raw_aiohttp", stock), ("raw_aiohttp_uvloop", uvloop)):
        harness.show(name, max(figures), "posts/cpu_s")
        harness.show("deliveries", best, "deliveries/cpu_s", ratio=best / max(figures), vs=name)
