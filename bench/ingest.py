"""`ingest`: events in batches through the HTTP API until Kafka has them, and a bare aiohttp handler that only produces.

Both get the same bodies over the same number of connections, from a process of its own, and answer when Kafka has
acknowledged. The bare handler parses the body and hands each event's bytes to an idempotent producer: no validation, no
ids, no transaction. `ingest_ids` is the API with an id for each event, which it then remembers.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from confluent_kafka import Producer

from bench import harness
from bench.harness import cpu_s, report
from connectors.api.principal import SCOPES, FixedKeys, Principal
from connectors.publisher import PRODUCER_CONFIG
from schemas.topics import Topics
from streams.api_app import api_app
from streams.settings import Settings

EVENTS = 100_000
BATCH = 100
CONNECTIONS = 16
ROUNDS = 3
WARM = 2_000
KEY = "bench"


def bodies(count: int, *, ids: str) -> list[bytes]:
    """Requests of `BATCH` events of about 300 bytes; with `ids`, each has one that begins so."""
    numbers = itertools.count()
    found = []
    for _ in range(count // BATCH):
        events = []
        for n in itertools.islice(numbers, BATCH):
            data = {"order": f"o-{n}", "total": n / 100, "note": "Ring twice, then wait. " * 6, "lines": [1, 2, 3]}
            event: dict[str, Any] = {"type": "order.created", "subject": f"o-{n % 997}", "data": data}
            events.append(event | ({"id": f"{ids}-{n}"} if ids else {}))
        found.append(orjson.dumps(events))
    return found


async def _serve(app: web.Application) -> None:
    """Report the port; then, for each line that is asked for by SIGTERM, the CPU seconds so far."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    report(runner.addresses[0][1])
    await asyncio.Event().wait()


async def _cpu(_: web.Request) -> web.Response:
    return web.json_response(cpu_s())


async def api(bootstrap: str, prefix: str) -> None:
    """A role: the API."""
    settings = Settings(bootstrap=bootstrap, prefix=prefix, api_rate=0, log_level="ERROR")
    principal = Principal(actor="key:bench", tenant="acme", scopes=frozenset(SCOPES))
    async with api_app(settings, FixedKeys({KEY: principal})) as app:
        app.router.add_get("/cpu", _cpu)
        await _serve(app)


async def bare(bootstrap: str, prefix: str) -> None:
    """A role: the handler that only produces."""
    topic = Topics(prefix=prefix).events
    producer = Producer({**PRODUCER_CONFIG, "bootstrap.servers": bootstrap, "linger.ms": 2, "enable.idempotence": True})
    loop = asyncio.get_running_loop()

    async def handle(request: web.Request) -> web.Response:
        events = orjson.loads(await request.read())
        done = loop.create_future()
        left = len(events)

        def acknowledged(error: object, _: object) -> None:  # on the thread that polls
            nonlocal left
            left -= 1
            if left == 0:
                loop.call_soon_threadsafe(done.set_result, error)

        for event in events:
            producer.produce(topic, orjson.dumps(event), event["subject"].encode(), on_delivery=acknowledged)
        await done
        return web.Response(status=202)

    async def poll() -> None:
        while True:
            await asyncio.to_thread(producer.poll, 0.1)

    polling = asyncio.create_task(poll())
    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/v1/events", handle)
    app.router.add_get("/cpu", _cpu)
    await _serve(app)
    polling.cancel()


async def load(port: int, ids: str) -> None:
    """A role: publishes, and reports events a second, and events a CPU second of the server."""
    requests = bodies(EVENTS, ids=ids)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector, headers=headers) as session:

        async def cpu() -> float:
            async with session.get("/cpu") as response:
                return float(await response.text())

        async def lane(waiting: Any) -> None:
            for body in waiting:
                async with session.post("/v1/events", data=body) as response:
                    if response.status != 202:
                        raise RuntimeError(await response.text())
                    await response.read()

        async def all_of(some: list[bytes]) -> None:
            waiting = iter(some)
            await asyncio.gather(*(lane(waiting) for _ in range(CONNECTIONS)))

        await all_of(requests[: WARM // BATCH])
        measured = requests[WARM // BATCH :]
        before, started = await cpu(), time.monotonic()
        await all_of(measured)
        took, used = time.monotonic() - started, await cpu() - before
    events = len(measured) * BATCH
    report([events / took, events / used])


def main(bootstrap: str) -> None:
    """In turns, the best of each."""
    found: dict[str, list[list[float]]] = {"bare_handler": [], "ingest": [], "ingest_ids": []}
    prefix = harness.new_topics(bootstrap, 8).prefix
    with (
        harness.role("bench.ingest:api", bootstrap=bootstrap, prefix=prefix) as ours,
        harness.role("bench.ingest:bare", bootstrap=bootstrap, prefix=prefix) as reference,
    ):
        ports = {"ingest": ours.line(), "bare_handler": reference.line()}
        for turn in range(ROUNDS):
            for name, figures in found.items():
                port = ports[name.removesuffix("_ids")]
                ids = f"evt-{turn}" if name == "ingest_ids" else ""
                figures.append(harness.run("bench.ingest:load", port=port, ids=ids))
    best = {name: [max(each) for each in zip(*figures, strict=True)] for name, figures in found.items()}
    vs = "bare_handler"
    harness.show(vs, best[vs][0], "events/s")
    harness.show("bare_handler_cpu", best[vs][1], "events/cpu_s")
    for name in ("ingest", "ingest_ids"):
        harness.show(name, best[name][0], "events/s", ratio=best[name][0] / best[vs][0], vs=vs)
        harness.show(f"{name}_cpu", best[name][1], "events/cpu_s", ratio=best[name][1] / best[vs][1], vs=f"{vs}_cpu")
