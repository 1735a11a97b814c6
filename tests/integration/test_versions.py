"""Five versions of an event's schema in use at once, on a real Kafka: every endpoint gets the one that it asked for."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path
from typing import Any

import orjson
import standardwebhooks
from jsonschema import Draft202012Validator

from connectors.local_kafka import Cluster
from schemas import codec
from schemas.examples import VERSIONS, order_record, order_schema
from schemas.frame import Headers
from schemas.json_schema import json_schema
from tests.helpers import eventually_async
from tests.integration.sink import Sink
from tests.integration.workers import SECRET, Site

#: Of each version; producers of all of them write at the same time.
EVENTS = 40
ENDPOINTS: dict[str, dict[str, Any]] = {
    **{f"v{version}": {"schema_version": version} for version in VERSIONS},
    "latest": {"schema_version": -1},
    "written": {},
    "typed": {"schema_version": 2, "content_type": "application/vnd.shop.v{version}+json", "format": "data"},
    "cloud": {"schema_version": 3, "format": "cloudevents_structured"},
    "avro": {"schema_version": 4, "format": "avro"},
    "returned": {"schema_version": 5, "filter": '{"data":{"status":["RETURNED"]}}'},
    "short": {"schema_version": 1, "transform": "{id: id, skus: lines[*].sku}", "format": "data"},
    "never": {"schema_version": 6},
}


async def produce(site: Site, version: int) -> None:
    """One producer, on its version."""
    schema_id = codec.content_id(order_schema(version))
    writer = codec.parse_schema(order_schema(version), logical_types=False)
    for number in range(EVENTS):
        value = codec.encode(schema_id, writer, order_record(version, number))
        headers: Headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", b"v%d-%d" % (version, number)),
            ("ce_type", b"order.placed"),
            ("ce_source", b"/shop"),
        ]
        await asyncio.to_thread(site.write, site.topics.events, [(b"%d" % number, value)], headers=headers)


async def test_every_endpoint_gets_its_version_of_events_of_five(kafka: Cluster, prefix: str, tmp_path: Path) -> None:
    for version in VERSIONS:
        (tmp_path / f"shop.Order.v{version}.avsc").write_text(order_schema(version))
    site = await Site.made(kafka.bootstrap, prefix, schemas=tmp_path)
    total = EVENTS * len(VERSIONS)
    wanted = dict.fromkeys(ENDPOINTS, total) | {"returned": EVENTS, "never": 0}
    async with Sink().running() as sink:
        for name, fields in ENDPOINTS.items():
            site.subscribe(name, sink.url(f"/{name}"), event_types=("order.placed",), **fields)
        async with site.worker() as worker:
            await asyncio.gather(*(produce(site, version) for version in VERSIONS))
            await eventually_async(lambda: len(sink.received) == sum(wanted.values()), timeout_s=60)
            await eventually_async(lambda: len(site.dead()) == total, timeout_s=60)
            assert worker.counters["filtered"] == total - EVENTS
    received: defaultdict[str, list[Any]] = defaultdict(list)
    for one in sink.received:
        if one.path != "/avro":  # their library reads JSON only
            standardwebhooks.Webhook(SECRET).verify(one.body, one.headers)
        received[one.path[1:]].append(one)
    assert {name: len(received[name]) for name in ENDPOINTS} == wanted

    judges = {version: Draft202012Validator(json_schema(order_schema(version))) for version in VERSIONS}

    def check(one: Any, data: Any, version: int) -> None:
        judges[version].validate(data)
        assert one.headers["webhook-version"] == str(version)

    for version in VERSIONS:
        for one in received[f"v{version}"]:
            check(one, orjson.loads(one.body)["data"], version)
    for one in received["latest"]:
        check(one, orjson.loads(one.body)["data"], 5)
    written = [int(one.headers["webhook-version"]) for one in received["written"]]
    assert sorted(written) == sorted(list(VERSIONS) * EVENTS)
    for one, version in zip(received["written"], written, strict=True):
        check(one, orjson.loads(one.body)["data"], version)
    for one in received["typed"]:
        assert one.headers["content-type"] == "application/vnd.shop.v2+json"
        check(one, orjson.loads(one.body), 2)
    for one in received["cloud"]:
        cloud = orjson.loads(one.body)
        assert (cloud["source"], cloud["type"], cloud["dataversion"]) == ("/shop", "order.placed", "3")
        check(one, cloud["data"], 3)
    fourth = codec.parse_schema(order_schema(4))
    for one in received["avro"]:
        assert codec.wire_schema_id(one.body) == codec.content_id(order_schema(4))
        assert codec.decode(one.body, fourth)["id"].startswith("o-")
    for one in received["returned"]:
        check(one, orjson.loads(one.body)["data"], 5)
    assert all(orjson.loads(one.body).keys() == {"id", "skus"} for one in received["short"])
    dead = site.dead()
    assert {(one["delivery"]["subscription_id"], one["reason"]) for one in dead} == {("never", "unresolvable")}
    assert len({one["delivery"]["event_id"] for one in dead}) == total
