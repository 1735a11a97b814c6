"""Operations as events: the operator's subscriptions hear of them, each once, and never of themselves."""

from __future__ import annotations

from typing import Any

import orjson

from connectors.memory import MemoryRegistry
from schemas import codec
from schemas.endpoint import Operation, encode_operation
from streams.fan_out import FanOut
from streams.operation_events import OperationEvents
from streams.records import DeliverySchemas
from tests.unit.stages import TOPICS, World, subscription, why_quarantined

SCHEMAS = DeliverySchemas(delivery_v1=77, delivery=78, attempt=79, dead_letter=80)


class Site(World):
    def __init__(self, registry: MemoryRegistry | None = None) -> None:
        super().__init__()
        self.registry = registry or MemoryRegistry()
        fan_out = FanOut(TOPICS, self.table, self.registry, self.settler, self.clock, self.counters, SCHEMAS)
        self.stage = OperationEvents(TOPICS, "ops", self.registry, fan_out, self.settler, self.counters)

    def listen(self, subscription_id: str = "pager", *event_types: str, **fields: Any) -> None:
        self.table.put(
            subscription(subscription_id, tenant="ops", event_types=event_types or ("operation.*",), **fields)
        )

    async def value(self, version: int = 2, **fields: Any) -> bytes:
        text = codec.own_schema(f"operation.v{version}")
        schema_id = await self.registry.register("operations-value", text)
        values: dict[str, Any] = {"kind": "circuit.opened", "subscription_id": "a", "tenant": "acme", "at_ms": 5_000}
        if version == 2:
            return encode_operation(codec.wire_header(schema_id), Operation(**(values | fields)))
        values |= {"reason": "", "detail": ""} | fields
        return codec.encode(schema_id, codec.parse_schema(text), values)

    async def come(self, *values: bytes | None, timestamp_ms: int = 6_000) -> None:
        async with self.running():
            await self.stage.process(self.frame(TOPICS.operations, list(values), timestamp_ms=timestamp_ms))
            await self.settler.flush()


async def test_an_operation_is_delivered_to_the_operators_subscriptions_alone() -> None:
    site = Site()
    site.listen("pager")
    site.listen("dead", "operation.dead_letters.written")
    site.listen("all", "*")
    site.table.put(subscription("a", tenant="acme", event_types=("*",)))
    await site.come(await site.value())
    found = site.deliveries(TOPICS.deliveries)
    assert sorted(each.subscription_id for each in found) == ["all", "pager"]
    body = orjson.loads(found[0].body)
    assert (body["type"], body["timestamp"]) == ("operation.circuit.opened", "1970-01-01T00:00:05.000Z")
    assert body["data"] == {
        "kind": "circuit.opened",
        "subscription_id": "a",
        "tenant": "acme",
        "at_ms": 5_000,
        "reason": "",
        "detail": "",
        "count": 0,
        "partition": -1,
        "first_offset": -1,
        "last_offset": -1,
        "replay_id": "",
    }
    assert site.position(TOPICS.operations) == 1
    assert site.counters == {"events": 1, "deliveries": 2}


async def test_ids_are_the_same_whenever_it_is_read_and_differ_between_operations() -> None:
    ids = []
    for _ in range(2):
        site = Site()
        site.listen()
        await site.come(*[await site.value()] * 2)
        ids.append([each.id for each in site.deliveries(TOPICS.deliveries)])
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2


async def test_nobody_is_told_of_the_operators_own_endpoints() -> None:
    site = Site()
    site.listen()
    site.listen("second")
    kinds = ("circuit.opened", "dead_letters.written", "endpoint.disabled")
    await site.come(*[await site.value(kind=kind, subscription_id="pager", tenant="ops") for kind in kinds])
    assert site.deliveries(TOPICS.deliveries) == []
    assert site.position(TOPICS.operations) == 3
    replay = await site.value(kind="replay.finished", subscription_id="", tenant="ops", replay_id="rpl_1")
    await site.come(replay)
    assert {each.subscription_id for each in site.deliveries(TOPICS.deliveries)} == {"pager", "second"}


async def test_without_anybody_who_listens_nothing_is_written_or_counted() -> None:
    site = Site()
    site.listen("other", "order.*")
    await site.come(await site.value(), await site.value(kind="quarantine.grew", subscription_id="", tenant=""))
    assert site.deliveries(TOPICS.deliveries) == []
    assert site.position(TOPICS.operations) == 2
    assert site.counters == {}


async def test_filters_formats_and_versions_are_those_of_any_subscription() -> None:
    site = Site()
    site.listen("acme", filter={"data": {"tenant": ["acme"]}})
    site.listen("other", filter={"data": {"tenant": ["other"]}})
    site.listen("first", schema_version=1, format="data")
    old, new = await site.value(1), await site.value(2)
    await site.come(new)
    found = {each.subscription_id: each for each in site.deliveries(TOPICS.deliveries)}
    assert set(found) == {"acme", "first"}
    assert set(orjson.loads(found["first"].body)) == {
        "kind",
        "subscription_id",
        "tenant",
        "at_ms",
        "reason",
        "detail",
    }
    await site.come(old)  # as a worker of an earlier version writes it
    assert len(site.deliveries(TOPICS.deliveries)) == 4


async def test_the_subject_is_whom_it_is_about() -> None:
    site = Site()
    site.listen(format="cloudevents_structured")
    about = [
        await site.value(),
        await site.value(kind="replay.finished", subscription_id="", replay_id="rpl_1"),
        await site.value(kind="quarantine.grew", subscription_id="", tenant=""),
    ]
    await site.come(*about)
    bodies = [orjson.loads(each.body) for each in site.deliveries(TOPICS.deliveries)]
    assert [body.get("subject") for body in bodies] == ["a", "rpl_1", None]
    assert {body["source"] for body in bodies} == {"/distributary/ops"}


async def test_what_is_no_operation_goes_to_quarantine() -> None:
    site = Site()
    site.listen()
    ours = await site.value()
    schemas = (
        '{"type":"record","name":"R","fields":[{"name":"kind","type":"string"}]}',
        (
            '{"type":"record","name":"S","fields":[{"name":"kind","type":"int"},'
            '{"name":"subscription_id","type":"int"},{"name":"tenant","type":"int"},{"name":"at_ms","type":"long"}]}'
        ),
        '"string"',
    )
    r, s, text = [await site.registry.register(f"s{number}", schema) for number, schema in enumerate(schemas)]
    header = codec.wire_header
    bad = [
        None,
        b"{}",
        header(99) + b"x",
        header(r) + b"\2x",
        header(s) + b"\2\2\2\2",
        header(text) + b"\2x",
        ours.replace(b"circuit.opened", b"circuit opened"),
    ]
    await site.come(*bad, ours)
    reasons = [why_quarantined(stored)[0] for stored in site.written(TOPICS.quarantine)]
    assert reasons == [
        "no_value",
        "truncated",
        "unknown_schema",
        "not_an_operation",
        "not_an_operation",
        "not_an_operation",
        "bad_type",
    ]
    assert len(site.deliveries(TOPICS.deliveries)) == 1
    assert site.position(TOPICS.operations) == 8


async def test_what_the_registry_says_of_it_may_be_wrong() -> None:
    class Odd(MemoryRegistry):
        async def schema(self, schema_id: int) -> str:
            return '{"type": "nothing"}' if schema_id == 98 else await super().schema(schema_id)

    site = Site(Odd())
    site.listen()
    day = await site.registry.register("d", '{"type":"int","logicalType":"date"}')
    await site.come(codec.wire_header(98) + b"x", codec.wire_header(day) + codec.put_long(2**31 - 1))
    assert [why_quarantined(stored)[0] for stored in site.written(TOPICS.quarantine)] == ["bad_schema", "bad_data"]


async def test_a_partition_that_is_given_up_takes_no_more() -> None:
    site = Site()
    site.listen()
    value = await site.value()
    ledger = site.ledger(TOPICS.operations)
    ledger.retire()
    await site.come(value)
    assert site.deliveries(TOPICS.deliveries) == []
    assert ledger.pending == 0
