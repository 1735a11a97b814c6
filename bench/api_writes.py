"""`api_writes`: changes of subscriptions over HTTP by 50 clients at once, while workers follow them; and none is lost.

Each change is a counter read with GET and written back with PATCH and If-Match, and begun again on a 412. At the end
the counters must say how many changes were acknowledged: in the API, on the topic, and in the table of a fresh worker.
The test suite runs the same with fewer changes (`tests/integration/test_api_writes.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import aiohttp
import msgspec
from aiohttp import web

from bench import harness
from bench.harness import report
from connectors.api.principal import SCOPES, FixedKeys, Principal
from connectors.feed import Reader
from connectors.subscriptions import SubscriptionsTable
from schemas.subscription_codec import SubscriptionDecoder
from streams.api_app import api_app
from streams.core.match import MatchIndex
from streams.settings import Settings
from streams.wiring import make_registry

CLIENTS = 50
COUNTERS = 200
WRITES = 10_000
KEY = "bench"
AUTHORIZATION = {"Authorization": f"Bearer {KEY}"}


class Written(NamedTuple):
    """Seconds that each acknowledged PATCH took, and how many were refused because somebody else was faster."""

    took_s: list[float]
    refused: int
    counters: dict[str, int]
    wall_s: float


async def write(url: str, *, writes: int, clients: int = CLIENTS, counters: int = COUNTERS) -> Written:
    """Make the counters, and have the clients count in them. RuntimeError when the API answers anything unforeseen."""
    took: list[float] = []
    refused = 0
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(url, connector=connector, headers=AUTHORIZATION) as session:

        async def ask(method: str, path: str, expected: set[int], **options: Any) -> tuple[int, Any]:
            async with session.request(method, path, **options) as response:
                document = msgspec.json.decode(await response.read())
                if response.status not in expected:
                    raise RuntimeError(f"{method} {path}: {response.status} {document}")
                return response.status, document

        async def count(path: str) -> None:
            nonlocal refused
            while True:
                _, shown = await ask("GET", path, {200})
                step = {"description": str(int(shown["description"]) + 1)}
                start = time.perf_counter()
                status, _ = await ask("PATCH", path, {200, 412}, json=step, headers={"If-Match": shown["etag"]})
                if status == 200:
                    took.append(time.perf_counter() - start)
                    return
                refused += 1

        async def client(waiting: Iterator[str]) -> None:
            for path in waiting:
                await count(path)

        async def make(number: int) -> str:
            url = f"https://e{number}.example/"
            made = {"url": url, "event_types": ["order.*"], "description": "0", "verification": "none"}
            _, document = await ask("POST", "/v1/subscriptions", {201}, json=made)
            return f"/v1/subscriptions/{document['id']}"

        paths = await asyncio.gather(*(make(number) for number in range(counters)))
        started = time.perf_counter()
        # Every counter is asked for by several clients at about the same time.
        waiting = iter([paths[number // 2 % counters] for number in range(writes)])
        await asyncio.gather(*(client(waiting) for _ in range(clients)))
        wall_s = time.perf_counter() - started
        shown = [(await ask("GET", path, {200}))[1] for path in paths]
    return Written(took, refused, {each["id"]: int(each["description"]) for each in shown}, wall_s)


async def agreed(settings: Settings, written: Written) -> list[str]:
    """What of the topic and of a fresh worker's table is not as the API said; empty when all agree."""
    config = {"bootstrap.servers": settings.bootstrap}
    problems = []
    total = sum(written.counters.values())
    if total != len(written.took_s):
        problems.append(f"{len(written.took_s)} changes were acknowledged, and {total} counted")
    registry = make_registry(settings)
    index = MatchIndex()
    table = SubscriptionsTable(config, settings.topics.subscriptions, index=index, schemas=registry)
    await table.start()
    await table.stop()
    decoder, last = SubscriptionDecoder(), dict.fromkeys(written.counters, -1)
    async with Reader(config, [settings.topics.subscriptions], from_beginning=True) as reader:
        async for batch in reader.batches(follow=False):
            for record in batch:
                wanted = decoder.wanted(record.value())
                if wanted is not None:
                    decoder.learn(wanted, await registry.schema(wanted))
                each = decoder.decode(record.key(), record.value())
                if isinstance(each, str) or each.id not in last:
                    continue
                if int(each.description) != last[each.id] + 1:
                    problems.append(f"{each.id} went from {last[each.id]} to {each.description}")
                last[each.id] = int(each.description)
    await registry.close()
    for name, count in written.counters.items():
        in_table = index.get(name)
        if in_table is None or int(in_table.description) != count or last[name] != count:
            problems.append(f"{name}: the API says {count}, the topic {last[name]}, a fresh table {in_table}")
    return problems


def principal() -> FixedKeys:
    """Who calls."""
    return FixedKeys({KEY: Principal(actor="key:bench", tenant="acme", scopes=frozenset(SCOPES))})


async def serve(bootstrap: str, prefix: str) -> None:
    """A role: the API."""
    settings = Settings(bootstrap=bootstrap, prefix=prefix, api_rate=0, log_level="ERROR")
    async with api_app(settings, principal()) as app:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        report(runner.addresses[0][1])
        await asyncio.Event().wait()


def main(bootstrap: str) -> None:
    """Changes a second, and how long one takes."""
    prefix = harness.new_topics(bootstrap, 8).prefix
    place: dict[str, Any] = {"bootstrap": bootstrap, "prefix": prefix}
    with (
        harness.role("bench.api_writes:serve", **place) as api,
        harness.role("bench.world:worker", part="fan-out", partitions=8, **place) as fan_out,
        harness.role("bench.world:worker", part="delivery", partitions=8, **place) as delivery,
    ):
        fan_out.line()
        delivery.line()
        written = asyncio.run(write(f"http://127.0.0.1:{api.line()}", writes=WRITES))
    if problems := asyncio.run(agreed(Settings(bootstrap=bootstrap, prefix=prefix), written)):
        raise RuntimeError(problems[0])
    took_ms = [seconds * 1000 for seconds in written.took_s]
    harness.note(f"{written.refused} changes were refused and begun again, since somebody was faster")
    harness.show("api_writes", len(took_ms) / written.wall_s, "changes/s")
    harness.show("api_writes_p50", harness.quantile(took_ms, 0.50), "ms")
    harness.show("api_writes_p99", harness.quantile(took_ms, 0.99), "ms")
