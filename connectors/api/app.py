"""The dispatcher: from the table of routes to an aiohttp application.

For each request, in this order: an id, who calls, its rate, its scope, the query, the body, the handler; whatever goes
wrong is a problem document. What routes there are is in `table.py`; nothing can be reached that has no route.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import cache
from typing import Annotated, Any, get_args, get_origin

import msgspec
from aiohttp import web
from multidict import MultiMapping

from connectors.admin import ClusterError
from connectors.api import problems
from connectors.api.limits import CallRates, Policy, Verdict
from connectors.api.principal import Principal, challenge
from connectors.api.problems import Fault, ProblemError
from connectors.api.routes import Call, Reply, Route, Services
from connectors.pen import PenError
from schemas.errors import RegistryUnavailableError

log = logging.getLogger("connectors.api")

_ID = web.RequestKey("id", str)
_ACTOR = web.RequestKey("actor", str)
_RATE = web.RequestKey("rate", Verdict)
_DEADLINE = web.RequestKey("deadline", asyncio.Timeout)

REQUEST_ID = "X-Request-Id"
REQUEST_ID_LENGTH_MAX = 128
#: RFC 9110, 10.2.3, of an answer that says "not now".
RETRY_SECONDS = 1
_SECURITY = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class ApiConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`request_seconds`: what a request may take in all. `rate`: calls a second of one key, 0 for no limit.

    `monotonic` are seconds that never go back, `new_id` makes a text that nobody else has.
    """

    monotonic: Callable[[], float]
    new_id: Callable[[], str]
    request_seconds: float = 30.0
    rate: float = 100.0
    burst: int = 200


def make_app(routes: Sequence[Route], services: Services, config: ApiConfig) -> web.Application:
    """The application; the caller binds and runs it."""
    dispatcher = _Dispatcher(services, config)
    app = web.Application(middlewares=[dispatcher.answer], client_max_size=1 << 30)  # each route has its own bound
    for route in routes:
        handler = dispatcher.handler(route)
        app.router.add_route(route.method, route.path, handler)
        if route.method == "GET":
            app.router.add_route("HEAD", route.path, handler)
    for method, path, allowed in _shadowed(routes):
        app.router.add_route(method, path, _not_allowed(allowed))
    return app


def _shadowed(routes: Sequence[Route]) -> Iterator[tuple[str, str, set[str]]]:
    """Method, path and the methods that the path takes, where another route would take the path's last word for an
    id: `/things/search` takes POST, and `GET /things/{id}` is none of its methods."""
    taken: dict[str, set[str]] = {}
    for route in routes:
        taken.setdefault(route.path, set()).update({route.method, "HEAD"} if route.method == "GET" else {route.method})
    for path, methods in taken.items():
        if "{" in path:
            continue
        for other, more in taken.items():
            if "{" in other and re.fullmatch(re.sub(r"\{[^}]*\}", "[^/]+", other), path):
                yield from ((method, path, methods) for method in sorted(more - methods))


def _not_allowed(allowed: set[str]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def refuse(request: web.Request) -> web.StreamResponse:
        raise web.HTTPMethodNotAllowed(request.method, allowed)

    return refuse


_UNREADABLE = "the body is not what its Content-Encoding or Transfer-Encoding says; send it as it says, or without"


class _Dispatcher:
    def __init__(self, services: Services, config: ApiConfig) -> None:
        self._services = services
        self._config = config
        self._rates = CallRates(Policy(config.rate, config.burst))

    @web.middleware
    async def answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Every answer: with an id, in time, as a problem document when it is none of the route's."""
        start = self._config.monotonic()
        request_id = _given_id(request) or self._config.new_id()
        request[_ID] = request_id
        try:
            async with asyncio.timeout(self._config.request_seconds) as deadline:
                request[_DEADLINE] = deadline
                response = await handler(request)
        except ProblemError as error:
            response = _problem(request, error)
        except TimeoutError:
            response = _problem(request, _overdue(request))
        except (PenError, ClusterError, RegistryUnavailableError) as error:
            response = _problem(request, _later(str(error)))
        except web.HTTPException as error:  # of the router: no such path, no such method
            response = _problem(request, _of_router(error))
        except web.RequestPayloadError:
            response = _problem(request, ProblemError(400, _UNREADABLE))
            request.content.feed_eof()  # or aiohttp reads on, and logs what comes of it as an error of its own
            response.force_close()  # where the next request would begin is not known
        except Exception:
            log.exception("request %s failed", request_id)
            sentence = f"this is a defect; please report it with the request id {request_id}"
            response = _problem(request, ProblemError(500, sentence))
        if not response.prepared:
            response.headers[REQUEST_ID] = request_id
            for name, value in _SECURITY.items():
                response.headers.setdefault(name, value)
            verdict: Verdict | None = request.get(_RATE)
            if verdict is not None:
                response.headers.update(verdict.headers())
        took_ms = (self._config.monotonic() - start) * 1000
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else "-"
        actor = request.get(_ACTOR, "-")
        log.info("%s %s %s %.1f ms %s %s", request.method, path, response.status, took_ms, actor, request_id)
        return response

    def handler(self, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The route's, for aiohttp."""
        decoder = None if route.raw or route.body is None else msgspec.json.Decoder(route.body)

        async def handle(request: web.Request) -> web.StreamResponse:
            caller = await self._caller(request, route)
            params = _params(request, route)
            query = _query(request.query, route)
            body: Any = None
            if route.takes_body:
                body = _parts(request, route)
                if request.content_type not in route.in_parts:
                    content = b"".join([part async for part in body])
                    body = content if decoder is None else _decoded(decoder, content)
            call = Call(
                request=request,
                route=route,
                services=self._services,
                request_id=request[_ID],
                caller=caller,
                params=params,
                query=query,
                body=body,
            )
            if route.streams:
                request[_DEADLINE].reschedule(None)
            reply = await route.handler(call)
            return _response(reply) if isinstance(reply, Reply) else reply

        return handle

    async def _caller(self, request: web.Request, route: Route) -> Principal | None:
        caller = None
        name = f"from:{request.remote}"
        if route.scope is not None:
            try:
                caller = await self._services.authenticate(request)
            except ProblemError:
                self._limit(request, route, f"unknown {name}", 0.0)  # who guesses keys is slowed down as well
                raise
            request[_ACTOR] = caller.actor
            name = caller.caller
        self._limit(request, route, name, caller.rate if caller else 0.0)
        if caller is not None and route.scope not in caller.scopes:
            lacking = f"this key lacks the scope {route.scope}; use one that has it"
            raise ProblemError(403, lacking, headers=challenge("insufficient_scope", route.scope or ""))
        return caller

    def _limit(self, request: web.Request, route: Route, name: str, rate: float) -> None:
        if not route.limited:
            return
        verdict = self._rates.take(name, self._config.monotonic(), rate)
        if verdict is None:
            return
        request[_RATE] = verdict
        if not verdict.allowed:
            raise ProblemError(429, f"this key has made its calls; try again in {max(1, verdict.seconds)} s")


# --- reading ----------------------------------------------------------------------------------------------------------


def _given_id(request: web.Request) -> str | None:
    given = request.headers.get(REQUEST_ID, "")
    fit = given.isascii() and given.isprintable() and " " not in given
    return given if fit and 0 < len(given) <= REQUEST_ID_LENGTH_MAX else None


def _params(request: web.Request, route: Route) -> dict[str, str]:
    found = dict(request.match_info)
    for name, value in found.items():
        if not route.pattern(name).fullmatch(value):
            raise ProblemError(404, f"no {name} looks like this; it must match {route.pattern(name).pattern}")
    return found


def _query(given: MultiMapping[str], route: Route) -> Any:
    kind = route.query or _NoQuery
    lists = _lists(kind)
    values: dict[str, Any] = {}
    for name in given:
        found = given.getall(name)
        if name not in lists and len(found) > 1:
            raise _bad_query(f"?{name}", "stands there more than once")
        values[name] = found if name in lists else found[0]
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        sentence, pointer = _place(str(error))
        raise _bad_query(f"?{pointer.strip('/')}", sentence) from None


@cache
def _lists(kind: type[msgspec.Struct]) -> frozenset[str]:
    """The names that may stand in a query more than once. Kept: msgspec resolves all annotations for the answer."""
    return frozenset(each.encode_name for each in msgspec.structs.fields(kind) if get_origin(_bare(each.type)) is tuple)


def _bare(kind: Any) -> Any:
    """A type without what is said of it."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


class _NoQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Nothing may be asked."""


def _bad_query(path: str, detail: str) -> ProblemError:
    return ProblemError(400, f"the query is not understood: {detail}", errors=[Fault(path, detail)])


async def _parts(request: web.Request, route: Route) -> AsyncIterator[bytes]:
    """The body as it comes, within the route's bound. ProblemError 413 and 415."""
    expected = request.body_exists or route.body is not None
    if expected and request.content_type not in route.media and "*/*" not in route.media:
        raise ProblemError(415, f"the body must be {' or '.join(route.media)}; say so in Content-Type")
    too_large = ProblemError(413, f"the body is larger than {route.body_bytes_max} bytes; send less at once")
    if (request.content_length or 0) > route.body_bytes_max:
        raise too_large
    size = 0
    async for part in request.content.iter_any():
        size += len(part)
        if size > route.body_bytes_max:
            raise too_large
        yield part


def _decoded(decoder: msgspec.json.Decoder[Any], content: bytes) -> Any:
    try:
        return decoder.decode(content)
    except msgspec.ValidationError as error:
        sentence, pointer = _place(str(error))
        raise ProblemError(422, f"the body does not fit: {sentence}", errors=[Fault(pointer, sentence)]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError(400, f"the body is not JSON: {error}") from None


def _place(message: str) -> tuple[str, str]:
    """msgspec's message as (sentence, JSON pointer): it ends with " - at `$.a[0].b`" when the place is not the top."""
    sentence, found, place = message.partition(" - at `")
    if not found:
        return sentence, ""
    path = place.rstrip("`").removeprefix("$").replace("[", ".").replace("]", "")
    return sentence, path.replace("~", "~0").replace("/", "~1").replace(".", "/")


# --- answering --------------------------------------------------------------------------------------------------------


def _response(reply: Reply) -> web.Response:
    if reply.document is None:
        return web.Response(status=reply.status, headers=reply.headers)
    raw = isinstance(reply.document, bytes)
    content = reply.document if raw else msgspec.json.encode(reply.document)
    response = web.Response(body=content, status=reply.status, headers=reply.headers)
    response.content_type = reply.media
    if reply.media.startswith("text/"):
        response.charset = "utf-8"
    return response


def _problem(request: web.Request, error: ProblemError) -> web.Response:
    document = error.document(request.path, request[_ID])
    response = web.Response(body=msgspec.json.encode(document), status=error.status, headers=error.headers)
    response.content_type = problems.MEDIA_TYPE
    return response


def _later(detail: str) -> ProblemError:
    return ProblemError(503, detail, headers={"Retry-After": str(RETRY_SECONDS)})


def _overdue(request: web.Request) -> ProblemError:
    if not request.content.at_eof() and request.body_exists:
        return ProblemError(408, "the body did not arrive in time; send it again")
    return _later("the request took too long, and what it asked for may have been done; look before you repeat it")


def _of_router(error: web.HTTPException) -> ProblemError:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return ProblemError(405, f"this path takes {allowed}", headers={"Allow": allowed})
    if error.status == 404:
        return ProblemError(404, "there is no such path; see /v1/openapi.json for those that exist")
    return ProblemError(error.status, error.reason)
