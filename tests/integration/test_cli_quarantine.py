"""Quarantine by the command line: listed, shown as far as it can be decoded, and resent once its cause is mended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from connectors import feed
from connectors.admin import ClusterError
from connectors.api.quarantine import Narrowed
from connectors.clock import SystemClock
from connectors.local_kafka import Cluster
from connectors.memory import MemoryRecord, Stored
from connectors.registry_folder import FolderRegistry
from connectors.topic_pages import TopicPages
from schemas import codec
from schemas.audit import decode_audit
from schemas.errors import UndecodableError
from schemas.event import Event, encode_event
from schemas.frame import Headers
from streams.cli.options import open_registry
from streams.counters import Counters
from streams.quarantine import quarantined
from streams.quarantine_check import Judge
from streams.quarantine_log import Filter, Place, QuarantineError
from streams.quarantine_resend import Selection, plan, resender
from streams.quarantine_service import QuarantineService
from tests.cli import Cli
from tests.integration.test_api import running
from tests.integration.workers import Site

ORDER = json.dumps(
    {"type": "record", "name": "Order", "namespace": "shop", "fields": [{"name": "total", "type": "int"}]}
)
CE: Headers = [("ce_id", b"e-1"), ("ce_type", b"order.created"), ("ce_source", b"/shop")]
GARBAGE = b'{"type":"order.created"}'


class Town:
    """Topics, a folder of schemas, the command, and what a worker writes to quarantine."""

    def __init__(self, site: Site, cli: Cli, folder: Path) -> None:
        self.site = site
        self.cli = cli
        self.folder = folder
        self.quarantine = site.topics.quarantine

    def put_aside(self, topic: str, records: list[tuple[bytes | None, bytes | None]], **given: Any) -> None:
        """As a worker does that met the records at this topic's partition 1, from offset 10 on."""
        reason, headers = given.get("reason", "unknown_schema"), given.get("headers")
        for offset, (key, value) in enumerate(records, 10):
            error = UndecodableError(reason, f"it is {reason}")
            record = MemoryRecord(Stored(topic, 1, offset, key, value, headers))
            kept = quarantined(self.quarantine, topic, 1, record, error, Counters())
            self.site.write(self.quarantine, [(kept[1], kept[2])], partition=0, headers=kept[4])

    def order(self, total: int) -> bytes:
        return codec.encode(codec.content_id(ORDER), codec.parse_schema(ORDER), {"total": total})

    def schema_arrives(self) -> None:
        (self.folder / "shop.Order.v1.avsc").write_text(ORDER)

    def resend(self, *arguments: str) -> list[Any]:
        return self.cli.lines("quarantine", "resend", "--json", *arguments)

    def actions(self, *arguments: str) -> dict[str, str]:
        return {each["place"].partition("/")[2]: each["action"] for each in self.resend(*arguments)}

    def resent_events(self) -> list[Any]:
        return self.site.read(self.site.topics.events)

    def events(self) -> list[tuple[bytes, bytes]]:
        return [(message.key(), message.value()) for message in self.resent_events()]

    def settled(self) -> None:
        """Wait for the markers of transactions: who only looks does not, and would see what was before."""
        self.site.read(self.quarantine, self.site.topics.audit)


@pytest.fixture
async def town(tmp_path: Path, kafka: Cluster, prefix: str) -> Town:
    folder = tmp_path / "schemas"
    folder.mkdir()
    site = await Site.made(kafka.bootstrap, prefix, partitions=2, schemas=folder)
    cli = Cli(tmp_path, {"bootstrap": kafka.bootstrap, "prefix": prefix, "schemas": str(folder)})
    return Town(site, cli, folder)


@asynccontextmanager
async def judging(town: Town) -> AsyncIterator[Judge]:
    async with open_registry(town.site.settings) as registry:
        assert isinstance(registry, FolderRegistry)
        yield Judge(town.site.settings, registry)


def test_events_are_resent_when_their_schema_has_arrived_and_never_twice(town: Town) -> None:
    town.put_aside(town.site.topics.events, [(b"a", town.order(1)), (b"b", town.order(2))], headers=CE)
    town.put_aside(town.site.topics.events, [(b"c", GARBAGE)], reason="wrong_magic")
    undecodable = {"0/0": "undecodable", "0/1": "undecodable"}
    assert town.actions("--reason", "unknown_schema", "--dry-run") == undecodable
    assert town.actions("--reason", "unknown_schema", "--yes") == undecodable
    assert town.events() == []

    town.schema_arrives()
    wanted = {"0/0": "would_resend", "0/1": "would_resend", "0/2": "undecodable"}
    assert town.actions("--all", "--dry-run") == wanted
    assert "no terminal" in town.cli.fails("quarantine", "resend", "--all")
    assert town.events() == []
    said = town.cli.run("quarantine", "resend", "--all", "--yes").stdout
    assert "resent: 2, skipped: 1 undecodable" in said
    assert f"skipped {town.quarantine}/0/2: wrong_magic: the first byte is 0x7b" in said

    first, second = town.resent_events()
    assert (first.key(), first.value(), first.partition()) == (b"a", town.order(1), 1)
    origin = [
        ("distributary-original-topic", town.site.topics.events.encode()),
        ("distributary-original-partition", b"1"),
        ("distributary-original-offset", b"11"),
    ]
    assert second.headers() == [*CE, *origin]

    assert town.actions("--reason", "unknown_schema", "--yes") == {"0/0": "already_resent", "0/1": "already_resent"}
    assert len(town.events()) == 2
    assert "was resent already; add --again" in town.cli.fails("quarantine", "resend", "0/0")
    assert town.actions("0/0", "--again") == {"0/0": "resent"}
    assert [key for key, _ in town.events()] == [b"a", b"b", b"a"]

    town.settled()
    listed = town.cli.lines("quarantine", "list", "--json")
    assert [each["resent"] for each in listed] == [True, True, False]
    tailed = town.cli.lines("tail", "quarantine", "--from-beginning", "--no-follow", "--json")
    assert [each["resent"] for each in tailed if "resent" in each] == [0, 1, 0]
    assert (
        f"resent  {town.quarantine}[0]@1"
        in town.cli.run("tail", "quarantine", "--from-beginning", "--no-follow").stdout
    )


def test_what_nobody_mends_is_discarded_with_who_and_why(town: Town) -> None:
    town.put_aside(town.site.topics.events, [(b"a", GARBAGE), (b"b", GARBAGE)], reason="wrong_magic")
    assert "say why" in town.cli.misused("quarantine", "discard", "--all")
    assert "discarded: 1" in town.cli.run("quarantine", "discard", "0/0", "--why", "a test").stdout
    assert "would discard: 1" in town.cli.run("quarantine", "discard", "--all", "--dry-run").stdout
    first, second = town.cli.lines("quarantine", "list", "--json")
    assert (first["discarded"]["why"], second["discarded"]) == ("a test", None)
    assert "it was discarded by cli:" in town.cli.fails("quarantine", "resend", "0/0")
    assert town.actions("0/0", "--again", "--force") == {"0/0": "resent"}
    record, _ = town.site.read(town.site.topics.audit)
    told = decode_audit(record.value())
    assert (told.action, told.kind, told.after) == (
        "discarded",
        "quarantine",
        json.dumps({"why": "a test", "places": [f"{town.quarantine}/0/0"]}, separators=(",", ":")),
    )


async def test_over_http(town: Town) -> None:
    town.put_aside(town.site.topics.events, [(b"a", town.order(1)), (b"b", town.order(2))], headers=CE)
    town.put_aside(town.site.topics.events, [(b"c", GARBAGE), (b"d", GARBAGE)], reason="wrong_magic")
    secret = b'{"id":"acme","secrets":["whsec_AAAA"]'
    town.put_aside(town.site.topics.subscriptions, [(b"acme", secret)], reason="invalid")
    async with running(town.site.settings) as api:
        operator, acme = api("operator"), api("acme")
        await acme.get("/v1/quarantine", 403)

        async def listed(query: str = "") -> list[str]:
            found: list[dict[str, Any]] = []
            cursor = ""
            while True:
                page = await operator.get(f"/v1/quarantine?limit=2{query}{cursor}")
                found += page["items"]
                if page["next"] is None:
                    return [f"{each['id']} {each['state']}" for each in found]
                cursor = f"&cursor={page['next']}"

        async def post(what: str, status: int, **body: Any) -> Any:
            got, document, _ = await operator.ask("POST", f"/v1/quarantine/{what}", json=body)
            assert got == status, document
            return document

        assert await listed() == [f"0-{offset} open" for offset in (4, 3, 2, 1, 0)]
        assert await listed("&reason=wrong_magic&topic=events&partition=1") == ["0-3 open", "0-2 open"]
        assert await listed("&state=resent") == []
        one = await operator.get("/v1/quarantine/0-2")
        assert (one["reason"], one["key"], one["content"]["now"]["reason"]) == ("wrong_magic", "c", "wrong_magic")
        assert "whsec" not in json.dumps(await operator.get("/v1/quarantine/0-4"))
        await operator.get("/v1/quarantine/0-99", 404)

        for bad in ({}, {"all": True, "ids": ["0-1"]}):
            await post("resend", 422, **bad)
        await post("discard", 422, all=True)
        assert (await post("discard", 200, reason="wrong_magic", why="a test"))["discarded"] == 2
        assert (await post("discard", 404, ids=["0-99"], why="a test"))["detail"].startswith("there is no quarantined")
        town.schema_arrives()
        dry = await post("resend", 200, all=True, dry_run=True)
        assert (dry["resent"], dry["skipped"]) == (2, 3)
        assert {each["id"]: each["reason"] for each in dry["examples"]} == {
            "0-2": "discarded",
            "0-3": "discarded",
            "0-4": "no_source",
        }
        assert town.events() == []
        assert (await post("resend", 200, ids=["0-0", "0-1"]))["resent"] == 2
        assert [key for key, _ in town.events()] == [b"a", b"b"]
        town.settled()
        assert await listed() == ["0-4 open", "0-3 discarded", "0-2 discarded", "0-1 resent", "0-0 resent"]
        assert (await operator.get("/v1/quarantine?state=discarded"))["items"][0]["discarded"]["by"] == "key:op"
        trail = (await operator.get("/v1/audit"))["items"]
        assert [(each["action"], each["kind"]) for each in trail] == [
            ("resent", "quarantine"),
            ("discarded", "quarantine"),
        ]


async def test_pages_tell_what_became_of_records_whose_markers_are_far_behind_them(town: Town) -> None:
    """Those that stand between the record and the page, and those behind the page, which another process has shown."""
    settings, topic = town.site.settings, town.quarantine
    headers: Headers = [("distributary-reason", b"wrong_magic")]
    town.site.write(topic, [(b"k", b"v")] * 700, partition=0, headers=headers)
    town.site.write(topic, [(b"k", None)], partition=0, headers=[("distributary-resent", b"3")])
    for offset, who in ((600, b"a"), (5, b"a"), (5, b"b")):
        marker: Headers = [("distributary-discarded", str(offset).encode()), ("distributary-by", who)]
        town.site.write(topic, [(b"k", None)], partition=0, headers=marker)
    town.site.write(topic, [(b"k", b"v")], partition=0, headers=headers)
    town.site.write(topic, [(b"k", b"v")] * 2, partition=1, headers=headers)
    async with running(settings) as first, running(settings) as second:
        page = await first("operator").get("/v1/quarantine?limit=200")
        assert len(page["items"]) == 200
        assert [each["id"] for each in page["items"] if each["state"] != "open"] == ["0-600"]
        found: list[Any] = []
        while page["next"] is not None:
            assert not page["partial"]
            page = await second("operator").get(f"/v1/quarantine?limit=200&cursor={page['next']}")
            found += page["items"]
        assert len(found) == 503
        told = {each["id"]: (each["state"], each["discarded"]) for each in found if each["state"] != "open"}
        assert set(told) == {"0-3", "0-5"}
        assert told["0-3"] == ("resent", None)
        assert told["0-5"][1]["by"] == "b", "the last one counts"
        for state, ids in (("discarded", ["0-600", "0-5"]), ("resent", ["0-3"])):
            page = await second("operator").get(f"/v1/quarantine?state={state}")
            assert [each["id"] for each in page["items"]] == ids
        assert (await first("operator").get("/v1/quarantine/0-5"))["discarded"]["by"] == "b"
        await first("operator").get("/v1/quarantine/0-702", 404)  # a marker


async def test_a_page_of_the_quarantine_ends_at_its_bounds_and_goes_on(town: Town) -> None:
    clock = SystemClock()
    config = {"bootstrap.servers": town.site.settings.bootstrap}
    headers: Headers = [("distributary-reason", b"rare")]
    town.site.write(town.quarantine, [(b"k", b"v")], partition=0, headers=headers)
    town.site.write(town.quarantine, [(b"k", b"v")] * 1_000, partition=0)
    pages = TopicPages(config, town.quarantine, clock.monotonic, scan_max=250, page_seconds=60.0)
    async with open_registry(town.site.settings) as registry:
        service = QuarantineService(town.site.settings, registry, town.site.schemas, pages, clock.monotonic)
        before: Any = None
        partial = True
        ended = 0
        while partial:
            items, before, partial = await service.newest(Narrowed(reason="rare"), None, 5, before)
            ended += partial
            assert not (partial and items)
    await pages.close()
    assert ([each.id for each in items], before) == (["0-0"], None)
    assert ended == 1, "a step is of 200 offsets, the next of 400; a page ends when 250 were looked at"


def test_a_record_is_resent_with_a_fixed_value(town: Town, tmp_path: Path) -> None:
    town.put_aside(town.site.topics.events, [(b"a", GARBAGE), (b"b", GARBAGE)], reason="wrong_magic")
    fixed = tmp_path / "fixed.bin"
    fixed.write_bytes(b"not yet")
    said = town.cli.fails("quarantine", "resend", "0/0", "--value-file", str(fixed))
    assert said.startswith(f"nothing was resent: {town.quarantine}/0/0: wrong_magic")
    event = encode_event(town.site.schemas.event, Event("e-1", "order.created", "default", 0, b"{}"))
    fixed.write_bytes(event)
    assert town.actions(f"{town.quarantine}/0/0", "--value-file", str(fixed), "--dry-run") == {"0/0": "would_resend"}
    assert town.actions("events.quarantine/0/0", "--value-file", str(fixed)) == {"0/0": "resent"}
    assert town.events() == [(b"a", event)]
    assert "undecodable" not in town.cli.run("quarantine", "resend", "0/1", "--force").stdout
    assert town.events() == [(b"a", event), (b"b", GARBAGE)]
    assert "missing.bin" in town.cli.fails("quarantine", "resend", "0/1", "--value-file", "missing.bin")


def test_named_records_are_resent_all_or_none(town: Town) -> None:
    town.schema_arrives()
    town.put_aside(town.site.topics.events, [(b"a", town.order(1)), (b"b", GARBAGE)], headers=CE)
    assert "0/1: wrong_magic" in town.cli.fails("quarantine", "resend", "0/0", "0/1")
    assert town.events() == []
    assert "no quarantined record at" in town.cli.fails("quarantine", "resend", "0/0", "0/9")
    assert "no quarantined record at" in town.cli.fails("quarantine", "show", "1/0")
    assert "is no place in the quarantine" in town.cli.fails("quarantine", "show", "events/0/0")


def test_a_subscription_does_not_undo_a_newer_one_and_keeps_its_secrets(town: Town) -> None:
    old = b'{"id":"acme","url":"https://old.example/","event_types":["*"],"secrets":["whsec_AAAA"]}'
    town.put_aside(town.site.topics.subscriptions, [(b"acme", old)], reason="invalid")
    shown = town.cli.run("quarantine", "show", "0/0").stdout
    assert "whsec_AAAA" not in shown
    assert "it would come back: invalid" in shown
    assert "--reveal" in town.cli.fails("quarantine", "show", "0/0", "--raw")
    assert town.cli.run("quarantine", "show", "0/0", "--raw", "--reveal").stdout == old.decode()
    assert "whsec_AAAA" not in town.cli.run("quarantine", "show", "0/0", "--json").stdout

    good = old.replace(b"whsec_AAAA", b"whsec_" + b"A" * 32)
    source = town.site.topics.subscriptions
    record = MemoryRecord(Stored(source, 0, 0, b"acme", good, None))
    error = UndecodableError("unknown_schema", "it was")
    marked = quarantined(town.quarantine, source, 0, record, error, Counters())
    town.site.write(town.quarantine, [(b"acme", good)], partition=0, headers=marked[4])
    assert town.actions("0/1", "--dry-run") == {"0/1": "would_resend"}
    town.site.write(source, [(b"filler", None), (b"acme", good)])
    assert "a newer record of this subscription exists" in town.cli.fails("quarantine", "resend", "0/1")
    assert town.actions("0/1", "--force") == {"0/1": "resent"}
    assert [message.key() for message in town.site.read(source)].count(b"acme") == 2


def test_a_delivery_and_what_nobody_reads(town: Town) -> None:
    town.put_aside(town.site.topics.deliveries, [(b"acme", town.order(1))])
    town.put_aside("elsewhere", [(b"x", town.order(1))])
    town.put_aside(town.site.topics.attempts, [(b"x", town.order(1))])
    town.site.write(town.quarantine, [(b"by hand", b"?")], partition=0)
    said = {each["place"].partition("/")[2]: each["detail"] for each in town.resend("--all", "--dry-run")}
    assert "is not that of a delivery" in said["0/0"]
    assert said["0/1"] == "there is no elsewhere[1] any more"
    assert "is no topic that workers read" in said["0/2"]
    assert said["0/3"] == "its headers do not say where it came from"
    assert "save its value" in town.cli.fails("quarantine", "resend", "0/3", "--force")
    assert "from      ?" in town.cli.run("quarantine", "show", "0/3").stdout


def test_a_record_is_shown_as_far_as_it_can_be_decoded(town: Town) -> None:
    odd: Headers = [*CE, ("raw", b"\xff\x01")]
    town.put_aside(town.site.topics.events, [(b"\xfe", town.order(7)), (None, None)], headers=odd)
    page = town.cli.run("quarantine", "show", "0/0").stdout
    schema_id = codec.content_id(ORDER)
    assert f"schema    id {schema_id}, which the registry does not have" in page
    assert "key       0xfe" in page
    assert "header    raw: 0xff01" in page
    assert f"0000  {town.order(7).hex(' ')}" in page
    assert "it would come back: unknown_schema" in page
    town.schema_arrives()
    page = town.cli.run("quarantine", "show", "0/0").stdout
    assert f"schema    id {schema_id}: shop.Order (shop.Order v1)" in page
    assert 'decoded   {"total":7}' in page
    assert '"type":"order.created"' in page
    (document,) = town.cli.lines("quarantine", "show", "0/0", "--json")
    assert document["now"]["as"]["data"] == {"total": 7}
    assert document["source"] == f"{town.site.topics.events}/1/10"
    assert "the value does not name one" in town.cli.run("quarantine", "show", "0/1").stdout


def test_a_list_is_filtered_and_bounded(town: Town) -> None:
    town.put_aside(town.site.topics.events, [(b"a", GARBAGE), (b"b", GARBAGE)], reason="wrong_magic")
    town.put_aside(town.site.topics.deliveries, [(b"c", GARBAGE)], reason="avro")

    def keys(*options: str) -> list[str]:
        return [each["key"] for each in town.cli.lines("quarantine", "list", "--json", *options)]

    assert keys() == ["a", "b", "c"]
    assert keys("--reason", "avro") == ["c"]
    assert keys("--topic", "events") == keys("--topic", town.site.topics.events) == ["a", "b"]
    assert keys("--partition", "0") == []
    assert keys("--since", "2020-01-01T00:00:00Z", "--until", "2020-01-02T00:00:00Z") == []
    assert keys("--limit", "2") == ["b", "c"]
    assert "the newest 2 of 3" in town.cli.run("quarantine", "list", "--limit", "2").stderr
    line = town.cli.run("quarantine", "list", "--reason", "avro").stdout
    assert f"avro  from {town.site.topics.deliveries}/1/10  {len(GARBAGE)} bytes  it is avro" in line
    assert "has no time zone" in town.cli.misused("quarantine", "list", "--since", "2020-01-01")
    assert "is not a time" in town.cli.misused("quarantine", "list", "--until", "soon")


def test_wrong_usage_is_refused(town: Town) -> None:
    assert "name records by their PLACE" in town.cli.misused("quarantine", "resend")
    assert "name records by their PLACE" in town.cli.misused("quarantine", "resend", "0/0", "--all")
    assert "belongs to one record" in town.cli.misused("quarantine", "resend", "--all", "--value-file", "x")
    nowhere = Cli(town.cli.directory, town.cli.settings | {"prefix": "nowhere."})
    assert "the topic nowhere.events.quarantine does not exist" in nowhere.fails("quarantine", "list")


async def test_of_two_that_resend_at_once_one_stops_and_nothing_is_doubled(town: Town) -> None:
    town.schema_arrives()
    town.put_aside(town.site.topics.events, [(b"a", town.order(1))], headers=CE)
    selection = Selection(filter=Filter())
    settings = town.site.settings
    async with judging(town) as judge, resender(settings) as first:
        planned = await plan(settings, judge, selection)
        assert [verdict.place for verdict in planned] == [Place(town.quarantine, 0, 0)]
        async with resender(settings) as second:
            with pytest.raises(QuarantineError, match=r"another .* was started meanwhile"):
                await first.resend(planned, None, lambda _: None)
            done: list[int] = []
            assert await second.resend(await plan(settings, judge, selection), None, done.append) == 1
            assert done == [1]
            assert [each.skip for each in await plan(settings, judge, selection)] == ["already_resent"]
    assert len(town.events()) == 1


async def test_markers_behind_an_open_transaction_are_waited_for(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's transaction hides what was committed behind it; a resend that did not wait would not see a marker."""
    config = {"bootstrap.servers": town.site.settings.bootstrap}
    town.site.write(town.quarantine, [(b"a", b"?")], partition=0)
    worker = Producer(config | {"transactional.id": f"{town.site.settings.prefix}w"})
    worker.init_transactions(60)
    worker.begin_transaction()
    worker.produce(town.quarantine, b"?", b"b", 0)
    assert worker.flush(60) == 0
    with monkeypatch.context() as patched:
        patched.setattr(feed, "OPEN_TRANSACTIONS_SECONDS", -1.0)
        with pytest.raises(ClusterError, match="has stayed open for too long"):
            await feed.wait_for_open_transactions(config, town.quarantine)
    waiting = asyncio.create_task(feed.wait_for_open_transactions(config, town.quarantine))
    await asyncio.to_thread(worker.commit_transaction, 60)
    await waiting


def test_without_transactions_a_marker_follows_what_was_resent(town: Town) -> None:
    town.schema_arrives()
    town.put_aside(town.site.topics.events, [(b"a", town.order(1))], headers=CE)
    plain = Cli(town.cli.directory, town.cli.settings | {"guarantee": "at_least_once"})
    assert "resent: 1" in plain.run("quarantine", "resend", "--all", "--yes").stdout
    assert town.events() == [(b"a", town.order(1))]
    assert town.actions("--all", "--yes") == {"0/0": "already_resent"}
