"""What verified requests become: types, ids, times and subjects of events, and answers to challenges."""

from __future__ import annotations

import base64
import hmac
from typing import Any

import msgspec
import orjson
import pytest

from connectors.providers import providers
from schemas.event import Event
from schemas.received import DATA_BYTES_MAX, ITEMS_MAX, challenge_answer, events, read
from schemas.signed_request import Refused, Request, Verified, verify
from tests.provider_cases import (
    FORM,
    JSON,
    NOW_MS,
    OWN,
    PUBLISHED,
    SLACK_COMMAND,
    URL,
    Case,
    any_hmac,
    github,
    sha256_prefixed,
    shopify,
    slack,
    twilio,
    zoom,
)

replace = msgspec.structs.replace


def made(
    name: str, request: Request, secret: str = "hush", now_ms: int = NOW_MS, prefix: str = ""
) -> list[Event] | Refused:
    """The events of a request that is verified first."""
    provider = providers()[name]
    verified = verify(provider, request, [secret], now_ms)
    assert isinstance(verified, Verified), verified
    document = read(provider, request)
    if isinstance(document, Refused):
        return document
    return events(
        provider,
        request,
        document,
        verified,
        source_id="src",
        tenant="acme",
        type_prefix=prefix,
        now_ms=now_ms,
    )


def one(name: str, request: Request, **more: Any) -> Event:
    found = made(name, request, **more)
    assert isinstance(found, list), found
    assert len(found) == 1
    return found[0]


def answered(name: str, request: Request) -> str | None:
    provider = providers()[name]
    document = read(provider, request) if request.method == "POST" else None
    assert not isinstance(document, Refused)
    answer = challenge_answer(provider, request, document, ["hush"])
    return answer.body if answer else None


EXPECTED: dict[str, tuple[str, str, int, str | None]] = {
    "stripe": ("stripe.invoice.paid", "src:evt_1", 1_699_999_990_000, "in_1"),
    "github": ("github.issues.opened", "src:72d3162e-cc78-11e3-81ab-4c9367dc0958", NOW_MS, "octo/hello"),
    "slack": ("slack.app_mention", "src:Ev1", 1_699_999_990_000, "C1"),
    "shopify": (
        "shopify.orders.create",
        "src:b54557e4-bdd9-4b37-8a5f-bf7d70bcd043",
        1_699_999_990_123,
        "acme.myshopify.com",
    ),
    "standard": ("user.created", "src:msg_1", 1_699_999_990_000, None),
    "hmac": ("thing.done", "src:d1", NOW_MS, None),
}


@pytest.mark.parametrize("case", [case for case in OWN if case.provider in EXPECTED], ids=lambda case: case.provider)
def test_an_event(case: Case) -> None:
    event = one(case.provider, case.request, secret=case.secret)
    assert (event.type, event.id, event.time_ms, event.subject) == EXPECTED[case.provider]
    assert event.tenant == "acme"
    assert event.source == "/sources/src"
    assert event.data == case.request.body


def test_a_prefix_of_ones_own() -> None:
    assert one("stripe", OWN[0].request, secret="whsec_stripe", prefix="pay.live.").type == "pay.live.invoice.paid"


def test_slacks_commands_and_clicks_are_forms() -> None:
    command = next(case for case in PUBLISHED if case.provider == "slack")
    event = one("slack", command.request, secret=command.secret, now_ms=command.now_ms)
    assert (event.type, event.subject, event.time_ms) == ("slack.command", "G8PSS9T3V", command.now_ms)
    assert orjson.loads(event.data)["command"] == "/webhook-collect"
    assert orjson.loads(event.data)["text"] == ""  # a parameter without a value is one
    assert b"text=&" in SLACK_COMMAND
    click = slack(b"payload=%7B%22type%22%3A%22block_actions%22%7D")
    event = one("slack", replace(click, headers=(FORM, *click.headers[1:])))
    assert (event.type, event.data) == ("slack.block_actions", b'{"type":"block_actions"}')


def test_github_may_post_forms() -> None:
    request = github(b"payload=%7B%22action%22%3A%22opened%22%7D")
    event = one("github", replace(request, headers=(FORM, *request.headers[1:])))
    assert (event.type, event.data) == ("github.issues.opened", b'{"action":"opened"}')


def test_twilio_is_a_form() -> None:
    event = one("twilio", twilio(b"CallSid=CA1&CallStatus=in-progress&Digit=1&Digit=2&Digit=1&A=2", token="tok"))
    assert (event.type, event.id, event.subject) == ("twilio.in-progress", "src:tok", "CA1")
    assert orjson.loads(event.data)["Digit"] == ["1", "2"]  # what stands there twice is signed once
    assert one("twilio", twilio(b"Body=hi")).type == "twilio.received"


def test_sendgrid_posts_many() -> None:
    case = next(case for case in PUBLISHED if case.provider == "sendgrid")
    event = one("sendgrid", case.request, secret=case.secret, now_ms=case.now_ms)
    assert event.type == "sendgrid.dropped"
    assert event.id == "src:ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA"
    assert event.time_ms == 1600112492_000
    items = [
        {"sg_event_id": "a", "event": "open", "timestamp": 1},
        {"event": "click"},
        {"sg_event_id": "x" * 300, "n": 12345678901234567890123},
    ]
    body = str(items).replace("'", '"').encode()
    found = batch(body)
    assert isinstance(found, list)
    assert [event.id for event in found] == ["src:a", "src:dig.1", "src:dig.2"]  # an id that is none is the digest's
    assert [event.type for event in found] == ["sendgrid.open", "sendgrid.click", "sendgrid.received"]
    assert [event.time_ms for event in found] == [1000, 5000, 5000]
    assert b'"n": 12345678901234567890123' in found[2].data


def batch(body: bytes, name: str = "sendgrid") -> list[Event] | Refused:
    provider, request = providers()[name], Request(url=URL, body=body, headers=(JSON,))
    document = read(provider, request)
    if isinstance(document, Refused):
        return document
    verified = Verified(5000, "dig")
    return events(provider, request, document, verified, source_id="src", tenant="acme", type_prefix="", now_ms=9000)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"Hello, World!", "not JSON"),
        (b"", "not JSON"),
        (b'{"a": "\xff"}', "not JSON"),
        (b"1", "neither an object nor an array"),
        (b'"text"', "neither an object nor an array"),
        (b"[1]", "item 0 of the array is not an object"),
        (b"[" + b"{}," * ITEMS_MAX + b"{}]", "more than 5000"),
        (b'{"a":"' + b"x" * DATA_BYTES_MAX + b'"}', "bytes"),
        (b"[" * 2000 + b"]" * 2000, "not JSON"),
    ],
    ids=range(9),
)
def test_what_cannot_be_read(body: bytes, sentence: str) -> None:
    found = batch(body)
    assert isinstance(found, Refused)
    assert found.reason == "unreadable"
    assert sentence in found.detail


def test_other_types_of_content_are_refused() -> None:
    request = OWN[0].request
    for kind in ("text/plain", "", "application/x-www-form-urlencoded"):
        found = read(providers()["stripe"], replace(request, headers=(("content-type", kind),)))
        assert isinstance(found, Refused)
        assert found.reason == "wrong_type"
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/cloudevents+json"):
        assert not isinstance(read(providers()["stripe"], replace(request, headers=(("content-type", kind),))), Refused)
    twice = read(providers()["stripe"], replace(request, headers=(JSON, ("content-type", "text/plain"))))
    assert isinstance(twice, Refused)


def test_a_form_that_is_none() -> None:
    found = read(providers()["slack"], Request(url=URL, body=b"a=%ff", headers=(FORM,)))
    assert isinstance(found, Refused)
    assert found.reason == "unreadable"


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("a b", "a_b"),
        ("übung", "_bung"),
        ("..a..b..", "a.b"),
        ("...", "received"),
        ("x" * 1000, "x" * 128),
        ("ok/fine:1-2_3", "ok/fine:1-2_3"),
    ],
)
def test_types_are_made_to_fit(event: str, expected: str) -> None:
    assert one("hmac", any_hmac(b"{}", event=event)).type == expected


def test_without_an_id_the_digest_of_what_was_signed_is_it() -> None:
    first = one("hmac", any_hmac(b'{"n":1}', delivery=""))
    assert first.id == one("hmac", any_hmac(b'{"n":1}', delivery="")).id
    assert first.id != one("hmac", any_hmac(b'{"n":2}', delivery="")).id
    assert len(first.id) == len("src:") + 32
    found = batch(b'[{"sg_event_id":"a\\nb"}]')
    assert isinstance(found, list)
    assert found[0].id == "src:dig.0"  # an id that is none


@pytest.mark.parametrize(
    "time", [b'"x"', b"-1", b"1e300", b'"1e999"', b"true", b"null", b"{}", b"99999999999999", b'"nan"']
)
def test_a_time_that_is_none_is_that_of_signing(time: bytes) -> None:
    found = batch(b'[{"timestamp": %s}]' % time)
    assert isinstance(found, list)
    assert found[0].time_ms == 5000


def test_a_shop_without_a_time_zone() -> None:
    request = shopify()
    headers = [(name, "2023-11-14T22:13:10" if name.endswith("-at") else value) for name, value in request.headers]
    assert one("shopify", replace(request, headers=tuple(headers))).time_ms == NOW_MS


# --- challenges ------------------------------------------------------------------------------------------------------


def test_slacks_url_verification() -> None:
    challenge = (
        b'{"token":"t","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P","type":"url_verification"}'
    )
    assert answered("slack", slack(challenge)) == "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"
    assert answered("slack", slack()) is None
    assert answered("slack", slack(b'{"challenge":"<script>","type":"url_verification"}')) is None
    assert answered("slack", slack(b'{"challenge":{},"type":"url_verification"}')) is None


def test_githubs_ping() -> None:
    assert answered("github", github(b'{"zen":"Keep it logically awesome."}', event="ping")) == "pong"
    assert answered("github", github()) is None


def test_metas_hub_challenge() -> None:
    def get(query: str) -> str | None:
        return answered("meta", Request(method="GET", url=f"{URL}?{query}"))

    assert get("hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=x") == "1158201444"
    assert get("hub.mode=unsubscribe&hub.challenge=1158201444") is None
    assert get("hub.mode=subscribe&hub.challenge=%3Cb%3E") is None
    assert get("hub.mode=subscribe&hub.challenge=1&hub.challenge=2") is None
    assert get("hub.mode=subscribe") is None
    assert answered("meta", sha256_prefixed("x-hub-signature-256", b"{}")) is None


def test_the_crc_of_x_gives_no_signature_of_an_event_away() -> None:
    def get(query: str) -> str | None:
        return answered("x", Request(method="GET", url=f"{URL}?{query}"))

    mac = base64.b64encode(hmac.digest(b"hush", b"challenge_string", "sha256")).decode()
    assert get("crc_token=challenge_string") == f'{{"response_token":"sha256={mac}"}}'
    assert get('crc_token={"tweet":1}') is None
    assert get("crc_token=[]") is None
    # What it does sign may be a JSON value; it is none that becomes an event.
    assert isinstance(made("x", sha256_prefixed("x-twitter-webhooks-signature", b"1", "base64")), Refused)
    assert challenge_answer(providers()["x"], Request(method="GET", url=f"{URL}?crc_token=a"), None, []) is None


def test_zooms_url_validation() -> None:
    body = b'{"event":"endpoint.url_validation","payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"}}'
    answer = answered("zoom", zoom(body))
    assert answer is not None
    mac = hmac.digest(b"hush", b"qgg8vlvZRS6UYooatFL8Aw", "sha256").hex()
    assert orjson.loads(answer) == {"plainToken": "qgg8vlvZRS6UYooatFL8Aw", "encryptedToken": mac}
