"""Reading a partition from its end backwards, for lists that begin with the newest.

No group and no commits: one consumer, assigned anew for each read, and one thread that calls it. This file does not
know what the records mean; what goes on while somebody turns pages is behind them, so pages stay right.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from connectors.admin import silent_logger, unavailable
from connectors.clock import SystemClock
from connectors.unsubscribed import unsubscribed
from schemas.frame import Record

#: Offsets of one read: markers of transactions and records of aborted ones are among them.
OFFSETS_MAX = 500
READ_SECONDS = 10.0
POLL_SECONDS = 0.05
PREFETCH_KIB_MAX = 4_096


class NewestFirst:
    """For one event loop; `close` it. Reads wait for each other. `config` needs `bootstrap.servers`."""

    def __init__(self, config: Mapping[str, Any], topic: str) -> None:
        """Nothing is connected until the first read."""
        self._config = dict(config)
        self._topic = topic
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"newest-{topic}")
        self._consumer: Consumer | None = None
        self._errors: list[KafkaError] = []
        self._clock = SystemClock()

    async def read(self, partition: int, before: int | None) -> tuple[Sequence[Record], int | None]:
        """Committed records below the offset `before` (None: all), the newest first; and where the next read goes on,
        None where nothing is left.

        There may be none of them, and still something left. ClusterError when Kafka does not answer in time.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, partition, before)

    async def close(self) -> None:
        """Let go, when a read under way has ended."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    # --- on the thread ------------------------------------------------------------------------------------------------

    def _read(self, partition: int, before: int | None) -> tuple[Sequence[Record], int | None]:
        if self._consumer is None:
            self._consumer = self._opened()
        place = TopicPartition(self._topic, partition)
        self._errors.clear()
        low, high = self._bounds(self._consumer, place)
        end = high if before is None else min(high, before)
        start = max(low, end - OFFSETS_MAX)
        if start >= end:
            return [], None
        self._consumer.assign([TopicPartition(self._topic, partition, start)])
        try:
            records = self._between(start, end)
        finally:
            self._consumer.unassign()
        return records[::-1], start if start > low else None

    def _bounds(self, consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
        """The partition's first offset and the one after its last."""
        deadline = self._clock.monotonic() + READ_SECONDS
        while True:
            try:
                low, high = consumer.get_watermark_offsets(place, READ_SECONDS)
            except KafkaException as error:
                # A broker that has just been told of the topic may have told this client of none of its partitions.
                if error.args[0].code() != KafkaError._UNKNOWN_PARTITION or self._clock.monotonic() >= deadline:
                    raise unavailable(self._config, error.args[0]) from None
                time.sleep(POLL_SECONDS)
            else:
                return low, high

    def _between(self, start: int, end: int) -> list[Record]:
        assert self._consumer is not None
        records: list[Record] = []
        deadline = self._clock.monotonic() + READ_SECONDS
        while self._clock.monotonic() < deadline:
            for message in self._consumer.consume(OFFSETS_MAX, POLL_SECONDS):
                error = message.error()
                if error is None:
                    offset = message.offset()
                    assert offset is not None  # it was consumed
                    if offset < end:
                        records.append(message)  # type: ignore[arg-type]
                    if offset >= end - 1:
                        return records
                elif error.code() == KafkaError._PARTITION_EOF:
                    return records
                else:
                    self._errors.append(error)
        timed_out = KafkaError(KafkaError._TIMED_OUT)
        raise unavailable(self._config, self._errors[-1] if self._errors else timed_out)

    def _opened(self) -> Consumer:
        return Consumer(
            {
                "queued.max.messages.kbytes": PREFETCH_KIB_MAX,
                "fetch.wait.max.ms": 50,
                **self._config,
                **unsubscribed("newest"),
                "error_cb": self._errors.append,
            },
            logger=silent_logger(),
        )

    def _close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
