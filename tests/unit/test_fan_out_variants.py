"""Fan-out to subscriptions that ask for a version, a filter, a transform or a format: each gets its own."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from connectors.memory import MemoryRegistry
from schemas import codec
from schemas.delivery import Delivery, dead_letter_schema
from schemas.event import Event, encode_event
from schemas.frame import Headers
from schemas.ids import delivery_id
from schemas.subjects import LATEST
from schemas.subscription import PayloadFormat, Subscription
from streams import versions
from streams.core import fanout, formats, views
from streams.core.fanout import Targets
from streams.fan_out import FanOut
from streams.records import DeliverySchemas
from tests.unit.stages import TOPICS, World, read, subscription

SCHEMAS = DeliverySchemas(delivery_v1=77, delivery=78, attempt=79, dead_letter=80)
V1 = """{"type": "record", "name": "Order", "namespace": "shop", "fields": [
  {"name": "number", "type": "int"},
  {"name": "total", "type": "double"}]}"""
V2 = """{"type": "record", "name": "Order", "namespace": "shop", "fields": [
  {"name": "number", "type": "long"},
  {"name": "total", "type": "double"},
  {"name": "paid", "type": ["null", "boolean", {"type": "enum", "name": "Paid", "symbols": ["YES"]}],
   "default": null}]}"""
#: Needs what nobody writes.
V3 = """{"type": "record", "name": "Order", "namespace": "shop", "fields": [
  {"name": "number", "type": "long"},
  {"name": "customer", "type": "string"}]}"""
CE: Headers = [("ce_id", b"ce_1"), ("ce_type", b"order.placed"), ("ce_source", b"/shop"), ("ce_subject", b"o/7")]
ORDER = {"number": 7, "total": 12.5}
AT_MS = 1_700_000_000_123


class Shop(World):
    """A fan-out stage whose registry has the versions of an order."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self.registry = MemoryRegistry()
        self.stage = FanOut(TOPICS, self.table, self.registry, self.settler, self.clock, self.counters, SCHEMAS)
        self.texts = texts or (V1, V2)
        self.ids: list[int] = []

    def wants(self, name: str, **fields: Any) -> None:
        self.table.put(subscription(name, event_types=("order.*",), **fields))

    async def send(self, version: int = 1, headers: Headers | None = None, **fields: Any) -> None:
        """One order, written with a version."""
        if not self.ids:
            self.ids = [await self.registry.register("shop.Order", text) for text in self.texts]
        text = self.texts[version - 1]
        value = codec.encode(self.ids[version - 1], codec.parse_schema(text), ORDER | fields)
        await self.stage.process(self.frame(TOPICS.events, [value], headers=headers or CE, timestamp_ms=AT_MS))
        await self.settler.flush()

    def sent(self) -> dict[str, Delivery]:
        found = {one.subscription_id: one for one in self.deliveries(TOPICS.deliveries)}
        assert len(found) == len(self.written(TOPICS.deliveries))
        return found

    def data(self) -> dict[str, Any]:
        return {name: orjson.loads(one.body)["data"] for name, one in self.sent().items()}

    def dead(self) -> dict[str, dict[str, Any]]:
        letters = [read(one, dead_letter_schema()) for one in self.written(TOPICS.dead)]
        return {letter["delivery"]["subscription_id"]: letter for letter in letters}


async def test_each_gets_the_version_that_it_asks_for() -> None:
    shop = Shop()
    for name, version in (("written", 0), ("one", 1), ("two", 2), ("newest", LATEST)):
        shop.wants(name, schema_version=version)
    async with shop.running():
        await shop.send()
        sent = shop.sent()
        second = ORDER | {"paid": None}
        assert shop.data() == {"written": ORDER, "one": ORDER, "two": second, "newest": second}
        said = {name: dict(one.headers)["webhook-version"] for name, one in sent.items()}
        assert said == {"written": "1", "one": "1", "two": "2", "newest": "2"}
        assert {one.id for one in sent.values()} == {delivery_id("ce_1", name) for name in sent}


async def test_what_cannot_be_read_is_a_dead_letter_of_that_subscription_alone() -> None:
    shop = Shop(V1, V2, V3)
    shop.wants("good", schema_version=2)
    shop.wants("unreadable", schema_version=3)
    shop.wants("unheard-of", schema_version=9)
    shop.wants("thin", schema_version=3, format="thin")
    async with shop.running():
        await shop.send()
        assert shop.sent().keys() == {"good", "thin"}
        dead = shop.dead()
    assert {name: letter["reason"] for name, letter in dead.items()} == dict.fromkeys(
        ("unreadable", "unheard-of"), "unresolvable"
    )
    assert "$.customer" in dead["unreadable"]["detail"]
    assert "has no version 9" in dead["unheard-of"]["detail"]
    delivery = dead["unreadable"]["delivery"]
    assert delivery["id"] == delivery_id("ce_1", "unreadable")
    assert codec.decode(delivery["body"], codec.parse_schema(V1)) == ORDER
    assert (delivery["event_id"], delivery["subject"], delivery["event_time_ms"]) == ("ce_1", "o/7", AT_MS)
    assert (shop.counters["dead:unresolvable"], shop.counters["deliveries"]) == (2, 2)
    ends = [read(one, codec.own_schema("attempt.v1")) for one in shop.written(TOPICS.attempts)]
    assert {(one["subscription_id"], one["outcome"]) for one in ends} == {
        ("unreadable", "rejected"),
        ("unheard-of", "rejected"),
    }
    assert shop.position(TOPICS.events) == 1  # with them, in one transaction


async def test_a_newer_version_and_one_that_was_missing_are_noticed() -> None:
    shop = Shop(V1)
    shop.wants("newest", schema_version=LATEST)
    shop.wants("two", schema_version=2)
    async with shop.running():
        await shop.send()
        assert shop.data() == {"newest": ORDER}
        assert shop.dead().keys() == {"two"}
        await shop.registry.register("shop.Order", V2)
        await shop.send(headers=[*CE[1:], ("ce_id", b"ce_2")])
        assert shop.dead().keys() == {"two"}
        assert len(shop.written(TOPICS.dead)) == 2  # what was asked for a moment ago is not asked for again
        shop.clock.advance_ms(int(versions.FRESH_S * 1000))
        await shop.send(headers=[*CE[1:], ("ce_id", b"ce_3")])
        last = shop.deliveries(TOPICS.deliveries)[-2:]
        assert {one.subscription_id: dict(one.headers)["webhook-version"] for one in last} == {
            "newest": "2",
            "two": "2",
        }
        assert len(shop.written(TOPICS.dead)) == 2


async def test_a_schema_in_no_subject_has_no_versions() -> None:
    shop = Shop()
    shop.wants("written", content_type="application/vnd.acme.v{version}+json")
    shop.wants("two", schema_version=2)

    async def nothing(schema_id: int) -> list[tuple[str, int]]:
        return []

    shop.registry.versions_of = nothing  # type: ignore[method-assign]
    async with shop.running():
        await shop.send()
        written = shop.sent()["written"]
        assert (written.headers, written.content_type) == ((), "application/json")
        assert "stands in no subject" in shop.dead()["two"]["detail"]


async def test_the_registry_is_asked_once_for_all_events() -> None:
    shop = Shop()
    asked: list[tuple[str, int]] = []
    version = shop.registry.version

    async def counted(subject: str, number: int) -> Any:
        asked.append((subject, number))
        return await version(subject, number)

    shop.registry.version = counted  # type: ignore[method-assign]
    shop.wants("two", schema_version=2)
    async with shop.running():
        for number in range(5):
            await shop.send(headers=[*CE[1:], ("ce_id", b"%d" % number)])
            shop.clock.advance_ms(60_000)  # a version never changes
    assert asked == [("shop.Order", 2)]


async def test_filters_are_applied_to_the_version_that_is_sent() -> None:
    shop = Shop()
    shop.wants("cheap", filter='{"data":{"total":[{"numeric":["<",10]}]}}')
    shop.wants("dear", filter='{"data":{"total":[{"numeric":[">=",10]}]}}')
    shop.wants("unpaid-of-two", filter='{"data":{"paid":[null]}}', schema_version=2)
    shop.wants("unpaid-as-written", filter='{"data":{"paid":[null]}}')
    shop.wants("around", filter='{"source":["/shop"],"subject":["o/7"],"tenant":["default"],"type":["order.placed"]}')
    shop.wants("id", filter='{"id":["ce_1"],"time":["2023-11-14T22:13:20.123Z"]}')
    shop.wants("all")
    async with shop.running():
        await shop.send()
        assert shop.sent().keys() == {"dear", "unpaid-of-two", "around", "id", "all"}
        assert shop.counters["filtered"] == 2
        assert shop.counters["deliveries"] == 5


async def test_a_filter_that_looks_at_no_data_reads_none() -> None:
    shop = Shop(V1, V2, V3)
    shop.wants("other", filter='{"subject":["o/8"]}', schema_version=3)  # cannot be read, and need not be
    shop.wants("blind", filter='{"data":{"number":[7]}}', schema_version=3)
    async with shop.running():
        await shop.send()
        assert shop.dead().keys() == {"blind", "other"}  # one of them reads the data, for all of this version
        shop.table.delete("blind")
        await shop.send(headers=[*CE[1:], ("ce_id", b"ce_2")])
        assert len(shop.written(TOPICS.dead)) == 2
        assert shop.counters["filtered"] == 1


async def test_a_change_of_filters_shows_in_the_next_event() -> None:
    shop = Shop()
    for number in range(20):
        shop.wants(f"s{number:02}", filter=f'{{"data":{{"number":[{number}]}}}}')
    async with shop.running():
        await shop.send()
        assert shop.sent().keys() == {"s07"}
        shop.wants("s03", filter='{"data":{"number":[8]}}')
        shop.table.delete("s01")
        shop.wants("s00", filter='{"data":{"number":[8,9]}}')
        await shop.send(number=8, headers=[*CE[1:], ("ce_id", b"ce_2")])
        last = {one.subscription_id for one in shop.deliveries(TOPICS.deliveries)[1:]}
    assert last == {"s00", "s03", "s08"}


async def test_a_transform_takes_the_data_of_its_version() -> None:
    shop = Shop()
    shop.wants("plain", transform="{order: number, paid: paid}")
    shop.wants("two", transform="{order: number, paid: type(paid)}", schema_version=2)
    shop.wants("failing", transform="length(number)")
    shop.wants("other")
    async with shop.running():
        await shop.send()
        assert shop.data() == {
            "plain": {"order": 7, "paid": None},
            "two": {"order": 7, "paid": "null"},
            "other": ORDER,
        }
        (letter,) = shop.dead().values()
    assert (letter["reason"], letter["delivery"]["subscription_id"]) == ("transform_failed", "failing")
    assert "length()" in letter["detail"]


async def test_each_variant_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[Any] = []
    render = formats.render

    def counted(event: Event, payload_format: PayloadFormat, *rest: Any) -> Any:
        rendered.append((payload_format, rest[2:]))
        return render(event, payload_format, *rest)

    monkeypatch.setattr(fanout, "render", counted)
    shop = Shop()
    options: list[dict[str, Any]] = [
        {},
        {"schema_version": 2},
        {"schema_version": 2, "filter": '{"data":{"number":[7]}}'},
        {"schema_version": 2, "format": "cloudevents_batch"},
        {"content_type": "application/vnd.acme.v{version}+json"},
        {"transform": "number"},
    ]
    for number in range(30):
        shop.wants(f"s{number}", **options[number % len(options)])
    async with shop.running():
        await shop.send()
        assert len(shop.sent()) == 30
    assert len(rendered) == 5  # with and without a filter is one


async def test_the_newest_version_that_is_pinned_as_well_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop()
    shop.wants("two", schema_version=2)
    shop.wants("newest", schema_version=LATEST)
    reads: list[int] = []
    data = views.Reading.data

    def counted(reading: views.Reading, value: bytes) -> bytes:
        reads.append(reading.version)
        return data(reading, value)

    monkeypatch.setattr(views.Reading, "data", counted)
    async with shop.running():
        await shop.send()
        assert shop.data()["two"] == shop.data()["newest"]
    assert reads == [2]


async def test_avro_is_sent_as_it_came_or_in_the_pinned_version() -> None:
    shop = Shop()
    shop.wants("raw", format="avro")
    shop.wants("two", format="avro", schema_version=2, content_type="avro/binary")
    async with shop.running():
        await shop.send()
        sent = shop.sent()
    assert codec.wire_schema_id(sent["raw"].body) == shop.ids[0]
    assert codec.decode(sent["raw"].body, codec.parse_schema(V1)) == ORDER
    assert codec.wire_schema_id(sent["two"].body) == shop.ids[1]
    assert codec.decode(sent["two"].body, codec.parse_schema(V2)) == ORDER | {"paid": None}
    assert (sent["raw"].content_type, sent["two"].content_type) == ("application/avro", "avro/binary")
    assert dict(sent["two"].headers) == {"webhook-version": "2"}


async def test_an_avro_union_keeps_its_branch_in_another_version() -> None:
    shop = Shop(V2, V1)
    shop.texts = (V2, V2.replace('"total", "type": "double"', '"sum", "aliases": ["total"], "type": "double"'))
    shop.wants("two", format="avro", schema_version=2)
    async with shop.running():
        await shop.send(paid="YES")
        (sent,) = shop.sent().values()
    assert codec.decode(sent.body, codec.parse_schema(shop.texts[1])) == {"number": 7, "sum": 12.5, "paid": "YES"}


async def test_avro_that_cannot_be_written_in_the_pinned_version() -> None:
    shop = Shop(V1, V3)
    shop.wants("two", format="avro", schema_version=2)
    async with shop.running():
        await shop.send()
        assert shop.dead()["two"]["reason"] == "unresolvable"


async def test_an_envelope_has_no_versions() -> None:
    shop = Shop()
    shop.wants("pinned", schema_version=2, content_type="application/vnd.acme.v{version}+json")
    shop.wants("picky", filter='{"data":{"n":[2]}}')
    schema_id = await shop.registry.register("e", codec.own_schema("event.v3"))
    async with shop.running():
        event = Event("evt_1", "order.created", "default", AT_MS, b'{"n":1}')
        await shop.stage.process(shop.frame(TOPICS.events, [encode_event(schema_id, event)]))
        await shop.settler.flush()
        sent = shop.sent()
    assert sent.keys() == {"pinned"}
    assert (sent["pinned"].headers, sent["pinned"].content_type) == ((), "application/json")
    assert codec.wire_schema_id(shop.written(TOPICS.deliveries)[0].value) == SCHEMAS.delivery_v1


async def test_a_content_type_names_the_version() -> None:
    shop = Shop()
    shop.wants("two", schema_version=2, content_type="application/vnd.acme.v{version}+json")
    async with shop.running():
        await shop.send()
        assert shop.sent()["two"].content_type == "application/vnd.acme.v2+json"


def test_targets_keep_the_filters_that_did_not_change() -> None:
    def made(*numbers: int) -> tuple[Subscription, ...]:
        return tuple(subscription(f"s{n}", filter=f'{{"data":{{"n":[{n}]}}}}') for n in numbers)

    before = Targets(made(1, 2, 3))
    after = Targets(made(2, 3, 4), before)
    assert after.parts[0].index is before.parts[0].index
    assert after.parts[0].index.select({"data": {"n": 4}}) == [2]
