"""Workers that die, or come and go, in the middle of the stream: nothing lost, nothing doubled, nothing again."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

from connectors.local_kafka import Cluster
from schemas.ids import delivery_id
from tests.integration.sink import sink_process
from tests.integration.workers import Site, until

DELIVERIES = 20_000
SUBSCRIPTIONS = [f"sub_{n}" for n in range(10)]


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
        for subscription in SUBSCRIPTIONS:
            site.subscribe(subscription, sink.url("/ok"))
        site.send(events)
        with site.worker_process("w1", log=log) as worker:
            until(lambda: sink.total() > DELIVERIES // 4, "a quarter is delivered")
            worker.kill()
        at_kill = Counter(sink.counts())
        settled = {one["delivery_id"] for one in site.attempts()}
        assert DELIVERIES // 8 < len(settled) <= len(at_kill) < DELIVERIES
        assert settled <= set(at_kill)
        with site.worker_process("w1", log=log) as worker:
            until(lambda: len(sink.counts()) == DELIVERIES, "all are delivered")
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

    def written() -> Counter[str]:
        return Counter(_id_of(message.value()) for message in site.read(site.topics.deliveries))

    with site.worker_process("w1", ["fan-out"], log=log) as worker:
        until(lambda: len(site.read(site.topics.deliveries)) > 3_000, "it has begun")
        worker.kill()
    assert 3_000 < len(written()) < 3 * len(events)
    with site.worker_process("w1", ["fan-out"], log=log) as worker:
        until(lambda: len(site.read(site.topics.deliveries)) >= 3 * len(events), "all are written")
        assert worker.terminate() == 0
    counts = written()
    assert set(counts) == expected(events, SUBSCRIPTIONS[:3])
    assert doubled(counts) == {}


def _id_of(value: bytes) -> str:
    return value[6 : 6 + 34].decode()  # after the wire header and a length of one byte


async def test_a_second_worker_joins_and_leaves_in_the_middle(kafka: Cluster, prefix: str, tmp_path: Path) -> None:
    site = await Site.made(kafka.bootstrap, prefix)
    log = tmp_path / "worker.log"
    events = [f"evt_{n}" for n in range(1_200)]
    wanted = expected(events, SUBSCRIPTIONS)
    with sink_process() as sink:
        for subscription in SUBSCRIPTIONS:  # 10 endpoints at 80 deliveries a second each: 15 s
            site.subscribe(subscription, sink.url("/slow/200"), max_in_flight=16)
        site.send(events)
        with site.worker_process("w1", log=log) as first:
            until(lambda: sink.total() > 1_000, "it has begun")
            with site.worker_process("w2", log=log) as second:
                second.ready()
                joined = sink.total()
                until(lambda: sink.total() > joined + 2_000, "both deliver")
                assert joined < len(wanted) - 2_500
                assert second.terminate() == 0
            until(lambda: len(sink.counts()) == len(wanted), "all are delivered")
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
    site = await Site.made(kafka.bootstrap, prefix)
    log = tmp_path / "worker.log"
    events = [f"evt_{n}" for n in range(300)]
    with sink_process() as sink:
        site.subscribe("slow", sink.url("/slow/300"), max_in_flight=40)
        site.send(events)
        with site.worker_process("w1", log=log) as worker:
            until(lambda: sink.total() > 50, "it has begun")
            assert worker.terminate() == 0
        posted = sink.counts()
        assert 50 < len(posted) < 300
        assert site.outcomes() == {(one, "delivered"): 1 for one in posted}
        with site.worker_process("w1", log=log) as worker:
            until(lambda: len(sink.counts()) == 300, "the rest is delivered")
            assert worker.terminate() == 0
        counts = Counter(sink.counts())
    assert doubled(counts) == {}
    assert site.outcomes() == {(one, "delivered"): 1 for one in expected(events, ["slow"])}
