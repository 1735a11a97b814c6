"""A subscription's fields as they may be shown: without what is secret.

Everything that prints, logs or stores fields for somebody to read goes through here. This file reads no record and
prints nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from schemas.credentials import AUTH_SECRETS, PRIVATE, SEALED_PREFIX, SYMMETRIC, parse_auth, parse_tls
from schemas.subscription import Subscription

HIDDEN = "…"
#: What is shown of fields that make no subscription: texts may stand anywhere in them, a secret in the wrong place too.
SHOWN = frozenset({"id", "tenant", "url", "event_types", "description", "filter", "transform"})
_USER = re.compile(r"(?<=//)[^/@]*(?=@)")


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


def redacted_fields(fields: Mapping[str, Any], mark: str = HIDDEN) -> dict[str, Any]:
    """Fields that break a rule of a subscription's: of those that are not `SHOWN`, only numbers, truths and which kind
    a signing secret is; of a URL not who is named in it."""
    shown: dict[str, Any] = {}
    for name, value in fields.items():
        if name == "url" and isinstance(value, str):
            shown[name] = _USER.sub(mark, value)
        elif name in SHOWN or value is None or isinstance(value, bool | int | float):
            shown[name] = value
        elif name == "secrets" and isinstance(value, list | tuple):
            shown[name] = [hidden(each, mark) if isinstance(each, str) else mark for each in value]
        else:
            shown[name] = mark
    return shown
