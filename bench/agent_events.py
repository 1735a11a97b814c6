"""`agent_events`: a Faust agent that only counts, on frames and on Faust's own driver."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import faust

from bench import harness
from bench.harness import cpu_s, report
from connectors import frames

EVENTS = 600_000
STOCK_EVENTS = 15_000
VALUE_BYTES = 300
WARM_PART = 0.2


async def count(bootstrap: str, topic: str, scheme: str, events: int) -> None:
    """A role: reports events a CPU second, from the first fifth on."""
    url: Any = frames.urls(bootstrap) if scheme == "frames" else f"kafka://{bootstrap}"
    app = faust.App(
        f"bench-{os.getpid()}",
        broker=url,
        key_serializer="raw",
        value_serializer="raw",
        store="memory://",
        topic_disable_leader=True,
        web_enabled=False,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,
        autodiscover=False,
        stream_buffer_maxsize=4 if scheme == "frames" else 4096,  # frames; Faust's default is of messages
    )
    done = asyncio.Event()
    seen, started_at, started = 0, 0.0, 0

    @app.agent(app.topic(topic))
    async def agent(stream: Any) -> None:
        nonlocal seen, started_at, started
        async for value in stream:
            seen += len(value.records) if scheme == "frames" else 1
            if not started and seen >= events * WARM_PART:
                started, started_at = seen, cpu_s()
            if seen >= events:
                done.set()

    await app.start()
    await done.wait()
    report((seen - started) / (cpu_s() - started_at))


def main(bootstrap: str) -> None:
    """Fill a topic; ours, stock, ours, stock; the better of each."""
    topic = f"bench-events-{os.getpid()}"
    harness.create(bootstrap, [(topic, 8, {})])
    producer = harness.filler(bootstrap)
    body = os.urandom(VALUE_BYTES // 2).hex().encode()
    for number in range(EVENTS):
        producer.produce(topic, body, b"k%d" % number)
        if number % 50_000 == 0:
            producer.poll(0)
    producer.flush()
    ours, stock = [], []
    for _ in range(2):
        ours.append(
            harness.run("bench.agent_events:count", bootstrap=bootstrap, topic=topic, scheme="frames", events=EVENTS)
        )
        stock.append(
            harness.run(
                "bench.agent_events:count",
                bootstrap=bootstrap,
                topic=topic,
                scheme="kafka",
                events=STOCK_EVENTS,
                stock_loop=True,
            )
        )
    harness.show("stock_faust_agent", max(stock), "events/cpu_s")
    harness.show("agent_events", max(ours), "events/cpu_s", ratio=max(ours) / max(stock), vs="stock_faust_agent")
