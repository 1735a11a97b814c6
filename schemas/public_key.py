"""What the owner of an endpoint may see of a signing secret: its public key, and its short id.

This file signs nothing (`streams/core/signing_keys.py`) and opens nothing that is sealed.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas.credentials import PRIVATE, private_key

PUBLIC = "whpk_"
KEY_ID_LENGTH = 16


def public_key(secret: str) -> str:
    """`whpk_` and base64: of a `whsk_` secret (Standard Webhooks 1.0). InvalidSubscriptionError."""
    key = Ed25519PrivateKey.from_private_bytes(private_key(secret)).public_key()
    return PUBLIC + b64encode(key.public_bytes_raw()).decode()


def public_keys(secrets: Iterable[str]) -> list[str]:
    """Of the asymmetric ones among secrets in clear, in their order."""
    return [public_key(secret) for secret in secrets if secret.startswith(PRIVATE)]


def key_id(secret: str) -> str:
    """16 hexadecimal digits of SHA-256 over the text that the receiver was given: `whsec_…`, or the public `whpk_…`.

    A digest of so many random bytes tells nobody what they are. InvalidSubscriptionError for a bad `whsk_`.
    """
    text = public_key(secret) if secret.startswith(PRIVATE) else secret
    return sha256(text.encode()).hexdigest()[:KEY_ID_LENGTH]
