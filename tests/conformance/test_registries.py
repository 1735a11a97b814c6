"""What every registry does, on the fake, on a folder, and on Confluent's client against our own server.

Then what each does in its own way, and Confluent's own serializers as the foreign client of the server.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import io
import socket
import ssl
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

from connectors.local_kafka import Cluster, docker_answers, steady_ports
from connectors.memory import ManualClock, MemoryRegistry
from connectors.registry import registry_from
from connectors.registry_client import CACHED_MAX, LATEST_SECONDS, ConfluentRegistry
from connectors.registry_folder import RESCAN_SECONDS, FolderRegistry
from connectors.registry_rest import BODY_BYTES_MAX, registry_app
from connectors.registry_topic import TopicStore, prepare_topic
from schemas import codec
from schemas.delivery import dead_letter_schema
from schemas.errors import RegistryUnavailableError, UnknownSchemaError
from schemas.subjects import LATEST
from streams.ports import SubjectRegistry
from tests.helpers import eventually


def text_of(*fields: str, **attributes: Any) -> str:
    """A record with these fields, all of them strings."""
    tree = {"type": "record", "name": "Thing", "fields": [{"name": f, "type": "string"} for f in fields]}
    return orjson.dumps(tree | attributes).decode()


A, B = text_of("a"), text_of("b")
REGISTRY_IMAGE = "confluentinc/cp-schema-registry:8.0.0"
OWN_EVENT = codec.own_schema("event.v2")


@asynccontextmanager
async def served(app: web.Application, **options: Any) -> AsyncIterator[str]:
    """The application's URL on a free port of 127.0.0.1."""
    async with TestServer(app, host="127.0.0.1", **options) as server:
        yield str(server.make_url("")).rstrip("/")


@asynccontextmanager
async def served_folder(folder: Path | None) -> AsyncIterator[str]:
    async with served(registry_app(FolderRegistry(folder, monotonic=ManualClock().monotonic))) as url:
        yield url


@asynccontextmanager
async def served_topic(kafka: Cluster, topic: str) -> AsyncIterator[str]:
    """`distributary registry`, as far as HTTP goes, on a topic of its own; it checks no compatibility."""
    config = {"bootstrap.servers": kafka.bootstrap}
    await prepare_topic(config, topic, 1)
    store = TopicStore(config, topic)
    await store.start()
    try:
        await store.set_level(None, "NONE")
        async with served(registry_app(store)) as url:
            yield url
    finally:
        await store.close()


@pytest.fixture(params=["memory", "folder", "folder by URL", "topic by URL", "image by URL"])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SubjectRegistry]:
    clock = ManualClock()
    match request.param:
        case "memory":
            yield MemoryRegistry()
        case "folder":
            yield FolderRegistry(tmp_path, monotonic=clock.monotonic)
        case kind:
            async with url_of(kind, request, tmp_path) as url:
                # A loaded machine's Kafka may take longer than a worker waits before it asks again.
                client = ConfluentRegistry(url, conf={"timeout": 60}, monotonic=clock.monotonic)
                yield client
                await client.close()


@asynccontextmanager
async def url_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[str]:
    """The URL of a server of this kind."""
    match kind.removesuffix(" by URL"):
        case "folder":
            async with served_folder(folder) as url:
                yield url
        case "topic":
            cluster: Cluster = request.getfixturevalue("kafka")
            async with served_topic(cluster, f"{request.getfixturevalue('prefix')}schemas") as url:
                yield url
        case _:
            yield request.getfixturevalue("registry_image")


@pytest.fixture
def registry_image(kafka: Cluster, prefix: str) -> Iterator[str]:
    """Confluent's own registry on a topic of its own, checking nothing, where a Docker engine answers."""
    if not docker_answers():
        pytest.skip("no Docker engine answers here, so no foreign registry can run")
    with registry_container(kafka, f"{prefix}schemas") as url:
        yield url


@contextmanager
def registry_container(kafka: Cluster, topic: str) -> Iterator[str]:
    """Confluent's registry on that topic; its URL. On the host's network: Kafka is on 127.0.0.1."""
    (port,) = steady_ports(1)
    container_class = importlib.import_module("testcontainers.core.container").DockerContainer
    container = container_class(REGISTRY_IMAGE).with_kwargs(network_mode="host")
    for name, value in {
        "HOST_NAME": "127.0.0.1",
        "LISTENERS": f"http://127.0.0.1:{port}",
        "KAFKASTORE_BOOTSTRAP_SERVERS": f"PLAINTEXT://{kafka.bootstrap}",
        "KAFKASTORE_TOPIC": topic,
        "KAFKASTORE_TOPIC_REPLICATION_FACTOR": "1",
        "SCHEMA_REGISTRY_GROUP_ID": topic,
        "SCHEMA_COMPATIBILITY_LEVEL": "none",
    }.items():
        container = container.with_env(f"SCHEMA_REGISTRY_{name}", value)
    with container:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: _answers(url), timeout_s=120, message="Confluent's registry answers")
        yield url


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/subjects", timeout=2):
            return True
    except OSError:
        return False


# --- every registry -----------------------------------------------------------------------------------------


async def test_what_is_registered_is_found_by_its_id(registry: SubjectRegistry) -> None:
    a = await registry.register("things-value", A)
    b = await registry.register("things-value", B)
    assert a != b
    assert [await registry.schema(i) for i in (a, b, a)] == [A, B, A]


async def test_registering_again_gives_the_same_id_under_any_subject(registry: SubjectRegistry) -> None:
    first = await registry.register("things-value", A)
    assert (
        await registry.register("things-value", orjson.dumps(orjson.loads(A), option=orjson.OPT_INDENT_2).decode())
        == first
    )
    assert await registry.register("other/things: ä", A) == first
    assert await registry.schema(first) == A


async def test_an_unknown_id_is_said_to_be_unknown(registry: SubjectRegistry) -> None:
    for unknown in (0, 7, 2**31 - 1, 2**32 - 1):
        with pytest.raises(UnknownSchemaError):
            await registry.schema(unknown)


async def test_what_is_no_schema_is_refused(registry: SubjectRegistry) -> None:
    for text in ("", "{", '{"type": "record"}', '"unheard"'):
        with pytest.raises(ValueError, match="Avro"):
            await registry.register("things-value", text)


async def test_one_id_is_asked_for_by_many_at_once(registry: SubjectRegistry) -> None:
    a = await registry.register("things-value", A)
    assert await asyncio.gather(*(registry.schema(a) for _ in range(20))) == [A] * 20


async def test_versions_are_numbered_within_their_subject(registry: SubjectRegistry) -> None:
    a = await registry.register("things-value", A)
    b = await registry.register("things-value", B)
    assert await registry.register("other", B) == b
    assert await registry.register("things-value", A) == a  # known: no third version
    assert await registry.version("things-value", 1) == (a, 1, A)
    assert await registry.version("things-value", 2) == (b, 2, B)
    assert await registry.version("things-value", LATEST) == (b, 2, B)
    assert await registry.version("other", LATEST) == (b, 1, B)
    assert list(await registry.versions_of(b)) == [("other", 1), ("things-value", 2)]
    assert list(await registry.versions_of(a)) == [("things-value", 1)]


async def test_versions_that_are_not_there(registry: SubjectRegistry) -> None:
    await registry.register("things-value", A)
    for subject, number in (("things-value", 2), ("things-value", 0), ("nothing", 1), ("nothing", LATEST)):
        with pytest.raises(UnknownSchemaError, match=subject):
            await registry.version(subject, number)
    assert list(await registry.versions_of(77)) == []


async def test_subjects_and_versions_are_listed(registry: SubjectRegistry) -> None:
    await registry.register("things-value", A)
    await registry.register("things-value", B)
    await registry.register("other", B)
    assert [name for name in await registry.subjects() if not name.startswith("distributary.")] == [
        "other",
        "things-value",
    ]
    assert list(await registry.versions("things-value")) == [1, 2]
    assert list(await registry.versions("nothing")) == []
    assert await registry.level("things-value") == await registry.level("nothing") == "NONE"


async def test_the_fake_can_be_out_of_reach() -> None:
    fake = MemoryRegistry()
    fake.available = False
    for question in (fake.schema(1), fake.register("s", A), fake.versions_of(1), fake.version("s", 1)):
        with pytest.raises(RegistryUnavailableError):
            await question


# --- a folder -----------------------------------------------------------------------------------------------


def in_folder(folder: Path | None, clock: ManualClock | None = None) -> FolderRegistry:
    return FolderRegistry(folder, monotonic=(clock or ManualClock()).monotonic)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_other_documentation_is_no_other_schema(tmp_path: Path) -> None:
    registry = in_folder(tmp_path)
    assert await registry.register("s", A) == await registry.register("s", text_of("a", doc="said otherwise"))
    assert names(tmp_path) == ["s.v1.avsc"]


def test_ids_of_a_folder_never_change() -> None:
    """Events with them are on topics: a new version of this code must come to the same ones."""
    assert (codec.content_id(A), codec.content_id(B), codec.content_id('"string"')) == (
        72_623_555,
        310_049_132,
        1_776_665_035,
    )


async def test_our_own_schemas_are_known_without_a_folder() -> None:
    registry = in_folder(None)
    for stem in ("attempt.v1", "delivery.v1", "endpoint_state.v1", "event.v3", "operation.v2", "subscription.v4"):
        text = codec.own_schema(stem)
        assert await registry.schema(codec.content_id(text)) == text
    assert await registry.schema(codec.content_id(dead_letter_schema())) == dead_letter_schema()
    files = list((Path(codec.__file__).parent / "avro").glob("*.avsc"))
    assert len(await registry.list_entries()) == len(files)
    assert await registry.versions("distributary.Event") == [1, 2, 3]
    await registry.close()


async def test_without_a_folder_only_our_own_schemas_get_subjects() -> None:
    registry = in_folder(None)
    assert await registry.register("events-value", OWN_EVENT) == codec.content_id(OWN_EVENT)
    assert await registry.register("events-value", OWN_EVENT) == codec.content_id(OWN_EVENT)
    assert await registry.versions("events-value") == [1]
    with pytest.raises(ValueError, match="no folder to keep the schema of things-value"):
        await registry.register("things-value", A)


async def test_versions_are_files_that_another_registry_reads(tmp_path: Path) -> None:
    registry = in_folder(tmp_path)
    ids = [await registry.register(subject, text) for subject, text in (("x/y", A), ("x/y", B), ("z", A))]
    assert names(tmp_path) == ["x%2Fy.v1.avsc", "x%2Fy.v2.avsc", "z.v1.avsc"]
    again = in_folder(tmp_path)
    assert await again.subjects() == [*await in_folder(None).subjects(), "x/y", "z"]
    assert [(e.subject, e.version, e.id, e.name) for e in await again.list_entries() if "." not in e.subject] == [
        ("x/y", 1, ids[0], "Thing"),
        ("x/y", 2, ids[1], "Thing"),
        ("z", 1, ids[0], "Thing"),
    ]
    assert ids == [codec.content_id(A), codec.content_id(B), codec.content_id(A)]


@pytest.mark.parametrize("subject", [".", "..", ".hidden", "a/../b", "s.v1.avsc", "ä %2F", "\n"])
async def test_any_subject_is_a_file_of_the_folder_and_comes_back(tmp_path: Path, subject: str) -> None:
    folder = tmp_path / "schemas"
    folder.mkdir()
    await in_folder(folder).register(subject, A)
    assert await in_folder(folder).versions(subject) == [1]
    assert names(tmp_path) == ["schemas"]


async def test_two_registries_on_one_folder_do_not_take_one_version(tmp_path: Path) -> None:
    one, two = in_folder(tmp_path), in_folder(tmp_path)
    texts = [text_of(f"f{n}") for n in range(20)]
    ids = await asyncio.gather(*((one, two)[n % 2].register("s", text) for n, text in enumerate(texts)))
    await one.refresh()
    assert ids == [codec.content_id(text) for text in texts]
    assert sorted(e.id for e in await in_folder(tmp_path).list_entries() if e.subject == "s") == sorted(ids)


async def test_a_schema_added_while_running_is_found(tmp_path: Path) -> None:
    registry = in_folder(tmp_path)
    with pytest.raises(UnknownSchemaError):
        await registry.schema(codec.content_id(A))
    (tmp_path / "things.v1.avsc").write_text(A)
    assert await registry.schema(codec.content_id(A)) == A


async def test_unknown_ids_do_not_read_the_folder_each_time(tmp_path: Path) -> None:
    clock = ManualClock()
    file = tmp_path / "things.v1.avsc"
    file.write_text(A)
    registry = in_folder(tmp_path, clock)
    file.write_text(B)  # in place: the folder's own time stays, so only time brings it up
    for _ in range(3):
        with pytest.raises(UnknownSchemaError):
            await registry.schema(codec.content_id(B))
    clock.advance_ms(int(RESCAN_SECONDS * 1000))
    assert await registry.schema(codec.content_id(B)) == B


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("things.avsc", A, "is not named <subject>.v<version>.avsc"),
        ("things.v0.avsc", A, "is not named <subject>.v<version>.avsc"),
        ("things.v1.avsc", "{", "not a valid Avro schema"),
        ("things.v1.avsc", '"unheard"', "not a valid Avro schema"),
        ("things.v1.avsc", " " * (1 << 20) + A, "is larger than"),
        ("distributary.Event.v2.avsc", A, "a second version 2 of distributary.Event"),
    ],
)
async def test_a_wrong_file_is_named_at_the_start_and_left_out_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: str, sentence: str
) -> None:
    clock = ManualClock()
    registry = in_folder(tmp_path, clock)
    (tmp_path / name).write_text(content)
    (tmp_path / "good.v1.avsc").write_text(B)
    with pytest.raises(ValueError, match=sentence) as error:
        in_folder(tmp_path)
    assert name in str(error.value)
    assert await registry.schema(codec.content_id(B)) == B
    clock.advance_ms(60_000)
    await registry.refresh()
    assert [sentence in record.message for record in caplog.records] == [True]  # once


async def test_other_files_and_files_in_the_making_are_no_schemas(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / ".1.2.partial").write_text("{")
    (tmp_path / ".hidden.v1.avsc").write_text("{")
    assert await in_folder(tmp_path).list_entries() == await in_folder(None).list_entries()


async def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist; create it"):
        in_folder(tmp_path / "gone")


async def test_a_folder_that_goes_away_means_out_of_reach(tmp_path: Path) -> None:
    folder = tmp_path / "schemas"
    folder.mkdir()
    registry = in_folder(folder)
    folder.rmdir()
    for _ in range(2):
        with pytest.raises(RegistryUnavailableError, match="cannot be read"):
            await registry.schema(1)
    folder.mkdir()
    with pytest.raises(UnknownSchemaError):
        await registry.schema(1)


async def test_a_schema_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    registry = in_folder(tmp_path)
    with pytest.raises(ValueError, match="too long for a file"):
        await registry.register("s" * 300, A)
    with pytest.raises(ValueError, match="is larger than"):
        await registry.register("s", text_of("a", doc="x" * (1 << 20)))
    (tmp_path / "s.v1.avsc").mkdir()  # not a file: reading it fails, and so would replacing it
    with pytest.raises((ValueError, RegistryUnavailableError), match="cannot be"):
        await registry.register("s", A)


def colliding() -> tuple[str, str]:
    """Two schemas with the same id: some 50,000 texts have one such pair among them."""
    seen: dict[int, str] = {}
    for n in range(1_000_000):
        text = f'{{"fields":[],"name":"R{n}","type":"record"}}'
        other = seen.setdefault(codec.content_id(text), text)
        if other is not text:
            return other, text
    raise AssertionError("no collision among a million")


async def test_two_schemas_with_one_id_are_an_error_in_words(tmp_path: Path) -> None:
    one, two = colliding()
    clock = ManualClock()
    registry = in_folder(tmp_path, clock)
    schema_id = await registry.register("one", one)
    with pytest.raises(ValueError, match="come to the same id"):
        await registry.register("two", two)
    assert names(tmp_path) == ["one.v1.avsc"]

    (tmp_path / "two.v1.avsc").write_text(two)
    with pytest.raises(ValueError, match=r"of one version 1 and of two version 1, come to the same id"):
        in_folder(tmp_path)
    await registry.refresh()
    with pytest.raises(RegistryUnavailableError, match="come to the same id"):
        await registry.schema(schema_id)  # neither: the record must wait, not be decoded with the wrong one
    (tmp_path / "two.v1.avsc").unlink()
    assert await registry.schema(schema_id) == one


# --- by URL -------------------------------------------------------------------------------------------------


def by_url(url: str, clock: ManualClock | None = None, **conf: Any) -> ConfluentRegistry:
    # One try: these tests are about what an answer means, and the client's own retries take half a second.
    return ConfluentRegistry(url, conf={"max.retries": 0, **conf}, monotonic=(clock or ManualClock()).monotonic)


def answering(answer: Callable[[web.Request], Awaitable[web.Response]]) -> web.Application:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    return app


def always(status: int, document: Any) -> web.Application:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(document, status=status)

    return answering(answer)


@pytest.mark.parametrize(
    ("status", "document", "sentence"),
    [
        (404, {"error_code": 404, "message": "HTTP 404 Not Found"}, "answers 404"),
        (404, "not a registry", "answers 404"),
        (401, {"error_code": 401, "message": "Unauthorized"}, "refuses the credentials"),
        (403, {"error_code": 40301, "message": "Forbidden"}, "refuses the credentials"),
        (429, {"error_code": 429, "message": "slow down"}, "answers 429"),
        (500, {"error_code": 50001, "message": "store"}, "answers 500"),
        (503, {}, "answers 503"),
        (200, ["not a schema"], "does not answer"),
    ],
)
async def test_what_says_nothing_about_the_schema_means_out_of_reach(status: int, document: Any, sentence: str) -> None:
    async with served(always(status, document)) as url:
        registry = by_url(url)
        with pytest.raises(RegistryUnavailableError, match=sentence):
            await registry.schema(1)
        with pytest.raises(RegistryUnavailableError):
            await registry.register("s", A)
        await registry.close()


async def test_nobody_there_means_out_of_reach_and_no_password_in_the_sentence() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: refuses every connection
        registry = by_url(f"http://me:hush@127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(RegistryUnavailableError, match="does not answer") as error:
            await registry.schema(1)
    assert "hush" not in str(error.value)
    await registry.close()


async def test_no_answer_in_time_means_out_of_reach() -> None:
    never = asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    async with served(answering(answer)) as url:
        registry = by_url(url, timeout=0.1)
        with pytest.raises(RegistryUnavailableError, match="Timeout"):
            await registry.schema(1)
        never.set()
        await registry.close()


@pytest.mark.parametrize(("status", "code"), [(409, 409), (422, 42201)])
async def test_a_refused_schema_is_a_value_error(status: int, code: int) -> None:
    async with served(always(status, {"error_code": code, "message": "READER_FIELD_MISSING"})) as url:
        registry = by_url(url)
        with pytest.raises(ValueError, match="refuses the schema: READER_FIELD_MISSING"):
            await registry.register("s", A)
        await registry.close()


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"schema": "{}", "schemaType": "JSON"}, "is JSON, not AVRO"),
        (
            {"schema": A, "references": [{"name": "x", "subject": "x", "version": 1}]},
            "refers to itself by way of x version 1",
        ),
    ],
)
async def test_a_schema_of_another_kind_counts_as_unknown(document: Any, sentence: str) -> None:
    async with served(always(200, document)) as url:
        registry = by_url(url)
        with pytest.raises(UnknownSchemaError, match=sentence):
            await registry.schema(1)
        await registry.close()


async def test_answers_are_remembered_and_denials_for_a_while() -> None:
    asked: list[str] = []
    known = {1: A}

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        text = known.get(int(request.path.rpartition("/")[2]))
        if text is None:
            return web.json_response({"error_code": 40403, "message": "Schema not found"}, status=404)
        return web.json_response({"schema": text})

    async with served(answering(answer)) as url:
        clock = ManualClock()
        registry = by_url(url, clock)
        for _ in range(3):
            assert await registry.schema(1) == A
            with pytest.raises(UnknownSchemaError):
                await registry.schema(2)
        assert asked == ["/schemas/ids/1", "/schemas/ids/2"]
        known[2] = B
        clock.advance_ms(10_000)
        assert await registry.schema(2) == B
        for n in range(3, CACHED_MAX + 10):
            known[n] = A
            await registry.schema(n)
        assert len(registry._texts) == CACHED_MAX
        # Nor does Confluent's client keep more.
        assert sum(map(len, registry._client._cache.schema_id_index.values())) < CACHED_MAX
        await registry.close()


async def test_the_newest_version_is_looked_at_again_after_a_while_and_kept_during_an_outage() -> None:
    asked: list[str] = []
    latest = {"subject": "s", "version": 1, "id": 1, "schema": A}
    down = False

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        if down:
            return web.json_response({"error_code": 50001, "message": "store"}, status=500)
        if request.path.endswith("/1/versions"):
            return web.json_response([{"subject": "s", "version": 1}])
        return web.json_response(latest)

    async with served(answering(answer)) as url:
        clock = ManualClock()
        registry = by_url(url, clock)
        for _ in range(3):
            assert await registry.version("s", LATEST) == (1, 1, A)
            assert await registry.version("s", 1) == (1, 1, A)
            assert list(await registry.versions_of(1)) == [("s", 1)]
        assert asked == ["/subjects/s/versions/latest", "/schemas/ids/1/versions"]

        latest = {"subject": "s", "version": 2, "id": 2, "schema": B}
        clock.advance_ms(int(LATEST_SECONDS * 1000))
        assert await registry.version("s", LATEST) == (2, 2, B)

        down = True
        clock.advance_ms(60_000)
        assert await registry.version("s", LATEST) == (2, 2, B)
        assert await registry.version("s", 1) == (1, 1, A)
        assert list(await registry.versions_of(1)) == [("s", 1)]
        for question in (registry.version("t", LATEST), registry.versions_of(2), registry.version("s", 3)):
            with pytest.raises(RegistryUnavailableError):
                await question
        count = len(asked)
        assert await registry.version("s", LATEST) == (2, 2, B)
        assert len(asked) == count  # nor is a registry that is down asked at each event
        await registry.close()


async def test_basic_auth_and_tls_settings_reach_the_client(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    expected = "Basic " + base64.b64encode(b"me:se:cret").decode()

    async def answer(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != expected:
            return web.json_response({"error_code": 401, "message": "Unauthorized"}, status=401)
        return web.json_response({"schema": A})

    server = TestServer(answering(answer), scheme="https", host="127.0.0.1")
    await server.start_server(ssl=context)
    try:
        url = str(server.make_url("")).rstrip("/")
        trusting: dict[str, Any] = {"ssl.ca.location": str(tmp_path / "ca.pem")}
        registry = by_url(url, **trusting | {"basic.auth.user.info": "me:se:cret"})
        assert await registry.schema(1) == A
        stranger = by_url(url, **trusting)
        with pytest.raises(RegistryUnavailableError, match="credentials"):
            await stranger.schema(1)
        distrusting = by_url(url)
        with pytest.raises(RegistryUnavailableError, match="certificate"):
            await distrusting.schema(1)
        for client in (registry, stranger, distrusting):
            await client.close()
    finally:
        await server.close()


@pytest.mark.parametrize(
    ("url", "conf"),
    [
        ("ftp://127.0.0.1", {}),
        ("http://127.0.0.1", {"basic.auth.user.info": "no-colon"}),
        ("http://127.0.0.1", {"ssl.ca.location": "/nowhere/ca.pem"}),
        ("http://127.0.0.1", {"unheard.of": 1}),
    ],
)
def test_wrong_settings_are_one_sentence(url: str, conf: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="settings of the schema registry"):
        ConfluentRegistry(url, conf=conf, monotonic=ManualClock().monotonic)


def test_the_settings_choose_the_registry(tmp_path: Path) -> None:
    monotonic = ManualClock().monotonic
    assert isinstance(registry_from(monotonic=monotonic), FolderRegistry)
    assert isinstance(registry_from(folder=tmp_path, monotonic=monotonic), FolderRegistry)
    assert isinstance(registry_from(url="http://127.0.0.1:1", monotonic=monotonic), ConfluentRegistry)
    with pytest.raises(ValueError, match="both set"):
        registry_from(url="http://127.0.0.1:1", folder=tmp_path, monotonic=monotonic)


# --- the server, and Confluent's own clients ----------------------------------------------------------------

VALUE = SerializationContext("things", MessageField.VALUE)


async def test_confluents_serializer_and_deserializer_meet_over_the_server(tmp_path: Path) -> None:
    async with served_folder(tmp_path) as url:

        def foreign() -> tuple[bytes, Any]:
            with SchemaRegistryClient({"url": url}) as writing, SchemaRegistryClient({"url": url}) as reading:
                serialize = AvroSerializer(writing, A)
                value = serialize({"a": "hello"}, VALUE)
                assert value is not None
                return value, AvroDeserializer(reading)(value, VALUE)

        value, record = await asyncio.to_thread(foreign)
    assert record == {"a": "hello"}
    assert codec.wire_schema_id(value) == codec.content_id(A)
    assert codec.decode(value, codec.parse_schema(A)) == {"a": "hello"}
    assert (tmp_path / "things-value.v1.avsc").exists()


async def test_confluents_serializer_looks_up_what_may_not_be_registered(tmp_path: Path) -> None:
    (tmp_path / "things-value.v1.avsc").write_text(A)
    async with served_folder(tmp_path) as url:

        def foreign() -> bytes | None:
            with SchemaRegistryClient({"url": url}) as client:
                value: bytes | None = AvroSerializer(client, A, conf={"auto.register.schemas": False})({"a": ""}, VALUE)
                latest = {"auto.register.schemas": False, "use.latest.version": True}
                assert AvroSerializer(client, A, conf=latest)({"a": ""}, VALUE) == value
                with pytest.raises(SchemaRegistryError) as error:
                    AvroSerializer(client, B, conf={"auto.register.schemas": False})({"b": ""}, VALUE)
                assert (error.value.http_status_code, error.value.error_code) == (404, 40403)
                return value

        value = await asyncio.to_thread(foreign)
    assert codec.wire_schema_id(value) == codec.content_id(A)


async def test_confluents_deserializer_is_told_of_an_unknown_id() -> None:
    async with served_folder(None) as url:

        def foreign() -> None:
            with SchemaRegistryClient({"url": url}) as client:
                AvroDeserializer(client)(codec.wire_header(7) + b"\x00", VALUE)

        with pytest.raises(SchemaRegistryError) as error:
            await asyncio.to_thread(foreign)
    assert (error.value.http_status_code, error.value.error_code) == (404, 40403)


async def test_confluents_client_finds_its_way_around(tmp_path: Path) -> None:
    async with served_folder(tmp_path) as url:

        def foreign() -> None:
            with SchemaRegistryClient({"url": url}) as client:
                schema_id = client.register_schema("a/b", Schema(A, "AVRO"))
                assert client.register_schema("a/b", Schema(B, "AVRO")) == codec.content_id(B)
                assert "a/b" in client.get_subjects()
                assert client.get_versions("a/b") == [1, 2]
                assert client.get_version("a/b", 1).schema_id == schema_id
                assert client.get_latest_version("a/b").version == 2
                assert client.lookup_schema("a/b", Schema(B, "AVRO")).version == 2
                found = [(v.subject, v.version) for v in client.get_schema_versions(schema_id)]
                assert found == [("a/b", 1)]
                assert client.get_schema_types() == ["AVRO"]

        await asyncio.to_thread(foreign)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/", None, 200, None),
        ("GET", "/config", None, 200, None),
        ("GET", "/nowhere", None, 404, 404),
        ("DELETE", "/subjects", None, 405, 405),
        ("GET", "/schemas/ids/x", None, 404, 40403),
        ("GET", "/schemas/ids/7/versions", None, 404, 40403),
        ("GET", "/subjects/none/versions", None, 404, 40401),
        ("GET", "/subjects/none/versions/latest", None, 404, 40401),
        ("GET", "/subjects/distributary.Event/versions/9", None, 404, 40402),
        ("GET", "/subjects/distributary.Event/versions/0", None, 422, 42202),
        ("GET", "/subjects/distributary.Event/versions/x", None, 422, 42202),
        ("GET", "/subjects/distributary.Event/versions/-1", None, 200, None),
        ("POST", "/subjects/none", {"schema": A}, 404, 40401),
        ("POST", "/subjects/distributary.Event", {"schema": A}, 404, 40403),
        ("POST", "/subjects/s/versions", {"schema": "{"}, 422, 42201),
        ("POST", "/subjects/s/versions", {"schema": A, "schemaType": "JSON"}, 422, 42201),
        ("POST", "/subjects/s/versions", {"schema": A, "references": [{}]}, 422, 422),
        ("POST", "/subjects/s/versions", {"schema": A}, 422, 42205),  # this one has no folder
        ("POST", "/subjects/s/versions", {}, 422, 422),
        ("DELETE", "/subjects/distributary.Event", None, 422, 42205),  # its schemas are files
        ("DELETE", "/subjects/distributary.Event/versions/1", None, 422, 42205),
        ("PUT", "/config", {"compatibility": "FULL"}, 422, 42205),
        ("PUT", "/config/s", {}, 422, 42203),
        ("DELETE", "/config/s", None, 422, 42205),
        ("GET", "/config/s", None, 404, 40408),
        ("GET", "/config/s?defaultToGlobal=true", None, 200, None),
        ("GET", "/mode", None, 200, None),
        ("GET", "/mode/s", None, 404, 40409),
        ("GET", "/subjects?limit=x", None, 422, 422),
        ("GET", "/subjects/distributary.Event/versions/1/schema", None, 200, None),
        ("GET", "/subjects/distributary.Event/versions/1/referencedby", None, 200, None),
        ("POST", "/compatibility/subjects/distributary.Event/versions/9", {"schema": A}, 404, 40402),
        ("POST", "/compatibility/subjects/distributary.Event/versions?verbose=true", {"schema": A}, 200, None),
    ],
)
async def test_errors_are_documents(method: str, path: str, body: Any, status: int, code: int | None) -> None:
    async with (
        served_folder(None) as url,
        aiohttp.ClientSession() as session,
        session.request(method, url + path, json=body) as response,
    ):
        document = await response.json(content_type="application/vnd.schemaregistry.v1+json")
        assert response.status == status
    if code is not None:
        assert document["error_code"] == code
        assert isinstance(document["message"], str)


async def test_a_body_beyond_the_bound_is_refused() -> None:
    async with served_folder(None) as url, aiohttp.ClientSession() as session:
        body = io.BytesIO(b'{"schema": "' + b"x" * BODY_BYTES_MAX + b'"}')
        async with session.post(url + "/subjects/s/versions", data=body) as response:
            assert response.status == 413


async def test_a_folder_that_cannot_be_read_is_a_server_error(tmp_path: Path) -> None:
    folder = tmp_path / "schemas"
    folder.mkdir()
    async with served_folder(folder) as url, aiohttp.ClientSession() as session:
        folder.rmdir()
        async with session.get(url + "/subjects") as response:
            assert (response.status, (await response.json(content_type=None))["error_code"]) == (500, 50001)
