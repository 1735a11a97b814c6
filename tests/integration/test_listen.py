"""`distributary listen` by both roads on a real Kafka: forwarded, signed, resumed, and nobody else's events."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from connectors.admin import apply_topics
from connectors.api.principal import FixedKeys, Principal
from connectors.event_feed import Heard, Wanted
from connectors.event_stream import EventStream, StreamLostError, StreamRefusedError
from connectors.feed import Writer
from connectors.local_kafka import Cluster, steady_ports
from connectors.receiver import Endpoint, Receiver
from schemas import codec
from schemas.event import Event, encode_event
from schemas.topics import Topics
from streams.api_app import api_app
from streams.new_secrets import new_secret
from streams.settings import Settings
from tests.cli import Cli, command
from tests.helpers import eventually_async

SECRET = new_secret()
LISTEN = frozenset({"events:listen"})
KEYS = {
    "acme": Principal(actor="key:acme", tenant="acme", scopes=LISTEN),
    "other": Principal(actor="key:other", tenant="other", scopes=LISTEN),
    "operator": Principal(actor="key:op", tenant=None, scopes=LISTEN),
    "blind": Principal(actor="key:blind", tenant="acme", scopes=frozenset({"events:write"})),
}


@pytest.fixture
async def settings(kafka: Cluster, prefix: str) -> Settings:
    await apply_topics({"bootstrap.servers": kafka.bootstrap}, Topics(prefix, 2).specs(), -1)
    return Settings(bootstrap=kafka.bootstrap, prefix=prefix, api_rate=0, partitions=2)


@pytest.fixture
def cli(settings: Settings, tmp_path: Path) -> Cli:
    assert settings.bootstrap is not None
    return Cli(tmp_path, {"bootstrap": settings.bootstrap, "prefix": settings.prefix})


async def publish(settings: Settings, *ids: str, tenant: str = "acme", type_: str = "order.created") -> None:
    schema_id = codec.content_id(codec.own_schema("event.v3"))
    async with Writer({"bootstrap.servers": settings.bootstrap}) as writer:
        for each in ids:
            event = Event(each, type_, tenant, 1_700_000_000_000, b'{\n  "n": 1\n}', "o/1")
            await writer.write(settings.topics.events, each.encode(), encode_event(schema_id, event))


@asynccontextmanager
async def serving(settings: Settings, keys: dict[str, Principal] | None = None, port: int = 0) -> AsyncIterator[str]:
    """The API's URL."""
    async with api_app(settings, FixedKeys(KEYS if keys is None else keys)) as app:
        runner = web.AppRunner(app, shutdown_timeout=5.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


class Listening:
    """Somebody who listens, in this process."""

    def __init__(self, url: str, key: str, cursor: str | None = None, **wanted: Any) -> None:
        self.heard: list[Heard] = []
        self.task = asyncio.create_task(self._listen(EventStream(url, key), Wanted(**wanted), cursor))

    async def _listen(self, stream: EventStream, wanted: Wanted, cursor: str | None) -> None:
        async with aclosing(stream.follow(wanted, cursor)) as heard:
            async for each in heard:
                self.heard.append(each)

    @property
    def ids(self) -> list[str]:
        return [each.event.id for each in self.heard if each.event is not None]

    async def ready(self) -> None:
        await eventually_async(lambda: bool(self.heard) or self.task.done())

    async def hears(self, *ids: str) -> None:
        await eventually_async(lambda: set(ids) <= set(self.ids))
        assert sorted(self.ids) == sorted(ids)

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_a_tenant_s_key_hears_that_tenant_and_nobody_else(settings: Settings) -> None:
    async with serving(settings) as url:
        acme, other, both = (Listening(url, key) for key in ("acme", "other", "operator"))
        narrowed = Listening(url, "operator", tenant="acme", types=("user.*",))
        everybody = (acme, other, both, narrowed)
        for each in everybody:
            await each.ready()
        await publish(settings, "a1")
        await publish(settings, "b1", tenant="other")
        await publish(settings, "a2", type_="user.created")
        await acme.hears("a1", "a2")
        await other.hears("b1")
        await both.hears("a1", "a2", "b1")
        await narrowed.hears("a2")
        event = next(each.event for each in acme.heard if each.event is not None and each.event.id == "a1")
        assert event == Event("a1", "order.created", "acme", 1_700_000_000_000, b'{\n  "n": 1\n}', "o/1")
        for each in everybody:
            await each.end()


async def test_who_comes_again_goes_on_after_the_last_event(settings: Settings) -> None:
    async with serving(settings) as url:
        first = Listening(url, "acme")
        await first.ready()
        await publish(settings, "e1", "e2", "e3")
        await first.hears("e1", "e2", "e3")
        await first.end()
        await publish(settings, "e4", "e5")
        again = Listening(url, "acme", first.heard[-1].cursor)
        await again.hears("e4", "e5")
        await again.end()
        middle = next(each for each in first.heard if each.event is not None)
        once_more = Listening(url, "acme", middle.cursor)
        await once_more.hears(*({"e1", "e2", "e3", "e4", "e5"} - {middle.event.id if middle.event else ""}))
        await once_more.end()


async def test_who_may_not_is_told_so(settings: Settings) -> None:
    async with serving(settings) as url, aiohttp.ClientSession() as session:
        for key, wanted, said in (
            ("blind", {}, "403: this key lacks the scope events:listen"),
            ("nobody", {}, "401: "),
            ("acme", {"tenant": "other"}, "403: this key is of another tenant"),
            ("acme", {"types": ("order.*.x",)}, "400: 'order.*.x' is neither"),
        ):
            listening = Listening(url, key, **wanted)
            await eventually_async(listening.task.done)
            assert isinstance(error := listening.task.exception(), StreamRefusedError)
            assert said in str(error)
        path, headers = f"{url}/v1/events/listen", {"Authorization": "Bearer acme"}
        async with session.get(path, headers=headers | {"Last-Event-ID": "soon"}) as response:
            assert (response.status, response.content_type) == (400, "application/problem+json")
        async with session.head(path, headers=headers) as response:
            assert (response.status, response.content_type) == (200, "text/event-stream")

        async def taken() -> Listening | None:
            listening = Listening(url, "acme")
            await listening.ready()
            return None if listening.task.done() and listening.task.exception() else listening

        several = [await eventually_async(taken) for _ in range(4)]  # the one that was only looked at may still count
        one_more = Listening(url, "acme")
        await eventually_async(one_more.task.done)
        assert "as many listen as may" in str(one_more.task.exception())
        assert several[0] is not None
        await several[0].end()

        async def room() -> Any:
            async with session.get(path, headers=headers) as response:
                return response.status == 200

        await eventually_async(room)
        for each in several:
            assert each is not None
            await each.end()
    nowhere = Listening("http://127.0.0.1:1", "acme")
    await eventually_async(nowhere.task.done)
    assert isinstance(nowhere.task.exception(), StreamLostError)


async def test_streams_end_with_the_process(settings: Settings) -> None:
    async with serving(settings) as url:
        listening = Listening(url, "acme")
        await listening.ready()
    await eventually_async(listening.task.done)
    assert isinstance(listening.task.exception(), StreamLostError)


# --- the command ------------------------------------------------------------------------------------------------------


async def said(stream: asyncio.StreamReader) -> bytes:
    """The next line."""
    async with asyncio.timeout(60):
        return await stream.readline()


async def test_events_are_forwarded_signed_and_sent_again(cli: Cli, settings: Settings) -> None:
    async with Receiver([Endpoint("/hook", secrets=(SECRET,)), Endpoint("/bad", "dead")]) as receiver:
        arguments = ["listen", "--forward-to", receiver.url("/hook"), "--secret", SECRET, "--events", "order.*"]
        process = await asyncio.create_subprocess_exec(
            *command(*arguments), stdin=PIPE, stdout=PIPE, stderr=PIPE, env=cli.env(), cwd=cli.directory
        )
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            assert b"ready: " in await said(process.stderr)
            await publish(settings, "u1", type_="user.created")
            await publish(settings, "e1")
            first = (await said(process.stdout)).decode()
            assert re.fullmatch(r"#1  order.created  e1  \d+ ms  → 204\n", first)
            process.stdin.write(b"r\n")
            again = (await said(process.stdout)).decode()
            assert again.startswith("#1  order.created  e1  ")
            process.stdin.write(b"r 9\nwhat\n")
            assert b"there is no such event any more" in await said(process.stderr)
            assert b"r and Enter sends the last event again" in await said(process.stderr)
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        stats = receiver.stats()["/hook"]
    assert (stats.deliveries, stats.accepted, stats.invalid) == (1, 2, 0)


async def test_through_the_api_it_comes_again_and_misses_nothing(cli: Cli, settings: Settings) -> None:
    (port,) = steady_ports(1)  # nobody is given it while the API is away
    async with Receiver([Endpoint("/hook")]) as receiver, AsyncExitStack() as first:
        url = await first.enter_async_context(serving(settings, port=port))
        given = Cli(cli.directory, {"api_url": url, "api_key": "acme"})
        with given.started("listen", "--forward-to", receiver.url("/hook"), "--json") as started:
            await eventually_async(lambda: "ready: " in started.err.read_text())
            assert "events are signed with whsec_" in started.err.read_text()
            await publish(settings, "e1")
            await eventually_async(lambda: "e1" in started.out.read_text())
            await first.aclose()
            await publish(settings, "e2")
            await eventually_async(lambda: "trying again" in started.err.read_text())
            async with serving(settings, port=port):
                await eventually_async(lambda: "e2" in started.out.read_text())
                started.process.send_signal(signal.SIGTERM)
                await eventually_async(lambda: started.process.poll() is not None)
            started.ends(0)
    told = [json.loads(line) for line in started.out.read_text().splitlines()]
    assert [(each["number"], each["id"], each["status"]) for each in told] == [(1, "e1", 204), (2, "e2", 204)]


async def test_a_refused_key_ends_the_command(cli: Cli, settings: Settings) -> None:
    async with serving(settings) as url:
        given = Cli(cli.directory, {"api_url": url, "api_key": "blind"})
        said = await asyncio.to_thread(given.fails, "listen")
    assert "403: this key lacks the scope events:listen; use one that has it" in said


async def test_without_a_place_to_forward_to_events_are_shown(cli: Cli, settings: Settings) -> None:
    with cli.started("listen", "--tenant", "acme") as started:
        await eventually_async(lambda: "ready: " in started.err.read_text())
        await publish(settings, "b1", tenant="other")
        await publish(settings, "e1")
        await eventually_async(lambda: "order.created  e1  of acme" in started.out.read_text())
    assert "b1" not in started.out.read_text()


async def test_who_cannot_be_reached_is_said(cli: Cli, settings: Settings) -> None:
    with cli.started("listen", "--forward-to", "http://127.0.0.1:1/") as started:
        await eventually_async(lambda: "ready: " in started.err.read_text())
        await publish(settings, "e1")
        await eventually_async(lambda: "→ connect_failed: " in started.out.read_text())


def test_wrong_usage(cli: Cli) -> None:
    assert "'order.*.x' is neither" in cli.misused("listen", "--events", "order.*.x")
    assert "set DISTRIBUTARY_API_KEY" in cli.fails("listen", "--api-url", "http://127.0.0.1:1")
    assert "must begin with https:// or http://" in cli.fails("listen", "--forward-to", "ftp://x")
    assert "whsec_" in cli.fails("listen", "--forward-to", "http://127.0.0.1:1", "--secret", "whsec_x")
