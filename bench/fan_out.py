"""`fan_out_records`: one event to ten subscriptions, by the engine and by a stock Faust agent that does the same
work."""

from __future__ import annotations

import asyncio
import base64
import os
from typing import Any

import faust
import orjson

from bench import harness
from bench.harness import cpu_s, report, until
from schemas import codec
from schemas.event import Event, encode_event
from schemas.ids import delivery_id
from schemas.subscription import Subscription, subscription_from_json, subscription_to_json
from streams.app import Worker
from streams.core.fanout import rfc3339
from streams.settings import Settings
from streams.wiring import make_registry, register_own_schemas

EVENTS = 40_000
STOCK_EVENTS = 1_500
FAN_OUT = 10
WARM_PART = 0.2
DATA = orjson.dumps({"order": "o-1", "total": "12.50", "note": "x" * 200})


def subscriptions(url: str, count: int = FAN_OUT, **extra: Any) -> list[Subscription]:
    """Subscriptions that all match `order.created`."""
    secret = "whsec_" + base64.b64encode(bytes(32)).decode()
    return [
        Subscription(id=f"sub_{number:010d}", url=url, event_types=("order.*",), secrets=(secret,), **extra)
        for number in range(count)
    ]


def settings(bootstrap: str, prefix: str, partitions: int) -> Settings:
    """For a worker under measurement."""
    return Settings(bootstrap=bootstrap, prefix=prefix, partitions=partitions, allow_private_networks=True)


async def engine(bootstrap: str, prefix: str, partitions: int, events: int) -> None:
    """A role: a fan-out worker; reports delivery records a CPU second, from the first fifth until all are committed."""
    worker = Worker(settings(bootstrap, prefix, partitions), ["fan-out"])
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    counters = worker.counters
    await until(lambda: counters["deliveries"] >= events * FAN_OUT * WARM_PART)
    first, started = counters["deliveries"], cpu_s()
    await until(lambda: counters["deliveries"] >= events * FAN_OUT)
    stop.set()  # an orderly stop: the last transaction is counted in
    await running
    report((counters["deliveries"] - first) / (cpu_s() - started))


async def stock(bootstrap: str, topic: str, deliveries: str, wanted: list[str], events: int) -> None:
    """A role: a stock agent that decodes, matches, renders, encodes and sends the same records."""
    event_schema = codec.parse_schema(codec.own_schema("event.v2"), logical_types=False)
    delivery_schema = codec.parse_schema(codec.own_schema("delivery.v1"))
    by_type: dict[str, list[Subscription]] = {"order.created": [subscription_from_json(text) for text in wanted]}
    app = faust.App(
        f"bench-{os.getpid()}",
        broker=f"kafka://{bootstrap}",
        key_serializer="raw",
        value_serializer="raw",
        store="memory://",
        topic_disable_leader=True,
        web_enabled=False,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,
        autodiscover=False,
    )
    out = app.topic(deliveries, key_type=bytes, value_type=bytes)
    done = asyncio.Event()
    seen, started_at, started = 0, 0.0, 0

    @app.agent(app.topic(topic, key_type=bytes, value_type=bytes))
    async def agent(stream: Any) -> None:
        nonlocal seen, started_at, started
        async for value in stream:
            event = codec.decode(value, event_schema)
            for subscription in by_type[event["type"]]:
                body = orjson.dumps(
                    {"type": event["type"], "timestamp": rfc3339(event["time"]), "data": orjson.loads(event["data"])}
                )
                record = {
                    "id": delivery_id(event["id"], subscription.id),
                    "subscription_id": subscription.id,
                    "content_type": "application/json",
                    "body": body,
                    "event_id": event["id"],
                    "event_type": event["type"],
                    "tenant": event["tenant"],
                    "event_time_ms": event["time"],
                    "received_ms": event["time"],
                }
                await out.send(key=subscription.id.encode(), value=codec.encode(1, delivery_schema, record))
            seen += 1
            if not started and seen >= events * WARM_PART:
                started, started_at = seen, cpu_s()
            if seen >= events:
                await app.producer.flush()
                done.set()

    await app.start()
    await done.wait()
    report((seen - started) * FAN_OUT / (cpu_s() - started_at))


def fill(bootstrap: str, partitions: int, url: str, events: int) -> tuple[str, str, str, list[str]]:
    """Topics with subscriptions and events; (prefix, events topic, deliveries topic, subscriptions as JSON)."""
    topics = harness.new_topics(bootstrap, partitions)
    registry = make_registry(settings(bootstrap, topics.prefix, partitions))
    schema_ids = asyncio.run(register_own_schemas(registry, topics))
    producer = harness.filler(bootstrap)
    wanted = subscriptions(url)
    for subscription in wanted:
        producer.produce(topics.subscriptions, subscription_to_json(subscription), subscription.id)
    for number in range(events):
        event = Event(f"evt_{number:020d}", "order.created", "default", 1_700_000_000_000, DATA, f"o-{number}")
        producer.produce(topics.events, encode_event(schema_ids.event, event), b"o-%d" % number)
        if number % 20_000 == 0:
            producer.poll(0)
    producer.flush()
    return topics.prefix, topics.events, topics.deliveries, [subscription_to_json(s).decode() for s in wanted]


def main(bootstrap: str) -> None:
    """Ours, stock, ours, stock, each on fresh topics; the better of each."""
    ours, theirs = [], []
    for _ in range(2):
        prefix, topic, deliveries, wanted = fill(bootstrap, 8, "http://127.0.0.1:9/", EVENTS)
        ours.append(
            harness.run("bench.fan_out:engine", bootstrap=bootstrap, prefix=prefix, partitions=8, events=EVENTS)
        )
        theirs.append(
            harness.run(
                "bench.fan_out:stock",
                bootstrap=bootstrap,
                topic=topic,
                deliveries=deliveries,
                wanted=wanted,
                events=STOCK_EVENTS,
                stock_loop=True,
            )
        )
    harness.show("stock_faust", max(theirs), "records/cpu_s")
    harness.show("fan_out_records", max(ours), "records/cpu_s", ratio=max(ours) / max(theirs), vs="stock_faust")
