"""Writing without transactions, for `guarantee = at_least_once`: a record is readable as soon as its broker has it.

An idempotent `confluent_kafka.Producer` without waiting for batches. Offsets are handed on to be committed only after
every record of their group is acknowledged, so a crash at any moment loses nothing and may repeat what was under way.
Markers of what is finished are held back for the same reason (`in_order`). This file does not commit
(`connectors/frames.py` does, given as a function) and does not decide what is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from connectors.publisher import BACKOFF_S, PRODUCE_CHUNK, PRODUCER_CONFIG, TOO_LARGE
from schemas.errors import FencedError, RecordTooLargeError
from schemas.frame import Headers, Out

logger = logging.getLogger(__name__)

_POLL_S = 0.1  # how soon the thread notices `close()`; reports wake it at once
_FULL_S = 0.01

#: (topic, partition, next offset, metadata) of partitions, to be committed soon. It must neither wait nor fail.
CommitSoon = Callable[[Sequence[tuple[str, int, int, str]]], None]


class PlainPublisher:
    """Implements `streams.ports.Publisher` for those who prefer latency to exactly once. `groups` counts what was
    published."""

    def __init__(self, config: Mapping[str, Any], commit: CommitSoon) -> None:
        """`config` needs `bootstrap.servers`."""
        self._config = {
            **PRODUCER_CONFIG,
            "linger.ms": 0,
            **config,
            "enable.idempotence": True,
            "message.timeout.ms": 0,  # for ever: what a broker does not take now is waited for
            "error_cb": self._on_error,
        }
        self._commit = commit
        self._producer: Producer | None = None
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="publish-plain", daemon=True)
        self.groups = 0

    async def start(self) -> None:
        """Connect in the background. KafkaException for settings that librdkafka refuses."""
        self._producer = Producer(self._config, logger=logger)
        self._thread.start()

    async def publish(
        self,
        records: Sequence[Out],
        offsets: Sequence[tuple[str, int, int, str]],
        still_ours: Callable[[], bool] | None = None,
        *,
        decisive: bool = False,
    ) -> None:
        """Write, wait for all acknowledgements, and hand the offsets on; see the port. Waits out transient errors.

        What is refused as too large leaves the offsets alone; other records of the group may have been written. Never
        StaleGroupError: the records are written by then, and whose offsets still count is judged by who commits them.
        FencedError only says that librdkafka cannot go on: nobody can replace this publisher.
        """
        for part in in_order(records):
            await self._write_all(part)
        if offsets:
            self._commit(offsets)
        self.groups += 1

    async def close(self) -> None:
        """Let go; what is not acknowledged fails."""
        self._halt.set()
        if self._producer is not None:
            self._producer.purge()
            await asyncio.to_thread(self._thread.join)
            self._producer = None

    async def _write_all(self, records: Sequence[Out]) -> None:
        attempt = 0
        left = records
        while left := await self._write(left):
            if self._halt.is_set():
                raise FencedError("the publisher was closed before all records were acknowledged")
            await asyncio.sleep(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
            attempt += 1

    async def _write(self, records: Sequence[Out]) -> Sequence[Out]:
        """The records that were not acknowledged, for a reason that may pass."""
        producer = self._producer
        if producer is None:
            raise RuntimeError("the publisher is not started")
        group = _Group(asyncio.get_running_loop())
        produce, reported = producer.produce, group.reported
        failed: list[Out] = []
        for number, record in enumerate(records, 1):
            topic, key, value, partition, headers = record
            while True:
                try:
                    if headers is None:
                        produce(topic, value, key, partition, reported)
                    else:
                        produce(topic, value, key, partition, reported, headers=cast(Any, headers))
                    break
                except BufferError:  # the queue is full: the thread makes room
                    await asyncio.sleep(_FULL_S)
                except KafkaException as error:
                    self._judge(error.args[0], topic, len(value or b""))
                    failed.append(record)
                    break
            if number % PRODUCE_CHUNK == 0:
                await asyncio.sleep(0)
        for why, message in await group.wait(len(records) - len(failed)):
            record = _again(message)
            self._judge(why, record[0], len(record[2] or b""))
            failed.append(record)
        return failed

    def _judge(self, error: KafkaError, topic: str, size: int) -> None:
        """Return when writing the record again is right."""
        if error.code() in TOO_LARGE:
            raise RecordTooLargeError(topic, size)
        if error.fatal() or error.code() == KafkaError._FATAL:
            raise FencedError(f"the producer cannot go on: {error.str()}")
        if not self._halt.is_set():
            logger.warning("a record for %s was refused and is written again: %s", topic, error.str())

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            logger.warning("no broker answers; waiting for the cluster: %s", error.str())
        else:
            logger.info("kafka: %s", error.str())

    # --- on the publisher's thread ----------------------------------------------------------------

    def _poll(self) -> None:
        producer = self._producer
        assert producer is not None
        while not self._halt.is_set():
            producer.poll(_POLL_S)
        producer.flush(_POLL_S)  # reports of what was purged


def in_order(records: Sequence[Out]) -> list[Sequence[Out]]:
    """Parts of a group, each to be written when the one before is acknowledged.

    A record without a value says that something is over. Were it durable before what became of that, which stands in
    another partition, a crash in between would lose a delivery.
    """
    marks = [record for record in records if record[2] is None]
    if not marks:
        return [records]
    return [[record for record in records if record[2] is not None], marks]


def _again(message: Message) -> Out:
    """The record of a report."""
    partition, headers = message.partition(), cast(Headers | None, message.headers())
    return (message.topic() or "", message.key(), message.value(), -1 if partition is None else partition, headers)


class _Group:
    """Counts the reports of one group's records, which come on the publisher's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._done: asyncio.Future[None] = loop.create_future()
        self._failed: list[tuple[KafkaError, Message]] = []
        # Either side writes its number first and looks at the other's then, so that the last one sees both.
        self._seen = 0
        self._wanted = -1

    def reported(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed.append((error, message))
        self._seen += 1
        if self._seen == self._wanted:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._finish)

    async def wait(self, wanted: int) -> list[tuple[KafkaError, Message]]:
        """What failed, once so many were reported."""
        self._wanted = wanted
        if self._seen != wanted:
            await self._done
        return self._failed

    def _finish(self) -> None:
        if not self._done.done():
            self._done.set_result(None)
