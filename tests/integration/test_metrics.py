"""What a worker shows of itself on a real Kafka: its numbers after a bad day, and its health from start to end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from connectors.end_offsets import EndOffsets
from connectors.local_kafka import Cluster
from schemas.topics import Topics
from streams.app import Worker
from streams.wiring import WorkerError
from tests.cli import Cli
from tests.helpers import eventually_async
from tests.integration.sink import Sink
from tests.integration.workers import BOTH, PARTITIONS, Site
from tests.metrics import Scraped, named, page, scrape, value


def refused(url: str, key: str, endpoint: str) -> str:
    """Why the API does not take a subscription."""
    body = json.dumps({"url": endpoint, "event_types": ["*"], "verification": "none"}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/subscriptions", body, headers)
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request, timeout=60)
    with raised.value as answer:
        assert answer.code == 422
        return str(json.loads(answer.read())["detail"])


def shown(worker: Worker) -> str:
    assert worker.metrics_url
    return worker.metrics_url


async def test_the_numbers_of_a_bad_day(kafka: Cluster, prefix: str) -> None:
    site = await Site.made(kafka.bootstrap, prefix, metrics_port=0, metrics_subscriptions_max=2, circuit_results_min=5)
    groups = {role: site.settings.group(role) for role in BOTH}
    lag = (("group", groups["fan-out"]), ("topic", site.topics.events))
    async with Sink().running() as sink:
        late = {"retry_schedule_ms": (600_000,)}  # longer than all of this takes
        site.subscribe("fine", sink.url("/fine"))
        site.subscribe("down", sink.url("/status/500"), **late)
        site.subscribe("nobody", "http://127.0.0.1:1024/", **late)
        site.subscribe("gone", sink.url("/status/410"), max_in_flight=1)
        site.subscribe("paused", sink.url("/paused"), state="paused")
        site.subscribe("picky", sink.url("/picky"), filter={"n": [2]})
        async with site.worker() as worker:
            found: Scraped = {}
            site.send([f"evt_{number}" for number in range(12)])
            site.send(["evt_other"], "invoice.paid")
            site.write(site.topics.events, [(b"k", b"no event")])

            async def all_counted() -> bool:
                found.clear()
                found.update(await scrape(shown(worker)))
                return bool(
                    value(found, "distributary_events_total") == 14
                    and value(found, "distributary_deliveries_total", outcome="delivered") == 12
                    and value(found, "distributary_dead_letters_total", reason="disabled") == 11
                    and sum(value(found, "distributary_circuits", state=each) for each in ("open", "half_open")) == 2
                    and value(found, "distributary_parked_total") >= 12
                    and value(found, "distributary_in_flight") == 0
                    and value(found, "distributary_retry_depth_records", tier="5m")
                    and value(found, "distributary_retry_oldest_seconds", tier="5m")
                    and lag in named(found, "distributary_consumer_lag_records")
                )

            await eventually_async(all_counted)
            assert await page(f"{shown(worker)}/readyz") == (200, "ok\n")
            assert await page(f"{shown(worker)}/livez") == (200, "ok\n")
    events = {
        "distributary_events_total": 14,
        "distributary_events_matched_total": 12,
        "distributary_events_unmatched_total": 1,
        "distributary_deliveries_planned_total": 60,
        "distributary_deliveries_filtered_total": 12,
        "distributary_subscriptions": 6,
    }
    assert {name: value(found, name) for name in events} == events
    assert value(found, "distributary_quarantined_total", reason="bad_magic") or named(
        found, "distributary_quarantined_total"
    )
    assert value(found, "distributary_dead_letters_total", reason="gone") == 1
    attempts = {labels[0][1]: number for labels, number in named(found, "distributary_attempts_total").items()}
    assert attempts["2xx"] == 12
    assert attempts["4xx"] == 1
    assert attempts["5xx"] >= 5
    assert attempts["none"] >= 5
    assert value(found, "distributary_attempt_failures_total", cause="connect_failed") == attempts["none"]
    assert value(found, "distributary_attempt_seconds_count") == sum(attempts.values())
    assert 0 < value(found, "distributary_first_attempt_seconds_count") <= sum(attempts.values())
    assert 0 < value(found, "distributary_delivered_seconds_count") <= 12
    assert 0 < value(found, "distributary_delivered_seconds_sum") < 12 * 60
    outcomes = {labels[0][1]: number for labels, number in named(found, "distributary_deliveries_total").items()}
    assert outcomes == {
        "delivered": 12,
        "retryable": attempts["5xx"] + attempts["none"],
        "cancelled": 0,
        "exhausted": 0,
        "rejected": 12,
    }
    assert value(found, "distributary_circuits", state="disabled") == 1
    assert value(found, "distributary_circuit_changes_total", to="opened") == 2
    oldest = named(found, "distributary_oldest_undelivered_seconds")
    assert len(oldest) == 2  # of three that have something waiting
    assert {labels[0][1] for labels in oldest} <= {"down", "nobody", "paused"}
    assert all(0 < age < 300 for age in oldest.values())
    for group in groups.values():
        assert value(found, "distributary_transactions_total", group=group, result="written") >= 1
        assert value(found, "distributary_transaction_seconds_count", group=group) >= 1
        assert value(found, "distributary_rebalances_total", group=group) >= 1
        assert value(found, "distributary_assigned_partitions", group=group) >= PARTITIONS


async def test_not_ready_until_the_table_and_the_partitions_are_there(kafka: Cluster, prefix: str) -> None:
    site = await Site.made(kafka.bootstrap, prefix, metrics_port=0)
    looked, said = asyncio.Event(), list[str]()

    class Patient(Worker):
        """Starts when somebody has looked."""

        async def _start(self, stack: contextlib.AsyncExitStack, topics: Topics) -> Any:
            await looked.wait()
            return await super()._start(stack, topics)

    worker, stop = Patient(site.settings, BOTH), asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    try:
        await eventually_async(lambda: worker.metrics_url or running.done())

        async def ready() -> bool:
            status, text = await page(f"{worker.metrics_url}/readyz")
            said.append(text)
            looked.set()
            return status == 200

        await eventually_async(ready)
        assert said[0] == "the subscriptions table has not caught up yet\n"
        assert worker.metrics is not None
        assert worker.metrics.table is not None
        assert all(part.consumer.assignment() for part in worker.metrics.parts)
        # What shows it is no endpoint, on a port that was taken at the start, too.
        causes, table = worker.metrics.meter.causes, worker.metrics.table
        site.subscribe("own", f"{worker.metrics_url}/metrics", retry_schedule_ms=())
        await eventually_async(lambda: len(table) == 1)
        site.send(["evt_1"])
        await eventually_async(lambda: causes == {"address_refused": 1})
    finally:
        stop.set()
        await asyncio.wait_for(running, 60)
    with pytest.raises(OSError, match="refused"):
        await page(f"{worker.metrics_url}/livez")


async def test_who_has_no_partitions_is_not_ready(kafka: Cluster, prefix: str) -> None:
    site = await Site.made(kafka.bootstrap, prefix, metrics_port=0, partitions=1)
    async with site.worker(["fan-out"]) as first:
        second, stop = Worker(site.settings, ["fan-out"]), asyncio.Event()
        running = asyncio.create_task(second.run(stop))
        try:

            async def one_is_idle() -> bool:
                if not second.metrics_url:
                    return False
                pages = [await page(f"{each.metrics_url}/readyz") for each in (first, second)]
                idle = (503, f"no partitions of {site.settings.group('fan-out')} are assigned to this worker\n")
                return idle in pages and await page(f"{second.metrics_url}/livez") == (200, "ok\n")

            await eventually_async(one_is_idle)
        finally:
            stop.set()
            await asyncio.wait_for(running, 60)


@pytest.mark.parametrize("which", [0, 1], ids=["member", "fetcher"])
async def test_dead_when_a_poll_thread_stops(kafka: Cluster, prefix: str, which: int) -> None:
    site = await Site.made(kafka.bootstrap, prefix, metrics_port=0)
    async with site.worker(["fan-out"]) as worker:
        metrics = worker.metrics
        assert metrics is not None
        metrics.stuck_s = 0.5
        thread = metrics.parts[0].consumer.threads[which]

        async def says(*expected: object) -> bool:
            status, text = await page(f"{shown(worker)}/livez")
            return (status, *[each for each in expected[1:] if str(each) in text]) == expected

        await eventually_async(lambda: says(200))
        released = threading.Event()
        try:
            thread.call(lambda _: released.wait(60))  # as a call that Kafka never answers
            await eventually_async(lambda: says(503, f"the thread {thread.name} has not polled"))
            assert (await page(f"{shown(worker)}/readyz"))[0] == 503
        finally:
            released.set()
        await eventually_async(lambda: says(200))
        thread.halt()  # ends, and the worker does not notice
        await eventually_async(lambda: says(503, f"the thread {thread.name} has ended"))


async def test_a_worker_whose_port_is_taken_says_so(kafka: Cluster, prefix: str, tmp_path: Path) -> None:
    site = await Site.made(kafka.bootstrap, prefix, metrics_port=0)
    async with site.worker(["fan-out"]) as worker:
        port = int(shown(worker).rsplit(":", 1)[1])
        taken = site.settings.model_copy(update={"metrics_port": port})
        with pytest.raises(WorkerError, match=f"port {port} of 127.0.0.1"):
            await Worker(taken, ["fan-out"]).run(asyncio.Event())
    off = site.settings.model_copy(update={"metrics_port": None})
    assert Worker(off, BOTH).metrics is None


@pytest.mark.parametrize("role", ["api", "registry"])
def test_who_answers_requests_shows_how_many(kafka: Cluster, prefix: str, tmp_path: Path, role: str) -> None:
    cli = Cli(tmp_path, {"bootstrap": kafka.bootstrap, "prefix": prefix, "partitions": "1", "metrics_port": "0"})
    cli.settings["allow_private_networks"] = "true"
    key = {}
    if role == "api":
        cli.run("topics", "apply")
        # Before the API starts, which then knows it.
        (key,) = cli.lines("keys", "create", "--tenant", "acme", "--scope", "subscriptions:write", "--json")
    topic = ("--topic", f"{prefix}_schemas") if role == "registry" else ()
    with cli.started(role, "--port", "0", *topic) as started:
        url = started.said("ready: ").split("ready: ")[1].strip()
        log = started.said("/metrics", on=started.err)
        metrics_url = log.split("metrics: ")[1].split("/metrics")[0]
        assert asyncio.run(page(f"{metrics_url}/readyz")) == (200, "ok\n")
        assert asyncio.run(page(f"{metrics_url}/livez")) == (200, "ok\n")
        if role == "api":  # on ports that nobody chose: no endpoint may be there
            for own in (url, metrics_url):
                assert "where this system itself listens" in refused(url, key["key"], f"{own}/x")
        for path, expected in (("/.well-known/webhooks" if role == "api" else "/subjects", 200), ("/nothing", 404)):
            assert asyncio.run(page(url + path))[0] == expected
        found = asyncio.run(scrape(metrics_url))
        assert value(found, "distributary_ready", role=role) == 1
        counted = {
            dict(labels)["status"]: number
            for labels, number in named(found, "distributary_http_requests_total").items()
        }
        assert counted == {"2xx": 1, "4xx": 3 if role == "api" else 1}
        assert value(found, "distributary_http_request_seconds_count", role=role) == sum(counted.values())
        assert ("distributary_ingest_queue_records", ()) in found or role == "registry"
        taken = Cli(tmp_path, cli.settings | {"metrics_port": metrics_url.rsplit(":", 1)[1]})
        assert "choose another DISTRIBUTARY_METRICS_PORT" in taken.fails(role, "--port", "0", *topic)


async def test_the_history_shows_what_it_keeps(kafka: Cluster, prefix: str, tmp_path: Path) -> None:
    site = await Site.made(kafka.bootstrap, prefix)
    async with Sink().running() as sink:
        site.subscribe("a", sink.url("/a"))
        async with site.worker():
            site.send(["evt_1", "evt_2"])
            await eventually_async(lambda: len(site.attempts()) == 2)
    site.write(site.topics.attempts, [(b"a", b"no attempt")])
    settings = {
        "bootstrap": kafka.bootstrap,
        "prefix": prefix,
        "metrics_port": "0",
        "history": f"sqlite:///{tmp_path}/h.db",
    }
    cli = Cli(tmp_path, settings)
    with cli.started("history") as started:
        await asyncio.to_thread(started.said, "ready: ")
        url = started.err.read_text().split("metrics: ")[1].split("/metrics")[0]

        async def all_kept() -> bool:
            found = await scrape(url)
            counts = [value(found, f"distributary_history_{name}_total") for name in ("stored", "undecodable")]
            return counts == [2, 1] and value(found, "distributary_ready", role="history") == 1

        await eventually_async(all_kept)


async def test_ends_are_known_of_what_there_is(kafka: Cluster, prefix: str) -> None:
    site = await Site.made(kafka.bootstrap, prefix, partitions=1)
    site.write(site.topics.events, [(b"k", b"v")] * 3)
    ours, missing = (site.topics.events, 0), (f"{prefix}nothing", 0)
    places = [ours, missing]
    ends = EndOffsets({"bootstrap.servers": kafka.bootstrap}, lambda: places)
    following = asyncio.create_task(ends.follow())
    try:
        await eventually_async(lambda: ends.get(ours) == 3 or following.done())
        assert ends.get(missing) is None
        assert not following.done()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
