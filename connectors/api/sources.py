"""Sources: /v1/sources, as their owners manage them.

How a change is made is in `connectors/source_desk.py`, what is received in `receiving.py`. Secrets go in and never come
out: an answer says of which kind they are.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from connectors.api.cursors import LIMIT_MAX, cursor, position
from connectors.api.principal import acts_for
from connectors.api.problems import ProblemError, invalid, not_found
from connectors.api.receiving import TAG
from connectors.api.routes import Answer, Call, Header, Reply, Route
from connectors.pen import PenError
from connectors.refusals import Refusals
from connectors.source_desk import SourceChangedError, SourceConflictError, SourceDesk, UnknownSourceError
from schemas.audit import Asked
from schemas.errors import InvalidSourceError, RecordTooLargeError
from schemas.source import Source, State, shown
from schemas.subscription import ID_PATTERN, TENANT_PATTERN

T = TypeVar("T")

_ETAG_PATTERN = re.compile(r'"([0-9]{1,19})"')
ETAG = Header("ETag", "The version of the source", pattern=_ETAG_PATTERN.pattern)
IF_MATCH = Header("If-Match", "The version that is meant, or *; another one is 412", pattern=r'\*|"[0-9]{1,19}"')
Id = Annotated[str, Meta(pattern=f"^{ID_PATTERN.pattern}$")]


class Sources:
    """A service: sources, and what was refused at their door by this process. `new_id` makes a text that nobody has."""

    def __init__(
        self, desk: SourceDesk, refusals: Refusals, now_ms: Callable[[], int], new_id: Callable[[], str]
    ) -> None:
        self.desk = desk
        self.refusals = refusals
        self.now_ms = now_ms
        self.new_id = new_id

    def asked(self, call: Call) -> Asked:
        """The call, as the audit trail tells of it."""
        remote = call.request.remote or ""
        return Asked(principal=call.principal, at_ms=self.now_ms(), request_id=call.request_id, remote=remote)

    def view(self, source: Source) -> SourceView:
        """What is shown of it."""
        path = f"/v1/sources/{source.id}"
        refused = self.refusals.of(source.id)
        return SourceView(**shown(source), path=path, refused=refused)


class SourceGiven(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a source is to be. An operator names the `tenant`. Without `secrets`, one that exists keeps its own."""

    provider: Annotated[str, Meta(max_length=64, description="A name of the table of providers")]
    secrets: Annotated[tuple[str, ...], Meta(max_length=5, description="Newest first")] | UnsetType = UNSET
    secrets_expire_ms: Annotated[tuple[int, ...], Meta(max_length=5)] | UnsetType = UNSET
    tenant: Annotated[str, Meta(pattern=f"^{TENANT_PATTERN.pattern}$")] | None = None
    allowlist: Annotated[tuple[str, ...], Meta(description="Networks as CIDR; empty for any")] = ()
    event_type_prefix: str = ""
    overrides: Annotated[dict[str, Any], Meta(description="With the provider hmac: rules of your own")] = {}
    state: State = "active"
    description: str = ""


class NewSource(SourceGiven, kw_only=True):
    """The same, with an `id` of your own; made up where there is none."""

    id: Id | None = None


class SourceView(msgspec.Struct, kw_only=True):
    """A source without its secrets. `refused`: how many requests this process did not believe or could not read, by
    reason. `path` is where its provider posts to."""

    id: str
    tenant: str
    provider: str
    secrets: tuple[str, ...]
    secrets_expire_ms: tuple[int, ...]
    allowlist: tuple[str, ...]
    event_type_prefix: str
    overrides: dict[str, Any]
    state: State
    description: str
    created_ms: int
    updated_ms: int
    path: str
    refused: dict[str, int]


class SourcePage(msgspec.Struct, kw_only=True):
    """A page; `next` is the cursor of the next one, null on the last."""

    items: list[SourceView]
    next: str | None


class SourceQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a list is narrowed to."""

    tenant: Annotated[str | None, Meta(description="Of this tenant only; of an operator's key")] = None
    provider: Annotated[str | None, Meta(description="Of this provider only")] = None
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX, description="At most so many on a page")] = 100
    cursor: Annotated[str | None, Meta(description="Where the page begins: `next` of the page before")] = None


async def list_sources(call: Call) -> Reply:
    """A page of them, by tenant and id."""
    service, query = call.get(Sources), call.query
    tenant = acts_for(call.principal, query.tenant)
    last: Any = position(query.cursor, tuple[str, str])
    found = [
        each
        for each in service.desk.table.sources()
        if tenant in (None, each.tenant)
        and query.provider in (None, each.provider)
        and (last is None or (each.tenant, each.id) > tuple(last))
    ]
    page = found[: query.limit]
    following = cursor(page[-1].tenant, page[-1].id) if len(found) > query.limit else None
    return Reply(SourcePage(items=[service.view(each) for each in page], next=following))


async def get_source(call: Call) -> Reply:
    """One of them."""
    service = call.get(Sources)
    try:
        source = service.desk.find(service.asked(call), call.params["id"])
    except UnknownSourceError:
        raise not_found(f"source {call.params['id']}") from None
    return _shown(service, source)


async def create_source(call: Call) -> Reply:
    """A new one."""
    service = call.get(Sources)
    source_id = call.body.id or service.new_id()
    source, _ = await _done(service.desk.put(service.asked(call), _fields(call, source_id), new=True), source_id)
    return _shown(service, source, 201)


async def put_source(call: Call) -> Reply:
    """All of it."""
    service, source_id = call.get(Sources), call.params["id"]
    version = _version(call, service)
    change = service.desk.put(service.asked(call), _fields(call, source_id), version=version)
    source, created = await _done(change, source_id)
    return _shown(service, source, 201 if created else 200)


async def delete_source(call: Call) -> Reply:
    """It is gone."""
    service, source_id = call.get(Sources), call.params["id"]
    await _done(service.desk.delete(service.asked(call), source_id, version=_version(call, service)), source_id)
    return Reply(status=204)


def _fields(call: Call, source_id: str) -> dict[str, Any]:
    """ProblemError 403 when a tenant's key names another; 422 when an operator names none for a new source."""
    body: SourceGiven = call.body
    given = {name: value for name, value in msgspec.structs.asdict(body).items() if value is not UNSET}
    before = call.get(Sources).desk.table.get(source_id)
    known = before.tenant if before is not None and call.principal.sees(before.tenant) else None
    tenant = acts_for(call.principal, body.tenant) or known
    if tenant is None:
        raise invalid("tenant: name whose it is", "/tenant")
    return given | {"id": source_id, "tenant": tenant}


def _version(call: Call, service: Sources) -> int | None:
    """What If-Match asks for. ProblemError 400, 412."""
    text = call.header("If-Match")
    if text is None:
        return None
    if text == "*":
        version = service.desk.version(call.params["id"])
        if version is None:
            raise ProblemError(412, "there is no such source that it could match")
        return version
    match = _ETAG_PATTERN.fullmatch(text)
    if match is None:
        raise ProblemError(400, 'If-Match is neither * nor an ETag such as "17"')
    return int(match[1])


async def _done(change: Awaitable[T], source_id: str) -> T:
    """What the change returns; its refusals as problems."""
    try:
        return await change
    except InvalidSourceError as error:
        field = str(error).partition(":")[0]
        raise invalid(str(error), f"/{field}" if field.isidentifier() else "") from None
    except UnknownSourceError:
        raise not_found(f"source {source_id}") from None
    except SourceConflictError as error:
        raise ProblemError(409, str(error)) from None
    except SourceChangedError as error:
        raise ProblemError(412, str(error)) from None
    except RecordTooLargeError:
        raise ProblemError(413, "the source is larger than Kafka takes; leave something out") from None
    except PenError as error:
        raise ProblemError(503, str(error), headers={"Retry-After": "1"}) from None


def _shown(service: Sources, source: Source, status: int = 200) -> Reply:
    headers = {"ETag": f'"{service.desk.version(source.id)}"'}
    if status == 201:
        headers["Location"] = f"/v1/sources/{source.id}"
    return Reply(service.view(source), status, headers)


_ONE = Answer(type=SourceView, description="The source", headers=(ETAG,))
_MADE = Answer(
    type=SourceView, description="The new source", headers=(ETAG, Header("Location", "Where it is, and is posted to"))
)
ROUTES = [
    Route(
        method="GET",
        path="/v1/sources",
        handler=list_sources,
        summary="List sources, by tenant and id",
        tag=TAG,
        scope="sources:read",
        query=SourceQuery,
        answers={200: Answer(type=SourcePage, description="A page")},
    ),
    Route(
        method="POST",
        path="/v1/sources",
        handler=create_source,
        summary="Create a source",
        tag=TAG,
        scope="sources:write",
        body=NewSource,
        answers={201: _MADE},
        problems=(404, 409),
    ),
    Route(
        method="GET",
        path="/v1/sources/{id}",
        handler=get_source,
        summary="One source",
        tag=TAG,
        scope="sources:read",
        answers={200: _ONE},
    ),
    Route(
        method="PUT",
        path="/v1/sources/{id}",
        handler=put_source,
        summary="Create or replace a source",
        tag=TAG,
        scope="sources:write",
        body=SourceGiven,
        headers=(IF_MATCH,),
        answers={200: _ONE, 201: _MADE},
        problems=(400, 409, 412),
    ),
    Route(
        method="DELETE",
        path="/v1/sources/{id}",
        handler=delete_source,
        summary="Delete a source",
        tag=TAG,
        scope="sources:write",
        headers=(IF_MATCH,),
        answers={204: Answer(description="It is gone")},
        problems=(400, 412),
    ),
]
