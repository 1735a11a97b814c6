"""What the API reads: exports that nobody takes, and the past of an id that was another tenant's before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from connectors.api import dead_letters, deliveries
from connectors.api.app import ApiConfig, make_app
from connectors.api.dead_letters import STREAMS_MAX, STREAMS_OF_CALLER_MAX, Dead
from connectors.api.deliveries import Past
from connectors.api.principal import FixedKeys, Principal
from connectors.api.routes import Route, Services
from connectors.api.subscriptions import Listing
from connectors.dead_documents import Judge
from connectors.dead_letters import DeadLetters, Make, Within
from connectors.history.attempts import HistoryPage, LoggedAttempt, Place, Wants
from connectors.memory import ManualClock
from connectors.subscriptions import ById
from connectors.topic_pages import Batch, Positions
from schemas.access import Scope
from schemas.dead_letter import Act, Filed
from schemas.replay import Selection
from schemas.subscription import Subscription
from tests.helpers import eventually_async

READ: frozenset[Scope] = frozenset({"deliveries:read"})
KEYS = FixedKeys(
    {
        "k-acme": Principal(actor="key:acme", tenant="acme", scopes=READ, key_id="acme"),
        "k-other": Principal(actor="key:other", tenant="other", scopes=READ, key_id="other"),
        "k-operator": Principal(actor="key:operator", tenant=None, scopes=READ, key_id="operator"),
    }
)


@asynccontextmanager
async def serving(routes: list[Route], *things: object) -> AsyncIterator[Callable[[str, str], Any]]:
    config = ApiConfig(monotonic=ManualClock().monotonic, new_id=lambda: "r1", rate=0)
    app = make_app(routes, Services(KEYS, *things), config)
    async with TestServer(app) as server, ClientSession(read_bufsize=1 << 10) as session:
        yield lambda key, path: session.get(server.make_url(path), headers={"Authorization": f"Bearer {key}"})


# --- exports ----------------------------------------------------------------------------------------------------------


class Endless(DeadLetters):
    """More than any socket holds."""

    def __init__(self) -> None:
        self.closed = 0

    async def stream(
        self, make: Make[Any], within: Within, *, start: Positions | None = None
    ) -> AsyncGenerator[Batch[Any], None]:
        try:
            while True:
                await asyncio.sleep(0)
                yield Batch([b"x" * (1 << 20)], {}, 0, 0, 0)
        finally:
            self.closed += 1


class Everything(Judge):
    def chosen(self, selection: Selection) -> Callable[[Filed], bool]:
        return lambda _: True

    def acts(self) -> Callable[[Filed], tuple[Act, ...]]:
        return lambda _: ()

    def error_class(self, filed: Filed) -> str:
        return ""


EXPORT = "/v1/dead-letters/export"


async def test_an_export_that_nobody_takes_ends_and_gives_its_place_back() -> None:
    letters = Endless()
    dead = Dead(letters, Everything(), ManualClock().monotonic, write_seconds=0.05)
    async with serving(dead_letters.ROUTES, dead) as get, get("k-acme", EXPORT) as response:
        assert response.status == 200  # and its body is not read
        await eventually_async(lambda: letters.closed == 1)
        with dead.places.place("acme"):
            pass


async def test_one_caller_leaves_places_for_others() -> None:
    dead = Dead(Endless(), Everything(), ManualClock().monotonic)
    async with serving(dead_letters.ROUTES, dead) as get:
        open_ = [await get("k-acme", EXPORT) for _ in range(STREAMS_OF_CALLER_MAX)]
        assert [each.status for each in open_] == [200] * STREAMS_OF_CALLER_MAX
        async with get("k-acme", EXPORT) as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (429, "5")
        open_ += [await get("k-other", EXPORT) for _ in range(STREAMS_MAX - STREAMS_OF_CALLER_MAX)]
        assert open_[-1].status == 200
        async with get("k-operator", EXPORT) as refused:
            assert refused.status == 429
        for each in open_:
            each.close()


# --- the past of an id ------------------------------------------------------------------------------------------------


class Log:
    """Implements `History` on a list, newest first."""

    def __init__(self, *attempts: LoggedAttempt) -> None:
        self.attempts = attempts

    async def page(
        self,
        subscription_id: str,
        wants: Wants,
        *,
        limit: int,
        before: Place | None = None,
        since_ms: int = 0,
        until_ms: int | None = None,
        outcomes: Collection[str] = (),
    ) -> HistoryPage:
        found = [each for each in self.attempts if each.subscription_id == subscription_id and wants(each)]
        return HistoryPage(found[:limit], None, False)

    async def find(self, delivery_id: str) -> LoggedAttempt | None:
        return next((each for each in self.attempts if each.delivery_id == delivery_id), None)


def attempt(event_id: str, tenant: str, number: int = 1) -> LoggedAttempt:
    return LoggedAttempt(
        partition=0,
        offset=0,
        delivery_id=f"dlv_{event_id}",
        subscription_id="shop",
        event_id=event_id,
        event_type="order.created",
        tenant=tenant,
        event_time_ms=0,
        received_ms=0,
        subject="somebody's order",
        attempt=number,
        outcome="delivered",
        started_ms=1,
        duration_us=1,
        status=200,
        cause="",
        detail="",
        excerpt=b"",
        due_ms=0,
    )


@pytest.mark.parametrize("what", ["attempts", "deliveries"])
async def test_who_takes_an_id_over_does_not_see_what_it_was_to_another_tenant(what: str) -> None:
    """`other` deleted its subscription `shop`, and `acme` made one with that id."""
    index = ById()
    index.put(Subscription(id="shop", tenant="acme", url="https://a.example/", event_types=("*",)))
    log = Log(attempt("mine", "acme"), attempt("theirs", "other", 2), attempt("theirs", "other"))
    listing = Listing(index, cast(Any, None), lambda _: 0)
    async with serving(deliveries.ROUTES, Past(log), listing) as get:

        async def seen(key: str) -> set[str]:
            async with get(key, f"/v1/subscriptions/shop/{what}") as response:
                assert response.status == 200
                return {each["event_id"] for each in (await response.json())["items"]}

        assert await seen("k-acme") == {"mine"}
        assert await seen("k-operator") == {"mine", "theirs"}
        for path in ("/v1/deliveries/dlv_theirs", "/v1/deliveries/dlv_theirs?subscription=shop"):
            async with get("k-acme", path) as response:
                assert response.status == 404
