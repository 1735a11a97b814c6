"""Turns of the fair queue, one by one."""

from __future__ import annotations

from collections import Counter

import pytest

from streams.core import fair
from streams.core.fair import WEIGHT_MAX, WEIGHT_MIN, FairQueue

QUANTUM = 4_000


class Lane:
    """A flow whose items all cost the same."""

    def __init__(self, name: str, tenant: str = "t", cost: int = 1_000) -> None:
        self.name = name
        self.tenant = tenant
        self.cost = cost
        self.deficit = 0
        self.looks = 0

    def head_cost(self) -> int:
        self.looks += 1
        return self.cost


def queue_of(*lanes: Lane, weights: dict[str, float] | None = None) -> FairQueue[Lane]:
    queue: FairQueue[Lane] = FairQueue(weights or {}, QUANTUM)
    for lane in lanes:
        queue.offer(lane)
    return queue


def served(queue: FairQueue[Lane], items: int) -> list[str]:
    """The names of flows as they serve, each offered again at once."""
    names = []
    for _ in range(items):
        lane = queue.take()
        assert lane is not None
        names.append(lane.name)
        queue.offer(lane)
    return names


def test_nothing_to_serve() -> None:
    queue = queue_of()
    assert queue.take() is None
    assert not queue
    assert len(queue) == 0


def test_one_lane_is_served_on_and_on() -> None:
    queue = queue_of(Lane("a", cost=10 * QUANTUM))
    assert served(queue, 3) == ["a"] * 3
    assert len(queue) == 1
    assert queue


@pytest.mark.parametrize("tenants", ["tt", "tu"])
def test_turns_are_a_quantum_long(tenants: str) -> None:
    """Of two lanes of one tenant, and of two tenants with a lane each."""
    queue = queue_of(Lane("a", tenants[0]), Lane("b", tenants[1], cost=2_000))
    assert served(queue, 12) == [*"aaaabb", *"aaaabb"]


@pytest.mark.parametrize("tenants", ["tt", "tu"])
def test_who_does_not_come_back_at_once_has_ended_its_turn(tenants: str) -> None:
    a, b = Lane("a", tenants[0]), Lane("b", tenants[1])
    queue = queue_of(a, b)
    assert queue.take() is a
    assert queue.take() is b
    queue.offer(a)
    queue.offer(b)
    assert served(queue, 9) == [*"bbbbaaaab"], "b was taken last, so its turn goes on"


def test_large_items_wait_until_their_deficit_pays_for_them() -> None:
    queue = queue_of(Lane("small", "t"), Lane("large", "u", cost=3 * QUANTUM))
    count = Counter(served(queue, 130))
    assert count == {"small": 120, "large": 10}


@pytest.mark.parametrize("tenants", ["tt", "tu"])
def test_who_can_just_pay_goes_before_who_cannot(tenants: str) -> None:
    queue = queue_of(Lane("a", tenants[0], 2 * QUANTUM), Lane("b", tenants[1], QUANTUM))
    assert served(queue, 6) == [*"babbab"]


@pytest.mark.parametrize("tenants", ["tt", "tu"])
def test_when_nobody_can_pay_rounds_are_gone_through_at_once(tenants: str) -> None:
    lanes = [Lane("a", tenants[0], 10**9), Lane("b", tenants[1], 10**9 + 2 * QUANTUM)]
    queue = queue_of(*lanes)
    assert served(queue, 4) == [*"abab"]
    assert sum(lane.looks for lane in lanes) < 60


def test_tenants_share_by_weight_and_their_lanes_equally() -> None:
    lanes = [Lane("a1", "a"), Lane("a2", "a"), Lane("b1", "b"), Lane("c1", "c"), Lane("c2", "c"), Lane("c3", "c")]
    queue = queue_of(*lanes, weights={"a": 2.0, "b": 0.5})
    count = Counter(served(queue, 3_500))
    assert sum(count[name] for name in ("a1", "a2")) == pytest.approx(2_000, abs=10)
    assert count["a1"] == pytest.approx(count["a2"], abs=10)
    assert count["b1"] == pytest.approx(500, abs=10)
    assert [count[name] for name in ("c1", "c2", "c3")] == pytest.approx([1_000 / 3] * 3, abs=10)


def test_a_lane_does_not_save_up_while_it_has_nothing_to_serve() -> None:
    busy, idle = Lane("busy"), Lane("idle")
    queue = queue_of(busy, idle)
    served(queue, 5)
    while (lane := queue.take()) is not idle:
        assert lane is not None
        queue.offer(lane)
    served(queue, 1_000)
    queue.offer(idle)
    names = served(queue, 100)
    assert names.count("idle") == pytest.approx(50, abs=4)
    assert "idle" * 5 not in "".join(names)


def test_a_newcomer_waits_for_one_turn_of_each_at_most() -> None:
    queue = queue_of(*(Lane("old", tenant) for tenant in "abcdefgh"))
    served(queue, 13)
    queue.offer(Lane("new", "z"))
    assert served(queue, 8 * 4 + 1).count("new") >= 1


def test_what_was_discarded_is_not_served() -> None:
    a, b, c = Lane("a"), Lane("b"), Lane("c", "u")
    queue = queue_of(a, b, c)
    queue.discard(a)
    queue.discard(a)
    queue.discard(Lane("stranger", "nobody"))
    assert len(queue) == 2
    queue.discard(b)
    assert served(queue, 3) == [*"ccc"]
    queue.discard(c)
    assert queue.take() is None


def test_keep_leaves_the_others_in_their_order() -> None:
    lanes = [Lane(name, tenant) for name, tenant in ("at", "bt", "cu", "dt", "eu", "fv")]
    queue = queue_of(*lanes)
    queue.keep(lambda lane: lane.name in "ade")
    assert len(queue) == 3
    assert {lane.name for lane in iter(queue.take, None)} == {*"ade"}


def test_a_discarded_lane_comes_back_without_its_turn() -> None:
    a, b = Lane("a"), Lane("b")
    queue = queue_of(a, b)
    assert queue.take() is a
    queue.discard(a)
    queue.offer(a)
    assert queue.take() is b


def test_few_tenants_without_work_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair, "TENANTS_KEPT_MAX", 10)
    queue = queue_of(*(Lane(f"{number}", f"{number}") for number in range(50)))
    while queue:
        queue.take()
    assert queue.take() is None
    assert len(queue._tenants) == 10
    queue.offer(Lane("again", "49"))
    assert served(queue, 1) == ["again"]


@pytest.mark.parametrize("weight", [0.0, -1.0, WEIGHT_MIN / 2, WEIGHT_MAX * 2, float("inf"), float("nan")])
def test_weights_that_make_no_sense_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="tenant 'acme'"):
        FairQueue({"acme": weight})


def test_the_least_and_the_most_are_taken() -> None:
    queue: FairQueue[Lane] = FairQueue({"light": WEIGHT_MIN, "heavy": WEIGHT_MAX}, quantum=1)
    for lane in (Lane("light", "light", 1), Lane("heavy", "heavy", 1)):
        queue.offer(lane)
    assert set(served(queue, 2_000)) == {"heavy"}


def test_a_quantum_must_be_positive() -> None:
    with pytest.raises(ValueError, match="quantum"):
        FairQueue({}, 0)
