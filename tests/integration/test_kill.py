"""Workers that die, or come and go, in the middle of the stream: nothing lost, nothing doubled, nothing again."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path

from connectors.local_kafka import Cluster
from schemas.ids import delivery_id
from tests.helpers import eventually_async
from tests.integration.sink import sink_process
from tests.integration.workers import Site, until

DELIVERIES = 20_000
SUBSCRIPTIONS = [f"sub_{n}" for n in range(10)]
#: For one endpoint that takes 40 at a time and 0.3 s for each.
EVENTS_OF_FIVE_SECONDS = 700


def expected(events: list[str], subscriptions: list[str]) -> set[str]:
    return {delivery_id(event, subscription) for event in events for subscription in subscriptions}


def doubled(counts: Counter[str]) -> dict[str, int]:
    return {one: count for one, count in counts.items() if count != 1}


async def test_killed_in_the_middle_of_20_000_deliveries(kafka: Cluster, prefix: str, tmp_path: Path) -> None:
    site = await Site.made(kafka.bootstrap, prefix)
    log = tmp_path / "worker.log"
    events = [f"evt_{n}" for n in range(DELIVERIES // len(SUBSCRIPTIONS))]
    wanted = expected(events, SUBSCRIPTIONS)
    with sink_process() as sink:
        for subscription in SUBSCRIPTIONS:  # 3,200 a second at the most: it takes six seconds
            site.subscribe(subscription, sink.url("/slow/25"), max_in_flight=8)
        site.send(events)
        with site.worker_process("w1", log=log) as worker:
            until(lambda: site.readable(site.topics.attempts) > DELIVERIES // 4, "nearly a quarter is settled")
            worker.kill()
        at_kill = Counter(sink.counts())
        settled = {one["delivery_id"] for one in site.attempts(patience_s=0.0)}
        assert DELIVERIES // 8 < len(settled) <= len(at_kill) < DELIVERIES
        assert settled <= set(at_kill)
        with site.worker_process("w1", log=log) as worker:
            until(lambda: len(sink.counts()) == DELIVERIES, "all are delivered", 120)
            assert worker.terminate() == 0
        counts = Counter(sink.counts())
    assert set(counts) == wanted
    # What was settled at the time of the kill is not sent again; what was not may be, once.
    again = {one for one, count in counts.items() if count > 1}
    assert again.isdisjoint(settled)
    assert again <= set(at_kill)
    assert max(counts.values()) <= 2
    assert site.outcomes() == {(one, "delivered"): 1 for one in wanted}
    made = Counter(message.key() for message in site.read(site.topics.deliveries))
    assert made == {subscription.encode(): len(events) for subscription in SUBSCRIPTIONS}


async def test_fan_out_killed_in_the_middle_writes_every_delivery_once(
    kafka: Cluster, prefix: str, tmp_path: Path
) -> None:
    site = await Site.made(kafka.bootstrap, prefix)
    log = tmp_path / "worker.log"
    events = [f"evt_{n}" for n in range(40_000)]
    for subscription in SUBSCRIPTIONS[:3]:
        site.subscribe(subscription, "http://127.0.0.1:1024/")
    site.send(events)

    def written(patience_s: float = 10.0) -> Counter[str]:
        found = site.read(site.topics.deliveries, patience_s=patience_s)
        return Counter(_id_of(message.value()) for message in found)

    with site.worker_process("w1", ["fan-out"], log=log) as worker:
        until(lambda: site.readable(site.topics.deliveries) > 3_000, "it has begun")
        worker.kill()
    assert 3_000 < len(written(0.0)) < 3 * len(events)
    with site.worker_process("w1", ["fan-out"], log=log) as worker:
        until(lambda: len(site.read(site.topics.deliveries)) >= 3 * len(events), "all are written", 120)
        assert worker.terminate() == 0
    counts = written()
    assert set(counts) == expected(events, SUBSCRIPTIONS[:3])
    assert doubled(counts) == {}


def _id_of(value: bytes) -> str:
    return value[6 : 6 + 34].decode()  # after the wire header and a length of one byte


async def test_a_second_worker_joins_and_leaves_in_the_middle(kafka: Cluster, prefix: str, tmp_path: Path) -> None:
    site = await Site.made(kafka.bootstrap, prefix, drain_s=30.0)
    log = tmp_path / "worker.log"
    events: list[str] = []
    with sink_process() as sink:
        for subscription in SUBSCRIPTIONS:  # 10 endpoints at 80 deliveries a second each
            site.subscribe(subscription, sink.url("/slow/200"), max_in_flight=16)

        def busy() -> bool:
            """There are three seconds' deliveries to be made, at the least."""
            if len(events) * len(SUBSCRIPTIONS) - sink.total() < 2_500:
                more = [f"evt_{len(events) + n}" for n in range(100)]
                events.extend(more)
                site.send(more)
            return True

        with site.worker_process("w1", log=log) as first:
            until(lambda: busy() and sink.total() > 1_000, "it has begun")
            with site.worker_process("w2", log=log) as second:
                joining = asyncio.create_task(asyncio.to_thread(second.ready))
                await eventually_async(lambda: busy() and joining.done(), timeout_s=120, message="a second one joins")
                await joining
                joined = sink.total()
                until(lambda: busy() and sink.total() > joined + 2_000, "both deliver")
                assert second.terminate() == 0
            wanted = expected(events, SUBSCRIPTIONS)
            until(lambda: len(sink.counts()) == len(wanted), "all are delivered", 120)
            assert first.terminate() == 0
        counts = Counter(sink.counts())
    assert set(counts) == wanted
    assert doubled(counts) == {}
    assert site.outcomes() == {(one, "delivered"): 1 for one in wanted}


async def test_a_worker_that_was_taken_for_dead_writes_nothing_of_its_old_epoch(
    kafka: Cluster, prefix: str, tmp_path: Path
) -> None:
    """Frozen for longer than the session, with POSTs under way: its partitions are another's by the time it wakes."""
    site = await Site.made(kafka.bootstrap, prefix)
    log = tmp_path / "worker.log"
    events = [f"evt_{n}" for n in range(100)]
    wanted = expected(events, ["slow"])
    with sink_process() as sink:
        site.subscribe("slow", sink.url("/slow/1500"), max_in_flight=100)
        site.send(events)
        with site.worker_process("w1", log=log) as frozen:
            until(lambda: sink.total() == 100, "all are under way")
            frozen.signal(signal.SIGSTOP)
            with site.worker_process("w2", log=log) as second:
                until(lambda: len(site.outcomes()) == 100, "the second one has settled them")
                frozen.signal(signal.SIGCONT)
                site.send(["after"])
                until(lambda: (delivery_id("after", "slow"), "delivered") in site.outcomes(), "the stream goes on")
                until(lambda: "lost" in log.read_text() or frozen.ended(), "the first one knows")
                assert second.terminate() == 0
            frozen.terminate()
    assert site.outcomes() == {(one, "delivered"): 1 for one in wanted | {delivery_id("after", "slow")}}


async def test_sigterm_settles_what_is_under_way_and_leaves_the_rest(
    kafka: Cluster, prefix: str, tmp_path: Path
) -> None:
    site = await Site.made(kafka.bootstrap, prefix, drain_s=30.0)
    log = tmp_path / "worker.log"
    events = [f"evt_{n}" for n in range(EVENTS_OF_FIVE_SECONDS)]
    with sink_process() as sink:
        site.subscribe("slow", sink.url("/slow/300"), max_in_flight=40)
        site.send(events)
        with site.worker_process("w1", log=log) as worker:
            until(lambda: sink.total() > 50, "it has begun")
            assert worker.terminate() == 0
        posted = sink.counts()
        assert 50 < len(posted) < EVENTS_OF_FIVE_SECONDS
        assert site.outcomes() == {(one, "delivered"): 1 for one in posted}
        with site.worker_process("w1", log=log) as worker:
            until(lambda: len(sink.counts()) == EVENTS_OF_FIVE_SECONDS, "the rest is delivered")
            assert worker.terminate() == 0
        counts = Counter(sink.counts())
    assert doubled(counts) == {}
    assert site.outcomes() == {(one, "delivered"): 1 for one in expected(events, ["slow"])}
