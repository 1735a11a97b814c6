"""What every sender promises, over real sockets: run on both senders, on the stock event loop and on uvloop.

The endpoint is a scripted server (`sender_server`). Nothing of ours is replaced: names resolve through an
injected look-up, which is an argument of the senders.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from connectors.address_guard import AddressGuard
from connectors.aiohttp_sender import AiohttpSender
from connectors.http_sender import HttpSender
from connectors.resolver import Resolver
from schemas.post import CAUSES, PostResult
from tests.conformance.sender_server import OK, Peer, answering, black_hole, once, serving
from tests.helpers import drip

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from connectors.http_target import AnyRoute

LOOPBACK = AddressGuard(allow=["127.0.0.0/8", "::1/128"], deny_ports=["1-79"])
ANYWHERE = AddressGuard(allow=["127.0.0.0/8"], allow_http=True)
NAMES = {
    "hooks.test": ["127.0.0.1"],
    "other.test": ["127.0.0.1"],
    "inside.test": ["10.1.2.3", "192.168.1.1"],
    "half.test": ["10.1.2.3", "127.0.0.1"],
    "detour.test": ["127.0.0.77", "127.0.0.1"],
    "public.test": ["1.1.1.1"],
    "swamp.test": ["127.0.0.78", "127.0.0.1"],
}


async def lookup(host: str) -> Sequence[str]:
    if host not in NAMES:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return NAMES[host]


class Caller:
    """Posts and waits. Notes every answer, so that "exactly once" is checked."""

    def __init__(self, sender: HttpSender | AiohttpSender) -> None:
        self.sender = sender
        self.answers: list[list[PostResult]] = []

    def start(
        self,
        url: str,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"{}",
        *,
        static: Mapping[str, str] | None = None,
        timeout_s: float = 15.0,
    ) -> asyncio.Future[PostResult]:
        return self.start_on(self.sender.route(url, static or {}, timeout_s), headers, body)

    def start_on(
        self, route: AnyRoute, headers: Sequence[tuple[str, str]] = (), body: bytes = b"{}"
    ) -> asyncio.Future[PostResult]:
        future: asyncio.Future[PostResult] = asyncio.get_running_loop().create_future()
        answers: list[PostResult] = []
        self.answers.append(answers)

        def done(result: PostResult) -> None:
            answers.append(result)
            if not future.done():
                future.set_result(result)

        self.sender.post(route, headers, body, done)
        assert not answers, "done was called from inside post()"
        return future

    async def post(self, *args: Any, **kwargs: Any) -> PostResult:
        async with asyncio.timeout(60):
            return await self.start(*args, **kwargs)

    def check(self) -> None:
        """Every POST has exactly one answer, and every answer says exactly one thing."""
        assert [len(answers) for answers in self.answers] == [1] * len(self.answers)
        assert self.sender.in_flight == 0
        for result in (answers[0] for answers in self.answers):
            assert (result.status == 0) == (result.cause is not None)
            assert result.cause is None or result.cause in CAUSES
            assert (result.cause is None) == (result.detail is None)
            if result.detail is not None:  # a sentence
                assert result.detail.endswith(".")
                assert "\n" not in result.detail
            assert result.duration_us >= 0


SENDERS = {"http": HttpSender, "aiohttp": AiohttpSender}


@contextlib.asynccontextmanager
async def calling(kind: str, guard: AddressGuard = LOOPBACK, **options: Any) -> AsyncIterator[Caller]:
    sender = SENDERS[kind](guard, resolver=Resolver(lookup), **options)
    caller = Caller(sender)
    try:
        yield caller
    finally:
        await sender.close()
        caller.check()


@pytest.fixture(params=["http", "aiohttp"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def caller(kind: str) -> AsyncIterator[Caller]:
    async with calling(kind) as caller:
        yield caller


def response(status: int, *fields: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


# -- requests ------------------------------------------------------------------------------------------------


async def test_the_request_arrives_as_given(caller: Caller) -> None:
    async with serving(answering(OK)) as server:
        headers = [("webhook-id", "msg_1"), ("content-type", "application/json")]
        result = await caller.post(server.url("/a/b%20c?d=e"), headers, b'{"n":1}', static={"X-Team": "blue"})
    assert (result.status, result.excerpt) == (200, b"ok")
    (request,) = server.requests
    assert request.line == "POST /a/b%20c?d=e HTTP/1.1"
    assert request.body == b'{"n":1}'
    names = sorted(name for name, _ in request.headers)
    assert names == [
        "accept-encoding",
        "content-length",
        "content-type",
        "host",
        "user-agent",
        "webhook-id",
        "x-team",
    ]
    assert request.header("host") == f"127.0.0.1:{server.port}"
    assert request.header("user-agent") == "Distributary"
    assert request.header("x-team") == "blue"
    assert request.header("webhook-id") == "msg_1"


async def test_a_subscription_may_name_its_own_user_agent(caller: Caller) -> None:
    async with serving(answering(OK)) as server:
        await caller.post(server.url(), static={"User-Agent": "acme"})
    assert [value for name, value in server.requests[0].headers if name == "user-agent"] == ["acme"]


async def test_an_empty_body_has_a_length(caller: Caller) -> None:
    async with serving(answering(OK)) as server:
        await caller.post(server.url(), body=b"")
    assert server.requests[0].header("content-length") == "0"


async def test_a_large_body_waits_for_a_slow_reader(caller: Caller) -> None:
    body = bytes(range(256)) * 16_384  # 4 MiB, more than the sockets' buffers hold
    posted = asyncio.Event()

    async def script(peer: Peer) -> None:
        await posted.wait()
        while True:
            await peer.request()
            await peer.send(OK)

    async with serving(script) as server:
        route = caller.sender.route(server.url(), {}, 15)
        answers = [caller.start_on(route, body=body), caller.start_on(route, body=body[:1_000_000])]
        assert caller.sender.in_flight == 2
        posted.set()
        results = await asyncio.gather(*answers)
    assert [result.status for result in results] == [200, 200]
    assert sorted(len(request.body) for request in server.requests) == [1_000_000, len(body)]
    assert all(request.body == body[: len(request.body)] for request in server.requests)


async def test_an_answer_may_come_before_the_request_was_read(caller: Caller) -> None:
    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await peer.head()
            await peer.send(response(413))
            await peer.gone()
        else:
            await peer.request()
            await peer.send(OK)

    async with serving(script) as server:
        body = b"x" * 16_000_000
        assert (await caller.post(server.url(), body=body)).status == 413
        # What was left of that body must not run into the next request.
        assert (await caller.post(server.url())).status == 200
    assert server.connections == 2


@pytest.mark.parametrize(
    "headers",
    [
        [("x", "a\r\ny: b")],
        [("x", "a\nb")],
        [("x", "a\rb")],
        [("x", "a\0b")],
        [("x", "\x1b[0m")],
        [("x", "\x7f")],
        [("x", "\u20ac")],
        [("x: y\r\nz", "a")],
        [("x y", "a")],
        [("", "a")],
        [("content-length", "0")],
        [("Transfer-Encoding", "chunked")],
        [("host", "other.test")],
    ],
)
async def test_a_header_that_could_inject_is_not_sent(caller: Caller, headers: list[tuple[str, str]]) -> None:
    async with serving(answering(OK)) as server:
        result = await caller.post(server.url(), headers)
    assert result.cause == "invalid_request"
    assert result.detail is not None
    assert "\n" not in result.detail
    assert server.connections == 0


async def test_a_route_refuses_what_must_not_be_used(caller: Caller) -> None:
    for url in ("ftp://hooks.test/", "https://u:p@hooks.test/", "https://hooks.test/#x", "https:///x"):
        with pytest.raises(ValueError, match=r"\.$"):
            caller.sender.route(url, {}, 15)
    for static in ({"Host": "x"}, {"webhook-id": "x"}, {"x": "a\r\nb: c"}, {"x": "1", "X": "2"}):
        with pytest.raises(ValueError, match=r"\.$"):
            caller.sender.route("https://hooks.test/", static, 15)
    with pytest.raises(ValueError, match="time-out"):
        caller.sender.route("https://hooks.test/", {}, 0)


async def test_a_route_names_its_origin(caller: Caller) -> None:
    assert caller.sender.route("https://Hooks.test/x", {}, 15).origin == "https://hooks.test:443"
    assert caller.sender.route("http://[::1]/x", {}, 15).origin == "http://[::1]:80"


async def test_a_route_names_the_uri_that_the_endpoint_can_reconstruct(caller: Caller) -> None:
    async with serving(answering(OK)) as server:
        route = caller.sender.route(server.url("/a b?c=d e").replace(" ", "%20"), {}, 15)
        await caller.start_on(route)
    (request,) = server.requests
    _, target, _ = request.line.split()
    assert route.uri == f"http://{request.header('host')}{target}"
    assert caller.sender.route("https://Hooks.test:443", {}, 15).uri == "https://hooks.test/"


async def test_a_route_of_another_sender_is_a_mistake(caller: Caller) -> None:
    class Foreign:
        origin = "https://hooks.test:443"
        uri = "https://hooks.test/"

    with pytest.raises(TypeError):
        caller.sender.post(Foreign(), (), b"", lambda result: None)


# -- responses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 299, 301, 307, 400, 404, 410, 429, 500, 503, 599])
async def test_a_status_is_handed_over_and_redirects_are_not_followed(caller: Caller, status: int) -> None:
    answer = response(status, "location: /other", "set-cookie: a=b", body=b"why")
    async with serving(answering(answer)) as server:
        first = await caller.post(server.url())
        second = await caller.post(server.url())
    assert (first.status, first.excerpt, second.status) == (status, b"why", status)
    assert [request.line for request in server.requests] == ["POST /hook HTTP/1.1"] * 2
    assert server.requests[1].header("cookie") is None
    assert server.connections == 1


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_a_body_keeps_the_connection(caller: Caller, status: int) -> None:
    async with serving(answering(f"HTTP/1.1 {status} No\r\ndate: now\r\n\r\n".encode())) as server:
        assert (await caller.post(server.url())).status == status
        assert (await caller.post(server.url())).status == status
    assert server.connections == 1


async def test_retry_after_is_handed_over_as_received(caller: Caller) -> None:
    async with serving(answering(response(503, "Retry-After: 120"), response(429), OK)) as server:
        results = [await caller.post(server.url()) for _ in range(3)]
    assert [result.retry_after for result in results] == ["120", None, None]


async def test_allowed_rate_is_handed_over_as_received(caller: Caller) -> None:
    long = response(200, "webhook-allowed-rate: " + "1" * 200)
    answers = (response(429, "WebHook-Allowed-Rate: 120"), response(200, "x-webhook-allowed-ra: 9"), long, OK)
    async with serving(answering(*answers)) as server:
        results = [await caller.post(server.url()) for _ in range(4)]
    assert [result.allowed_rate for result in results] == ["120", None, "1" * 128, None]
    assert server.connections == 1


async def test_allowed_origin_is_handed_over_as_received(caller: Caller) -> None:
    answers = (
        response(200, "WebHook-Allowed-Origin: hooks.example"),
        OK,
        response(200, "webhook-allowed-origin: " + "x" * 129),
    )
    async with serving(answering(*answers)) as server:
        seen = [(await caller.post(server.url())).allowed_origin for _ in answers]
    assert seen == ["hooks.example", None, "x" * 128]


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_a_route_may_have_another_method(caller: Caller, method: str) -> None:
    async with serving(answering(OK)) as server:
        route = caller.sender.route(server.url("/hook?challenge=1"), {"x-a": "b"}, 15.0, method=method)
        results = [await caller.start_on(route, [("webhook-request-origin", "us.example")], b"") for _ in range(2)]
        assert (await caller.post(server.url())).status == 200
    assert [(result.status, result.excerpt) for result in results] == [(200, b"ok")] * 2
    assert [request.line for request in server.requests] == [
        *[f"{method} /hook?challenge=1 HTTP/1.1"] * 2,
        "POST /hook HTTP/1.1",
    ]
    assert server.requests[0].header("webhook-request-origin") == "us.example"
    assert server.requests[0].header("x-a") == "b"
    assert server.connections == 1


async def test_interim_responses_are_skipped(caller: Caller) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nretry-after: 9\r\nwebhook-allowed-rate: 9\r\n\r\n"
    interim = b"HTTP/1.1 100 Continue\r\n\r\n" + early
    async with serving(answering(interim + OK)) as server:
        results = [await caller.post(server.url()) for _ in range(2)]
    assert [(each.status, each.retry_after, each.allowed_rate) for each in results] == [(200, None, None)] * 2
    assert server.connections == 1


async def test_a_chunked_body_is_put_together(caller: Caller) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    body = b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nretry-after: 1\r\n\r\n"
    async with serving(answering(head + body)) as server:
        results = [await caller.post(server.url()) for _ in range(2)]
    assert [(result.excerpt, result.retry_after) for result in results] == [(b"abcdefg", None)] * 2
    assert server.connections == 1


async def test_a_response_may_come_byte_by_byte(caller: Caller) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        for byte in response(202, "retry-after: 3", body=b"hello"):
            await peer.send(bytes([byte]))
            await asyncio.sleep(0)

    async with serving(script) as server:
        result = await caller.post(server.url())
    assert (result.status, result.excerpt, result.retry_after) == (202, b"hello", "3")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end",
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    ],
)
async def test_a_body_may_end_with_the_connection(caller: Caller, answer: bytes) -> None:
    async with serving(once(answer)) as server:
        result = await caller.post(server.url())
    assert (result.status, result.excerpt) == (200, b"until the end")


async def test_a_body_that_should_end_with_the_connection_may_be_cut_off(caller: Caller, kind: str) -> None:
    # aiohttp takes a reset for the end of such a body.
    expected = (200, None) if kind == "aiohttp" else (0, "reset")
    head_sent = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 1:
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
            await head_sent.wait()
            peer.reset()
        else:
            await peer.send(OK)

    async with serving(script) as server:
        broken = caller.start(server.url())
        assert (await caller.post(server.url())).status == 200
        head_sent.set()
        result = await broken
        assert (result.status, result.cause) == expected


async def test_http_1_0_may_ask_to_keep_the_connection(caller: Caller) -> None:
    answer = b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok"
    async with serving(answering(answer)) as server:
        assert [(await caller.post(server.url())).status for _ in range(2)] == [200, 200]
    assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ],
)
async def test_a_connection_that_ends_is_not_used_again(caller: Caller, answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)
        await peer.gone()

    async with serving(script) as server:
        assert [(await caller.post(server.url())).status for _ in range(2)] == [200, 200]
    assert server.connections == 2


async def test_the_excerpt_is_bounded(caller: Caller) -> None:
    body = b"0123456789" * 500
    async with serving(answering(response(500, body=body))) as server:
        results = [await caller.post(server.url()) for _ in range(2)]
    assert [result.excerpt for result in results] == [body[:1_024]] * 2
    assert server.connections == 1


async def test_an_endless_body_is_cut_and_the_status_counts(caller: Caller) -> None:
    cut = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        try:
            while True:
                await peer.send(b"400\r\n" + b"x" * 1_024 + b"\r\n")
        except ConnectionError:
            cut.set()
            raise

    async with serving(script) as server:
        result = await caller.post(server.url())
        async with asyncio.timeout(60):
            await cut.wait()
    assert (result.status, result.excerpt) == (200, b"x" * 1_024)


@pytest.mark.parametrize(
    "head",
    [
        (b"x: " + b"a" * 1_000 + b"\r\n") * 30 + b"\r\n",
        b"x: " + b"a" * 30_000 + b"\r\n\r\n",
        b"x: " + b"a" * 30_000,
        b"x" * 30_000,
    ],
)
async def test_a_head_beyond_its_bound_is_an_error(caller: Caller, head: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n" + head)
        await peer.gone()

    async with serving(script) as server:
        result = await caller.post(server.url())
    assert result.cause == "response_too_large"


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 999 No\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_not_http_is_malformed(caller: Caller, answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)
        await peer.gone()

    async with serving(script) as server:
        result = await caller.post(server.url())
    assert result.cause == "malformed_response"


async def test_a_body_that_turns_out_malformed(caller: Caller, kind: str) -> None:
    # aiohttp leaves a reader of the body waiting in this case, so there it is the deadline that ends it.
    expected, timeout_s = ("timeout", 1.0) if kind == "aiohttp" else ("malformed_response", 15.0)
    came, head_read = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 1:
            came.set()
            await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
            await head_read.wait()
            await peer.send(b"zz\r\n")
            await peer.gone()
        else:
            await peer.send(OK)

    async with serving(script) as server:
        broken = caller.start(server.url(), timeout_s=timeout_s)
        async with asyncio.timeout(60):
            await came.wait()
        assert (await caller.post(server.url())).status == 200
        head_read.set()
        assert (await broken).cause == expected


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"HTTP/1.1 20",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_connection_that_ends_too_early(caller: Caller, part: bytes, how: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(part)
        if how == "reset":
            peer.reset()

    async with serving(script) as server:
        result = await caller.post(server.url())
    assert result.cause == "reset"
    assert len(server.requests) == 1, "a fresh connection was retried"


# -- time ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"])
async def test_an_endpoint_that_hangs_times_out(caller: Caller, part: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(part)
        await peer.gone()

    async with serving(script) as server:
        result = await caller.post(server.url(), timeout_s=0.2)
        assert result.cause == "timeout"
        assert caller.sender.in_flight == 0


async def test_a_dripping_endpoint_does_not_stretch_the_deadline(caller: Caller) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n")
        while True:
            await peer.send(b"x")
            await drip()

    async with serving(script) as server:
        assert (await caller.post(server.url(), timeout_s=0.3)).cause == "timeout"


async def test_waiting_for_a_connection_counts_towards_the_time_out(kind: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with serving(script) as server, calling(kind, connections_per_origin_max=1) as caller:
        first = caller.start(server.url(), timeout_s=60)
        assert (await caller.post(server.url(), timeout_s=0.2)).cause == "timeout"
        assert not first.done()


async def test_a_host_that_does_not_answer_fails_to_connect(kind: str) -> None:
    async with calling(kind, connect_timeout_s=0.2) as caller:
        with black_hole() as port:
            assert (await caller.post(f"http://127.0.0.1:{port}/")).cause == "connect_failed"


async def test_the_total_time_out_covers_connecting(kind: str) -> None:
    async with calling(kind, connect_timeout_s=30) as caller:
        with black_hole() as port:
            assert (await caller.post(f"http://127.0.0.1:{port}/", timeout_s=0.2)).cause == "timeout"


# -- connections ---------------------------------------------------------------------------------------------


async def test_connections_are_kept_and_counted_per_origin(caller: Caller) -> None:
    async with serving(answering(OK)) as server, serving(answering(OK)) as other:
        for _ in range(5):
            assert (await caller.post(server.url())).status == 200
            assert (await caller.post(other.url())).status == 200
    assert (server.connections, other.connections) == (1, 1)


async def test_the_connections_of_an_origin_are_bounded(kind: str) -> None:
    both = asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            if len(peer.server.requests) == 2:
                both.set()
            await both.wait()
            await peer.send(OK)

    async with serving(script) as server, calling(kind, connections_per_origin_max=2) as caller:
        results = await asyncio.gather(*[caller.start(server.url(f"/{n}")) for n in range(10)])
    assert {result.status for result in results} == {200}
    assert server.connections == server.connections_max == 2


async def test_a_stale_connection_is_replaced_once(caller: Caller) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        if peer.number > 1:
            await peer.send(OK)

    async with serving(script) as server:
        assert (await caller.post(server.url())).status == 200
        # The server reads this on the first connection and closes it; the answer comes on the second.
        result = await caller.post(server.url(), [("webhook-id", "msg_2")], b"again")
    assert result.status == 200
    assert [request.connection for request in server.requests] == [1, 1, 2]
    assert [request.body for request in server.requests[1:]] == [b"again", b"again"]


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_stale_connection_is_not_replaced_twice(caller: Caller, how: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 1:
            await peer.send(OK)
            await peer.request()
        if how == "reset":
            peer.reset()

    async with serving(script) as server:
        assert (await caller.post(server.url())).status == 200
        assert (await caller.post(server.url())).cause == "reset"
    assert [request.connection for request in server.requests] == [1, 1, 2]


async def test_nothing_is_repeated_after_a_byte_of_the_answer(caller: Caller) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n")

    async with serving(script) as server:
        assert (await caller.post(server.url())).status == 200
        assert (await caller.post(server.url())).cause == "reset"
    assert len(server.requests) == 2


async def test_an_idle_connection_may_be_closed_by_the_peer(caller: Caller) -> None:
    async with serving(once(OK)) as server:
        assert [(await caller.post(server.url())).status for _ in range(3)] == [200, 200, 200]
    assert server.connections == 3


async def test_what_was_not_asked_for_answers_nothing(caller: Caller) -> None:
    answered, poisoned = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if peer.number == 1:
            await answered.wait()
            await peer.send(response(500, body=b"poison"))
            poisoned.set()
            await peer.gone()

    async with serving(script) as server, serving(answering(OK)) as other:
        assert (await caller.post(server.url())).status == 200
        answered.set()
        async with asyncio.timeout(60):
            await poisoned.wait()
        # On the loopback the poison has arrived; after other exchanges it has also been read.
        for _ in range(5):
            assert (await caller.post(other.url())).status == 200
        assert (await caller.post(server.url())).status == 200
    assert server.connections == 2


@pytest.mark.parametrize("surplus", [response(500, body=b"poison"), b"HTTP/1.1 500 No", b"\0\0\0"])
async def test_what_follows_a_response_answers_nothing(caller: Caller, kind: str, surplus: bytes) -> None:
    if kind == "aiohttp" and surplus[-1:] != b"n":
        # It forgets half a head and goes on with the connection, and calls the whole read malformed when what
        # follows is not HTTP: neither answers the next request.
        pytest.skip("aiohttp reads an incomplete surplus differently")

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + (surplus if peer.number == 1 else b""))
        await peer.gone()

    async with serving(script) as server:
        assert [(await caller.post(server.url())).status for _ in range(2)] == [200, 200]
    assert server.connections == 2


async def test_done_may_post_again(caller: Caller) -> None:
    async with serving(answering(OK)) as server:
        route = caller.sender.route(server.url(), {}, 15)
        last: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        left = 50

        def done(result: PostResult) -> None:
            nonlocal left
            left -= 1
            if left:
                caller.sender.post(route, (), b"{}", done)
            else:
                last.set_result(None)

        caller.sender.post(route, (), b"{}", done)
        async with asyncio.timeout(60):
            await last
    assert (len(server.requests), server.connections) == (50, 1)


async def test_a_done_that_raises_harms_nobody_else(caller: Caller) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

    def done(result: PostResult) -> None:
        raise RuntimeError("the caller's mistake")

    async with serving(answering(OK)) as server:
        route = caller.sender.route(server.url(), {}, 15)
        caller.sender.post(route, (), b"{}", done)
        results = await asyncio.gather(*[caller.start_on(route) for _ in range(3)])
    assert [result.status for result in results] == [200] * 3
    assert [str(context["exception"]) for context in reported] == ["the caller's mistake"]


# -- addresses and names -------------------------------------------------------------------------------------


async def test_a_closed_port_fails_to_connect(caller: Caller) -> None:
    async with serving(answering(OK)) as server:
        url = server.url()
    assert (await caller.post(url)).cause == "connect_failed"


async def test_a_name_that_does_not_resolve(caller: Caller) -> None:
    result = await caller.post("http://nothing.invalid/")
    assert result.cause == "dns_failed"
    assert "nothing.invalid" in (result.detail or "")


async def test_the_host_field_keeps_the_name(caller: Caller) -> None:
    async with serving(answering(OK)) as server:
        assert (await caller.post(server.url(host="hooks.test"))).status == 200
    assert server.requests[0].header("host") == f"hooks.test:{server.port}"


@pytest.mark.parametrize(
    "url",
    [
        "http://inside.test/",
        "http://169.254.169.254/",
        "http://[::ffff:10.0.0.1]/",
        "http://public.test/",  # without TLS
        "http://hooks.test:25/",
        "https://metadata.google.internal/",
    ],
)
async def test_a_refused_address_is_not_connected_to(caller: Caller, url: str) -> None:
    result = await caller.post(url)
    assert result.cause == "address_refused"
    assert (result.detail or "").endswith(".")


async def test_only_the_allowed_addresses_of_a_name_are_used(caller: Caller) -> None:
    async with serving(answering(OK)) as server:
        assert (await caller.post(server.url(host="half.test"))).status == 200


async def test_the_next_address_is_tried_when_one_does_not_connect(caller: Caller) -> None:
    async with serving(answering(OK)) as server:
        assert (await caller.post(server.url(host="detour.test"))).status == 200


async def test_an_address_that_does_not_answer_leaves_time_for_the_next(kind: str) -> None:
    async with serving(answering(OK)) as server, calling(kind, connect_timeout_s=3.0) as caller:
        with black_hole("127.0.0.78", server.port):
            assert (await caller.post(server.url(host="swamp.test"))).status == 200


@pytest.mark.parametrize("host", ["hooks.test", "127.0.0.1"])
async def test_the_guard_is_asked_about_the_address_connected_to(kind: str, host: str) -> None:
    guard = AddressGuard(allow_private=True, deny=["127.0.0.1/32"])
    async with serving(answering(OK)) as server, calling(kind, guard) as caller:
        assert (await caller.post(server.url(host=host))).cause == "address_refused"
    assert server.connections == 0


async def test_an_ipv6_literal(caller: Caller) -> None:
    try:
        async with serving(answering(OK), host="::1") as server:
            assert (await caller.post(server.url())).status == 200
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    assert server.requests[0].header("host") == f"[::1]:{server.port}"


# -- TLS -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="module")
def certified(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("hooks.test").configure_cert(context)
    return context


async def test_tls_with_a_trusted_certificate(kind: str, trusting: ssl.SSLContext, certified: ssl.SSLContext) -> None:
    async with serving(answering(OK), tls=certified) as server, calling(kind, ssl_context=trusting) as caller:
        for _ in range(3):
            assert (await caller.post(server.url(host="hooks.test"))).status == 200
    assert server.connections == 1


async def test_tls_with_the_wrong_name(kind: str, trusting: ssl.SSLContext, certified: ssl.SSLContext) -> None:
    async with serving(answering(OK), tls=certified) as server, calling(kind, ssl_context=trusting) as caller:
        result = await caller.post(server.url(host="other.test"))
    assert result.cause == "tls_failed"
    assert "other.test" in (result.detail or "")
    assert server.requests == []


async def test_tls_without_trust(caller: Caller, certified: ssl.SSLContext) -> None:
    async with serving(answering(OK), tls=certified) as server:
        result = await caller.post(server.url(host="hooks.test"))
    assert result.cause == "tls_failed"
    assert server.requests == []


async def test_tls_to_a_server_that_speaks_plain_http(caller: Caller) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(response(400))
        await peer.gone()

    async with serving(script) as server:
        result = await caller.post(server.url(host="hooks.test").replace("http:", "https:"))
    assert result.cause == "tls_failed"


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_connection_that_ends_during_the_handshake(caller: Caller, how: str) -> None:
    async def script(peer: Peer) -> None:
        if how == "reset":
            peer.reset()

    async with serving(script) as server:
        result = await caller.post(server.url(host="hooks.test").replace("http:", "https:"))
    assert result.cause == "tls_failed"


async def test_a_handshake_that_hangs_fails_to_connect(kind: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.gone()

    async with serving(script) as server, calling(kind, connect_timeout_s=0.2) as caller:
        result = await caller.post(server.url(host="hooks.test").replace("http:", "https:"))
    assert result.cause == "connect_failed"


# -- closing -------------------------------------------------------------------------------------------------


async def test_closing_answers_everything_once(kind: str) -> None:
    hanging = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        hanging.set()
        await peer.gone()

    with black_hole() as port:
        # The connect time-out is far away: closing must not wait for it.
        options: dict[str, Any] = {"connections_per_origin_max": 1, "connect_timeout_s": 3_600}
        async with serving(script) as server, calling(kind, **options) as caller:
            sent = caller.start(server.url())
            async with asyncio.timeout(60):
                await hanging.wait()
            waiting = [caller.start(server.url()) for _ in range(3)]
            connecting = caller.start(f"http://127.0.0.1:{port}/")
            resolving = caller.start(server.url(host="hooks.test"))
            refused = caller.start(server.url(), [("x", "\n")])
            assert caller.sender.in_flight == 6
            await caller.sender.close()
            late = caller.start(server.url())
            causes = [(await one).cause for one in (sent, *waiting, connecting, resolving, late)]
            assert causes == ["shutdown"] * 7
            assert (await refused).cause == "invalid_request"
            await caller.sender.close()  # again: nothing left to do


# -- proxies: aiohttp only, HttpSender does not speak through them -------------------------------------------


async def test_a_proxy_gets_the_whole_url() -> None:
    async with serving(answering(OK)) as proxy, calling("aiohttp", ANYWHERE, proxy=proxy.url("")) as caller:
        assert (await caller.post("http://resolved.by.the.proxy/x")).status == 200
        assert (await caller.post("http://169.254.169.254/x")).cause == "address_refused"
    assert [request.line for request in proxy.requests] == ["POST http://resolved.by.the.proxy/x HTTP/1.1"]


async def test_a_proxy_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(answering(OK)) as proxy, serving(answering(OK)) as server:
        monkeypatch.setenv("http_proxy", proxy.url(""))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with calling("aiohttp", ANYWHERE, trust_env=True) as caller:
            assert (await caller.post("http://resolved.by.the.proxy/x")).status == 200
            assert (await caller.post(server.url())).status == 200
        async with calling("aiohttp") as caller:
            assert (await caller.post("http://resolved.by.the.proxy/x")).cause == "dns_failed"
    assert (len(proxy.requests), len(server.requests)) == (1, 1)
