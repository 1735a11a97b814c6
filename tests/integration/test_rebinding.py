"""Names whose answers change between check and use, on both senders, with a DNS server of the test's own.

127.0.0.1 plays the public endpoint, opened by `allow`; 127.0.0.2 plays what is inside, where a server listens on the
same port and must never be reached. Answers of the resolver are not kept, so that each connect is a question.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest

from connectors import resolver
from connectors.address_guard import AddressGuard
from connectors.aiohttp_sender import AiohttpSender
from connectors.http_sender import HttpSender
from connectors.resolver import Resolver
from schemas.post import PostResult
from tests.conformance.sender_server import OK, Peer, Server, answering, once
from tests.dns_server import AAAA, DnsServer, dns_server

OUTSIDE, INSIDE = "127.0.0.1", "127.0.0.2"
Script = Callable[[Peer], Awaitable[None]]
SENDERS = {"http": HttpSender, "aiohttp": AiohttpSender}


class Town:
    """A sender, its DNS server, and two servers on one port."""

    def __init__(self, sender: HttpSender | AiohttpSender, dns: DnsServer, outside: Server, inside: Server) -> None:
        self.sender = sender
        self.dns = dns
        self.outside = outside
        self.inside = inside

    async def post(self, host: str = "hooks.test", path: str = "/hook") -> PostResult:
        answer: asyncio.Future[PostResult] = asyncio.get_running_loop().create_future()
        route = self.sender.route(self.outside.url(path, host), {}, 50.0)
        self.sender.post(route, [], b"{}", answer.set_result)
        async with asyncio.timeout(60):
            return await answer


@contextlib.asynccontextmanager
async def town(kind: str, script: Script) -> AsyncIterator[Town]:
    outside, inside = Server(script, tls=False), Server(answering(OK), tls=False)
    async with contextlib.AsyncExitStack() as stack:
        dns = await stack.enter_async_context(dns_server())
        outer = await asyncio.start_server(outside.accept, OUTSIDE, 0)
        outside.host, outside.port = outer.sockets[0].getsockname()[:2]
        inner = await asyncio.start_server(inside.accept, INSIDE, outside.port)
        for listener in (outer, inner):
            stack.callback(listener.close)
        guard = AddressGuard(allow=[f"{OUTSIDE}/32"])
        sender = SENDERS[kind](guard, resolver=Resolver(dns.lookup))
        stack.push_async_callback(sender.close)
        yield Town(sender, dns, outside, inside)
        assert inside.connections == 0, "what is inside was reached"
    for task in [*outside.tasks, *inside.tasks]:
        task.cancel()
    await asyncio.gather(*outside.tasks, *inside.tasks, return_exceptions=True)


@pytest.fixture(params=list(SENDERS))
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(resolver, "FRESH_S", 0.0)
    monkeypatch.setattr(resolver, "FAILURE_FRESH_S", 0.0)
    return str(request.param)


closing = partial(town, script=once(OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")))


async def test_an_answer_that_changes_is_judged_at_each_connect(kind: str) -> None:
    async with closing(kind) as here:
        here.dns.says(
            "hooks.test", [OUTSIDE], [INSIDE], [OUTSIDE], ["::ffff:127.0.0.2"], ["169.254.169.254"], [OUTSIDE]
        )
        seen = [await here.post() for _ in range(6)]
        assert [result.status or result.cause for result in seen] == [
            200,
            "address_refused",
            200,
            "address_refused",
            "address_refused",
            200,
        ]
        assert here.dns.asked.count(("hooks.test", AAAA)) == 6, "each connect asked once: check and use are one"
        assert "127.0.0.2 is a loopback address" in (seen[1].detail or "")


async def test_of_several_answers_only_those_allowed_are_used(kind: str) -> None:
    async with closing(kind) as here:
        here.dns.says("hooks.test", [INSIDE, OUTSIDE], ["::1", INSIDE, "10.0.0.1", OUTSIDE], ["::1", INSIDE])
        assert [(await here.post()).status for _ in range(3)] == [200, 200, 0]


async def test_the_end_of_a_chain_of_aliases_counts(kind: str) -> None:
    async with closing(kind) as here:
        here.dns.says("hooks.test", ["a.test"])
        here.dns.says("a.test", ["b.test"])
        here.dns.says("b.test", [OUTSIDE])
        assert (await here.post()).status == 200
        here.dns.says("b.test", ["metadata.google.internal"])
        here.dns.says("metadata.google.internal", ["169.254.169.254"])
        refused = await here.post()
        assert (refused.cause, "a link-local address" in (refused.detail or "")) == ("address_refused", True)
        here.dns.says("b.test", [INSIDE])
        assert (await here.post()).cause == "address_refused"
        here.dns.says("b.test", ["hooks.test"])  # in a circle
        assert (await here.post()).cause == "dns_failed"


async def test_a_name_that_vanishes_fails_and_comes_back(kind: str) -> None:
    async with closing(kind) as here:
        assert (await here.post()).cause == "dns_failed"
        here.dns.says("hooks.test", [OUTSIDE])
        assert (await here.post()).status == 200


async def test_a_connection_that_is_kept_stays_at_the_address_it_was_judged_for(kind: str) -> None:
    async with town(kind, answering(OK)) as here:
        here.dns.says("hooks.test", [OUTSIDE], [INSIDE])
        assert [(await here.post()).status for _ in range(5)] == [200] * 5
        assert here.outside.connections == 1
        assert here.dns.asked.count(("hooks.test", AAAA)) == 1


async def test_a_redirect_to_what_is_inside_is_an_answer_like_others(kind: str) -> None:
    async with town(
        kind, answering(b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /moved\r\ncontent-length: 0\r\n\r\n")
    ) as here:
        here.dns.says("hooks.test", [OUTSIDE], [INSIDE])
        assert (await here.post()).status == 307
        assert [request.line for request in here.outside.requests] == ["POST /hook HTTP/1.1"]
