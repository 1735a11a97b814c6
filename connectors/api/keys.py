"""API keys and portal links: /v1/keys and /v1/portal-links.

How a change is made is in `connectors/key_desk.py`, what a token is in `schemas/portal.py`. A key's text, and a link's
token, are in the one answer that makes them and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from connectors.api.control import Control
from connectors.api.cursors import LIMIT_MAX, cursor, position
from connectors.api.principal import acts_for
from connectors.api.problems import ProblemError, invalid, not_found
from connectors.api.routes import Answer, Call, Reply, Route
from connectors.key_desk import KeyConflictError, KeyDesk, UnknownKeyError
from schemas import portal
from schemas.access import NAME_LENGTH_MAX, InvalidAccessError, Scope, check_given
from schemas.api_key import EXPIRES_MS_MAX, ID_PATTERN, OVERLAP_MS_MAX, RATE_MAX, ApiKey, State
from schemas.portal import PortalSigner
from schemas.subscription import TENANT_PATTERN

T = TypeVar("T")

Tenant = Annotated[str, Meta(pattern=f"^{TENANT_PATTERN.pattern}$")]
DAY_MS = 24 * 3600 * 1000


class KeyView(msgspec.Struct, kw_only=True):
    """A key, without its secret. Times are milliseconds since the epoch, 0 for none. `tenant` is null for an
    operator's."""

    id: str
    name: str
    tenant: str | None
    scopes: tuple[str, ...]
    state: State
    rate: float
    created_ms: int
    created_by: str
    rotated_ms: int
    previous_until_ms: int
    expires_ms: int
    revoked_ms: int


class NewKeyView(KeyView, kw_only=True):
    """A key and its text, which is never shown again."""

    key: str


class KeyPage(msgspec.Struct, kw_only=True):
    """A page; `next` is the cursor of the next one, null on the last."""

    items: list[KeyView]
    next: str | None


class NewKey(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a key is to be. An operator names the `tenant`, or says `operator` for a key like its own."""

    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1, max_length=50)]
    name: Annotated[str, Meta(max_length=NAME_LENGTH_MAX)] = ""
    tenant: Tenant | None = None
    operator: bool = False
    expires_in_s: Annotated[int, Meta(ge=0, le=EXPIRES_MS_MAX // 1000, description="0 for never")] = 0
    rate: Annotated[float, Meta(ge=0, le=RATE_MAX, description="Calls a second; 0 for the default")] = 0.0


class Rotation(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How a key is rotated: the secret before is valid for `overlap_s` more."""

    overlap_s: Annotated[int, Meta(ge=0, le=OVERLAP_MS_MAX // 1000)] = DAY_MS // 1000


class KeyQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a list is narrowed to."""

    tenant: Annotated[str | None, Meta(description="Of this tenant only; of an operator's key")] = None
    state: Annotated[State | None, Meta(description="Those in this state")] = None
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX, description="At most so many on a page")] = 100
    cursor: Annotated[str | None, Meta(description="Where the page begins: `next` of the page before")] = None


class NewPortalLink(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a link is to be. An operator names the `tenant`."""

    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1, max_length=50)]
    tenant: Tenant | None = None
    expires_in_s: Annotated[int, Meta(ge=1, le=portal.LIFE_MS_MAX // 1000)] = portal.LIFE_MS // 1000


class PortalLinkView(msgspec.Struct, kw_only=True):
    """A link and its token, to be sent as an API key is. `url` is your portal's page with it, null where none is
    set."""

    id: str
    tenant: str
    scopes: tuple[str, ...]
    expires_ms: int
    token: str
    url: str | None


class Portal:
    """A service: `signer` None where there is no secret to sign with. `new_id` makes a text that nobody else has."""

    def __init__(self, signer: PortalSigner | None, url: str | None, new_id: Callable[[], str]) -> None:
        self.signer = signer
        self.url = url
        self.new_id = new_id


def key_fields(key: ApiKey, now_ms: int) -> dict[str, Any]:
    """The fields of its view. The secret before a rotation is told of as long as it is valid."""
    fields = {name: getattr(key, name) for name in KeyView.__struct_fields__ if hasattr(key, name)}
    fields["previous_until_ms"] = key.previous_until_ms if now_ms < key.previous_until_ms else 0
    return fields | {"state": key.state(now_ms)}


async def done(change: Awaitable[T]) -> T:
    """What the change returns; its refusals as problems."""
    try:
        return await change
    except InvalidAccessError as error:
        raise refused(error) from None
    except UnknownKeyError as error:
        raise not_found(str(error).removeprefix("there is no ")) from None
    except KeyConflictError as error:
        raise ProblemError(409, str(error)) from None


def refused(error: InvalidAccessError) -> ProblemError:
    """A rule that the body breaks; its text begins with the field."""
    field = str(error).partition(":")[0]
    return invalid(str(error), f"/{field}" if field.isidentifier() else "")


def tenant_of(call: Call) -> str | None:
    """For whom something is made: the caller's tenant, or the one that an operator names. ProblemError 403, 422."""
    tenant = acts_for(call.principal, call.body.tenant)
    operator = getattr(call.body, "operator", False)
    if operator and (call.principal.tenant is not None or tenant is not None):
        raise invalid("operator: only an operator may say so, and names no tenant then", "/operator")
    if tenant is None and not operator:
        raise invalid("tenant: name whose it is", "/tenant")
    return tenant


async def create_key(call: Call) -> Reply:
    """Its text is in the answer."""
    body: NewKey = call.body
    asked = call.get(Control).asked(call)
    expires_ms = asked.at_ms + body.expires_in_s * 1000 if body.expires_in_s else 0
    tenant = tenant_of(call)
    made = call.get(KeyDesk).create(
        asked, tenant=tenant, scopes=body.scopes, name=body.name, expires_ms=expires_ms, rate=body.rate
    )
    key, text = await done(made)
    view = NewKeyView(key=text, **key_fields(key, asked.at_ms))
    return Reply(view, status=201, headers={"Location": f"/v1/keys/{key.id}"})


async def list_keys(call: Call) -> Reply:
    """A page of them, by id."""
    query: KeyQuery = call.query
    tenant = acts_for(call.principal, query.tenant)
    last: Any = position(query.cursor, tuple[str])
    now_ms = call.get(Control).asked(call).at_ms
    after = last[0] if last else ""
    items = [
        KeyView(**key_fields(key, now_ms))
        for key in call.get(KeyDesk).table.every()
        if key.id > after and tenant in (None, key.tenant) and query.state in (None, key.state(now_ms))
    ]
    more = cursor(items[query.limit - 1].id) if len(items) > query.limit else None
    return Reply(KeyPage(items=items[: query.limit], next=more))


async def get_key(call: Call) -> Reply:
    """One of them."""
    asked = call.get(Control).asked(call)
    try:
        key = call.get(KeyDesk).find(asked, call.params["id"])
    except UnknownKeyError as error:
        raise not_found(str(error).removeprefix("there is no ")) from None
    return Reply(KeyView(**key_fields(key, asked.at_ms)))


async def rotate_key(call: Call) -> Reply:
    """The new text is in the answer."""
    asked = call.get(Control).asked(call)
    body: Rotation = call.body
    key, text = await done(call.get(KeyDesk).rotate(asked, call.params["id"], body.overlap_s * 1000))
    return Reply(NewKeyView(key=text, **key_fields(key, asked.at_ms)))


async def revoke_key(call: Call) -> Reply:
    """It and its portal links are not taken any more."""
    asked = call.get(Control).asked(call)
    key = await done(call.get(KeyDesk).revoke(asked, call.params["id"]))
    return Reply(KeyView(**key_fields(key, asked.at_ms)))


async def create_portal_link(call: Call) -> Reply:
    """The token is in the answer."""
    body: NewPortalLink = call.body
    service, control = call.get(Portal), call.get(Control)
    if service.signer is None:
        raise ProblemError(409, "portal links need a secret; set DISTRIBUTARY_PORTAL_SECRET, and start the API again")
    tenant = tenant_of(call)
    assert tenant is not None  # a link has no operator
    asked = control.asked(call)
    try:
        scopes = check_given(asked.principal, tenant, body.scopes)
        link, token = service.signer.issue(
            service.new_id(),
            tenant=tenant,
            scopes=scopes,
            key=asked.principal.key_id,
            now_ms=asked.at_ms,
            life_ms=body.expires_in_s * 1000,
        )
    except InvalidAccessError as error:
        raise refused(error) from None
    record = control.audit(call, "created", "portal-link", link.id, tenant, None, link)
    await control.change(lambda: [record], about=("portal-link", link.id))
    url = f"{service.url}#{token}" if service.url else None
    view = PortalLinkView(id=link.id, tenant=tenant, scopes=scopes, expires_ms=link.expires_ms, token=token, url=url)
    return Reply(view, status=201)


TAG = "keys"
BY_ID: dict[str, re.Pattern[str]] = {"id": ID_PATTERN}
ROUTES = [
    Route(
        method="POST",
        path="/v1/keys",
        handler=create_key,
        summary="Make a key; its text is shown once",
        tag=TAG,
        scope="keys:write",
        body=NewKey,
        problems=(409,),
        answers={201: Answer(type=NewKeyView, description="The key with its text")},
    ),
    Route(
        method="GET",
        path="/v1/keys",
        handler=list_keys,
        summary="List keys",
        tag=TAG,
        scope="keys:read",
        query=KeyQuery,
        answers={200: Answer(type=KeyPage, description="A page")},
    ),
    Route(
        method="GET",
        path="/v1/keys/{id}",
        handler=get_key,
        summary="One key",
        tag=TAG,
        scope="keys:read",
        params=BY_ID,
        answers={200: Answer(type=KeyView, description="The key")},
    ),
    Route(
        method="POST",
        path="/v1/keys/{id}/rotate",
        handler=rotate_key,
        summary="Replace a key's secret; the one before stays valid for a while",
        tag=TAG,
        scope="keys:write",
        params=BY_ID,
        body=Rotation,
        problems=(409,),
        answers={200: Answer(type=NewKeyView, description="The key with its new text")},
    ),
    Route(
        method="POST",
        path="/v1/keys/{id}/revoke",
        handler=revoke_key,
        summary="End a key, and its portal links",
        tag=TAG,
        scope="keys:write",
        params=BY_ID,
        answers={200: Answer(type=KeyView, description="The key")},
    ),
    Route(
        method="POST",
        path="/v1/portal-links",
        handler=create_portal_link,
        summary="A short-lived token for a page of the tenant's own",
        tag=TAG,
        scope="keys:write",
        body=NewPortalLink,
        problems=(409,),
        answers={201: Answer(type=PortalLinkView, description="The link with its token")},
    ),
]
