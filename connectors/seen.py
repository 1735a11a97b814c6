"""Which events and requests were published within the last hours: what makes a repetition one.

`SeenWindow` is the memory, `SeenTable` fills it from `ingest.seen`, where every process that publishes writes what it
has seen in the transaction of the events. A mark is forgotten when it is older than the window, or when so many have
come since that the memory is full; then an eighth of the memory goes at once, the oldest. This file decides nothing
about a repetition (`connectors/ingest.py` does).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from connectors.compacted import Follower
from schemas.errors import UndecodableError
from schemas.seen import Seen, decode_seen

log = logging.getLogger(__name__)

GENERATIONS = 8
_MARK_BYTES = 16


def mark_of(key: bytes) -> bytes:
    """A key in memory: 128 bits of BLAKE2b of it."""
    return blake2b(key, digest_size=_MARK_BYTES).digest()


class Known(NamedTuple):
    """What a mark stands for."""

    id: str
    digest: bytes


class SeenWindow:
    """Marks of the last `window_ms`, at most `marks_max` of them. About 250 bytes each."""

    def __init__(self, window_ms: int, marks_max: int) -> None:
        self._window_ms = window_ms
        self._marks_max = marks_max
        self._generation_max = max(1, marks_max // GENERATIONS)
        #: The newest last; each with the time of its last mark. Whole dictionaries are forgotten: taking one by one
        #: from the front of a dictionary looks through all that was taken before.
        self._generations: deque[dict[bytes, Known]] = deque([{}])
        self._until: deque[int] = deque([0])
        self._since = 0
        self._count = 0
        #: How many were forgotten before their time.
        self.forgotten = 0

    def get(self, mark: bytes) -> Known | None:
        """What is remembered under it."""
        for generation in reversed(self._generations):
            known = generation.get(mark)
            if known is not None:
                return known
        return None

    def add(self, mark: bytes, known: Known, at_ms: int, now_ms: int) -> None:
        """Remember what was accepted at `at_ms`, unless that is too long ago, or the mark is known."""
        if at_ms < now_ms - self._window_ms or self.get(mark) is not None:
            return
        newest = self._generations[-1]
        if len(newest) >= self._generation_max or (newest and at_ms - self._since > self._window_ms // GENERATIONS):
            self._generations.append({})
            self._until.append(0)
            newest = self._generations[-1]
        if not newest:
            self._since = at_ms
        newest[mark] = known
        self._until[-1] = max(self._until[-1], at_ms)
        self._count += 1
        self._forget(now_ms)

    def __len__(self) -> int:
        return self._count

    def _forget(self, now_ms: int) -> None:
        while len(self._generations) > 1:
            expired = self._until[0] < now_ms - self._window_ms
            if not expired and self._count <= self._marks_max:
                return
            gone = len(self._generations.popleft())
            self._until.popleft()
            self._count -= gone
            if not expired:
                if not self.forgotten:
                    message = "more than %s ids were published within the window; the oldest are forgotten early"
                    log.warning(message, self._marks_max)
                self.forgotten += gone


class _Change(NamedTuple):
    mark: bytes
    seen: Seen


class SeenTable(Follower[_Change]):
    """Follows `ingest.seen` into a window: what this process and all others have accepted.

    Of the topic, it reads at most what the window can hold, from the end: each mark takes two offsets at most, its
    record's and that of its transaction's marker.
    """

    def __init__(
        self, conf: Mapping[str, Any], topic: str, window: SeenWindow, *, marks_max: int, now_ms: Callable[[], int]
    ) -> None:
        super().__init__(
            conf,
            topic,
            what="record of what was published",
            decode=_decoded,
            apply=self._add,
            first=lambda low, high: max(low, high - 2 * marks_max),
        )
        self._window = window
        self._now_ms = now_ms

    def _add(self, change: _Change | str) -> None:
        if not isinstance(change, str):
            seen = change.seen
            self._window.add(change.mark, Known(seen.id, seen.digest), seen.at_ms, self._now_ms())


def _decoded(key: bytes | None, value: bytes | None) -> _Change | str:
    if key is None:
        raise UndecodableError("no_key", "the record has no key")
    if value is None:
        return ""  # nobody writes it; what is known stays known
    return _Change(mark_of(key), decode_seen(value))
