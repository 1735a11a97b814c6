"""`distributary subscriptions verify`, and what a worker does with a subscription before and after."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from connectors.local_kafka import Cluster
from schemas.ids import delivery_id
from streams.app import Worker
from tests.cli import Cli
from tests.conformance.sender_server import Peer, Request, serving
from tests.conformance.test_verification import answer, answering, challenge_of
from tests.helpers import eventually_async
from tests.integration.workers import Site


def willing(request: Request) -> bytes:
    body = challenge_of(request) if "challenge=" in request.line else b""
    return answer(body=body, WebHook_Allowed_Origin="*", WebHook_Allowed_Rate="120")


def unwilling(request: Request) -> bytes:
    return answer(404)


@pytest.fixture
async def site(kafka: Cluster, prefix: str) -> Site:
    return await Site.made(kafka.bootstrap, prefix)


def cli_of(site: Site, directory: Path, **more: str) -> Cli:
    given = {"bootstrap": str(site.settings.bootstrap), "prefix": site.settings.prefix}
    return Cli(directory, given | {"allow_private_networks": "true"} | more)


async def test_an_endpoint_that_agrees_is_verified(site: Site, tmp_path: Path) -> None:
    cli = cli_of(site, tmp_path, webhook_origin="us.example")
    async with serving(answering(willing)) as server:
        site.subscribe("s", server.url(), verification="cloudevents")
        said = await asyncio.to_thread(cli.run, "subscriptions", "verify", "s", "--json")
        assert json.loads(said.stdout) == {"id": "s", "verified": True, "rate_limit": 2.0}
        assert server.requests[0].header("webhook-request-origin") == "us.example"
        again = await asyncio.to_thread(cli.run, "subscriptions", "verify", "s")
        assert again.stdout == f"verified s: {server.url()}, at most 2 deliveries a second\n"


async def test_who_does_not_agree_is_a_sentence(site: Site, tmp_path: Path) -> None:
    cli = cli_of(site, tmp_path)
    async with serving(answering(unwilling)) as server:
        site.subscribe("s", server.url(), verification="challenge")
        site.subscribe("none", server.url())
        said = await asyncio.to_thread(cli.fails, "subscriptions", "verify", "s")
        assert said.startswith("s is not verified: The endpoint answered with the status 404; it must be 2xx.")
        assert "asks for no verification" in await asyncio.to_thread(cli.fails, "subscriptions", "verify", "none")
        assert "there is no subscription 'no'" in await asyncio.to_thread(cli.fails, "subscriptions", "verify", "no")
    shown = json.loads((await asyncio.to_thread(cli.run, "subscriptions", "get", "s")).stdout)
    assert shown["verified_url"] == ""


async def test_a_subscription_that_changes_while_it_is_asked_is_not_verified(site: Site, tmp_path: Path) -> None:
    cli = cli_of(site, tmp_path)

    async def script(peer: Peer) -> None:
        request = await peer.request()
        site.subscribe("s", server.url("/elsewhere"), verification="challenge")
        await peer.send(willing(request))

    async with serving(script) as server:
        site.subscribe("s", server.url(), verification="challenge")
        said = await asyncio.to_thread(cli.fails, "subscriptions", "verify", "s")
    assert said.startswith("s was changed while its endpoint was asked")


async def test_nothing_is_posted_to_a_url_before_it_is_verified(site: Site, tmp_path: Path) -> None:
    cli = cli_of(site, tmp_path)
    async with serving(answering(willing)) as server:

        def posts() -> list[str]:
            return [request.line.split()[1] for request in server.requests if request.line.startswith("POST")]

        site.subscribe("s", server.url("/a"), verification="challenge")
        async with site.worker() as worker:
            site.send(["evt_0"])
            await eventually_async(lambda: worker.counters["events"] == 1)
            await asyncio.to_thread(cli.run, "subscriptions", "verify", "s")
            await eventually_async(lambda: sent(site, worker) and posts(), message="what is sent now arrives")
            shown: dict[str, Any] = json.loads(
                (await asyncio.to_thread(cli.run, "subscriptions", "get", "s", "--reveal")).stdout
            )
            moved = {"url": server.url("/b"), "verified_url": shown["verified_url"]}
            site.subscribe("s", moved.pop("url"), verification="challenge", **moved)
            await eventually_async(lambda: sent(site, worker) and worker.counters["parked"], message="it is parked")
            assert set(posts()) == {"/a"}
            await asyncio.to_thread(cli.run, "subscriptions", "verify", "s")
            await eventually_async(lambda: "/b" in posts())
        assert posts() == sorted(posts()), "nothing went to the old URL any more"
        first = delivery_id("evt_0", "s")
        assert first not in {request.header("webhook-id") for request in server.requests}, "it came before the proof"


def sent(site: Site, worker: Worker) -> bool:
    """One more event, if the last one was taken: the worker follows the table in its own time, so each look sends."""
    number = worker.counters["events"]
    site.send([f"evt_{number}"])
    return True
