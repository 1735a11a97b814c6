"""What became of deliveries, through the API: the topic of attempts read backwards, page by page."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from connectors.clock import SystemClock
from connectors.history.attempts import HistoryUnavailableError, LoggedAttempt
from connectors.history.ingest import HistoryIngest, Retention
from connectors.history.stores import open_store
from connectors.history.topic import KafkaHistory
from connectors.local_kafka import Cluster
from connectors.publisher import PRODUCER_CONFIG
from schemas import codec
from schemas.delivery import FRESH, Attempt, Delivery, decode_delivery, encode_attempt, encode_fresh, encode_tail
from schemas.event import Event
from schemas.ids import delivery_id
from schemas.subscription import Subscription, subscription_to_json
from streams.settings import Settings
from tests.helpers import eventually_async
from tests.integration.moody import held_port
from tests.integration.test_api import SECRET, running, settings
from tests.integration.workers import Site
from tests.subscriptions_topic import CompactedTopic
from tests.transactions import readable

__all__ = ["settings"]  # a fixture

HEADER = codec.wire_header(3)
#: Not long ago: what is older than the topic's retention, Kafka removes.
T0 = SystemClock().now_ms() // 1_000 * 1_000 - 20 * 3_600_000


def delivery(subscription_id: str, number: int) -> Delivery:
    tenant = "other" if subscription_id == "s2" else "acme"
    event = Event(f"evt_{number}", "order.created", tenant, T0, b"{}", f"o-{number}")
    field = codec.put_string(subscription_id) + FRESH
    value = encode_fresh(HEADER, delivery_id(event.id, subscription_id), field, encode_tail(event, T0, "a/b", b"{}"))
    return decode_delivery(value)


class Log:
    """The topic of attempts, written in transactions as workers do."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.topic = topic
        self._bootstrap = bootstrap
        self._producer = Producer({**PRODUCER_CONFIG, "bootstrap.servers": bootstrap, "transactional.id": topic})
        self._producer.init_transactions()

    def write(self, *attempts: tuple[str, int, int, str, int]) -> None:
        """(subscription, number of the event, attempt, outcome, seconds since T0) in one transaction."""
        self._producer.begin_transaction()
        for subscription_id, number, attempt, outcome, at in attempts:
            made = Attempt(attempt, outcome, T0 + at * 1000, 1_000, 200, "", "", b"\xffok")
            value = encode_attempt(HEADER, delivery(subscription_id, number), made)
            self._producer.produce(self.topic, value, subscription_id.encode(), timestamp=T0 + at * 1000)
        self._producer.commit_transaction()
        readable(self._bootstrap, self.topic)


@pytest.fixture
async def site(kafka: Cluster, prefix: str) -> Site:
    return await Site.made(kafka.bootstrap, prefix, partitions=1)


@asynccontextmanager
async def history(site: Site, **more: Any) -> AsyncIterator[KafkaHistory]:
    patient = {"page_seconds": 60.0, "request_seconds": 60.0} | more
    made = KafkaHistory(
        {"bootstrap.servers": site.settings.bootstrap}, site.topics.attempts, SystemClock().monotonic, **patient
    )
    try:
        yield made
    finally:
        await made.close()


def everything(_: LoggedAttempt) -> bool:
    return True


async def test_pages_go_back_through_a_log_that_is_mostly_of_others(site: Site) -> None:
    assert site.settings.bootstrap is not None
    log = Log(site.settings.bootstrap, site.topics.attempts)
    for part in range(20):
        log.write(*(("other", n, 1, "delivered", 0) for n in range(300)), ("mine", part, 1, "delivered", part))
    async with history(site) as past:
        first = await past.page("mine", everything, limit=8)
        assert [each.event_id for each in first.attempts] == [f"evt_{n}" for n in range(19, 11, -1)]
        assert not first.partial
        rest = await past.page("mine", everything, limit=100, before=first.next)
        assert [each.event_id for each in rest.attempts] == [f"evt_{n}" for n in range(11, -1, -1)]
        assert (rest.next, rest.partial) == (None, False)
        assert (await past.page("nobody", everything, limit=1)).attempts == []
        some = await past.page("mine", lambda each: each.event_id in ("evt_3", "evt_7"), limit=2)
        assert [each.event_id for each in some.attempts] == ["evt_7", "evt_3"]
        oldest = await past.find(delivery_id("evt_0", "mine"))
        assert oldest is not None
        assert (oldest.subscription_id, oldest.subject, oldest.excerpt) == ("mine", "o-0", b"\xffok")
        assert await past.find("dlv_none") is None


async def test_a_page_ends_at_its_bounds_and_goes_on(site: Site) -> None:
    assert site.settings.bootstrap is not None
    log = Log(site.settings.bootstrap, site.topics.attempts)
    log.write(("mine", 1, 1, "delivered", 0), *(("other", n, 1, "delivered", 0) for n in range(2_500)))
    async with history(site, scan_max=1_000) as past:
        before, pages = None, 0
        while True:
            page = await past.page("mine", everything, limit=5, before=before)
            pages += 1
            if page.attempts:
                break
            assert page.partial
            before = page.next
        assert pages == 3
        assert await past.find(delivery_id("evt_1", "mine")) is None
    async with history(site, page_seconds=0.0) as past:
        page = await past.page("mine", everything, limit=5)
        assert (page.attempts, page.partial, page.next is not None) == ([], True, True)


async def test_times_bound_what_is_read(site: Site) -> None:
    assert site.settings.bootstrap is not None
    log = Log(site.settings.bootstrap, site.topics.attempts)
    hour = 3_600
    # In one transaction: markers have the time of now, and here would come before what is later.
    log.write(*(("mine", at, 1, "delivered", at * hour) for at in range(10)))
    async with history(site) as past:
        asked: list[str] = []

        def wants(attempt: LoggedAttempt) -> bool:
            asked.append(attempt.event_id)
            return True

        await past.page("mine", wants, limit=50, since_ms=T0 + 7 * hour * 1000, until_ms=T0 + 8 * hour * 1000)
        assert asked == ["evt_8", "evt_7"]


async def test_a_wrong_clock_hides_nothing_behind_it_or_before_it(site: Site) -> None:
    assert site.settings.bootstrap is not None
    log = Log(site.settings.bootstrap, site.topics.attempts)
    hour = 3_600
    ahead, behind = 15 * hour, -15 * hour
    log.write(("mine", 1, 1, "delivered", 0), ("mine", 2, 1, "delivered", behind), ("mine", 3, 1, "delivered", ahead))
    log.write(("mine", 4, 1, "delivered", hour), ("mine", 5, 1, "delivered", behind), ("mine", 6, 1, "delivered", hour))
    async with history(site) as past:
        page = await past.page("mine", everything, limit=50, since_ms=T0, until_ms=T0 + 2 * hour * 1000)
        assert [each.event_id for each in page.attempts] == ["evt_6", "evt_4", "evt_1"]
        assert (page.next, page.partial) == (None, False)
        page = await past.page("mine", everything, limit=50, since_ms=T0 + 30 * hour * 1000)
        assert (page.attempts, page.next) == ([], None), "nothing is as late as this"


async def test_no_broker_is_said() -> None:
    with held_port() as port:
        bootstrap = f"127.0.0.1:{port}"
        past = KafkaHistory({"bootstrap.servers": bootstrap}, "t", SystemClock().monotonic, request_seconds=0.5)
        with pytest.raises(HistoryUnavailableError, match="attempts cannot be read"):
            await past.page("mine", everything, limit=5)
        await past.close()


async def fill(settings: Settings, count: int) -> None:
    """The database of the settings, with the topic's attempts."""
    assert settings.history is not None
    store, clock = open_store(settings.history, SystemClock().monotonic), SystemClock()

    async def schema(_: int) -> str:
        return codec.own_schema("attempt.v1")

    ingest = HistoryIngest(
        {"bootstrap.servers": settings.bootstrap},
        settings.topics.attempts,
        store,
        schema,
        Retention(10**12, 10**6),
        now_ms=clock.now_ms,
        monotonic=clock.monotonic,
    )
    stop = asyncio.Event()
    running = asyncio.create_task(ingest.run(stop))
    await eventually_async(lambda: running.done() or ingest.stored == count, message="all are stored")
    stop.set()
    await running
    await store.close()


@pytest.mark.parametrize("source", ["topic", "sqlite", "postgres"])
async def test_through_the_api(settings: Any, source: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if source == "sqlite":
        settings = settings.model_copy(update={"history": f"sqlite:///{tmp_path / 'h.db'}"})
    elif source == "postgres":
        settings = settings.model_copy(update={"history": request.getfixturevalue("database")})
    assert settings.bootstrap is not None
    topic = CompactedTopic(settings.bootstrap, settings.topics.subscriptions, create=False)
    for id_, tenant in (("s1", "acme"), ("s2", "other")):
        given = Subscription(id=id_, tenant=tenant, url="https://a.example/", event_types=("*",), secrets=(SECRET,))
        topic.write(id_, subscription_to_json(given))
    log = Log(settings.bootstrap, settings.topics.attempts)
    log.write(("s1", 1, 1, "retryable", 1), ("s1", 2, 1, "delivered", 2), ("s2", 9, 1, "delivered", 2))
    log.write(("s1", 1, 2, "retryable", 3), ("s1", 3, 1, "rejected", 4), ("s1", 1, 3, "delivered", 5))
    if settings.history:
        await fill(settings, 6)
    async with running(settings) as api:
        acme, operator = api("acme"), api("operator")

        async def listed(path: str, *, limit: int = 50) -> list[tuple[str, int, str]]:
            found: list[tuple[str, int, str]] = []
            cursor = ""
            joined = "&" if "?" in path else "?"
            while True:
                page = await acme.get(f"{path}{joined}limit={limit}{cursor}")
                for item in page["items"]:
                    latest = item.get("latest", item)
                    found.append((item["event_id"], latest["attempt"], item["outcome"]))
                if page["next"] is None:
                    return found
                cursor = f"&cursor={page['next']}"

        attempts = [
            ("evt_1", 3, "delivered"),
            ("evt_3", 1, "rejected"),
            ("evt_1", 2, "retryable"),
            ("evt_2", 1, "delivered"),
            ("evt_1", 1, "retryable"),
        ]
        deliveries = [("evt_1", 3, "delivered"), ("evt_3", 1, "rejected"), ("evt_2", 1, "delivered")]
        for limit in (1, 2, 50):
            assert await listed("/v1/subscriptions/s1/attempts", limit=limit) == attempts
            assert await listed("/v1/subscriptions/s1/deliveries", limit=limit) == deliveries
            path = "/v1/subscriptions/s1/deliveries?outcome=retryable"
            assert await listed(path, limit=limit) == []  # it was delivered since
        path = "/v1/subscriptions/s1/attempts?outcome=retryable&outcome=rejected"
        assert await listed(path) == [attempts[1], attempts[2], attempts[4]]
        since = f"{datetime.datetime.fromtimestamp(T0 / 1_000 + 3, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
        assert await listed(f"/v1/subscriptions/s1/attempts?since={since}") == attempts[:3]
        assert await listed(f"/v1/subscriptions/s1/attempts?until={since}") == attempts[3:]

        assert await listed("/v1/subscriptions/s1/attempts?until=0001-01-01T00:00:00Z") == []

        webhook_id = delivery_id("evt_1", "s1")
        for path in (f"/v1/deliveries/{webhook_id}", f"/v1/deliveries/{webhook_id}?subscription=s1"):
            one = await acme.get(path)
            assert [each["attempt"] for each in one["attempts"]] == [3, 2, 1]
            assert (one["delivery"]["outcome"], one["partial"]) == ("delivered", False)
            assert one["attempts"][0]["excerpt"] == "\ufffdok"
        others = delivery_id("evt_9", "s2")
        await operator.get(f"/v1/deliveries/{others}")
        for path in (
            "/v1/subscriptions/s2/attempts",
            "/v1/subscriptions/s2/deliveries",
            f"/v1/deliveries/{others}",
            f"/v1/deliveries/{others}?subscription=s2",
            f"/v1/deliveries/{webhook_id}?subscription=s2",
            f"/v1/deliveries/{webhook_id}?subscription=a%20b",
            "/v1/deliveries/none",
        ):
            await acme.get(path, 404)
        for query in ("outcome=lost", "since=now", "limit=0", "cursor=x", "cursor=____________", "cursor=AAAAAAAAAAAA"):
            await acme.get(f"/v1/subscriptions/s1/attempts?{query}", 400)

        if not settings.history:
            for path in ("/v1/attempts", "/v1/subscriptions/s1/latency"):
                assert "run `distributary history`" in (await acme.get(path, 409))["detail"]
            return
        for limit in (1, 2, 50):
            assert await listed("/v1/attempts", limit=limit) == attempts
            assert (
                await listed("/v1/attempts?tenant=acme&event=evt_1&status=2xx&text=ORDER", limit=limit) == attempts[::2]
            )
        assert await listed("/v1/attempts?subscription=s2") == []
        assert await listed(f"/v1/attempts?delivery={others}") == []
        assert await listed(f"/v1/attempts?delivery={webhook_id}&outcome=delivered&since={since}") == attempts[:1]
        assert await listed(f"/v1/attempts?until={since}") == attempts[3:]
        assert await listed("/v1/attempts?status=404") == []
        assert len((await operator.get("/v1/attempts?limit=50"))["items"]) == 6
        for query in ("outcome=lost", "status=6xx", "since=now", "limit=0", "cursor=x"):
            await acme.get(f"/v1/attempts?{query}", 400)
        begin = f"{datetime.datetime.fromtimestamp(T0 / 1_000, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
        found = await acme.get(f"/v1/subscriptions/s1/latency?since={begin}&until={since}")
        assert (found["attempt"]["count"], found["delivered"]["count"]) == (5, 2)
        assert 1_000 <= found["attempt"]["p50_us"] < 1_100
        assert 5_001_000 <= found["delivered"]["p99_us"] < 5_500_000
        nothing = {"count": 0, "p50_us": None, "p90_us": None, "p99_us": None}
        assert (await acme.get("/v1/subscriptions/s1/latency"))["attempt"] in (nothing, found["attempt"])
        assert (await acme.get("/v1/subscriptions/s1/latency?until=2001-01-01T00:00:00Z"))["attempt"] == nothing
        await acme.get("/v1/subscriptions/s2/latency", 404)
