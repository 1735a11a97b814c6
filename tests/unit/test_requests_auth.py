"""What a lane proves itself with: headers, TLS, tokens; and what cannot be used is neither sent nor said."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from connectors.memory import ManualClock, MemorySender, Posted
from schemas.delivery import Delivery
from schemas.endpoint_tls import EndpointTls
from schemas.post import PostResult
from schemas.sealing import Keyring, opened, sealed
from schemas.subscription import Subscription, checked
from streams.ports import Opener
from streams.requests import Outgoing
from streams.tokens import Tokens
from tests.unit.stages import as_it_is, subscription

KEYS = Keyring({"k1": bytes(32)})
OAUTH2 = {"type": "oauth2", "token_url": "https://idp.example/token", "client_id": "us", "client_secret": "hush-hush"}
PEM = "-----BEGIN {0}-----\nMAo=\n-----END {0}-----\n"
BASIC = base64.b64encode("us:hüsh:hush".encode()).decode()
TLS = {"certificate": PEM.format("CERTIFICATE"), "key": PEM.format("PRIVATE KEY"), "ca": PEM.format("CERTIFICATE")}


def unseal(one: Subscription) -> Subscription:
    return opened(one, KEYS)


def seal(one: Subscription) -> Subscription:
    return sealed(one, KEYS, lambda: bytes(12))


def made(auth: object = None, tls: object = None, **fields: Any) -> Subscription:
    texts = {"auth": auth, "tls": tls}
    return checked(subscription(**{name: json.dumps(each) for name, each in texts.items() if each}, **fields))


def idp(posted: Posted) -> PostResult:
    return PostResult(200, 1, excerpt=b'{"access_token":"t-1","token_type":"Bearer","expires_in":60}')


async def sent(
    one: Subscription,
    opener: Opener = as_it_is,
    token_endpoint: Callable[[Posted], PostResult] = idp,
    headers: tuple[tuple[str, str], ...] = (),
) -> Posted:
    hook, tokens = MemorySender(lambda posted: PostResult(204, 1)), MemorySender(token_endpoint)
    outgoing = Outgoing(one, hook, opener, Tokens(tokens, ManualClock()))
    assert outgoing.locked == ""
    delivery = Delivery("dlv_1", one.id, 0, 0, 0, (), None, "application/json", b"{}", b"", b"", b"", headers)
    done: asyncio.Future[PostResult] = asyncio.get_running_loop().create_future()
    outgoing.post("dlv_1", delivery, b"{}", 1_760_000_000_000, done.set_result)
    assert (await done).status == 204
    (posted,) = hook.posted
    return posted


@pytest.mark.parametrize("how", [as_it_is, unseal])
@pytest.mark.parametrize(
    ("auth", "value"),
    [
        ({"type": "basic", "username": "us", "password": "hüsh:hush"}, "Basic " + BASIC),
        ({"type": "basic", "username": "", "password": ""}, "Basic Og=="),
        ({"type": "bearer", "token": "hush-hush"}, "Bearer hush-hush"),
        (OAUTH2, "Bearer t-1"),
    ],
)  # fmt: skip
async def test_a_post_says_who_is_asking(auth: object, value: str, how: Opener) -> None:
    one = made(auth, headers={"x-team": "blue"})
    posted = await sent(seal(one) if how is unseal else one, how)
    assert posted.headers["authorization"] == value
    assert posted.headers["x-team"] == "blue"
    assert posted.tls is None


async def test_without_auth_nobody_is_named() -> None:
    assert "authorization" not in (await sent(made())).headers


@pytest.mark.parametrize("auth", [None, {"type": "bearer", "token": "t"}, OAUTH2])
async def test_a_route_has_the_tls_of_its_subscription(auth: object) -> None:
    one = made(auth, TLS)
    assert (await sent(seal(one), unseal)).tls == EndpointTls(owner=one.id, **TLS)


async def test_an_event_cannot_say_who_is_asking() -> None:
    one = made({"type": "bearer", "token": "ours"})
    posted = await sent(one, headers=(("authorization", "mine"), ("ce-id", "1")))
    assert (posted.headers["authorization"], posted.headers["ce-id"]) == ("Bearer ours", "1")


@pytest.mark.parametrize(
    "fields",
    [{"auth": {"type": "bearer", "token": "hush-hush"}}, {"auth": OAUTH2}, {"tls": TLS}],
)
async def test_what_does_not_open_is_not_sent(fields: dict[str, Any]) -> None:
    sender = MemorySender(lambda posted: None)
    outgoing = Outgoing(
        seal(made(**fields)), sender, lambda one: opened(one, Keyring({})), Tokens(sender, ManualClock())
    )
    assert outgoing.locked
    assert "hush" not in outgoing.locked


async def test_what_opens_and_is_no_token_is_not_sent() -> None:
    good = seal(made({"type": "bearer", "token": "t"}))
    place = f"{good.id}/auth.token"
    bad = subscription(auth=json.dumps({"type": "bearer", "token": KEYS.seal("hush\r\nx: y", place, bytes(12))}))
    sender = MemorySender(lambda posted: None)
    outgoing = Outgoing(bad, sender, unseal, Tokens(sender, ManualClock()))
    assert outgoing.locked
    assert "hush" not in outgoing.locked
