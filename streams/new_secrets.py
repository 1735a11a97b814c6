"""Secrets that are made for those who bring none: random, and never again the same."""

from __future__ import annotations

import base64
import secrets

SECRET_BYTES = 32


def new_secret() -> str:
    """A Standard Webhooks secret."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def new_private_key() -> str:
    """A Standard Webhooks private key (ed25519), of its seed alone."""
    return "whsk_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
