"""Event types: /v1/event-types.

One list for the whole installation: whoever may read subscriptions reads it, operators write it. The newest version of
the schema that a type names is what its events' data must fit (`event_checks.py`).
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import orjson
from msgspec import UNSET, Meta, UnsetType

from connectors.api.control import Control
from connectors.api.cursors import LIMIT_MAX, cursor, position
from connectors.api.event_checks import Registry
from connectors.api.preconditions import ETAG, IF_MATCH, IF_NONE_MATCH, etag, require_absent, require_match
from connectors.api.problems import ProblemError, invalid, not_found
from connectors.api.routes import Answer, Call, Header, Reply, Route
from connectors.event_types import EventTypeTable
from schemas.errors import UnknownSchemaError
from schemas.event_type import (
    DESCRIPTION_CHARACTERS_MAX,
    GROUP_CHARACTERS_MAX,
    SUBJECT_CHARACTERS_MAX,
    EventType,
    InvalidEventTypeError,
    checked_type,
)
from schemas.frame import Out
from schemas.operation_types import is_operation_type
from schemas.subjects import LATEST
from schemas.subscription import EVENT_TYPE_PATTERN

KIND = "event_type"
#: Event types that there may be.
TYPES_MAX = 10_000
NAME_PATTERN = re.compile(EVENT_TYPE_PATTERN.pattern.replace("(", "(?:"))


class Catalogue:
    """A service: the table of event types, and how one is written."""

    def __init__(
        self,
        table: EventTypeTable,
        topic: str,
        encode: Callable[[EventType], bytes],
        registry: Registry,
        *,
        operations: Sequence[EventType],
        operator_tenant: str,
    ) -> None:
        """`operations` are listed too, by name, to operators and to their tenant; nobody changes them."""
        self._operations = operations
        self._operator_tenant = operator_tenant
        self.table = table
        self.topic = topic
        self.encode = encode
        self.registry = registry

    def get(self, call: Call) -> EventType | None:
        """That of the path, as far as who calls may know of it."""
        name = call.params["name"]
        return next((each for each in self._shown_operations(call) if each.name == name), None) or self.table.get(name)

    def after(self, call: Call, name: str | None) -> Iterator[EventType]:
        """By name, from the one behind this on."""
        own = [each for each in self._shown_operations(call) if name is None or each.name > name]
        names = {each.name for each in own}
        described = (each for each in self.table.after(name) if each.name not in names)
        return heapq.merge(own, described, key=lambda each: each.name)

    def _shown_operations(self, call: Call) -> Sequence[EventType]:
        return self._operations if call.principal.tenant in (None, self._operator_tenant) else ()

    def written(self, event_type: EventType) -> Out:
        """Its record."""
        return (self.topic, event_type.name.encode(), self.encode(event_type), -1, None)


class EventTypeGiven(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is said of an event type. `schema` is a subject of the registry; `example` is data as it is published."""

    description: Annotated[str, Meta(max_length=DESCRIPTION_CHARACTERS_MAX)] = ""
    group: Annotated[str, Meta(max_length=GROUP_CHARACTERS_MAX, description="What it is listed under")] = ""
    schema: Annotated[str, Meta(max_length=SUBJECT_CHARACTERS_MAX)] = ""
    example: msgspec.Raw | UnsetType = UNSET
    deprecated: bool = False


class EventTypeView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An event type. `example` is missing where there is none."""

    name: str
    description: str
    group: str
    schema: str
    deprecated: bool
    created_ms: int
    updated_ms: int
    example: msgspec.Raw | UnsetType = UNSET


class EventTypePage(msgspec.Struct, kw_only=True):
    """A page, by name; `next` is the cursor of the next one, null on the last."""

    items: list[EventTypeView]
    next: str | None


class EventTypeQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a list is narrowed to."""

    group: Annotated[str | None, Meta(description="Of this group only")] = None
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX, description="At most so many on a page")] = 100
    cursor: Annotated[str | None, Meta(description="Where the page begins: `next` of the page before")] = None


async def list_event_types(call: Call) -> Reply:
    """A page of them."""
    query = call.query
    last: Any = position(query.cursor, tuple[str])
    items: list[EventTypeView] = []
    following = None
    for each in call.get(Catalogue).after(call, last[0] if last else None):
        if len(items) == query.limit:
            following = cursor(items[-1].name)
            break
        if query.group in (None, each.group):
            items.append(_view(each))
    return Reply(EventTypePage(items=items, next=following))


async def get_event_type(call: Call) -> Reply:
    """One of them."""
    return _shown(call, _found(call))


async def put_event_type(call: Call) -> Reply:
    """All of it: what is not sent gets its default."""
    _operator(call)
    control, catalogue, name = call.get(Control), call.get(Catalogue), call.params["name"]
    body: EventTypeGiven = call.body
    await _check_schema(catalogue, body.schema)
    example = "" if isinstance(body.example, UnsetType) else _text(body.example)
    created = False

    def decide() -> list[Out]:
        nonlocal created
        before = catalogue.table.get(name)
        created = before is None
        require_absent(call, there=before is not None)
        if before is not None:
            require_match(call, etag(catalogue.table.offset_of(name)), needed=False)
        elif len(catalogue.table) >= TYPES_MAX:
            raise ProblemError(409, f"there are {TYPES_MAX} event types already; delete those that nobody uses")
        now_ms = control.now_ms()
        try:
            after = checked_type(
                EventType(
                    name=name,
                    description=body.description,
                    group=body.group,
                    schema=body.schema,
                    example=example,
                    deprecated=body.deprecated,
                    created_ms=now_ms if before is None else before.created_ms,
                    updated_ms=now_ms,
                )
            )
        except InvalidEventTypeError as error:
            raise invalid(str(error), f"/{str(error).partition(':')[0]}") from None
        action = f"{KIND}.created" if before is None else f"{KIND}.replaced"
        return [catalogue.written(after), control.audit(call, action, KIND, name, None, before, after)]

    await control.change(decide, about=(KIND, name))
    return _shown(call, _found(call), 201 if created else 200)


async def delete_event_type(call: Call) -> Reply:
    """It is not described any more; events and subscriptions stay as they are."""
    _operator(call)
    control, catalogue, name = call.get(Control), call.get(Catalogue), call.params["name"]

    def decide() -> list[Out]:
        before = _found(call)
        require_match(call, etag(catalogue.table.offset_of(name)), needed=False)
        audit = control.audit(call, f"{KIND}.deleted", KIND, name, None, before, None)
        return [(catalogue.topic, name.encode(), None, -1, None), audit]

    await control.change(decide, about=(KIND, name))
    return Reply(status=204)


def _operator(call: Call) -> None:
    if call.principal.tenant is not None:
        raise ProblemError(403, "event types are for all tenants; an operator's key changes them")
    if is_operation_type(call.params["name"]):
        raise ProblemError(409, f"{call.params['name']} is what operators are told of; nobody changes it")


def _found(call: Call) -> EventType:
    found = call.get(Catalogue).get(call)
    if found is None:
        raise not_found(f"event type {call.params['name']}")
    return found


async def _check_schema(catalogue: Catalogue, subject: str) -> None:
    if subject:
        try:
            await catalogue.registry.version(subject, LATEST)
        except UnknownSchemaError as error:
            raise invalid(f"schema: {error}", "/schema") from None


def _text(example: msgspec.Raw) -> str:
    try:
        return orjson.dumps(orjson.loads(bytes(example))).decode()
    except orjson.JSONDecodeError as error:
        raise invalid(f"example: is not JSON: {error}", "/example") from None


def _view(each: EventType) -> EventTypeView:
    return EventTypeView(
        name=each.name,
        description=each.description,
        group=each.group,
        schema=each.schema,
        deprecated=each.deprecated,
        created_ms=each.created_ms,
        updated_ms=each.updated_ms,
        example=msgspec.Raw(each.example.encode()) if each.example else UNSET,
    )


def _shown(call: Call, each: EventType, status: int = 200) -> Reply:
    offset = call.get(Catalogue).table.offset_of(each.name)
    headers = {"ETag": etag(offset or 0)}  # of ours there is no record: nobody changes them
    if status == 201:
        headers["Location"] = f"/v1/event-types/{quote(each.name, safe='')}"  # it may hold a slash
    return Reply(_view(each), status, headers)


TAG = "event types"
_PARAMS = {"name": NAME_PATTERN}
_ONE = Answer(type=EventTypeView, description="The event type", headers=(ETAG,))
_MADE = Answer(type=EventTypeView, description="The new event type", headers=(ETAG, Header("Location", "Where it is")))
ROUTES = [
    Route(
        method="GET",
        path="/v1/event-types",
        handler=list_event_types,
        summary="List event types, by name",
        tag=TAG,
        scope="subscriptions:read",
        query=EventTypeQuery,
        answers={200: Answer(type=EventTypePage, description="A page")},
    ),
    Route(
        method="GET",
        path="/v1/event-types/{name}",
        handler=get_event_type,
        summary="One event type",
        tag=TAG,
        scope="subscriptions:read",
        params=_PARAMS,
        answers={200: _ONE},
    ),
    Route(
        method="PUT",
        path="/v1/event-types/{name}",
        handler=put_event_type,
        summary="Create or replace an event type; for operators",
        tag=TAG,
        scope="events:write",
        params=_PARAMS,
        body=EventTypeGiven,
        headers=(IF_MATCH, IF_NONE_MATCH),
        answers={200: _ONE, 201: _MADE},
        problems=(409, 412),
    ),
    Route(
        method="DELETE",
        path="/v1/event-types/{name}",
        handler=delete_event_type,
        summary="Delete an event type; for operators",
        tag=TAG,
        scope="events:write",
        params=_PARAMS,
        headers=(IF_MATCH,),
        answers={204: Answer(description="It is gone")},
        problems=(400, 409, 412),
    ),
]
