"""Where topics end now: asked of the brokers every few seconds, for those who show how far behind they are.

A consumer knows only the ends of what it fetches, and retry tiers are mostly held. Runs only where metrics are shown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

logger = logging.getLogger(__name__)

EVERY_SECONDS = 5.0
REQUEST_SECONDS = 5.0

LATEST = OffsetSpec.latest()  # type: ignore[no-untyped-call]
Place = tuple[str, int]


class EndOffsets:
    """The ends of what `places` names, as they were a few seconds ago."""

    def __init__(self, config: Mapping[str, Any], places: Callable[[], Collection[Place]]) -> None:
        self._admin = AdminClient(dict(config), logger=logger)
        self._places = places
        self._ends: dict[Place, int] = {}

    def get(self, place: Place) -> int | None:
        """The offset after the last committed record; None while it is not known."""
        return self._ends.get(place)

    async def follow(self) -> None:
        """Ask again and again, until cancelled. What does not answer stays as it was."""
        while True:
            places = self._places()
            if places:
                await self._ask(places)
            await asyncio.sleep(EVERY_SECONDS if self._ends else 0.2)

    async def _ask(self, places: Collection[Place]) -> None:
        asked: dict[TopicPartition, Any] = {TopicPartition(*place): LATEST for place in places}
        found = self._admin.list_offsets(
            asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=REQUEST_SECONDS
        )
        ends: dict[Place, int] = {}
        for place, future in found.items():
            key = (place.topic, place.partition)
            try:
                ends[key] = (await asyncio.wrap_future(future)).offset
            except KafkaException as error:
                logger.debug("the end of %s[%s] is not known: %s", *key, error)
                if key in self._ends:
                    ends[key] = self._ends[key]
        self._ends = ends
