"""Tokens through both senders, from a real OAuth2 server and from token endpoints that are none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from connectors.address_guard import AddressGuard
from connectors.aiohttp_sender import AiohttpSender
from connectors.clock import SystemClock
from connectors.http_sender import HttpSender
from schemas.credentials import OAuth2
from schemas.post import PostResult
from streams.core.oauth2 import ANSWER_BYTES_MAX
from streams.ports import Sender
from streams.tokens import TokenPosts, Tokens
from tests.conformance.sender_server import OK, Peer, answering, black_hole, serving
from tests.oauth2_server import Client, OAuth2Server

Script = Callable[[Peer], Awaitable[None]]
SECRET = "s:p/€ & c%t=+"


class Lanes:
    """Lanes of one worker, with its two senders."""

    def __init__(self, made: type[HttpSender] | type[AiohttpSender]) -> None:
        self.guard = AddressGuard(allow_private=True, deny=["127.0.0.66/32"])
        self.sender: Sender = made(self.guard)
        self.token_sender: Sender = made(self.guard, excerpt_bytes_max=ANSWER_BYTES_MAX, connect_timeout_s=2.0)
        self.tokens = Tokens(self.token_sender, SystemClock())

    async def post(self, client: OAuth2, url: str) -> PostResult:
        lane = TokenPosts(self.tokens, client, self.sender, url, {}, 15.0, None)
        done: asyncio.Future[PostResult] = asyncio.get_running_loop().create_future()
        lane.post(self.sender.route(url, {}, 15.0), [("webhook-id", "dlv_1")], b"{}", done.set_result)
        async with asyncio.timeout(60):
            return await done


@pytest.fixture(params=[HttpSender, AiohttpSender])
async def lanes(request: pytest.FixtureRequest) -> AsyncIterator[Lanes]:
    lanes = Lanes(request.param)
    yield lanes
    await lanes.token_sender.close()
    await lanes.sender.close()


@pytest.mark.parametrize("way", ["basic", "post"])
async def test_a_server_takes_our_authentication(lanes: Lanes, way: str) -> None:
    async with OAuth2Server().running() as server:
        server.clients["us:1"] = Client(SECRET, frozenset({"hooks", "more"}))
        client = OAuth2(
            token_url=server.url("/token"), client_id="us:1", client_secret=SECRET, scope="hooks more", client_auth=way  # type: ignore[arg-type]
        )  # fmt: skip
        assert (await lanes.post(client, server.url("/hook"))).status == 204
    assert (server.ways, server.issued, server.hooked) == ({way: 1}, 1, [("dlv_1", 204)])


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"client_secret": "wrong"}, "invalid_client"),
        ({"client_id": "them"}, "invalid_client"),
        ({"scope": "all"}, "invalid_scope"),
    ],
)
async def test_a_servers_refusal_is_handed_on_in_words(lanes: Lanes, fields: dict[str, str], error: str) -> None:
    async with OAuth2Server(us=Client(SECRET)).running() as server:
        given: dict[str, Any] = {"client_id": "us", "client_secret": SECRET} | fields
        client = OAuth2(token_url=server.url("/token"), **given)
        result = await lanes.post(client, server.url("/hook"))
    assert (result.cause, f"({error})" in (result.detail or "")) == ("token_failed", True)
    assert (server.refused, server.hooked) == ({error: 1}, [])


def body(text: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"content-length: %d" % len(text), *fields, b"", text])


async def endless(peer: Peer) -> None:
    await peer.request()
    await peer.send(b'HTTP/1.1 200 OK\r\n\r\n{"access_token":"')
    while True:
        await peer.send(b"x" * 65_536)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (answering(body(b'{"access_token":"' + b"x" * 100_000 + b'","token_type":"Bearer"}')), "access_token"),
        (endless, "access_token"),
        (answering(OK), "access_token"),
        (answering(b"s:p/ is the secret\r\n\r\n"), "not HTTP"),
        (answering(b"HTTP/1.1 307 Else\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"), "307"),
    ],
)
async def test_a_token_endpoint_that_is_none(lanes: Lanes, script: Script, said: str) -> None:
    async with serving(script) as server, serving(answering(OK)) as hook:
        client = OAuth2(token_url=server.url("/token"), client_id="us", client_secret=SECRET)
        result = await lanes.post(client, hook.url())
    assert (result.cause, said in (result.detail or "")) == ("token_failed", True), result.detail
    assert "s:p/" not in (result.detail or "")
    assert (hook.requests, len(server.requests)) == ([], 1)


async def test_a_long_token_arrives_whole(lanes: Lanes) -> None:
    token = b"x" * 8_000
    granted = body(b'{"access_token":"' + token + b'","token_type":"Bearer","expires_in":60}')
    async with serving(answering(granted)) as server, serving(answering(OK)) as hook:
        client = OAuth2(token_url=server.url("/token"), client_id="us", client_secret=SECRET)
        assert (await lanes.post(client, hook.url())).status == 200
    assert hook.requests[0].header("authorization") == f"Bearer {token.decode()}"


async def test_a_token_endpoint_at_an_address_that_is_refused_is_not_connected_to(lanes: Lanes) -> None:
    async with serving(answering(OK), host="127.0.0.66") as inside, serving(answering(OK)) as hook:
        client = OAuth2(token_url=inside.url("/token"), client_id="us", client_secret=SECRET)
        result = await lanes.post(client, hook.url())
    assert (result.cause, "denied" in (result.detail or "")) == ("token_failed", True), result.detail
    assert (inside.connections, hook.connections) == (0, 0)


async def test_a_token_endpoint_that_does_not_answer_holds_up_nobody_else(lanes: Lanes) -> None:
    async with OAuth2Server(us=Client(SECRET)).running() as server:
        with black_hole() as port:
            lost = OAuth2(token_url=f"http://127.0.0.1:{port}/token", client_id="us", client_secret=SECRET)
            found = OAuth2(token_url=server.url("/token"), client_id="us", client_secret=SECRET)
            waiting = asyncio.ensure_future(lanes.post(lost, server.url("/hook")))
            assert (await lanes.post(found, server.url("/hook"))).status == 204
            result = await waiting
    assert (result.cause, "in time" in (result.detail or "")) == ("token_failed", True), result.detail
