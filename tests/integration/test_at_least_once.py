"""Workers without transactions: a crash repeats what was under way, and loses nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from connectors.local_kafka import Cluster
from schemas.ids import delivery_id
from tests.helpers import eventually_async
from tests.integration.moody import Mood, moody_process
from tests.integration.sink import Sink
from tests.integration.workers import Site, until

SUBSCRIPTIONS = [f"sub_{n}" for n in range(10)]


def attempts(site: Site) -> set[tuple[str, str, int, str]]:
    """Each once: one that was repeated, as may happen without transactions, counts as one."""
    return {(one["delivery_id"], one["subscription_id"], one["attempt"], one["outcome"]) for one in site.attempts()}


async def test_retries_and_dead_letters_come_without_transactions_too(kafka: Cluster, prefix: str) -> None:
    site = await Site.made(kafka.bootstrap, prefix, guarantee="at_least_once", circuit_results_min=0)
    events = [f"evt_{n}" for n in range(20)]
    async with Sink().running() as sink:
        site.subscribe("flaky", sink.url("/flaky/1"), retry_schedule_ms=(1_000,))
        site.subscribe("dead", sink.url("/status/500"), retry_schedule_ms=())
        async with site.worker():
            site.send(events)
            await eventually_async(lambda: len(attempts(site)) == 60)
    assert Counter((subscription, outcome) for _, subscription, _, outcome in attempts(site)) == {
        ("flaky", "retryable"): 20,
        ("flaky", "delivered"): 20,
        ("dead", "exhausted"): 20,
    }
    assert len({one["delivery"]["id"] for one in site.dead()}) == 20
    async with site.worker() as worker:  # an orderly stop has committed everything
        site.send(["after"])
        await eventually_async(lambda: worker.counters["deliveries"] == 2)
        assert worker.counters["events"] == 1


async def test_killed_in_the_middle_nothing_is_lost(kafka: Cluster, prefix: str, tmp_path: Path) -> None:
    site = await Site.made(kafka.bootstrap, prefix, guarantee="at_least_once")
    log = tmp_path / "worker.log"
    events = [f"evt_{n}" for n in range(1_000)]
    wanted = {delivery_id(event, subscription) for event in events for subscription in SUBSCRIPTIONS}
    with moody_process() as moody:
        for subscription in SUBSCRIPTIONS:
            site.subscribe(subscription, moody.url("/ok"))
        moody.turn("/ok", Mood(times=len(wanted) // 4), Mood(status=0))  # the others hang until the worker was killed
        site.send(events)
        with site.worker_process("w1", log=log) as worker:
            until(lambda: moody.taken("/ok") > len(wanted) // 5, "a part is delivered")
            worker.kill()
        moody.turn("/ok")
        with site.worker_process("w1", log=log) as worker:
            until(lambda: moody.taken("/ok") == len(wanted), "all are delivered")
            assert worker.terminate() == 0
        assert moody.accepted("/ok").keys() == wanted
    assert {one for one, outcome in site.outcomes() if outcome == "delivered"} == wanted
