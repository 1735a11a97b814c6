"""Where the records of a topic stand, by time: the first and the last offsets of each partition.

Asked of the brokers, once for each question. This file reads no record.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from connectors.admin import REQUEST_SECONDS, ClusterError, answer, connected

log = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0


class TopicExtents:
    """Implements `streams.ports.Extents`."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Nothing is connected until the first question."""
        self._config = dict(config)
        self._admin: AdminClient | None = None

    async def __call__(self, topic: str, since_ms: int | None, until_ms: int | None) -> Sequence[tuple[int, int, int]]:
        """See the port."""
        while True:
            try:
                return await asyncio.to_thread(self._ask, topic, since_ms, until_ms)
            except (KafkaException, ClusterError, TimeoutError) as error:
                log.warning("where the records of %s stand is not known: %s; trying again", topic, error)
                self._admin = None  # after a broker's restart, one goes on with the leaders of before
                await asyncio.sleep(AGAIN_SECONDS)

    def _ask(self, topic: str, since_ms: int | None, until_ms: int | None) -> Sequence[tuple[int, int, int]]:
        if self._admin is None:
            self._admin = connected(self._config)
        found = self._admin.list_topics(topic, timeout=REQUEST_SECONDS).topics[topic]
        if found.error is not None:
            raise KafkaException(found.error)
        partitions = sorted(found.partitions)
        ends = self._offsets(topic, partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        earliest = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
        starts = self._offsets(topic, partitions, earliest if since_ms is None else _at(since_ms))
        stops = ends if until_ms is None else self._offsets(topic, partitions, _at(until_ms))
        extents = []
        for partition, end in ends.items():
            # -1: no record is so late. What stands behind an open transaction is not committed.
            start, stop = (min(end, offset) if offset >= 0 else end for offset in (starts[partition], stops[partition]))
            extents.append((partition, start, max(start, stop)))
        return extents

    def _offsets(self, topic: str, partitions: Sequence[int], spec: OffsetSpec) -> dict[int, int]:
        assert self._admin is not None
        asked = {TopicPartition(topic, partition): spec for partition in partitions}
        answers = self._admin.list_offsets(
            asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=REQUEST_SECONDS
        )
        return {place.partition: answer(future).offset for place, future in answers.items()}


def _at(time_ms: int) -> OffsetSpec:
    return OffsetSpec.for_timestamp(time_ms)  # type: ignore[no-any-return]
