"""Opening a frame: its offsets in the ledger, and what was finished before a restart left out."""

from __future__ import annotations

import pytest

from schemas.frame import Frame
from streams.core.ledger import Ledger, encode_finished
from tests.unit.stages import Consumed


def frame(ledger: Ledger, *offsets: int) -> Frame:
    return Frame("t", 3, [Consumed(offset, b"v") for offset in offsets], ledger)


@pytest.mark.parametrize(
    ("finished", "left", "shown"),
    [
        ([], [5, 6, 9], "Frame(t[3] 5..9)"),
        ([6], [5, 9], "Frame(t[3] 5..9)"),
        ([5, 6, 9], [], "Frame(t[3] nothing)"),
    ],
)
def test_what_was_finished_before_a_restart_is_left_out(finished: list[int], left: list[int], shown: str) -> None:
    ledger = Ledger(5, encode_finished(5, finished))
    opened = frame(ledger, 5, 6, 9)
    assert opened.open() == finished
    assert [record.offset() for record in opened.records] == left
    assert repr(opened) == shown
    assert ledger.pending == len(left)


def test_a_frame_is_opened_once() -> None:
    opened = frame(Ledger(5), 5, 6)
    opened.open()
    with pytest.raises(ValueError, match="opened before"):
        opened.open()
