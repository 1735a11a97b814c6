"""`backlog_rate`, `backlog_memory`: a million deliveries wait, and half of them are for one endpoint that is down.

Each event is for one of 15 healthy endpoints and for the dead one, which refuses connections. Reference for both: a
backlog of the healthy kind alone, shorter, since its rate does not depend on its length. The rate is healthy
deliveries a second of the clock, from the first fifth to the last one; the memory is the worker's peak, looked at every
50 ms until its last healthy delivery.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from bench import harness
from bench.sink import sink, wait_until
from bench.world import event, make_world, subscription

EVENTS = 500_000
ALONE_EVENTS = 100_000
HEALTHY = 15
DEAD_URL = "http://127.0.0.1:1024/"  # nobody listens there
TIMEOUT_S = 600.0


class Drained(NamedTuple):
    """What a backlog took."""

    rate: float
    start_mib: float
    peak_mib: float


def drain(bootstrap: str, events: int, with_dead: bool) -> Drained:
    """Fill, and let one delivery worker work it off."""
    with sink(keep="times", timeout_s=TIMEOUT_S) as endpoints:
        urls = [endpoints.url(f"/ok/{number}") for number in range(HEALTHY)]
        world = make_world(bootstrap, 8, [subscription(number, url) for number, url in enumerate([*urls, DEAD_URL])])
        *healthy, dead = world.wanted
        producer = harness.filler(bootstrap)
        for number in range(events):
            target = healthy[number % HEALTHY]
            world.deliver(producer, event(number), [target, dead] if with_dead else [target])
            if number % 10_000 == 0:
                producer.poll(0)
        producer.flush()
        with harness.role("bench.world:worker", TIMEOUT_S, part="delivery", **world.arguments) as delivery:
            start_mib = delivery.line()
            wait_until(lambda: endpoints.count("/ok/") >= events, TIMEOUT_S - 60, every_s=0.5)
            rate = harness.drain_rate(endpoints.times("/ok/"), events, time.monotonic())
            return Drained(rate, start_mib, delivery.stop())


def main(bootstrap: str) -> None:
    """The healthy alone, then the million."""
    alone = drain(bootstrap, ALONE_EVENTS, with_dead=False)
    beside = drain(bootstrap, EVENTS, with_dead=True)
    harness.show("backlog_rate_alone", alone.rate, "deliveries/s")
    harness.show("backlog_rate", beside.rate, "deliveries/s", ratio=beside.rate / alone.rate, vs="backlog_rate_alone")
    harness.show("backlog_memory_at_start", beside.start_mib, "MiB")
    harness.show("backlog_memory_alone", alone.peak_mib, "MiB")
    harness.show(
        "backlog_memory", beside.peak_mib, "MiB", ratio=beside.peak_mib / alone.peak_mib, vs="backlog_memory_alone"
    )
