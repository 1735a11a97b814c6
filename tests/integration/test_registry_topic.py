"""`distributary registry` on a real Kafka: restarts, two at once, records of somebody else, writers that died."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

from connectors.admin import apply_topics
from connectors.feed import Reader
from connectors.local_kafka import Cluster
from connectors.registry_rules import Asked, RefusedError
from connectors.registry_topic import StoreError, TopicStore, prepare_topic
from schemas.topics import TopicSpec
from tests.helpers import eventually
from tests.integration.workers import ROOT

A = '{"type":"record","name":"Thing","fields":[{"name":"a","type":"string"}]}'
AB = '{"type":"record","name":"Thing","fields":[{"name":"a","type":"string"},{"name":"b","type":"long","default":0}]}'
C = '{"type":"record","name":"Thing","fields":[{"name":"c","type":"string"}]}'
LIST = orjson.dumps('{"type":"array","items":"Thing"}').decode()
REFERS = '"references":[{"name":"Thing","subject":"things-value","version":1}],"deleted":false'
VALUE = SerializationContext("things", MessageField.VALUE)

#: A topic as Confluent's registry leaves it: noop at its start, keys and values by its Jackson classes, levels with and
#: without a null subject, a soft deletion of a version and of a subject, and a tombstone. Written by hand from its
#: documented format and field order.
FOREIGN: list[tuple[str, str | None]] = [
    ('{"keytype":"NOOP","magic":0}', None),
    (
        '{"keytype":"SCHEMA","subject":"things-value","version":1,"magic":1}',
        '{"subject":"things-value","version":1,"id":1,"schema":' + orjson.dumps(A).decode() + ',"deleted":false}',
    ),
    ('{"keytype":"CONFIG","subject":null,"magic":0}', '{"compatibilityLevel":"FULL"}'),
    (
        '{"keytype":"SCHEMA","subject":"things-value","version":2,"magic":1}',
        '{"subject":"things-value","version":2,"id":2,"md5":"w6Bm","schema":'
        + orjson.dumps(AB).decode()
        + ',"schemaType":"AVRO","deleted":false}',
    ),
    (
        '{"keytype":"SCHEMA","subject":"gone-value","version":1,"magic":1}',
        '{"subject":"gone-value","version":1,"id":3,"schema":"\\"long\\"","deleted":false}',
    ),
    ('{"keytype":"DELETE_SUBJECT","subject":"gone-value","magic":0}', '{"subject":"gone-value","version":1}'),
    (
        '{"keytype":"CONTEXT","tenant":"default","context":".other","magic":0}',
        '{"tenant":"default","context":".other"}',
    ),
    (
        '{"keytype":"SCHEMA","subject":"list-value","version":1,"magic":1}',
        f'{{"subject":"list-value","version":1,"id":4,"schema":{LIST},{REFERS}}}',
    ),
    (
        '{"keytype":"SCHEMA","subject":"proto-value","version":1,"magic":1}',
        '{"subject":"proto-value","version":1,"id":5,"schemaType":"PROTOBUF","schema":"message M {}","deleted":false}',
    ),
    ('{"keytype":"SCHEMA","subject":"lost-value","version":1,"magic":1}', None),
    ("no record of a registry", "at all"),
]


def config(kafka: Cluster) -> dict[str, Any]:
    return {"bootstrap.servers": kafka.bootstrap}


@pytest.fixture
async def topic(kafka: Cluster, prefix: str) -> str:
    name = f"{prefix}schemas"
    await prepare_topic(config(kafka), name, 1)
    await prepare_topic(config(kafka), name, 1)  # it is there: nothing to do
    return name


@asynccontextmanager
async def store(kafka: Cluster, topic: str) -> AsyncIterator[TopicStore]:
    made = TopicStore(config(kafka), topic)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def written(kafka: Cluster, topic: str) -> list[tuple[bytes, bytes | None]]:
    """What committed readers find on the topic."""
    async with Reader(config(kafka), [topic], from_beginning=True) as reader:
        return [(m.key() or b"", m.value()) async for batch in reader.batches(follow=False) for m in batch]


async def test_what_another_registry_wrote_is_read_and_gone_on_with(kafka: Cluster, topic: str) -> None:
    producer = Producer(config(kafka))
    for key, value in FOREIGN:
        producer.produce(topic, value, key)
    assert producer.flush(60) == 0
    async with store(kafka, topic) as registry:
        state = await registry.current()
        assert state.subjects() == ["list-value", "proto-value", "things-value"]
        assert state.subjects(deleted=True) == ["gone-value", "list-value", "proto-value", "things-value"]
        assert [entry.id for entry in state.versions("things-value")] == [1, 2]
        assert [entry.deleted for entry in state.by_id(3)] == [True]
        assert (state.level("things-value"), state.id_max) == ("FULL", 5)
        assert (await registry.register_asked("things-value", Asked(AB))).id == 2
        assert (await registry.register_asked("new-value", Asked(C))).id == 6
        with pytest.raises(RefusedError) as error:
            await registry.delete_version("things-value", "1", permanent=False)
        assert error.value.code == 42206  # list-value refers to it
        assert await registry.set_level(None, "NONE") == "NONE"
        assert await registry.delete_version("things-value", "2", permanent=False) == 2
    records = await written(kafka, topic)
    # The key that stands there already, and the fields that are not ours.
    assert records[-2] == (b'{"keytype":"CONFIG","subject":null,"magic":0}', b'{"compatibilityLevel":"NONE"}')
    assert records[-1][0] == b'{"keytype":"SCHEMA","subject":"things-value","version":2,"magic":1}'
    assert orjson.loads(records[-1][1] or b"") == {
        "subject": "things-value",
        "version": 2,
        "id": 2,
        "md5": "w6Bm",
        "schema": AB,
        "deleted": True,
    }


async def test_two_at_once_give_no_id_twice(kafka: Cluster, topic: str) -> None:
    async with store(kafka, topic) as one, store(kafka, topic) as two:
        texts = [f'{{"type":"fixed","name":"F{n}","size":1}}' for n in range(6)]
        entries = await asyncio.gather(
            *((one, two)[n % 2].register_asked(f"s{n}", Asked(text)) for n, text in enumerate(texts))
        )
        assert sorted(entry.id for entry in entries) == [1, 2, 3, 4, 5, 6]
        same = await asyncio.gather(*(each.register_asked("same", Asked(A)) for each in (one, two)))
        assert {(entry.version, entry.id) for entry in same} == {(1, 7)}
        # What one has acknowledged, the other one shows.
        assert await one.set_level("same", "FULL") == "FULL"
        assert (await two.current()).level("same") == "FULL"


async def test_a_record_of_a_writer_that_died_counts_and_is_written_again(kafka: Cluster, topic: str) -> None:
    async with store(kafka, topic) as registry:
        await registry.register_asked("s", Asked(A))
    dead = Producer(config(kafka) | {"transactional.id": f"distributary.registry.{topic}"})
    dead.init_transactions(60)
    dead.begin_transaction()
    key = b'{"keytype":"SCHEMA","subject":"t","version":1,"magic":1}'
    value = b'{"subject":"t","version":1,"id":2,"schema":"\\"long\\"","deleted":false}'
    dead.produce(topic, value, key)
    dead.flush(60)  # in the log, and never committed
    assert (key, value) not in await written(kafka, topic)
    async with store(kafka, topic) as registry:
        assert [entry.id for entry in (await registry.current()).versions("t")] == [2]
        assert (await registry.register_asked("u", Asked(C))).id == 3
    assert (key, value) in await written(kafka, topic)


async def test_a_topic_that_would_lose_schemas_is_refused(kafka: Cluster, prefix: str) -> None:
    specs = [
        TopicSpec(f"{prefix}deleting", 1, "delete", None, 1 << 20),
        TopicSpec(f"{prefix}wide", 2, "compact", None, 1 << 20),
    ]
    await apply_topics(config(kafka), specs, 1)
    with pytest.raises(StoreError, match=r"cleanup\.policy=delete"):
        await prepare_topic(config(kafka), f"{prefix}deleting", 1)
    with pytest.raises(StoreError, match="has 2 partitions, not one"):
        await prepare_topic(config(kafka), f"{prefix}wide", 1)


# --- the command ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(kafka: Cluster, topic: str, log: Path, **environment: str) -> Any:
    """The URL of `distributary registry`, in a process of its own that ends in order."""
    command = [sys.executable, "-m", "streams.cli", "registry", "--port", "0", "--topic", topic]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"PYTHONPATH": str(ROOT), "DISTRIBUTARY_BOOTSTRAP": kafka.bootstrap, "PYTHONUNBUFFERED": "1"}
            | environment,
            cwd=log.parent,
        )
    try:
        eventually(
            lambda: "ready: " in log.read_text() or process.poll() is not None, timeout_s=120, message="the registry"
        )
        assert process.poll() is None, log.read_text()
        yield log.read_text().partition("ready: ")[2].split()[0]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(300)
async def test_a_restart_finds_everything(kafka: Cluster, topic: str, tmp_path: Path) -> None:
    def before(url: str) -> bytes:
        with SchemaRegistryClient({"url": url}) as client:
            value: bytes | None = AvroSerializer(client, A)({"a": "hello"}, VALUE)
            client.register_schema("things-value", Schema(AB, "AVRO"))
            client.set_compatibility("things-value", "FULL")
            client.register_schema("gone", Schema(C, "AVRO"))
            assert client.delete_subject("gone") == [1]
            assert not client.test_compatibility("things-value", Schema(C, "AVRO"))
            assert client.test_compatibility_all_versions("things-value", Schema(AB, "AVRO"))
            with pytest.raises(SchemaRegistryError) as error:
                client.register_schema("things-value", Schema(C, "AVRO"))
            assert (error.value.http_status_code, error.value.error_code) == (409, 409)
            assert value is not None
            return value

    def after(url: str, value: bytes) -> None:
        with SchemaRegistryClient({"url": url, "basic.auth.user.info": "me:se:cret"}) as client:
            assert AvroDeserializer(client)(value, VALUE) == {"a": "hello"}
            assert client.get_subjects() == ["things-value"]
            assert client.get_subjects(deleted=True) == ["gone", "things-value"]
            assert client.get_versions("things-value") == [1, 2]
            assert client.get_latest_version("things-value").schema.schema_str == AB
            assert client.get_compatibility("things-value") == "FULL"
            assert client.get_compatibility() == "BACKWARD"
            assert client.get_global_mode() == "READWRITE"
            assert client.delete_subject("gone", permanent=True) == [1]
            assert client.register_schema("next", Schema('"long"', "AVRO")) == 4
        with SchemaRegistryClient({"url": url}) as stranger, pytest.raises(SchemaRegistryError) as error:
            stranger.get_subjects()
        assert error.value.http_status_code == 401

    with served(kafka, topic, tmp_path / "one.log") as url:
        value = await asyncio.to_thread(before, url)
    with served(kafka, topic, tmp_path / "two.log", DISTRIBUTARY_REGISTRY_USERS="me:se:cret") as url:
        await asyncio.to_thread(after, url, value)
