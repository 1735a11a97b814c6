"""Keys that signatures are made with: HMAC-SHA256 (RFC 2104) with its states prepared, and ed25519 (RFC 8032).

This file does not know what is signed (`signing.py`), and keeps no secret text.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas.credentials import PRIVATE, private_key, secret_key
from schemas.public_key import key_id

_BLOCK_BYTES = 64  # SHA-256's


class HmacKey:
    """HMAC-SHA256 with the two keyed states prepared: half the time of hmac.digest."""

    __slots__ = ("inner", "outer")

    def __init__(self, key: bytes) -> None:
        if len(key) > _BLOCK_BYTES:
            key = sha256(key).digest()  # RFC 2104, section 2
        key = key.ljust(_BLOCK_BYTES, b"\0")
        #: Both are for copying; never to be updated themselves.
        self.inner = sha256(bytes(byte ^ 0x36 for byte in key))
        self.outer = sha256(bytes(byte ^ 0x5C for byte in key))

    def sign(self, content: bytes) -> bytes:
        """32 bytes."""
        inner, outer = self.inner.copy(), self.outer.copy()
        inner.update(content)
        outer.update(inner.digest())
        return outer.digest()


class Key:
    """One secret, ready to sign with.

    `sign` is what Standard Webhooks and RFC 9421 sign with, and `hmac` what it is of, where the secret is symmetric.
    `text` has the whole text of a symmetric secret as its key, as Stripe's and GitHub's libraries take it; it is made
    where it is asked for. `alg` is RFC 9421's name (section 6.2.2).
    """

    __slots__ = ("alg", "expire_ms", "hmac", "key_id", "sign", "text", "version")

    def __init__(self, secret: str, expire_ms: int = 0, *, by_text: bool = False) -> None:
        """`whsec_` or `whsk_`; InvalidSubscriptionError for anything else. It expires then, 0 for never."""
        self.expire_ms = expire_ms
        self.key_id = key_id(secret)
        self.hmac: HmacKey | None = None
        self.text: HmacKey | None = None
        self.sign: Callable[[bytes], bytes]
        if secret.startswith(PRIVATE):
            self.version, self.alg = "v1a,", "ed25519"
            self.sign = Ed25519PrivateKey.from_private_bytes(private_key(secret)).sign
        else:
            self.version, self.alg = "v1,", "hmac-sha256"
            self.hmac = HmacKey(secret_key(secret))
            self.sign = self.hmac.sign
            self.text = HmacKey(secret.encode()) if by_text else None
