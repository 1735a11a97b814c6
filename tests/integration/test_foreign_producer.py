"""Events by somebody else's producer: confluent-kafka's own AvroSerializer and registry client, none of our code."""

from __future__ import annotations

import asyncio
import datetime
import decimal
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web
from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from connectors.local_kafka import Cluster
from connectors.memory import ManualClock
from connectors.registry_folder import FolderRegistry
from connectors.registry_rest import registry_app
from schemas import codec
from tests.helpers import eventually_async
from tests.integration.sink import Sink
from tests.integration.workers import Site

ORDER = """{"type": "record", "name": "Order", "namespace": "shop", "fields": [
  {"name": "number", "type": "string"},
  {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
  {"name": "placed", "type": {"type": "long", "logicalType": "timestamp-millis"}},
  {"name": "note", "type": ["null", "string"], "default": null}]}"""
PLACED = datetime.datetime(2026, 11, 22, 9, 40, 0, 123_000, tzinfo=datetime.UTC)


async def test_envelopes_and_plain_records_of_a_foreign_serializer(kafka: Cluster, prefix: str, tmp_path: Path) -> None:
    runner = web.AppRunner(registry_app(FolderRegistry(tmp_path, monotonic=ManualClock().monotonic)))
    await runner.setup()
    listener = web.TCPSite(runner, "127.0.0.1", 0)
    await listener.start()
    registry_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        site = await Site.made(kafka.bootstrap, prefix, registry_url=registry_url)
        async with Sink().running() as sink:
            site.subscribe("all", sink.url("/all"), event_types=("*",))
            async with site.worker() as worker:
                await asyncio.to_thread(produce, kafka.bootstrap, site.topics.events, registry_url)
                await eventually_async(lambda: len(sink.received) == 2)
                await eventually_async(lambda: worker.counters["delivered"] == 2)
    finally:
        await runner.cleanup()
    bodies = {body["type"]: body for body in (orjson.loads(received.body) for received in sink.received)}
    assert bodies["invoice.paid"]["data"] == {"invoice": 7}
    assert bodies["order.placed"] == {
        "type": "order.placed",
        "timestamp": "2026-11-22T09:40:00.123Z",
        "data": {"number": "o-1", "total": "12.50", "placed": "2026-11-22T09:40:00.123Z", "note": None},
    }


def produce(bootstrap: str, topic: str, registry_url: str) -> None:
    """As an application would: serialise, produce, flush."""
    with SchemaRegistryClient({"url": registry_url}) as client:
        _produce(bootstrap, topic, client)


def _produce(bootstrap: str, topic: str, client: SchemaRegistryClient) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    context = SerializationContext(topic, MessageField.VALUE)
    envelope: Any = AvroSerializer(client, codec.own_schema("event.v1"))
    event = {"id": "e1", "type": "invoice.paid", "tenant": "default", "time": PLACED, "data": b'{"invoice": 7}'}
    producer.produce(topic, envelope(event, context), b"i7")
    order: Any = AvroSerializer(client, ORDER)
    record = {"number": "o-1", "total": decimal.Decimal("12.50"), "placed": PLACED, "note": None}
    attributes = {
        "ce_specversion": "1.0",
        "ce_id": "e2",
        "ce_type": "order.placed",
        "ce_source": "/shop",
        "ce_time": PLACED.isoformat(),
    }
    headers: Any = [(name, text.encode()) for name, text in attributes.items()]
    producer.produce(topic, order(record, context), b"o-1", headers=headers)
    assert producer.flush(10) == 0
