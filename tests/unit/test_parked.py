"""The index of parked deliveries, by example: what a restart finds, what may be committed, what foreign records do."""

from __future__ import annotations

import pytest

from schemas.frame import Headers
from streams.core.outstanding import Outstanding
from streams.core.parked import (
    FINISHED,
    FLOOR,
    ORDER,
    Lot,
    Order,
    ParkedLog,
    finished_by,
    finished_headers,
    order_of,
)


def taken(log: ParkedLog, name: str, *offsets: int, timestamp_ms: int = 0) -> Lot:
    lot = log.lots[name]
    for offset in offsets:
        log.take(name, lot, offset, timestamp_ms)
    return lot


def ordered(log: ParkedLog, name: str, *offsets: int) -> Lot:
    for offset in offsets:
        log.saw_ordered(offset, name, 1_000 + offset)
    return log.lots[name]


# --- what may be committed --------------------------------------------------------------------------------------------


def test_the_position_is_the_first_unfinished_record_of_anybody() -> None:
    log = ParkedLog(10)
    for offset, name in ((10, "a"), (11, "b"), (12, "a"), (14, "b")):
        log.saw(offset, name, offset)
    assert log.progress() == (10, "")
    taken(log, "b", 11, 14)
    log.finish_all([11, 14])
    assert log.progress() == (10, "")
    assert list(log.lots) == ["a"]
    taken(log, "a", 10, 12)
    log.finish(12)
    assert log.progress() == (10, "")
    log.finish(10)
    assert log.progress() == (15, "")
    assert log.lots == {}


def test_an_empty_log_is_committed_where_it_was_seen_to() -> None:
    log = ParkedLog(3)
    assert log.progress() == (3, "")
    log.saw_nothing(7)
    assert log.progress() == (8, "")


def test_what_is_put_back_holds_the_position_and_is_read_again() -> None:
    log = ParkedLog(0)
    for offset in range(3):
        log.saw(offset, "a", 0)
    lot = taken(log, "a", 0, 1, 2)
    log.finish(1)
    log.put_back(0)
    log.put_back(2)
    assert log.progress() == (0, "")
    assert lot.start_from(0) == 0
    assert lot.start_from(1) == 2
    assert log.pending == 0
    taken(log, "a", 0)
    log.finish(0)
    assert log.progress() == (2, "")


def test_a_topic_that_was_made_anew_begins_where_its_records_are() -> None:
    log = ParkedLog(1_000)
    log.saw(3, "a", 0)
    assert log.progress() == (3, "")
    assert log.lots["a"].start_from(0) == 3


def test_many_lots_do_not_make_the_position_pass_an_unfinished_one() -> None:
    """With many, the first one is not looked for at every transaction."""
    log = ParkedLog(0)
    for offset in range(1_000):
        log.saw(offset, f"s{offset}", 0)
    for offset in range(1_000):
        assert log.progress()[0] <= offset
        taken(log, f"s{offset}", offset)
        log.finish(offset)
    assert log.progress() == (1_000, "")


def test_a_second_finish_changes_nothing() -> None:
    log = ParkedLog(0)
    log.saw(0, "a", 0)
    log.saw(1, "a", 0)
    taken(log, "a", 0)
    log.finish(0)
    log.finish(0)
    assert log.progress() == (1, "")


# --- what a restart finds ---------------------------------------------------------------------------------------------


def test_what_was_finished_before_a_restart_is_known_from_the_markers() -> None:
    log = ParkedLog(0)
    for offset in range(5):
        log.saw(offset, "a", 0)
    assert log.saw_finished(5, "a", 3, 0) is False
    assert log.lots["a"].done == {3}
    log.saw_finished(6, "a", 0, 1)
    lot = log.lots["a"]
    assert (lot.cursor, lot.start_from(0)) == (1, 1)
    assert log.progress() == (1, "")


def test_the_last_marker_s_floor_says_that_nothing_is_left() -> None:
    log = ParkedLog(0)
    for offset in range(3):
        log.saw(offset, "a", 0)
    for offset, (finished, floor) in enumerate([(1, 0), (0, 2), (2, 3)], start=3):
        log.saw_finished(offset, "a", finished, floor)
    assert log.lots == {}
    assert log.progress() == (6, "")


def test_markers_of_records_before_the_committed_position_say_nothing() -> None:
    log = ParkedLog(10)
    assert log.saw_finished(10, "a", 2, 3) is False
    log.saw(11, "a", 0)
    log.saw_finished(12, "a", 5, 6)
    assert log.lots["a"].start_from(0) == 11
    assert log.lots["a"].done == set()
    assert log.progress() == (11, "")


def test_an_ordered_record_finished_before_a_restart_is_news() -> None:
    log = ParkedLog(0)
    lot = ordered(log, "a", 0, 1, 2)
    assert log.saw_finished(3, "a", 1, 0) is True
    assert log.saw_finished(4, "a", 1, 0) is False
    assert lot.floor == 0
    assert log.saw_finished(5, "a", 0, 0) is True
    assert log.progress() == (2, "")
    assert log.saw_finished(6, "a", 2, 0) is True
    assert log.lots == {}
    assert log.progress() == (7, "")


def test_a_marker_s_floor_is_the_first_unfinished_record_without_the_one_it_finishes() -> None:
    log = ParkedLog(0)
    for offset in range(4):
        log.saw(offset, "a", 0)
    taken(log, "a", 0, 1)
    assert log.floor_without(0) == 1
    assert log.floor_without(1) == 0
    log.put_back(1)
    assert log.floor_without(0) == 1
    log.finish(0)
    taken(log, "a", 1, 2, 3)
    assert log.floor_without(1) == 2


# --- plain and ordered records of one subscription: it was changed ----------------------------------------------------


def test_finishing_a_plain_record_does_not_count_as_an_ordered_one() -> None:
    log = ParkedLog(0)
    ordered(log, "a", 0)
    log.saw(1, "a", 0)
    ordered(log, "a", 2)
    lot = log.lots["a"]
    taken(log, "a", 1)
    log.finish(1)
    log.saw_finished(3, "a", 1, 0)
    lot.wanted.add(0)
    taken(log, "a", 0)
    log.finish(0)
    log.saw_finished(4, "a", 0, 0)
    assert log.lots["a"] is lot
    assert log.progress() == (2, "")


def test_its_own_markers_cost_a_lot_of_ordered_records_nothing() -> None:
    log = ParkedLog(0)
    lot = ordered(log, "a", 0)
    for offset in range(1, 10_000, 2):
        ordered(log, "a", offset)
        lot.wanted.add(offset)
        taken(log, "a", offset)
        log.finish(offset)
        assert log.saw_finished(offset + 1, "a", offset, log.lots["a"].floor) is False
    assert lot.done == set()
    assert log.progress() == (0, "")


# --- how long something waits -----------------------------------------------------------------------------------------


def test_the_time_of_the_oldest_record_is_kept_while_it_waits() -> None:
    log = ParkedLog(0)
    log.saw(0, "a", 1_000)
    lot = taken(log, "a", 0, timestamp_ms=1_000)
    log.put_back(0)
    log.saw(1, "a", 500_000)
    assert lot.since_ms == 1_000
    taken(log, "a", 0)
    log.finish(0)
    taken(log, "a", 1)
    log.finish(1)
    assert log.saw(2, "a", 900_000).since_ms == 900_000


# --- headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [Order("", 0), Order("o/1", 7, 1_700_000_000_000), Order("a b  c\n€", 1 << 40, 5)])
def test_an_order_travels_in_a_header(order: Order) -> None:
    assert order_of([("traceparent", b"1"), order.header()]) == order


@pytest.mark.parametrize(
    "headers",
    [
        None,
        [],
        [(ORDER, None)],
        [(ORDER, b"")],
        [(ORDER, b"1 2")],
        [(ORDER, b"x 2 key")],
        [(ORDER, b"1 y key")],
        [(ORDER, b"-1 0 key")],
        [(ORDER, b"1 2 \xff")],
        [("another", b"1 2 key")],
    ],
)
def test_what_is_no_order_of_ours_is_none(headers: Headers | None) -> None:
    assert order_of(headers) is None


def test_a_marker_travels_in_headers() -> None:
    assert finished_by(finished_headers(17, 4)) == (17, 4)
    assert finished_by([(FINISHED, b"17")]) == (17, 0)


@pytest.mark.parametrize(
    "headers", [None, [], [(FLOOR, b"3")], [(FINISHED, b"x")], [(FINISHED, None)], [(FINISHED, b"1"), (FLOOR, b"\xff")]]
)
def test_what_is_no_marker_of_ours_is_none(headers: Headers | None) -> None:
    assert finished_by(headers) is None


# --- offsets that are outstanding -------------------------------------------------------------------------------------


def test_one_old_offset_does_not_keep_all_that_came_after_it() -> None:
    outstanding = Outstanding()
    outstanding.add(0)
    for offset in range(1, 10_000):
        outstanding.add(offset)
        outstanding.discard(offset)
        assert len(outstanding._line) <= 70
    assert (outstanding.first, len(outstanding), list(outstanding)) == (0, 1, [0])
    outstanding.discard(0)
    outstanding.discard(0)
    assert (outstanding.first, len(outstanding), list(outstanding)) == (1 << 62, 0, [])


def test_a_lot_whose_order_counts_no_more_is_read_a_few_at_a_time() -> None:
    log = ParkedLog(0)
    lot = ordered(log, "a", *range(1_000))
    lot.loose = True
    read = []
    while (offset := lot.start_from(0)) < 1_000:
        assert 0 < len(lot.wanted) <= 256
        taken(log, "a", offset)
        read.append(offset)
        if offset % 2:
            log.finish(offset)
    assert read == list(range(1_000))
    assert lot.loose is False
