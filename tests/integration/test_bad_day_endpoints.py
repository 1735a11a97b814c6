"""Endpoints that hang, are gone, are paused, or ask for patience, all with one worker, and all on one partition.

Each test has endpoints of its own: what one of them does must not matter to the others. Rates and gates are judged by
the receiver's clock, in ways that a slow machine cannot break: the next POST begins after the answer to the one before.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson
import pytest
import standardwebhooks

from connectors.local_kafka import Cluster
from schemas.delivery import decode_delivery
from schemas.endpoint import EndpointState, Operation
from schemas.ids import delivery_id
from streams.core.batch import batch_id
from tests.cli import Cli
from tests.conftest import new_prefix
from tests.integration.moody import Arrival, Mood, Moody, moody_process
from tests.integration.workers import SECRET, Site, until

pytestmark = pytest.mark.timeout(300)

HANGING = 64
#: Endpoints, and what their subscriptions say. The worker knows them before the first event is sent.
ENDPOINTS: dict[str, dict[str, Any]] = {
    "hangs": {"timeout_ms": 120_000, "max_in_flight": HANGING},
    "fine_1": {},
    "fine_2": {},
    "paused": {},
    "gone": {"state": "paused"},
    "batched": {"batch_max": 10, "batch_wait_ms": 5_000, "max_in_flight": 1, "retry_schedule_ms": (1_000,)},
    "limited": {"rate_limit": 20, "max_in_flight": 1},
    "limited_wide": {"rate_limit": 20, "max_in_flight": 32},
    "busy": {"max_in_flight": 1, "retry_schedule_ms": (1_000,)},
    "busy_until": {"max_in_flight": 1, "retry_schedule_ms": (1_000,)},
}


class Day(NamedTuple):
    """A worker that runs, and a receiver."""

    site: Site
    moody: Moody
    cli: Cli

    def subscribe(self, name: str, **fields: Any) -> None:
        """An endpoint at a path, for events of a type, both of its name."""
        self.site.subscribe(name, self.moody.url(f"/{name}"), event_types=(name,), **fields)

    def send(self, name: str, events: list[str]) -> set[str]:
        """Events of that type; the ids of their deliveries."""
        self.site.send(events, name)
        return {delivery_id(event, name) for event in events}

    def taken(self, name: str, count: int) -> None:
        """Wait until so many were delivered. That none was doubled, `attempts` says: a worker starved for longer
        than its session lasts may POST again what it had not settled."""
        until(lambda: self.moody.taken(f"/{name}") >= count, f"{count} came to {name}", timeout_s=120)
        assert self.moody.taken(f"/{name}") == count

    def attempts(self, name: str) -> Counter[tuple[int, str, int]]:
        """How often each (attempt, outcome, status)."""
        found = [one for one in self.site.attempts() if one["subscription_id"] == name]
        return Counter((one["attempt"], one["outcome"], one["status"]) for one in found)

    def settled(self, name: str, expected: dict[tuple[int, str, int], int]) -> None:
        """Wait until these are its attempts: what was taken is written a moment later."""
        until(lambda: self.attempts(name) == expected, f"the attempts of {name} are written")

    def parked(self, name: str) -> set[str]:
        """Deliveries that are or were in the log."""
        records = self.site.read(self.site.topics.parked)
        return {decode_delivery(one.value()).id for one in records if one.value() and one.key() == name.encode()}


@pytest.fixture(scope="module")
def day(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    directory = tmp_path_factory.mktemp("day")
    prefix = new_prefix()
    site = asyncio.run(Site.made(kafka.bootstrap, prefix, partitions=1))
    with moody_process() as moody:
        day = Day(site, moody, Cli(directory, {"bootstrap": kafka.bootstrap, "prefix": prefix}))
        for name, fields in ENDPOINTS.items():
            day.subscribe(name, **fields)
        with site.worker_process("w1", log=directory / "worker.log") as worker:
            worker.ready()
            yield day
            assert worker.terminate() == 0


def named(name: str, count: int, start: int = 0) -> list[str]:
    return [f"{name}_{n}" for n in range(start, start + count)]


def test_a_hanging_endpoint_with_more_than_a_worker_holds(day: Day) -> None:
    day.moody.turn("/hangs", Mood(status=0))
    wanted = day.send("hangs", named("hangs", 5_000))
    until(lambda: len(day.moody.arrivals("/hangs")) == HANGING, "all of its places are taken")
    for name in ("fine_1", "fine_2"):
        day.send(name, named(name, 200))
    for name in ("fine_1", "fine_2"):
        day.taken(name, 200)
    assert [one.status for one in day.moody.arrivals("/hangs")] == [0] * HANGING  # no time-out has made room
    until(lambda: day.parked("hangs"), "what it does not serve is parked")
    day.moody.turn("/hangs")
    day.taken("hangs", 5_000)
    assert day.moody.accepted("/hangs").keys() == wanted
    day.settled("hangs", {(1, "delivered", 204): 5_000})


def test_a_paused_subscription_gets_what_came_meanwhile_when_it_is_resumed(day: Day) -> None:
    day.send("paused", named("paused", 5))
    day.taken("paused", 5)
    day.subscribe("paused", state="paused")
    before = day.parked("paused")
    number = itertools.count(5)

    def heard_of() -> bool:
        day.send("paused", [f"paused_{next(number)}"])
        return bool(day.parked("paused"))

    until(heard_of, "the worker knows that it is paused")
    sent = next(number)
    meanwhile = day.send("paused", named("paused", 50, start=sent + 1))
    until(lambda: day.parked("paused") >= meanwhile, "what comes meanwhile is parked")
    assert before == set()
    assert not day.moody.accepted("/paused").keys() & day.parked("paused")
    day.subscribe("paused")
    day.taken("paused", sent + 50)
    day.settled("paused", {(1, "delivered", 204): sent + 50})


def test_an_endpoint_that_is_gone_is_disabled_until_its_owner_brings_it_back(day: Day) -> None:
    waiting = day.send("gone", named("gone", 30))
    until(lambda: day.parked("gone") == waiting, "some are parked before")
    day.moody.turn("/gone", Mood(status=410))
    day.subscribe("gone", max_in_flight=1)
    until(lambda: _operations(day, "gone") and _states(day, "gone"), "it is disabled")
    (disabled,) = _operations(day, "gone")
    assert (disabled.kind, disabled.reason, disabled.tenant) == ("endpoint.disabled", "gone", "default")
    state = _states(day, "gone")[-1]
    assert (state.disabled_reason, state.disabled_ms, state.writer) == ("gone", disabled.at_ms, "w1")
    (first,) = day.moody.arrivals("/gone")  # at once
    later = day.send("gone", named("gone", 20, start=30))
    until(lambda: len(_dead(day, "gone")) == 21, "what comes later is dead")
    assert _dead(day, "gone") == {first.id: "gone"} | dict.fromkeys(later, "disabled")
    assert [one.status for one in day.moody.arrivals("/gone")] == [410]

    day.moody.turn("/gone")
    assert day.cli.run("endpoints", "enable", "gone").stdout == "enabled gone\n"
    day.taken("gone", 29)  # what was parked
    day.send("gone", named("gone", 10, start=50))
    day.taken("gone", 39)
    accepted = day.moody.accepted("/gone").keys()
    assert accepted == (waiting - {first.id}) | {delivery_id(event, "gone") for event in named("gone", 10, start=50)}
    assert [one.kind for one in _operations(day, "gone")] == ["endpoint.disabled", "endpoint.enabled"]
    day.settled("gone", {(1, "rejected", 410): 1, (0, "rejected", 0): 20, (1, "delivered", 204): 39})


def _operations(day: Day, name: str) -> list[Operation]:
    about = [one for one in day.site.operations() if one.subscription_id == name]
    return [one for one in about if one.kind != "dead_letters.written"]  # told when its minute is over


def _states(day: Day, name: str) -> list[EndpointState]:
    return [one for one in day.site.states() if one.subscription_id == name]


def _dead(day: Day, name: str) -> dict[str, str]:
    """Reasons by delivery."""
    found = [one for one in day.site.dead() if one["delivery"]["subscription_id"] == name]
    return {one["delivery"]["id"]: one["reason"] for one in found}


def test_batches_are_signed_as_one_and_tried_again(day: Day) -> None:
    day.moody.turn("/batched", Mood(status=500, times=1))
    wanted = day.send("batched", named("batched", 45))
    until(lambda: sum(day.attempts("batched").values()) >= 55, "all came, and ten of them once more")
    arrivals = day.moody.arrivals("/batched")
    contents = [_batch(one) for one in arrivals]
    failed, *taken = contents
    assert len(failed) == 10  # they were all there when the first one was sent
    assert [one.status for one in arrivals] == [500] + [204] * len(taken)
    assert Counter(itertools.chain(*taken)) == Counter(wanted)
    assert len(taken) < len(wanted) // 2
    assert day.attempts("batched") == {
        (1, "retryable", 500): 10,
        (1, "delivered", 204): 35,
        (2, "delivered", 204): 10,
    }


def _batch(arrival: Arrival) -> list[str]:
    """The deliveries in a batch that is as promised."""
    body = standardwebhooks.Webhook(SECRET).verify(arrival.body, arrival.headers)
    assert body == orjson.loads(arrival.body)
    events = body["events"]
    ids = [one["id"] for one in events]
    assert body == {"batch_id": arrival.id, "event_count": len(ids), "events": events}
    assert arrival.id == batch_id(ids)
    assert 0 < len(ids) <= 10
    for one in events:
        assert one == {"id": one["id"], "type": "batched", "timestamp": "2023-11-14T22:13:20.000Z", "data": {"n": 1}}
    return ids


def test_a_rate_limit_holds_whatever_waits(day: Day) -> None:
    sent_s = time.monotonic()
    for name in ("limited", "limited_wide"):
        day.send(name, named(name, 60))
    for name in ("limited", "limited_wide"):
        day.taken(name, 60)
        day.settled(name, {(1, "delivered", 204): 60})
    # So many tokens at most were there, and a burst: since they were sent, and between any two arrivals, as each POST
    # began after the one before had come. The burst is two, and two more if the worker had its partitions anew.
    for number, arrival in enumerate(day.moody.arrivals("/limited_wide")):
        assert number + 1 <= 4 + 20 * (arrival.at_s - sent_s), number
    times = [one.at_s for one in day.moody.arrivals("/limited")]
    for (first, start), (last, end) in itertools.combinations(enumerate(times), 2):
        assert last - first <= 4 + 20 * (end - start), (first, last)


def test_retry_after_closes_the_gate_of_the_endpoint(day: Day) -> None:
    for name in ("busy", "busy_until"):
        day.moody.turn(f"/{name}", Mood(status=429, retry_after_s=4, date=name == "busy_until", times=1))
        day.send(name, named(name, 40))
    for name in ("busy", "busy_until"):
        day.taken(name, 40)
        first, *others = day.moody.arrivals(f"/{name}")
        assert [first.status] + [one.status for one in others] == [429] + [204] * 40
        # No attempt is spent on those that wait with it.
        day.settled(name, {(1, "retryable", 429): 1, (1, "delivered", 204): 39, (2, "delivered", 204): 1})
        if name == "busy":
            assert min(one.at_s for one in others) >= first.at_s + 4
        else:
            assert min(one.at_ms for one in others) >= first.named_ms
