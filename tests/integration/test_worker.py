"""A whole worker on a real Kafka: events in, signed webhooks out, and what becomes of those that fail."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import standardwebhooks

from connectors.local_kafka import Cluster
from schemas.delivery import decode_delivery
from schemas.ids import delivery_id
from streams.app import Worker
from streams.core.parked import finished_by
from streams.settings import Settings
from streams.wiring import WorkerError, make_guard
from tests.helpers import eventually_async
from tests.integration.sink import Sink
from tests.integration.workers import BOTH, SECRET, Site

OTHER_SECRET = "whsec_bmV3ZXJuZXdlcm5ld2VybmV3ZXJuZXdlcm5ld2Vy"


async def test_an_event_reaches_its_endpoints_signed(kafka: Cluster, prefix: str) -> None:
    site = await Site.made(kafka.bootstrap, prefix)
    async with Sink().running() as sink:
        site.subscribe("a", sink.url("/a"), headers={"X-Team": "blue"})
        site.subscribe("b", sink.url("/b"), secrets=(OTHER_SECRET, SECRET), format="data", event_types=("*",))
        site.subscribe("c", sink.url("/c"), event_types=("invoice.*",))
        async with site.worker() as worker:
            site.send(["evt_1"])
            await eventually_async(lambda: len(sink.received) == 2)
            await eventually_async(lambda: len(site.attempts()) == 2)
            assert worker.counters == {"events": 1, "deliveries": 2, "delivered": 2}
    by_path = {received.path: received for received in sink.received}
    assert set(by_path) == {"/a", "/b"}
    for path, secrets in (("/a", [SECRET]), ("/b", [SECRET, OTHER_SECRET])):
        received = by_path[path]
        for secret in secrets:
            assert standardwebhooks.Webhook(secret).verify(received.body, received.headers)
        assert received.headers["webhook-id"] == delivery_id("evt_1", path[1:])
        assert received.headers["content-type"] == "application/json"
    assert by_path["/a"].headers["x-team"] == "blue"
    assert orjson.loads(by_path["/a"].body) == {
        "type": "order.created",
        "timestamp": "2023-11-14T22:13:20.000Z",
        "data": {"n": 1},
    }
    assert by_path["/b"].body == b'{"n":1}'
    assert {(one["subscription_id"], one["attempt"], one["outcome"], one["status"]) for one in site.attempts()} == {
        ("a", 1, "delivered", 204),
        ("b", 1, "delivered", 204),
    }


async def test_failures_go_through_the_tiers_until_they_succeed_or_are_given_up(kafka: Cluster, prefix: str) -> None:
    site = await Site.made(kafka.bootstrap, prefix, circuit_results_min=0)  # or the dead one's would be parked
    events = [f"evt_{n}" for n in range(20)]
    async with Sink().running() as sink:
        schedule = (1_000, 1_000)
        site.subscribe("flaky", sink.url("/flaky/2"), retry_schedule_ms=schedule)
        site.subscribe("dead", sink.url("/status/500"), retry_schedule_ms=schedule)
        site.subscribe("nobody", "http://127.0.0.1:1024/", retry_schedule_ms=(1_000,))
        site.subscribe("gone", sink.url("/status/410"), max_in_flight=1)  # the first answer disables it
        async with site.worker() as worker:
            site.send(events)
            await eventually_async(lambda: len(site.dead()) == 60)
            await eventually_async(lambda: len(site.attempts()) == 20 * (3 + 3 + 2 + 1))
            assert (worker.counters["dead:gone"], worker.counters["dead:disabled"]) == (1, 19)
    times: dict[str, list[int]] = {}
    outcomes: Counter[tuple[str, int, str]] = Counter()
    for one in site.attempts():
        outcomes[one["subscription_id"], one["attempt"], one["outcome"]] += 1
        times.setdefault(one["delivery_id"], []).append(one["started_ms"])
    assert outcomes == {
        ("flaky", 1, "retryable"): 20,
        ("flaky", 2, "retryable"): 20,
        ("flaky", 3, "delivered"): 20,
        ("dead", 1, "retryable"): 20,
        ("dead", 2, "retryable"): 20,
        ("dead", 3, "exhausted"): 20,
        ("nobody", 1, "retryable"): 20,
        ("nobody", 2, "exhausted"): 20,
        ("gone", 1, "rejected"): 1,
        ("gone", 0, "rejected"): 19,
    }
    for starts in times.values():  # jitter only adds, and no tier releases early
        starts.sort()
        assert all(later - earlier >= 1_000 for earlier, later in itertools.pairwise(starts))
    assert Counter((one["delivery"]["subscription_id"], one["reason"]) for one in site.dead()) == {
        ("dead", "exhausted"): 20,
        ("nobody", "exhausted"): 20,
        ("gone", "gone"): 1,
        ("gone", "disabled"): 19,
    }
    tries = {
        one["delivery"]["subscription_id"]: [(t["status"], t["cause"]) for t in one["delivery"]["attempts"]]
        for one in site.dead()
        if one["reason"] != "disabled"
    }
    assert tries == {
        "dead": [(500, "")] * 3,
        "nobody": [(0, "connect_failed")] * 2,
        "gone": [(410, "")],
    }
    counts = sink.counts["/flaky/2"]
    assert counts == {delivery_id(event, "flaky"): 3 for event in events}
    signatures = {(one.headers["webhook-id"], one.headers["webhook-timestamp"]) for one in sink.received}
    assert len(signatures) == len(sink.received)  # each attempt is signed anew


async def test_changes_of_a_subscription_are_heeded_live(kafka: Cluster, prefix: str) -> None:
    site = await Site.made(kafka.bootstrap, prefix)
    numbers = itertools.count()

    async def send_until(condition: Callable[[], object]) -> None:
        def sent() -> object:
            site.send([f"evt_{next(numbers)}"])
            return condition()

        await eventually_async(sent)

    async with Sink().running() as sink:
        site.subscribe("s", sink.url("/1"), max_in_flight=1)
        async with site.worker() as worker:
            counters = worker.counters
            await send_until(lambda: sink.counts["/1"])
            site.subscribe("s", sink.url("/2"), secrets=(OTHER_SECRET,), max_in_flight=1)
            await send_until(lambda: sink.counts["/2"])
            site.subscribe("s", sink.url("/2"), max_in_flight=1, state="paused")
            await send_until(lambda: counters["parked"])
            site.subscribe("s", sink.url("/3"), max_in_flight=1)
            await send_until(lambda: sink.counts["/3"])
            site.unsubscribe("s")
            await send_until(lambda: counters["unmatched"])
            sent = next(numbers)
            await eventually_async(
                lambda: counters["delivered"] + counters["unmatched"] + counters["cancelled"] == sent, timeout_s=60
            )
    paths = [one.path for one in sink.received]
    assert paths == sorted(paths)  # once a change is heeded, it stays so
    assert len({one.headers["webhook-id"] for one in sink.received}) == len(paths) == counters["delivered"]
    for one in sink.received:
        secret = OTHER_SECRET if one.path == "/2" else SECRET
        assert standardwebhooks.Webhook(secret).verify(one.body, one.headers)
    log = site.read(site.topics.parked)
    parked = [decode_delivery(one.value()) for one in log if one.value() is not None]
    finished = [one for one in log if finished_by(one.headers()) is not None]
    assert len(parked) == counters["parked"] == len(finished)  # each was written once, and finished
    assert {one.attempt for one in parked} == {0}
    at_3 = {one.headers["webhook-id"] for one in sink.received if one.path == "/3"}
    cancelled = {one for one, outcome in site.outcomes() if outcome == "cancelled"}
    assert {one.id for one in parked} <= at_3 | cancelled  # where the endpoint was when it was active again, or gone


async def test_deliveries_of_a_deleted_subscription_are_cancelled(kafka: Cluster, prefix: str) -> None:
    site = await Site.made(kafka.bootstrap, prefix)
    # Long enough for the table to hear of the deletion before the retry is due, also on a machine that is busy.
    site.subscribe("s", "http://127.0.0.1:1024/", retry_schedule_ms=(5_000,))
    async with site.worker() as worker:
        site.send(["evt_1"])
        await eventually_async(lambda: worker.counters["retried"] == 1)
        site.unsubscribe("s")
        await eventually_async(lambda: len(site.attempts()) == 2)
    assert [(one["attempt"], one["outcome"]) for one in sorted(site.attempts(), key=lambda one: one["started_ms"])] == [
        (1, "retryable"),
        (1, "cancelled"),
    ]
    assert site.dead() == []


async def test_roles_in_separate_processes_meet_on_kafka(kafka: Cluster, prefix: str, tmp_path: Path) -> None:
    site = await Site.made(kafka.bootstrap, prefix)
    async with Sink().running() as sink:
        site.subscribe("s", sink.url("/ok"))
        with site.worker_process("w1", ["fan-out"], log=tmp_path / "log"):
            async with site.worker(["delivery"]) as worker:
                site.send(["evt_1"])
                await eventually_async(lambda: worker.counters["delivered"] == 1)
                assert worker.counters["events"] == 0


async def test_a_private_address_is_not_delivered_to_unless_it_is_allowed(kafka: Cluster, prefix: str) -> None:
    site = await Site.made(kafka.bootstrap, prefix, allow_private_networks=False)
    async with Sink().running() as sink:
        site.subscribe("s", sink.url("/ok"), retry_schedule_ms=())
        async with site.worker() as worker:
            site.send(["evt_1"])
            await eventually_async(lambda: worker.counters["dead:exhausted"] == 1)
        assert sink.received == []
    assert [one["cause"] for one in site.attempts()] == ["address_refused"]


async def test_what_the_network_settings_say_counts_from_the_start_of_a_worker(kafka: Cluster, prefix: str) -> None:
    """Opened, then denied; and Kafka itself is no endpoint whatever is opened."""
    site = await Site.made(kafka.bootstrap, prefix, allow_private_networks=False, allow_networks="127.0.0.0/8")
    async with Sink().running() as sink:
        site.subscribe("s", sink.url("/ok"), retry_schedule_ms=())
        site.subscribe("kafka", f"http://{kafka.bootstrap}/", retry_schedule_ms=())
        async with site.worker() as worker:
            site.send(["evt_1"])
            await eventually_async(lambda: worker.counters["dead:exhausted"] == 1 == worker.counters["delivered"])
        site.settings = site.settings.model_copy(update={"deny_networks": ("127.0.0.1/32",)})
        async with site.worker() as worker:
            site.send(["evt_2"])
            await eventually_async(lambda: worker.counters["dead:exhausted"] == 2)
        assert len(sink.received) == 1
    refused = {
        (one["event_id"], one["subscription_id"]): one["detail"]
        for one in site.attempts()
        if one["cause"] == "address_refused"
    }
    assert refused.keys() == {("evt_1", "kafka"), ("evt_2", "kafka"), ("evt_2", "s")}
    assert "where this system itself listens" in refused["evt_1", "kafka"]
    assert all("denied by the configuration" in detail for (event, _), detail in refused.items() if event == "evt_2")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("allow_networks", "10.0.0.1/8"),
        ("deny_networks", "x"),
        ("deny_ports", "99-1"),
        ("own_listeners", "here"),
        ("registry_url", "://"),
    ],
)
async def test_a_setting_of_the_guard_that_is_wrong_is_a_sentence(
    kafka: Cluster, prefix: str, setting: str, value: str
) -> None:
    settings = Settings(bootstrap=kafka.bootstrap, prefix=prefix, **{setting: value})  # type: ignore[arg-type]
    with pytest.raises(WorkerError, match=r"^where deliveries may go is not clear: .*write it"):
        await make_guard(settings)


async def test_two_workers_with_one_id_one_of_them_ends_with_a_sentence(kafka: Cluster, prefix: str) -> None:
    site = await Site.made(kafka.bootstrap, prefix, worker_id="same")
    async with Sink().running() as sink:
        site.subscribe("s", sink.url("/ok"))
        first = Worker(site.settings, BOTH)
        running = asyncio.create_task(first.run(asyncio.Event()))
        site.send(["evt_0"])
        await eventually_async(lambda: first.counters["delivered"] == 1)
        async with site.worker() as second:

            def keep_sending() -> bool:
                site.send([f"evt_{len(sink.received)}x"])
                return running.done()

            await eventually_async(keep_sending)
            with pytest.raises(WorkerError, match="own worker id"):
                await running
            site.send(["last"])
            wanted = delivery_id("last", "s")
            await eventually_async(lambda: wanted in sink.counts["/ok"])
            assert second.counters["delivered"] >= 1


async def test_missing_topics_are_said_at_the_start(kafka: Cluster, prefix: str) -> None:
    worker = Worker(Settings(bootstrap=kafka.bootstrap, prefix=prefix), BOTH)
    with pytest.raises(WorkerError, match="topics apply"):
        await worker.run(asyncio.Event())


async def test_a_cluster_that_does_not_answer_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.admin.REQUEST_SECONDS", 0.5)
    worker = Worker(Settings(bootstrap="127.0.0.1:1"), BOTH)
    with pytest.raises(WorkerError, match=r"no Kafka answers at 127\.0\.0\.1:1"):
        await worker.run(asyncio.Event())


async def test_no_cluster_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTRIBUTARY_BOOTSTRAP", raising=False)
    with pytest.raises(WorkerError, match="DISTRIBUTARY_BOOTSTRAP"):
        await Worker(Settings(), BOTH).run(asyncio.Event())


async def test_a_consumer_that_cannot_go_on_ends_the_worker(kafka: Cluster, prefix: str) -> None:
    """A second static member of the same name fences the first, which is fatal for it."""
    static = {"group_protocol": "classic", "kafka": {"group.instance.id": "one"}}
    site = await Site.made(kafka.bootstrap, prefix, **static)
    ready, stop = asyncio.Event(), asyncio.Event()
    fenced = asyncio.create_task(Worker(site.settings, ["fan-out"], on_ready=ready.set).run(asyncio.Event()))
    await eventually_async(lambda: ready.is_set() or fenced.done())
    other = asyncio.create_task(Worker(site.settings, ["fan-out"]).run(stop))
    with pytest.raises(WorkerError, match="fenced"):
        await asyncio.wait_for(fenced, 60)
    stop.set()
    await asyncio.wait_for(other, 60)
