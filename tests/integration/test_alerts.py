"""Every alert rule fires when its condition is caused in a real system, and not before.

One worker on a real Kafka goes through a bad day: all is well; endpoints fail; attempts cannot be written; a thread
ends; the worker is gone. All the while its /metrics are scraped as Prometheus does it, and promtool is given what was
scraped and told which alerts there must be. Time is compressed: scrapes that follow each other at once count as a
minute apart. Ages are not: where something must be two hours old, it is written with a time two hours ago.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient

from connectors.admin import apply_topics
from connectors.local_kafka import Cluster
from schemas.codec import put_string, wire_header
from schemas.delivery import FRESH, encode_fresh, encode_tail
from schemas.event import Event
from schemas.ids import delivery_id
from streams.app import Worker
from tests.helpers import eventually_async
from tests.integration.sink import Sink
from tests.integration.workers import Site
from tests.metrics import Scraped, named, scrape, value
from tests.promtool import RULES, alerts, promtool, run

__all__ = ["promtool"]  # a fixture

#: Longer than any rule looks back and waits, in minutes: 10 of a rate and 10 of `for`, and some to spare.
PHASE = 24
HOUR_MS = 3_600_000
#: A backlog that a rule takes for one, with some to spare.
BACKLOG = 13_000
#: Which alerts each phase causes. What a phase causes may last into the next.
DAY = {
    "well": set[str](),
    "endpoints fail": {
        "DistributaryFailureRatio",
        "DistributaryOldestUndelivered",
        "DistributaryDeadLetters",
        "DistributaryQuarantine",
        "DistributaryCircuitsOpen",
    },
    "attempts cannot be written": {"DistributarySilence", "DistributaryLag", "DistributaryRetriesStuck"},
    "a thread ends": {"DistributaryNotReady"},
    "gone": {"DistributaryDown"},
}


class Prometheus:
    """What a server would have stored: of each minute, the samples that rules name, or nothing of one that is gone."""

    def __init__(self) -> None:
        self._minutes: list[Scraped | None] = []
        self._names = set(re.findall(r"distributary_\w+", RULES.read_text()))
        self.ends: dict[str, int] = {}  # the last minute of each phase

    async def minute(self, url: str) -> None:
        try:
            found = await scrape(url)
        except OSError:
            self._minutes.append(None)
        else:
            self._minutes.append({key: number for key, number in found.items() if key[0] in self._names})

    async def phase(self, name: str, url: str, each: Callable[[], Awaitable[object]], minutes: int = PHASE) -> None:
        """So many minutes of the day; `each` happens before each scrape."""
        for _ in range(minutes):
            await each()
            await self.minute(url)
        self.ends[name] = len(self._minutes) - 1

    def series(self) -> list[dict[str, str]]:
        """As promtool takes them."""
        labels = (("instance", "worker:9464"), ("job", "distributary"))
        values: dict[Any, list[str]] = defaultdict(lambda: ["_"] * len(self._minutes))
        for minute, found in enumerate(self._minutes):
            values["up", labels][minute] = "0" if found is None else "1"
            for (name, own), number in (found or {}).items():
                values[name, (*own, *labels)][minute] = repr(number)
            for seen in values.values():  # as a server marks what a target does not show any more
                if minute and seen[minute] == "_" and seen[minute - 1] not in ("_", "stale"):
                    seen[minute] = "stale"
        return [
            {
                "series": name + "{" + ",".join(f"{key}={json.dumps(text)}" for key, text in own) + "}",
                "values": " ".join(seen),
            }
            for (name, own), seen in values.items()
        ]


def expectations(ends: dict[str, int]) -> list[dict[str, Any]]:
    """Which alerts fire in a phase, of those that did not before."""
    found, known, start = [], set[str](), 0
    for phase, expected in DAY.items():
        new = "|".join(sorted(set().union(*DAY.values()) - known))
        firing, minutes = f'alertstate="firing",alertname=~"{new}"', ends[phase] - start
        found.append(
            {
                "expr": f"group by (alertname) (max_over_time(ALERTS{{{firing}}}[{minutes}m]))",
                "eval_time": f"{ends[phase]}m",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(expected)],
            }
        )
        known |= expected
        start = ends[phase]
    return found


def test_every_rule_has_a_condition() -> None:
    assert {rule["alert"] for rule in alerts()} == set().union(*DAY.values())


async def test_the_alerts_of_a_bad_day(kafka: Cluster, prefix: str, tmp_path: Path, promtool: str) -> None:
    site = await Site.made(kafka.bootstrap, prefix, partitions=1, metrics_port=0, circuit_results_min=5, drain_s=0.0)
    prometheus = Prometheus()
    sent = 0
    async with Sink(keep=False).running() as sink:
        site.subscribe("fine", sink.url("/ok"))
        site.subscribe("picky", sink.url("/status/404"), event_types=("odd.*",), retry_schedule_ms=())
        site.subscribe("down", sink.url("/status/500"), event_types=("lost.*",), retry_schedule_ms=())
        site.subscribe("late", sink.url("/status/500"), event_types=("kept.*",), retry_schedule_ms=(10 * HOUR_MS,))
        async with site.worker() as worker:
            url = worker.metrics_url

            async def planned(*types: str) -> None:
                """A minute's events, fanned out."""
                nonlocal sent
                before = worker.counters["deliveries"]
                for event_type in types:
                    sent += 1
                    await asyncio.to_thread(site.send, [f"evt_{sent}"], event_type)
                await eventually_async(lambda: worker.counters["deliveries"] >= before + len(types), timeout_s=60)

            async def delivered(*types: str) -> None:
                before = worker.counters["delivered"]
                await planned("order.created", *types)
                await eventually_async(lambda: worker.counters["delivered"] > before, timeout_s=60)

            async def half_refused() -> None:
                assert worker.metrics is not None
                refused = worker.metrics.meter.statuses
                before = refused[4]
                await delivered("odd.one")
                await eventually_async(lambda: refused[4] > before, timeout_s=60)

            await prometheus.phase("well", url, delivered)

            site.send([f"lost_{number}" for number in range(8)], "lost.sight")
            site.write(site.topics.events, [(b"k", b"no event")])
            old = int(time.time() * 1_000) - 2 * HOUR_MS
            site.write(site.topics.events, [(b"k", site.event("evt_old", "kept.back"))], timestamp_ms=old)
            await _until(url, lambda found: value(found, "distributary_circuits", state="open") == 1)
            await _until(url, lambda found: bool(named(found, "distributary_quarantined_total")))
            await _until(url, lambda found: _oldest(found, "late") > HOUR_MS / 1_000)
            await prometheus.phase("endpoints fail", url, half_refused)

            await _delete_topic(kafka, site.topics.attempts)
            # More than a worker has room for: first what a tier has held for long, then what comes new.
            site.write(site.topics.tiers[300_000], _deliveries(site, "held"), timestamp_ms=old)
            await _until(
                url, lambda found: value(found, "distributary_retry_oldest_seconds", tier="5m") > HOUR_MS / 1_000
            )
            site.write(site.topics.deliveries, _deliveries(site, "new"))
            lag = {"group": site.settings.group("delivery"), "topic": site.topics.deliveries}
            await _until(url, lambda found: value(found, "distributary_consumer_lag_records", **lag) >= BACKLOG)
            await eventually_async(lambda: _stuck(worker), timeout_s=120)
            await prometheus.phase("attempts cannot be written", url, lambda: planned("order.created"))
            await apply_topics({"bootstrap.servers": kafka.bootstrap}, site.topics.specs(), 1)

            _end_a_thread(worker)
            await _until(url, lambda found: value(found, "distributary_ready", role="worker") == 0)
            await prometheus.phase("a thread ends", url, lambda: asyncio.sleep(0), minutes=8)
        await prometheus.phase("gone", url, lambda: asyncio.sleep(0), minutes=5)
    file = tmp_path / "day.yml"
    test = {
        "interval": "1m",
        "input_series": prometheus.series(),
        "promql_expr_test": expectations(prometheus.ends),
    }
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
    judged = await asyncio.to_thread(run, promtool, "test", "rules", file)
    assert judged.returncode == 0, judged.stdout + judged.stderr


async def _until(url: str, condition: Callable[[Scraped], bool]) -> None:
    async def true() -> bool:
        return condition(await scrape(url))

    await eventually_async(true, timeout_s=120)


async def _delete_topic(kafka: Cluster, topic: str) -> None:
    """It takes nothing more once brokers do not know it any more, a moment after they were told."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for future in admin.delete_topics([topic]).values():
        await asyncio.wrap_future(future)
    await eventually_async(lambda: topic not in admin.list_topics(timeout=30).topics, timeout_s=60)


def _oldest(found: Scraped, subscription_id: str) -> float:
    return value(found, "distributary_oldest_undelivered_seconds", subscription=subscription_id)


def _stuck(worker: Worker) -> bool:
    """What it sent was answered, which counts as delivered, and while a group cannot be written it sends no more."""
    assert worker.metrics is not None
    assert worker.metrics.dispatch is not None
    delivery = next(part for part in worker.metrics.parts if part.group.endswith("delivery"))
    return delivery.settler.busy_s > 1 and not worker.metrics.dispatch.in_flight


def _deliveries(site: Site, name: str) -> Iterator[tuple[bytes, bytes]]:
    header, now_ms = wire_header(site.schemas.delivery_v1), int(time.time() * 1_000)
    for number in range(BACKLOG):
        event_id = f"{name}_{number}"
        tail = encode_tail(
            Event(event_id, "order.created", "default", now_ms, b"{}"), now_ms, "application/json", b"{}"
        )
        yield b"fine", encode_fresh(header, delivery_id(event_id, "fine"), put_string("fine") + FRESH, tail)


def _end_a_thread(worker: Worker) -> None:
    assert worker.metrics is not None
    worker.metrics.parts[0].consumer.threads[0].halt()  # ends, and the worker does not notice
