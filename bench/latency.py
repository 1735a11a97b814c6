"""`latency_p50`, `latency_p99`: from an event handed to its producer to its POST at the endpoint, at 200 events a
second."""

from __future__ import annotations

import asyncio
import math
import time
import urllib.request

import uvloop
from confluent_kafka import Producer

from bench import harness
from bench.fan_out import DATA, settings, subscriptions
from bench.harness import report
from schemas.event import Event, encode_event
from schemas.ids import delivery_id
from schemas.subscription import subscription_to_json
from streams.app import Worker
from streams.wiring import make_registry, register_own_schemas

RATE = 200
SECONDS = 15
WARM_SECONDS = 3


async def engine(bootstrap: str, prefix: str, partitions: int, part: str) -> None:
    """A role: one worker with one role; reports when it is ready."""
    worker = Worker(settings(bootstrap, prefix, partitions), [part], on_ready=lambda: report("ready"))  # type: ignore[list-item]
    await worker.run(asyncio.Event())


async def _send(bootstrap: str, topic: str, schema_id: int) -> dict[str, float]:
    """Events at an even rate; when each was handed over."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
    sent: dict[str, float] = {}
    begun = time.monotonic()
    for number in range(RATE * (WARM_SECONDS + SECONDS)):
        await asyncio.sleep(max(0.0, begun + number / RATE - time.monotonic()))
        event_id = f"evt_{number:020d}"
        value = encode_event(schema_id, Event(event_id, "order.created", "default", 1_700_000_000_000, DATA, event_id))
        if number >= RATE * WARM_SECONDS:
            sent[event_id] = time.monotonic()
        producer.produce(topic, value, event_id.encode())
        producer.poll(0)
    await asyncio.to_thread(producer.flush)
    return sent


def main(bootstrap: str) -> None:
    """One fan-out worker, one delivery worker, one sink; all share the machine's cores, as the printed note says."""
    partitions = 4
    with harness.role("bench.sink:serve", remember=True) as sink:
        port = sink.line()
        topics = harness.new_topics(bootstrap, partitions)
        schema_ids = asyncio.run(
            register_own_schemas(make_registry(settings(bootstrap, topics.prefix, partitions)), topics)
        )
        producer = harness.filler(bootstrap)
        (subscription,) = subscriptions(f"http://127.0.0.1:{port}/hook", 1)
        producer.produce(topics.subscriptions, subscription_to_json(subscription), subscription.id)
        producer.flush()
        common = {"bootstrap": bootstrap, "prefix": topics.prefix, "partitions": partitions}
        with (
            harness.role("bench.latency:engine", part="fan-out", **common) as fan_out,
            harness.role("bench.latency:engine", part="delivery", **common) as delivery,
        ):
            fan_out.line()
            delivery.line()
            sent = uvloop.run(_send(bootstrap, topics.events, schema_ids.event))
            arrived = _arrivals(port, {delivery_id(event_id, subscription.id) for event_id in sent})
    times = sorted((arrived[delivery_id(event_id, subscription.id)] - at) * 1000 for event_id, at in sent.items())
    harness.show("latency_p50", times[len(times) // 2], "ms")
    harness.show("latency_p99", times[math.ceil(len(times) * 0.99) - 1], "ms")


def _arrivals(port: int, wanted: set[str], timeout_s: float = 30.0) -> dict[str, float]:
    deadline = time.monotonic() + timeout_s
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
            rows = dict(row.split() for row in answer.read().decode().splitlines())
        if wanted <= rows.keys():
            return {name: float(rows[name]) for name in wanted}
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(wanted - rows.keys())} deliveries did not arrive within {timeout_s} s")
        time.sleep(0.1)
