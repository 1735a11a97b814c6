"""`deliveries`: the delivery agent, from records in Kafka to answered POSTs settled in Kafka, next to a bare aiohttp
POST loop."""

from __future__ import annotations

import asyncio

import aiohttp

from bench import harness
from bench.harness import cpu_s, report
from bench.sink import sink
from bench.world import World, event, make_world, subscription
from streams.core.formats import render

DELIVERIES = 60_000
ENDPOINTS = 16
POSTS = 15_000
CONNECTIONS = 64
ROUNDS = 3


async def raw_aiohttp(port: int, posts: int) -> None:
    """A role: POSTs a CPU second, with nothing else to do: no Kafka, no signature, no log."""
    body = render(event(0), "standard", event(0).data, b"").body
    headers = {
        "content-type": "application/json",
        "webhook-id": "dlv_" + "0" * 30,
        "webhook-timestamp": "1700000000",
        "webhook-signature": "v1," + "A" * 43 + "=",
    }
    numbers = iter(range(posts))
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    ) as session:

        async def lane() -> None:
            for _ in numbers:
                async with session.post(
                    f"http://127.0.0.1:{port}/ok", data=body, headers=headers, allow_redirects=False
                ) as response:
                    await response.read()

        started = cpu_s()
        await asyncio.gather(*(lane() for _ in range(CONNECTIONS)))
        report(posts / (cpu_s() - started))


def fill(bootstrap: str, url: str) -> World:
    """A world with subscriptions and delivery records, of each endpoint in turn."""
    world = make_world(bootstrap, 8, [subscription(number, url) for number in range(ENDPOINTS)])
    producer = harness.filler(bootstrap)
    for number in range(DELIVERIES):
        world.deliver(producer, event(number), [world.wanted[number % ENDPOINTS]])
        if number % 20_000 == 0:
            producer.poll(0)
    producer.flush()
    return world


def main(bootstrap: str) -> None:
    """Ours and aiohttp in turns against one sink, the best of each. aiohttp as `asyncio.run` has it, which is the
    reference, and on uvloop, where it is faster on some machines and not on others."""
    ours, stock, uvloop = [], [], []
    with sink() as endpoints:
        for _ in range(ROUNDS):
            world = fill(bootstrap, endpoints.url("/ok"))
            ours.append(
                harness.run(
                    "bench.world:throughput", part="delivery", counter="delivered", total=DELIVERIES, **world.arguments
                )
            )
            stock.append(harness.run("bench.deliveries:raw_aiohttp", port=endpoints.port, posts=POSTS, stock_loop=True))
            uvloop.append(harness.run("bench.deliveries:raw_aiohttp", port=endpoints.port, posts=POSTS))
    best = max(ours)
    for name, figures in (("raw_aiohttp", stock), ("raw_aiohttp_uvloop", uvloop)):
        harness.show(name, max(figures), "posts/cpu_s")
        harness.show("deliveries", best, "deliveries/cpu_s", ratio=best / max(figures), vs=name)
