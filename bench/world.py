"""What most figures run on: topics of their own, filled as the engine fills them, and workers on them.

This file measures nothing but what a worker is asked to say of itself.
"""

from __future__ import annotations

import asyncio
import base64
import signal
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import orjson
import psutil
from confluent_kafka import Producer

from bench import harness
from bench.harness import Meter, report, until
from schemas import codec
from schemas.delivery import FRESH, encode_fresh, encode_tail
from schemas.event import Event, encode_event
from schemas.ids import delivery_id
from schemas.subscription import Subscription, subscription_to_json
from schemas.topics import Topics
from streams.app import Worker
from streams.core.formats import render
from streams.settings import Settings
from streams.wiring import OwnSchemas, Role, make_registry, register_own_schemas

DATA = orjson.dumps({"order": "o-1", "total": "12.50", "note": "x" * 200})
MEMORY_EVERY_S = 0.05


def settings(bootstrap: str, prefix: str, partitions: int, **extra: Any) -> Settings:
    """For a worker under measurement."""
    return Settings(bootstrap=bootstrap, prefix=prefix, partitions=partitions, allow_private_networks=True, **extra)


def event(number: int) -> Event:
    """An `order.created` of a few hundred bytes."""
    return Event(f"evt_{number:020d}", "order.created", "default", 1_700_000_000_000, DATA, f"o-{number}")


def subscription(number: int, url: str, **extra: Any) -> Subscription:
    """A subscription that matches `event`."""
    secret = "whsec_" + base64.b64encode(bytes(32)).decode()
    return Subscription(id=f"sub_{number:010d}", url=url, event_types=("order.*",), secrets=(secret,), **extra)


class World(msgspec.Struct, frozen=True):
    """Topics that exist, the ids of our schemas, and the subscriptions that were written."""

    bootstrap: str
    topics: Topics
    schema_ids: OwnSchemas
    wanted: tuple[Subscription, ...]

    @property
    def arguments(self) -> dict[str, Any]:
        """What a role needs to find this world."""
        return {"bootstrap": self.bootstrap, "prefix": self.topics.prefix, "partitions": self.topics.partitions}

    def event_value(self, one: Event) -> bytes:
        """The event as its producer writes it."""
        return encode_event(self.schema_ids.event, one)

    def deliver(self, producer: Producer, one: Event, to: Iterable[Subscription], partition: int = -1) -> None:
        """Queue the delivery records of an event, as fan-out writes them; -1 lets the key choose the partition."""
        sent = render(one, "standard", one.data, b"")
        tail = encode_tail(one, one.time_ms, sent.content_type, sent.body)
        header = codec.wire_header(self.schema_ids.delivery_v1)
        for target in to:
            field = codec.put_string(target.id) + FRESH
            value = encode_fresh(header, delivery_id(one.id, target.id), field, tail)
            producer.produce(self.topics.deliveries, value, target.id, partition)


def make_world(bootstrap: str, partitions: int, wanted: Sequence[Subscription] = ()) -> World:
    """All topics under a prefix of their own, schemas registered, subscriptions written."""
    topics = harness.new_topics(bootstrap, partitions)
    registry = make_registry(settings(bootstrap, topics.prefix, partitions))
    schema_ids = asyncio.run(register_own_schemas(registry, topics))
    producer = harness.filler(bootstrap)
    for entry in wanted:
        producer.produce(topics.subscriptions, subscription_to_json(entry), entry.id)
    producer.flush()
    return World(bootstrap, topics, schema_ids, tuple(wanted))


# --- roles --------------------------------------------------------------------------------------------------


async def worker(bootstrap: str, prefix: str, partitions: int, part: Role | list[Role], **extra: Any) -> None:
    """A role: a worker of one role, or more; `extra` are further settings. Reports its memory in MiB when it is ready,
    and its peak once it has stopped in order, which it does on SIGTERM."""
    process = psutil.Process()
    peak = 0

    def rss() -> int:
        nonlocal peak
        now: int = process.memory_info().rss
        peak = max(peak, now)
        return now

    async def watch() -> None:
        while True:
            rss()
            await asyncio.sleep(MEMORY_EVERY_S)

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    watching = asyncio.create_task(watch())
    chosen = settings(bootstrap, prefix, partitions, **extra)
    roles = [part] if isinstance(part, str) else part
    await Worker(chosen, roles, on_ready=lambda: report(rss() / (1 << 20))).run(stop)
    watching.cancel()
    report(peak / (1 << 20))


async def throughput(
    bootstrap: str,
    prefix: str,
    partitions: int,
    part: Role,
    counter: str,
    total: int,
    extra: dict[str, Any] | None = None,
) -> None:
    """A role: a worker of one role, with further settings; reports how many of `counter` it makes a CPU second, from
    the first fifth until `total` are committed."""
    engine = Worker(settings(bootstrap, prefix, partitions, **(extra or {})), [part])
    stop = asyncio.Event()
    running = asyncio.create_task(engine.run(stop))
    counters = engine.counters
    meter = Meter(total)
    await until(lambda: meter.see(counters[counter]))
    stop.set()  # an orderly stop: the last transaction is counted in
    await running
    report(meter.per_cpu_s())
