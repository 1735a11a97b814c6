"""Who calls: the port that finds it out, and what a principal's tenant means for a request.

What a principal is stands in `schemas/access.py`; how keys are kept and checked, elsewhere. `FixedKeys` is the port's
fake, for tests.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Protocol

from aiohttp import web

from connectors.api.problems import ProblemError
from schemas.access import SCOPES, Principal, Scope

__all__ = [
    "SCOPES",
    "Authenticate",
    "FixedKeys",
    "Principal",
    "Scope",
    "acts_for",
    "bearer_token",
    "challenge",
    "unauthorized",
]


class Authenticate(Protocol):
    """Who calls. ProblemError 401 (`unauthorized`) when nobody is known by what the request carries."""

    async def __call__(self, request: web.Request) -> Principal: ...


def acts_for(principal: Principal, asked: str | None) -> str | None:
    """The tenant to narrow a question to: the caller's own, or for an operator the one asked for, None for all.

    ProblemError 403 when a tenant's key asks for another.
    """
    if principal.tenant is None:
        return asked
    if asked not in (None, principal.tenant):
        raise ProblemError(403, "this key is of another tenant; leave the tenant out")
    return principal.tenant


def bearer_token(request: web.Request) -> str:
    """The token of `Authorization: Bearer` (RFC 6750, 2.1). ProblemError 401 when there is none."""
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token.strip():
        raise unauthorized("send your API key as `Authorization: Bearer <key>`")
    return token.strip()


def unauthorized(detail: str, error: str = "") -> ProblemError:
    """RFC 9110, 11.6.1: a 401 names the scheme; `error` as in RFC 6750, 3.1, none where nothing was presented."""
    return ProblemError(401, detail, headers=challenge(error))


def challenge(error: str = "", scope: str = "") -> dict[str, str]:
    """The header that says how to authenticate, and what was wrong (RFC 6750, 3)."""
    said = "".join(f', {name}="{value}"' for name, value in (("error", error), ("scope", scope)) if value)
    return {"WWW-Authenticate": f'Bearer realm="distributary"{said}'}


class FixedKeys:
    """Implements `Authenticate` in memory: principals by token."""

    def __init__(self, principals: Mapping[str, Principal]) -> None:
        self._principals = dict(principals)

    async def __call__(self, request: web.Request) -> Principal:
        given = bearer_token(request).encode()
        found = [each for token, each in self._principals.items() if hmac.compare_digest(token.encode(), given)]
        if not found:
            raise unauthorized("this API key is not known", error="invalid_token")
        return found[0]
