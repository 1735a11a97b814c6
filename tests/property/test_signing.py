"""Our signatures against implementations that are not ours, and against what was published."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import time
from collections.abc import Mapping

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from http_message_signatures import HTTPMessageVerifier, MappingKeyResolver
from http_message_signatures import InvalidSignature as InvalidMessageSignature
from http_message_signatures.algorithms import ED25519, HMAC_SHA256
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from schemas.credentials import Signature, private_key, secret_key
from schemas.errors import InvalidSubscriptionError
from schemas.public_key import key_id, public_key
from streams.core.message_signatures import content_digest, signature_base, signature_params
from streams.core.signing import Signer
from streams.core.signing_keys import HmacKey, Key

keys = st.binary(min_size=24, max_size=64)
seeds = st.binary(min_size=32, max_size=32)
ids = st.from_regex(r"dlv_[0-9a-f]{30}", fullmatch=True)
json_bodies = st.builds(lambda text: b'{"a":' + str(text).encode() + b"}", st.integers())

#: The example of the Standard Webhooks libraries, in both forms.
ID, TIMESTAMP_S, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}'
PUBLISHED = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PUBLISHED_V1 = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
PRIVATE = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
PUBLIC = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
PUBLISHED_V1A = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
URI = "https://hooks.example.com/in?a=1"


def secret(key: bytes) -> str:
    return "whsec_" + base64.b64encode(key).decode()


def private(seed: bytes) -> str:
    return "whsk_" + base64.b64encode(seed).decode()


def now_s() -> int:
    return int(time.clock_gettime(time.CLOCK_REALTIME))  # the verifiers compare with their own clocks


def signed(signer: Signer, body: bytes = BODY, at_s: int = TIMESTAMP_S, webhook_id: str = ID) -> dict[str, str]:
    fields = signer.headers(webhook_id, "application/json", body, at_s * 1000 + 999)
    assert len(dict(fields)) == len(fields)
    return dict(fields)


# --- Standard Webhooks ------------------------------------------------------------------------------------------------


@given(keys, ids, json_bodies)
def test_the_reference_verifies_ours(key: bytes, webhook_id: str, body: bytes) -> None:
    headers = signed(Signer([secret(key)]), body, now_s(), webhook_id)
    Webhook(secret(key)).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret(key)).verify(body + b" ", headers)


@given(keys, keys, ids, json_bodies)
def test_during_a_rotation_either_secret_verifies(new: bytes, old: bytes, webhook_id: str, body: bytes) -> None:
    headers = signed(Signer([secret(new), secret(old)]), body, now_s(), webhook_id)
    for key in (new, old):
        Webhook(secret(key)).verify(body, headers)


@given(seeds, keys, json_bodies)
def test_an_asymmetric_signature_verifies_beside_a_symmetric_one(seed: bytes, key: bytes, body: bytes) -> None:
    headers = signed(Signer([private(seed), secret(key)]), body, now_s())
    Webhook(secret(key)).verify(body, headers)
    verified(public_key(private(seed)), body, headers)
    with pytest.raises(InvalidSignature):
        verified(public_key(private(seed)), body + b" ", headers)


def verified(public: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Verify as the specification says, with the public key that the owner is shown."""
    ours, *_ = [each for each in headers["webhook-signature"].split(" ") if each.startswith("v1a,")]
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public.removeprefix("whpk_")))
    key.verify(base64.b64decode(ours.removeprefix("v1a,")), content)


def test_published_examples() -> None:
    assert signed(Signer([PUBLISHED]))["webhook-signature"] == PUBLISHED_V1
    assert signed(Signer([PRIVATE]))["webhook-signature"] == PUBLISHED_V1A
    assert public_key(PRIVATE) == PUBLIC == public_key(private(private_key(PRIVATE)))
    assert signed(Signer([PRIVATE, PUBLISHED])) == {
        "content-type": "application/json",
        "webhook-id": ID,
        "webhook-timestamp": str(TIMESTAMP_S),
        "webhook-signature": f"{PUBLISHED_V1A} {PUBLISHED_V1}",
    }


def test_what_expired_is_not_signed_with() -> None:
    """Unless nothing else is left: then with what is newest."""
    then = TIMESTAMP_S * 1000
    for expire_ms, expected in (
        ((), f"{PUBLISHED_V1A} {PUBLISHED_V1}"),
        ((0, then + 1000), f"{PUBLISHED_V1A} {PUBLISHED_V1}"),
        ((0, then), PUBLISHED_V1A),
        ((0, then + 999), PUBLISHED_V1A),  # `signed` is within this second
        ((then,), PUBLISHED_V1),
        ((then - 5, then), PUBLISHED_V1A),
    ):
        assert signed(Signer([PRIVATE, PUBLISHED], expire_ms))["webhook-signature"] == expected


# --- GitHub and Stripe ------------------------------------------------------------------------------------------------


def test_github_documents_this_example() -> None:
    """docs.github.com, "Validating webhook deliveries", "Testing the webhook payload validation"."""
    digest = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert HmacKey(b"It's a Secret to Everybody").sign(b"Hello, World!").hex() == digest


@given(st.lists(keys, min_size=1, max_size=3, unique=True), json_bodies)
def test_github_and_stripe_verify_with_the_text_of_the_secret(several: list[bytes], body: bytes) -> None:
    secrets = [secret(key) for key in several]
    headers = signed(Signer([PRIVATE, *secrets], signatures=["github", "stripe"]), body)
    assert "webhook-signature" not in headers
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == (ID, str(TIMESTAMP_S))
    # As both document it for receivers: hmac over the raw body with the secret's text.
    newest = hmac.new(secrets[0].encode(), body, hashlib.sha256).hexdigest()
    assert headers["x-hub-signature-256"] == f"sha256={newest}"
    name, *parts = headers["stripe-signature"].split(",")
    assert name == f"t={TIMESTAMP_S}"
    content = f"{TIMESTAMP_S}.{body.decode()}".encode()
    assert parts == ["v1=" + hmac.new(text.encode(), content, hashlib.sha256).hexdigest() for text in secrets]


def test_forms_with_the_secrets_text_leave_out_what_expired() -> None:
    old, new = secret(b"o" * 24), secret(b"n" * 24)
    then = TIMESTAMP_S * 1000
    forms: tuple[Signature, ...] = ("github", "stripe")
    only_old = signed(Signer([old], signatures=forms))
    assert signed(Signer([new, old], (then, 0), forms)) == only_old
    assert signed(Signer([PRIVATE, old, new], (0, then, then), forms)) == only_old
    assert signed(Signer([old, new], (0, then), forms)) == only_old
    assert signed(Signer([old, new], (0, then + 1000), forms)) != only_old


def test_they_need_a_symmetric_secret() -> None:
    for form in ("github", "stripe"):
        with pytest.raises(InvalidSubscriptionError, match="need a whsec_ secret"):
            Signer([PRIVATE], signatures=[form])


# --- RFC 9421 ---------------------------------------------------------------------------------------------------------


class Request(msgspec.Struct):
    """What the verifier wants to be shown."""

    headers: dict[str, str]
    method: str = "POST"
    url: str = URI


def judged(secret: str, request: Request, body: bytes) -> None:
    """The verdict of the package, as a receiver that knows one secret asks for it."""
    asymmetric = secret.startswith("whsk_")
    if asymmetric:
        raw = base64.b64decode(public_key(secret).removeprefix("whpk_"))
        key: bytes | Ed25519PublicKey = Ed25519PublicKey.from_public_bytes(raw)
    else:
        key = secret_key(secret)
    verifier = HTTPMessageVerifier(
        signature_algorithm=ED25519 if asymmetric else HMAC_SHA256,
        key_resolver=MappingKeyResolver(public_keys={key_id(secret): key}, private_keys={}),
    )
    (result,) = verifier.verify(
        request,
        max_age=datetime.timedelta(minutes=5),
        expect_tag="webhook",
        expect_label=f"sig-{key_id(secret)}",
        require_components=["@method", "@target-uri", "content-digest", "content-type", "webhook-id"],
        body=body,
    )
    assert result.body == body


@given(keys, seeds, json_bodies)
def test_each_secret_makes_a_message_signature(key: bytes, seed: bytes, body: bytes) -> None:
    secrets = [secret(key), private(seed)]
    signer = Signer(secrets, signatures=["standard", "rfc9421"], target_uri=URI)
    headers = signed(signer, body, now_s())
    Webhook(secret(key)).verify(body, headers)
    for each in secrets:
        judged(each, Request(headers), body)
        for forged, sent in (
            (Request(headers, method="PUT"), body),
            (Request(headers, url=URI + "0"), body),
            (Request(headers | {"content-type": "text/json"}), body),
            (Request(headers | {"webhook-id": "other"}), body),
            (Request(headers | {"content-digest": content_digest(b"")}), b""),
            (Request(headers), body + b" "),
        ):
            with pytest.raises(InvalidMessageSignature):
                judged(each, forged, sent)


def test_the_examples_of_rfc_9421() -> None:
    """Appendix B.2.5 and B.2.6: keys of B.1.4 and B.1.5, fields of the test request."""
    shared = "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ=="
    hmac_key = Key("whsec_" + shared)
    ed25519_key = Key("whsk_n4Ni+HpISpVObnQMW0wOhCKROaIKqKtW/2ZYb2p9KcU=")
    date, authority = ("date", "Tue, 20 Apr 2021 02:07:55 GMT"), ("@authority", "example.com")
    content_type, length = ("content-type", "application/json"), ("content-length", "18")
    for key, name, components, expected in (
        (
            hmac_key,
            "test-shared-secret",
            [date, authority, content_type],
            "pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=",
        ),
        (
            ed25519_key,
            "test-key-ed25519",
            [date, ("@method", "POST"), ("@path", "/foo"), authority, content_type, length],
            "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==",
        ),
    ):
        params = signature_params([each for each, _ in components], 1_618_884_473, name)
        assert base64.b64encode(key.sign(signature_base(components, params))).decode() == expected


def test_the_example_of_rfc_9530() -> None:
    """Appendix B.1's representation, as Appendix D has its SHA-256."""
    assert content_digest(b'{"hello": "world"}\n') == "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"


def test_key_ids_are_those_that_a_shell_computes() -> None:
    """`printf %s whsec_... | sha256sum | cut -c1-16`, or of whpk_..."""
    assert key_id(PUBLISHED) == hashlib.sha256(PUBLISHED.encode()).hexdigest()[:16]
    assert key_id(PRIVATE) == hashlib.sha256(PUBLIC.encode()).hexdigest()[:16]


def test_names_that_are_reserved() -> None:
    assert Signer([PUBLISHED]).header_names == frozenset()
    every = Signer([PUBLISHED], signatures=["standard", "github", "stripe", "rfc9421"], target_uri=URI)
    ours = {"content-type", "webhook-id", "webhook-timestamp", "webhook-signature"}
    assert signed(every).keys() == every.header_names | ours
