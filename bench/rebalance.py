"""`rebalance_pause`: the longest time without an arrival, for a partition that stays while another worker joins and
leaves.

Delivery records at 500 a second go to 8 partitions in turn, so that each has an arrival every 16 ms. Counted is from
just before the second worker is started until a while after it has left in order; which partitions stayed with the
first one says the group coordinator while both are there. The reference is the same, all partitions, before. The
partitions that move are shown too.
"""

from __future__ import annotations

import asyncio
import itertools
import time

import uvloop
from confluent_kafka.admin import AdminClient

from bench import harness
from bench.sink import Sink, sink
from bench.world import World, event, make_world, settings, subscription

RATE = 500
PARTITIONS = 8
ALONE_S = 8.0
TOGETHER_S = 5.0
AFTER_S = 5.0
SETTLE_S = 2.0  # at first, and for the last POSTs at the end
GROUP_TIMEOUT_S = 10.0


class Stretch:
    """A stretch of time, for which gaps are asked."""

    def __init__(self) -> None:
        self.begun = self.ended = time.monotonic()

    def end(self) -> None:
        """It ends now."""
        self.ended = time.monotonic()

    def gap_ms(self, endpoints: Sink, partitions: set[int]) -> float:
        """The longest time without an arrival for any of these partitions."""
        longest = 0.0
        for partition in partitions:
            inside = [at for at in endpoints.times(f"/{partition}") if self.begun <= at <= self.ended]
            edges = [self.begun, *inside, self.ended]
            longest = max(longest, *(after - before for before, after in itertools.pairwise(edges)))
        return longest * 1000


async def send(world: World) -> None:
    """Records to each partition in turn, until cancelled."""
    producer = harness.prompt(world.bootstrap)
    try:
        async for number in harness.paced(RATE, 1_000_000):
            partition = number % PARTITIONS
            world.deliver(producer, event(number), [world.wanted[partition]], partition)
            producer.poll(0)
    finally:
        producer.flush()


def assigned(world: World) -> dict[str, set[int]]:
    """Partitions of `deliveries` by group member."""
    group = settings(**world.arguments).group("delivery")
    admin = AdminClient({"bootstrap.servers": world.bootstrap})  # its futures need it alive
    members = admin.describe_consumer_groups([group])[group].result(GROUP_TIMEOUT_S).members
    return {
        member.member_id: {
            each.partition for each in member.assignment.topic_partitions if each.topic == world.topics.deliveries
        }
        for member in members
    }


async def run(world: World, endpoints: Sink) -> tuple[float, float, float]:
    """Milliseconds: alone, and beside a second worker for partitions that stay and that move."""
    first = await asyncio.to_thread(harness.Role, "bench.world:worker", part="delivery", **world.arguments)
    second = None
    try:
        await asyncio.to_thread(first.line)
        (member,) = await asyncio.to_thread(assigned, world)
        sending = asyncio.create_task(send(world))
        await asyncio.sleep(SETTLE_S)
        alone = Stretch()
        await asyncio.sleep(ALONE_S)
        alone.end()
        beside = Stretch()
        second = await asyncio.to_thread(harness.Role, "bench.world:worker", part="delivery", **world.arguments)
        await asyncio.to_thread(second.line)
        await asyncio.sleep(TOGETHER_S)
        stay = (await asyncio.to_thread(assigned, world))[member]
        await asyncio.to_thread(second.stop)
        await asyncio.sleep(AFTER_S)
        beside.end()
        sending.cancel()
        await asyncio.sleep(SETTLE_S)
    finally:
        for worker in (first, second):
            if worker is not None:
                worker.end()
    everything = set(range(PARTITIONS))
    return (
        alone.gap_ms(endpoints, everything),
        beside.gap_ms(endpoints, stay),
        beside.gap_ms(endpoints, everything - stay),
    )


def main(bootstrap: str) -> None:
    """One run, of half a minute."""
    with sink(keep="times") as endpoints:
        world = make_world(
            bootstrap,
            PARTITIONS,
            [subscription(number, endpoints.url(f"/{number}")) for number in range(PARTITIONS)],
        )
        alone, stay, move = uvloop.run(run(world, endpoints))
    harness.show("rebalance_pause_alone", alone, "ms")
    harness.show("rebalance_pause_moved", move, "ms")
    harness.show("rebalance_pause", stay, "ms", ratio=stay / alone, vs="rebalance_pause_alone")
