"""`latency_p50`, `latency_p99`: from an event handed to its producer to its POST at the endpoint, at 200 events a
second; `latency_alo_p50`, `latency_alo_p99`: the same with `guarantee="at_least_once"`."""

from __future__ import annotations

import time

import uvloop

from bench import harness
from bench.sink import sink, wait_until
from bench.world import World, event, make_world, subscription
from schemas.ids import delivery_id

RATE = 200
SECONDS = 15
WARM_SECONDS = 3
GRACE_S = 30.0  # for what is still on its way after the last event


async def send(world: World, rate: float, count: int, skip: int = 0) -> dict[str, float]:
    """Events at an even rate; when each after the first `skip` was handed over, by its id."""
    producer = harness.prompt(world.bootstrap)
    sent: dict[str, float] = {}
    async for number in harness.paced(rate, count):
        one = event(number)
        value = world.event_value(one)
        if number >= skip:
            sent[one.id] = time.monotonic()
        producer.produce(world.topics.events, value, one.id.encode())
        producer.poll(0)
    producer.flush()
    return sent


def measure(bootstrap: str, guarantee: str) -> list[float]:
    """Milliseconds of each event, with one fan-out worker, one delivery worker and one sink."""
    with sink(keep="ids") as endpoints:
        world = make_world(bootstrap, 4, [subscription(0, endpoints.url("/ok"))])
        with (
            harness.role("bench.world:worker", part="fan-out", guarantee=guarantee, **world.arguments) as fan_out,
            harness.role("bench.world:worker", part="delivery", guarantee=guarantee, **world.arguments) as delivery,
        ):
            fan_out.line()
            delivery.line()
            sent = uvloop.run(send(world, RATE, RATE * (WARM_SECONDS + SECONDS), RATE * WARM_SECONDS))
            wanted = {delivery_id(event_id, world.wanted[0].id): at for event_id, at in sent.items()}
            if not wait_until(lambda: wanted.keys() <= endpoints.ids().keys(), GRACE_S):
                raise RuntimeError(f"some of {len(wanted)} deliveries did not arrive within {GRACE_S} s")
            arrived = endpoints.ids()
    return [(arrived[name] - at) * 1000 for name, at in wanted.items()]


def main(bootstrap: str) -> None:
    """One guarantee after the other, each in a world of its own. All processes share the machine's cores, as the
    printed note says."""
    for name, guarantee in (("latency", "exactly_once"), ("latency_alo", "at_least_once")):
        times = measure(bootstrap, guarantee)
        harness.show(f"{name}_p50", harness.quantile(times, 0.5), "ms")
        harness.show(f"{name}_p99", harness.quantile(times, 0.99), "ms")
