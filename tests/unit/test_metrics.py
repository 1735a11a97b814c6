"""Metrics: the catalogue, the counters that they are read from, and the pages that show them."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from aiohttp import web

from connectors.metrics_server import MetricsServerError, RequestMeter, Shown, families, metrics_served
from schemas.codec import put_string, wire_header
from schemas.delivery import FRESH as NO_ATTEMPT
from schemas.delivery import REPLAY_HEADER, Delivery, decode_delivery, encode_fresh, encode_tail, received_ms
from schemas.event import Event
from schemas.metrics import BY_ROLE, METRICS, PROCESS, Histogram, Sample
from schemas.post import PostResult
from streams.meter import AGES_MAX, FAILED_MAX, Meter
from tests.docs import ROOT, tables
from tests.metrics import page, scrape, value

RECEIVED_MS = 1_700_000_000_000


def delivery(number: int = 0, attempt: int = 0, received: int = RECEIVED_MS, **event: Any) -> Delivery:
    fields: dict[str, Any] = {"id": f"evt_{number}", "type": "t", "tenant": "default", "subject": None} | event
    one = Event(fields["id"], fields["type"], fields["tenant"], RECEIVED_MS, b"{}", fields["subject"])
    tail = encode_tail(one, received, "application/json", b"{}")
    header = wire_header(1)
    made = decode_delivery(encode_fresh(header, f"dlv_{number}", put_string("sub") + NO_ATTEMPT, tail))
    return Delivery(**{name: getattr(made, name) for name in made.__struct_fields__} | {"attempt": attempt})


# --- the catalogue ----------------------------------------------------------------------------------------------------


def test_names_follow_the_conventions_of_prometheus() -> None:
    for metric in (*METRICS.values(), *PROCESS):
        assert re.fullmatch(r"[a-z]+(_[a-z0-9]+)+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.help.endswith("."), metric.name
        if metric.kind == "histogram":
            assert metric.name.endswith("_seconds")
    assert {label for metric in METRICS.values() for label in metric.labels} == {
        *("cause", "group", "outcome", "queue", "reason", "result", "role", "state", "status", "subscription"),
        *("tier", "to", "topic"),
    }


def test_the_reference_is_the_catalogue() -> None:
    text = (ROOT / "docs/reference/metrics.md").read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [*BY_ROLE, "The process", "Labels"]
    for heading, metrics in (*BY_ROLE.items(), ("The process", PROCESS)):
        assert tables(text, heading) == [
            [f"`{one.name}`", one.kind, ", ".join(f"`{label}`" for label in one.labels), one.help] for one in metrics
        ]
    labels = {label for metric in METRICS.values() for label in metric.labels}
    assert [row[0] for row in tables(text, "Labels")] == [f"`{label}`" for label in sorted(labels)]


def test_a_metric_that_is_not_in_the_catalogue_cannot_be_shown() -> None:
    with pytest.raises(KeyError):
        list(families([("distributary_surprises_total", (), 1.0)]))


# --- what is counted --------------------------------------------------------------------------------------------------


def test_a_histogram_counts_up_to_and_with_its_bounds() -> None:
    histogram = Histogram((10, 20), 10)
    for observed in (0, 10, 11, 20, 21, 1_000):
        histogram.observe(observed)
    assert histogram.counts == [2, 2, 2]
    assert histogram.sum == 1_062


@pytest.mark.parametrize(
    "received", [0, 5, RECEIVED_MS, RECEIVED_MS + 12_345, 1 << 34, (1 << 41) - 1, 1 << 41, 1 << 50]
)
@pytest.mark.parametrize("length", [1, 63, 64, 200, 10_000])
def test_when_the_event_was_received_is_read_from_the_delivery(received: int, length: int) -> None:
    for subject in (None, "s"):
        one = delivery(received=received, id="i" * length, type="t" * 64, tenant="t", subject=subject)
        assert received_ms(one.facts) == received


def test_a_meter_measures_first_attempts_and_what_is_accepted() -> None:
    meter = Meter()
    good, bad = PostResult(204, 30_000), PostResult(0, 5, "timeout", "Too late.")
    for result, ok in ((good, True), (bad, False)):
        meter.answered(result)
        meter.attempted(delivery(), 0, RECEIVED_MS + 100, result, ok)
    assert (meter.statuses[0], meter.statuses[2], sum(meter.statuses)) == (1, 1, 2)
    assert meter.causes == {"timeout": 1}
    assert (meter.first_attempt.sum, sum(meter.first_attempt.counts)) == (200, 2)
    assert (meter.delivered.sum, sum(meter.delivered.counts)) == (130, 1)
    assert meter.attempt.sum == 30_005
    meter.attempted(delivery(attempt=1), 0, RECEIVED_MS + 5_000, good, True)
    assert sum(meter.first_attempt.counts) == 2
    assert meter.delivered.sum == 130 + 5_030


def test_a_busy_worker_measures_the_age_of_some() -> None:
    meter = Meter()
    for transactions in (1, 2):
        for _ in range(3 * AGES_MAX):
            meter.answered(PostResult(204, 0))
            meter.attempted(delivery(), 0, RECEIVED_MS, PostResult(204, 0), True)
        assert sum(meter.attempt.counts) == transactions * 3 * AGES_MAX
        assert sum(meter.delivered.counts) == sum(meter.first_attempt.counts) == transactions * AGES_MAX
        meter.settled()


def test_a_clock_that_was_set_back_makes_no_negative_ages() -> None:
    meter = Meter()
    meter.attempted(delivery(), 0, RECEIVED_MS - 100, PostResult(204, 0), True)
    assert meter.first_attempt.sum == meter.delivered.sum == 0


def test_a_replay_is_counted_and_its_age_is_not() -> None:
    meter = Meter()
    replayed = msgspec.structs.replace(delivery(), headers=((REPLAY_HEADER, "rpl_1"),))
    for result, ok in ((PostResult(204, 5), True), (PostResult(500, 5), False)):
        meter.answered(result)
        meter.attempted(replayed, 0, RECEIVED_MS + 86_400_000, result, ok)
    meter.failed(replayed, 0)
    assert (meter.statuses[2], meter.statuses[5], sum(meter.attempt.counts)) == (1, 1, 2)
    assert sum(meter.first_attempt.counts) == sum(meter.delivered.counts) == 0
    assert dict(meter.oldest_failed()) == {}
    versioned = msgspec.structs.replace(delivery(), headers=(("webhook-version", "1"),))
    meter.attempted(versioned, 0, RECEIVED_MS + 1, PostResult(500, 5), False)
    assert dict(meter.oldest_failed()) == {"sub": RECEIVED_MS}


def test_the_oldest_failed_delivery_is_known_until_it_is_over() -> None:
    meter = Meter()
    for number in (2, 1, 3):
        meter.failed(delivery(number, 1, RECEIVED_MS + number), number)
    assert dict(meter.oldest_failed()) == {"sub": RECEIVED_MS + 1}
    meter.over(delivery(1, 2))
    assert dict(meter.oldest_failed()) == {"sub": RECEIVED_MS + 2}
    meter.forget([2])
    assert dict(meter.oldest_failed()) == {"sub": RECEIVED_MS + 3}
    meter.attempted(delivery(3, 1), 3, RECEIVED_MS, PostResult(200, 0), True)
    meter.over(delivery(4))
    assert dict(meter.oldest_failed()) == {}


def test_what_is_remembered_of_failures_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter()
    for number in range(FAILED_MAX + 10):
        meter.failed(delivery(number, 1, RECEIVED_MS + number), 0)
    for number in range(FAILED_MAX):
        assert dict(meter.oldest_failed()) == {"sub": RECEIVED_MS + number}
        meter.over(delivery(number, 1))
    assert dict(meter.oldest_failed()) == {}
    monkeypatch.setattr("streams.meter.SUBSCRIPTIONS_MAX", 0)
    meter.failed(delivery(), 0)
    assert dict(meter.oldest_failed()) == {}


# --- the pages --------------------------------------------------------------------------------------------------------


def shown(samples: Iterable[Sample] = (), unready: Iterable[str] = (), dead: Iterable[str] = ()) -> Shown:
    found, idle, ended = list(samples), list(unready), list(dead)
    return Shown(role="worker", samples=lambda: found, unready=lambda: idle, dead=lambda: ended)


async def test_metrics_are_what_prometheus_reads() -> None:
    rng = random.Random(7)
    histogram = Histogram((10, 20), 10)
    observed = [rng.randrange(40) for _ in range(100)]
    for one in observed:
        histogram.observe(one)
    samples: list[Sample] = [
        ("distributary_events_total", (), 3.0),
        ("distributary_dead_letters_total", ('odd "reason"\n',), 2.0),
        ("distributary_dead_letters_total", ("gone",), 1.0),
        ("distributary_attempt_seconds", (), histogram),
    ]
    async with metrics_served(shown(samples), "127.0.0.1", 0) as url:
        found = await scrape(url)
    assert value(found, "distributary_ready", role="worker") == 1
    assert value(found, "distributary_events_total") == 3
    assert value(found, "distributary_dead_letters_total", reason='odd "reason"\n') == 2
    assert value(found, "distributary_attempt_seconds_bucket", le="1") == sum(one <= 10 for one in observed)
    assert value(found, "distributary_attempt_seconds_bucket", le="2") == sum(one <= 20 for one in observed)
    assert value(found, "distributary_attempt_seconds_bucket", le="+Inf") == 100
    assert value(found, "distributary_attempt_seconds_count") == 100
    assert value(found, "distributary_attempt_seconds_sum") == pytest.approx(sum(observed) / 10)
    assert {metric.name for metric in PROCESS} <= {name for name, _ in found}
    assert value(found, "process_resident_memory_bytes") > 1 << 20


@pytest.mark.parametrize(
    ("unready", "dead", "live", "ready"),
    [
        ([], [], (200, "ok\n"), (200, "ok\n")),
        (["not yet"], [], (200, "ok\n"), (503, "not yet\n")),
        ([], ["a thread ended"], (503, "a thread ended\n"), (503, "a thread ended\n")),
        (["not yet"], ["it ended"], (503, "it ended\n"), (503, "it ended\nnot yet\n")),
    ],
)
async def test_health(unready: list[str], dead: list[str], live: tuple[int, str], ready: tuple[int, str]) -> None:
    async with metrics_served(shown((), unready, dead), "127.0.0.1", 0) as url:
        assert await page(f"{url}/livez") == live
        assert await page(f"{url}/readyz") == ready
        assert value(await scrape(url), "distributary_ready", role="worker") == (ready[0] == 200)
        assert (await page(f"{url}/elsewhere"))[0] == 404


async def test_a_port_that_is_taken_is_a_sentence() -> None:
    async with metrics_served(shown(), "127.0.0.1", 0) as url:
        port = int(url.rsplit(":", 1)[1])
        with pytest.raises(
            MetricsServerError, match=f"port {port} of 127.0.0.1: .*; choose another DISTRIBUTARY_METRICS"
        ):
            async with metrics_served(shown(), "127.0.0.1", port):
                raise AssertionError("two at one port")


async def test_requests_are_counted_by_status() -> None:
    meter = RequestMeter("api", asyncio.get_running_loop().time)

    async def fine(_: web.Request) -> web.Response:
        return web.Response(status=201)

    async def broken(_: web.Request) -> web.Response:
        raise RuntimeError("a defect")

    app = web.Application(middlewares=[meter.middleware])
    app.router.add_get("/fine", fine)
    app.router.add_get("/broken", broken)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        for path in ("fine", "fine", "none", "broken"):
            await page(f"{url}/{path}")
    finally:
        await runner.cleanup()
    samples = list(meter.samples())
    counted = {labels: number for name, labels, number in samples if name == "distributary_http_requests_total"}
    assert counted == {("api", "2xx"): 2.0, ("api", "4xx"): 1.0, ("api", "5xx"): 1.0}
    (histogram,) = (number for *_, number in samples if isinstance(number, Histogram))
    assert sum(histogram.counts) == 4
