"""Transactions: groups of records and the offsets that they settle, written all or nothing.

A `confluent_kafka.Producer` with a transactional id. Records are queued on the event loop; the calls that block have a
thread. Exactly once inside Kafka rests on the offsets going through the same transaction, with the consumer's group
metadata (KIP-447): a member that the group has given up on is refused, so a transactional id needs to be unique per
running worker, not per partition. A stable id (`worker_id`) makes a restarted worker end its predecessor's open
transaction at once instead of after its time-out.

This file does not decide what is written, and does not follow the consumer: group metadata is asked for at each
transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from connectors.call_thread import CallThread, StuckError
from connectors.clock import SystemClock
from connectors.kafka_rights import DENIED, denied
from schemas.errors import FencedError, RecordTooLargeError, StaleGroupError
from schemas.frame import Out

logger = logging.getLogger(__name__)
# librdkafka asks again until the coordinator of transactions is there, which a new cluster takes a moment for.
logger.addFilter(lambda record: not re.match(r"GETPID .*retrying$", record.getMessage()))

#: How long an abandoned transaction can hold back readers of committed records, where the worker id is not stable.
TRANSACTION_TIMEOUT_MS = 15_000
RECORD_BYTES_MAX = 10 * 1024 * 1024  # above every topic of ours: what a topic takes is the broker's answer
#: What every producer of ours has in common.
PRODUCER_CONFIG: Mapping[str, Any] = {
    "compression.type": "lz4",
    "partitioner": "murmur2_random",  # as the Java clients: a key's partition is the same for all
    "queue.buffering.max.messages": 200_000,
    "message.max.bytes": RECORD_BYTES_MAX,
}
PRODUCE_CHUNK = 500  # records queued before the loop gets a turn: about two milliseconds
BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_CALL_TIMEOUT_S = 10.0
#: Sending offsets takes milliseconds. What is not done in so many seconds is asked for again, and goes on.
_SEND_TIMEOUT_S = 3.0
_SEND_TIMEOUT_MAX_S = 24.0
#: Who is fenced twice within so long is not alone with this id.
_ALONE_S = 60.0
_ABORTS_MAX = 3  # calls, of 10 s each; then a new producer ends the transaction sooner
_CLOSE_TIMEOUT_S = 2.0

_STALE = frozenset(
    {
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.GROUP_ID_NOT_FOUND,
    }
)
_FENCED = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})
TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})


#: What the group of the offsets has: (next offset, metadata) by topic and partition; None when it does not say. Waits
#: out transient errors.
Committed = Callable[[Sequence[tuple[str, int]]], Awaitable[Mapping[tuple[str, int], tuple[int, str]] | None]]


class TransactionalPublisher:
    """Implements `streams.ports.Publisher`."""

    def __init__(
        self,
        config: Mapping[str, Any],
        transactional_id: str,
        group: Callable[[], object],
        committed: Committed | None = None,
        *,
        reports: bool = False,
    ) -> None:
        """`config` needs `bootstrap.servers`; `group` answers the consumer's current group metadata.

        With `committed`, a producer that the brokers have given up (they do when a transaction is open for longer than
        its time-out, as while they are away themselves) is replaced, and the transaction written again unless the group
        has its offsets. Without, FencedError: the id has gone to another process, as it is meant to.

        With `reports`, `written` says after each `publish` where its last record stands, by topic and partition: a
        callback for each record, which the engine's path does not pay for.
        """
        self.written: dict[tuple[str, int], int] = {}
        self._config = {
            **PRODUCER_CONFIG,
            "linger.ms": 2,
            "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
            # A transaction begun while the markers of the last are still being written is answered
            # CONCURRENT_TRANSACTIONS and retried: with librdkafka's 100 ms, every tenth transaction took 110 ms instead
            # of 6.
            "retry.backoff.ms": 5,
            "retry.backoff.max.ms": 500,
            # When no broker is connected, librdkafka would forget all it knows of and start from the bootstrap servers.
            # Sending offsets then waits for a coordinator that is no more: with a cluster of one broker, nine of ten
            # reset connections ended so. Brokers that moved elsewhere are found by the next producer, once this one is
            # given up. Consumers must not have this (ARCHITECTURE.md).
            "metadata.recovery.strategy": "none",
            **config,
            "transactional.id": transactional_id,
            "delivery.report.only.error": not reports,
            "on_delivery": self._on_delivered,
        }
        self._group = group
        self._committed = committed
        self._clock = SystemClock()
        self._replaced_s = -_ALONE_S  # when the brokers had last given this id's producer up (monotonic)
        self._ending = False  # whether the present transaction may have been committed
        self._thread = CallThread(f"publish-{transactional_id}")
        self._producer: Producer | None = None
        self._failed: tuple[KafkaError, str, int] | None = None
        self._begun = False
        self._halt = threading.Event()
        self._send_timeout_s = _SEND_TIMEOUT_S
        self.transactions = 0

    async def start(self) -> None:
        """Register the transactional id, which ends what a predecessor left open. KafkaException when the cluster
        refuses; ClusterError for a missing right."""
        await self._run(self._start)

    async def take_over(self) -> None:
        """As `start`, for an id that processes take from each other. FencedError when another one was faster."""
        try:
            await self.start()
        except KafkaException as error:
            if error.args[0].fatal():
                raise FencedError(error.args[0].str()) from None
            raise

    async def publish(
        self,
        records: Sequence[Out],
        offsets: Sequence[tuple[str, int, int, str]],
        still_ours: Callable[[], bool] | None = None,
        *,
        decisive: bool = False,
    ) -> None:
        """One transaction; see the port. Waits out transient errors, for ever if need be: nothing is lost by
        waiting."""
        attempt = 0
        while not await self._publish_once(records, offsets, still_ours, decisive):
            if self._halt.is_set():
                raise FencedError("the publisher was closed before the transaction could be committed")
            await asyncio.sleep(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
            attempt += 1

    async def close(self) -> None:
        """Let go; an open transaction is aborted."""
        self._halt.set()
        with contextlib.suppress(StuckError):  # the broker ends the transaction when its time is over
            await self._run(self._close)
        await asyncio.to_thread(self._thread.end)

    async def _run(self, function: Callable[..., object], *args: Any) -> None:
        await self._thread.run(function, *args)

    async def _after(self, function: Callable[..., object], *args: Any) -> bool:
        """False, once the transaction has ended; with another producer where this one is stuck."""
        try:
            await self._run(function, *args)
        except StuckError:
            await self._replace()
        return False

    async def _replace(self) -> None:
        """Go on with another producer of the same id, on another thread: that ends the transaction of the one that is
        stuck, which is not being committed, so it can be written again. What is stuck is left behind, so each is
        given twice the time of the one before until one commits: what it waits for may be away for long."""
        logger.error("librdkafka does not come back from a transaction; going on with a new producer")
        self._send_timeout_s = min(2 * self._send_timeout_s, _SEND_TIMEOUT_MAX_S)
        await self._renew()

    async def _renew(self) -> None:
        """Another producer of the same id, on another thread: the brokers end what this one has begun."""
        self._thread.end()
        self._thread = CallThread(f"publish-{self._config['transactional.id']}")
        self._begun = False
        await self._run(self._start)

    # --- one transaction --------------------------------------------------------------------------

    async def _publish_once(
        self,
        records: Sequence[Out],
        offsets: Sequence[tuple[str, int, int, str]],
        still_ours: Callable[[], bool] | None,
        decisive: bool,
    ) -> bool:
        """True when committed; False when aborted for a reason that may pass."""
        producer = self._producer
        if producer is None:
            raise RuntimeError("the publisher is not started")
        self._failed = None
        self._ending = False
        self.written.clear()
        try:
            if not self._begun:
                await self._run(self._begin, producer)
            await self._produce(producer, records)
            await self._run(self._commit, producer, offsets, still_ours)
        except KafkaException as error:
            try:
                return await self._after(self._settle_failure, producer, error.args[0], records)
            except FencedError as fenced:
                return await self._fenced_alone(fenced, offsets, still_ours, decisive)
        except StuckError:
            await self._replace()
            return False
        except Exception:
            await self._after(self._abort, producer)
            raise
        self.transactions += 1
        return True

    async def _fenced_alone(
        self,
        fenced: FencedError,
        offsets: Sequence[tuple[str, int, int, str]],
        still_ours: Callable[[], bool] | None,
        decisive: bool,
    ) -> bool:
        """Go on with another producer after all, where nobody else uses this id; whether the transaction was committed.
        Raises `fenced` where that is not so, or cannot be told.

        Brokers abort a transaction that is open for longer than its time-out, and refuse its producer from then on: so
        they do with all of them once they were away for so long themselves."""
        now = self._clock.monotonic()
        unsure = self._ending
        if self._committed is None or now - self._replaced_s < _ALONE_S or (unsure and not decisive):
            raise fenced
        self._replaced_s = now
        logger.warning(
            "%s: the brokers gave its producer up; going on with a new one", self._config["transactional.id"]
        )
        if self._producer is not None:
            await self._run(self._producer.purge)  # so that it is soon gone
        await self._renew()  # and what was being committed is, or never will be
        if not unsure:
            return False
        found = await self._committed([(topic, partition) for topic, partition, *_ in offsets])
        if found is None or still_ours is None or not still_ours():  # then others may have committed since
            raise fenced
        done = all(found.get((topic, partition)) == (offset, text) for topic, partition, offset, text in offsets)
        self.transactions += done
        return done

    async def _produce(self, producer: Producer, records: Sequence[Out]) -> None:
        """Queue the records, here on the loop: in a thread of its own, this short work would fight the loop for the
        interpreter's lock at every callback, which cost a tenth of a delivery."""
        produce = producer.produce
        for number, (topic, key, value, partition, headers) in enumerate(records, 1):
            while True:
                try:
                    if headers is None:
                        produce(topic, value, key, partition)
                    else:
                        produce(topic, value, key, partition, headers=cast(Any, headers))
                    break
                except BufferError:  # the queue is full: let it drain
                    await self._run(producer.poll, 0.05)
                except KafkaException as error:
                    if error.args[0].code() in TOO_LARGE:
                        raise RecordTooLargeError(topic, len(value or b"")) from None
                    raise
            if number % PRODUCE_CHUNK == 0:
                await asyncio.sleep(0)

    # --- on the publisher's thread: what blocks ---------------------------------------------------

    def _start(self) -> None:
        self._producer = Producer(self._config, logger=logger)
        try:
            self._retrying(self._producer.init_transactions, _CALL_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() in DENIED:
                raise denied(error.args[0], "WRITE", transaction=self._config["transactional.id"]) from None
            raise

    def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        producer.purge()
        if self._begun:
            # Left open by a publish that was cancelled; readers of committed records would wait for its time-out.
            with contextlib.suppress(KafkaException):
                producer.abort_transaction(_CLOSE_TIMEOUT_S)

    def _begin(self, producer: Producer) -> None:
        producer.begin_transaction()
        self._begun = True

    def _commit(
        self,
        producer: Producer,
        offsets: Sequence[tuple[str, int, int, str]],
        still_ours: Callable[[], bool] | None,
    ) -> None:
        if offsets:
            positions = [TopicPartition(*offset) for offset in offsets]
            group = self._group()
            # In this order: a member that lost these partitions and has joined again has metadata that the group takes.
            if still_ours is not None and not still_ours():
                raise StaleGroupError("partitions were given up while their transaction was on its way")
            send = producer.send_offsets_to_transaction
            self._retrying(self._thread.may_stick, send, positions, group, self._send_timeout_s)
            # And again: sending may take long, and a member that is lost and joins again meanwhile has the metadata of
            # before; its new epoch starts from the offsets of before. From here on it waits for this transaction's end.
            if still_ours is not None and not still_ours():
                raise StaleGroupError("partitions were given up while their offsets were on their way")
        self._ending = True
        self._retrying(producer.commit_transaction, _CALL_TIMEOUT_S)
        self._send_timeout_s = _SEND_TIMEOUT_S
        # The next one is begun here, where waiting for librdkafka's thread costs nobody. Until records or offsets come,
        # the brokers know nothing of it.
        self._begun = False
        with contextlib.suppress(
            KafkaException
        ):  # what was committed is committed; the next publish says what is wrong
            self._begin(producer)

    def _settle_failure(self, producer: Producer, error: KafkaError, records: Sequence[Out]) -> None:
        """Abort, and raise what the caller must know; return when trying again is right."""
        code = error.code()
        if code in DENIED:
            raise self._denied(producer, error, records)
        if code in _FENCED or (error.fatal() and self._failed is None):
            raise self._fenced(error)
        self._abort(producer)
        if self._failed is not None:
            cause, topic, size = self._failed
            if cause.code() in TOO_LARGE:
                raise RecordTooLargeError(topic, size)
            if cause.code() in DENIED:
                raise denied(cause, "WRITE", topic=topic)
            logger.warning("a record for %s was refused, the transaction is tried again: %s", topic, cause.str())
        elif code in _STALE:
            raise StaleGroupError(error.str())
        else:
            logger.warning("a transaction was aborted and is tried again: %s", error.str())

    def _denied(self, producer: Producer, error: KafkaError, records: Sequence[Out]) -> Exception:
        """What is denied: the brokers do not say which topic. This producer may not be used after it, since they refuse
        to abort a transaction to which nothing could be added."""
        with contextlib.suppress(FencedError):
            self._abort(producer)
        operation = "READ" if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED else "WRITE"
        names = " or ".join(sorted({topic for topic, *_ in records}))
        name = self._config["transactional.id"]
        return denied(error, operation, topic=names, group="of this role", transaction=name)

    def _abort(self, producer: Producer) -> None:
        self._begun = False
        try:
            self._retrying(self._thread.may_stick, producer.abort_transaction, _CALL_TIMEOUT_S, tries_max=_ABORTS_MAX)
        except KafkaException as error:
            if error.args[0].retriable():
                raise StuckError from None
            raise self._fenced(error.args[0]) from None

    def _fenced(self, error: KafkaError) -> FencedError:
        if error.code() in _FENCED:
            name = self._config["transactional.id"]
            return FencedError(
                f"another worker uses the transactional id {name!r} (give each worker its own worker id), "
                f"or this one stood still for more than {TRANSACTION_TIMEOUT_MS / 1000:g} s (start it again)"
            )
        return FencedError(f"the transactional producer cannot go on: {error.str()}")

    def _retrying(self, call: Callable[..., None], *args: Any, tries_max: int | None = None) -> None:
        """Repeat a transactional call as long as librdkafka says that repeating it is right."""
        attempt = 0
        while True:
            try:
                call(*args)
                return
            except KafkaException as error:
                if not error.args[0].retriable() or self._halt.is_set() or attempt + 1 == tries_max:
                    raise
                logger.warning("%s, trying again", error.args[0].str())
                self._halt.wait(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
                attempt += 1

    def _on_delivered(self, error: KafkaError | None, message: Message) -> None:
        """Called, from poll and commit on this thread, for records that the broker refused, and if asked for all."""
        if error is None:
            place = (message.topic() or "", message.partition() or 0)
            self.written[place] = max(message.offset() or 0, self.written.get(place, 0))
            return
        if error.code() in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
            return
        if self._failed is None or error.code() in TOO_LARGE:
            self._failed = (error, message.topic() or "", len(message.value() or b""))
