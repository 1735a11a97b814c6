"""Each role with a user of its own, SCRAM over TLS, and the rights of docs/how-to/secure-kafka.md: no more, no less."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from connectors.admin import ClusterError, apply_topics, check_topics
from connectors.clock import SystemClock
from connectors.compacted import TableError
from connectors.feed import Writer
from connectors.memory import MemoryRecord, Stored
from connectors.registry import registry_from
from connectors.registry_rules import Asked
from connectors.registry_topic import TopicStore, prepare_topic
from schemas.codec import own_schema, wire_header
from schemas.errors import RegistryUnavailableError, UndecodableError
from schemas.event import Event, encode_event
from schemas.replay import Replay, Selection, encode_replay
from schemas.subscription import Subscription
from schemas.topics import Topics
from streams.api_app import api_app
from streams.app import Worker
from streams.cli.editing import open_editor
from streams.cli.values import subscription_value
from streams.counters import Counters
from streams.quarantine import quarantined
from streams.settings import Settings
from streams.wiring import Role, WorkerError, client_config, make_registry, register_own_schemas
from tests.cli import Cli
from tests.helpers import eventually_async
from tests.integration.sink import Sink
from tests.integration.workers import SECRET
from tests.secure_kafka import Right, Secured, rights, secured


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured(tmp_path_factory.mktemp("secure")) as made:
        yield made


@pytest.fixture
def given(cluster: Secured, prefix: str) -> Iterator[str]:
    """The prefix, with all rights of the document below it."""
    cluster.grant(prefix, rights())
    yield prefix
    cluster.revoke_all()


def settings(cluster: Secured, user: str, prefix: str, **more: Any) -> Settings:
    values = {"prefix": prefix, "partitions": 2, "allow_private_networks": True, "drain_s": 5.0}
    return Settings(**cluster.login(user, **values, **more))


@contextlib.asynccontextmanager
async def working(made: Settings, role: Role) -> AsyncIterator[Worker]:
    worker, stop = Worker(made, [role]), asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    try:
        yield worker
    finally:
        stop.set()
        await running


async def test_the_whole_job_with_the_rights_of_the_document(cluster: Secured, given: str) -> None:
    operator = settings(cluster, "operator", given)
    topics, config = operator.topics, client_config(operator)
    await apply_topics(config, topics.specs(), 1)
    assert await check_topics(config, topics.specs()) == []
    registry = make_registry(operator)
    ids = await register_own_schemas(registry, topics)
    await registry.close()
    async with Sink().running() as sink:
        one = Subscription(id="s", url=sink.url("/ok"), event_types=("*",), secrets=(SECRET,))
        down = msgspec.structs.replace(one, id="down", url=sink.url("/status/500"), retry_schedule_ms=(1_000,))
        async with Writer(config) as writer:
            for each in (one, down):
                await writer.write(topics.subscriptions, each.id.encode(), subscription_value(ids.subscription, each))
        async with open_editor(operator) as editor:
            changed = await editor.change("s", lambda before: msgspec.structs.replace(before, description="changed"))
            assert changed is not None
            assert changed.description == "changed"
        fan_out, delivery = (settings(cluster, role, given) for role in ("fan-out", "delivery"))
        async with working(fan_out, "fan-out") as first, working(delivery, "delivery") as second:
            event = Event("evt_1", "order.created", "default", 1_700_000_000_000, b"{}")
            async with Writer(config) as writer:
                await writer.write(topics.events, b"k", encode_event(ids.event, event))
                await writer.write(topics.events, b"k", b"no event")
            await eventually_async(lambda: second.counters["delivered"] == 1, timeout_s=60)
            await eventually_async(lambda: second.counters["dead:exhausted"] == 1, timeout_s=60)
            await eventually_async(lambda: sum(_quarantined(first)) == 1, timeout_s=60)
        order = Replay(
            id="rpl_1", created_ms=1, by="test", selection=Selection(source="events"), wanted="running", rate_max=0.0
        )
        async with Writer(config) as writer:
            await writer.write(topics.replays, b"rpl_1", encode_replay(wire_header(ids.replay), order))
        async with working(settings(cluster, "replay", given), "replay") as third:
            await eventually_async(lambda: third.counters["replay_sent"] == 2, timeout_s=60)


def command(cluster: Secured, user: str, prefix: str, directory: Path) -> Cli:
    """The command line of a user."""
    made = cluster.login(user, prefix=prefix, partitions=2, registry_topic=f"{prefix}_schemas")
    return Cli(directory, {name: str(value) for name, value in made.items()})


class Api(NamedTuple):
    """A running API, and a key."""

    session: ClientSession
    url: str
    key: str

    async def ask(self, method: str, path: str, body: Any, status: int) -> Any:
        headers = {"Authorization": f"Bearer {self.key}"}
        async with self.session.request(method, f"{self.url}{path}", headers=headers, json=body) as response:
            content = await response.read()
            assert response.status == status, content
            return msgspec.json.decode(content)


@contextlib.asynccontextmanager
async def api(made: Settings, key: str) -> AsyncIterator[Api]:
    async with api_app(made) as app, TestServer(app) as server, ClientSession() as session:
        yield Api(session, str(server.make_url("/v1")), key)


async def test_the_api_with_the_rights_of_the_document(cluster: Secured, given: str, tmp_path: Path) -> None:
    operator = settings(cluster, "operator", given)
    await apply_topics(client_config(operator), operator.topics.specs(), 1)
    (made,) = command(cluster, "operator", given, tmp_path).lines("keys", "create", "--operator", "--json")
    hook = {"url": "https://a.example/hooks", "event_types": ["order.*"], "tenant": "acme", "verification": "none"}
    async with api(settings(cluster, "api", given), made["key"]) as running:
        ask = running.ask
        path = f"/subscriptions/{(await ask('POST', '/subscriptions', hook, 201))['id']}"
        assert (await ask("POST", f"{path}/enable", None, 200))["endpoint"]["status"] == "healthy"
        await ask("POST", f"{path}/ping", None, 202)
        await ask("PUT", "/event-types/order.created", {"description": "An order"}, 201)
        event = {"id": "e1", "type": "order.created", "tenant": "acme", "data": {}}
        await ask("POST", "/events", event, 202)
        assert (await ask("POST", "/events", event, 202))["events"] == [{"id": "e1", "duplicate": True}]
        assert (await ask("GET", f"{path}/deliveries", None, 200))["items"] == []
        await ask("POST", "/sources", {"id": "pay", "provider": "github", "secrets": ["s"], "tenant": "acme"}, 201)
        assert (await ask("POST", "/replays", {"tenant": "acme"}, 201))["state"] == "waiting"
        topics, judged = operator.topics, UndecodableError("truncated", "a test")
        sources = [topics.deliveries, topics.replay, topics.parked, *topics.tiers.values()]
        async with Writer(client_config(operator)) as writer:
            for source in sources:  # whatever a worker reads may come back from quarantine
                record = MemoryRecord(Stored(source, 0, 0, b"s", b"not one", None))
                _, _, value, _, marks = quarantined(topics.quarantine, source, 0, record, judged, Counters())
                named: list[tuple[str, str | bytes | None]] = [*(marks or ())]
                await writer.write(topics.quarantine, b"s", value, headers=named)
        resent = await ask("POST", "/quarantine/resend", {"all": True, "force": True}, 200)
        assert resent["resent"] == len(sources), resent
        await ask("POST", "/keys", {"tenant": "acme", "scopes": ["events:write"]}, 201)
        trail = (await ask("GET", "/audit", None, 200))["items"]
        assert {each["kind"] for each in trail} >= {"subscription", "source", "key", "replay"}
        headers = {"Authorization": f"Bearer {running.key}", "Last-Event-ID": "0.0"}
        async with running.session.get(f"{running.url}/events/listen", headers=headers) as stream, asyncio.timeout(90):
            while b'"e1"' not in (line := await stream.content.readline()):
                assert line, "the stream ended"


async def test_the_registry_with_the_rights_of_the_document(cluster: Secured, given: str, tmp_path: Path) -> None:
    with command(cluster, "registry", given, tmp_path).started("registry", "--port", "0") as started:
        url = started.said("ready: ").partition("ready: ")[2].split()[0]
        registry = registry_from(url=url, folder=None, conf={}, monotonic=SystemClock().monotonic)
        try:
            schema = own_schema("operation.v1")
            assert await registry.schema(await registry.register("s-value", schema)) == schema
        finally:
            await registry.close()


def _quarantined(worker: Worker) -> list[int]:
    return [count for name, count in worker.counters.items() if name.startswith("quarantined:")]


def without(role: str, resource: str, name: str) -> Sequence[Right]:
    left = [right for right in rights() if (right.role, right.resource, right.name) != (role, resource, name)]
    assert len(left) == len(rights()) - 1
    return left


@pytest.mark.parametrize(
    ("role", "resource", "name", "said"),
    [
        (
            "fan-out",
            "group",
            "hooks.distributary.fan-out",
            "denies this user READ on the group hooks.distributary.fan-out",
        ),
        (
            "fan-out",
            "transactional id",
            "hooks.distributary.fan-out.*",
            "denies this user WRITE on the transactional id hooks.distributary.fan-out.",
        ),
        ("fan-out", "topic", "hooks.events", "denies this user READ on the topic hooks.events"),
        ("fan-out", "topic", "hooks.subscriptions", "denies this user READ on the topic hooks.subscriptions"),
        (
            "delivery",
            "group",
            "hooks.distributary.delivery",
            "denies this user READ on the group hooks.distributary.del",
        ),
        (
            "replay",
            "group",
            "hooks.distributary.replay",
            "denies this user READ on the group hooks.distributary.replay",
        ),
        (
            "replay",
            "transactional id",
            "hooks.distributary.replay",
            "denies this user WRITE on the transactional id hooks.distributary.replay",
        ),
    ],
)
async def test_a_right_that_is_missing_is_named(
    cluster: Secured, prefix: str, role: Role, resource: str, name: str, said: str
) -> None:
    await apply_topics({"bootstrap.servers": cluster.plain}, settings(cluster, role, prefix).topics.specs(), 1)
    cluster.grant(prefix, without(role, resource, name))
    made = settings(cluster, role, prefix)
    try:
        async with asyncio.timeout(90):
            with pytest.raises(WorkerError) as refused:
                await Worker(made, [role]).run(asyncio.Event())
    finally:
        cluster.revoke_all()
    assert said.replace("hooks.", prefix) in str(refused.value)


def lacking(role: str, *gone: tuple[str, str]) -> list[Right]:
    """The document's rights, but these operations on these names, as (operation, name), for one role."""
    left = []
    for right in rights():
        taken = {operation for operation, name in gone if (right.role, right.name) == (role, name)}
        if operations := tuple(each for each in right.operations if each not in taken):
            left.append(msgspec.structs.replace(right, operations=operations))
    return left


@pytest.mark.parametrize(
    ("operation", "name", "said"),
    [
        ("READ", "hooks.subscriptions", "denies this user READ on the topic hooks.subscriptions; grant it"),
        ("READ", "hooks.ingest.seen", "denies this user READ on the topic hooks.ingest.seen; grant it"),
        (
            "WRITE",
            "hooks.distributary.ingest.*",
            "denies this user WRITE on the transactional id hooks.distributary.ingest.",
        ),
    ],
)
async def test_an_api_without_a_right_does_not_start_and_names_it(
    cluster: Secured, prefix: str, operation: str, name: str, said: str
) -> None:
    made = settings(cluster, "api", prefix)
    await apply_topics({"bootstrap.servers": cluster.plain}, made.topics.specs(), 1)
    cluster.grant(prefix, lacking("api", (operation, name)))
    try:
        async with asyncio.timeout(90):
            with pytest.raises((ClusterError, TableError, WorkerError)) as refused:
                async with api_app(made):
                    pass
    finally:
        cluster.revoke_all()
    assert said.replace("hooks.", prefix) in str(refused.value)


async def test_an_api_that_may_not_write_says_what_it_lacks(cluster: Secured, prefix: str, tmp_path: Path) -> None:
    pen = "hooks.distributary.control"
    cluster.grant(prefix, lacking("api", ("WRITE", "hooks.subscriptions"), ("WRITE", "hooks.events"), ("WRITE", pen)))
    operator = settings(cluster, "operator", prefix)
    hook = {"url": "https://a.example/hooks", "event_types": ["*"], "tenant": "acme", "verification": "none"}
    event = {"id": "e1", "type": "order.created", "tenant": "acme", "data": {}}
    try:
        await apply_topics(client_config(operator), operator.topics.specs(), 1)
        (made,) = command(cluster, "operator", prefix, tmp_path).lines("keys", "create", "--operator", "--json")
        async with api(settings(cluster, "api", prefix), made["key"]) as running:
            no_pen = await running.ask("POST", "/subscriptions", hook, 503)
            no_events = await running.ask("POST", "/events", event, 503)
            cluster.grant(prefix, [right for right in rights() if (right.role, right.name) == ("api", pen)])
            no_topic = await running.ask("POST", "/subscriptions", hook, 503)
            cluster.grant(prefix, rights())
            await running.ask("POST", "/subscriptions", hook, 201)
    finally:
        cluster.revoke_all()
    grants = "grant it (docs/how-to/secure-kafka.md has a table)"
    denies = "Kafka denies this user WRITE on the"
    assert no_pen["detail"] == f"{denies} transactional id {prefix}distributary.control; {grants}"
    assert f"{denies} topic {prefix}events or {prefix}ingest.seen; {grants}" in no_events["detail"]
    assert no_topic["detail"] == f"{denies} topic {prefix}audit or {prefix}subscriptions; {grants}"


@pytest.mark.parametrize(
    "gone",  # the first one is asked for; ALTER_CONFIGS gives DESCRIBE_CONFIGS, too
    [("CREATE",), ("DESCRIBE_CONFIGS", "ALTER_CONFIGS"), ("ALTER_CONFIGS",)],
)
async def test_an_operator_without_a_right_on_topics_is_told_which(
    cluster: Secured, prefix: str, gone: tuple[str, ...]
) -> None:
    operation = gone[0]
    config, specs = client_config(settings(cluster, "operator", prefix)), Topics(prefix, 1).specs()[:1]
    (topic,) = (spec.name for spec in specs)
    if operation != "CREATE":
        short = msgspec.structs.replace(specs[0], retention_ms=1_000)
        await apply_topics({"bootstrap.servers": cluster.plain}, [short], 1)
    said = f"Kafka denies this user {operation} on the topic {topic}; grant it"

    async def says_so() -> bool:
        try:
            await apply_topics(config, specs, 1)
        except ClusterError as error:
            return str(error).startswith(said)
        return False

    cluster.grant(prefix, lacking("operator", *((each, "hooks.*") for each in gone)))
    try:
        await eventually_async(says_so, timeout_s=60, message=said)
    finally:
        cluster.revoke_all()


@pytest.mark.parametrize("operation", ["READ", "WRITE"])
async def test_a_registry_without_a_right_names_it(cluster: Secured, prefix: str, operation: str) -> None:
    topic = f"{prefix}_schemas"
    anyone = {"bootstrap.servers": cluster.plain}
    await prepare_topic(anyone, topic, 1)
    assert await refusal(anyone, topic, "first-value") == ""
    said = f"denies this user {operation} on the topic {topic}; grant it"

    async def says_so() -> bool:
        return said in await refusal(client_config(settings(cluster, "registry", prefix)), topic, "second-value")

    cluster.grant(prefix, lacking("registry", (operation, "_schemas")))
    try:
        await eventually_async(says_so, timeout_s=60, message=said)
    finally:
        cluster.revoke_all()


async def refusal(config: dict[str, Any], topic: str, subject: str) -> str:
    """Why a registry cannot start or take a schema; empty when it can."""
    store = TopicStore(config, topic)
    try:
        await store.start()
        await store.register_asked(subject, Asked(schema='"string"'))
    except (ClusterError, RegistryUnavailableError) as error:
        return str(error)
    finally:
        await store.close()
    return ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kafka_password": "wrong"}, "does not let this user in"),
        ({"kafka_username": "nobody"}, "does not let this user in"),
        ({"kafka_sasl_mechanism": "PLAIN"}, "does not let this user in"),
        ({"kafka_ca_file": None}, "shows a certificate that is not trusted"),
        ({"kafka_security_protocol": "plaintext"}, "whether it wants TLS or a password"),
        ({"kafka_security_protocol": "sasl_plaintext"}, "whether it wants TLS or a password"),
    ],
)
async def test_who_does_not_get_in_is_told_why(
    cluster: Secured, prefix: str, change: dict[str, Any], said: str
) -> None:
    made = settings(cluster, "operator", prefix, **change)
    with pytest.raises(ClusterError, match=said) as refused:
        await check_topics(client_config(made), made.topics.specs())
    assert "operator-password" not in str(refused.value)


async def test_another_authority_and_a_plain_listener(cluster: Secured, prefix: str) -> None:
    made = settings(cluster, "operator", prefix, kafka_ca_file=cluster.other_ca_file)
    with pytest.raises(ClusterError, match="shows a certificate that is not trusted"):
        await check_topics(client_config(made), made.topics.specs())
    made = settings(cluster, "operator", prefix, bootstrap=cluster.plain)
    with pytest.raises(ClusterError, match=r"connecting to a PLAINTEXT broker listener.*whether it wants TLS"):
        await check_topics(client_config(made), made.topics.specs())
