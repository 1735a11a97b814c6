"""A subscription's fields as they may be shown: without what is secret.

Everything that prints, logs or stores fields for somebody to read goes through here. This file reads no record and
prints nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec

from schemas.credentials import AUTH_SECRETS, PRIVATE, SEALED_PREFIX, SYMMETRIC, parse_auth, parse_tls
from schemas.subscription import Subscription

HIDDEN = "…"


def hidden(secret: str, mark: str = HIDDEN) -> str:
    """Which kind of secret it is; for a sealed one, with which key."""
    if secret.startswith(SEALED_PREFIX):
        return secret[: secret.rindex(":") + 1] + mark
    return next((kind for kind in (SYMMETRIC, PRIVATE) if secret.startswith(kind)), "") + mark


def redacted(subscription: Subscription, mark: str = HIDDEN) -> dict[str, Any]:
    """All fields of the JSON form, `auth` and `tls` as objects: signing secrets, credentials, keys and the values of
    headers, which may carry credentials, as `hidden` has them. Names of users and clients, and certificates, stay."""
    fields: dict[str, Any] = {name: getattr(subscription, name) for name in subscription.__struct_fields__}
    fields["secrets"] = [hidden(secret, mark) for secret in subscription.secrets]
    fields["headers"] = dict.fromkeys(subscription.headers, mark)
    if subscription.auth:
        auth = parse_auth(subscription.auth)
        fields["auth"] = msgspec.to_builtins(auth) | {AUTH_SECRETS[type(auth)]: mark}
    if subscription.tls:
        tls = parse_tls(subscription.tls)
        fields["tls"] = msgspec.to_builtins(tls) | ({"key": mark} if tls.key else {})
    return fields
