"""Ordered subscriptions on a bad day: deliveries that fail, an endpoint that is down, a worker that is killed, one that
joins and leaves. The order of each key holds, and no key or endpoint waits for another."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import orjson
import pytest

from connectors.local_kafka import Cluster
from schemas.event import Event, encode_event
from schemas.ids import delivery_id
from tests.integration.moody import Arrival, Mood, moody_process
from tests.integration.workers import Site, until

pytestmark = pytest.mark.timeout(300)

KEYS = ("a", "b", "c", "d", "stuck")
EVENTS_PER_KEY = 40
ORDERED = [f"ordered_{n}" for n in range(5)]
DOWN = "down"  # ordered too
EVENTS = len(KEYS) * EVENTS_PER_KEY
NOT_STUCK = EVENTS - EVENTS_PER_KEY

#: What fails does so at its first attempt; what is stuck, until the moods change.
FLAKY = Mood(status=500, holding='"fails":true', each=1)
STUCK = Mood(status=500, holding='"key":"stuck"')
SLOW = Mood(delay_ms=10)
#: Long enough for what is stuck not to be given up on a slow machine.
SCHEDULE = (1_000,) * 20 + (5_000,) * 30


def event_id(key: str, n: int) -> str:
    return f"{key}_{n}"


def send(site: Site, numbers: range) -> None:
    """The events with these numbers, of all keys in turn."""
    events = [
        Event(
            event_id(key, n),
            "order.created",
            "default",
            1_700_000_000_000,
            orjson.dumps({"key": key, "n": n, "fails": n % 8 == 3}),
            subject=key,
        )
        for n in numbers
        for key in KEYS
    ]
    records = ((event.subject, encode_event(site.schemas.event, event)) for event in events)
    site.write(site.topics.events, ((str(subject).encode(), value) for subject, value in records))


def out_of_order(arrivals: list[Arrival]) -> list[tuple[str, int, int]]:
    """POSTs (key, number, the one to come) that came before all before them of their key had been taken."""
    taken: defaultdict[str, int] = defaultdict(int)  # how many of a key, without a gap
    found = []
    for arrival in arrivals:
        data = orjson.loads(arrival.body)["data"]
        key, n = data["key"], data["n"]
        if n > taken[key]:
            found.append((key, n, taken[key]))
        if arrival.status == 204:
            taken[key] = max(taken[key], n + 1)
    return found


async def test_order_holds_when_workers_die_join_and_leave(kafka: Cluster, prefix: str, tmp_path: Path) -> None:
    site = await Site.made(kafka.bootstrap, prefix, drain_s=30.0)  # also a starved worker leaves in order
    log = tmp_path / "worker.log"
    with moody_process() as moody:
        for name in (*ORDERED, DOWN):
            site.subscribe(name, moody.url(f"/{name}"), ordered=True, retry_schedule_ms=SCHEDULE)
            moody.turn(f"/{name}", FLAKY, STUCK, SLOW)
        site.subscribe("plain", moody.url("/plain"))
        moody.turn(f"/{DOWN}", Mood(status=500))
        with site.worker_process("w1", log=log) as first:
            first.ready()
            send(site, range(EVENTS_PER_KEY // 2))
            until(lambda: moody.taken(f"/{ORDERED[0]}") > EVENTS // 5, "it is in the middle of it")
            first.kill()
        at_kill = {name: set(moody.accepted(f"/{name}")) for name in (*ORDERED, DOWN, "plain")}
        assert len(at_kill[ORDERED[0]]) <= NOT_STUCK // 2
        send(site, range(EVENTS_PER_KEY // 2, EVENTS_PER_KEY))
        with site.worker_process("w1", log=log) as first, site.worker_process("w2", log=log) as second:
            first.ready()
            second.ready()
            until(lambda: moody.taken("/plain") == EVENTS, "who has no order waits for nobody")
            for name in ORDERED:
                until(lambda name=name: moody.taken(f"/{name}") == NOT_STUCK, "the other keys of its endpoint go on")
            assert moody.taken(f"/{DOWN}") == 0
            for name in ORDERED:
                moody.turn(f"/{name}", FLAKY)
            until(lambda: moody.taken(f"/{ORDERED[0]}") > NOT_STUCK, "what was stuck is on its way")
            assert second.terminate() == 0
            moody.turn(f"/{DOWN}", FLAKY, SLOW)
            for name in (*ORDERED, DOWN):
                until(lambda name=name: moody.taken(f"/{name}") == EVENTS, f"all of {name} is delivered")
            assert first.terminate() == 0
        arrivals = {name: moody.arrivals(f"/{name}") for name in (*ORDERED, DOWN)}
        accepted = {name: moody.accepted(f"/{name}") for name in (*ORDERED, DOWN, "plain")}
    for name in (*ORDERED, DOWN):
        assert out_of_order(arrivals[name]) == [], name
    outcomes = site.outcomes()
    for name, counts in accepted.items():
        wanted = {delivery_id(event_id(key, n), name) for key in KEYS for n in range(EVENTS_PER_KEY)}
        assert counts.keys() == wanted
        assert {outcomes[one, "delivered"] for one in wanted} == {1}
        again = {one for one, count in counts.items() if count > 1}
        assert again <= at_kill[name]  # by the kill only, not by who leaves in order
        assert max(counts.values()) <= 2
    assert Counter(outcome for _, outcome in outcomes).keys() == {"retryable", "delivered"}
