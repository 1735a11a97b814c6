"""What every sender promises about TLS of an endpoint's own, against real TLS servers: client certificates are shown to
whom they belong and to nobody else's, a pinned CA is all that is trusted, and what cannot be used says why.

Run on both senders, on the stock event loop and on uvloop.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization as form

from connectors.tls import EndpointContexts
from schemas.endpoint_tls import EndpointTls
from schemas.post import PostResult
from tests.conformance.sender_server import OK, Peer, Server, answering, once, serving
from tests.conformance.test_senders import Caller, calling

SERVERS, CLIENTS, STRANGERS = trustme.CA(), trustme.CA(), trustme.CA()
HOST = "hooks.test"
NOW = datetime.now(UTC)


def pem(*blobs: trustme.Blob) -> str:
    return "".join(blob.bytes().decode() for blob in blobs)


CA, OTHER_CA = pem(SERVERS.cert_pem), pem(STRANGERS.cert_pem)


def identity(
    owner: str, *, ca: str = CA, issuer: trustme.CA = CLIENTS, not_before: datetime | None = None, **fields: Any
) -> EndpointTls:
    """A client certificate in the owner's name."""
    issued = issuer.issue_cert(f"{owner}.test", common_name=owner, not_before=not_before, **fields)
    certificate = pem(*issued.cert_chain_pems)
    return EndpointTls(owner=owner, certificate=certificate, key=pem(issued.private_key_pem), ca=ca)


ALICE, BOB = identity("alice"), identity("bob")


@pytest.fixture(params=["http", "aiohttp"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def caller(kind: str) -> AsyncIterator[Caller]:
    async with calling(kind) as caller:
        yield caller


def server_side(
    verify: ssl.VerifyMode = ssl.CERT_REQUIRED,
    *,
    most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    leaf: trustme.LeafCert | None = None,
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = most
    (leaf or SERVERS.issue_cert(HOST)).configure_cert(context)
    if verify is not ssl.CERT_NONE:
        CLIENTS.configure_trust(context)
        context.verify_mode = verify
    return context


ASKING = server_side(ssl.CERT_OPTIONAL)
REQUIRING = server_side()
PLAIN = server_side(ssl.CERT_NONE)
#: Here a certificate is judged within the handshake.
REQUIRING_1_2 = server_side(most=ssl.TLSVersion.TLSv1_2)


async def post(
    caller: Caller, server: Server, tls: EndpointTls | None, *, host: str = HOST, body: bytes = b"{}"
) -> PostResult:
    async with asyncio.timeout(60):
        return await caller.start_on(caller.sender.route(server.url(host=host), {}, 15, tls), (), body)


# -- client certificates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server_context", [REQUIRING, REQUIRING_1_2])
async def test_a_client_certificate_is_shown(caller: Caller, server_context: ssl.SSLContext) -> None:
    async with serving(answering(OK), tls=server_context) as server:
        results = [await post(caller, server, ALICE) for _ in range(3)]
    assert [result.status for result in results] == [200] * 3
    assert [request.shown for request in server.requests] == ["alice"] * 3
    assert server.connections == 1


@pytest.mark.parametrize("tls", [EndpointTls(owner="bare", ca=CA), identity("eve", issuer=STRANGERS)])
async def test_who_shows_none_or_a_strangers_is_told_so_in_the_handshake(caller: Caller, tls: EndpointTls) -> None:
    async with serving(answering(OK), tls=REQUIRING_1_2) as server:
        result = await post(caller, server, tls)
    assert result.cause == "tls_failed"
    assert HOST in (result.detail or "")
    assert server.requests == []


async def test_who_shows_none_is_told_so_after_the_handshake(caller: Caller) -> None:
    async with serving(answering(OK), tls=REQUIRING) as server:
        result = await post(caller, server, EndpointTls(owner="bare", ca=CA))
    # The server may close before it has read the request, and then its last words may be lost: that is TCP's.
    assert result.cause in ("tls_failed", "reset")
    assert server.requests == []


async def test_a_certificate_that_is_not_taken_is_spoken_of(caller: Caller) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()

    async with serving(script, tls=REQUIRING) as server:
        result = await post(caller, server, ALICE)
    assert result.cause == "reset"
    assert "client certificate" in (result.detail or "")


# -- whose connection it is --------------------------------------------------------------------------------------------


async def test_no_connection_is_used_for_anybody_else(caller: Caller) -> None:
    """The same certificate and key in another subscription's name are somebody else's too."""
    namesake = EndpointTls(owner="namesake", certificate=ALICE.certificate, key=ALICE.key, ca=ALICE.ca)
    nobody = EndpointTls(owner="nobody", ca=CA)
    everybody = {"alice": ALICE, "bob": BOB, "namesake": namesake, "nobody": nobody}
    async with serving(answering(OK), tls=ASKING) as server:
        for _ in range(3):
            for name, tls in everybody.items():
                assert (await post(caller, server, tls, body=name.encode())).status == 200
    shown = {"alice": "alice", "bob": "bob", "namesake": "alice", "nobody": ""}
    assert [request.shown for request in server.requests] == [shown[one.body.decode()] for one in server.requests]
    connections: dict[int, set[bytes]] = {}
    for request in server.requests:
        connections.setdefault(request.connection, set()).add(request.body)
    assert sorted(connections.values(), key=str) == sorted([{name.encode()} for name in everybody], key=str)


async def test_a_connection_that_comes_free_goes_to_nobody_else_who_waits(kind: str) -> None:
    async with (
        serving(answering(OK), tls=ASKING) as server,
        calling(kind, connections_per_origin_max=1) as caller,
    ):
        waiting = [
            caller.start_on(caller.sender.route(server.url(host=HOST), {}, 15, tls), (), tls.owner.encode())
            for _ in range(5)
            for tls in (ALICE, BOB)
        ]
        async with asyncio.timeout(60):
            results = await asyncio.gather(*waiting)
    assert {result.status for result in results} == {200}
    assert all(request.shown == request.body.decode() for request in server.requests)
    assert server.connections == 2


async def test_a_connection_in_place_of_a_stale_one_shows_the_same(caller: Caller) -> None:
    async with serving(once(OK), tls=ASKING) as server:
        for tls in (ALICE, BOB, ALICE, BOB):
            assert (await post(caller, server, tls, body=tls.owner.encode())).status == 200
    assert [(request.shown, request.body) for request in server.requests] == [
        (tls.owner, tls.owner.encode()) for tls in (ALICE, BOB, ALICE, BOB)
    ]


async def test_what_was_connected_to_without_a_pin_is_not_used_with_one(kind: str) -> None:
    trusting = ssl.create_default_context()
    SERVERS.configure_trust(trusting)
    pinned = EndpointTls(owner="pinned", ca=OTHER_CA)
    async with serving(answering(OK), tls=PLAIN) as server, calling(kind, ssl_context=trusting) as caller:
        assert (await post(caller, server, None)).status == 200
        assert (await post(caller, server, pinned)).cause == "tls_failed"
        assert (await post(caller, server, None)).status == 200
    assert len(server.requests) == 2


async def test_what_was_connected_to_with_a_pin_is_not_used_without(caller: Caller) -> None:
    async with serving(answering(OK), tls=PLAIN) as server:
        assert (await post(caller, server, EndpointTls(owner="pinned", ca=CA))).status == 200
        assert (await post(caller, server, None)).cause == "tls_failed"
    assert len(server.requests) == 1


async def test_another_version_of_a_subscription_does_not_use_the_old_ones_connection(caller: Caller) -> None:
    renewed = identity("alice")
    async with serving(answering(OK), tls=ASKING) as server:
        for tls in (ALICE, renewed, ALICE):
            assert (await post(caller, server, tls)).status == 200
    assert [request.connection for request in server.requests] == [1, 2, 1]


# -- the server's certificate ------------------------------------------------------------------------------------------


async def test_a_pinned_ca_may_be_the_root_an_intermediate_or_the_certificate_itself(caller: Caller) -> None:
    intermediate = SERVERS.create_child_ca()
    leaf = intermediate.issue_cert(HOST)
    pins = {
        "root": CA,
        "intermediate": pem(intermediate.cert_pem),
        "leaf": pem(leaf.cert_chain_pems[0]),
        "one of two": OTHER_CA + CA,
    }
    async with serving(answering(OK), tls=server_side(ssl.CERT_NONE, leaf=leaf)) as server:
        for owner, ca in pins.items():
            assert (await post(caller, server, EndpointTls(owner=owner, ca=ca))).status == 200, owner


@pytest.mark.parametrize(
    ("ca", "host", "said"),
    [(OTHER_CA, HOST, "unable to get local issuer certificate"), (CA, "other.test", "Hostname mismatch")],
)
async def test_a_server_that_the_pin_does_not_vouch_for(caller: Caller, ca: str, host: str, said: str) -> None:
    async with serving(answering(OK), tls=PLAIN) as server:
        result = await post(caller, server, EndpointTls(owner="pinned", ca=ca), host=host)
    assert result.cause == "tls_failed"
    assert said in (result.detail or "")
    assert server.requests == []


async def test_a_certificate_of_the_server_that_has_expired(caller: Caller) -> None:
    leaf = SERVERS.issue_cert(HOST, not_before=NOW - timedelta(9), not_after=NOW - timedelta(1))
    async with serving(answering(OK), tls=server_side(ssl.CERT_NONE, leaf=leaf)) as server:
        result = await post(caller, server, EndpointTls(owner="pinned", ca=CA))
    assert (result.cause, "expired" in (result.detail or "")) == ("tls_failed", True)
    assert server.requests == []


async def test_with_a_client_certificate_and_no_pin_the_system_is_trusted(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "system.pem").write_text(CA)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    async with serving(answering(OK), tls=REQUIRING) as server, calling(kind) as caller:
        assert (await post(caller, server, identity("carol", ca=""))).status == 200
    assert server.requests[0].shown == "carol"


# -- what cannot be used -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tls", "said"),
    [
        (identity("late", not_before=NOW - timedelta(9), not_after=NOW - timedelta(1)), "expired at"),
        (identity("early", not_before=NOW + timedelta(1), not_after=NOW + timedelta(9)), "not valid before"),
        (EndpointTls(owner="mixed", certificate=ALICE.certificate, key=BOB.key, ca=CA), "does not belong"),
        (EndpointTls(owner="text", certificate="certainly", key=BOB.key, ca=CA), "certificate is not PEM"),
        (EndpointTls(owner="key", certificate=BOB.certificate, key="secret", ca=CA), "is not a PEM private key"),
        (EndpointTls(owner="ca", ca="mine"), "ca is not a PEM certificate"),
    ],
)
async def test_what_cannot_be_used_is_said_and_nothing_is_sent(caller: Caller, tls: EndpointTls, said: str) -> None:
    async with serving(answering(OK), tls=ASKING) as server:
        results = [await post(caller, server, tls) for _ in range(2)]
    for result in results:
        assert result.cause == "tls_failed"
        assert said in (result.detail or "")
        assert "secret" not in (result.detail or "")
    assert server.connections == 0


async def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(caller: Caller) -> None:
    key = form.load_pem_private_key(ALICE.key.encode(), None)
    locked = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"sesame"))
    tls = EndpointTls(owner="locked", certificate=ALICE.certificate, key=locked.decode(), ca=CA)
    async with serving(answering(OK), tls=ASKING) as server:
        result = await post(caller, server, tls)
    assert (result.cause, "passphrase" in (result.detail or "")) == ("tls_failed", True)


async def test_a_certificate_expires_while_it_is_in_use(kind: str) -> None:
    now = [datetime.now(UTC)]
    contexts = EndpointContexts(lambda: int(now[0].timestamp() * 1000))
    today = identity("today", not_after=NOW + timedelta(1))
    async with (
        serving(once(OK), tls=REQUIRING) as server,  # so that each POST needs a connection
        calling(kind, endpoint_contexts=contexts) as caller,
    ):
        assert (await post(caller, server, today)).status == 200
        now[0] += timedelta(2)
        result = await post(caller, server, today)
    assert (result.cause, "expired at" in (result.detail or "")) == ("tls_failed", True)


async def test_tls_needs_https(caller: Caller) -> None:
    with pytest.raises(ValueError, match="https"):
        caller.sender.route("http://hooks.test/", {}, 15, ALICE)


# -- proxies: aiohttp only ---------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def tunnels(names: Mapping[str, Sequence[str]]) -> AsyncIterator[tuple[str, list[str]]]:
    """An HTTP proxy that opens tunnels (RFC 9110, 9.3.6): its URL, and what it was asked for."""
    asked: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[0])
        host, _, port = asked[-1].split()[1].rpartition(":")
        there, back = await asyncio.open_connection(names[host][0], int(port))
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        try:
            await asyncio.gather(pump(reader, back), pump(there, writer))
        finally:
            for end in (writer, back):
                end.close()
                with contextlib.suppress(ConnectionError):
                    await end.wait_closed()

    def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.ensure_future(accept(reader, writer)))

    listener = await asyncio.start_server(start, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", asked
    finally:
        listener.close()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_through_a_proxy_certificates_are_shown_to_the_endpoint() -> None:
    async with (
        serving(answering(OK), tls=ASKING) as server,
        tunnels({HOST: ["127.0.0.1"]}) as (proxy, asked),
        calling("aiohttp", proxy=proxy) as caller,
    ):
        for tls in (ALICE, BOB, ALICE, BOB):
            assert (await post(caller, server, tls, body=tls.owner.encode())).status == 200
    assert [request.shown for request in server.requests] == ["alice", "bob", "alice", "bob"]
    assert len(asked) == server.connections == 2
