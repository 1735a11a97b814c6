"""`agent_events`: a Faust agent that only counts, on frames and on Faust's own driver."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from bench import harness
from bench.harness import Meter, report
from bench.stock import STREAM_BUFFER, run_agent
from connectors import frames

EVENTS = 600_000
STOCK_EVENTS = 15_000
VALUE_BYTES = 300


async def count(bootstrap: str, topic: str, scheme: str, events: int) -> None:
    """A role: reports events a CPU second, from the first fifth on."""
    framed = scheme == "frames"
    done = asyncio.Event()
    meter = Meter(events)

    async def process(_: Any, stream: Any) -> None:
        seen = 0
        async for value in stream:
            seen += len(value.records) if framed else 1
            if meter.see(seen):
                done.set()

    broker: Any = frames.urls(bootstrap) if framed else f"kafka://{bootstrap}"
    await run_agent(broker, topic, process, done, stream_buffer=4 if framed else STREAM_BUFFER)
    report(meter.per_cpu_s())


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
