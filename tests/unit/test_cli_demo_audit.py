"""The demo's audit: nothing is wrong with a run that went well, and every way of going wrong is told."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.receiver import Arrival
from schemas.subscription import Subscription
from streams.cli.demo_audit import TOLD_MAX, Result, Tally, audit, percentile
from streams.cli.demo_plan import TARGETS, TYPES, event, expected
from streams.core.match import MatchIndex

EVENTS = [event(n, 1_000) for n in range(6)]
TIMES = {each.id: 1_000 + n for n, each in enumerate(EVENTS)}


class Run:
    """What Kafka and the receivers have after a run that went well; tests then spoil it."""

    def __init__(self) -> None:
        self.expected = expected([(each.id, each.type) for each in EVENTS])
        self.attempts: list[dict[str, Any]] = []
        self.dead: list[dict[str, Any]] = []
        self.arrivals: dict[str, dict[str, Arrival]] = {
            target.path: {} for target in TARGETS if target.kind != "refused"
        }
        for key, each in self.expected.items():
            last = {"delivered": "delivered", "dead": "exhausted"}[each.target.ends]
            outcomes = ["retryable"] * (each.target.attempts - 1) + [last]
            self.attempts += [
                {"delivery_id": key, "subscription_id": each.target.id, "attempt": n, "outcome": outcome}
                for n, outcome in enumerate(outcomes, 1)
            ]
            if each.target.ends == "dead":
                self.dead.append({"delivery": {"id": key, "subscription_id": each.target.id}})
            if each.target.kind != "refused":
                accepted = int(each.target.ends == "delivered")
                arrival = Arrival(TIMES[each.event_id] + 10, posts=each.target.attempts, accepted=accepted)
                self.arrivals[each.target.path][key] = arrival

    def key(self, kind: str) -> str:
        """A delivery to an endpoint of this kind."""
        return next(key for key, each in self.expected.items() if each.target.kind == kind)

    def audit(self) -> tuple[Result, list[str]]:
        tally = Tally(self.expected)
        for value in self.attempts:
            tally.take_attempt(value)
        for value in self.dead:
            tally.take_dead(value)
        return audit(tally, self.arrivals, TIMES, "here")

    def without_attempts(self, key: str) -> None:
        self.attempts = [value for value in self.attempts if value["delivery_id"] != key]


def test_a_run_that_went_well() -> None:
    result, problems = Run().audit()
    assert problems == []
    assert (result.events, result.deliveries, result.lost, result.invalid_signatures) == (6, 24, 0, 0)
    assert result.deliveries == result.delivered + result.dead
    assert (result.delivered, result.dead, result.retried, result.attempts) == (18, 6, 12, 48)
    assert (result.p50_ms, result.p99_ms, result.broker) == (10, 10, "here")


def test_what_must_be_received_is_what_the_patterns_match() -> None:
    """The plan is written by hand; this holds it to the engine's matching, so that each checks the other."""
    index = MatchIndex()
    for target in TARGETS:
        index.put(
            Subscription(id=target.id, tenant=target.tenant, url="https://a.example", event_types=target.event_types)
        )
    for kind in TYPES:
        assert {each.id for each in index.match("demo", kind)} == {each.id for each in TARGETS if kind in each.receives}


def test_a_delivery_that_is_nowhere_is_lost() -> None:
    run = Run()
    run.without_attempts(run.key("healthy"))
    result, problems = run.audit()
    assert (result.lost, result.delivered) == (1, 17)
    assert "is lost" in problems[0]


def test_a_delivery_that_never_arrived_is_lost_whatever_kafka_says() -> None:
    run = Run()
    del run.arrivals["/healthy-everything"][run.key("healthy")]
    result, problems = run.audit()
    assert result.lost == 1
    assert "is lost" in problems[0]


def test_a_bad_signature_is_told() -> None:
    run = Run()
    run.arrivals["/flaky-everything"][run.key("flaky")].invalid = 2
    result, problems = run.audit()
    assert result.invalid_signatures == 2
    assert problems == ["2 POSTs were badly signed"]


def test_a_delivery_that_ended_the_wrong_way() -> None:
    run = Run()
    run.dead.append({"delivery": {"id": run.key("healthy"), "subscription_id": "healthy-everything"}})
    _, problems = run.audit()
    assert "should have ended as delivered" in problems[0]


def test_an_attempt_count_that_began_anew() -> None:
    run = Run()
    key = run.key("flaky")
    run.attempts = [value | ({"attempt": 1} if value["delivery_id"] == key else {}) for value in run.attempts]
    _, problems = run.audit()
    assert "took the attempts [1, 1, 1], not 1 to 3" in problems[0]


def test_a_post_that_kafka_knows_nothing_of() -> None:
    run = Run()
    run.arrivals["/healthy-everything"][run.key("healthy")].posts = 2
    _, problems = run.audit()
    assert "has 1 attempts in Kafka and 2 POSTs received" in problems[0]


def test_two_dead_letters_of_one_delivery() -> None:
    run = Run()
    run.dead.append(run.dead[0])
    _, problems = run.audit()
    assert problems == [f"{run.dead[0]['delivery']['id']} has 2 dead letters"]


@pytest.mark.parametrize("path", ["/healthy-of-another-tenant", "/dead-orders"])
def test_what_arrives_where_it_should_not(path: str) -> None:
    run = Run()
    key = run.key("healthy")
    run.arrivals[path][key] = Arrival(1)
    _, problems = run.audit()
    assert problems == [f"{key} arrived at {path} and was not expected there"]


def test_an_attempt_of_nobody() -> None:
    run = Run()
    run.attempts.append({"delivery_id": "dlv_x", "subscription_id": "x", "attempt": 1, "outcome": "delivered"})
    _, problems = run.audit()
    assert problems == ["dlv_x was attempted and was not expected"]


def test_many_problems_are_cut() -> None:
    run = Run()
    run.attempts.clear()
    result, problems = run.audit()
    assert result.lost == 18
    assert len(problems) == TOLD_MAX + 1
    assert problems[-1].startswith("and ")


def test_nothing_arrived_has_no_latency() -> None:
    run = Run()
    for hook in run.arrivals.values():
        hook.clear()
    result, _ = run.audit()
    assert (result.p50_ms, result.p99_ms) == (None, None)


def test_percentiles() -> None:
    hundred = list(range(1, 101))
    assert [percentile(hundred, part) for part in (0.5, 0.99, 1.0, 0.001)] == [50, 99, 100, 1]
    assert percentile([7], 0.5) == 7
    assert percentile([], 0.5) is None
