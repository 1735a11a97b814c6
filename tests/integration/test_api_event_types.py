"""Event types over HTTP on a real Kafka: made, changed and removed, shown as the topic holds them, and what they do."""

from __future__ import annotations

import json
from typing import Any

from schemas.audit import decode_audit
from schemas.event_type import decode_event_type
from streams.settings import Settings
from streams.wiring import make_registry, register_own_schemas
from tests.cli import Cli
from tests.integration.test_api import running, settings
from tests.integration.workers import Site

__all__ = ["settings"]  # a fixture
ORDER = """{"type": "record", "name": "Order", "namespace": "shop", "fields": [
    {"name": "number", "type": "long"}, {"name": "total", "type": "double"}]}"""


async def test_event_types_come_and_go(settings: Settings) -> None:
    async with running(settings) as api:
        operator, acme = api("operator"), api("acme")
        path = "/v1/event-types/order.created"
        given = {"description": "An order was placed.", "group": "Orders", "example": {"n": [1, None]}}
        status, made, headers = await operator.ask("PUT", path, json=given, headers={"If-None-Match": "*"})
        assert (status, headers["Location"]) == (201, path)
        assert made["example"] == {"n": [1, None]}
        assert {key: made[key] for key in ("name", "schema", "deprecated")} == {
            "name": "order.created",
            "schema": "",
            "deprecated": False,
        }
        assert await acme.get(path) == made
        assert (await operator.ask("PUT", path, json=given, headers={"If-None-Match": "*"}))[0] == 412

        tag = headers["ETag"]
        status, changed, headers = await operator.ask("PUT", path, json={"deprecated": True}, headers={"If-Match": tag})
        assert (status, changed["deprecated"], changed["description"], "example" in changed) == (200, True, "", False)
        assert changed["created_ms"] == made["created_ms"]
        assert headers["ETag"] != tag
        assert (await operator.ask("PUT", path, json={}, headers={"If-Match": tag}))[0] == 412
        assert (await operator.ask("DELETE", path, headers={"If-Match": tag}))[0] == 412

        for name in ("user.created", "order.paid"):
            await operator.ask("PUT", f"/v1/event-types/{name}", json={"group": "Others"})
        names: list[str] = []
        cursor = ""
        while True:
            page = await acme.get(f"/v1/event-types?limit=1{cursor}")
            names += [each["name"] for each in page["items"]]
            if page["next"] is None:
                break
            cursor = f"&cursor={page['next']}"
        assert names == ["order.created", "order.paid", "user.created"]
        others = await acme.get("/v1/event-types?group=Others")
        assert [each["name"] for each in others["items"]] == ["order.paid", "user.created"]

        # Operators see what they are told of too, among the others; nobody changes it.
        page = await operator.get("/v1/event-types?limit=4")
        assert [each["name"] for each in page["items"]] == [
            "operation.circuit.closed",
            "operation.circuit.opened",
            "operation.dead_letters.written",
            "operation.endpoint.disabled",
        ]
        page = await operator.get(f"/v1/event-types?cursor={page['next']}")
        assert [each["name"] for each in page["items"]][-3:] == ["order.created", "order.paid", "user.created"]
        own = "/v1/event-types/operation.quarantine.grew"
        shown = await operator.get(own)
        assert (shown["schema"], shown["example"]["count"]) == ("distributary.Operation", 3)
        await acme.get(own, 404)
        assert (await operator.ask("PUT", own, json={}))[0] == 409
        assert (await operator.ask("DELETE", own))[0] == 409

        assert (await operator.ask("DELETE", path))[0] == 204
        await acme.get(path, 404)
        assert (await operator.ask("DELETE", path))[0] == 404
        assert (await acme.ask("PUT", path, json={}))[0] == 403
        assert (await acme.ask("DELETE", "/v1/event-types/order.paid"))[0] == 403
    site = Site(settings, await register_own_schemas(make_registry(settings), settings.topics))
    records = [(each.key(), each.value()) for each in site.read(settings.topics.event_types)]
    assert [key for key, _ in records] == [b"order.created"] * 2 + [b"user.created", b"order.paid", b"order.created"]
    assert records[-1][1] is None
    assert decode_event_type(records[0][1]).description == "An order was placed."
    actions = [decode_audit(each.value()).action for each in site.read(settings.topics.audit)]
    assert actions == [f"event_type.{done}" for done in ("created", "replaced", "created", "created", "deleted")]


async def test_what_is_wrong_is_refused(settings: Settings) -> None:
    async with running(settings) as api:
        operator = api("operator")
        cases: list[tuple[dict[str, Any], str]] = [
            ({"schema": "shop.Order"}, "/schema"),
            ({"description": "x" * 5_000}, "/description"),
            ({"example": "x" * 70_000}, "/example"),
            ({"more": 1}, ""),
        ]
        for body, place in cases:
            status, problem, _ = await operator.ask("PUT", "/v1/event-types/a", json=body)
            assert (status, problem["errors"][0]["path"]) == (422, place)
        headers = {"Content-Type": "application/json"}
        bad = await operator.ask("PUT", "/v1/event-types/a", data=b'{"example":"\xff"}', headers=headers)
        assert bad[0] == 422
        assert (await operator.ask("PUT", "/v1/event-types/a%20b", json={}))[0] == 404
        status, made, headers = await operator.ask("PUT", "/v1/event-types/a%2Fb", json={})
        assert (status, made["name"], headers["Location"]) == (201, "a/b", "/v1/event-types/a%2Fb")
        assert (await operator.ask("GET", "/v1/event-types?cursor=x"))[0] == 400


async def test_the_schema_of_a_type_is_that_of_its_events(settings: Settings, tmp_path: Any) -> None:
    (tmp_path / "shop.Order.v1.avsc").write_text(ORDER)
    strict = settings.model_copy(update={"schemas": tmp_path, "unknown_event_types": "refuse"})
    async with running(strict) as api:
        operator, acme = api("operator"), api("acme")
        event = {"type": "order.created", "data": {"number": 1, "total": 2.5}}
        status, problem, _ = await acme.ask("POST", "/v1/events", json=event)
        assert (status, problem["errors"][0]["path"]) == (422, "/type")
        assert (await operator.ask("PUT", "/v1/event-types/order.created", json={"schema": "shop.Order"}))[0] == 201
        assert (await acme.ask("POST", "/v1/events", json=event))[0] == 202
        status, problem, _ = await acme.ask("POST", "/v1/events", json=event | {"data": {"number": 1}})
        assert (status, problem["errors"][0]["path"]) == (422, "/data/total")
    assert settings.bootstrap is not None
    cli = Cli(tmp_path, {"bootstrap": settings.bootstrap, "prefix": settings.prefix})
    cli.run("catalog", "--out", str(tmp_path / "site"))
    document = json.loads((tmp_path / "site/asyncapi.json").read_text())
    assert [(each["name"], each["schema"]) for each in document["x-event-types"]] == [("order.created", "shop.Order")]
    assert "order.created" in (tmp_path / "site/index.html").read_text()
