"""Which quarantined records were resent or discarded, as far as a question needs it.

A marker stands in the partition of the record that it is about, behind it. So, read from the end backwards, all about a
record is known when it is met; for what is older than a page, the markers behind the page are read, once. This file
writes none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from confluent_kafka import Message

from connectors.admin import ClusterError
from connectors.api.quarantine import State
from connectors.topic_pages import TopicPages
from streams.quarantine_log import Discarded, Entry, Place, Quarantined, entry

#: Offsets of a partition that are read at once, and how long one question may take.
STEP = 20_000
SECONDS = 10.0


class Met(msgspec.Struct, frozen=True):
    """A record or a marker, and the offset at which it stands."""

    offset: int
    entry: Entry


def met(message: Message) -> Met:
    """Of a record of the quarantine topic."""
    return Met(message.offset() or 0, entry(message))


class Marks:
    """For one question at a time. Nothing is known at first."""

    def __init__(self, pages: TopicPages, monotonic: Callable[[], float]) -> None:
        self._pages = pages
        self._monotonic = monotonic
        #: By partition: all markers from the one offset up to the other are known. A partition without is known from
        #: its end on.
        self._known: dict[int, tuple[int, int]] = {}
        self._resent: set[Place] = set()
        #: With the offset of the marker: the last one counts.
        self._discarded: dict[Place, tuple[int, Discarded]] = {}

    async def begin(self) -> dict[int, int]:
        """Forget everything; what stands behind the ends as of now is of no interest, and they are returned."""
        ends = await self._pages.ends()
        self._resent.clear()
        self._discarded.clear()
        self._known = {partition: (end, end) for partition, end in ends.items()}
        return ends

    async def know(self, behind: Mapping[int, int]) -> None:
        """Read, in each of these partitions, the markers from this offset up to the end as of now. ClusterError when
        that takes too long; what was read by then is known, so asking again gets further."""
        ends = await self._pages.ends()
        if any(high > ends.get(partition, 0) for partition, (_, high) in self._known.items()):
            ends = await self.begin()  # the topic was made anew
        deadline = self._monotonic() + SECONDS
        while spans := self._missing(behind, ends):
            if self._monotonic() > deadline:
                raise ClusterError("much was quarantined since, and is being looked through; try again")
            await self._pages.visit(spans, lambda message: self.meet(met(message)))
            for partition, (begin, end) in spans.items():
                low, high = self._known.get(partition, (begin, end))
                self._known[partition] = (min(low, begin), max(high, end))

    def _missing(self, behind: Mapping[int, int], ends: Mapping[int, int]) -> dict[int, tuple[int, int]]:
        spans = {}
        for partition, begin in behind.items():
            end = ends.get(partition, 0)
            low, high = self._known.get(partition, (end, end))
            if high < end:
                spans[partition] = (high, min(end, high + STEP))
            elif begin < low:
                spans[partition] = (max(begin, low - STEP), low)
        return spans

    def meet(self, what: Met) -> None:
        """Take note of a marker; in any order, and more than once."""
        about = what.entry
        if isinstance(about, Discarded):
            if what.offset >= self._discarded.get(about.place, (0, about))[0]:
                self._discarded[about.place] = (what.offset, about)
        elif not isinstance(about, Quarantined):
            self._resent.add(about.place)

    def of(self, place: Place) -> tuple[State, Discarded | None]:
        """What became of the record that stands there, and its last discard."""
        discarded = self._discarded.get(place, (0, None))[1]
        return "resent" if place in self._resent else "open" if discarded is None else "discarded", discarded
