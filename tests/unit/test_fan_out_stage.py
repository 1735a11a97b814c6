"""The fan-out stage: every event becomes its deliveries or a quarantined record, in order, whatever it is made of."""

from __future__ import annotations

import asyncio
import base64
import datetime
import decimal
import io
import uuid
from typing import Any

import fastavro
import orjson
import pytest

from connectors.memory import MemoryRegistry
from schemas import codec
from schemas.event import Event, encode_event
from schemas.frame import Headers
from schemas.ids import delivery_id
from schemas.topics import EVENT_BYTES_MAX
from streams import lookup
from streams.core.ledger import Ledger
from streams.fan_out import FanOut
from streams.records import DeliverySchemas
from tests.helpers import eventually_async
from tests.unit.stages import TOPICS, World, subscription, turns, why_quarantined

EVENTS = TOPICS.events
ORDER = """{"type": "record", "name": "Order", "namespace": "shop", "fields": [
  {"name": "number", "type": "long"},
  {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
  {"name": "placed", "type": {"type": "long", "logicalType": "timestamp-millis"}},
  {"name": "day", "type": {"type": "int", "logicalType": "date"}},
  {"name": "ref", "type": {"type": "string", "logicalType": "uuid"}},
  {"name": "raw", "type": "bytes"}]}"""
SCHEMAS = DeliverySchemas(delivery_v1=77, delivery=78, attempt=79, dead_letter=80)
CE: Headers = [("ce_id", b"ce_1"), ("ce_type", b"order.placed"), ("ce_source", b"/shop"), ("ce_specversion", b"1.0")]


class Stage(World):
    """A fan-out stage and its registry."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = MemoryRegistry()
        self.stage = FanOut(TOPICS, self.table, self.registry, self.settler, self.clock, self.counters, SCHEMAS)
        self.event_id = 0

    async def process(
        self, *values: bytes | None, headers: Headers | None = None, timestamp_ms: int | None = None
    ) -> None:
        await self.stage.process(self.frame(EVENTS, list(values), headers=headers, timestamp_ms=timestamp_ms))
        await self.settler.flush()

    async def register(self, schema: str) -> int:
        return await self.registry.register("s", schema)

    async def envelope(self) -> int:
        return await self.register(codec.own_schema("event.v3"))

    def reasons(self) -> list[str]:
        return [why_quarantined(stored)[0] for stored in self.written(TOPICS.quarantine)]


def event(number: int = 1, event_type: str = "order.created", data: bytes = b'{"n":1}', **fields: Any) -> Event:
    return Event(f"evt_{number}", event_type, fields.pop("tenant", "default"), 1_700_000_000_123, data, **fields)


def avro(schema_id: int, schema: str, record: dict[str, Any]) -> bytes:
    """Framed by fastavro alone: what a foreign producer would write."""
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(orjson.loads(schema)), record)
    return b"\0" + schema_id.to_bytes(4, "big") + stream.getvalue()


async def test_an_event_becomes_one_delivery_for_every_match() -> None:
    world = Stage()
    schema_id = await world.envelope()
    for one in (
        subscription("a"),
        subscription("b", event_types=("order.created", "order.*", "*")),
        subscription("c", event_types=("invoice.*",)),
        subscription("d", tenant="other"),
        subscription("e", state="paused"),
    ):
        world.table.put(one)
    async with world.running():
        await world.process(encode_event(schema_id, event(traceparent="00-1-2-01", subject="o/1")), timestamp_ms=5_000)
    found = world.deliveries(TOPICS.deliveries)
    assert [(one.subscription_id, one.id) for one in found] == [(s, delivery_id("evt_1", s)) for s in "abe"]
    assert {(one.attempt, one.due_ms, one.first_attempt_ms, one.tries, one.traceparent) for one in found} == {
        (0, 0, 0, (), "00-1-2-01")
    }
    assert {one.body for one in found} == {
        b'{"type":"order.created","timestamp":"2023-11-14T22:13:20.123Z","data":{"n":1}}'
    }
    assert [stored.key for stored in world.written(TOPICS.deliveries)] == [b"a", b"b", b"e"]
    assert world.position(EVENTS) == 1
    assert world.counters == {"events": 1, "deliveries": 3}


async def test_order_is_that_of_the_partition() -> None:
    world = Stage()
    schema_id = await world.envelope()
    world.table.put(subscription("a", format="data"))
    async with world.running():
        for start in (0, 20):
            values = [encode_event(schema_id, event(n, data=b"%d" % n)) for n in range(start, start + 20)]
            await world.stage.process(world.frame(EVENTS, [*values[:7], b"bad", *values[7:]]))
        await world.settler.flush()
    assert [one.body for one in world.deliveries(TOPICS.deliveries)] == [b"%d" % n for n in range(40)]
    assert world.position(EVENTS) == 42


async def test_a_body_is_rendered_once_for_all_that_share_its_format(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Stage()
    schema_id = await world.envelope()
    for number in range(10):
        world.table.put(subscription(f"s{number}", format="data" if number % 2 else "standard"))
    async with world.running():
        await world.process(encode_event(schema_id, event()))
    found = world.deliveries(TOPICS.deliveries)
    assert len(found) == 10
    tails = {one.subscription_id: one.tail for one in found}
    assert len(set(tails.values())) == 2
    assert {one.body for one in found if int(one.subscription_id[1]) % 2} == {b'{"n":1}'}


async def test_an_event_that_nobody_wants_is_finished() -> None:
    world = Stage()
    schema_id = await world.envelope()
    async with world.running():
        await world.process(encode_event(schema_id, event()))
    assert world.written(TOPICS.deliveries) == []
    assert world.position(EVENTS) == 1
    assert world.counters["unmatched"] == 1


async def test_who_was_never_verified_gets_nothing_and_who_moved_gets_it_parked_later() -> None:
    world = Stage()
    world.table.put(subscription("never", verification="ping"))
    world.table.put(subscription("never_filtered", verification="ping", filter='{"type":["order.created"]}'))
    async with world.running():
        await world.process(encode_event(await world.envelope(), event(1)))
        assert world.counters["unmatched"] == 1
        world.table.put(subscription("moved", verification="ping", verified_url="0" * 16))
        await world.process(encode_event(await world.envelope(), event(2)))
    assert [one.key for one in world.written(TOPICS.deliveries)] == [b"moved"]


async def test_a_change_of_the_table_shows_in_the_next_event() -> None:
    world = Stage()
    schema_id = await world.envelope()
    async with world.running():
        await world.process(encode_event(schema_id, event(0)))
        world.table.put(subscription("a"))
        await world.process(encode_event(schema_id, event(1)))
        world.table.delete("a")
        await world.process(encode_event(schema_id, event(2)))
    assert [one.id for one in world.deliveries(TOPICS.deliveries)] == [delivery_id("evt_1", "a")]


# --- bad input --------------------------------------------------------------------------------------------------------

NO_FIELDS: dict[str, Any] = {"id": "evt_1", "type": "order.created", "tenant": "default", "time": 0, "data": b"{}"}


def v1(**fields: Any) -> bytes:
    return avro(1, codec.own_schema("event.v1"), NO_FIELDS | fields)


GOOD = v1()
BAD = {
    "no_value": None,
    "empty": b"",
    "three bytes": b"\0\0\0",
    "wrong_magic": b'{"id": "json"}',
    "unknown_schema": b"\0\0\0\0\x63" + GOOD[5:],
    "truncated": GOOD[:-3],
    "header only": GOOD[:5],
    "more": GOOD + b"\0",
    "no_id": v1(id=""),
    "long id": v1(id="x" * 513),
    "bad_type": v1(type="a type"),
    "tenant": v1(tenant="not a tenant!"),
    "time": v1(time=-1),
    "bad_data": v1(data=b'{"n":'),
    "no data": v1(data=b""),
    "too_large": v1(data=b'"' + b"x" * (5 << 20) + b'"'),
}
REASONS = {
    "empty": "truncated",
    "three bytes": "truncated",
    "header only": "truncated",
    "more": "avro",
    "long id": "bad_field",
    "tenant": "bad_field",
    "time": "bad_field",
    "no data": "bad_data",
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_input_goes_to_quarantine_and_the_stream_goes_on(case: str) -> None:
    world = Stage()
    await world.register(codec.own_schema("event.v1"))
    world.table.put(subscription("a"))
    headers: Headers = [("traceparent", b"00-1"), ("mine", None)]
    async with world.running():
        await world.process(GOOD, BAD[case], v1(id="evt_2"), headers=headers)
    reason = REASONS.get(case, case)
    (stored,) = world.written(TOPICS.quarantine)
    assert (stored.key, stored.value) == (b"key", BAD[case])
    assert list(stored.headers or ())[:2] == headers
    assert why_quarantined(stored)[:4] == (reason, EVENTS, 0, 1)
    assert len(why_quarantined(stored)[4]) > 10
    assert world.counters[f"quarantined:{reason}"] == 1
    assert [one.id for one in world.deliveries(TOPICS.deliveries)] == [delivery_id(i, "a") for i in ("evt_1", "evt_2")]
    assert world.position(EVENTS) == 3


async def test_the_largest_event_that_is_taken() -> None:
    world = Stage()
    await world.register(codec.own_schema("event.v1"))
    world.table.put(subscription("a", format="data"))
    room = EVENT_BYTES_MAX - len(v1(data=b'""' + b"x" * 100_000)) + 100_000 - 1  # the length takes one byte more
    largest = v1(data=b'"' + b"x" * room + b'"')
    assert EVENT_BYTES_MAX - 2 <= len(largest) <= EVENT_BYTES_MAX
    async with world.running():
        await world.process(largest)
    assert world.reasons() == []
    assert len(world.deliveries(TOPICS.deliveries)[0].body) == room + 2


async def test_an_event_whose_json_outgrows_every_topic_is_too_large() -> None:
    """A few bytes of Avro can stand for many of JSON: here, one for a name of 200 characters."""
    schema = orjson.dumps(
        {"type": "record", "name": "Wide", "fields": [{"name": "many", "type": {"type": "array", "items": {
            "type": "record", "name": "Narrow", "fields": [{"name": "x" * 200, "type": "int"}]}}}]}
    ).decode()  # fmt: skip
    world = Stage()
    schema_id = await world.register(schema)
    world.table.put(subscription("a", event_types=("*",)))
    value = avro(schema_id, schema, {"many": [{"x" * 200: 1}] * 200_000})
    assert len(value) < EVENT_BYTES_MAX
    async with world.running():
        await world.process(value, headers=CE)
    assert world.reasons() == ["too_large"]
    assert world.written(TOPICS.deliveries) == []


# --- forms of events --------------------------------------------------------------------------------------------------


async def test_a_cloud_event_s_record_becomes_json_with_its_logical_types() -> None:
    world = Stage()
    schema_id = await world.register(ORDER)
    world.table.put(subscription("a", event_types=("order.placed",), format="data", tenant="acme"))
    record = {
        "number": 7,
        "total": decimal.Decimal("12.50"),
        "placed": datetime.datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=datetime.UTC),
        "day": datetime.date(2026, 1, 2),
        "ref": uuid.UUID(int=5),
        "raw": b"\0\xff",
    }
    headers: Headers = [*CE, ("ce_tenant", b"acme"), ("ce_subject", b"o/7"), ("ce_time", b"2026-01-02T03:04:05Z")]
    async with world.running():
        await world.process(avro(schema_id, ORDER, record), headers=headers)
    (found,) = world.deliveries(TOPICS.deliveries)
    assert found.id == delivery_id("ce_1", "a")
    assert orjson.loads(found.body) == {
        "number": 7,
        "total": "12.50",
        "placed": "2026-01-02T03:04:05.678Z",
        "day": "2026-01-02",
        "ref": str(uuid.UUID(int=5)),
        "raw": base64.b64encode(b"\0\xff").decode(),
    }


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (None, "not_an_event"),
        ([("other", b"1")], "not_an_event"),
        ([("ce_type", b"order.placed")], "no_id"),
        ([("ce_id", b"1")], "bad_type"),
        ([*CE, ("ce_time", b"yesterday")], "bad_field"),
        ([*CE, ("ce_subject", b"\xff")], "bad_field"),
    ],
)
async def test_a_record_without_the_headers_of_an_event(headers: Headers | None, reason: str) -> None:
    world = Stage()
    schema_id = await world.register(ORDER)
    record = {"number": 7, "total": decimal.Decimal(1), "placed": 0, "day": 0, "ref": uuid.UUID(int=5), "raw": b""}
    async with world.running():
        await world.process(avro(schema_id, ORDER, record), headers=headers)
    assert world.reasons() == [reason]


async def test_every_version_of_the_envelope_is_read_with_the_newest() -> None:
    tree = orjson.loads(codec.own_schema("event.v3"))
    tree["fields"].append({"name": "priority", "type": "int", "default": 3})
    del tree["fields"][2]  # `tenant` has a default
    later = orjson.dumps(tree).decode()
    world = Stage()
    ids = [await world.register(text) for text in (codec.own_schema("event.v1"), codec.own_schema("event.v3"), later)]
    world.table.put(subscription("a"))
    fields = {"type": "order.created", "time": 1, "data": b"{}"}
    first = avro(ids[0], codec.own_schema("event.v1"), {**fields, "id": "v1", "tenant": "default"})
    second = encode_event(ids[1], Event("v2", "order.created", "default", 1, b"{}", "subject", "00-1-1-01"))
    third = avro(ids[2], later, {**fields, "id": "v3", "subject": None, "traceparent": None, "priority": 9})
    async with world.running():
        await world.process(first, second, third)
    found = world.deliveries(TOPICS.deliveries)
    assert [one.id for one in found] == [delivery_id(version, "a") for version in ("v1", "v2", "v3")]
    assert [one.traceparent for one in found] == [None, "00-1-1-01", None]


async def test_a_schema_that_is_none_is_a_reason_of_its_own() -> None:
    class Odd(MemoryRegistry):
        async def schema(self, schema_id: int) -> str:
            return '{"type": "record", "name": "distributary.Event", "fields": [{"name": "id", "type": "nothing"}]}'

    world = Stage()
    world.stage = FanOut(TOPICS, world.table, Odd(), world.settler, world.clock, world.counters, SCHEMAS)
    async with world.running():
        await world.process(GOOD)
    assert world.reasons() == ["bad_schema"]


# --- waiting, restarting, stopping ------------------------------------------------------------------------------------


async def test_a_registry_out_of_reach_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_PAUSE_S", 0.01)
    world = Stage()
    schema_id = await world.envelope()
    world.table.put(subscription("a"))
    world.registry.available = False
    async with world.running():
        task = asyncio.create_task(world.process(encode_event(schema_id, event())))
        await eventually_async(lambda: world.counters["registry_waits"] >= 2)
        assert not task.done()
        assert world.position(EVENTS) is None
        world.registry.available = True
        await asyncio.wait_for(task, 5)
    assert world.reasons() == []
    assert len(world.deliveries(TOPICS.deliveries)) == 1
    assert world.position(EVENTS) == 1


async def test_a_schema_is_asked_for_once() -> None:
    world = Stage()
    schema_id = await world.envelope()
    async with world.running():
        await world.process(encode_event(schema_id, event(1)))
        world.registry.available = False
        await world.process(encode_event(schema_id, event(2)))
    assert world.position(EVENTS) == 2


async def test_what_was_finished_before_a_restart_is_not_done_again() -> None:
    world = Stage()
    schema_id = await world.envelope()
    world.table.put(subscription("a"))
    before = Ledger(0)
    before.open([0, 1, 2])
    before.finish(1)
    frame = world.frame(
        EVENTS, [encode_event(schema_id, event(n)) for n in range(3)], ledger=Ledger(*before.progress())
    )
    async with world.running():
        await world.stage.process(frame)
        await world.settler.flush()
    assert [one.id for one in world.deliveries(TOPICS.deliveries)] == [delivery_id(f"evt_{n}", "a") for n in (0, 2)]
    assert world.position(EVENTS) == 3


@pytest.mark.parametrize("how", ["close", "retire"])
async def test_a_frame_of_a_partition_given_up_is_left_alone(how: str) -> None:
    world = Stage()
    schema_id = await world.envelope()
    world.table.put(subscription("a"))
    frame = world.frame(EVENTS, [encode_event(schema_id, event())])
    getattr(frame.ledger, how)()
    async with world.running():
        await world.stage.process(frame)
        await turns()
    assert world.written(TOPICS.deliveries) == []
    assert world.publisher.transactions == 0


async def test_a_frame_that_fans_out_widely_is_settled_in_parts() -> None:
    """What one frame turns into is bounded, in records and in bytes; each event stays whole."""
    world = Stage()
    for number in range(1_000):
        world.table.put(subscription(f"sub_{number}"))
    schema_id = await world.envelope()
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, world.settler.backlog)

    world.settler.on_settled(look)
    async with world.running():
        await world.process(*(encode_event(schema_id, event(number)) for number in range(60)))
    assert len(world.written(TOPICS.deliveries)) == 60_000
    assert most <= 20_000 + 5_000 + 1_000  # the settler's backlog, a part, an event
    assert world.position(EVENTS) == 60


async def test_large_deliveries_are_waited_for() -> None:
    world = Stage()
    for number in range(40):
        world.table.put(subscription(f"sub_{number}"))
    schema_id = await world.envelope()
    large = b'"' + b"x" * (EVENT_BYTES_MAX // 2) + b'"'
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, world.settler.backlog)

    world.settler.on_settled(look)
    async with world.running():
        await world.process(*(encode_event(schema_id, event(number, data=large)) for number in range(6)))
    assert len(world.written(TOPICS.deliveries)) == 240
    assert most <= 40  # 20 MiB an event: the next is planned when the last is durable
    assert world.position(EVENTS) == 6
