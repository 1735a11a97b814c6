"""The HTTP API on a real Kafka: what is shown is what the topics hold, and the command starts and stops in order."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import jsonschema
import msgspec
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from connectors.admin import apply_topics
from connectors.api.principal import SCOPES, FixedKeys, Principal
from connectors.local_kafka import Cluster
from schemas import codec
from schemas.endpoint import EndpointState, encode_state, url_hash
from schemas.subscription import Subscription, subscription_to_json
from schemas.topics import Topics
from streams.api_app import api_app
from streams.settings import Settings
from tests.cli import Cli
from tests.helpers import eventually_async
from tests.subscriptions_topic import CompactedTopic

SECRET = "whsec_" + "A" * 43 + "="
KEYS = FixedKeys(
    {
        "operator": Principal(actor="key:op", tenant=None, scopes=frozenset(SCOPES)),
        "other": Principal(actor="key:other", tenant="other", scopes=frozenset(SCOPES)),
        "acme": Principal(actor="key:acme", tenant="acme", scopes=frozenset(SCOPES)),
    }
)


class Caller:
    """One key's calls to a running API."""

    def __init__(self, session: ClientSession, url: str, key: str) -> None:
        self._session, self._url, self._key = session, url, key

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any, Any]:
        headers = {"Authorization": f"Bearer {self._key}"} | options.pop("headers", {})
        async with self._session.request(method, self._url + path, headers=headers, **options) as response:
            content = await response.read()
            json = response.content_type.endswith(("/json", "+json"))
            document = msgspec.json.decode(content) if json else content
            return response.status, document, response.headers

    async def get(self, path: str, status: int = 200) -> Any:
        got, document, _ = await self.ask("GET", path)
        assert got == status, document
        return document


Api = Callable[[str], Caller]


@pytest.fixture
async def settings(kafka: Cluster, prefix: str) -> Settings:
    await apply_topics({"bootstrap.servers": kafka.bootstrap}, Topics(prefix, 2).specs(), -1)
    return Settings(bootstrap=kafka.bootstrap, prefix=prefix, api_rate=0, partitions=2, api_verification="none")


@asynccontextmanager
async def running(settings: Settings, **options: Any) -> AsyncIterator[Api]:
    """The API in this process; calls by key."""
    async with api_app(settings, KEYS, **options) as app, TestServer(app) as server, ClientSession() as session:
        url = str(server.make_url("")).rstrip("/")
        yield lambda key: Caller(session, url, key)


async def until(question: Callable[[], Awaitable[object]], answer: object) -> None:
    async def same() -> bool:
        return await question() == answer

    await eventually_async(cast(Any, same))


def subscription(id_: str, **given: Any) -> Subscription:
    fields = {"url": f"https://{id_}.example/hooks", "event_types": ("order.*",), "secrets": (SECRET,)} | given
    return Subscription(id=id_, **fields)


async def test_subscriptions_are_shown_as_the_topics_hold_them(settings: Settings) -> None:
    assert settings.bootstrap is not None
    topic = CompactedTopic(settings.bootstrap, settings.topics.subscriptions, create=False)
    a1 = subscription("a1", tenant="acme", headers={"x-key": "k1"}, filter='{"data":{"amount":[{"numeric":[">",5]}]}}')
    for each in (a1, subscription("a2", tenant="acme", event_types=("user.created",)), subscription("b1", tenant="b")):
        topic.write(each.id, subscription_to_json(each))
    states = CompactedTopic(settings.bootstrap, settings.topics.endpoints_state, create=False)
    failing = EndpointState(subscription_id="a1", failing_since_ms=5, url_hash=url_hash(a1.url))
    states.write("a1", encode_state(codec.wire_header(1), failing))
    states.write("a2", encode_state(codec.wire_header(1), EndpointState(subscription_id="a2", disabled_ms=7)))

    async with running(settings) as api:
        acme, operator = api("acme"), api("operator")
        shown = await acme.get("/v1/subscriptions/a1")
        assert shown["url"] == a1.url
        assert shown["filter"] == {"data": {"amount": [{"numeric": [">", 5]}]}}
        assert shown["headers"] == {"x-key": "***"}
        assert shown["endpoint"]["status"] == "failing"
        assert SECRET not in msgspec.json.encode(shown).decode()
        assert (await acme.get("/v1/subscriptions/a2"))["endpoint"]["status"] == "healthy", "of another URL"

        document = await acme.get("/v1/openapi.json")
        schema = {"$ref": "#/components/schemas/Subscription"} | {"components": document["components"]}
        jsonschema.validate(shown, schema)

        assert (await acme.get("/v1/subscriptions/b1", 404))["detail"] == "there is no subscription b1"
        assert (await operator.get("/v1/subscriptions/b1"))["tenant"] == "b"
        await acme.get("/v1/subscriptions?tenant=b", 403)
        listed = await acme.get("/v1/subscriptions")
        assert ([each["id"] for each in listed["items"]], listed["next"]) == (["a1", "a2"], None)

        topic.write("a2", None)

        async def status() -> int:
            return (await acme.ask("GET", "/v1/subscriptions/a2"))[0]

        await until(status, 404)


async def test_a_list_is_narrowed_and_its_pages_stay_right(settings: Settings) -> None:
    assert settings.bootstrap is not None
    topic = CompactedTopic(settings.bootstrap, settings.topics.subscriptions, create=False)
    for number in range(100, 110):
        kinds = ("order.*",) if number % 2 else ("user.created", "*")
        state = "paused" if number == 103 else "active"
        topic.write(f"s{number}", subscription_to_json(subscription(f"s{number}", event_types=kinds, state=state)))
    async with running(settings) as api:
        operator = api("operator")

        async def ids(query: str) -> list[str]:
            return [each["id"] for each in (await operator.get(f"/v1/subscriptions?{query}"))["items"]]

        assert await ids("event_type=user.created") == ["s100", "s102", "s104", "s106", "s108"]
        assert len(await ids("event_type=order.created")) == 10
        assert await ids("state=paused") == ["s103"]
        assert await ids("url=s105.example") == ["s105"]
        assert await ids("tenant=other") == []
        first = await operator.get("/v1/subscriptions?limit=4")
        for change in ("s101", "s103"):
            topic.write(change, None)
        topic.write("s1005", subscription_to_json(subscription("s1005")))
        await until(lambda: ids("url=s1005"), ["s1005"])
        second = await operator.get(f"/v1/subscriptions?limit=4&cursor={first['next']}")
        assert [each["id"] for each in second["items"]] == ["s104", "s105", "s106", "s107"]
        assert "none of ours" in (await operator.get("/v1/subscriptions?cursor=x", 400))["detail"]


async def test_the_command_says_when_it_is_ready_and_stops_in_order(settings: Settings, tmp_path: Path) -> None:
    assert settings.bootstrap is not None
    cli = Cli(tmp_path, {"bootstrap": settings.bootstrap, "prefix": settings.prefix, "partitions": "2"})
    with cli.started("api", "--port", "0") as started:
        url = started.said("ready: ").partition("ready: ")[2].split()[0]
        async with ClientSession() as session:
            nobody = Caller(session, url, "nobody")
            assert await nobody.get("/v1/health/live") == {"status": "ok"}
            assert await nobody.get("/v1/health/ready") == {"status": "ok"}
            await nobody.get("/v1/subscriptions", 401)
            assert (await nobody.get("/v1/openapi.json"))["openapi"] == "3.1.0"
            offered = await nobody.get("/.well-known/webhooks")
            assert "standard" in offered["formats"]
            await nobody.get(offered["subscriptions"], 401)
        started.process.send_signal(signal.SIGTERM)
        started.ends(0)
    assert "stopping in order" in started.err.read_text()
    assert "GET /v1/subscriptions 401" in started.err.read_text()


def test_topics_that_are_missing_are_named(kafka: Cluster, prefix: str, tmp_path: Path) -> None:
    cli = Cli(tmp_path, {"bootstrap": kafka.bootstrap, "prefix": prefix})
    assert "run `distributary topics apply`" in cli.fails("api", "--port", "0")
