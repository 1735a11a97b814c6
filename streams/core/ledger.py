"""The ledger of one partition: which offsets are finished, and therefore what may be committed.

Offsets are opened in order when a frame is handed over, and finished in any order. What may be committed is the first
offset that is not finished: gaps left by compaction and transaction markers were never opened and need no care. The
offsets finished beyond that point travel in the commit's metadata, so that a restart does not do them again.

This file does not commit (`connectors/frames.py` or the publisher's transaction do), and knows no records.

Invariants, each held by a property test:
- `progress()[0]` never passes an offset that was opened and is not finished, and never goes back;
- the metadata fits into `METADATA_BYTES_MAX` whenever offsets are opened only while `full` is False;
- a ledger made from `progress()` reports exactly the finished offsets beyond it as finished, also those that the ledger
  before it was told by metadata and had not opened yet.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import pairwise

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

    __slots__ = ("_done", "_last", "_opened", "_position", "_restored", "_untouched", "live", "retiring")

    def __init__(self, position: int, metadata: str | None = None) -> None:
        """`position` is the committed offset, or where consumption starts; `metadata` as committed with it.

        Metadata that is not ours (another program's, or none) counts as empty: deliveries may then repeat, none is
        lost.
        """
        self._position = position
        self._opened: deque[int] = deque()  # ascending; the head is never in _done
        self._done: set[int] = set()  # finished, and behind an unfinished head
        self._last = position - 1  # the last opened offset
        self._restored = frozenset(decode_finished(position, metadata or ""))
        self._untouched = True  # nothing was opened yet
        self.live = True
        self.retiring = False

    def open(self, offsets: list[int]) -> list[int]:
        """Register ascending offsets; returns those that the committed metadata says are finished already."""
        if not offsets:
            return []
        if offsets[0] < self._position and self._untouched:
            # The log ends before the committed offset: it was truncated or made anew, and what stands there now is new.
            self._position, self._restored = offsets[0], frozenset()
        elif offsets[0] <= self._last:
            raise ValueError(f"offset {offsets[0]} was opened before (the last one is {self._last})")
        self._untouched = False
        self._last = offsets[-1]
        self._opened.extend(offsets)
        if not self._restored:
            return []
        already = [offset for offset in offsets if offset in self._restored]
        for offset in already:
            self.finish(offset)
        if self._last >= max(self._restored):
            self._restored = frozenset()
        return already

    def finish(self, offset: int) -> None:
        """Mark an opened offset as finished; a second time changes nothing."""
        opened = self._opened
        if opened and offset == opened[0]:
            opened.popleft()
            done = self._done
            while opened and opened[0] in done:
                done.remove(opened.popleft())
            # Up to the next unfinished offset, or past all that was opened: never past what was not seen.
            self._position = opened[0] if opened else self._last + 1
        elif offset > self._position and offset <= self._last:
            self._done.add(offset)

    def finish_all(self, offsets: Sequence[int]) -> None:
        """Mark many; the common case, a whole frame at the head, costs no look at each."""
        opened = self._opened
        if opened and len(opened) == len(offsets) and opened[0] == offsets[0] and opened[-1] == offsets[-1]:
            opened.clear()
            self._done.clear()
            self._position = self._last + 1
            return
        for offset in offsets:
            self.finish(offset)

    def finished(self, offset: int) -> bool:
        """Whether nothing is left to do for an offset: it was finished, or never opened."""
        return offset < self._position or offset in self._done or offset > self._last

    def unfinished(self) -> list[int]:
        """The opened offsets that are not finished, ascending."""
        done = self._done
        return [offset for offset in self._opened if offset not in done]

    @property
    def restoring(self) -> bool:
        """True while records may come that committed metadata says are finished, or that stand before such."""
        return bool(self._restored)

    @property
    def position(self) -> int:
        """The next offset to commit."""
        return self._position

    @property
    def pending(self) -> int:
        """Opened and not finished."""
        return len(self._opened) - len(self._done)

    @property
    def full(self) -> bool:
        """True when opening one more frame could make the metadata outgrow its limit."""
        if self._last - self._position + FRAME_RECORDS_MAX < SPAN_MAX:
            return False
        return self.pending + FRAME_RECORDS_MAX > PENDING_MAX

    def progress(self) -> tuple[int, str]:
        """(position, metadata): what to commit now."""
        done: Iterable[int] = self._done
        if self._restored:
            # What was finished before a restart and has not come by yet is still finished: a second restart must know.
            done = (*done, *(offset for offset in self._restored if offset > self._last))
        return self._position, encode_finished(self._position, done)

    def retire(self) -> None:
        """The partition is about to be given up: take no more of its records, finish those under way."""
        self.retiring = True

    def close(self) -> None:
        """The partition was given up or lost."""
        self.live = False


def encode_finished(position: int, finished: Iterable[int]) -> str:
    """Text that names finished offsets above `position`; empty for none."""
    offsets = sorted(finished)
    if not offsets:
        return ""
    text = min(_as_runs(position, offsets), _as_bitmap(position, offsets), key=len)
    # `full` keeps this from happening but where a frame spans a long gap, as after a run of aborted transactions. What
    # does not fit is left out: those deliveries may repeat after a crash, none is lost.
    while len(text) > METADATA_BYTES_MAX:
        offsets = offsets[: len(offsets) // 2]
        text = min(_as_runs(position, offsets), _as_bitmap(position, offsets), key=len)
    return text


def decode_finished(position: int, metadata: str) -> list[int]:
    """The offsets that `encode_finished` was given; nothing for text of any other origin."""
    try:
        data = base64.b64decode(metadata[1:], validate=True)
    except ValueError:
        return []
    match metadata[:1]:
        case "r":
            return _offsets_of_runs(position, data)
        case "b":
            return [position + index for index in range(len(data) * 8) if data[index >> 3] >> (index & 7) & 1]
        case _:
            return []


def _as_bitmap(position: int, offsets: list[int]) -> str:
    """One bit for each offset from `position` on."""
    bits = bytearray((offsets[-1] - position) // 8 + 1)
    for offset in offsets:
        index = offset - position
        bits[index >> 3] |= 1 << (index & 7)
    return _BITMAP + base64.b64encode(bits).decode()


def _as_runs(position: int, offsets: list[int]) -> str:
    """Lengths as little-endian base-128: unfinished from `position`, finished, unfinished, finished, ..."""
    lengths = [offsets[0] - position]
    run = 1
    for before, offset in pairwise(offsets):
        if offset == before + 1:
            run += 1
        else:
            lengths += (run, offset - before - 1)
            run = 1
    lengths.append(run)
    out = bytearray()
    for length in lengths:
        rest = length
        while rest > 0x7F:
            out.append(rest & 0x7F | 0x80)
            rest >>= 7
        out.append(rest)
    return _RUNS + base64.b64encode(out).decode()


#: More than any ledger can have finished: text that claims more is not ours.
_FINISHED_MAX = 10_000_000


def _offsets_of_runs(position: int, data: bytes) -> list[int]:
    offsets: list[int] = []
    at = position
    length = shift = 0
    finished = False
    for byte in data:
        length |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            continue
        if length > _FINISHED_MAX or len(offsets) + length > _FINISHED_MAX:
            return []
        if finished:
            offsets.extend(range(at, at + length))
        at += length
        length = shift = 0
        finished = not finished
    return offsets
