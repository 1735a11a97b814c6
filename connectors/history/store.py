"""The port of a database of attempts: filled from the topic with its own positions, searched, trimmed.

Positions are kept in the same transaction as the rows that they stand for, so whatever dies, the next one goes on where
the last transaction ended: no gap and no double. One process writes at a time. This file knows no database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from connectors.history.attempts import History, HistoryPage, LoggedAttempt, Place

#: What one search may take, in seconds; then it says where to go on.
SEARCH_SECONDS = 3.0
LIMIT_MAX = 500


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is searched for; all that is given must fit. `status` is the first and the last of a range. `until_ms` is
    the first time that does not belong to it. `text` stands in the detail, the cause, the response or the event type,
    in whatever case of ASCII letters."""

    delivery_id: str | None = None
    event_id: str | None = None
    subscription_id: str | None = None
    tenant: str | None = None
    outcomes: tuple[str, ...] = ()
    status: tuple[int, int] | None = None
    since_ms: int = 0
    until_ms: int | None = None
    text: str | None = None


class Span(msgspec.Struct, frozen=True):
    """Of one partition, what a batch covers: from the position in the store (None: it has none) up to the next one."""

    start: int | None
    end: int


class Batch(msgspec.Struct, frozen=True):
    """Attempts of some partitions, and up to where they are all there are."""

    attempts: Sequence[LoggedAttempt]
    spans: Mapping[int, Span]


class Latencies(msgspec.Struct, frozen=True):
    """Counts by bucket (`histogram.py`), by what was measured."""

    counts: Mapping[str, Mapping[int, int]]


class StoreMismatchError(Exception):
    """The store does not belong to this topic or release; one sentence with the next step."""


class HistoryStore(History, Protocol):
    """A database of attempts. All methods: HistoryUnavailableError when it cannot be used now."""

    async def acquire(self, topic: str) -> Mapping[int, int] | None:
        """Become the one who writes, and make what is missing; the next offset of each partition, or None while
        another process writes. StoreMismatchError when it holds another topic's attempts."""

    async def write(self, batch: Batch) -> None:
        """All of it and its positions, or nothing. StoreMismatchError when a span does not begin where the store is."""

    async def trim(self, before_ms: int, attempts_max: int) -> bool:
        """One small step: remove some attempts that were started before, or the oldest of more than so many; whether
        there is more to do."""

    async def release(self) -> None:
        """Let others write."""

    async def search(self, wanted: Wanted, *, limit: int, before: Place | None = None) -> HistoryPage:
        """At most `limit` attempts that are older than `before`, the newest first."""

    async def latencies(self, subscription_id: str, since_ms: int, until_ms: int) -> Latencies:
        """Of the hours that this time touches."""

    async def close(self) -> None:
        """Let go of everything."""
