"""Verification of endpoints, on both senders, with receivers that play each protocol right and wrong."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import orjson
import pytest
import standardwebhooks
import trustme

from connectors.address_guard import AddressGuard
from connectors.aiohttp_sender import AiohttpSender
from connectors.clock import SystemClock
from connectors.http_sender import HttpSender
from connectors.resolver import Resolver
from schemas.endpoint import url_hash
from schemas.subscription import Subscription, subscription_from_json, subscription_to_json
from streams.requests import Outgoing
from streams.secret_keys import SecretKeys
from streams.settings import Settings
from streams.tokens import Tokens
from streams.verification import MakeOutgoing, Refused, Verified, confirmed, verify
from tests.conformance.sender_server import Peer, Request, Server, serving

SECRET = "whsec_" + "A" * 32
TOKEN = "Zm9-_x0123456789"
ORIGIN = "hooks.sender.example"
#: From what was asked to the answer.
Answer = Callable[[Request], bytes]
SENDERS = {"http": HttpSender, "aiohttp": AiohttpSender}


def answer(status: int = 200, body: bytes = b"", **fields: str) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}"]
    head += [f"{name.replace('_', '-')}: {text}" for name, text in fields.items()]
    return "\r\n".join([*head, "", ""]).encode() + body


def challenge_of(request: Request) -> bytes:
    (text,) = parse_qs(urlsplit(request.line.split()[1]).query)["challenge"]
    return text.encode()


def answering(how: Answer) -> Callable[[Peer], Awaitable[None]]:
    async def script(peer: Peer) -> None:
        while True:
            await peer.send(how(await peer.request()))

    return script


def subscription(server: Server, method: str, **fields: Any) -> Subscription:
    values = {"id": "s", "url": server.url(), "event_types": ["*"], "secrets": [SECRET], "verification": method}
    return subscription_from_json(orjson.dumps(values | fields))


@pytest.fixture(params=list(SENDERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def making(sender: HttpSender | AiohttpSender) -> MakeOutgoing:
    tokens, opener = Tokens(sender, SystemClock()), SecretKeys(Settings()).open
    return lambda one, method: Outgoing(one, sender, opener, tokens, method=method)


@contextlib.asynccontextmanager
async def sending(kind: str, **options: Any) -> AsyncIterator[HttpSender | AiohttpSender]:
    async def lookup(host: str) -> list[str]:
        return ["127.0.0.1"]

    sender = SENDERS[kind](AddressGuard(allow=["127.0.0.0/8"]), resolver=Resolver(lookup), **options)
    try:
        yield sender
    finally:
        await sender.close()


async def asked(kind: str, method: str, how: Answer, **fields: Any) -> tuple[Verified | Refused, Request]:
    """The result, and the one request that there was."""
    async with serving(answering(how)) as server, sending(kind) as sender:
        one = subscription(server, method, **fields)
        result = await verify(one, making(sender), token=TOKEN, now_ms=SystemClock().now_ms(), origin=ORIGIN)
    (request,) = server.requests
    return result, request


# --- challenge --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        lambda token: token,
        lambda token: b" " + token + b"\r\n",
        lambda token: orjson.dumps({"challenge": token.decode()}),
    ],
    ids=["as it is", "with white space", "as JSON"],
)
async def test_a_challenge_is_echoed(kind: str, body: Callable[[bytes], bytes]) -> None:
    result, request = await asked(kind, "challenge", lambda request: answer(body=body(challenge_of(request))))
    assert result == Verified()
    assert request.line == f"GET /hook?challenge={TOKEN} HTTP/1.1"
    assert request.body == b""
    assert request.header("webhook-signature") is None


async def test_a_challenge_joins_a_query(kind: str) -> None:
    for query in ("?a=b", "?"):
        echo = answering(lambda request: answer(body=challenge_of(request)))
        async with serving(echo) as server, sending(kind) as sender:
            one = subscription(server, "challenge", url=server.url("/hook") + query)
            assert await verify(one, making(sender), token=TOKEN, now_ms=0, origin=ORIGIN) == Verified()
        assert (
            server.requests[0].line.split()[1] == ("/hook?a=b&" if query == "?a=b" else "/hook?") + f"challenge={TOKEN}"
        )


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 200),
        (b"ok", 200),
        (b"another", 200),
        (TOKEN.encode() + b"x", 200),
        (TOKEN[:-1].encode(), 200),
        (TOKEN.lower().encode(), 200),
        (b"GET /hook?challenge=" + TOKEN.encode(), 200),
        (b'{"challenge": "another"}', 200),
        (b'{"challenge": 5}', 200),
        (b'{"challenge": "\xc3\xa9"}', 200),
        (b'{"answer": "' + TOKEN.encode() + b'"}', 200),
        (b"{", 200),
        (b"\xff", 200),
        (TOKEN.encode(), 404),
        (TOKEN.encode() + b" " * 100_000 + b"x", 200),
        (b'{"x": "' + b"x" * 2_000 + b'", "challenge": "' + TOKEN.encode() + b'"}', 200),
    ],
)
async def test_what_is_no_echo_is_refused(kind: str, body: bytes, status: int) -> None:
    result, _ = await asked(kind, "challenge", lambda request: answer(status, body))
    assert isinstance(result, Refused)
    assert not result.again


# --- CloudEvents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", ["*", ORIGIN, ORIGIN.upper(), f" {ORIGIN} "])
@pytest.mark.parametrize("status", [200, 204, 405])
async def test_consent_is_in_the_header_fields(kind: str, allowed: str, status: int) -> None:
    result, request = await asked(kind, "cloudevents", lambda request: answer(status, WebHook_Allowed_Origin=allowed))
    assert result == Verified()
    assert request.line == "OPTIONS /hook HTTP/1.1"
    assert request.header("webhook-request-origin") == ORIGIN
    assert request.header("webhook-request-rate") is None
    assert request.header("webhook-request-callback") is None


@pytest.mark.parametrize("allowed", [None, "", "other.example", f"{ORIGIN}.evil.example", "null", "x" * 500])
async def test_without_an_origin_of_ours_there_is_no_consent(kind: str, allowed: str | None) -> None:
    fields = {} if allowed is None else {"WebHook_Allowed_Origin": allowed}
    result, _ = await asked(kind, "cloudevents", lambda request: answer(200, b"yes", Allow="POST", **fields))
    assert isinstance(result, Refused)
    assert ORIGIN in result.reason
    assert not result.again


@pytest.mark.parametrize(("said", "rate"), [("120", 2.0), ("*", 0.0), ("", 0.0), ("-5", 0.0), ("9" * 10, 100_000.0)])
async def test_the_allowed_rate_is_taken_in_deliveries_a_second(kind: str, said: str, rate: float) -> None:
    def how(request: Request) -> bytes:
        return answer(200, WebHook_Allowed_Origin="*", WebHook_Allowed_Rate=said)

    result, request = await asked(kind, "cloudevents", how, rate_limit=0.5)
    assert result == Verified(rate)
    assert request.header("webhook-request-rate") == "30"


async def test_an_endpoint_that_is_down_may_consent_later(kind: str) -> None:
    result, _ = await asked(kind, "cloudevents", lambda request: answer(503))
    assert isinstance(result, Refused)
    assert result.again


# --- ping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 202, 204])
async def test_a_ping_is_signed(kind: str, status: int) -> None:
    result, request = await asked(kind, "ping", lambda request: answer(status))
    assert result == Verified()
    assert request.line == "POST /hook HTTP/1.1"
    document = standardwebhooks.Webhook(SECRET).verify(request.body, dict(request.headers))
    assert (document["type"], document["data"]) == ("webhook.verify", {"subscription_id": "s"})
    assert request.header("webhook-id") == f"verify_{TOKEN}"
    assert request.header("content-type") == "application/json"


async def test_a_ping_with_a_secret_that_is_sealed_is_not_sent(kind: str) -> None:
    async with serving(answering(lambda request: answer())) as server, sending(kind) as sender:
        one = subscription(server, "ping", secrets=["sealed:k:" + "A" * 90])
        result = await verify(one, making(sender), token=TOKEN, now_ms=0, origin=ORIGIN)
    assert isinstance(result, Refused)
    assert "key" in result.reason
    assert server.requests == []


# --- all of them ------------------------------------------------------------------------------------------------

METHODS = pytest.mark.parametrize("method", ["challenge", "cloudevents", "ping"])


@pytest.mark.parametrize(
    ("status", "again"), [(400, False), (401, False), (404, False), (410, False), (429, True), (500, True)]
)
@pytest.mark.parametrize("method", ["challenge", "ping"])
async def test_another_status_than_2xx_is_refused(kind: str, method: str, status: int, again: bool) -> None:
    result, _ = await asked(kind, method, lambda request: answer(status))
    assert result == Refused(f"The endpoint answered with the status {status}; it must be 2xx.", again)


@pytest.mark.parametrize("method", ["challenge", "ping"])
async def test_a_redirect_is_not_followed(kind: str, method: str) -> None:
    async with serving(answering(lambda request: answer())) as elsewhere:
        result, _ = await asked(kind, method, lambda request: answer(302, location=elsewhere.url()))
    assert isinstance(result, Refused)
    assert "redirects (302)" in result.reason
    assert elsewhere.connections == 0


@METHODS
async def test_an_endpoint_that_is_slow_is_refused_for_now(kind: str, method: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with serving(script) as server, sending(kind) as sender:
        one = subscription(server, method, timeout_ms=200)
        result = await verify(one, making(sender), token=TOKEN, now_ms=0, origin=ORIGIN)
    assert isinstance(result, Refused)
    assert result.again


@METHODS
async def test_an_endless_body_ends(kind: str, method: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nwebhook-allowed-origin: *\r\n\r\n")
        while True:
            await peer.send(b"x" * 65_536)

    async with serving(script) as server, sending(kind) as sender:
        result = await verify(subscription(server, method), making(sender), token=TOKEN, now_ms=0, origin=ORIGIN)
    assert isinstance(result, Refused) == (method == "challenge")


@METHODS
async def test_the_address_guard_counts(kind: str, method: str) -> None:
    async with (
        serving(answering(lambda request: answer(WebHook_Allowed_Origin="*"))) as server,
        sending(kind) as sender,
    ):
        one = subscription(server, method, url="http://169.254.169.254/latest/meta-data")
        result = await verify(one, making(sender), token=TOKEN, now_ms=0, origin=ORIGIN)
        assert isinstance(result, Refused)
        assert "link-local" in result.reason
        assert not result.again
        bad = subscription(server, method, url="http://0x7f.1/")
        result = await verify(bad, making(sender), token=TOKEN, now_ms=0, origin=ORIGIN)
        assert isinstance(result, Refused)
        assert "looks like a number" in result.reason
    assert server.connections == 0


@METHODS
async def test_a_closed_port_is_refused_for_now(kind: str, method: str) -> None:
    async with serving(answering(lambda request: answer())) as server:
        pass
    async with sending(kind) as sender:
        result = await verify(subscription(server, method), making(sender), token=TOKEN, now_ms=0, origin=ORIGIN)
    assert isinstance(result, Refused)
    assert result.again


async def test_nothing_is_asked_without_a_method(kind: str) -> None:
    async with serving(answering(lambda request: answer(500))) as server, sending(kind) as sender:
        result = await verify(subscription(server, "none"), making(sender), token=TOKEN, now_ms=0, origin=ORIGIN)
    assert result == Verified()
    assert server.connections == 0


@METHODS
async def test_the_endpoints_own_headers_go_along(kind: str, method: str) -> None:
    _, request = await asked(kind, method, lambda request: answer(), headers={"X-Api-Key": "k"})
    assert request.header("x-api-key") == "k"


@METHODS
async def test_the_endpoints_tls_counts(kind: str, method: str) -> None:
    """An authority of its own, and a certificate that the server insists on."""
    authority, clients = trustme.CA(), trustme.CA()
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("hooks.test").configure_cert(server_tls)
    clients.configure_trust(server_tls)
    server_tls.verify_mode = ssl.CERT_REQUIRED
    ours = clients.issue_cert("us.test")
    tls = {
        "certificate": ours.cert_chain_pems[0].bytes().decode(),
        "key": ours.private_key_pem.bytes().decode(),
        "ca": authority.cert_pem.bytes().decode(),
    }

    def how(request: Request) -> bytes:
        body = challenge_of(request) if "challenge=" in request.line else b""
        return answer(body=body, WebHook_Allowed_Origin="*")

    async with serving(answering(how), tls=server_tls) as server, sending(kind) as sender:
        url = server.url(host="hooks.test")
        one = subscription(server, method, url=url, tls=tls)
        assert await verify(one, making(sender), token=TOKEN, now_ms=0, origin=ORIGIN) == Verified()
        result = await verify(
            subscription(server, method, url=url), making(sender), token=TOKEN, now_ms=0, origin=ORIGIN
        )
        assert isinstance(result, Refused)


@METHODS
@pytest.mark.parametrize(
    ("auth", "sent"),
    [
        ({"type": "basic", "username": "us", "password": "them"}, "Basic dXM6dGhlbQ=="),
        ({"type": "bearer", "token": "t0ken"}, "Bearer t0ken"),
    ],
)
async def test_the_endpoints_authentication_goes_along(kind: str, method: str, auth: dict[str, str], sent: str) -> None:
    _, request = await asked(kind, method, lambda request: answer(), auth=auth)
    assert request.header("authorization") == sent


@METHODS
async def test_a_token_is_asked_for_first(kind: str, method: str) -> None:
    def how(request: Request) -> bytes:
        if "/token" in request.line:
            return answer(body=orjson.dumps({"access_token": "t1", "token_type": "Bearer", "expires_in": 60}))
        return answer(body=challenge_of(request) if "challenge=" in request.line else b"", WebHook_Allowed_Origin="*")

    async with serving(answering(how)) as server, sending(kind) as sender:
        auth = {"type": "oauth2", "token_url": server.url("/token"), "client_id": "c", "client_secret": "s"}
        one = subscription(server, method, auth=auth)
        assert await verify(one, making(sender), token=TOKEN, now_ms=0, origin=ORIGIN) == Verified()
    assert [request.header("authorization") for request in server.requests][1] == "Bearer t1"
    assert server.requests[1].line.split()[0] == {"challenge": "GET", "cloudevents": "OPTIONS", "ping": "POST"}[method]


# --- what comes of it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "allowed", "then"), [(0.0, 0.0, 0.0), (5.0, 0.0, 5.0), (0.0, 2.0, 2.0), (5.0, 2.0, 2.0), (1.0, 2.0, 1.0)]
)
def test_the_allowed_rate_is_a_ceiling(limit: float, allowed: float, then: float) -> None:
    one = Subscription(id="s", url="https://a.example/", event_types=("*",), verification="ping", rate_limit=limit)
    assert one.never_verified
    after = confirmed(one, Verified(allowed), 7)
    assert (after.rate_limit, after.verified_url, after.unverified) == (then, url_hash(one.url), False)
    assert after.updated_ms == 7
    moved = msgspec.structs.replace(after, url="https://b.example/")
    assert moved.unverified
    assert not moved.never_verified
    assert subscription_from_json(subscription_to_json(msgspec.structs.replace(after, secrets=(SECRET,)))).verified_url
