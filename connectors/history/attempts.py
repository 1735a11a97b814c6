"""Attempts as they were logged, where each stands, and the port that tells what became of deliveries.

This file reads nothing: `topic.py` and `sql_store.py` do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, Protocol

import msgspec


class Place(NamedTuple):
    """Where an attempt stands in time: when it was started, and where its record is. No two have the same."""

    started_ms: int
    partition: int
    offset: int


class LoggedAttempt(msgspec.Struct, frozen=True, gc=False):
    """A record of `attempts`, field for field `schemas/avro/attempt.v1.avsc`, after the record's partition and offset.

    From a database, bytes of `excerpt` that are no UTF-8 come as U+FFFD.
    """

    partition: int
    offset: int
    delivery_id: str
    subscription_id: str
    event_id: str
    event_type: str
    tenant: str
    event_time_ms: int
    received_ms: int
    subject: str | None
    attempt: int
    outcome: str
    started_ms: int
    duration_us: int
    status: int
    cause: str
    detail: str
    excerpt: bytes
    due_ms: int

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.started_ms, self.partition, self.offset)


class HistoryPage(msgspec.Struct, frozen=True):
    """Attempts, newest first. `next` is the place to go on before, None when there is nothing older; `partial` says
    that it ended because of its bounds, not because it was full."""

    attempts: Sequence[LoggedAttempt]
    next: Place | None
    partial: bool


#: Asked of each attempt, newest first, on any thread: whether it belongs onto the page.
Wants = Callable[[LoggedAttempt], bool]


class HistoryUnavailableError(ConnectionError):
    """It cannot be read or written now; one sentence with the next step."""


class History(Protocol):
    """What became of deliveries. HistoryUnavailableError."""

    async def page(
        self,
        subscription_id: str,
        wants: Wants,
        *,
        limit: int,
        before: Place | None = None,
        since_ms: int = 0,
        until_ms: int | None = None,
        outcomes: Collection[str] = (),
    ) -> HistoryPage:
        """Of this subscription, at most `limit`, older than `before`. Attempts that were started before `since_ms` or
        after `until_ms`, or came to none of `outcomes` where some are given, need not be asked for."""

    async def find(self, delivery_id: str) -> LoggedAttempt | None:
        """The newest attempt of a delivery whose subscription is not known, if it is among those that are looked at."""
