"""The audit's plan is the seed's, says what must be delivered in so many words, and draws every kind of fault."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import msgspec
import pytest

from schemas.subscription import checked
from streams.cli.audit import FULL, QUICK
from streams.cli.audit_faults import (
    BROKER_FAULTS,
    CLUSTER_FAULTS,
    CUTS,
    ENDPOINT_FAULTS,
    LIES,
    SECONDS,
    WORKER_FAULTS,
    WORKERS_MORE_MAX,
    Fault,
    kinds_for,
    schedule,
)
from streams.cli.audit_plan import COUNTS, SUFFERING, TENANTS, TYPES, Dice, Plan, number_in
from streams.cli.audit_run import acts
from streams.core.match import MatchIndex

SEEDS = range(20)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(7, 5_000)


# --- dice -------------------------------------------------------------------------------------------------------------


def test_dice_are_the_same_everywhere_and_differ_by_name() -> None:
    assert [Dice(1, "a").bits() for _ in range(2)] == [Dice(1, "a").bits()] * 2
    assert Dice(1, "a").bits() == 0x522185CC889334E9
    assert len({Dice(seed, name).bits() for seed in range(50) for name in "ab"}) == 100


def test_dice_are_fair() -> None:
    dice = Dice(5, "fair")
    assert set(Counter(dice.below(6) for _ in range(6_000)).values()) <= set(range(850, 1_150))
    drawn = [dice.between(2.0, 4.0) for _ in range(4_000)]
    assert 2.0 <= min(drawn) < 2.01
    assert 3.99 < max(drawn) < 4.0
    assert sum(drawn) / len(drawn) == pytest.approx(3.0, abs=0.05)
    assert sorted(dice.shuffled(range(9))) == list(range(9))
    assert len({tuple(dice.shuffled(range(9))) for _ in range(50)}) == 50


# --- deliveries -------------------------------------------------------------------------------------------------------


def test_a_seed_draws_the_same_plan_again(plan: Plan) -> None:
    again = Plan(7, 5_000)
    assert again.targets == plan.targets
    assert list(again) == list(plan)
    assert [again.event(n, 0) for n in range(again.events)] == [plan.event(n, 0) for n in range(plan.events)]
    assert list(Plan(8, 5_000)) != list(plan)


@pytest.mark.parametrize("seed", SEEDS)
def test_there_are_as_many_deliveries_as_asked_for_and_every_kind_has_some(seed: int) -> None:
    plan = Plan(seed, 5_000)
    assert 5_000 <= plan.deliveries < 5_000 + len(plan.targets)
    assert Counter(each.kind for each in plan.targets) == COUNTS
    assert {each.tenant for each in plan.targets} == set(TENANTS)
    assert {plan.targets[target].kind for _, target in plan} == set(COUNTS)


def test_numbers_of_deliveries_have_no_gaps_and_lead_back(plan: Plan) -> None:
    everything = list(plan)
    assert len(everything) == plan.deliveries
    for number, (n, target) in enumerate(everything):
        assert plan.delivery(target, n) == number
        assert plan.place(number) == (n, target)
        assert plan.named(plan.targets[target].id, plan.event(n, 0).id) == number


def test_what_is_expected_is_what_the_engine_matches(plan: Plan) -> None:
    index = MatchIndex()
    for target in plan.targets:
        index.put(target.subscription(1, 0, 10.0))
    for n in range(plan.events):
        event = plan.event(n, 0)
        matched = sorted(each.id for each in index.match(event.tenant, event.type))
        assert matched == [plan.targets[number].id for number in plan.receivers(n)]


def test_patterns_end_at_dots(plan: Plan) -> None:
    target = next(each for each in plan.targets if each.event_types == ("order.*",))
    assert target.asks_for("order.created")
    assert not target.asks_for("orders.created")
    assert not target.asks_for("order")
    exact = next(each for each in plan.targets if each.event_types == (TYPES[0],))
    assert not exact.asks_for(TYPES[0] + ".more")


def test_what_nobody_asked_for_has_no_number(plan: Plan) -> None:
    n, target = next(
        (n, each.number) for n in range(plan.events) for each in plan.targets if each.number not in plan.receivers(n)
    )
    assert plan.delivery(target, n) is None
    assert plan.delivery(0, plan.events) is None
    assert plan.delivery(0, -1) is None
    for subscription, event in [
        (plan.targets[target].id, f"evt_{n:07d}"),
        ("e999-steady", "evt_0000000"),
        ("e000-other", "evt_0000000"),
        ("mine", "evt_0000000"),
        (plan.targets[0].id, "mine"),
    ]:
        assert plan.named(subscription, event) is None


def test_events_carry_their_number_and_their_lane(plan: Plan) -> None:
    lanes: dict[int, tuple[str, str | None]] = {}
    for n in range(plan.events):
        event = plan.event(n, 5)
        assert number_in(b"\x00prefix" + event.data) == n
        assert lanes.setdefault(plan.lane(n), (event.tenant, event.subject)) == (event.tenant, event.subject)
    assert len(set(lanes.values())) == len(lanes) > 50


def test_subscriptions_are_valid_and_keep_up_with_what_they_are_sent(plan: Plan) -> None:
    rates = plan.rates(10.0)
    assert sum(rates) == pytest.approx(plan.deliveries / 10)
    for target, rate in zip(plan.targets, rates, strict=True):
        subscription = checked(target.subscription(8080, 1, rate))
        assert (subscription.rate_limit > rate) == (target.kind == "limited")
        assert subscription.ordered == (target.kind == "ordered")
        assert (subscription.batch_max > 1) == (target.kind == "batched")
        assert (subscription.state == "disabled") == (target.kind == "disabled")


# --- faults -----------------------------------------------------------------------------------------------------------


def drawn(seed: int, faults: int = 66, brokers: int = 1, workers: int = 3) -> list[Fault]:
    return schedule(seed, faults, 300.0, workers, brokers, Plan(seed, 500).targets)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("brokers", [1, 3])
def test_every_kind_comes_about_equally_often(seed: int, brokers: int) -> None:
    counts = Counter(fault.kind for fault in drawn(seed, brokers=brokers))
    assert set(counts) == set(kinds_for(brokers))
    assert counts.total() == 66
    assert max(counts.values()) - min(counts.values()) <= 1
    assert drawn(seed, brokers=brokers) == drawn(seed, brokers=brokers)


def test_both_parts_together_make_what_was_asked_for_and_every_kind_thrice() -> None:
    asked = msgspec.structs.replace(FULL, seed=5)
    parts = acts(asked)
    assert [part.brokers for part in parts] == [1, 3]
    assert sum(part.deliveries for part in parts) == asked.deliveries == 200_000
    assert sum(part.minutes for part in parts) == pytest.approx(asked.minutes)
    counts = Counter(fault.kind for part in parts for fault in drawn(5, part.faults, part.brokers))
    assert counts.total() == asked.faults
    assert set(counts) == {*WORKER_FAULTS, *CLUSTER_FAULTS, *ENDPOINT_FAULTS}
    assert min(counts.values()) >= 3
    assert acts(QUICK) == [QUICK]


def test_a_few_faults_are_of_different_kinds() -> None:
    faults = drawn(3, faults=10, brokers=1)
    assert len({fault.kind for fault in faults}) == len(faults) == 10
    assert {"leader_move", *BROKER_FAULTS}.isdisjoint(fault.kind for fault in drawn(3, brokers=1))


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_are_within_their_time_and_bounds(seed: int) -> None:
    faults = drawn(seed)
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)
    assert faults[0].at_s > 10
    assert faults[-1].at_s < 285
    for fault in faults:
        low, high = SECONDS[fault.kind]
        assert low <= fault.for_s <= high
        assert bool(fault.variant) == (fault.kind in ("cut_brokers", "endpoint_lie"))
    assert {fault.variant for fault in faults if fault.kind == "cut_brokers"} == set(CUTS)
    assert {fault.variant for fault in drawn(seed, 16, 3) if fault.kind == "cut_brokers"} == set(CUTS)
    assert {fault.variant for fault in faults if fault.kind == "endpoint_lie"} == set(LIES)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_there_are_always_workers_and_never_too_many(seed: int, workers: int) -> None:
    running = workers
    for fault in drawn(seed, workers=workers):
        running += (fault.kind == "worker_join") - (fault.kind == "worker_leave")
        assert max(1, workers - 1) <= running <= workers + WORKERS_MORE_MAX


@pytest.mark.parametrize("seed", SEEDS)
def test_leaders_move_back_after_a_broker_was_away(seed: int) -> None:
    of_cluster = [fault.kind for fault in drawn(seed, brokers=3)]
    assert set(of_cluster) == set(CLUSTER_FAULTS)
    assert "leader_move" in of_cluster
    for before, kind in pairwise(["", *of_cluster]):
        assert kind != "leader_move" or before in BROKER_FAULTS


@pytest.mark.parametrize("seed", SEEDS)
def test_troubles_come_to_endpoints_that_suffer_them_one_at_a_time(seed: int) -> None:
    targets = Plan(seed, 500).targets
    until: dict[int, float] = {}
    for fault in drawn(seed):
        if fault.kind in (*WORKER_FAULTS, *CLUSTER_FAULTS, "cut_receiver"):
            continue
        assert targets[fault.target].kind in SUFFERING
        assert until.get(fault.target, 0.0) < fault.at_s
        until[fault.target] = fault.at_s + fault.for_s
