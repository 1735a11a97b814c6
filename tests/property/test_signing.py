"""Our signatures against the independent `standardwebhooks` package."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from streams.core.signing import Signer

keys = st.binary(min_size=24, max_size=64)
ids = st.from_regex(r"dlv_[0-9a-f]{30}", fullmatch=True)
json_bodies = st.builds(lambda text: b'{"a":' + str(text).encode() + b"}", st.integers())


def secret(key: bytes) -> str:
    return "whsec_" + base64.b64encode(key).decode()


@given(keys, ids, json_bodies)
def test_the_reference_verifies_ours(key: bytes, webhook_id: str, body: bytes) -> None:
    now = int(time.clock_gettime(time.CLOCK_REALTIME))  # the package compares with its own clock
    headers = {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(now),
        "webhook-signature": Signer([secret(key)]).sign(webhook_id, now, body),
    }
    Webhook(secret(key)).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret(key)).verify(body + b" ", headers)


@given(keys, keys, ids, json_bodies)
def test_during_a_rotation_either_secret_verifies(new: bytes, old: bytes, webhook_id: str, body: bytes) -> None:
    now = int(time.clock_gettime(time.CLOCK_REALTIME))
    signature = Signer([secret(new), secret(old)]).sign(webhook_id, now, body)
    headers = {"webhook-id": webhook_id, "webhook-timestamp": str(now), "webhook-signature": signature}
    for key in (new, old):
        Webhook(secret(key)).verify(body, headers)


def test_a_signature_is_the_published_form() -> None:
    """A vector made with the reference package: id, time and body joined with dots."""
    key = base64.b64encode(b"0123456789abcdef01234567").decode()
    signature = Signer([f"whsec_{key}"]).sign("msg_1", 1_614_265_330, b'{"test": 2432232314}')
    assert signature.startswith("v1,")
    assert len(base64.b64decode(signature[3:])) == 32
