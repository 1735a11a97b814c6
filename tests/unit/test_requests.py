"""What a lane sends carries every signature that its subscription asks for, over the URL that is requested."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
import standardwebhooks
from http_message_signatures import HTTPMessageVerifier, InvalidSignature, MappingKeyResolver
from http_message_signatures.algorithms import HMAC_SHA256

from connectors.clock import SystemClock
from connectors.memory import MemorySender, Posted
from schemas.credentials import secret_key
from schemas.delivery import Delivery
from schemas.post import PostResult
from schemas.public_key import key_id
from streams.requests import Outgoing
from streams.tokens import Tokens
from tests.unit.stages import SECRET, as_it_is, subscription

EVERY = ("standard", "github", "stripe", "rfc9421")
BODY = b'{"n":1}'


class Request(msgspec.Struct):
    """What the verifier wants to be shown."""

    url: str
    headers: dict[str, str]
    method: str = "POST"


def delivery(**headers: str) -> Delivery:
    named = tuple((name.replace("_", "-"), text) for name, text in headers.items())
    return Delivery("dlv_1", "sub_1", 0, 0, 0, (), "00-1-2-01", "application/json", BODY, b"", b"", b"", named)


async def sent(one: Delivery, identifier: str, body: bytes = BODY, **fields: Any) -> Posted:
    sender = MemorySender(lambda posted: PostResult(204, 1))
    now_ms = SystemClock().now_ms()  # the verifiers compare with their own clocks
    outgoing = Outgoing(subscription(**fields), sender, as_it_is, Tokens(sender, SystemClock()))
    outgoing.post(identifier, one, body, now_ms, lambda result: None)
    (posted,) = sender.posted
    await sender.close()
    return posted


def judged(posted: Posted, uri: str) -> None:
    resolver = MappingKeyResolver(public_keys={key_id(SECRET): secret_key(SECRET)}, private_keys={})
    verifier = HTTPMessageVerifier(signature_algorithm=HMAC_SHA256, key_resolver=resolver)
    verifier.verify(Request(uri, posted.headers), body=posted.body, expect_tag="webhook")


@pytest.mark.parametrize(("identifier", "body"), [("dlv_1", BODY), ("bat_1", b'{"batch_id":"bat_1"}')])
async def test_every_form_at_once_for_a_delivery_and_a_batch(identifier: str, body: bytes) -> None:
    url = "https://Hooks.example:443/in?a=b c".replace(" ", "%20")
    posted = await sent(delivery(webhook_version="3"), identifier, body, signatures=EVERY, url=url)
    assert posted.headers["webhook-id"] == identifier
    assert posted.headers["webhook-version"] == "3"
    standardwebhooks.Webhook(SECRET).verify(posted.body, posted.headers)
    assert {"x-hub-signature-256", "stripe-signature"} <= posted.headers.keys()
    judged(posted, "https://hooks.example/in?a=b%20c")
    with pytest.raises(InvalidSignature):
        judged(posted, "https://hooks.example/in")


async def test_a_batch_says_what_is_true_of_all_and_no_trace() -> None:
    sender = MemorySender(lambda posted: PostResult(204, 1))
    outgoing = Outgoing(subscription(), sender, as_it_is, Tokens(sender, SystemClock()))
    of_one = delivery(webhook_version="3", tracestate="a=1")
    outgoing.post("dlv_1", of_one, BODY, 1, lambda result: None)
    outgoing.post_batch("bat_1", [of_one, of_one], BODY, 1, lambda result: None)
    alone, batch = sender.posted
    assert (alone.headers["traceparent"], alone.headers["tracestate"]) == ("00-1-2-01", "a=1")
    assert batch.headers["webhook-version"] == "3"
    assert not batch.headers.keys() & {"traceparent", "tracestate"}
    await sender.close()


async def test_the_marker_of_a_replay_is_sent_and_signed_where_headers_are() -> None:
    posted = await sent(delivery(webhook_version="3", webhook_replay="rpl_1"), "dlv_1", signatures=EVERY)
    assert posted.headers["webhook-replay"] == "rpl_1"
    standardwebhooks.Webhook(SECRET).verify(posted.body, posted.headers)
    assert '"webhook-id" "webhook-replay")' in posted.headers["signature-input"]
    uri = "https://sub-1.example/hook"
    judged(posted, uri)
    posted.headers["webhook-replay"] = "rpl_2"
    with pytest.raises(InvalidSignature):
        judged(posted, uri)
    live = await sent(delivery(), "dlv_1", signatures=EVERY)
    judged(live, uri)
    assert "webhook-replay" not in live.headers.keys() | {live.headers["signature-input"]}
    assert '"webhook-id")' in live.headers["signature-input"]


async def test_what_cannot_be_signed_is_answered_and_not_raised() -> None:
    sender = MemorySender(lambda posted: PostResult(204, 1))
    outgoing = Outgoing(subscription(signatures=EVERY), sender, as_it_is, Tokens(sender, SystemClock()))
    foreign = msgspec.structs.replace(delivery(), content_type='application/json; a="\U0001f600"')
    answer: asyncio.Future[PostResult] = asyncio.get_running_loop().create_future()
    outgoing.post("dlv_1", foreign, BODY, 1, answer.set_result)
    assert not answer.done()  # later, as a sender answers
    assert (await answer).cause == "invalid_request"
    assert sender.posted == []
    await sender.close()


@pytest.mark.parametrize("trace", ["00-1\n", "00-1\x00", "dépêche", "\u2713"])
async def test_a_trace_that_no_header_can_hold_costs_no_delivery(trace: str) -> None:
    posted = await sent(msgspec.structs.replace(delivery(), traceparent=trace), "dlv_1")
    assert "traceparent" not in posted.headers
    standardwebhooks.Webhook(SECRET).verify(posted.body, posted.headers)


async def test_no_header_of_a_delivery_takes_the_place_of_a_signature() -> None:
    forged = {"x_hub_signature_256": "mine", "signature": "mine", "content_digest": "mine", "ce_id": "1"}
    unsigned = await sent(delivery(**forged), "dlv_1")
    assert unsigned.headers["signature"] == "mine"  # a header like any other, where nothing of the name is asked for
    posted = await sent(delivery(**forged), "dlv_1", signatures=EVERY)
    assert posted.headers["ce-id"] == "1"
    assert "mine" not in posted.headers.values()
    judged(posted, subscription().url)


async def test_an_expired_secret_is_left_out_at_the_time_of_the_post() -> None:
    old = "whsec_" + "b" * 32
    for expire_ms, count in ((SystemClock().now_ms() + 3_600_000, 2), (1, 1)):
        posted = await sent(delivery(), "dlv_1", secrets=(SECRET, old), secrets_expire_ms=(0, expire_ms))
        assert len(posted.headers["webhook-signature"].split()) == count
        standardwebhooks.Webhook(SECRET).verify(posted.body, posted.headers)
