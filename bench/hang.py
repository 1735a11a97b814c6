"""`hang_rate`, `hang_p50`, `hang_p99`: ten endpoints get every event, and one of them hangs 30 s on each request.

5,000 events at 100 a second through both roles; subscriptions as they are by default (time-out 15 s, 8 requests at
once). `hang_rate` is how many of the 45,000 healthy deliveries came within 60 s of the first event; the quantiles are
over all 45,000, from the event handed to its producer to the POST, and what did not come in time counts as 60 s.

Before that, a few seconds of events of another tenant, for healthy endpoints of its own: what is measured is an
endpoint that hangs, not a broker that runs every part of its code for the first time.
"""

from __future__ import annotations

import time

import msgspec
import uvloop

from bench import harness
from bench.latency import send
from bench.sink import sink, wait_until
from bench.world import World, event, make_world, subscription
from schemas.ids import delivery_id

EVENTS = 5_000
RATE = 100
ENDPOINTS = 10
WITHIN_S = 60.0
WARM_EVENTS = 300
WARM_TENANT = "warm"


async def warm(world: World) -> set[str]:
    """Send those events; the ids of their deliveries."""
    producer = harness.prompt(world.bootstrap)
    targets = [target.id for target in world.wanted if target.tenant == WARM_TENANT]
    ids = set()
    async for number in harness.paced(RATE, WARM_EVENTS):
        one = msgspec.structs.replace(event(number), id=f"warm_{number}", tenant=WARM_TENANT)
        producer.produce(world.topics.events, world.event_value(one), one.id.encode())
        producer.poll(0)
        ids |= {delivery_id(one.id, target) for target in targets}
    producer.flush()
    return ids


def main(bootstrap: str) -> None:
    """One run, of a minute."""
    with sink(keep="ids") as endpoints:
        paths = ["/hang", *(f"/ok/{number}" for number in range(1, ENDPOINTS))]
        measured = [subscription(number, endpoints.url(path)) for number, path in enumerate(paths)]
        warming = [
            subscription(ENDPOINTS + number, endpoints.url(path), tenant=WARM_TENANT)
            for number, path in enumerate(paths[1:])
        ]
        world = make_world(bootstrap, 8, [*measured, *warming])
        with (
            harness.role("bench.world:worker", part="fan-out", **world.arguments) as fan_out,
            harness.role("bench.world:worker", part="delivery", **world.arguments) as delivery,
        ):
            fan_out.line()
            delivery.line()
            first = uvloop.run(warm(world))
            if not wait_until(lambda: first <= endpoints.ids().keys(), WITHIN_S):
                raise RuntimeError("the deliveries before the measurement did not arrive")
            sent = uvloop.run(send(world, RATE, EVENTS))
            until = min(sent.values()) + WITHIN_S
            healthy = {delivery_id(event_id, target.id): at for event_id, at in sent.items() for target in measured[1:]}
            wait_until(lambda: healthy.keys() <= endpoints.ids().keys(), until - time.monotonic(), every_s=1.0)
            arrived = endpoints.ids()
    came = {name: at for name, at in arrived.items() if name in healthy and at <= until}
    times = [(came[name] - at) * 1000 if name in came else WITHIN_S * 1000 for name, at in healthy.items()]
    harness.show("hang_rate", len(came), "deliveries", ratio=len(came) / len(healthy), vs="all_of_them")
    harness.show("hang_p50", harness.quantile(times, 0.5), "ms")
    harness.show("hang_p99", harness.quantile(times, 0.99), "ms")
