"""The fair queue's promises for any weights, costs and order of calls."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streams.core.fair import FairQueue

COST_MAX = 9_000
QUANTUM = 1_000
costs = st.lists(st.integers(1, COST_MAX), min_size=1, max_size=5)


class Lane:
    """A flow whose items cost what is said, over and over. Counts how often it is looked at."""

    looks = 0

    def __init__(self, tenant: str, costs: list[int]) -> None:
        self.tenant = tenant
        self.costs = costs
        self.deficit = 0
        self.items = 0
        self.bytes = 0

    def head_cost(self) -> int:
        Lane.looks += 1
        return self.costs[self.items % len(self.costs)]

    def serve(self) -> None:
        self.bytes += self.head_cost()
        self.items += 1


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.one_of(st.none(), st.floats(0.05, 20)), st.lists(costs, min_size=1, max_size=4)),
        min_size=1,
        max_size=5,
    )
)
def test_bytes_follow_weights_for_tenants_and_are_equal_for_their_lanes(
    tenants: list[tuple[float | None, list[list[int]]]],
) -> None:
    weights = {f"t{number}": weight for number, (weight, _) in enumerate(tenants) if weight is not None}
    queue: FairQueue[Lane] = FairQueue(weights, QUANTUM)
    lanes = [Lane(f"t{number}", each) for number, (_, of_lanes) in enumerate(tenants) for each in of_lanes]
    for lane in lanes:
        queue.offer(lane)
    by_tenant = dict.fromkeys((lane.tenant for lane in lanes), 0.0)
    lightest = min(weights.get(tenant, 1.0) for tenant in by_tenant)
    for step in range(600):
        taken = queue.take()
        assert taken is not None
        before = taken.bytes
        taken.serve()
        by_tenant[taken.tenant] += (taken.bytes - before) / weights.get(taken.tenant, 1.0)
        queue.offer(taken)
        assert max(by_tenant.values()) - min(by_tenant.values()) <= 2 * QUANTUM + COST_MAX / lightest + 1e-3
        if step % 10 == 0:
            for tenant in by_tenant:
                of_tenant = [lane.bytes for lane in lanes if lane.tenant == tenant]
                assert max(of_tenant) - min(of_tenant) <= 2 * QUANTUM + COST_MAX


class QueueMachine(RuleBasedStateMachine):
    """A model: the set of queued flows."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[Lane] = FairQueue({"a": 0.01, "b": 3.0}, QUANTUM)
        self.idle: list[Lane] = []
        self.queued: list[Lane] = []
        self.passed: Counter[Lane] = Counter()

    @rule(tenant=st.sampled_from("abcd"), costs=costs)
    def come(self, tenant: str, costs: list[int]) -> None:
        lane = Lane(tenant, costs)
        self.queue.offer(lane)
        self.queued.append(lane)

    @precondition(lambda self: self.idle)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        lane = self.idle.pop(data.draw(st.integers(0, len(self.idle) - 1)))
        self.queue.offer(lane)
        self.queued.append(lane)

    @rule(again=st.booleans())
    def take(self, again: bool) -> None:
        Lane.looks = 0
        lane = self.queue.take()
        # Twice round: at each tenant, and in each at its flows, once to see who can pay and once for how many rounds.
        assert Lane.looks <= 8 * len(self.queued) + 8
        if lane is None:
            assert not self.queued
            return
        self.queued.remove(lane)
        lane.serve()
        if again:
            self.queue.offer(lane)
            self.queued.append(lane)
        else:
            self.idle.append(lane)

    @precondition(lambda self: self.queued or self.idle)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from(self.queued + self.idle))
        self.queue.discard(lane)
        if lane in self.queued:
            self.queued.remove(lane)
            self.idle.append(lane)

    @rule(tenants=st.sets(st.sampled_from("abcd")))
    def keep(self, tenants: set[str]) -> None:
        self.queue.keep(lambda lane: lane.tenant in tenants)
        self.idle += [lane for lane in self.queued if lane.tenant not in tenants]
        self.queued = [lane for lane in self.queued if lane.tenant in tenants]

    @invariant()
    def it_holds_what_was_offered(self) -> None:
        assert len(self.queue) == len(self.queued)
        assert bool(self.queue) == bool(self.queued)

    @invariant()
    def nobody_has_debts_or_savings(self) -> None:
        assert all(0 <= lane.deficit < COST_MAX + QUANTUM for lane in self.queued + self.idle)


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
