"""The demo's book-keeping: what Kafka says became of every delivery, held against what was expected and what arrived.

A delivery is settled when the attempts say that it was delivered or the dead letters have it. Nothing here is
measured by the engine about itself except those records; the receivers keep their own books. No I/O.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import msgspec

from connectors.receiver import Arrival
from streams.cli.demo_plan import Expected

#: How many differences are told; the rest is a number.
TOLD_MAX = 5


class Tally:
    """Reads the records of `attempts` and `deliveries.dead`."""

    def __init__(self, expected: Mapping[str, Expected]) -> None:
        self.expected = expected
        #: Expected deliveries that are not settled.
        self.left = len(expected)
        self.attempts: dict[str, list[tuple[int, str]]] = defaultdict(list)
        self.dead: Counter[str] = Counter()
        self.settled: set[str] = set()
        #: Settled deliveries by subscription, for the eye.
        self.by_target: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()

    def take_attempt(self, value: Mapping[str, Any]) -> None:
        """A record of `attempts`."""
        delivery, outcome = value["delivery_id"], value["outcome"]
        self.attempts[delivery].append((value["attempt"], outcome))
        if outcome == "retryable":
            self.retries[value["subscription_id"]] += 1
        if outcome == "delivered":
            self._settle(delivery, value["subscription_id"])

    def take_dead(self, value: Mapping[str, Any]) -> None:
        """A record of `deliveries.dead`."""
        delivery = value["delivery"]
        self.dead[delivery["id"]] += 1
        self._settle(delivery["id"], delivery["subscription_id"])

    def _settle(self, delivery: str, subscription: str) -> None:
        if delivery not in self.settled:
            self.settled.add(delivery)
            self.by_target[subscription] += 1
            self.left -= delivery in self.expected

    def delivered(self, delivery: str) -> bool:
        """Whether an attempt says so."""
        return any(outcome == "delivered" for _, outcome in self.attempts.get(delivery, ()))


class Result(msgspec.Struct, frozen=True):
    """The last line of the demo. Times: from an event's Kafka timestamp to its first POST at a healthy endpoint."""

    events: int
    deliveries: int
    delivered: int
    retried: int
    dead: int
    attempts: int
    lost: int
    invalid_signatures: int
    p50_ms: int | None
    p99_ms: int | None
    broker: str


def audit(
    tally: Tally,
    arrivals: Mapping[str, Mapping[str, Arrival]],
    event_times_ms: Mapping[str, int],
    broker: str,
) -> tuple[Result, list[str]]:
    """The result, and a sentence for everything that is not as it must be. `arrivals` are by path and webhook-id."""
    lost = [key for key, each in tally.expected.items() if _is_lost(tally, arrivals, key, each)]
    invalid = sum(arrival.invalid for hook in arrivals.values() for arrival in hook.values())
    latencies = sorted(
        arrivals[each.target.path][key].first_ms - event_times_ms[each.event_id]
        for key, each in tally.expected.items()
        if each.target.kind == "healthy" and key in arrivals[each.target.path] and each.event_id in event_times_ms
    )
    result = Result(
        events=len({each.event_id for each in tally.expected.values()}),
        deliveries=len(tally.expected),
        delivered=sum(tally.delivered(key) for key in tally.expected),
        retried=sum(len(tally.attempts.get(key, ())) > 1 for key in tally.expected),
        dead=sum(key in tally.dead for key in tally.expected),
        attempts=sum(len(made) for made in tally.attempts.values()),
        lost=len(lost),
        invalid_signatures=invalid,
        p50_ms=percentile(latencies, 0.50),
        p99_ms=percentile(latencies, 0.99),
        broker=broker,
    )
    problems = [f"{_name(tally, key)} is lost" for key in lost]
    if invalid:
        problems.append(f"{invalid} POSTs were badly signed")
    problems += _differences(tally, arrivals)
    if len(problems) > TOLD_MAX:
        problems[TOLD_MAX:] = [f"and {len(problems) - TOLD_MAX} more like these"]
    return result, problems


def _is_lost(tally: Tally, arrivals: Mapping[str, Mapping[str, Arrival]], key: str, each: Expected) -> bool:
    """Neither dead nor delivered; or delivered according to Kafka, and the receiver knows nothing of it."""
    if key in tally.dead:
        return False
    arrival = arrivals.get(each.target.path, {}).get(key)
    return not (tally.delivered(key) and arrival is not None and arrival.accepted)


def _differences(tally: Tally, arrivals: Mapping[str, Mapping[str, Arrival]]) -> list[str]:
    problems = []
    for key, each in tally.expected.items():
        made = [number for number, _ in sorted(tally.attempts.get(key, ()))]
        ended = {"delivered": tally.delivered(key), "dead": key in tally.dead}
        if key in tally.settled and (not ended.pop(each.target.ends) or any(ended.values())):
            problems.append(f"{_name(tally, key)} should have ended as {each.target.ends}, and did not")
        elif key in tally.settled and made != list(range(1, each.target.attempts + 1)):
            problems.append(f"{_name(tally, key)} took the attempts {made}, not 1 to {each.target.attempts}")
        arrival = arrivals.get(each.target.path, {}).get(key)
        if arrival is not None and arrival.posts != len(made):
            problems.append(f"{_name(tally, key)} has {len(made)} attempts in Kafka and {arrival.posts} POSTs received")
    problems += [f"{key} has {count} dead letters" for key, count in tally.dead.items() if count > 1]
    known = {key: each.target.path for key, each in tally.expected.items()}
    problems += [
        f"{key or 'a POST without webhook-id'} arrived at {path} and was not expected there"
        for path, hook in arrivals.items()
        for key in hook
        if known.get(key) != path
    ]
    return problems + [
        f"{key} was attempted and was not expected"
        for key in (tally.attempts.keys() | tally.dead.keys()) - known.keys()
    ]


def _name(tally: Tally, key: str) -> str:
    each = tally.expected[key]
    return f"the delivery of {each.event_id} to {each.target.id} ({key})"


def percentile(ascending: list[int], part: float) -> int | None:
    """The smallest value that at least this part of all does not exceed; None of nothing."""
    if not ascending:
        return None
    return ascending[max(0, math.ceil(len(ascending) * part) - 1)]
