"""The dead letters of `deliveries.dead`: the newest first by pages, some by their places, and all of them as a stream.

Reading is `topic_pages.py`. A record that is no dead letter is counted and passed over. This file does not know which
are wanted, nor what became of one (`streams/core/dead.py`), and writes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from confluent_kafka import Message

from connectors.topic_pages import PAGE_SECONDS, SCAN_MAX, Batch, Page, Positions, TopicPages, Where, time_of
from schemas.dead_letter import Filed, decode_dead_letter

T = TypeVar("T")


class Within(msgspec.Struct, frozen=True):
    """Where to look: those of one subscription stand in one partition, among others. Times are Kafka's; until is
    exclusive."""

    subscription: str | None = None
    since_ms: int = 0
    until_ms: int | None = None

    @property
    def where(self) -> Where:
        """The part of the topic."""
        return Where(None if self.subscription is None else self.subscription.encode(), self.since_ms)

    def holds(self, time_ms: int) -> bool:
        """Whether this is a time in it."""
        return self.since_ms <= time_ms and (self.until_ms is None or time_ms < self.until_ms)


#: Asked of each letter, on a thread: what is kept of it, None when it is not wanted.
Make = Callable[[Filed], T | None]


class DeadLetters:
    """For one event loop; `close` it. Pages wait for each other, streams do not. ClusterError from all of it."""

    def __init__(
        self,
        config: Mapping[str, Any],
        topic: str,
        monotonic: Callable[[], float],
        *,
        scan_max: int = SCAN_MAX,
        page_seconds: float = PAGE_SECONDS,
    ) -> None:
        """`config` is librdkafka's of the connection. Nothing is connected until the first read."""
        self._pages = TopicPages(config, topic, monotonic, scan_max=scan_max, page_seconds=page_seconds)

    async def page(self, make: Make[T], within: Within, *, limit: int, before: Positions | None = None) -> Page[T]:
        """At most `limit` letters, the newest first, of what stands below `before` (None: all there is now)."""
        return await self._pages.page(_from_message(make, within), within.where, limit=limit, before=before)

    async def get(self, places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Filed]:
        """Those that stand at these places, (partition, offset); where there is none, or something else, nothing."""
        return await self._pages.get(places, _filed)

    async def ends(self) -> dict[int, int]:
        """One past the last offset of each partition, as of now."""
        return await self._pages.ends()

    def stream(
        self, make: Make[T], within: Within, *, start: Positions | None = None
    ) -> AsyncGenerator[Batch[T], None]:
        """All that is there now, in the order of each partition, from `start` on (None: the beginning)."""
        return self._pages.stream(_from_message(make, within), within.where, start=start)

    async def close(self) -> None:
        """End what is under way, and let go."""
        await self._pages.close()


def _from_message(make: Make[T], within: Within) -> Callable[[Message], T | None]:
    def made(message: Message) -> T | None:
        filed = _filed(message)
        return make(filed) if within.holds(filed.time_ms) else None

    return made


def _filed(message: Message) -> Filed:
    """UndecodableError."""
    letter = decode_dead_letter(message.value())
    return Filed(message.partition() or 0, message.offset() or 0, time_of(message), letter)
