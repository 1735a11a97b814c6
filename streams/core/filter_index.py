"""Which of many filters match a document, at a cost that hardly grows with how many there are.

Equal filters are looked at once. Each is filed under a guard of its own (`streams/core/filter_guards.py`), a value that
documents must have to match it; a document is walked once along the paths of all guards, and only filters that it met
are tried. What matches nearly everything (`anything-but`, `exists`) is found by no value, and tried on each document
that has the field. This file does not compile a filter (`streams/core/filters.py`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from streams.core.filter_guards import Kind, Probe, cheapest, counted, key_of
from streams.core.filter_values import MISSING, PLAIN, Document, number_of, objects, scalar_key, scalars
from streams.core.filters import Filter


class _Entry:
    """A filter in the index."""

    __slots__ = ("filter", "positions", "probes")

    def __init__(self, filter_: Filter, probes: tuple[Probe, ...]) -> None:
        self.filter = filter_
        self.probes = probes
        self.positions: _Positions = ()


#: Most filters have one: a list for each would keep the collector busy at every change.
_Positions = int | Sequence[int]
_Bucket = set[_Entry]
#: Buckets that a document meets, by their identity: each counts once, however often it is met.
_Hits = dict[int, _Bucket]


class _Table:
    """What is filed under one path by one way to make keys of values."""

    __slots__ = ("_buckets", "_kind", "_size")

    def __init__(self, kind: Kind, size: int) -> None:
        self._kind: Kind = kind
        self._size = size
        self._buckets: dict[Any, _Bucket] = {}

    def file(self, key: Any, entry: _Entry) -> None:
        self._buckets.setdefault(key, set()).add(entry)

    def take_out(self, key: Any, entry: _Entry) -> None:
        bucket = self._buckets[key]
        bucket.discard(entry)
        if not bucket:
            del self._buckets[key]

    def meet(self, value: Any, hits: _Hits) -> None:
        """Add the buckets that a value is looked up in."""
        bucket = self._buckets.get(key_of(self._kind, self._size, value))
        if bucket is not None:
            hits[id(bucket)] = bucket


class _Exact(_Table):
    """The most common kind, spared two calls."""

    __slots__ = ()

    def meet(self, value: Any, hits: _Hits) -> None:
        bucket = self._buckets.get(value if type(value) in PLAIN else scalar_key(value))
        if bucket is not None:
            hits[id(bucket)] = bucket


class _Ladder(_Table):
    """Bounds of numbers in order: a number meets all that are on one side of it."""

    __slots__ = ("_rungs",)

    def __init__(self, kind: Kind, size: int) -> None:
        super().__init__(kind, size)
        self._rungs: list[Any] = []

    def file(self, key: Any, entry: _Entry) -> None:
        if key not in self._buckets:
            insort(self._rungs, key)
        super().file(key, entry)

    def take_out(self, key: Any, entry: _Entry) -> None:
        super().take_out(key, entry)
        if key not in self._buckets:
            del self._rungs[bisect_left(self._rungs, key)]

    def meet(self, value: Any, hits: _Hits) -> None:
        number = number_of(value)
        if number is None:
            return
        rungs = self._rungs
        met = rungs[: bisect_right(rungs, number)] if self._kind == "above" else rungs[bisect_left(rungs, number) :]
        for rung in met:
            bucket = self._buckets[rung]
            hits[id(bucket)] = bucket


_TABLES: dict[Kind, type[_Table]] = {"exact": _Exact, "above": _Ladder, "below": _Ladder}


class _Node:
    """What is filed under one path, and the paths that continue it."""

    __slots__ = ("children", "tables")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.tables: dict[tuple[Kind, int], _Table] = {}

    def walk(self, document: Document, hits: _Hits) -> None:
        """Add the buckets that the document meets."""
        children = self.children
        # Whichever is shorter is gone through: neither many paths nor many fields cost more than the other's number.
        names: Iterable[str] = children if len(children) <= len(document) else document
        for name in names:
            child = children.get(name)
            value = document.get(name, MISSING)
            if child is None or value is MISSING:
                continue
            if type(value) is dict:
                if child.children:
                    child.walk(value, hits)
            elif type(value) is list:
                child.walk_array(value, hits)
            else:
                for table in child.tables.values():
                    table.meet(value, hits)

    def walk_array(self, values: list[Any], hits: _Hits) -> None:
        """The same for all elements."""
        if self.tables:
            for value in scalars(values):
                for table in self.tables.values():
                    table.meet(value, hits)
        if self.children:
            for value in objects(values):
                self.walk(value, hits)

    def table(self, probe: Probe) -> _Table:
        """Where a probe is filed, below this node as its root."""
        node = self
        for name in probe.path:
            if name not in node.children:
                node.children[name] = _Node()
            node = node.children[name]
        kind = (probe.kind, probe.size)
        if kind not in node.tables:
            node.tables[kind] = _TABLES.get(probe.kind, _Table)(*kind)
        return node.tables[kind]


class FilterIndex:
    """Filters by position; None is no filter, and always matches. Not thread-safe."""

    def __init__(self, filters: Sequence[Filter | None] = ()) -> None:
        self._entries: dict[Filter, _Entry] = {}
        self._clear()
        self.replace(filters)

    def replace(self, filters: Sequence[Filter | None]) -> None:
        """Take these filters instead. What was there before is kept: the cost is a fraction of a microsecond for each
        filter, and that of filing for those that are new. All are filed anew, under the guards that are best
        by then, when half of them have changed."""
        positions: dict[Filter, int | list[int]] = {}
        self._always: list[int] = []
        for at, each in enumerate(filters):
            if each is None:
                self._always.append(at)
            elif (known := positions.setdefault(each, at)) != at:
                if isinstance(known, int):
                    positions[each] = [known, at]
                else:
                    known.append(at)
        gone = [each for each in self._entries if each not in positions]
        new = [each for each in positions if each not in self._entries]
        self._changes += len(gone) + len(new)
        if self._changes > len(positions) // 2:
            self._clear()
            gone, new = [], list(positions)
        for each in gone:
            self._take_out(self._entries.pop(each))
        for each in new:
            if each.guard is not None:
                self._shared.update(counted(each.guard))
        for each in new:
            self._entries[each] = self._file(each)
        for each, entry in self._entries.items():
            entry.positions = positions[each]
        #: Whether any filter looks at the document at all, and at the event's data in it.
        self.reads_document = bool(positions)
        self.reads_data = any(each.reads_data for each in positions)

    def select(self, document: Document) -> list[int]:
        """Positions of the filters that match, ascending."""
        hits: _Hits = {0: self._unguarded}
        self._root.walk(document, hits)
        found = self._always.copy()
        for entry in set().union(*hits.values()):
            if entry.filter.matches(document):
                positions = entry.positions
                if isinstance(positions, int):
                    found.append(positions)
                else:
                    found += positions
        found.sort()
        return found

    def _clear(self) -> None:
        self._entries.clear()
        self._root = _Node()
        self._unguarded: _Bucket = set()
        #: How many filters could be filed under a probe, of those that are or were here since all were filed.
        self._shared: Counter[Probe] = Counter()
        self._changes = 0

    def _file(self, each: Filter) -> _Entry:
        if each.guard is None:
            entry = _Entry(each, ())
            self._unguarded.add(entry)
            return entry
        _, probes = cheapest(each.guard, self._shared)
        entry = _Entry(each, probes)
        for probe in probes:
            self._root.table(probe).file(probe.key, entry)
        return entry

    def _take_out(self, entry: _Entry) -> None:
        self._unguarded.discard(entry)
        for probe in entry.probes:
            self._root.table(probe).take_out(probe.key, entry)
