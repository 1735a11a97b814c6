"""Standard Webhooks 1.0 signatures (symmetric, `v1`).

Signed content: `{id}.{timestamp}.{body}`; header `webhook-signature: v1,<base64 HMAC-SHA256>`, one per secret,
separated by spaces, so that a receiver accepts the old and the new secret during a rotation. Checked in the tests
against the `standardwebhooks` package. This file does not read a clock and keeps no secret text, only hash states.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Sequence
from hashlib import sha256

from schemas.credentials import secret_key

_BLOCK_BYTES = 64  # SHA-256's


class Signer:
    """Signs for one subscription. HMAC (RFC 2104) with the two keyed states prepared: half the time of hmac.digest."""

    __slots__ = ("_states",)

    def __init__(self, secrets: Sequence[str]) -> None:
        """`whsec_` secrets, newest first."""
        self._states = []
        for secret in secrets:
            key = secret_key(secret).ljust(_BLOCK_BYTES, b"\0")
            inner = sha256(bytes(byte ^ 0x36 for byte in key))
            outer = sha256(bytes(byte ^ 0x5C for byte in key))
            self._states.append((inner, outer))

    def sign(self, webhook_id: str, timestamp_s: int, body: bytes) -> str:
        """The value of `webhook-signature`. The id must hold no dot; the timestamp is seconds since the epoch."""
        content = f"{webhook_id}.{timestamp_s}.".encode() + body
        signatures = []
        for inner, outer in self._states:
            first, second = inner.copy(), outer.copy()
            first.update(content)
            second.update(first.digest())
            signatures.append("v1," + b2a_base64(second.digest(), newline=False).decode())
        return " ".join(signatures) if len(signatures) > 1 else signatures[0]
