"""A schema registry over HTTP: the part of Confluent's REST API that serializers, deserializers and tools use.

One layer for both stores: a folder (`distributary dev`, tests) and a topic (`distributary registry`). Paths, answers
and error codes are those of Confluent's registry, checked with its Python client. Not here: contexts, modes other than
asking for them, rules, metadata, other languages than Avro. The store decides; this file only speaks HTTP.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from connectors import registry_rules as rules
from connectors.registry_rules import Asked, RefusedError
from connectors.registry_state import Entry, State
from schemas.errors import RegistryUnavailableError

_CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"

_T = TypeVar("_T")

BODY_BYTES_MAX = 4 << 20
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Store(Protocol):
    """What is served. Everything may raise RefusedError and RegistryUnavailableError."""

    async def current(self) -> State:
        """What is held now; not to be changed."""

    async def of_id(self, schema_id: int) -> list[Entry]:
        """Every version with this id, softly deleted ones too."""

    async def register_asked(self, subject: str, asked: Asked) -> Entry:
        """The version of the subject with this schema, new or existing."""

    async def delete_version(self, subject: str, version: str, *, permanent: bool) -> int:
        """Its number."""

    async def delete_subject(self, subject: str, *, permanent: bool) -> list[int]:
        """The numbers of its versions."""

    async def set_level(self, subject: str | None, level: str) -> str:
        """Of a subject, or of all."""

    async def clear_level(self, subject: str | None) -> str:
        """The level that was in force."""


_STORE: web.AppKey[Store] = web.AppKey("store", Store)


class _Level(msgspec.Struct):
    compatibility: str


def registry_app(store: Store, credentials: str | None = None) -> web.Application:
    """The application; the caller binds and runs it. `credentials` are `user:password`, asked for with basic auth."""
    checks: list[Any] = [_error_documents] + ([_authenticated(credentials)] if credentials else [])
    app = web.Application(middlewares=checks, client_max_size=BODY_BYTES_MAX)
    app[_STORE] = store
    version = "/subjects/{subject}/versions/{version}"
    app.add_routes(
        [
            web.get("/", _root),
            web.get("/schemas/types", _types),
            web.get("/schemas/ids/{id}", _schema),
            web.get("/schemas/ids/{id}/schema", _schema_text),
            web.get("/schemas/ids/{id}/versions", _schema_versions),
            web.get("/schemas/ids/{id}/subjects", _schema_subjects),
            web.get("/subjects", _subjects),
            web.post("/subjects/{subject}", _look_up),
            web.delete("/subjects/{subject}", _delete_subject),
            web.get("/subjects/{subject}/versions", _versions),
            web.post("/subjects/{subject}/versions", _register),
            web.get(version, _version),
            web.delete(version, _delete_version),
            web.get(f"{version}/schema", _version_text),
            web.get(f"{version}/referencedby", _referred_to_by),
            web.post("/compatibility/subjects/{subject}/versions", _compatible),
            web.post("/compatibility/subjects/{subject}/versions/{version}", _compatible),
            web.get("/config", _level),
            web.put("/config", _set_level),
            web.delete("/config", _clear_level),
            web.get("/config/{subject}", _level),
            web.put("/config/{subject}", _set_level),
            web.delete("/config/{subject}", _clear_level),
            web.get("/mode", _mode),
            web.get("/mode/{subject}", _mode),
        ]
    )
    return app


def _answer(document: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), status=status, content_type=_CONTENT_TYPE)


@web.middleware
async def _error_documents(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RefusedError as error:
        code, message = error.code, str(error)
    except RegistryUnavailableError as error:
        code, message = rules.STORE_FAILED, str(error)
    except web.HTTPException as error:
        code, message = error.status, f"HTTP {error.status} {error.reason}"
    response = _answer({"error_code": code, "message": message}, status=int(str(code)[:3]))
    if response.status == 401:
        response.headers["WWW-Authenticate"] = 'Basic realm="schema registry"'
    return response


def _authenticated(credentials: str) -> Callable[[web.Request, _Handler], Awaitable[web.StreamResponse]]:
    expected = credentials.encode()

    @web.middleware
    async def check(request: web.Request, handler: _Handler) -> web.StreamResponse:
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        try:
            decoded = base64.b64decode(given, validate=True) if kind.lower() == "basic" else b""
        except (binascii.Error, ValueError):
            decoded = b""
        if not hmac.compare_digest(decoded, expected):
            raise RefusedError(401, "Unauthorized")
        return await handler(request)

    return check


# --- what a request says ----------------------------------------------------------------------------------------------


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name, "").lower() == "true"


def _page(request: web.Request, items: list[_T]) -> list[_T]:
    """The part of a list that `offset` and `limit` ask for; a negative limit is none."""
    try:
        offset, limit = (int(request.query.get(name, default)) for name, default in (("offset", "0"), ("limit", "-1")))
    except ValueError:
        raise RefusedError(422, "offset and limit are numbers") from None
    first = max(0, offset)
    return items[first : first + limit] if limit >= 0 else items[first:]


async def _body(request: web.Request, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.MsgspecError as error:
        raise RefusedError(422, f"not a schema registry request: {error}") from None


async def _state(request: web.Request) -> State:
    return await request.app[_STORE].current()


def _subject(request: web.Request) -> str:
    return request.match_info["subject"]


# --- schemas by id ----------------------------------------------------------------------------------------------------


async def _root(_: web.Request) -> web.Response:
    return _answer({})


async def _types(_: web.Request) -> web.Response:
    return _answer(["AVRO"])


async def _of_id(request: web.Request) -> list[Entry]:
    """The versions with the id of the path, at least one."""
    given = request.match_info["id"]
    number = int(given) if given.isascii() and given.isdecimal() and len(given) < 12 else 0
    if not (found := await request.app[_STORE].of_id(number)):
        raise RefusedError(rules.NO_SCHEMA, f"Schema {given} not found")
    return found


async def _schema(request: web.Request) -> web.Response:
    entry = (await _of_id(request))[0]
    return _answer({"schema": entry.schema} | _kind(entry))


async def _schema_text(request: web.Request) -> web.Response:
    return web.Response(text=(await _of_id(request))[0].schema, content_type=_CONTENT_TYPE)


async def _schema_versions(request: web.Request) -> web.Response:
    held = [{"subject": e.subject, "version": e.version} for e in await _shown_of_id(request)]
    return _answer(_page(request, held))


async def _schema_subjects(request: web.Request) -> web.Response:
    return _answer(_page(request, sorted({entry.subject for entry in await _shown_of_id(request)})))


async def _shown_of_id(request: web.Request) -> list[Entry]:
    wanted, deleted = request.query.get("subject"), _flag(request, "deleted")
    return [e for e in await _of_id(request) if (deleted or not e.deleted) and wanted in (None, e.subject)]


# --- subjects and versions --------------------------------------------------------------------------------------------


async def _subjects(request: web.Request) -> web.Response:
    state, prefix = await _state(request), request.query.get("subjectPrefix", "")
    names = state.subjects(deleted=_flag(request, "deleted") or _only_deleted(request))
    if _only_deleted(request):
        names = [name for name in names if not state.versions(name)]
    return _answer(_page(request, [name for name in names if name.startswith(prefix)]))


def _only_deleted(request: web.Request) -> bool:
    # Confluent's Python client says `deleted_only`, its server `deletedOnly`.
    return _flag(request, "deletedOnly") or _flag(request, "deleted_only")


async def _versions(request: web.Request) -> web.Response:
    only = _only_deleted(request)
    held = rules.existing(await _state(request), _subject(request), deleted=only or _flag(request, "deleted"))
    return _answer(_page(request, [entry.version for entry in held if entry.deleted or not only]))


async def _found_version(request: web.Request, *, deleted: bool) -> Entry:
    state, subject, given = await _state(request), _subject(request), request.match_info["version"]
    number = rules.version_number(given)
    rules.existing(state, subject, deleted=deleted)
    entry = state.newest(subject) if number == -1 else state.entry(subject, number, deleted=deleted)
    if entry is None:
        raise RefusedError(rules.NO_VERSION, f"Version {given} not found")
    return entry


async def _version(request: web.Request) -> web.Response:
    return _answer(_full(await _found_version(request, deleted=_flag(request, "deleted"))))


async def _version_text(request: web.Request) -> web.Response:
    entry = await _found_version(request, deleted=_flag(request, "deleted"))
    return web.Response(text=entry.schema, content_type=_CONTENT_TYPE)


async def _referred_to_by(request: web.Request) -> web.Response:
    entry = await _found_version(request, deleted=True)
    referring = (await _state(request)).referring(entry.subject, entry.version, deleted=_flag(request, "deleted"))
    return _answer(_page(request, sorted({one.id for one in referring})))


async def _look_up(request: web.Request) -> web.Response:
    asked = await _body(request, Asked)
    deleted = _flag(request, "deleted")
    return _answer(_full(rules.look_up(await _state(request), _subject(request), asked, deleted=deleted)))


async def _register(request: web.Request) -> web.Response:
    entry = await request.app[_STORE].register_asked(_subject(request), await _body(request, Asked))
    return _answer({"id": entry.id, "version": entry.version, "schema": entry.schema} | _kind(entry))


async def _delete_version(request: web.Request) -> web.Response:
    given, permanent = request.match_info["version"], _flag(request, "permanent")
    return _answer(await request.app[_STORE].delete_version(_subject(request), given, permanent=permanent))


async def _delete_subject(request: web.Request) -> web.Response:
    permanent = _flag(request, "permanent")
    return _answer(await request.app[_STORE].delete_subject(_subject(request), permanent=permanent))


def _full(entry: Entry) -> dict[str, object]:
    held: dict[str, object] = {"subject": entry.subject, "id": entry.id, "version": entry.version}
    return held | {"schema": entry.schema} | _kind(entry)


def _kind(entry: Entry) -> dict[str, object]:
    """Language and references, left out where they say nothing, as Confluent's registry does."""
    said: dict[str, object] = {} if entry.type == "AVRO" else {"schemaType": entry.type}
    return said | ({"references": entry.references} if entry.references else {})


# --- compatibility and modes ------------------------------------------------------------------------------------------


async def _compatible(request: web.Request) -> web.Response:
    asked, version = await _body(request, Asked), request.match_info.get("version")
    problems = rules.compatible(await _state(request), _subject(request), asked, version)
    verdict: dict[str, object] = {"is_compatible": not problems}
    return _answer(verdict | ({"messages": problems} if _flag(request, "verbose") else {}))


def _scope(request: web.Request) -> str | None:
    return request.match_info.get("subject")


async def _level(request: web.Request) -> web.Response:
    state, scope = await _state(request), _scope(request)
    own = "compatibilityLevel" in state.configs.get(scope, {})
    if scope is not None and not own and not _flag(request, "defaultToGlobal"):
        raise RefusedError(
            rules.NO_OWN_LEVEL, f"Subject '{scope}' does not have subject-level compatibility configured"
        )
    return _answer({"compatibilityLevel": state.level(scope)})


async def _set_level(request: web.Request) -> web.Response:
    try:
        wanted = await _body(request, _Level)
    except RefusedError:
        raise RefusedError(rules.BAD_LEVEL, "Invalid compatibility level") from None
    level = await request.app[_STORE].set_level(_scope(request), wanted.compatibility.upper())
    return _answer({"compatibility": level})


async def _clear_level(request: web.Request) -> web.Response:
    return _answer({"compatibilityLevel": await request.app[_STORE].clear_level(_scope(request))})


async def _mode(request: web.Request) -> web.Response:
    state, scope = await _state(request), _scope(request)
    if scope is not None and scope not in state.modes and not _flag(request, "defaultToGlobal"):
        raise RefusedError(rules.NO_OWN_MODE, f"Subject '{scope}' does not have subject-level mode configured")
    return _answer({"mode": state.mode(scope)})
