"""Following a compacted topic: from its start to its end, and on, with what it holds applied on the event loop.

A thread of its own polls a consumer that is assigned, not subscribed, as Kafka Streams does for its global
tables: no group, no rebalance, no commit. It decodes, and hands batches of changes to the event loop, where
they are applied: what the loop's code sees changes only between two of its steps.

This file does not know what the records are nor keep them (`connectors/subscriptions.py` and
`connectors/endpoints.py` do), does not write to Kafka, and does not notice partitions that are added to the topic
while it runs: they need a restart.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from connectors.unsubscribed import unsubscribed
from schemas.errors import RegistryUnavailableError, UndecodableError, UnknownSchemaError
from schemas.frame import Record

log = logging.getLogger(__name__)

T = TypeVar("T")
V = TypeVar("V")

BATCH_RECORDS = 500
#: What librdkafka fetches ahead; its default would double the memory of a table that catches up.
PREFETCH_KIB_MAX = 8 * 1024
POLL_SECONDS = 0.1
#: How long a fetch waits; shorter where somebody waits to see what they have written.
WAIT_MS, OWN_WAIT_MS = 100, 20
REQUEST_SECONDS = 5.0
STOP_SECONDS = 10.0
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.1, 5.0
#: A topic created a moment ago may not be known to every broker yet.
MISSING_ATTEMPTS = 5

#: (offsets followed so far, offsets to follow until caught up); the first never exceeds the second.
OnProgress = Callable[[int, int], None]


class TableError(Exception):
    """The topic cannot be followed: one sentence with the next step."""


class _Message(Record, Protocol):
    def topic(self) -> str: ...
    def partition(self) -> int: ...
    def error(self) -> KafkaError | None: ...


class _Bad(NamedTuple):
    topic: str
    partition: int
    offset: int
    reason: str
    detail: str


class _StoppedError(Exception):
    """`stop()` was called: the thread ends."""


_MISSING = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
_DENIED = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED}
_UNAUTHENTICATED = {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}


class _Trouble:
    """What Kafka's errors mean for who follows: wait, or give up."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._missing = 0
        self._logged: set[int] = set()
        self.said = ""

    def refuse(self, error: KafkaError) -> None:
        """TableError for what waiting does not change."""
        if error.code() in _MISSING:
            self._missing += 1
            if self._missing >= MISSING_ATTEMPTS:
                raise TableError(f"the topic {self._topic} does not exist; run `distributary topics apply`")
        if error.code() in _DENIED:
            raise TableError(
                f"Kafka denies this user READ on the topic {self._topic}; "
                "grant it (docs/how-to/secure-kafka.md has a table)"
            )
        if error.code() in _UNAUTHENTICATED:
            raise TableError(f"Kafka refuses the credentials ({error.str()}); check the security settings")

    def meet(self, error: KafkaError, *, starting: bool) -> None:
        """An error while following: survived, and logged once until records arrive again."""
        if starting:
            self.refuse(error)
        self.said = f"{self._topic}: {error.str()}"
        if error.code() not in self._logged:
            self._logged.add(error.code())
            log.warning("%s: %s; the table stays as it is until Kafka answers", self._topic, error.str())

    def clear(self) -> None:
        """Records arrive."""
        self._logged.clear()
        self.said = ""


class Follower(Generic[V]):
    """Follows a compacted topic of values with ids. For one event loop; `start` once, then `stop`.

    `conf` is librdkafka's configuration of the connection; `what` names a value in the log, as "subscription".
    `decode(key, value)` runs on the thread: the value that the record holds, or the id that it removes;
    UndecodableError or UnknownSchemaError when it is neither: it then changes nothing, is logged and counted (`bad`).
    `apply(change)` runs on the event loop: it takes one of both in, and returns the value that it replaced or removed.

    Every start reads the topic from its start, so it meets the same bad records again as long as they stand there.
    `first(low, high)` names another offset to start from, for topics of which the end is enough.

    With `keep_offsets`, it remembers at which offset each key's value in force stands (`offset_of`): compaction keeps
    it, so it is a version number that every process agrees on.
    """

    def __init__(
        self,
        conf: Mapping[str, Any],
        topic: str,
        *,
        what: str,
        decode: Callable[[bytes | None, bytes | None], V | str],
        apply: Callable[[V | str], V | None],
        on_progress: OnProgress | None = None,
        first: Callable[[int, int], int] | None = None,
        keep_offsets: bool = False,
    ) -> None:
        #: How many records were bad, by reason.
        self.bad: Counter[str] = Counter()
        #: Whether `start` has returned, or is about to.
        self.caught_up = False
        self._conf = conf
        self._topic = topic
        self._what = what
        self._decode = decode
        self._apply = apply
        self._on_progress = on_progress
        self._first = first
        self._keep_offsets = keep_offsets
        self._offsets: dict[str, int] = {}  # of the value in force, by key
        self._reached: dict[int, int] = {}  # by partition, one past what is applied
        self._waiters: list[tuple[Mapping[int, int], asyncio.Future[None]]] = []
        self._trouble = _Trouble(topic)
        self._callbacks: list[Callable[[V | None, V | None], None]] = []
        self._thread = threading.Thread(target=self._run, name=f"table {topic}", daemon=True)
        self._stopping = threading.Event()
        # One batch is applied while the next is decoded: a slow loop slows the thread.
        self._applied = threading.Semaphore(1)
        # Written by the thread, read by the loop.
        self._lags: dict[int, int] = {}

    def on_change(self, callback: Callable[[V | None, V | None], None]) -> None:
        """Call it with (old, new) after each change. A value written again as it was is no change."""
        self._callbacks.append(callback)

    # --- life -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Follow the topic; returns when what it held at the time of the call is applied.

        TableError when that cannot come by waiting: the topic is missing, or access is denied. While no
        broker answers, it logs and goes on asking.
        """
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread.start()
        try:
            await asyncio.wait([self._ready, self._ended], return_when=asyncio.FIRST_COMPLETED)
            if not self.caught_up:
                self._ended.result()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop following, within `STOP_SECONDS`; what was applied stays. Does nothing when it never started."""
        self._stopping.set()
        if self._thread.ident is None:
            return
        await asyncio.to_thread(self._thread.join, STOP_SECONDS)
        if self._thread.is_alive():
            log.warning("the consumer of %s did not close in %g s; it is left behind", self._topic, STOP_SECONDS)

    async def wait(self) -> None:
        """Returns after `stop`; raises what made it stop following by itself, a defect or a TableError."""
        await asyncio.shield(self._ended)

    def offset_of(self, key: str) -> int | None:
        """Where the value in force of this key stands; None when it has none. Only with `keep_offsets`."""
        return self._offsets.get(key)

    async def reach(self, positions: Mapping[int, int]) -> None:
        """Returns once everything below these offsets, by partition, is applied.

        TableError when the topic is not followed any more. While Kafka does not answer, it waits.
        """
        if self._has_reached(positions):
            return
        waiter = self._loop.create_future()
        self._waiters.append((positions, waiter))
        await asyncio.wait([waiter, self._ended], return_when=asyncio.FIRST_COMPLETED)
        if not waiter.done():
            self._ended.result()
            raise TableError(f"the table of {self._topic} has stopped; start again")

    @property
    def topic(self) -> str:
        """What is followed."""
        return self._topic

    @property
    def trouble(self) -> str:
        """What keeps it from being up to date, as far as that is known; empty when all is well."""
        if self._ended.done():
            return f"{self._topic} is not followed any more"
        return self._trouble.said

    def lag(self) -> int:
        """How many offsets it is behind the topic, as of the last batch; 0 until Kafka first answers."""
        return sum(list(self._lags.values()))

    # --- on the event loop ----------------------------------------------------------------------------------

    def _take_in(
        self,
        changes: list[V | str | _Bad],
        places: list[tuple[bytes | None, int]],
        reached: dict[int, int],
        progress: tuple[int, int] | None,
        caught_up: bool,
    ) -> None:
        if self._stopping.is_set():
            return
        for change in changes:
            if isinstance(change, _Bad):
                self.bad[change.reason] += 1
                message = "%s[%d] offset %d is no %s, and changes none: %s (%s)"
                log.error(message, *change[:3], self._what, change.detail, change.reason)
            else:
                self._tell(self._apply(change), None if isinstance(change, str) else change)
        for (key, offset), change in zip(places, changes, strict=False):  # places are kept by who asked for them
            self._keep_offset(key, offset, change)
        self._reached = reached
        self._wake()
        if caught_up:
            self.caught_up = True
            self._ready.set_result(None)
        self._applied.release()
        if progress is not None and self._on_progress is not None:
            self._on_progress(*progress)

    def _keep_offset(self, key: bytes | None, offset: int, change: V | str | _Bad) -> None:
        name = (key or b"").decode("utf-8", "replace")
        if isinstance(change, str):
            self._offsets.pop(name, None)
        elif not isinstance(change, _Bad):
            self._offsets[name] = offset

    def _has_reached(self, positions: Mapping[int, int]) -> bool:
        return all(self._reached.get(partition, 0) >= position for partition, position in positions.items())

    def _wake(self) -> None:
        if not self._waiters:
            return
        waiting, self._waiters = self._waiters, []
        for positions, waiter in waiting:
            if waiter.cancelled():
                continue
            if self._has_reached(positions):
                waiter.set_result(None)
            else:
                self._waiters.append((positions, waiter))

    def _tell(self, old: V | None, new: V | None) -> None:
        if old == new:
            return
        for callback in self._callbacks:
            try:
                callback(old, new)
            except Exception:  # a listener's defect must not make the table miss changes
                log.exception("a listener of %s failed", self._topic)

    def _end(self, error: BaseException | None) -> None:
        if error is None:
            self._ended.set_result(None)
            return
        self._ended.set_exception(error)
        self._ended.exception()  # seen: `start` or `wait` raise it, if anyone asks
        if self.caught_up:
            log.error("%s is not followed any more: %s", self._topic, error)

    # --- in the thread --------------------------------------------------------------------------------------

    def ask_loop(self, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """For `decode`: the answer of a coroutine of the loop, asked for again while the registry is out of reach."""

        def ask() -> T:
            answer = asyncio.run_coroutine_threadsafe(question(), self._loop)
            while not concurrent.futures.wait([answer], POLL_SECONDS).done:
                if self._stopping.is_set():
                    answer.cancel()
                    raise _StoppedError
            return answer.result()

        return self._ask(ask)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._follow()
        except _StoppedError:
            pass
        except BaseException as defect:  # noqa: BLE001 - raised again by `start` or `wait`
            error = defect
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(self._end, error)

    def _follow(self) -> None:
        errors: list[KafkaError] = []
        consumer = self._consumer(errors)
        trouble = self._trouble
        try:
            ends = self._ask(lambda: self._ends(consumer, errors, trouble))
            self._lags = {partition: high - low for partition, (low, high) in ends.items()}
            positions = {partition: low for partition, (low, _) in ends.items()}
            # Where there is nothing to read, too, the first answer is waited for: it may be that reading is denied.
            behind = {partition: high for partition, (_, high) in ends.items()}
            total = sum(self._lags.values())
            consumer.assign([TopicPartition(self._topic, p, self._beginning(*ends[p])) for p in ends])
            if not behind:
                self._hand_over([], [], positions, (0, 0), caught_up=True)
            while True:
                # `consume(n)` waits for n records: so the first is waited for, and the rest taken as it is.
                messages = cast(list[_Message], consumer.consume(1, POLL_SECONDS))
                if messages:
                    messages += cast(list[_Message], consumer.consume(BATCH_RECORDS - 1, 0))
                self._check_stopping()
                changes, places, ended = self._take(messages, positions, errors)
                for error in errors:
                    trouble.meet(error, starting=bool(behind))
                errors.clear()
                if not changes and not ended:
                    continue
                trouble.clear()
                self._measure(consumer, positions, ended)
                was_behind = bool(behind)
                behind = {
                    p: end
                    for p, end in behind.items()
                    if p not in ended and (positions[p] < end or positions[p] == ends[p][0])
                }
                left = sum(end - positions[p] for p, end in behind.items())
                progress = (total - left, total) if was_behind else None
                self._hand_over(changes, places, positions, progress, caught_up=was_behind and not behind)
        finally:
            consumer.close()

    def _beginning(self, low: int, high: int) -> int:
        return OFFSET_BEGINNING if self._first is None else self._first(low, high)

    def _consumer(self, errors: list[KafkaError]) -> Consumer:
        try:
            return Consumer(
                {
                    "queued.max.messages.kbytes": PREFETCH_KIB_MAX,
                    # A fetch of committed records is not answered when a transaction ends, but when its wait does: who
                    # waits to read what was written waits for that.
                    "fetch.wait.max.ms": OWN_WAIT_MS if self._keep_offsets else WAIT_MS,
                    "fetch.queue.backoff.ms": 10,  # or it pauses for a second whenever it has fetched that
                    **self._conf,
                    **unsubscribed("table"),
                    "error_cb": errors.append,
                }
            )
        except KafkaException as error:
            raise TableError(f"the Kafka settings are wrong: {error.args[0].str()}; correct them") from None

    def _ends(self, consumer: Consumer, errors: list[KafkaError], trouble: _Trouble) -> dict[int, tuple[int, int]]:
        """(first, next) offset of every partition as of now; TableError, or KafkaException to try again."""
        try:
            topic = consumer.list_topics(self._topic, REQUEST_SECONDS).topics[self._topic]
            if topic.error is not None:
                raise KafkaException(topic.error)
            # For a read_committed consumer, the end is that of what is committed: no open transaction is
            # waited for.
            return {
                p: consumer.get_watermark_offsets(TopicPartition(self._topic, p), REQUEST_SECONDS)
                for p in topic.partitions
            }
        except KafkaException as error:
            consumer.poll(0)  # lets librdkafka say why: `error_cb`
            for cause in [*errors, error.args[0]]:
                trouble.refuse(cause)
            errors.clear()
            raise

    def _take(
        self, messages: list[_Message], positions: dict[int, int], errors: list[KafkaError]
    ) -> tuple[list[V | str | _Bad], list[tuple[bytes | None, int]], set[int]]:
        """The changes that the messages ask for, where they stand, and the partitions that are at their end after
        them."""
        changes: list[V | str | _Bad] = []
        places: list[tuple[bytes | None, int]] = []
        ended: set[int] = set()
        for message in messages:
            error, partition = message.error(), message.partition()
            if error is None:
                changes.append(self._change(message))
                if self._keep_offsets:
                    places.append((message.key(), message.offset()))
                positions[partition] = message.offset() + 1
                ended.discard(partition)
            elif error.code() == KafkaError._PARTITION_EOF:
                positions[partition] = message.offset()
                ended.add(partition)
            else:
                errors.append(error)
        return changes, places, ended

    def _change(self, message: _Message) -> V | str | _Bad:
        try:
            return self._decode(message.key(), message.value())
        except UndecodableError as error:
            reason, detail = error.reason, error.detail
        except UnknownSchemaError as error:
            reason, detail = "unknown_schema", str(error)
        return _Bad(message.topic(), message.partition(), message.offset(), reason, detail)

    def _measure(self, consumer: Consumer, positions: dict[int, int], ended: set[int]) -> None:
        for partition, position in positions.items():
            _, high = consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
            # Between the end of what is committed and the high watermark is nothing that could be read.
            self._lags[partition] = 0 if partition in ended else max(0, high - position)

    def _hand_over(
        self,
        changes: list[V | str | _Bad],
        places: list[tuple[bytes | None, int]],
        positions: dict[int, int],
        progress: tuple[int, int] | None,
        *,
        caught_up: bool,
    ) -> None:
        while not self._applied.acquire(timeout=POLL_SECONDS):
            self._check_stopping()
        self._loop.call_soon_threadsafe(self._take_in, changes, places, dict(positions), progress, caught_up)

    def _ask(self, question: Callable[[], T]) -> T:
        """Ask Kafka or the registry until there is an answer, more and more seldom."""
        delay = RETRY_SECONDS_MIN
        while True:
            self._check_stopping()
            try:
                return question()
            except RegistryUnavailableError as error:
                reason = str(error)
            except KafkaException as error:
                reason = error.args[0].str()
            log.warning("%s: %s; trying again", self._topic, reason)
            self._stopping.wait(delay)
            delay = min(2 * delay, RETRY_SECONDS_MAX)

    def _check_stopping(self) -> None:
        if self._stopping.is_set():
            raise _StoppedError
