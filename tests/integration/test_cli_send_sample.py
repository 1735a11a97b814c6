"""`send --sample`: what is sent is what the type's schema says, and fan-out's decoder takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from connectors.admin import apply_topics
from connectors.feed import Reader, Writer
from connectors.local_kafka import Cluster
from schemas import codec
from schemas.event import Event, event_decoder
from schemas.event_type import EventType, encode_event_type
from schemas.rendering import render_json
from schemas.samples import sample
from schemas.topics import Topics
from tests.cli import ROOT, Cli

SCHEMA = ROOT / "schemas/examples/order.v5.avsc"


@pytest.fixture
async def cli(tmp_path: Path, kafka: Cluster, prefix: str) -> Cli:
    await apply_topics({"bootstrap.servers": kafka.bootstrap}, Topics(prefix, 2).specs(), -1)
    (tmp_path / "registry").mkdir()
    made = Cli(tmp_path, {"bootstrap": kafka.bootstrap, "prefix": prefix, "schemas": str(tmp_path / "registry")})
    made.run("schemas", "register", str(SCHEMA), "--subject", "orders-value")
    return made


async def describe(kafka: Cluster, prefix: str, **given: Any) -> None:
    described = EventType(**given)
    header = codec.wire_header(codec.content_id(codec.own_schema("event_type.v1")))
    async with Writer({"bootstrap.servers": kafka.bootstrap}) as writer:
        value = encode_event_type(header, described)
        await writer.write(Topics(prefix).event_types, described.name.encode(), value)


async def events(kafka: Cluster, prefix: str) -> list[tuple[bytes | None, Event]]:
    """(key, event) of what is on the topic, as fan-out reads it."""
    own = codec.own_schema("event.v3")
    texts = {codec.content_id(own): own}
    found = []
    config = {"bootstrap.servers": kafka.bootstrap}
    async with Reader(config, [Topics(prefix).events], from_beginning=True) as reader:
        async for batch in reader.batches(follow=False):
            for message in batch:
                value: Any = message.value()
                headers: Any = message.headers()
                text = texts.get(codec.wire_schema_id(value), SCHEMA.read_text())
                key: Any = message.key()
                found.append((key, event_decoder(text).decode(value, headers, 0)))
    return found


async def test_a_sample_is_a_record_of_the_types_schema(cli: Cli, kafka: Cluster, prefix: str) -> None:
    await describe(kafka, prefix, name="order.created", schema="orders-value", example="[1]")
    await describe(kafka, prefix, name="user.created", example='{"name": "Ada"}')
    cli.run(
        "send", "--sample", "order.created", "--id", "e1", "--tenant", "acme", "--subject", "o/1", "--source", "/shop"
    )
    cli.run("send", "--sample", "user.created", "--id", "e2")
    cli.run("send", "--sample", "order.paid", "--schema", "orders-value", "--id", "e3")
    found = {event.id: (key, event) for key, event in await events(kafka, prefix)}
    key, first = found["e1"]
    assert key == b"o/1"
    assert (first.type, first.tenant, first.subject, first.source) == ("order.created", "acme", "o/1", "/shop")
    assert abs(first.time_ms - found["e2"][1].time_ms) < 600_000
    assert first.data == render_json(sample(SCHEMA.read_text()))
    assert found["e2"][1].data == b'{"name": "Ada"}'
    assert found["e3"][1].type == "order.paid"
    assert found["e3"][1].data == first.data


async def test_what_cannot_be_sampled_is_said(cli: Cli, kafka: Cluster, prefix: str) -> None:
    await describe(kafka, prefix, name="a.gone", schema="gone-value")
    assert "nothing says how an event of a.b looks" in cli.fails("send", "--sample", "a.b")
    assert "no sample can be made of the subject gone-value" in cli.fails("send", "--sample", "a.gone")
    assert "one of --type and --sample" in cli.misused("send", "--sample", "a", "--type", "a")
    assert "--schema is for samples" in cli.misused("send", "--type", "a", "--schema", "x")
    assert "--schema is for samples" in cli.misused("send", "--sample", "a", "--data", "{}")
    assert not await events(kafka, prefix)
