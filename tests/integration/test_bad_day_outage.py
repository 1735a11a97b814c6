"""Endpoints that are down for a while: what waits is written once, arrives when they are back, and survives workers
that are killed meanwhile."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from connectors.local_kafka import Cluster
from schemas.delivery import decode_delivery
from schemas.ids import delivery_id
from streams.core.parked import finished_by
from tests.integration.moody import Mood, held_port, moody_process
from tests.integration.workers import Site, until

pytestmark = pytest.mark.timeout(300)

DELIVERIES = 300


def ids(events: list[str], subscription: str) -> set[str]:
    return {delivery_id(event, subscription) for event in events}


def written(site: Site, *topics: str) -> Counter[str]:
    """How many records each delivery has there."""
    found = (message.value() for message in site.read(*topics))
    return Counter(decode_delivery(value).id for value in found if value is not None)


def finished(site: Site) -> Counter[tuple[int, int]]:
    """How often each parked record, by partition and offset, is finished."""
    marks = ((one.partition(), finished_by(one.headers())) for one in site.read(site.topics.parked))
    return Counter((partition, mark[0]) for partition, mark in marks if mark is not None)


def parked(site: Site) -> set[tuple[int, int]]:
    """Where each record of a parked delivery is."""
    records = site.read(site.topics.parked)
    return {(one.partition(), one.offset()) for one in records if one.value() is not None}


async def test_what_waits_for_an_endpoint_that_is_down_is_parked_once(
    kafka: Cluster, prefix: str, tmp_path: Path
) -> None:
    site = await Site.made(kafka.bootstrap, prefix)
    events = [f"evt_{n}" for n in range(DELIVERIES)]
    schedule = (1_000,) * 20
    with held_port() as port, moody_process() as moody:
        site.subscribe("away", f"http://127.0.0.1:{port}/away", retry_schedule_ms=schedule)
        site.subscribe("broken", moody.url("/broken"), retry_schedule_ms=schedule)
        site.subscribe("well", moody.url("/well"))
        with site.worker_process("w1", log=tmp_path / "worker.log") as worker:
            worker.ready()
            site.send(events[:20])
            until(lambda: moody.taken("/broken") == 20, "what comes before the outage is delivered")
            moody.turn("/broken", Mood(status=500))
            site.send(events[20:])
            until(lambda: moody.taken("/well") == DELIVERIES, "the others are delivered meanwhile")
            until(
                lambda: {one.subscription_id for one in site.states() if one.openings > 1} == {"away", "broken"},
                "both circuits are open, and a probe of each failed",
            )
            until(lambda: written(site, site.topics.parked).keys() >= ids(events, "away"), "everything is parked")
            moody.turn("/broken")
            with moody_process(port) as returned:
                until(lambda: moody.taken("/broken") == DELIVERIES, "all are delivered there")
                until(lambda: returned.taken("/away") == DELIVERIES, "and there")
                assert worker.terminate() == 0
                accepted = {"away": returned.accepted("/away"), "broken": moody.accepted("/broken")}
    assert accepted == {name: Counter(ids(events, name)) for name in ("away", "broken")}
    outcomes = site.outcomes()
    for name in ("away", "broken", "well"):
        assert {outcomes[one, "delivered"] for one in ids(events, name)} == {1}
    assert site.dead() == []

    # A record in the log before an attempt, and one in a tier after it: never more, however long the outage is.
    attempts = Counter(one["delivery_id"] for one in site.attempts())
    in_log, in_tiers = written(site, site.topics.parked), written(site, *site.topics.tiers.values())
    assert [one for one, count in in_log.items() if count > attempts[one]] == []
    assert [one for one, count in in_tiers.items() if count > attempts[one] - 1] == []
    once = [one for one in attempts if (in_log[one], in_tiers[one], attempts[one]) == (1, 0, 1)]
    assert len(once) > 2 * DELIVERIES * 3 // 4  # most of them were never tried while it was down
    assert finished(site) == Counter(parked(site))
    kinds = Counter((one.subscription_id, one.kind) for one in site.operations())
    assert kinds == {(name, f"circuit.{kind}"): 1 for name in ("away", "broken") for kind in ("opened", "closed")}


async def test_killed_while_deliveries_are_parked_and_while_the_log_is_read(
    kafka: Cluster, prefix: str, tmp_path: Path
) -> None:
    site = await Site.made(kafka.bootstrap, prefix)
    log = tmp_path / "worker.log"
    events = [f"evt_{n}" for n in range(DELIVERIES)]
    wanted = ids(events, "s")
    with moody_process() as moody:
        site.subscribe("s", moody.url("/s"), max_in_flight=4, retry_schedule_ms=(1_000,) * 20)
        moody.turn("/s", Mood(status=500))
        site.send(events)
        with site.worker_process("w1", log=log) as worker:
            worker.ready()
            until(lambda: len(written(site, site.topics.parked)) > DELIVERIES * 3 // 4, "most are parked")
            worker.kill()
        moody.turn("/s", Mood(delay_ms=20, times=DELIVERIES * 2 // 3), Mood(status=0))
        with site.worker_process("w1", log=log) as worker:
            worker.ready()
            until(lambda: moody.taken("/s") > DELIVERIES // 4, "the log is being read")
            worker.kill()
        moody.turn("/s")
        at_kill = moody.accepted("/s")
        settled = {one for one, outcome in site.outcomes() if outcome == "delivered"}
        assert 0 < len(settled) <= len(at_kill) < DELIVERIES
        assert settled <= set(at_kill)
        with site.worker_process("w1", log=log) as worker:
            worker.ready()
            until(lambda: moody.taken("/s") == DELIVERIES, "the rest is delivered")
            assert worker.terminate() == 0
        accepted = moody.accepted("/s")
    assert set(accepted) == wanted
    # What was settled is not sent again; what was not may be, once.
    again = {one for one, count in accepted.items() if count > 1}
    assert again <= set(at_kill) - settled
    assert max(accepted.values()) <= 2
    outcomes = site.outcomes()
    assert {outcomes[one, "delivered"] for one in wanted} == {1}
    assert {outcome for _, outcome in outcomes} <= {"retryable", "delivered"}
    assert finished(site) == Counter(parked(site))
    assert max(written(site, site.topics.deliveries).values()) == 1
