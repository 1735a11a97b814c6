"""Who may do what: the scopes, and the principal that a request is made by.

A scope is `<things>:<verb>`. This file checks no key (`connectors/api/who.py`) and knows no route: each names the scope
that it needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import msgspec

from schemas.subscription import TENANT_PATTERN

Scope = Literal[
    "audit:read",
    "deliveries:read",
    "deliveries:write",
    "events:listen",
    "events:write",
    "keys:read",
    "keys:write",
    "replays:read",
    "replays:write",
    "secrets:reveal",
    "sources:read",
    "sources:write",
    "subscriptions:read",
    "subscriptions:write",
]
SCOPES: tuple[Scope, ...] = get_args(Scope)
NAME_LENGTH_MAX = 200


class InvalidAccessError(ValueError):
    """Rights that cannot be given: one sentence that names the field."""


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who makes a request.

    `tenant` is None for an operator, who names a tenant with each request. `actor` is what the audit trail says:
    `key:<id>`, `link:<id>`, or `cli:<user>@<host>`. `key_id` is the API key that stands behind it, empty for the
    command line. `rate` is how many calls a second it may make, 0 for the default.
    """

    actor: str
    tenant: str | None
    scopes: frozenset[str]
    key_id: str = ""
    rate: float = 0.0

    @property
    def caller(self) -> str:
        """What its calls count for: the links of a key share its rate and its places."""
        return self.key_id or self.actor

    def may(self, scope: str) -> bool:
        """Whether it has this scope."""
        return scope in self.scopes

    def sees(self, tenant: str | None) -> bool:
        """Whether what belongs to this tenant (None: to none, which is the operator's) exists for it."""
        return self.tenant is None or self.tenant == tenant


def check_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """In order, each once. InvalidAccessError for an unknown one, or none at all."""
    found = sorted(set(scopes))
    if not found:
        raise InvalidAccessError("scopes: at least one is needed")
    for scope in found:
        if scope not in SCOPES:
            raise InvalidAccessError(f"scopes: {scope!r} is none of {', '.join(SCOPES)}")
    return tuple(found)


def check_given(giver: Principal, tenant: str | None, scopes: Iterable[str]) -> tuple[str, ...]:
    """The scopes, when `giver` may give them for this tenant: nobody gives what they do not have themselves.

    InvalidAccessError otherwise.
    """
    chosen = check_scopes(scopes)
    if tenant is not None and not TENANT_PATTERN.fullmatch(tenant):
        raise InvalidAccessError(f"tenant: {tenant!r} is not 1 to 128 characters of A-Z a-z 0-9 _ . : -")
    if not giver.sees(tenant):
        raise InvalidAccessError("tenant: not yours; leave it out")
    if missing := [scope for scope in chosen if not giver.may(scope)]:
        raise InvalidAccessError(f"scopes: you do not have {', '.join(missing)} yourself")
    return chosen
