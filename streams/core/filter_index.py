"""Which of many filters match a document.

Equal filters are looked at once. This file does not compile a filter (`streams/core/filters.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from streams.core.filters import Document, Filter


class FilterIndex:
    """Filters by position; None is no filter, and always matches."""

    def __init__(self, filters: Sequence[Filter | None] = ()) -> None:
        self.replace(filters)

    def replace(self, filters: Sequence[Filter | None]) -> None:
        """Other filters, of which most may be the same."""
        self._always = [at for at, each in enumerate(filters) if each is None]
        self._positions: dict[Filter, list[int]] = {}
        for at, each in enumerate(filters):
            if each is not None:
                self._positions.setdefault(each, []).append(at)
        #: Whether any filter looks at the document at all, and at the event's data in it.
        self.reads_document = bool(self._positions)
        self.reads_data = any(each.reads_data for each in self._positions)

    def select(self, document: Document) -> list[int]:
        """Positions of the filters that match, ascending."""
        found = list(self._always)
        for each, positions in self._positions.items():
            if each.matcher(document):
                found += positions
        found.sort()
        return found
