"""The words of the API's frame: a route as data, the call that a handler gets, the reply that it gives.

The dispatcher (`app.py`) and the OpenAPI document (`openapi.py`) are both made from routes, so what is validated is
what is documented. This file does no HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeVar

import msgspec
from aiohttp import web

from connectors.api.principal import Authenticate, Principal, Scope
from connectors.api.problems import ProblemError
from schemas.subscription import ID_PATTERN

T = TypeVar("T")

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
JSON = "application/json"
BODY_BYTES_MAX = 256 << 10


class Header(msgspec.Struct, frozen=True):
    """A header of a request or an answer. `pattern` is what its value looks like."""

    name: str
    description: str
    required: bool = False
    pattern: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A success: `type` is that of its JSON document, None for no body; or a text in another media type."""

    type: Any = None
    description: str
    headers: tuple[Header, ...] = ()
    media: str = JSON


class Reply(msgspec.Struct, frozen=True):
    """What a handler answers: a document for msgspec to write (None: no body), or bytes as they are."""

    document: Any = None
    status: int = 200
    headers: Mapping[str, str] = {}
    media: str = JSON


Handler = Callable[["Call"], Awaitable["Reply | web.StreamResponse"]]


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path.

    `scope` None: anybody may. `body`: the type of its JSON; with `raw` the handler gets the bytes and decodes them
    itself, and the type is for the document only; of media that are `in_parts`, it gets the bytes as they come.
    `query`: a Struct that forbids unknown fields, all with defaults.
    `params`: what a parameter of the path looks like, an id where nothing is said. `problems`: the statuses besides
    those that the frame itself gives. `limited` False: not counted against the caller's rate.
    `streams`: the answer goes on for as long as its handler wants, whatever time a request may take.
    """

    method: Method
    path: str
    handler: Handler
    summary: str
    tag: str
    scope: Scope | None
    answers: Mapping[int, Answer]
    description: str = ""
    body: Any = None
    raw: bool = False
    media: tuple[str, ...] = (JSON,)
    in_parts: tuple[str, ...] = ()
    body_bytes_max: int = BODY_BYTES_MAX
    query: type[msgspec.Struct] | None = None
    params: Mapping[str, re.Pattern[str]] = {}
    headers: tuple[Header, ...] = ()
    problems: tuple[int, ...] = ()
    limited: bool = True
    streams: bool = False

    @property
    def name(self) -> str:
        """Unique, for the document's operationId: the handler's."""
        return f"{self.tag}.{getattr(self.handler, '__name__', '')}".strip("_").replace("._", ".")

    @property
    def path_names(self) -> list[str]:
        """The names of the path's parameters, in order."""
        return re.findall(r"\{(\w+)\}", self.path)

    def pattern(self, name: str) -> re.Pattern[str]:
        """What this parameter of the path looks like."""
        return self.params.get(name, ID_PATTERN)

    @property
    def takes_body(self) -> bool:
        return self.body is not None or self.raw

    def problem_statuses(self) -> list[int]:
        """Every status that is no success, ascending: the route's own, and what the frame may answer."""
        found = {500, 503, *self.problems}
        if self.scope is not None:
            found |= {401, 403}
        if self.limited:
            found.add(429)
        if self.query is not None or self.takes_body:
            found.add(400)
        if self.takes_body:
            found |= {408, 413, 415}
        if self.body is not None:
            found.add(422)
        if self.path_names:
            found.add(404)
        return sorted(found)


class Services:
    """What handlers need, each by its type; made by the composition root."""

    def __init__(self, authenticate: Authenticate, *things: object) -> None:
        self.authenticate = authenticate
        self._things = {type(thing): thing for thing in things}

    def get(self, kind: type[T]) -> T:
        """The one of this type. LookupError when the composition root gave none."""
        found = self._things.get(kind)
        if found is None:
            raise LookupError(f"the API was made without a {kind.__name__}")
        assert isinstance(found, kind)
        return found


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request, read and validated. `body` has the route's type, or is bytes, or an async iterator of their parts;
    `query` has the route's type."""

    request: web.Request
    route: Route
    services: Services
    request_id: str
    caller: Principal | None
    params: Mapping[str, str]
    query: Any = None
    body: Any = None

    @property
    def principal(self) -> Principal:
        """Who calls; only of a route with a scope."""
        assert self.caller is not None, "a route without a scope has no principal"
        return self.caller

    def get(self, kind: type[T]) -> T:
        """A service."""
        return self.services.get(kind)

    def header(self, name: str) -> str | None:
        """A header of the request. ProblemError 400 when it stands there twice."""
        found = self.request.headers.getall(name, [])
        if len(found) > 1:
            raise ProblemError(400, f"the header {name} stands there {len(found)} times; send it once")
        return found[0] if found else None
