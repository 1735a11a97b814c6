"""Signed requests of every provider: those that providers publish, and ones that are signed here by hand.

Each signature below that was published is quoted with its source; the others are made with `hmac` and `cryptography`
alone, never with our verifier. This file asserts nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas.signed_request import Request

JSON = ("content-type", "application/json")
FORM = ("content-type", "application/x-www-form-urlencoded")
URL = "https://hooks.example.com/v1/sources/s1"
NOW_MS = 1_700_000_000_000
TIMESTAMP = str(NOW_MS // 1000)


class Case(NamedTuple):
    """A request that is genuine at `now_ms` under `secret`. `published` says where its signature stands."""

    provider: str
    secret: str
    request: Request
    now_ms: int = NOW_MS
    published: str = ""


def _hmac(secret: str | bytes, signed: bytes, algorithm: str = "sha256") -> bytes:
    return hmac.digest(secret.encode() if isinstance(secret, str) else secret, signed, algorithm)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


SENDGRID_BODY = (
    b'[{"email":"hello@world.com","event":"dropped","reason":"Bounced Address",'
    b'"sg_event_id":"ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA",'
    b'"sg_message_id":"LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0",'
    b'"smtp-id":"<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>","timestamp":1600112492}]\r\n'
)
SENDGRID_KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eN"
    "Ec6wEA3F+g=="
)
SLACK_COMMAND = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
    b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
    b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
    b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)
_TWILIO_URL = "https://mycompany.com/myapp.php?foo=1&bar=2"

PUBLISHED = (
    Case(
        "github",
        "It's a Secret to Everybody",
        Request(
            url=URL,
            body=b"Hello, World!",
            headers=(
                JSON,
                ("x-hub-signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"),
            ),
        ),
        published="GitHub Docs, Validating webhook deliveries, Testing",
    ),
    Case(
        "slack",
        "8f742231b10e8888abcd99yyyzzz85a5",
        Request(
            url=URL,
            body=SLACK_COMMAND,
            headers=(
                FORM,
                ("x-slack-request-timestamp", "1531420618"),
                ("x-slack-signature", "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"),
            ),
        ),
        now_ms=1531420618_000,
        published="Slack, Verifying requests from Slack",
    ),
    Case(
        "twilio",
        "12345",
        Request(
            url=_TWILIO_URL,
            body=b"CallSid=CA1234567890ABCDE&Caller=%2B12349013030&Digits=1234&From=%2B12349013030&To=%2B18005551212",
            headers=(FORM, ("x-twilio-signature", "0/KCTR6DLpKmkAf8muzZqo1nDgQ=")),
        ),
        published="Twilio Docs, Security, Validating requests",
    ),
    Case(
        "twilio",
        "12345",
        Request(
            url=_TWILIO_URL,
            body=b"Sid=CA123&SidAccount=AC123&Digits=5678&Digits=1234",
            headers=(FORM, ("x-twilio-signature", "IK+Dwps556ElfBT0I3Rgjkr1wJU=")),
        ),
        published="twilio-python, tests: a parameter with two values",
    ),
    Case(
        "twilio",
        "12345",
        Request(
            url=f"{_TWILIO_URL}&bodySHA256=0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620",
            body=b'{"property": "value", "boolean": true}',
            headers=(JSON, ("x-twilio-signature", "a9nBmqA0ju/hNViExpshrM61xv4=")),
        ),
        published="twilio-python, tests: a JSON body",
    ),
    Case(
        "sendgrid",
        SENDGRID_KEY,
        Request(
            url=URL,
            body=SENDGRID_BODY,
            headers=(
                JSON,
                (
                    "x-twilio-email-event-webhook-signature",
                    "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM=",
                ),
                ("x-twilio-email-event-webhook-timestamp", "1600112502"),
            ),
        ),
        now_ms=1600112502_000,
        published="sendgrid-python, tests of the event webhook",
    ),
    Case(
        "standard",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        Request(
            url=URL,
            body=b'{"test": 2432232314}',
            headers=(
                JSON,
                ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
                ("webhook-timestamp", "1614265330"),
                ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
            ),
        ),
        now_ms=1614265330_000,
        published="Standard Webhooks, reference libraries",
    ),
)

STRIPE_BODY = b'{"id":"evt_1","type":"invoice.paid","created":1699999990,"data":{"object":{"id":"in_1"}}}'
GITHUB_BODY = b'{"action":"opened","number":1,"repository":{"full_name":"octo/hello"}}'
SHOPIFY_BODY = b'{"id":820982911946154508,"email":"jon@example.com"}'
STANDARD_BODY = b'{"type":"user.created","timestamp":"2023-11-14T22:13:10Z","data":{"id":1}}'
SLACK_BODY = (
    b'{"type":"event_callback","event_id":"Ev1","event_time":1699999990,"event":{"type":"app_mention","channel":"C1"}}'
)
ED25519 = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"a sender").digest())


def stripe(body: bytes = STRIPE_BODY, timestamp: str = TIMESTAMP, secret: str = "whsec_stripe") -> Request:
    """As Stripe signs, with a v0 of its test scheme in between."""
    mac = _hmac(secret, f"{timestamp}.".encode() + body).hex()
    return Request(url=URL, body=body, headers=(JSON, ("stripe-signature", f"t={timestamp},v0={'0' * 64},v1={mac}")))


def github(
    body: bytes = GITHUB_BODY, event: str = "issues", delivery: str = "72d3162e-cc78-11e3-81ab-4c9367dc0958"
) -> Request:
    """As GitHub signs, with the secret `hush`."""
    signature = f"sha256={_hmac('hush', body).hex()}"
    named = (("x-github-event", event), ("x-github-delivery", delivery), ("x-hub-signature-256", signature))
    return Request(url=URL, body=body, headers=(JSON, *named))


def slack(body: bytes = SLACK_BODY, timestamp: str = TIMESTAMP) -> Request:
    """As Slack signs JSON, with the secret `hush`."""
    mac = _hmac("hush", f"v0:{timestamp}:".encode() + body).hex()
    signed = (("x-slack-request-timestamp", timestamp), ("x-slack-signature", f"v0={mac}"))
    return Request(url=URL, body=body, headers=(JSON, *signed))


def shopify(body: bytes = SHOPIFY_BODY, webhook_id: str = "b54557e4-bdd9-4b37-8a5f-bf7d70bcd043") -> Request:
    """As Shopify signs, with the secret `hush`."""
    headers = (
        ("x-shopify-hmac-sha256", _b64(_hmac("hush", body))),
        ("x-shopify-topic", "orders/create"),
        ("x-shopify-webhook-id", webhook_id),
        ("x-shopify-shop-domain", "acme.myshopify.com"),
        ("x-shopify-triggered-at", "2023-11-14T22:13:10.123456789Z"),
    )
    return Request(url=URL, body=body, headers=(JSON, *headers))


def twilio(body: bytes, url: str = URL, token: str = "") -> Request:
    """As Twilio signs a form of parameters that need no decoding, with the auth token `hush`."""
    pairs = {tuple(pair.split("=", 1)) for pair in body.decode().split("&")}
    signed = url + "".join(name + value for name, value in sorted(pairs))
    headers = (FORM, ("x-twilio-signature", _b64(_hmac("hush", signed.encode(), "sha1"))))
    return Request(url=url, body=body, headers=(*headers, ("i-twilio-idempotency-token", token)) if token else headers)


def standard_ed25519(body: bytes = STANDARD_BODY, message: str = "msg_1", timestamp: str = TIMESTAMP) -> Request:
    """As a Standard Webhooks sender with a key pair signs."""
    signature = _b64(ED25519.sign(f"{message}.{timestamp}.".encode() + body))
    named = (("webhook-id", message), ("webhook-timestamp", timestamp), ("webhook-signature", f"v1a,{signature}"))
    return Request(url=URL, body=body, headers=(JSON, *named))


def any_hmac(body: bytes, delivery: str = "d1", event: str = "thing.done") -> Request:
    """As the provider hmac expects it, with the secret `hush`."""
    named = (("x-delivery-id", delivery), ("x-event-type", event), ("x-signature", _hmac("hush", body).hex()))
    return Request(url=URL, body=body, headers=(JSON, *named))


def sha256_prefixed(header: str, body: bytes, encoding: str = "hex") -> Request:
    """`sha256=` and the HMAC under `hush`, as Meta and X do."""
    mac = _hmac("hush", body)
    return Request(
        url=URL, body=body, headers=(JSON, (header, f"sha256={mac.hex() if encoding == 'hex' else _b64(mac)}"))
    )


def zoom(body: bytes, timestamp: str = TIMESTAMP) -> Request:
    """As Zoom signs, with the secret token `hush`."""
    mac = _hmac("hush", f"v0:{timestamp}:".encode() + body).hex()
    signed = (("x-zm-request-timestamp", timestamp), ("x-zm-signature", f"v0={mac}"))
    return Request(url=URL, body=body, headers=(JSON, *signed))


PUBLIC_KEY = f"whpk_{_b64(ED25519.public_key().public_bytes_raw())}"

OWN = (
    Case("stripe", "whsec_stripe", stripe()),
    Case("github", "hush", github()),
    Case("slack", "hush", slack()),
    Case("twilio", "hush", twilio(b"CallSid=CA1&CallStatus=ringing")),
    Case("shopify", "hush", shopify()),
    Case("standard", PUBLIC_KEY, standard_ed25519()),
    Case("hmac", "hush", any_hmac(b'{"n":1}')),
    Case("meta", "hush", sha256_prefixed("x-hub-signature-256", b'{"object":"page"}')),
    Case("x", "hush", sha256_prefixed("x-twitter-webhooks-signature", b'{"for_user_id":"2"}', "base64")),
    Case("zoom", "hush", zoom(b'{"event":"meeting.started","event_ts":1699999990000,"payload":{}}')),
)
CASES = PUBLISHED + OWN
