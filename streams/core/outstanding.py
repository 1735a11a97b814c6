"""Offsets that wait for their end, however many others end before them. It knows no records."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

#: Where the first offset of none is: further than any.
NOWHERE = 1 << 62


class Outstanding:
    """Offsets that come in ascending order and go in any; the first of them is found without a search."""

    __slots__ = ("_line", "_open")

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._line: deque[int] = deque()  # ascending; some may be gone

    def add(self, offset: int) -> None:
        """One that is larger than all before."""
        self.extend((offset,))

    def extend(self, offsets: Iterable[int]) -> None:
        """Ascending, and larger than all before."""
        self._open.update(offsets)
        self._line.extend(offsets)
        if len(self._line) > 2 * len(self._open) + 64:  # one old offset must not keep all that came after it
            self._line = deque(self)

    def discard(self, offset: int) -> None:
        """It is done; a second time, or for an offset that never came, nothing happens."""
        self._open.discard(offset)

    def discard_all(self, offsets: Iterable[int]) -> None:
        """The same for many."""
        self._open.difference_update(offsets)

    @property
    def first(self) -> int:
        """The smallest; `NOWHERE` when there is none."""
        line, left = self._line, self._open
        if not left:
            line.clear()
            return NOWHERE
        while line[0] not in left:
            line.popleft()
        return line[0]

    def __contains__(self, offset: int) -> bool:
        return offset in self._open

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[int]:
        """Ascending."""
        return (offset for offset in self._line if offset in self._open)
