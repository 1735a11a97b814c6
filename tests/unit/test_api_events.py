"""POST /v1/events on a Kafka in memory: every form, what is wrong and where, repetitions, and who may."""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import orjson
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer
from cloudevents.core.bindings.http import to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from connectors.api.app import ApiConfig, make_app
from connectors.api.event_checks import EventChecks
from connectors.api.event_input import EVENTS_MAX, Lines
from connectors.api.events import ROUTES, Publishing
from connectors.api.principal import FixedKeys, Principal
from connectors.api.problems import ProblemError
from connectors.api.routes import Services
from connectors.memory import ManualClock, MemoryRegistry
from schemas import codec
from schemas.event import Event, encode_event, event_decoder
from schemas.event_type import EventType
from schemas.topics import EVENT_BYTES_MAX
from tests.unit.test_ingest import TOPICS, World

SCOPES = frozenset({"events:write"})
KEYS = FixedKeys(
    {
        "operator": Principal(actor="key:op", tenant=None, scopes=SCOPES),
        "acme": Principal(actor="key:acme", tenant="acme", scopes=SCOPES),
        "reader": Principal(actor="key:reader", tenant="acme", scopes=frozenset({"subscriptions:read"})),
    }
)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ORDER = """{"type": "record", "name": "Order", "namespace": "shop", "fields": [
    {"name": "number", "type": "long"}, {"name": "total", "type": "double"}]}"""


class Desk:
    """The API with events alone, and what Kafka has."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.registry = MemoryRegistry()
        self.types: dict[str, EventType] = {}

    def at(self, session: ClientSession, url: str) -> None:
        self.session, self.url = session, url

    async def post(
        self,
        body: Any,
        status: int = 202,
        *,
        media: str = "application/json",
        key: str = "acme",
        query: str = "",
        **more: Any,
    ) -> Any:
        """`more` are headers. A file, since aiohttp's client warns of bytes that are many."""
        content = io.BytesIO(body if isinstance(body, bytes) else orjson.dumps(body))
        headers = {"Authorization": f"Bearer {key}", "Content-Type": media}
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        async with self.session.post(f"{self.url}/v1/events{query}", data=content, headers=headers) as response:
            document = await response.json(content_type=None)
            assert response.status == status, document
            self.headers = response.headers
            return document

    async def ids(self, body: Any, **more: Any) -> list[str]:
        return [each["id"] for each in (await self.post(body, **more))["events"]]

    async def events(self) -> list[Event]:
        """As fan-out reads them."""
        found = []
        for record in self.world.kafka.records[TOPICS.events]:
            assert record.value is not None
            text = await self.registry.schema(codec.wire_schema_id(record.value))
            found.append(event_decoder(text).decode(record.value, record.headers, 0))
        return found


@contextlib.asynccontextmanager
async def opened(
    *, strict: bool = False, record_bytes_max: int = 2 * EVENT_BYTES_MAX, **limits: Any
) -> AsyncIterator[Desk]:
    world = World(record_bytes_max, **limits)
    await world.ingest.start()
    desk = Desk(world)
    for subject in ("a", "b", "c", "d"):  # the envelope is written with the id 5
        await desk.registry.register(subject, f'{{"type": "record", "name": "{subject}", "fields": []}}')
    assert await desk.registry.register("events-value", codec.own_schema("event.v3")) == 5
    numbers = itertools.count(1)
    publishing = Publishing(
        world.ingest,
        EventChecks(desk.types, desk.registry, strict=strict),
        draw=lambda: next(numbers) << 32,
        now_ms=world.clock.now_ms,
    )
    config = ApiConfig(monotonic=ManualClock().monotonic, new_id=lambda: "r", rate=0)
    app = make_app(ROUTES, Services(KEYS, publishing), config)
    try:
        async with TestServer(app) as server, ClientSession() as session:
            desk.at(session, str(server.make_url("")).rstrip("/"))
            yield desk
    finally:
        await world.ingest.close()


def paths(problem: Any) -> list[str]:
    return [fault["path"] for fault in problem["errors"]]


GIVEN = {"type": "order.created", "data": {"n": 1}}


async def test_one_event_and_what_is_left_out() -> None:
    async with opened() as desk:
        (made,) = await desk.ids(GIVEN)
        assert made.startswith("evt_")
        full = GIVEN | {"id": "e2", "subject": "o-1", "source": "/shop", "traceparent": "00-1-2-01"}
        assert await desk.ids(full | {"time": "2026-11-22T10:00:00.123+01:00", "tenant": "acme"}) == ["e2"]
        now_ms = desk.world.clock.now_ms()
        assert await desk.events() == [
            Event(made, "order.created", "acme", now_ms, b'{"n":1}'),
            Event("e2", "order.created", "acme", 1_795_338_000_123, b'{"n":1}', "o-1", "00-1-2-01", "/shop"),
        ]
        assert [each.key for each in desk.world.kafka.records[TOPICS.events]] == [b"acme", b"o-1"]


async def test_events_without_a_trace_are_in_that_of_the_request() -> None:
    async with opened() as desk:
        own = {"traceparent": "00-1-2-01", "tracestate": "congo=2"}
        await desk.ids([GIVEN, GIVEN | own], traceparent=TRACE, tracestate="rojo=1")
        for bad in ("00-1-2-01", "x" * 2_000):  # is no reason to refuse an event
            await desk.ids(GIVEN, traceparent=bad, tracestate="rojo=1")
        await desk.ids(
            GIVEN,
            ce_specversion="1.0",
            ce_id="c",
            ce_source="/s",
            ce_type="a",
            ce_traceparent=TRACE,
            ce_tracestate="a=%20b",
        )
        assert [(each.traceparent, each.tracestate) for each in await desk.events()] == [
            (TRACE, "rojo=1"),
            ("00-1-2-01", "congo=2"),
            (None, None),
            (None, None),
            (TRACE, "a= b"),
        ]


async def test_ids_that_are_made_are_in_order_of_time() -> None:
    async with opened() as desk:
        first = await desk.ids([GIVEN] * 300)
        desk.world.clock.advance_ms(1)
        second = await desk.ids([GIVEN] * 3)
        assert sorted([*second, *first]) == [*first, *second]
        assert len(set(first)) == 300


@pytest.mark.parametrize("media", ["application/x-ndjson", "application/ndjson", "application/jsonl"])
async def test_many_as_lines(media: str) -> None:
    async with opened() as desk:
        lines = b"\n".join(orjson.dumps(GIVEN | {"id": f"e{n}"}) for n in range(3)) + b"\n\n"
        assert await desk.ids(lines, media=media) == ["e0", "e1", "e2"]
        assert desk.world.publisher.transactions == 1


def test_lines_are_read_as_they_come() -> None:
    one, two = (orjson.dumps(GIVEN | {"id": each, "subject": "ü"}) for each in ("e1", "e2"))
    whole = b"\n".join((one, b" ", two, b""))
    for size in (1, 7, len(whole)):
        lines = Lines()
        for start in range(0, len(whole), size):
            lines.feed(whole[start : start + size])
        assert [each.id for each in lines.end()] == ["e1", "e2"]
    lines = Lines()
    for _ in range(99):
        lines.feed(b"{\n")
    with pytest.raises(ProblemError, match="and 99 more") as refused:
        lines.feed(b"[]\n" + b"x" * 100)  # the rest is not waited for
    assert refused.value.status == 422
    lines = Lines()
    lines.feed((orjson.dumps(GIVEN) + b"\n") * 10_000)
    with pytest.raises(ProblemError, match="more than 10000 events") as refused:
        lines.feed(orjson.dumps(GIVEN) + b"\n")
    assert refused.value.status == 413


async def test_lines_are_told_from_others_by_their_content() -> None:
    async with opened() as desk:
        lines = b"\n".join([orjson.dumps(GIVEN)] * 3)
        first = await desk.post(lines, media="application/x-ndjson", Idempotency_Key="k1")
        second = await desk.post(lines, media="application/x-ndjson", Idempotency_Key="k1")
        assert [each["id"] for each in second["events"]] == [each["id"] for each in first["events"]]
        assert desk.headers["Idempotency-Replayed"] == "true"
        await desk.post(lines + b"\n" + lines, 422, media="application/x-ndjson", Idempotency_Key="k1")


async def test_cloud_events_of_an_independent_library() -> None:
    async with opened() as desk:
        attributes = {"id": "c 1%", "source": "/shop", "type": "order.created", "subject": "o/ü"}
        event = CloudEvent(
            attributes={**attributes, "specversion": "1.0", "datacontenttype": "application/json"}, data={"n": 1}
        )
        for count, message in enumerate((to_structured(event, JSONFormat()), to_binary(event, JSONFormat())), 1):
            headers = {name: value for name, value in message.headers.items() if name != "content-type"}
            body = bytes(message.body)
            media = message.headers["content-type"]
            more: dict[str, Any] = {name.replace("-", "_"): value for name, value in headers.items()}
            answer = await desk.post(body, media=media, **more)
            assert answer == {"events": [{"id": "c 1%"} | ({"duplicate": True} if count > 1 else {})]}
        (found,) = await desk.events()
        assert (found.id, found.source, found.subject, found.data) == ("c 1%", "/shop", "o/ü", b'{"n": 1}')


CLOUD = {"specversion": "1.0", "id": "c1", "source": "/shop", "type": "order.created"}


async def test_cloud_events_in_a_batch_and_data_in_other_forms() -> None:
    async with opened() as desk:
        batch = [
            CLOUD | {"data": [1], "comexampleext": "x", "time": "2026-11-22T10:00:00Z"},
            CLOUD | {"id": "c2", "data_base64": base64.b64encode(b'{"n":2}').decode(), "datacontenttype": "a/b+json"},
            CLOUD | {"id": "c3"},
        ]
        assert await desk.ids(batch, media="application/cloudevents-batch+json") == ["c1", "c2", "c3"]
        assert [each.data for each in await desk.events()] == [b"[1]", b'{"n":2}', b"null"]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"specversion": "0.3"}, "/specversion"),
        ({"datacontenttype": "text/xml"}, "/datacontenttype"),
        ({"data_base64": "!"}, "/data_base64"),
        ({"data": 1, "data_base64": "MQ=="}, "/data_base64"),
        ({"data_base64": "/w=="}, "/data"),
        ({"source": ""}, "/source"),
        ({"type": "a b"}, "/type"),
    ],
)
async def test_a_cloud_event_that_is_wrong(change: dict[str, Any], path: str) -> None:
    async with opened() as desk:
        assert paths(await desk.post(CLOUD | change, 422, media="application/cloudevents+json")) == [path]
        batch = await desk.post([CLOUD, CLOUD | change], 422, media="application/cloudevents-batch+json")
        assert paths(batch) == [f"/1{path}"]


async def test_cloud_event_headers_that_are_wrong() -> None:
    async with opened() as desk:
        more: dict[str, Any] = {"ce_id": "c1", "ce_source": "/s", "ce_type": "a b", "ce_specversion": "1.0"}
        assert paths(await desk.post({}, 422, **more)) == ["ce-type"]
        assert paths(await desk.post({}, 400, **(more | {"ce_source": "/ü"}))) == ["ce-source"]
        missing = await desk.post({}, 422, ce_specversion="1.0", ce_type="a")
        assert "missing required field `id`" in missing["detail"]
        more["ce_type"] = "a"
        assert "in binary mode" in (await desk.post({}, 422, **more, ce_data="1"))["detail"]
        await desk.post(b"{", 400, **more)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"type": "a b"}, "/type"),
        ({"type": "x" * 257}, "/type"),
        ({"type": "a\n"}, "/type"),
        ({"id": ""}, "/id"),
        ({"id": "é" * 300}, ""),
        ({"subject": "x" * 1025}, "/subject"),
        ({"time": "2026-11-22T10:00:00"}, "/time"),
        ({"time": "1960-01-01T00:00:00Z"}, ""),
        ({"time": 5}, "/time"),
        ({"more": 1}, ""),
        ({"tenant": "a b"}, "/tenant"),
        ({"data": "x" * EVENT_BYTES_MAX}, ""),
    ],
)
async def test_an_event_that_is_wrong_is_named_and_nothing_is_written(change: dict[str, Any], path: str) -> None:
    async with opened() as desk:
        assert paths(await desk.post(GIVEN | change, 422)) == [path]
        problem = await desk.post([GIVEN, GIVEN | change, GIVEN], 422)
        assert paths(problem) == [f"/1{path}"]
        assert "no event was published" in problem["detail"]
        assert await desk.events() == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[", 400),
        (b"\xff", 400),
        (b"[]", 422),
        (b"5", 422),
        (b"null", 422),
        (b'{"type":"a","data":"\xff"}', 422),
        (b'{"type":"a","data":1e400}', 422),
        (b'{"type":"a","data":' + b"[" * 5_000 + b"]" * 5_000 + b"}", 400),
        (b"[" + b",".join([b'{"type":"a","data":1}'] * (EVENTS_MAX + 1)) + b"]", 413),
    ],
)
async def test_a_body_that_is_wrong(body: bytes, status: int) -> None:
    async with opened() as desk:
        await desk.post(body, status)
        assert await desk.events() == []


async def test_lines_that_are_wrong() -> None:
    async with opened() as desk:
        good = orjson.dumps(GIVEN)
        problem = await desk.post(b"\n".join([good, b"{", good, b"[]"]), 422, media="application/x-ndjson")
        assert paths(problem) == ["/1", "/3"]
        await desk.post(b"\n", 422, media="application/x-ndjson")
        await desk.post(b"[{}", 400, media="application/cloudevents-batch+json")
        await desk.post(b"{}", 422, media="application/cloudevents-batch+json")
        assert len((await desk.post([5] * 200, 422))["errors"]) == 100
        await desk.post(good, 415, media="text/plain")


async def test_an_id_is_published_once_and_never_with_another_content() -> None:
    async with opened() as desk:
        event = GIVEN | {"id": "e1"}
        assert await desk.post(event) == {"events": [{"id": "e1"}]}
        again = await desk.post([event | {"traceparent": "00-1-2-01"}, GIVEN | {"id": "e2"}])
        assert again == {"events": [{"id": "e1", "duplicate": True}, {"id": "e2"}]}
        for change in ({"data": 5}, {"type": "a"}, {"subject": "s"}, {"source": "s"}, {"time": "2026-11-22T10:00:00Z"}):
            assert paths(await desk.post([GIVEN, event | change], 409)) == ["/1/id"]
        assert paths(await desk.post(event | {"data": 5}, 409)) == ["/id"]
        assert (await desk.post(event, key="operator", query="?tenant=other"))["events"] == [{"id": "e1"}]  # its own
        found = [(each.tenant, each.id) for each in await desk.events()]
        assert found == [("acme", "e1"), ("acme", "e2"), ("other", "e1")]


async def test_a_request_with_a_key_is_published_once() -> None:
    async with opened() as desk:
        batch = [GIVEN, GIVEN | {"id": "mine"}, GIVEN]
        first = await desk.post(batch, Idempotency_Key="k1")
        assert "Idempotency-Replayed" not in desk.headers
        desk.world.clock.advance_ms(5_000)
        second = await desk.post(batch, Idempotency_Key="k1")
        assert desk.headers["Idempotency-Replayed"] == "true"
        assert second == {"events": [each | {"duplicate": True} for each in first["events"]]}
        assert len(await desk.events()) == 3
        assert paths(await desk.post([GIVEN], 422, Idempotency_Key="k1")) == ["Idempotency-Key"]
        await desk.post(batch, 422, Idempotency_Key="k1", media="application/x-ndjson")
        await desk.post(GIVEN, key="operator", Idempotency_Key="k1")  # another's
        for wrong in ("x" * 256, "ü"):
            await desk.post(GIVEN, 400, Idempotency_Key=wrong)


async def test_who_may_and_for_whom() -> None:
    async with opened() as desk:
        assert paths(await desk.post([GIVEN, GIVEN | {"tenant": "other"}], 403)) == ["/1/tenant"]
        assert paths(await desk.post(GIVEN | {"tenant": "other"}, 403)) == ["/tenant"]
        await desk.post(GIVEN, 403, query="?tenant=other")
        await desk.post(GIVEN, 403, key="reader")
        await desk.post(GIVEN, 401, key="nobody")
        assert await desk.events() == []
        batch = [GIVEN, GIVEN | {"tenant": "b"}]
        await desk.post(batch, key="operator")
        await desk.post(batch, key="operator", query="?tenant=a")
        assert [each.tenant for each in await desk.events()] == ["default", "b", "a", "b"]


async def test_data_is_compared_with_the_newest_schema_of_its_type() -> None:
    async with opened() as desk:
        desk.types["order.created"] = EventType(name="order.created", schema="shop.Order")
        assert "no version" in (await desk.post(GIVEN, 422))["detail"]
        await desk.registry.register("shop.Order", ORDER)
        good = GIVEN | {"data": {"number": 1, "total": 2.5}}
        await desk.post([good, good, {"type": "other", "data": 5}])
        wrong = [good, good | {"data": {"number": "1", "extra": 1}}, good | {"data": 7}]
        problem = await desk.post(wrong, 422)
        assert paths(problem) == ["/1/data/number", "/1/data/total", "/1/data/extra", "/2/data"]
        assert problem["detail"] == "/1/data/number: must be integer, and 3 more; no event was published"
        await desk.registry.register("shop.Order", ORDER.replace('"long"', '"string"'))
        await desk.post(good, 422)
        desk.registry.available = False
        await desk.post(good, 503)
        assert desk.headers["Retry-After"] == "1"


async def test_types_that_nobody_described_are_refused_where_that_is_asked_for() -> None:
    async with opened(strict=True) as desk:
        desk.types["known"] = EventType(name="known")
        await desk.post({"type": "known", "data": 1})
        assert paths(await desk.post([{"type": "known", "data": 1}, GIVEN], 422)) == ["/1/type"]


# --- Avro -------------------------------------------------------------------------------------------------------------

AVRO = "application/vnd.confluent.avro"


def order(schema_id: int, number: int = 1) -> bytes:
    return codec.encode(schema_id, codec.parse_schema(ORDER), {"number": number, "total": 2.5})


@pytest.mark.parametrize("media", [AVRO, "avro/binary"])
async def test_avro_is_written_as_it_came_with_the_headers_of_kafka(media: str) -> None:
    async with opened() as desk:
        schema_id = await desk.registry.register("shop.Order", ORDER)
        desk.types["order.created"] = EventType(name="order.created", schema="shop.Order")
        more: dict[str, Any] = {
            "ce_id": "a1",
            "ce_type": "order.created",
            "ce_subject": "o%2F1",
            "traceparent": TRACE,
            "tracestate": "rojo=1",
        }
        assert await desk.post(order(schema_id), media=media, **more) == {"events": [{"id": "a1"}]}
        assert await desk.post(order(schema_id), media=media, **more) == {"events": [{"id": "a1", "duplicate": True}]}
        await desk.post(order(schema_id, 2), 409, media=media, **more)
        (made,) = await desk.ids(order(schema_id), media=media, ce_type="order.created")
        first, second = await desk.events()
        assert (first.id, first.tenant, first.subject) == ("a1", "acme", "o/1")
        assert (first.traceparent, first.tracestate) == (TRACE, "rojo=1")
        assert (first.data, second.id) == (b'{"number":1,"total":2.5}', made)
        assert desk.world.kafka.records[TOPICS.events][0].value == order(schema_id)


async def test_avro_that_is_wrong() -> None:
    async with opened() as desk:
        schema_id = await desk.registry.register("shop.Order", ORDER)
        desk.types["checked"] = EventType(name="checked", schema="events-value")
        cases: list[tuple[bytes, int, dict[str, Any]]] = [
            (b"{}", 400, {"ce_type": "a"}),
            (order(99), 422, {"ce_type": "a"}),
            (order(schema_id)[:-3], 422, {"ce_type": "a"}),
            (order(schema_id), 422, {}),
            (order(schema_id), 422, {"ce_type": "a b"}),
            (order(schema_id), 422, {"ce_type": "a", "ce_time": "now"}),
            (order(schema_id), 422, {"ce_type": "checked"}),
            (order(schema_id), 403, {"ce_type": "a", "ce_tenant": "other"}),
            (order(schema_id) + bytes(EVENT_BYTES_MAX), 413, {"ce_type": "a"}),
        ]
        for body, status, more in cases:
            await desk.post(body, status, media=AVRO, **more)
        assert desk.world.kafka.records[TOPICS.events] == []


async def test_an_envelope_in_avro() -> None:
    async with opened() as desk:
        event = Event("e1", "order.created", "acme", 5, b'{"number":1}')
        assert await desk.post(encode_event(5, event), media=AVRO) == {"events": [{"id": "e1"}]}
        assert await desk.events() == [event]
        other = msgspec.structs.replace(event, tenant="other")
        await desk.post(encode_event(5, other), 403, media=AVRO)
        await desk.registry.register("shop.Order", ORDER)
        desk.types["order.created"] = EventType(name="order.created", schema="shop.Order")
        problem = await desk.post(encode_event(5, msgspec.structs.replace(event, id="e2")), 422, media=AVRO)
        assert paths(problem) == ["/data/total"]


async def test_avro_of_a_type_that_nobody_described() -> None:
    async with opened(strict=True) as desk:
        schema_id = await desk.registry.register("shop.Order", ORDER)
        assert "no event type a;" in (await desk.post(order(schema_id), 422, media=AVRO, ce_type="a"))["detail"]


# --- Kafka ------------------------------------------------------------------------------------------------------------


async def test_while_kafka_is_away_who_asks_is_told_when_to_come_again() -> None:
    async with opened(wait_s=0.05) as desk:
        desk.world.kafka.answers.clear()
        problem = await desk.post(GIVEN | {"id": "e1"}, 503)
        assert (desk.headers["Retry-After"], problem["status"]) == ("1", 503)
        desk.world.kafka.answers.set()
        await desk.post(GIVEN | {"id": "e1"})
        assert [each.id for each in await desk.events()] == ["e1"]


async def test_what_a_topic_does_not_take() -> None:
    async with opened(record_bytes_max=100) as desk:
        assert "nothing was published" in (await desk.post(GIVEN | {"data": "x" * 200}, 413))["detail"]
