"""A folder registry over HTTP: the part of Confluent's REST API that serializers and deserializers use.

The registry of `distributary dev` and of tests with foreign producers. It checks no compatibility, deletes
nothing and asks for no credentials: bind it to 127.0.0.1.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from connectors.registry import Entry, FolderRegistry
from schemas import codec
from schemas.errors import RegistryUnavailableError, UnknownSchemaError

_CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
_REGISTRY = web.AppKey("registry", FolderRegistry)

BODY_BYTES_MAX = 4 << 20


class _Asked(msgspec.Struct):
    """The body that registers or looks up a schema; other fields belong to features that are not here."""

    schema: str
    schemaType: str = "AVRO"  # noqa: N815 - the API's spelling
    references: list[Any] | None = None


class _RefusedError(Exception):
    """An answer with an error document: Confluent's code, whose first three digits are the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def registry_app(registry: FolderRegistry) -> web.Application:
    """The application; the caller binds and runs it."""
    app = web.Application(middlewares=[_error_documents], client_max_size=BODY_BYTES_MAX)
    app[_REGISTRY] = registry
    app.add_routes(
        [
            web.get("/", _root),
            web.get("/config", _config),
            web.get("/schemas/types", _types),
            web.get("/schemas/ids/{id}", _schema),
            web.get("/schemas/ids/{id}/versions", _schema_versions),
            web.get("/subjects", _subjects),
            web.post("/subjects/{subject}", _lookup),
            web.get("/subjects/{subject}/versions", _versions),
            web.post("/subjects/{subject}/versions", _register),
            web.get("/subjects/{subject}/versions/{version}", _version),
        ]
    )
    return app


def _answer(document: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), status=status, content_type=_CONTENT_TYPE)


@web.middleware
async def _error_documents(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except _RefusedError as error:
        code, message = error.code, str(error)
    except RegistryUnavailableError as error:
        code, message = 50001, str(error)
    except web.HTTPException as error:
        code, message = error.status, f"HTTP {error.status} {error.reason}"
    return _answer({"error_code": code, "message": message}, status=int(str(code)[:3]))


async def _root(_: web.Request) -> web.Response:
    return _answer({})


async def _config(_: web.Request) -> web.Response:
    return _answer({"compatibilityLevel": "NONE"})


async def _types(_: web.Request) -> web.Response:
    return _answer(["AVRO"])


async def _schema(request: web.Request) -> web.Response:
    return _answer({"schema": await _text(request)})


async def _schema_versions(request: web.Request) -> web.Response:
    schema_id = codec.content_id(await _text(request))
    entries = request.app[_REGISTRY].entries()
    return _answer([{"subject": e.subject, "version": e.version} for e in entries if e.id == schema_id])


async def _text(request: web.Request) -> str:
    given = request.match_info["id"]
    try:
        return await request.app[_REGISTRY].schema(int(given))
    except (ValueError, UnknownSchemaError):
        raise _RefusedError(40403, f"Schema {given} not found") from None


async def _subjects(request: web.Request) -> web.Response:
    registry = request.app[_REGISTRY]
    await registry.refresh()
    return _answer(registry.subjects())


async def _versions(request: web.Request) -> web.Response:
    return _answer([entry.version for entry in await _entries(request)])


async def _version(request: web.Request) -> web.Response:
    given = request.match_info["version"]
    entries = await _entries(request)
    if given in ("latest", "-1"):
        return _answer(_full(entries[-1]))
    if not given.isdecimal() or int(given) == 0:
        raise _RefusedError(42202, f"The specified version '{given}' is not a valid version id")
    for entry in entries:
        if entry.version == int(given):
            return _answer(_full(entry))
    raise _RefusedError(40402, f"Version {given} not found")


async def _lookup(request: web.Request) -> web.Response:
    schema_id = codec.content_id((await _asked(request)).schema)
    for entry in await _entries(request):
        if entry.id == schema_id:
            return _answer(_full(entry))
    raise _RefusedError(40403, "Schema not found")


async def _register(request: web.Request) -> web.Response:
    asked = await _asked(request)
    try:
        schema_id = await request.app[_REGISTRY].register(request.match_info["subject"], asked.schema)
    except ValueError as error:
        raise _RefusedError(42205, str(error)) from None
    return _answer({"id": schema_id})


async def _entries(request: web.Request) -> list[Entry]:
    """The versions of the subject that the path names, at least one."""
    registry, subject = request.app[_REGISTRY], request.match_info["subject"]
    await registry.refresh()
    entries = registry.versions(subject)
    if not entries:
        raise _RefusedError(40401, f"Subject '{subject}' not found")
    return entries


async def _asked(request: web.Request) -> _Asked:
    try:
        asked = msgspec.json.decode(await request.read(), type=_Asked)
    except msgspec.MsgspecError as error:
        raise _RefusedError(422, f"not a schema registry request: {error}") from None
    if asked.schemaType != "AVRO" or asked.references:
        raise _RefusedError(42201, "only Avro schemas without references are supported")
    try:
        codec.parse_schema(asked.schema)
    except ValueError as error:
        raise _RefusedError(42201, str(error)) from None
    return asked


def _full(entry: Entry) -> dict[str, object]:
    return {"subject": entry.subject, "id": entry.id, "version": entry.version, "schema": entry.schema}
