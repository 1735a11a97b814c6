"""kill -9 of the API in the middle of publishing, and clients that try again: every event once, none lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from connectors.local_kafka import Cluster
from schemas.codec import own_schema
from schemas.event import event_decoder
from tests.cli import Cli, Started
from tests.helpers import drip, eventually_async
from tests.integration.workers import Site

CLIENTS = 8
REQUESTS = 60
BATCH = 5


class Clients:
    """Each sends its requests one after the other, and each request until it is accepted."""

    def __init__(self, key: str) -> None:
        self.url = ""  # while nobody is there
        self.headers = {"Authorization": f"Bearer {key}"}
        self.accepted: list[str] = []
        self.failed = 0
        self.answered = 0

    async def run(self) -> None:
        async with aiohttp.ClientSession(headers=self.headers) as session:
            await asyncio.gather(*(self._client(session, number) for number in range(CLIENTS)))

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        for request in range(REQUESTS):
            name = f"{number}-{request}"
            events: list[dict[str, Any]] = [{"type": "a", "data": {"n": n}} for n in range(BATCH)]
            headers = {}
            if number % 2:  # the request is known by its key, or each event by its id
                headers["Idempotency-Key"] = name
            else:
                events = [each | {"id": f"e-{name}-{n}"} for n, each in enumerate(events)]
            while (ids := await self._try(session, events, headers)) is None:
                self.failed += 1
                await drip()
            self.accepted += ids
            self.answered += 1

    async def _try(
        self, session: aiohttp.ClientSession, events: list[dict[str, Any]], headers: dict[str, str]
    ) -> list[str] | None:
        if not self.url:
            return None
        try:
            async with session.post(f"{self.url}/v1/events", json=events, headers=headers) as response:
                if response.status != 202:
                    assert response.status == 503, await response.text()
                    return None
                return [each["id"] for each in (await response.json())["events"]]
        except (aiohttp.ClientError, ConnectionError):
            return None


def url_of(api: Started) -> str:
    """Where it listens, once it is ready."""
    return api.said("ready: ").partition("ready: ")[2].split()[0]


@pytest.mark.timeout(600)
async def test_killed_in_the_middle_of_publishing(kafka: Cluster, prefix: str, tmp_path: Path) -> None:
    site = await Site.made(kafka.bootstrap, prefix)
    settings = {"bootstrap": kafka.bootstrap, "prefix": prefix, "partitions": str(site.settings.partitions)}
    cli = Cli(tmp_path, settings | {"worker_id": "api-1", "api_rate": "0"})
    (made,) = cli.lines("keys", "create", "--tenant", "acme", "--scope", "events:write", "--json")
    clients = Clients(made["key"])
    with cli.started("api", "--port", "0") as api:
        clients.url = url_of(api)
        running = asyncio.create_task(clients.run())
        await eventually_async(
            lambda: clients.answered > CLIENTS * REQUESTS // 4, timeout_s=200, message="a quarter is published"
        )
        api.process.kill()
        clients.url = ""
        api.process.wait(60)
    assert clients.answered < CLIENTS * REQUESTS
    with cli.started("api", "--port", "0") as api:
        clients.url = await asyncio.to_thread(url_of, api)
        await asyncio.wait_for(running, 300)
    assert clients.failed > 0
    decoder = event_decoder(own_schema("event.v3"))
    found = Counter(decoder.decode(each.value(), None, 0).id for each in site.read(site.topics.events))
    assert len(clients.accepted) == CLIENTS * REQUESTS * BATCH
    assert found == Counter(clients.accepted)
    assert set(found.values()) == {1}
