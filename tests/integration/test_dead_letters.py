"""Dead letters on a real Kafka: read backwards by pages and as a stream, over HTTP and by the command line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from connectors.clock import SystemClock
from connectors.dead_letters import DeadLetters, Within
from connectors.feed import wait_for_open_transactions
from connectors.local_kafka import Cluster
from schemas import codec
from schemas.dead_letter import Filed
from schemas.delivery import FRESH, decode_delivery, encode_dead_letter, encode_fresh, encode_tail
from schemas.event import Event
from schemas.ids import delivery_id
from schemas.partitions import partition_of
from schemas.post import PostResult
from schemas.replay import Progress, Span, decode_replay, encode_progress
from schemas.subscription import Subscription, subscription_to_json
from streams.cli.values import iso as rfc3339
from streams.records import after
from tests.cli import Cli
from tests.helpers import eventually_async
from tests.integration.test_api import SECRET, Api, running
from tests.integration.workers import Site

HEADER = codec.wire_header(3)
#: Not long ago: what is older than the topic's retention, Kafka removes.
T0 = SystemClock().now_ms() // 1_000 * 1_000 - 20 * 3_600_000
PARTITIONS = 3
#: Of tenants acme and other.
SUBSCRIPTIONS = {"a1": "acme", "a2": "acme", "b1": "other"}
REPLAYED = (("webhook-replay", "rpl_before"),)


def letter(subscription_id: str, number: int, reason: str, status: int, headers: Any = ()) -> bytes:
    """Of the event `evt_<number>`, given up at that many seconds after T0 with two attempts."""
    at_ms = T0 + number * 1_000
    event = Event(f"evt_{number}", "order.created", SUBSCRIPTIONS[subscription_id], at_ms, b"{}", None)
    tail = encode_tail(event, at_ms, "application/json", b'{"n":%d}' % number, headers)
    field = codec.put_string(subscription_id) + FRESH
    fresh = encode_fresh(HEADER, delivery_id(event.id, subscription_id), field, tail)
    delivery = decode_delivery(fresh, 2 if headers else 1)
    for attempt in (1, 2):
        post = PostResult(status, 12_000, None if status else "timeout", excerpt=b"busy")
        delivery = after(delivery, attempt, 0, at_ms, post)
    return encode_dead_letter(HEADER, delivery, reason, f"the last came to {status}", at_ms)


class Town:
    """What stands in `deliveries.dead`, in the order in which it was written, and where."""

    def __init__(self, site: Site, cli: Cli) -> None:
        self.site, self.cli = site, cli
        self.ids: dict[int, str] = {}  # by number
        config = {"bootstrap.servers": site.settings.bootstrap, "transactional.id": f"{site.topics.prefix}dead"}
        self._producer = Producer(config)
        self._producer.init_transactions()

    async def write(
        self, letters: Sequence[tuple[str, int, str, int]], headers: Any = (), *, abort: bool = False
    ) -> None:
        """(subscription, number, reason, status) in one transaction, as workers do; over for readers, too."""
        found: dict[int, str] = {}

        def report(number: int) -> Callable[[Any, Any], None]:
            return lambda _, message: found.update({number: f"{message.partition()}-{message.offset()}"})

        self._producer.begin_transaction()
        for subscription_id, number, reason, status in letters:
            self._producer.produce(
                self.site.topics.dead,
                letter(subscription_id, number, reason, status, headers),
                subscription_id.encode(),
                partition_of(subscription_id.encode(), PARTITIONS),
                timestamp=T0 + number * 1_000,
                on_delivery=report(number),
            )
        self._producer.flush()
        if abort:
            self._producer.abort_transaction()
            return
        self._producer.commit_transaction()
        self.ids |= found
        await self.settled(self.site.topics.dead)

    async def settled(self, topic: str) -> None:
        """Wait for the markers of transactions, which come after commits."""
        await wait_for_open_transactions({"bootstrap.servers": self.site.settings.bootstrap}, topic)

    def numbers(self, items: Sequence[dict[str, Any]]) -> list[int]:
        """Which these are."""
        by_id = {id_: number for number, id_ in self.ids.items()}
        return [by_id[each["id"]] for each in items]

    def worker_tells(self, replay_id: str) -> None:
        """As a worker that has sent everything there is now."""
        spans = tuple(Span(self.site.topics.dead, number, 0, 10_000, 10_000) for number in range(PARTITIONS))
        progress = Progress(id=replay_id, state="done", spans=spans, read=1, counted=1, sent=1)
        header = codec.wire_header(self.site.schemas.replay_progress)
        self.site.write(self.site.topics.replays_progress, [(replay_id.encode(), encode_progress(header, progress))])


@pytest.fixture
async def town(tmp_path: Path, kafka: Cluster, prefix: str) -> Town:
    site = await Site.made(kafka.bootstrap, prefix, partitions=PARTITIONS, api_rate=0)
    cli = Cli(tmp_path, {"bootstrap": kafka.bootstrap, "prefix": prefix, "partitions": str(PARTITIONS)})
    made = Town(site, cli)
    for id_, tenant in SUBSCRIPTIONS.items():
        subscription = Subscription(
            id=id_, tenant=tenant, url="https://a.example/", event_types=("*",), secrets=(SECRET,)
        )
        site.write(site.topics.subscriptions, [(id_.encode(), subscription_to_json(subscription))])
    await made.write([("a1", 1, "exhausted", 503), ("b1", 2, "gone", 410), ("a2", 3, "exhausted", 0)])
    await made.write([("a1", 90, "exhausted", 503)], abort=True)
    site.write(site.topics.dead, [(b"a1", b"nonsense"), (None, None)], partition=partition_of(b"a1", PARTITIONS))
    await made.write([("a1", 4, "exhausted", 500), ("b1", 5, "exhausted", 503), ("a2", 6, "rejected", 400)])
    await made.write([("a1", 7, "exhausted", 503)], REPLAYED)
    return made


@pytest.fixture
async def api(town: Town) -> AsyncIterator[Api]:
    async with running(town.site.settings) as made:
        yield made


def number_of(filed: Filed) -> int:
    return int(filed.letter.facts.event_id.removeprefix("evt_"))


def rare(filed: Filed) -> int | None:
    return None if number_of(filed) % 100 else number_of(filed)


def of_b1(filed: Filed) -> int | None:
    return number_of(filed) if filed.letter.delivery.subscription_id == "b1" else None


async def test_reading_in_small_steps_misses_nothing_and_repeats_nothing(town: Town) -> None:
    """Bounds that end pages early, and what goes on meanwhile, change nothing but the pages."""
    await town.write([(("a1", "b1", "a2")[number % 3], number, "exhausted", 503) for number in range(100, 700)])
    everything = sorted(town.ids, reverse=True)
    config = {"bootstrap.servers": town.site.settings.bootstrap}
    letters = DeadLetters(config, town.site.topics.dead, SystemClock().monotonic, scan_max=250, page_seconds=60)
    try:
        for make, wanted in ((number_of, everything), (rare, [each for each in everything if not each % 100])):
            found: list[int] = []
            before = None
            partial = 0
            while True:
                page = await letters.page(make, Within(), limit=40, before=before)
                found += page.items
                partial += page.partial
                await town.write([("a1", 1_000 + len(town.ids), "exhausted", 503)])  # newer than where the pages are
                if page.next is None:
                    break
                before = page.next
            assert [each for each in found if each < 1_000] == wanted
            assert found[len(found) - len(wanted) :] == wanted
            assert bool(partial) == (make is rare), "a page ends when so much was looked at"
        within = Within("b1", T0 + 200_500, T0 + 650_000)
        page = await letters.page(of_b1, within, limit=10_000)
        assert page.items == [each for each in everything if each % 3 == 1 and 200 < each < 650]
        assert page.next is None

        streamed: list[int] = []
        unreadable = 0
        parts = letters.stream(number_of, Within())
        async for part in parts:
            streamed += part.items
            unreadable = part.unreadable
        assert (part.read, unreadable) == (part.total, 2)
        assert sorted(streamed) == sorted(town.ids)
        start = part.positions
        await town.write([("a2", 2_000, "exhausted", 503)])
        assert [each async for part in letters.stream(number_of, Within(), start=start) for each in part.items] == [
            2_000
        ]
        far = Within(since_ms=T0 + 20 * 3_600_000 + 3_600_000)
        assert (await letters.page(number_of, far, limit=5)).items == []

        places = [tuple(map(int, town.ids[number].split("-"))) for number in (1, 4, 100, 2_000)]
        held = await letters.get([*places, (0, 9_999), (77, 0)])  # type: ignore[list-item]
        assert {number_of(filed) for filed in held.values()} == {1, 4, 100, 2_000}
    finally:
        await letters.close()


async def test_over_http(town: Town, api: Api) -> None:
    operator, acme, other = api("operator"), api("acme"), api("other")
    page = await operator.get("/v1/dead-letters")
    assert town.numbers(page["items"]) == [7, 6, 5, 4, 3, 2, 1]
    assert (page["next"], page["partial"], page["unreadable"]) == (None, False, 2)
    first = page["items"][-1]
    assert (first["status"], first["error_class"], first["attempts"], first["state"]) == (503, "5xx", 2, "open")
    assert (first["tenant"], first["payload_bytes"], page["items"][0]["replay"]) == ("acme", 7, "rpl_before")

    for query, numbers in {
        "subscription=a1": [7, 4, 1],
        "subscription=a1&subscription=a2&reason=exhausted": [7, 4, 3, 1],
        "error_class=timeout": [3],
        "error_class=4xx&error_class=timeout": [6, 3, 2],
        "tenant=other": [5, 2],
        "event=evt_4&event=evt_5": [5, 4],
        "event_type=order.*&state=open&reason=gone": [2],
        "event_type=invoice.*": [],
        "state=retried": [],
        f"since={iso(3_000)}&until={iso(6_000)}": [5, 4, 3],
    }.items():
        assert town.numbers((await operator.get(f"/v1/dead-letters?{query}"))["items"]) == numbers, query
    assert town.numbers((await acme.get("/v1/dead-letters"))["items"]) == [7, 6, 4, 3, 1]
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = await operator.get(f"/v1/dead-letters?limit=2{cursor}")
        found += page["items"]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert town.numbers(found) == [7, 6, 5, 4, 3, 2, 1]
    for query in ("error_class=unheard", "cursor=x", "state=closed", "subscription=no%20id"):
        await operator.get(f"/v1/dead-letters?{query}", 400)
    await acme.get("/v1/dead-letters?tenant=other", 403)

    counted = await acme.get("/v1/dead-letters/summary")
    assert (counted["count"], counted["states"], counted["next"]) == (5, {"open": 5}, None)
    assert counted["reasons"] == {"exhausted": 4, "rejected": 1}
    assert counted["subscriptions"][0] == {"id": "a1", "tenant": "acme", "count": 3, "open": 3}
    assert counted["unreadable"] == 2

    one = await acme.get(f"/v1/dead-letters/{town.ids[3]}")
    assert one["payload"] == {"form": "json", "content": {"n": 3}, "cut": False}
    assert [each["number"] for each in one["tries"]] == [1, 2]
    assert (one["tries"][0]["cause"], one["tries"][0]["excerpt"]) == ("timeout", "busy")
    assert "timeout_ms" in one["tries"][0]["hint"]
    for id_ in (town.ids[2], "0-99999", "99-0", nonsense(town)):
        await acme.get(f"/v1/dead-letters/{id_}", 404)

    status, exported, headers = await acme.ask("GET", "/v1/dead-letters/export?subscription=a1")
    assert (status, headers["Content-Type"]) == (200, "application/x-ndjson")
    lines = [json.loads(line) for line in exported.splitlines()]
    assert (town.numbers(lines), lines[0]["payload"]["content"]) == ([1, 4, 7], {"n": 1})
    assert (await other.ask("GET", "/v1/dead-letters/export?subscription=a1"))[1] == b""

    await retried_and_discarded_over_http(town, api)


async def retried_and_discarded_over_http(town: Town, api: Api) -> None:
    operator, acme = api("operator"), api("acme")

    async def post(what: str, status: int, **body: Any) -> Any:
        got, document, _ = await acme.ask("POST", f"/v1/dead-letters/{what}", json=body)
        assert got == status, document
        return document

    for bad in ({}, {"all": True, "ids": [town.ids[1]]}, {"ids": ["x"]}, {"error_class": ["unheard"]}):
        await post("retry", 422, **bad)
    await post("retry", 404, ids=[town.ids[1], town.ids[2]])
    await post("discard", 422, all=True)

    # One by one: exactly these, also what a replay had sent.
    replay = await post("retry", 201, ids=[town.ids[1], town.ids[7]], why="it is back", rate_max=5)
    assert (replay["by"], replay["why"], replay["rate_max"]) == ("key:acme", "it is back", 5)
    assert (replay["tenant"], replay["selection"]["replayed"]) == ("acme", True)
    await told(town, api, replay["id"], [1, 7], "acme")
    one = await acme.get(f"/v1/dead-letters/{town.ids[1]}")
    (act,) = one["acts"]
    assert (one["state"], act["id"], act["by"], act["why"]) == ("retried", replay["id"], "key:acme", "it is back")
    refused = await post("retry", 409, ids=[town.ids[1]])
    assert replay["id"] in refused["detail"]

    # Those that fit: of them the open ones, by name.
    replay = await post("retry", 201, subscription=["a1"])
    assert [place["offset"] for place in replay["selection"]["places"]] == [int(town.ids[4].split("-")[1])]
    await told(town, api, replay["id"], [1, 4, 7], "acme")
    assert "no open dead letter fits" in (await post("retry", 409, subscription=["a1"]))["detail"]

    mark = await post("discard", 201, subscription=["a2"], why="nobody wants them")
    assert (mark["by"], mark["selection"]["tenant"]) == ("key:acme", "acme")
    page = await operator.get("/v1/dead-letters?state=discarded")
    assert town.numbers(page["items"]) == [6, 3]
    await town.write([("a2", 8, "exhausted", 503)])
    page = await operator.get("/v1/dead-letters?subscription=a2&state=open")
    assert town.numbers(page["items"]) == [8], "what comes later is not meant"
    counted = await operator.get("/v1/dead-letters/summary")
    assert counted["states"] == {"retried": 3, "discarded": 2, "open": 3}

    await town.settled(town.site.topics.audit)
    trail = await acme.get("/v1/audit")
    assert [(each["action"], each["kind"]) for each in trail["items"]] == [
        ("discarded", "dead_letters"),
        ("created", "replay"),
        ("created", "replay"),
    ]
    assert trail["items"][0]["after"]["why"] == "nobody wants them"


async def told(town: Town, api: Api, replay_id: str, numbers: list[int], tenant: str) -> None:
    """A worker has done it, and the API has heard of that."""
    town.worker_tells(replay_id)

    async def shown() -> bool:
        page = await api(tenant).get("/v1/dead-letters?state=retried")
        return sorted(town.numbers(page["items"])) == numbers

    await eventually_async(shown)


def test_by_the_command_line(town: Town) -> None:
    cli = town.cli
    assert town.numbers(cli.lines("dead", "list", "--json", "--limit", "6")) == [7, 6, 5, 4, 3, 2]
    shown = cli.run("dead", "list", "--subscription", "a1").stdout.splitlines()
    assert shown[2].startswith(f"{town.ids[1]}  ")
    assert "open       exhausted  503  " in shown[2]
    counted = cli.run("dead", "list", "--count").stdout
    assert "7 dead letters: 7 open, 0 retried, 0 discarded" in counted
    assert "a1 of acme: 3, 3 open" in counted
    assert "2 records, no dead letter" in counted

    page = cli.run("dead", "show", town.ids[3]).stdout
    assert "exhausted: the last came to 0" in page
    assert "#2" in page
    assert '"n": 3' in page
    assert "raise the subscription's timeout_ms" in page
    assert cli.run("dead", "show", town.ids[3], "--raw").stdout == '{"n":3}'
    assert "is no dead letter's id" in cli.fails("dead", "show", "x")

    cli.run("dead", "export", "--tenant", "acme", "-o", "out.ndjson")
    lines = [json.loads(line) for line in (cli.directory / "out.ndjson").read_text().splitlines()]
    assert sorted(town.numbers(lines)) == [1, 3, 4, 6, 7]

    assert "name dead letters by their ID" in cli.misused("dead", "retry")
    assert "say why" in cli.misused("dead", "discard", "--all")
    assert "--yes" in cli.fails("dead", "discard", "--all", "--why", "w")
    dry = cli.run("dead", "retry", "--all", "--dry-run", "--rate", "2")
    assert "6 would be sent, in 3 s" in dry.stderr
    assert "1 that a replay had sent" in dry.stdout
    assert town.site.read(town.site.topics.replays) == []

    cli.run("dead", "discard", "--tenant", "other", "--why", "they have left", "--yes")
    assert town.numbers(cli.lines("dead", "list", "--json", "--state", "discarded")) == [5, 2]
    retried_by_the_command_line(town)


def retried_by_the_command_line(town: Town) -> None:
    """There is no worker: what is ordered stands there for one."""
    cli = town.cli
    result = cli.run("dead", "retry", "--all", "--yes", "--why", "it is back", "--json")
    assert "no worker with the role replay answers" in result.stderr
    (record,) = town.site.read(town.site.topics.replays)
    order = decode_replay(record.value())
    assert (order.id, order.why) == (json.loads(result.stdout)["id"], "it is back")
    sent = {f"{place.partition}-{place.offset}" for place in order.selection.places}
    assert sent == {town.ids[number] for number in (1, 3, 4, 6)}, "what was discarded or sent by a replay is left out"
    town.worker_tells(order.id)
    assert "retried or discarded already" in cli.fails("dead", "retry", town.ids[1])
    assert "there is no dead letter 0-99999" in cli.fails("dead", "retry", "0-99999")
    assert "retried or discarded already: 4" in cli.fails("dead", "retry", "--tenant", "acme", "--yes")
    town.site.read(town.site.topics.audit)  # waits until all is there that was committed
    trail = cli.lines("audit-log", "--json")
    assert [(each["action"], each["kind"]) for each in trail] == [("created", "replay"), ("discarded", "dead_letters")]
    assert {each["actor"].partition(":")[0] for each in trail} == {"cli"}


def iso(after_ms: int) -> str:
    """RFC 3339 of a time after T0."""
    return rfc3339(T0 + after_ms)


def nonsense(town: Town) -> str:
    """Where the record stands that is no dead letter."""
    partition = partition_of(b"a1", PARTITIONS)
    (offset,) = [each.offset() for each in town.site.read(town.site.topics.dead) if each.value() == b"nonsense"]
    return f"{partition}-{offset}"
