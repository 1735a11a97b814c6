"""The ledger's edges, one by one."""

from __future__ import annotations

import pytest

from streams.core.ledger import Ledger


def test_gaps_are_passed_over() -> None:
    ledger = Ledger(10)
    ledger.open([10, 11, 15, 16])
    ledger.finish_all([10, 11])
    assert ledger.progress() == (15, "")
    ledger.finish_all([15, 16])
    assert ledger.progress() == (17, "")


def test_a_first_offset_beyond_the_committed_one_is_a_gap_too() -> None:
    """Retention or compaction removed what the committed offset points to."""
    ledger = Ledger(10)
    ledger.open([500])
    assert ledger.progress()[0] == 10
    ledger.finish(500)
    assert ledger.progress() == (501, "")


def test_opening_twice_is_an_error_and_changes_nothing() -> None:
    ledger = Ledger(0)
    ledger.open([0, 1])
    with pytest.raises(ValueError, match="offset 1 was opened before"):
        ledger.open([1, 2])
    assert ledger.pending == 2


def test_finishing_what_was_never_opened_changes_nothing() -> None:
    ledger = Ledger(5)
    ledger.finish(3)
    ledger.finish(9)
    assert ledger.progress() == (5, "")


def test_closing_ends_the_epoch() -> None:
    ledger = Ledger(0)
    assert ledger.live
    ledger.close()
    assert not ledger.live


def test_restored_offsets_are_reported_once_and_forgotten() -> None:
    before = Ledger(0)
    before.open([0, 1, 2, 3])
    before.finish_all([1, 3])
    ledger = Ledger(*before.progress())
    assert ledger.open([0, 1]) == [1]
    assert ledger.open([2, 3]) == [3]
    assert ledger.open([4]) == []
    ledger.finish_all([0, 2, 4])
    assert ledger.progress() == (5, "")


def test_a_log_that_ends_before_the_committed_offset_is_read_from_where_it_is() -> None:
    """The topic was made anew under a group that remembers the old one."""
    ledger = Ledger(100, metadata_with_one_beyond(100))
    assert ledger.open([0, 1]) == []
    ledger.finish_all([0, 1])
    assert ledger.progress() == (2, "")


def metadata_with_one_beyond(position: int) -> str:
    ledger = Ledger(position)
    ledger.open([position, position + 1])
    ledger.finish(position + 1)
    return ledger.progress()[1]
