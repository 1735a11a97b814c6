"""`fan_out_records`: one event to ten subscriptions, by the engine and by a stock Faust agent that does the same
work."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from bench import harness
from bench.harness import Meter, report
from bench.stock import run_agent
from bench.world import World, event, make_world, subscription
from schemas import codec
from schemas.ids import delivery_id
from schemas.subscription import Subscription, subscription_from_json, subscription_to_json
from streams.core.formats import rfc3339

EVENTS = 40_000
STOCK_EVENTS = 1_500
FAN_OUT = 10


async def stock(bootstrap: str, topic: str, deliveries: str, wanted: list[str], events: int) -> None:
    """A role: a stock agent that decodes, matches, renders, encodes and sends the same records."""
    event_schema = codec.parse_schema(codec.own_schema("event.v3"), logical_types=False)
    delivery_schema = codec.parse_schema(codec.own_schema("delivery.v1"))
    by_type: dict[str, list[Subscription]] = {"order.created": [subscription_from_json(text) for text in wanted]}
    done = asyncio.Event()
    meter = Meter(events)

    async def process(app: Any, stream: Any) -> None:
        out = app.topic(deliveries, key_type=bytes, value_type=bytes)
        seen = 0
        async for value in stream:
            one = codec.decode(value, event_schema)
            for target in by_type[one["type"]]:
                body = orjson.dumps(
                    {"type": one["type"], "timestamp": rfc3339(one["time"]), "data": orjson.loads(one["data"])}
                )
                record = {
                    "id": delivery_id(one["id"], target.id),
                    "subscription_id": target.id,
                    "content_type": "application/json",
                    "body": body,
                    "event_id": one["id"],
                    "event_type": one["type"],
                    "tenant": one["tenant"],
                    "event_time_ms": one["time"],
                    "received_ms": one["time"],
                }
                await out.send(key=target.id.encode(), value=codec.encode(1, delivery_schema, record))
            seen += 1
            if meter.see(seen):
                await app.producer.flush()
                done.set()

    await run_agent(f"kafka://{bootstrap}", topic, process, done)
    report(meter.per_cpu_s() * FAN_OUT)


def fill(bootstrap: str) -> World:
    """A world with subscriptions and events."""
    world = make_world(bootstrap, 8, [subscription(number, "http://127.0.0.1:9/") for number in range(FAN_OUT)])
    producer = harness.filler(bootstrap)
    for number in range(EVENTS):
        producer.produce(world.topics.events, world.event_value(event(number)), b"o-%d" % number)
        if number % 20_000 == 0:
            producer.poll(0)
    producer.flush()
    return world


def main(bootstrap: str) -> None:
    """Ours, stock, ours, stock, each pair on fresh topics; the better of each."""
    ours, theirs = [], []
    for _ in range(2):
        world = fill(bootstrap)
        total = EVENTS * FAN_OUT
        ours.append(
            harness.run("bench.world:throughput", part="fan-out", counter="deliveries", total=total, **world.arguments)
        )
        theirs.append(
            harness.run(
                "bench.fan_out:stock",
                bootstrap=bootstrap,
                topic=world.topics.events,
                deliveries=world.topics.deliveries,
                wanted=[subscription_to_json(target).decode() for target in world.wanted],
                events=STOCK_EVENTS,
                stock_loop=True,
            )
        )
    harness.show("stock_faust", max(theirs), "records/cpu_s")
    harness.show("fan_out_records", max(ours), "records/cpu_s", ratio=max(ours) / max(theirs), vs="stock_faust")
