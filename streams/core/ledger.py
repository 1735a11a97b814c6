"""The ledger of one partition: which offsets are finished, and therefore what may be committed.

Offsets are opened in order when a frame is handed over, and finished in any order. What may be committed is the first
offset that is not finished: gaps left by compaction and transaction markers were never opened and need no care. The
offsets finished beyond that point travel in the commit's metadata, so that a restart does not do them again. What is
kept, and looked at for a commit, is what is not finished: that is little, while one delivery that hangs may have
hundreds of thousands finished behind it.

This file does not commit (`connectors/frames.py` or the publisher's transaction do), and knows no records.

Invariants, each held by a property test:
- `progress()[0]` never passes an offset that was opened and is not finished, and never goes back;
- the metadata fits into `METADATA_BYTES_MAX` whenever offsets are opened only while `full` is False;
- of the offsets that are opened, a ledger made from `progress()` reports exactly the finished ones as finished, also
  those that the ledger before it was told by metadata and had not opened yet. (Gaps between them may count as finished:
  nothing is there.)
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Iterable, Sequence

from streams.core.outstanding import NOWHERE, Outstanding

#: The broker's default `offset.metadata.max.bytes`.
METADATA_BYTES_MAX = 4_096

# Two encodings, the shorter wins: a bitmap of the span beyond the position, or the lengths of alternating runs. `full`
# keeps at least one of them within the limit whatever the pattern is, without encoding anything:
# a bitmap of SPAN_MAX offsets is 3,000 bytes, 4,000 in base64; PENDING_MAX holes make at most as many runs of each
# kind, of at most two bytes for lengths below 16,384, so 2,900 bytes with room for the few longer runs.
SPAN_MAX = 24_000
PENDING_MAX = 700
FRAME_RECORDS_MAX = 500  # a frame is opened whole, so `full` must turn True a frame early

_BITMAP = "b"
_RUNS = "r"


class Ledger:
    """Offsets of one partition in one assignment epoch. Implements `schemas.frame.OffsetLedger`."""

    __slots__ = ("_last", "_moved", "_open", "_position", "_restored", "_top", "_untouched", "live", "retiring")

    def __init__(self, position: int, metadata: str | None = None) -> None:
        """`position` is the committed offset, or where consumption starts; `metadata` as committed with it.

        Metadata that is not ours (another program's, or none) counts as empty: deliveries may then repeat, none is
        lost.
        """
        self._position = position
        self._top = position - 1  # nothing beyond was finished
        self._moved = False  # something was finished, and the position not looked at since
        self._open = Outstanding()
        self._last = position - 1  # the last opened offset
        self._restored = deque(_runs_of(position, metadata or ""))  # what of it ends beyond the last opened offset
        self._untouched = True  # nothing was opened yet
        self.live = True
        self.retiring = False

    def open(self, offsets: list[int]) -> list[int]:
        """Register ascending offsets; returns those that the committed metadata says are finished already."""
        if not offsets:
            return []
        if offsets[0] < self.position and self._untouched:
            # The log ends before the committed offset: it was truncated or made anew, and what stands there now is new.
            self._position = offsets[0]
            self._restored.clear()
        elif offsets[0] <= self._last:
            raise ValueError(f"offset {offsets[0]} was opened before (the last one is {self._last})")
        self._untouched = False
        self._last = offsets[-1]
        self._open.extend(offsets)
        if not self._restored:
            return []
        already = self._of_restored(offsets)
        if already:
            self.finish_all(already)
        return already

    def _of_restored(self, offsets: Sequence[int]) -> list[int]:
        """Those that are finished already; what they pass of the metadata is forgotten."""
        runs, found = self._restored, []
        for offset in offsets:
            while runs and runs[0].stop <= offset:
                runs.popleft()
            if runs and offset in runs[0]:
                found.append(offset)
        if runs and runs[0].stop <= self._last + 1:
            runs.popleft()
        return found

    def finish(self, offset: int) -> None:
        """Mark an opened offset as finished; a second time changes nothing."""
        self.finish_all((offset,))

    def finish_all(self, offsets: Sequence[int]) -> None:
        """Mark many."""
        self._open.discard_all(offsets)
        self._moved = True
        if (top := max(offsets, default=-1)) > self._top:
            self._top = min(top, self._last)

    def finished(self, offset: int) -> bool:
        """Whether nothing is left to do for an offset: it was finished, or never opened."""
        return offset not in self._open

    def unfinished(self) -> list[int]:
        """The opened offsets that are not finished, ascending."""
        return list(self._open)

    @property
    def restoring(self) -> bool:
        """True while records may come that committed metadata says are finished, or that stand before such."""
        return bool(self._restored)

    @property
    def position(self) -> int:
        """The next offset to commit: the first unfinished one, or after all that was opened. Never past what was not
        seen."""
        if self._moved:
            self._moved = False
            first = self._open.first
            self._position = first if first != NOWHERE else self._last + 1
        return self._position

    @property
    def pending(self) -> int:
        """Opened and not finished."""
        return len(self._open)

    @property
    def full(self) -> bool:
        """True when opening one more frame could make the metadata outgrow its limit."""
        if self._last - self.position + FRAME_RECORDS_MAX < SPAN_MAX:
            return False
        return self.pending + FRAME_RECORDS_MAX > PENDING_MAX

    def progress(self) -> tuple[int, str]:
        """(position, metadata): what to commit now."""
        return self.position, _encode(self.position, self._finished_runs())

    def _finished_runs(self) -> list[range]:
        """Beyond the position, ascending, none empty and none next to each other."""
        runs: list[range] = []
        before = None
        for offset in self._open:
            end = min(offset, self._top + 1)
            if before is not None and end > before + 1:
                runs.append(range(before + 1, end))
            before = offset
            if offset > self._top:  # and so are all that follow: most of what is open has not had its turn yet
                break
        if before is not None and before < self._top:
            runs.append(range(before + 1, self._top + 1))
        # What was finished before a restart and has not come by yet is still finished: a second restart must know.
        for run in self._restored:
            start = max(run.start, self._last + 1)
            if runs and runs[-1].stop == start:
                start = runs.pop().start
            runs.append(range(start, run.stop))
        return runs

    def retire(self) -> None:
        """The partition is about to be given up: take no more of its records, finish those under way."""
        self.retiring = True

    def close(self) -> None:
        """The partition was given up or lost."""
        self.live = False


def encode_finished(position: int, finished: Iterable[int]) -> str:
    """Text that names finished offsets from `position` on; empty for none."""
    runs: list[range] = []
    for offset in sorted(finished):
        start = runs.pop().start if runs and runs[-1].stop == offset else offset
        runs.append(range(start, offset + 1))
    return _encode(position, runs)


def _encode(position: int, runs: Sequence[range]) -> str:
    if not runs:
        return ""
    text = _shorter(position, runs)
    # `full` keeps this from happening but where a frame spans a long gap, as after a run of aborted transactions. What
    # does not fit is left out: those deliveries may repeat after a crash, none is lost.
    while len(text) > METADATA_BYTES_MAX:
        runs = runs[: len(runs) // 2]
        text = _shorter(position, runs)
    return text


def decode_finished(position: int, metadata: str) -> list[int]:
    """The offsets that `encode_finished` was given; nothing for text of any other origin."""
    return [offset for run in _runs_of(position, metadata) for offset in run]


def _shorter(position: int, runs: Sequence[range]) -> str:
    data = _as_runs(position, runs)
    size = (runs[-1].stop - 1 - position) // 8 + 1
    kind, data = (_BITMAP, _as_bitmap(position, runs, size)) if size < len(data) else (_RUNS, data)
    return kind + base64.b64encode(data).decode()


def _as_bitmap(position: int, runs: Sequence[range], size: int) -> bytes:
    """One bit for each offset from `position` on."""
    bits = 0
    for run in runs:
        bits |= (1 << len(run)) - 1 << run.start - position
    return bits.to_bytes(size, "little")


def _as_runs(position: int, runs: Sequence[range]) -> bytes:
    """Lengths as little-endian base-128: unfinished from `position`, finished, unfinished, finished, ..."""
    out = bytearray()
    at = position
    for run in runs:
        for length in (run.start - at, len(run)):
            rest = length
            while rest > 0x7F:
                out.append(rest & 0x7F | 0x80)
                rest >>= 7
            out.append(rest)
        at = run.stop
    return bytes(out)


#: Longer than any run of a ledger: text that claims more is not ours.
_RUN_MAX = 10_000_000


def _runs_of(position: int, metadata: str) -> list[range]:
    """The runs of finished offsets that metadata names, ascending; nothing for text of any other origin."""
    try:
        data = base64.b64decode(metadata[1:], validate=True)
    except ValueError:
        return []
    match metadata[:1]:
        case "r":
            return _runs_of_lengths(position, data)
        case "b":
            return _runs_of_bitmap(position, data)
        case _:
            return []


def _runs_of_bitmap(position: int, data: bytes) -> list[range]:
    runs: list[range] = []
    for index in range(len(data) * 8):
        if data[index >> 3] >> (index & 7) & 1:
            at = position + index
            start = runs.pop().start if runs and runs[-1].stop == at else at
            runs.append(range(start, at + 1))
    return runs


def _runs_of_lengths(position: int, data: bytes) -> list[range]:
    runs: list[range] = []
    at = position
    length = shift = 0
    finished = False
    for byte in data:
        length |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            continue
        if length > _RUN_MAX:
            return []
        if finished and length:
            runs.append(range(at, at + length))
        at += length
        length = shift = 0
        finished = not finished
    return runs
