"""A stream of events: what is said while nothing comes, and everything that ends it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from connectors.admin import ClusterError
from connectors.api import listening
from connectors.api.app import ApiConfig, make_app
from connectors.api.listening import STREAM_SECONDS_MAX, Listeners
from connectors.api.principal import Principal, unauthorized
from connectors.api.routes import Services
from connectors.event_feed import EventFeed, Heard, Wanted
from connectors.event_stream import HEARTBEAT_SECONDS, message
from schemas.event import Event

EVENT = Event("e1", "order.created", "acme", 1_700_000_000_000, b"{}")
HEADERS = {"Authorization": "Bearer k"}


class Feed(EventFeed):
    """Says what it was told to; numbers are seconds that pass, and errors are raised."""

    def __init__(self, script: list[Any]) -> None:
        self.now = 0.0
        self.script = script
        self.closed = 0

    async def follow(self, wanted: Wanted, cursor: str | None = None) -> AsyncGenerator[Heard, None]:
        try:
            for each in self.script:
                if isinstance(each, Exception):
                    raise each
                if isinstance(each, float):
                    self.now += each
                elif callable(each):
                    each()
                else:
                    yield each
            while True:  # nothing comes any more
                self.now += 1.0
                yield Heard("9")
        finally:
            self.closed += 1


class Keys:
    """Implements `Authenticate`: one key, until it is revoked."""

    revoked = False

    async def __call__(self, request: web.Request) -> Principal:
        if self.revoked:
            raise unauthorized("this key is not valid")
        return Principal(actor="key:k", tenant="acme", scopes=frozenset({"events:listen"}))

    def revoke(self) -> None:
        self.revoked = True


@asynccontextmanager
async def serving(feed: Feed, keys: Keys | None = None) -> AsyncIterator[tuple[Listeners, Callable[[], Any]]]:
    listeners = Listeners(feed, lambda: feed.now)
    services = Services(keys or Keys(), listeners)
    config = ApiConfig(monotonic=lambda: feed.now, new_id=lambda: "r1", request_seconds=0.2, rate=0)
    app = make_app(listening.ROUTES, services, config)
    async with TestServer(app) as server, ClientSession() as session:
        yield listeners, lambda: session.get(server.make_url("/v1/events/listen"), headers=HEADERS)


async def test_a_stream_says_where_it_is_and_ends_after_an_hour() -> None:
    later = HEARTBEAT_SECONDS + 0.5
    feed = Feed(
        [Heard("1"), Heard("2", EVENT), later, Heard("2"), later, Heard("3"), 1.0, Heard("4"), STREAM_SECONDS_MAX]
    )
    async with serving(feed) as (_, get), get() as response:
        assert response.headers["X-Request-Id"] == "r1"
        assert response.headers["Cache-Control"] == "no-store"
        said = await response.read()
    assert said == b"id: 1\n\n" + message(Heard("2", EVENT)) + b": \n\nid: 3\n\n"
    assert feed.closed == 1


async def test_a_key_that_is_revoked_hears_nothing_more() -> None:
    keys = Keys()
    feed = Feed([Heard("1"), keys.revoke, HEARTBEAT_SECONDS, Heard("1"), Heard("2", EVENT)])
    async with serving(feed, keys) as (_, get), get() as response:
        assert await response.read() == b"id: 1\n\n"
    assert feed.closed == 1


async def test_a_key_that_is_revoked_hears_nothing_more_while_events_keep_coming() -> None:
    keys = Keys()
    step = HEARTBEAT_SECONDS / 2
    feed = Feed([Heard("1"), step, Heard("2", EVENT), keys.revoke, step, Heard("3", EVENT), Heard("4", EVENT)])
    async with serving(feed, keys) as (_, get), get() as response:
        assert await response.read() == b"id: 1\n\n" + message(Heard("2", EVENT))
    assert feed.closed == 1


async def test_a_stream_ends_with_the_process_or_with_kafka() -> None:
    feed = Feed([])
    async with serving(feed) as (listeners, get):
        feed.script = [Heard("1"), lambda: setattr(listeners, "stopping", True)]
        async with get() as response:
            assert await response.read() == b"id: 1\n\n"
        listeners.stopping = False
        feed.script = [Heard("1"), ClusterError("no broker answers")]
        async with get() as response:
            assert (response.status, await response.read()) == (200, b"id: 1\n\n")
        feed.script = [ClusterError("no broker answers")]
        async with get() as response:
            assert response.status == 503
            assert (await response.json())["detail"] == "no broker answers"
    assert feed.closed == 3


async def test_places_are_given_back() -> None:
    feed = Feed([ClusterError("no broker answers")])
    async with serving(feed) as (_, get):
        for _ in range(listening.STREAMS_OF_CALLER_MAX + 1):
            async with get() as response:
                assert response.status == 503
