"""`neighbour_p99`, `neighbour_rate`: what ten endpoints that hang until time-out do to the ninety beside them.

Both feed delivery records to one delivery worker, over 100 endpoints on 8 partitions. The reference is the same with
nothing for the ten: the ninety get the same deliveries. Time-outs are 5 s, so that time-outs, retries and what the
engine makes of them fall into the seconds that are measured. Runs alternate, and of each kind the better one counts.
"""

from __future__ import annotations

import time

import uvloop

from bench import harness
from bench.sink import Sink, sink, wait_until
from bench.world import World, event, make_world, subscription
from schemas.ids import delivery_id

ENDPOINTS = 100
HANG_EVERY = 10
TIMEOUT_MS = 5_000
PARTITIONS = 8
ROUNDS = 2

RATE = 500  # a second, for all hundred
SECONDS = 12
WARM_SECONDS = 4
BACKLOG = 40_000  # for all hundred
GRACE_S = 60.0  # how long a run waits for what has not come; it counts as if it came then


def hangs(number: int) -> bool:
    """Whether this endpoint is one of the ten."""
    return number % HANG_EVERY == 0


def world_of(bootstrap: str, endpoints: Sink) -> World:
    """A hundred subscriptions, each with an endpoint of its own."""
    return make_world(
        bootstrap,
        PARTITIONS,
        [
            subscription(number, endpoints.url(f"/{'hang' if hangs(number) else 'ok'}/{number}"), timeout_ms=TIMEOUT_MS)
            for number in range(ENDPOINTS)
        ],
    )


# --- how long they take, at a steady rate ------------------------------------------------------------------------


async def send(world: World, with_hanging: bool) -> dict[str, float]:
    """Delivery records of each endpoint in turn; when those of healthy ones were handed over, the warm-up left out."""
    producer = harness.prompt(world.bootstrap)
    sent: dict[str, float] = {}
    async for number in harness.paced(RATE, RATE * (WARM_SECONDS + SECONDS)):
        endpoint = number % ENDPOINTS
        if hangs(endpoint) and not with_hanging:
            continue
        target, one = world.wanted[endpoint], event(number)
        if number >= RATE * WARM_SECONDS and not hangs(endpoint):
            sent[delivery_id(one.id, target.id)] = time.monotonic()
        world.deliver(producer, one, [target])
        producer.poll(0)
    producer.flush()
    return sent


def healthy_p99_ms(bootstrap: str, with_hanging: bool) -> float:
    """From the record handed to its producer to its POST."""
    with sink(keep="ids") as endpoints:
        world = world_of(bootstrap, endpoints)
        with harness.role("bench.world:worker", part="delivery", **world.arguments) as delivery:
            delivery.line()
            sent = uvloop.run(send(world, with_hanging))
            wait_until(lambda: sent.keys() <= endpoints.ids().keys(), GRACE_S)
            arrived, ended = endpoints.ids(), time.monotonic()
    return harness.quantile(((arrived.get(name, ended) - at) * 1000 for name, at in sent.items()), 0.99)


def p99(bootstrap: str) -> None:
    """Without and with the ten, in turns."""
    alone, beside = [], []
    for _ in range(ROUNDS):
        alone.append(healthy_p99_ms(bootstrap, with_hanging=False))
        beside.append(healthy_p99_ms(bootstrap, with_hanging=True))
    harness.show("neighbour_p99_alone", min(alone), "ms")
    harness.show("neighbour_p99", min(beside), "ms", ratio=min(beside) / min(alone), vs="neighbour_p99_alone")


# --- how many get through, from a backlog ------------------------------------------------------------------------


def healthy_rate(bootstrap: str, with_hanging: bool) -> float:
    """Healthy deliveries a second of the clock, from the first fifth to the last one."""
    with sink(keep="times") as endpoints:
        world = world_of(bootstrap, endpoints)
        producer = harness.filler(bootstrap)
        for number in range(BACKLOG):
            if with_hanging or not hangs(number):
                world.deliver(producer, event(number), [world.wanted[number % ENDPOINTS]])
        producer.flush()
        with harness.role("bench.world:worker", part="delivery", **world.arguments):
            total = BACKLOG - BACKLOG // HANG_EVERY
            wait_until(lambda: endpoints.count("/ok/") >= total, GRACE_S)
            return harness.drain_rate(endpoints.times("/ok/"), total, time.monotonic())


def rate(bootstrap: str) -> None:
    """Without and with the ten, in turns."""
    alone, beside = [], []
    for _ in range(ROUNDS):
        alone.append(healthy_rate(bootstrap, with_hanging=False))
        beside.append(healthy_rate(bootstrap, with_hanging=True))
    harness.show("neighbour_rate_alone", max(alone), "deliveries/s")
    harness.show(
        "neighbour_rate", max(beside), "deliveries/s", ratio=max(beside) / max(alone), vs="neighbour_rate_alone"
    )
