"""Endpoints that ask who is there, with a whole worker on a real Kafka: tokens that end, are not taken, or are refused
to a client that was revoked; and a client certificate."""

from __future__ import annotations

import json
import ssl
from typing import Any

import trustme

from connectors.local_kafka import Cluster
from schemas.ids import delivery_id
from tests.conformance.sender_server import OK, answering, serving
from tests.helpers import eventually_async
from tests.integration.workers import Site
from tests.oauth2_server import Client, OAuth2Server

SECRET = "hush-hush"


Attempts = list[dict[str, Any]]


def outcomes(found: Attempts, event_id: str) -> list[tuple[int, str, str]]:
    return sorted((one["attempt"], one["outcome"], one["cause"]) for one in found if one["event_id"] == event_id)


async def test_tokens_end_are_not_taken_and_are_refused(kafka: Cluster, prefix: str) -> None:
    site = await Site.made(kafka.bootstrap, prefix)
    async with OAuth2Server(life_s=1, us=Client(SECRET, frozenset({"hooks"}))).running() as server:
        auth = {
            "type": "oauth2",
            "token_url": server.url("/token"),
            "client_id": "us",
            "client_secret": SECRET,
            "scope": "hooks",
        }
        one: dict[str, Any] = {"auth": json.dumps(auth), "retry_schedule_ms": (1_000,) * 20}
        site.subscribe("a", server.url("/hook"), **one)
        site.subscribe("b", server.url("/hook"), event_types=("invoice.*",), **one)
        async with site.worker():
            sent: list[str] = []

            async def send_until_issued(count: int) -> None:
                while server.issued < count:
                    sent.append(f"evt_{len(sent)}")
                    assert len(sent) < 1_000, "no token was renewed"
                    site.send(sent[-1:])
                    await eventually_async(lambda: (delivery_id(sent[-1], "a"), 204) in server.hooked, timeout_s=60)

            await send_until_issued(3)
            server.life_s = 3_600
            await send_until_issued(server.issued + 1)

            issued, seen = server.issued, len(server.hooked)
            server.revoke_tokens()
            site.send(["evt_revoked"])
            revoked = delivery_id("evt_revoked", "a")
            await eventually_async(lambda: (revoked, 204) in server.hooked, timeout_s=60)
            assert server.hooked[seen:] == [(revoked, 401), (revoked, 204)]
            assert server.issued == issued + 1

            client = server.clients.pop("us")
            server.revoke_tokens()
            site.send(["evt_stranger"], "invoice.paid")
            await eventually_async(lambda: outcomes(site.attempts(), "evt_stranger"), timeout_s=60)
            assert outcomes(site.attempts(), "evt_stranger")[0] == (1, "retryable", "token_failed")
            server.clients["us"] = client
            stranger = delivery_id("evt_stranger", "b")
            await eventually_async(lambda: (stranger, 204) in server.hooked, timeout_s=60)
            await eventually_async(
                lambda: outcomes(site.attempts(), "evt_stranger")[-1][1] == "delivered", timeout_s=60
            )
    found = site.attempts()
    assert all(outcomes(found, each) == [(1, "delivered", "")] for each in [*sent, "evt_revoked"])
    failed = next(one for one in found if one["cause"] == "token_failed")
    assert "invalid_client" in failed["detail"]
    assert SECRET not in str(found)


async def test_a_client_certificate_is_shown_to_a_pinned_server(kafka: Cluster, prefix: str) -> None:
    servers, clients = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    servers.issue_cert("localhost").configure_cert(context)
    clients.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    issued = clients.issue_cert("distributary", common_name="distributary")
    tls = {
        "certificate": issued.cert_chain_pems[0].bytes().decode(),
        "key": issued.private_key_pem.bytes().decode(),
        "ca": servers.cert_pem.bytes().decode(),
    }
    site = await Site.made(kafka.bootstrap, prefix)
    async with serving(answering(OK), tls=context) as server:
        site.subscribe("with", server.url("/with", host="localhost"), tls=json.dumps(tls))
        site.subscribe("without", server.url("/without", host="localhost"), tls=json.dumps({"ca": tls["ca"]}))
        async with site.worker():
            site.send(["evt_1"])
            await eventually_async(lambda: len(site.attempts()) == 2, timeout_s=60)
    assert [(request.line, request.shown) for request in server.requests] == [("POST /with HTTP/1.1", "distributary")]
    ends = {one["subscription_id"]: (one["outcome"], one["cause"]) for one in site.attempts()}
    assert ends["with"] == ("delivered", "")
    assert ends["without"] in {("retryable", "tls_failed"), ("retryable", "reset")}
