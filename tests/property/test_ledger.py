"""The ledger's promises, on sequences of openings and finishings in any order, with gaps."""

from __future__ import annotations

import random

from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streams.core.ledger import (
    FRAME_RECORDS_MAX,
    METADATA_BYTES_MAX,
    PENDING_MAX,
    SPAN_MAX,
    Ledger,
    decode_finished,
    encode_finished,
)


class LedgerMachine(RuleBasedStateMachine):
    """A model: sets of opened and finished offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(100)
        self.opened: set[int] = set()
        self.finished: set[int] = set()
        self.next = 100
        self.position = 100

    @rule(gaps=st.lists(st.integers(0, 40), min_size=1, max_size=30))
    def open_frame(self, gaps: list[int]) -> None:
        offsets = []
        for gap in gaps:
            self.next += gap
            offsets.append(self.next)
            self.next += 1
        assert self.ledger.open(offsets) == []
        self.opened.update(offsets)

    @precondition(lambda self: self.opened - self.finished)
    @rule(data=st.data())
    def finish_one(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.opened - self.finished)))
        self.ledger.finish(offset)
        self.finished.add(offset)

    @precondition(lambda self: self.finished)
    @rule(data=st.data())
    def finish_again(self, data: st.DataObject) -> None:
        self.ledger.finish(data.draw(st.sampled_from(sorted(self.finished))))

    @rule()
    def finish_all(self) -> None:
        offsets = sorted(self.opened - self.finished)
        self.ledger.finish_all(offsets)
        self.finished.update(offsets)

    @invariant()
    def position_is_the_first_unfinished(self) -> None:
        position, _ = self.ledger.progress()
        unfinished = self.opened - self.finished
        if unfinished:
            assert position <= min(unfinished)
            assert not any(position <= offset < min(unfinished) for offset in self.opened)
        elif self.opened:
            assert position == max(self.opened) + 1
        assert position >= self.position  # never back
        self.position = position
        assert self.ledger.pending == len(unfinished)

    @invariant()
    def a_restart_knows_what_was_finished(self) -> None:
        position, metadata = self.ledger.progress()
        again = Ledger(position, metadata)
        offsets = sorted(offset for offset in self.opened if offset >= position)
        assert again.open(offsets) == sorted(offset for offset in self.finished if offset >= position)
        assert again.progress() == (position, metadata)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@given(st.integers(0, 2**62), st.sets(st.integers(1, 5_000), max_size=400))
@example(0, {1})
@example(7, set(range(1, 5_000, 2)))
def test_finished_offsets_survive_the_metadata(position: int, above: set[int]) -> None:
    finished = {position + offset for offset in above}
    text = encode_finished(position, finished)
    assert decode_finished(position, text) == sorted(finished)
    assert len(text) <= METADATA_BYTES_MAX


@given(
    st.sets(st.integers(0, 60), min_size=1), st.lists(st.integers(1, 20), max_size=8), st.randoms(use_true_random=False)
)
def test_a_second_restart_still_knows_what_the_first_was_told(
    finished: set[int], chunks: list[int], chooser: random.Random
) -> None:
    """Found by the simulation: a commit between a restart and the records' coming by forgot what was finished."""
    before = Ledger(0)
    before.open(list(range(61)))
    before.finish_all(sorted(finished))
    after = Ledger(*before.progress())
    at = after.position
    for chunk in chunks:
        offsets = list(range(at, min(at + chunk, 61)))
        at += len(offsets)
        already = after.open(offsets)
        assert already == [offset for offset in offsets if offset in finished]
        now = [offset for offset in offsets if offset not in finished and chooser.random() < 0.5]
        after.finish_all(now)
        finished = finished | set(now)
        position, metadata = after.progress()
        again = Ledger(position, metadata)
        assert again.open(list(range(position, 61))) == sorted(offset for offset in finished if offset >= position)


@given(st.text())
def test_foreign_metadata_counts_as_none(text: str) -> None:
    ledger = Ledger(5, text)
    ledger.open([5, 6])
    assert ledger.progress()[0] >= 5


def test_metadata_fits_whatever_the_pattern_while_not_full() -> None:
    """The worst patterns that `full` lets through: alternating bits over a long span, and the most holes over any
    span."""
    for seed in range(20):
        chooser = random.Random(seed)
        ledger = Ledger(0)
        at = 0
        while not ledger.full and at < 4 * SPAN_MAX:
            offsets = list(range(at, at + FRAME_RECORDS_MAX))
            at += FRAME_RECORDS_MAX
            ledger.open(offsets)
            part = chooser.choice((0.3, 0.5, 0.9, 0.99))
            ledger.finish_all([offset for offset in offsets[1:] if chooser.random() < part])
            _, metadata = ledger.progress()
            assert len(metadata) <= METADATA_BYTES_MAX
            # nothing was left out to make it fit
            assert len(decode_finished(ledger.position, metadata)) == at - ledger.position - ledger.pending


def test_one_stuck_record_lets_others_go_on_until_the_bound() -> None:
    ledger = Ledger(0)
    ledger.open([0])
    at = 1
    while not ledger.full:
        offsets = list(range(at, at + FRAME_RECORDS_MAX))
        at += FRAME_RECORDS_MAX
        ledger.open(offsets)
        ledger.finish_all(offsets)
        assert at < 2_000_000, "one unfinished record and one finished run must not fill the ledger"
        if at > 1_000_000:
            break
    assert ledger.progress()[0] == 0
    assert len(ledger.progress()[1]) < 20


def test_full_bounds_what_is_pending() -> None:
    ledger = Ledger(0)
    at = 0
    while not ledger.full:
        ledger.open(list(range(at, at + FRAME_RECORDS_MAX)))
        at += FRAME_RECORDS_MAX
    assert ledger.pending <= max(SPAN_MAX, PENDING_MAX + FRAME_RECORDS_MAX)


def test_a_long_gap_never_makes_metadata_too_long_to_commit() -> None:
    """Beyond the bound, facts are left out rather than the commit refused."""
    ledger = Ledger(0)
    offsets = list(range(0, 400_000, 100))
    ledger.open(offsets)
    ledger.finish_all(offsets[1::2])
    position, metadata = ledger.progress()
    assert position == 0
    assert len(metadata) <= METADATA_BYTES_MAX
    again = Ledger(position, metadata)
    kept = again.open(offsets)
    assert kept == offsets[1::2][: len(kept)]
    assert kept
