"""A lane by itself: whose turn it is within it, what an ordering key waits for, and what leaves with a partition."""

from __future__ import annotations

from typing import Any

from connectors.memory import ManualClock, MemorySender
from schemas.delivery import decode_delivery
from streams.core.health import Health
from streams.core.ledger import Ledger
from streams.core.parked import Order, ParkedLog
from streams.lanes import KEY_AHEAD, Intake, Job, Lane
from streams.requests import Outgoing
from streams.tokens import Tokens
from tests.unit.dispatch_town import FIRST, fresh
from tests.unit.stages import TOPICS, as_it_is, subscription


def made(**fields: Any) -> Lane:
    one = subscription(**fields)
    sender = MemorySender(lambda posted: None)
    return Lane(one, Outgoing(one, sender, as_it_is, Tokens(sender, ManualClock())), Health(), 0)


STREAM = Intake(FIRST, 0, Ledger(0), 0)
LOG = Intake(TOPICS.parked, 0, ParkedLog(0), 0)


def job(number: int, key: str = "", *, intake: Intake = STREAM, offset: int = -1) -> Job:
    order = Order(key, number) if key else None
    return Job(decode_delivery(fresh(number)), intake, number if offset < 0 else offset, order)


def put(lane: Lane, one: Job) -> None:
    assert one.order is not None
    lane.put_ordered(one, one.order)


# --- shares -----------------------------------------------------------------------------------------------------------


def test_late_deliveries_take_turns_with_first_attempts() -> None:
    lane = made(max_in_flight=8)
    for number in range(3):
        lane.put(job(number))
        lane.put(job(10 + number, intake=LOG))
    taken = [lane.take() for _ in range(6)]
    assert [one.offset for one in taken if one is not None] == [0, 10, 1, 11, 2, 12]
    assert lane.take() is None


def test_late_deliveries_leave_places_to_first_attempts() -> None:
    lane = made(max_in_flight=8)
    lane.put(job(1, intake=LOG))
    lane.late_in_flight = lane.late_max
    assert lane.late_max == 6
    assert lane.turn() is None
    lane.put(job(2))
    assert lane.turn() is lane.fresh


# --- ordering keys ----------------------------------------------------------------------------------------------------


def test_one_of_a_key_is_on_its_way_at_a_time_in_the_order_of_numbers() -> None:
    lane = made(ordered=True)
    for number in (3, 1, 2):
        put(lane, job(number, "a"))
    sent = []
    while lane.keys:
        lane.advance("a", 0)
        if (one := lane.take()) is not None:
            assert lane.advance("a", 0).read == []
            assert lane.take() is None
            assert one.order is not None
            lane.ended(one.order, again=False)
            sent.append(one.order.number)
    assert sent == [1, 2, 3]


def test_what_is_written_to_the_log_is_waited_for() -> None:
    lane = made(ordered=True)
    put(lane, job(1, "a"))
    put(lane, job(2, "a"))
    lane.advance("a", 0)
    first = lane.take()
    assert first is not None
    assert first.order is not None
    lane.ended(first.order, again=True)
    assert lane.advance("a", 0).read == []
    assert lane.take() is None
    lane.add_ref(first.order, 70)
    assert lane.advance("a", 0).read == [70]
    assert lane.advance("a", 0).read == []  # asked once


def test_a_reference_is_known_once_however_often_it_is_put_back() -> None:
    lane = made(ordered=True)
    for _ in range(3):
        lane.add_ref(Order("a", 1), 70)
    put(lane, job(1, "a", intake=LOG, offset=70))
    assert lane.keys["a"].refs == []


def test_who_waits_for_a_time_is_reminded_once() -> None:
    lane = made(ordered=True)
    lane.add_ref(Order("a", 1, due_ms=5_000), 70)
    assert lane.advance("a", 1_000).due_ms == 5_000
    for offset in range(71, 200):
        lane.add_ref(Order("a", offset), offset)
        assert lane.advance("a", 1_000).due_ms == 0
    lane.rouse("a")
    assert lane.advance("a", 4_000).due_ms == 5_000  # the clock was set back
    lane.rouse("a")
    assert lane.advance("a", 5_000).read == list(range(70, 70 + KEY_AHEAD))


def test_what_comes_before_a_reference_in_memory_goes_first_and_what_comes_after_is_not_read() -> None:
    lane = made(ordered=True)
    lane.add_ref(Order("a", 5), 70)
    lane.add_ref(Order("a", 9), 71)
    put(lane, job(7, "a"))
    assert lane.advance("a", 0).read == [70]
    put(lane, job(1, "a"))
    lane.advance("a", 0)
    first = lane.take()
    assert first is not None
    assert first.offset == 1


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_flushing_lets_the_next_of_each_key_be_chosen_anew() -> None:
    lane = made(ordered=True)
    for number, key in enumerate("aab"):
        put(lane, job(number + 1, key))
    lane.advance("a", 0)
    lane.advance("b", 0)
    assert sorted(one.offset for one in lane.flush()) == [1, 2, 3]
    assert lane.held == 0
    assert all(queue.running < 0 for queue in lane.keys.values())


def test_a_partition_that_is_given_up_takes_all_of_its_own_and_nothing_else() -> None:
    other = Intake(FIRST, 1, Ledger(0), 0)
    lane = made()
    lane.put(job(1))
    lane.put(job(2, intake=other))
    lane.put(job(3, intake=LOG))
    assert sorted(one.offset for one in lane.forget([STREAM, LOG])) == [1, 3]
    assert [one.offset for one in lane.fresh] == [2]
    ordered = made(ordered=True)
    ordered.partition = 0
    put(ordered, job(1, "a"))
    ordered.add_ref(Order("b", 2), 70)
    ordered.key_queue("c").pipe.add(3)
    assert [one.offset for one in ordered.forget([STREAM, LOG])] == [1]
    assert (ordered.keys, ordered.partition, ordered.held) == ({}, -1, 0)
