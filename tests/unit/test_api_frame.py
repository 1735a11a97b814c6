"""The frame of the HTTP API: what is validated, refused and documented, with routes that the tests make up."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import jsonschema
import msgspec
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer
from msgspec import Meta

from connectors.admin import ClusterError
from connectors.api.app import ApiConfig, make_app
from connectors.api.openapi import openapi
from connectors.api.principal import FixedKeys, Principal
from connectors.api.problems import ProblemError
from connectors.api.routes import Answer, Call, Reply, Route, Services
from connectors.api.table import ROUTES
from connectors.memory import ManualClock
from schemas.errors import RegistryUnavailableError

KEY = {"Authorization": "Bearer k-acme"}
ACME = Principal(actor="key:acme", tenant="acme", scopes=frozenset({"subscriptions:read"}))


class Thing(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(max_length=5)]
    sizes: list[int] = []


class Query(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1)] = 7
    tag: Annotated[tuple[str, ...], Meta(description="Several")] = ()


class Shelf:
    """A service of these routes."""

    def __init__(self) -> None:
        self.put = 0
        self.gate = asyncio.Event()


async def put_thing(call: Call) -> Reply:
    call.get(Shelf).put += 1
    said = {"name": call.body.name, "tenant": call.principal.tenant, "if": call.header("If-Match")}
    return Reply(said, status=201, headers={"Location": f"/things/{call.params['id']}"})


async def list_things(call: Call) -> Reply:
    return Reply({"limit": call.query.limit, "tag": call.query.tag})


async def take_raw(call: Call) -> Reply:
    return Reply(call.body, media="text/plain")


async def fail(call: Call) -> Reply:
    raise KeyError("a secret that nobody must see")


async def wait(call: Call) -> Reply:
    await call.get(Shelf).gate.wait()
    return Reply(None, status=204)


async def away(_: Call) -> Reply:
    raise RegistryUnavailableError("the registry does not answer")


async def off(_: Call) -> Reply:
    raise ClusterError("Kafka does not answer")


def route(**given: Any) -> Route:
    defaults: dict[str, Any] = {"summary": "It does", "tag": "things", "scope": None, "answers": {}, "limited": False}
    return Route(**(defaults | given))


THINGS = [
    route(
        method="PUT",
        path="/things/{id}",
        handler=put_thing,
        scope="subscriptions:read",
        body=Thing,
        answers={201: Answer(type=Thing, description="Put")},
        limited=True,
    ),
    route(method="GET", path="/things", handler=list_things, query=Query, answers={200: Answer(description="Listed")}),
    route(method="POST", path="/things/search", handler=list_things),
    route(method="POST", path="/raw", handler=take_raw, raw=True, media=("*/*",), body_bytes_max=10),
    route(method="GET", path="/fail", handler=fail),
    route(method="GET", path="/wait", handler=wait),
    route(method="POST", path="/slow", handler=take_raw, raw=True, media=("*/*",)),
    route(method="GET", path="/away", handler=away),
    route(method="GET", path="/off", handler=off),
    route(method="GET", path="/secret", handler=list_things, scope="keys:read"),
]


class Api:
    """The running application."""

    def __init__(self, session: ClientSession, url: str, shelf: Shelf, clock: ManualClock) -> None:
        self.session, self.url, self.shelf, self.clock = session, url, shelf, clock

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any, Any]:
        async with self.session.request(method, self.url + path, **options) as response:
            content = await response.read()
            document: Any = json.loads(content) if content and "json" in response.content_type else content
            if response.status >= 400:
                assert response.content_type == "application/problem+json"
                assert document["status"] == response.status
                assert document["request_id"] == response.headers["X-Request-Id"]
            return response.status, document, response.headers

    async def refused(self, method: str, path: str, status: int, **options: Any) -> Any:
        got, document, _ = await self.ask(method, path, **options)
        assert got == status, document
        return document


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    clock, shelf = ManualClock(), Shelf()
    ids = itertools.count()
    config = ApiConfig(
        monotonic=clock.monotonic, new_id=lambda: f"r{next(ids)}", request_seconds=0.2, rate=1.0, burst=3
    )
    services = Services(FixedKeys({"k-acme": ACME}), shelf)
    async with TestServer(make_app(THINGS, services, config)) as server, ClientSession() as session:
        yield Api(session, str(server.make_url("")).rstrip("/"), shelf, clock)
        shelf.gate.set()


async def test_a_call_is_read_validated_and_answered(api: Api) -> None:
    headers = KEY | {"If-Match": '"3"', "X-Request-Id": "mine"}
    status, document, answered = await api.ask("PUT", "/things/a", json={"name": "cup"}, headers=headers)
    assert (status, document) == (201, {"name": "cup", "tenant": "acme", "if": '"3"'})
    assert answered["X-Request-Id"] == "mine"
    assert answered["Location"] == "/things/a"
    assert answered["X-Content-Type-Options"] == "nosniff"
    assert (await api.ask("GET", "/things?limit=2&tag=a&tag=b"))[1] == {"limit": 2, "tag": ["a", "b"]}
    assert (await api.ask("HEAD", "/things"))[0] == 200
    assert (await api.ask("POST", "/raw", data=b"0123456789"))[1] == b"0123456789"


async def test_a_body_that_is_not_encoded_as_it_says_is_refused(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    headers = KEY | {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    content = b"no gzip" * 10_000  # in several reads
    for _ in range(2):  # the connection is not used again
        assert (
            "Content-Encoding" in (await api.refused("PUT", "/things/a", 400, data=content, headers=headers))["detail"]
        )
    assert api.shelf.put == 0
    assert (await api.ask("PUT", "/things/a", json={"name": "cup"}, headers=KEY))[0] == 201
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    ("content", "media", "status", "path", "sentence"),
    [
        (b'{"name": "cup"', "application/json", 400, None, "not JSON"),
        (b"\xff", "application/json", 400, None, "not JSON"),
        (b'{"name": "cup"}', "text/plain", 415, None, "application/json"),
        (b'{"name": "teacup"}', "application/json", 422, "/name", "length <= 5"),
        (b'{"name": "cup", "sizes": [1, "x"]}', "application/json", 422, "/sizes/1", "Expected `int`"),
        (b'{"nam": "cup"}', "application/json", 422, "", "nam"),
        (b"[]", "application/json", 422, "", "Expected `object`"),
        (b" " * 300_000, "application/json", 413, None, "larger than 262144 bytes"),
    ],
)
async def test_a_body_that_does_not_fit_is_refused(
    api: Api, content: bytes, media: str, status: int, path: str | None, sentence: str
) -> None:
    problem = await api.refused("PUT", "/things/a", status, data=content, headers=KEY | {"Content-Type": media})
    assert sentence in problem["detail"]
    assert [error["path"] for error in problem.get("errors", [])] == ([] if path is None else [path])
    assert api.shelf.put == 0


@pytest.mark.parametrize(
    ("query", "path"), [("limit=0", "?limit"), ("limit=x", "?limit"), ("limit=1&limit=2", "?limit"), ("lmit=1", "?")]
)
async def test_a_query_that_is_not_understood_is_refused(api: Api, query: str, path: str) -> None:
    assert (await api.refused("GET", f"/things?{query}", 400))["errors"][0]["path"] == path


async def test_who_calls_and_what_they_may(api: Api) -> None:
    challenge = 'Bearer realm="distributary"'
    for headers, more in [
        ({}, ""),
        ({"Authorization": "Basic eDp5"}, ""),
        ({"Authorization": "Bearer"}, ""),
        ({"Authorization": "Bearer k-x"}, ', error="invalid_token"'),
    ]:
        status, _, answered = await api.ask("GET", "/secret", headers=headers)
        assert (status, answered["WWW-Authenticate"]) == (401, challenge + more)
    status, document, answered = await api.ask("GET", "/secret", headers=KEY)
    assert (status, "lacks the scope keys:read" in document["detail"]) == (403, True)
    assert answered["WWW-Authenticate"] == f'{challenge}, error="insufficient_scope", scope="keys:read"'


async def test_what_there_is_no_route_for(api: Api) -> None:
    assert (await api.refused("GET", "/nothing", 404))["detail"].startswith("there is no such path")
    status, _, answered = await api.ask("DELETE", "/things")
    assert (status, answered["Allow"]) == (405, "GET, HEAD")
    status, _, answered = await api.ask("PUT", "/things/search")  # not the thing of this id
    assert (status, answered["Allow"]) == (405, "POST")
    await api.refused("PUT", "/things/not.an.id", 404, json={"name": "cup"}, headers=KEY)


async def test_a_defect_is_told_by_its_request_id_only(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    problem = await api.refused("GET", "/fail", 500)
    assert "secret" not in json.dumps(problem)
    assert problem["request_id"] in problem["detail"]
    assert f"request {problem['request_id']} failed" in caplog.text


async def test_what_takes_too_long_or_is_away_may_be_asked_again(api: Api) -> None:
    for path in ("/wait", "/away", "/off"):
        status, _, answered = await api.ask("GET", path)
        assert (status, answered["Retry-After"]) == (503, "1")

    async def never() -> AsyncIterator[bytes]:
        yield b"x"
        await api.shelf.gate.wait()

    assert "did not arrive in time" in (await api.refused("POST", "/slow", 408, data=never()))["detail"]


async def test_the_rate_is_told_and_kept(api: Api) -> None:
    remaining = []
    for _ in range(3):
        status, _, answered = await api.ask("PUT", "/things/a", json={"name": "cup"}, headers=KEY)
        assert (status, answered["RateLimit-Policy"]) == (201, '"default";q=3;w=3')
        remaining.append(answered["RateLimit"])
    assert remaining == ['"default";r=2;t=0', '"default";r=1;t=0', '"default";r=0;t=1']
    status, _, answered = await api.ask("PUT", "/things/a", json={"name": "cup"}, headers=KEY)
    assert (status, answered["Retry-After"], answered["RateLimit"]) == (429, "1", '"default";r=0;t=1')
    api.clock.advance_ms(1_000)
    assert (await api.ask("PUT", "/things/a", json={"name": "cup"}, headers=KEY))[0] == 201
    assert api.shelf.put == 4


async def test_a_service_that_was_not_given_is_a_defect_of_whoever_composed_it() -> None:
    with pytest.raises(LookupError, match="without a Shelf"):
        Services(FixedKeys({})).get(Shelf)


def test_the_document_is_valid_and_says_what_the_frame_answers() -> None:
    document = openapi(THINGS)
    put = document["paths"]["/things/{id}"]["put"]
    assert set(put["responses"]) == {"201", "400", "401", "403", "404", "408", "413", "415", "422", "429", "500", "503"}
    assert put["security"] == [{"key": []}]
    schema = document["components"]["schemas"]["Thing"]
    jsonschema.validate({"name": "cup"}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "teacup"}, schema)
    listed = document["paths"]["/things"]["get"]
    assert {each["name"] for each in listed["parameters"]} == {"limit", "tag"}
    assert "security" not in listed


def test_every_route_of_the_api_is_named_once_and_documented() -> None:
    document = openapi(ROUTES)
    operations = [each for path in document["paths"].values() for each in path.values()]
    assert len({each["operationId"] for each in operations}) == len(operations) == len(ROUTES)
    assert all(each["summary"] and each["responses"] for each in operations)
    assert all(route.answers for route in ROUTES)
    assert all(route.scope or route.tag in {"health", "discovery", "sources"} for route in ROUTES)


def test_a_problem_is_a_sentence_with_its_faults() -> None:
    document = ProblemError(404, "there is no cup").document("/things/a", "r1")
    assert msgspec.to_builtins(document) == {
        "title": "Not Found",
        "status": 404,
        "detail": "there is no cup",
        "instance": "/things/a",
        "request_id": "r1",
    }
