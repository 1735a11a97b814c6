"""Frames: a Faust transport on librdkafka, for agents that work on many records at a time.

`broker="frames://host:9092"` makes every agent receive `schemas.frame.Frame` objects, up to 500 records of one
partition, instead of single messages: Faust's cost is then paid once a frame. What Faust does not do here, because it
would lose or stall (design.md, "Faust traps"): its offset bookkeeping (a ledger per partition instead), its
stop-the-world rebalance (only the partitions that move are touched), and tables (follow a compacted topic instead, as
`connectors/subscriptions.py`).

Two consumers for each app. One is the group's member: it joins, is told what moves, commits, and fetches nothing. The
other fetches what the member was assigned. With one consumer for both, librdkafka pauses all its partitions while the
callback for those that move waits for what is in flight, and polling inside the callback ends the process
(confluent_kafka keeps its thread state in one place); with two, a partition that stays notices nothing.

Threads: one for each consumer makes all calls to it, everything else happens on the event loop. A batch of frames goes
to the loop for each free place in hand; when no place frees up, nothing is fetched, and librdkafka reads ahead up to
its bound.

A partition's ledger is its epoch: given up in order, what is in flight gets a deadline to be settled first
(`on_revoke`); lost, the ledger is closed at once and nothing of it may be written.

This file does not decide what may be committed (the ledger does, injected: connectors know no `streams`), and does not
write: transactions are `connectors/publisher.py`, threads `connectors/consumer_thread.py`, the merging of commits
`connectors/commits.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import faust
import msgspec
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka import Consumer as KafkaConsumer
from confluent_kafka.admin import AdminClient, ConfigResource
from faust.exceptions import ImproperlyConfigured
from faust.transport import base
from faust.transport.consumer import Consumer as FaustConsumer
from faust.transport.producer import Producer as FaustProducer
from faust.types import TP, ConsumerMessage, RecordMetadata
from yarl import URL

from connectors.admin import silent_logger
from connectors.clock import SystemClock
from connectors.commits import Commits
from connectors.consumer_thread import ConsumerThread
from connectors.kafka_rights import DENIED, denied
from connectors.no_tables import NoTables
from schemas.frame import Frame, OffsetLedger

logger = logging.getLogger(__name__)

GroupProtocol = Literal["consumer", "classic"]

#: Called with the partitions that are about to be given up; returns when what was in flight is settled or the deadline
#: passed.
OnRevoke = Callable[[list[tuple[str, int]]], Awaitable[None]]

#: Makes the ledger of a newly assigned partition from (topic, partition, position, committed metadata).
NewLedger = Callable[[str, int, int, str | None], OffsetLedger]

_POLL_S = 0.05  # also how long a call to a consumer may wait for its turn
_CALL_TIMEOUT_S = 30.0
_SAID_AGAIN_S = 10.0  # that no broker answers: librdkafka says so at each try to connect
_COMMIT_AGAIN_S = 0.5

#: What is in flight gets so long to end when a classic group rebalances: it takes all partitions away, also those that
#: come back a moment later, and nothing of them moves meanwhile.
CLASSIC_DRAIN_S = 0.5

#: Waits for the committed offsets, in seconds: short at first, since the group's epoch may move on meanwhile and
#: transactions need to know. An open transaction of the last owner takes up to its time-out.
_COMMITTED_TIMEOUTS_S = (0.25, 0.5, 1.0, 2.0, 5.0)
#: Asking again for committed offsets does not help.
_HOPELESS = frozenset(
    {
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError._UNSUPPORTED_FEATURE,
        KafkaError._FATAL,
    }
)
#: The group has gone on without this member: what was assigned is not ours, and a callback will say so.
_STALE = frozenset(
    {
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.GROUP_ID_NOT_FOUND,
    }
)


class FrameApp(faust.App):
    """A Faust app with a place for its frame settings; any other app works too, with the transport's defaults.

    `on_crash` is told when the app cannot go on: run outside Faust's own worker, nobody else would notice.
    """

    frame_settings: FrameSettings | None = None
    on_crash: Callable[[BaseException], None] | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        """As `faust.App`."""
        super().__init__(*args, **{"TableManager": NoTables, **options})

    async def crash(self, reason: BaseException) -> None:
        """Tell, then crash."""
        if self.on_crash is not None:
            self.on_crash(reason)
        await super().crash(reason)

    def _create_directories(self) -> None:
        """None: Faust would make a data folder for tables where the worker runs, and there are no tables here."""


class FrameSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How an app's consumer works; set it as `app.frame_settings` before the app starts.

    `ledger(topic, partition, position, metadata)` makes the ledger of a newly assigned partition. With `commits=True`,
    a frame that an agent is done with counts as finished, and offsets are committed every `broker_commit_interval`;
    with False, the owner of the ledgers commits (in transactions). `consumer` holds librdkafka settings that win over
    ours.
    """

    ledger: NewLedger
    consumer: Mapping[str, Any] = {}
    group_protocol: GroupProtocol | None = None  # None: ask the broker
    commits: bool = True
    on_revoke: OnRevoke | None = None
    frame_records_max: int = 500
    batches_in_hand_max: int = 4


def group_protocol(client_config: Mapping[str, Any], timeout_s: float = 10.0) -> GroupProtocol:
    """The newest group protocol that the cluster's coordinators accept.

    Brokers say so in `group.coordinator.rebalance.protocols` (KIP-848, from 3.7 on); one that does not know the setting
    knows only classic groups. Where reading broker settings is not allowed, KIP-848 is assumed: a broker that refuses
    it is a clear error then. KafkaException when no broker answers.
    """
    admin = AdminClient(dict(client_config), logger=silent_logger())
    broker_id = next(iter(admin.list_topics(timeout=timeout_s).brokers))
    resource = ConfigResource(ConfigResource.Type.BROKER, str(broker_id))
    try:
        settings = admin.describe_configs([resource], request_timeout=timeout_s)[resource].result()
    except KafkaException as error:
        if error.args[0].code() == KafkaError.CLUSTER_AUTHORIZATION_FAILED:
            return "consumer"
        raise
    entry = settings.get("group.coordinator.rebalance.protocols")
    accepted = entry.value.split(",") if entry is not None and entry.value else []
    return "consumer" if "consumer" in accepted else "classic"


def consumer_config(bootstrap: str, group: str, protocol: GroupProtocol, extra: Mapping[str, Any]) -> dict[str, Any]:
    """librdkafka settings for a member of a group that commits only what it says itself."""
    config: dict[str, Any] = {
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "group.protocol": protocol,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        # Bounds what is prefetched in all, whatever the backlog; librdkafka's default is 64 MiB.
        "queued.max.messages.kbytes": 16_384,
        # With 250, half of all deliveries took 18 ms longer: readers of committed records wait a while for what is in a
        # transaction. With less than 100, idle roles ask more often, and nothing is gained.
        "fetch.wait.max.ms": 100,
        # A fetch that found nothing is not held back: latency matters more than a few empty fetches. Nor, for a second,
        # is the next one when enough was read ahead.
        "fetch.error.backoff.ms": 100,
        "fetch.queue.backoff.ms": 20,
    }
    if protocol == "consumer":
        # `range` puts equal partitions of equally partitioned topics into one member.
        config["group.remote.assignor"] = "range"
    else:
        config["partition.assignment.strategy"] = "range"
    config.update(extra)
    return config


_MEMBER_ONLY = frozenset(
    {
        "group.instance.id",
        "group.protocol",
        "group.remote.assignor",
        "heartbeat.interval.ms",
        "max.poll.interval.ms",
        "partition.assignment.strategy",
        "session.timeout.ms",
    }
)


def fetcher_config(member: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for the consumer that fetches what the member was assigned; it joins no group."""
    return {name: value for name, value in member.items() if name not in _MEMBER_ONLY}


class FrameMessage(ConsumerMessage):
    """Faust's envelope of a frame. Faust's compiled stream does not call `ack`; all it does for certain is to set
    `acked`."""

    __slots__ = ("_acked", "_done")

    def __init__(self, frame: Frame, tp: TP, generation_id: int, done: Callable[[Frame], None]) -> None:
        """`done` is told once when every agent that received the frame is done with it."""
        self._acked = False
        self._done = done
        last = frame.records[-1]
        kind, timestamp_ms = last.timestamp()
        super().__init__(
            tp.topic, tp.partition, last.offset(), timestamp_ms / 1000, kind, [], None, cast(Any, frame), None, 0, 0,
            tp,
            generation_id=generation_id,
        )  # fmt: skip

    @property
    def acked(self) -> bool:
        """Whether every agent is done with the frame."""
        return self._acked

    @acked.setter
    def acked(self, acked: bool) -> None:
        first = acked and not self._acked
        self._acked = acked
        if first:
            self._done(cast(Any, self.value))


class _Epoch:
    """One assignment of a partition. The ledger is missing where nothing was committed and nothing was read yet: its
    start is where the first record is."""

    __slots__ = ("ledger", "over", "start")

    def __init__(self, ledger: OffsetLedger | None) -> None:
        self.ledger = ledger
        self.start = 0  # what was committed when it began
        self.over = False  # given up or lost: no ledger is made any more


class FrameConsumer(FaustConsumer):
    """Faust's consumer port on `confluent_kafka.Consumer`, handing over frames."""

    consumer_stopped_errors: ClassVar[tuple[type[BaseException], ...]] = ()

    def __init__(self, transport: Transport, *args: Any, **kwargs: Any) -> None:
        super().__init__(transport, *args, **kwargs)
        settings = getattr(self.app, "frame_settings", None) or transport.default_settings()
        if not isinstance(settings, FrameSettings):
            raise ImproperlyConfigured("app.frame_settings must be a connectors.frames.FrameSettings")
        if len(self.app.tables):
            raise ImproperlyConfigured("frames:// carries no table changelogs; follow a compacted topic instead")
        self.settings = settings
        self._member: ConsumerThread | None = None
        self._fetcher: ConsumerThread | None = None
        self._in_hand = threading.Semaphore(settings.batches_in_hand_max)
        self._batches: asyncio.Queue[list[Frame]] = asyncio.Queue()  # bounded by _in_hand
        self._main_loop: asyncio.AbstractEventLoop | None = None
        self._clock = SystemClock()
        self._away_said_s = -_SAID_AGAIN_S
        # Written by the member's thread. What the fetcher's thread fetches, and for which epoch, lags behind it by a
        # turn, and so a record never gets a ledger of an epoch that it was not fetched in.
        self._epochs: dict[tuple[str, int], _Epoch] = {}
        self._fetched: dict[tuple[str, int], _Epoch] = {}
        self._beginning = threading.Lock()  # a ledger is made by either thread, and ended by the member's
        self._assigned: set[TP] = set()
        self._committed: dict[tuple[str, int], tuple[int, str]] = {}
        self._held: set[tuple[str, int]] = set()  # paused by the stage
        self._commits = Commits(self._is_ours, self._commit_again)
        self._group: object = None
        # Being closed, and its partitions given back: librdkafka ends the member now, and what is asked of it from here
        # on may wait for an answer for ever.
        self._left = False
        self._protocol: GroupProtocol = "consumer"
        self.rebalances = 0
        # Faust's own bookkeeping, which its compiled stream writes to: all offsets count as committed there, so that it
        # keeps none.
        self._committed_offset = defaultdict(lambda: 1 << 63)

    # --- life cycle -------------------------------------------------------------------------------

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Join the group. Called by Faust's conductor once the agents have started, and again when topics change."""
        self._main_loop = asyncio.get_running_loop()
        names = sorted(topics)
        if self._member is not None:
            await asyncio.wrap_future(self._member.call(self._subscribe, names))
            return
        bootstrap = ",".join(f"{url.host}:{url.port or 9092}" for url in self.transport.url)
        client = {"bootstrap.servers": bootstrap, **_security(self.settings.consumer)}
        if self.settings.group_protocol is None:
            self._protocol = await asyncio.to_thread(group_protocol, client)
        else:
            self._protocol = self.settings.group_protocol
        group = self.app.conf.id
        config = consumer_config(bootstrap, group, self._protocol, self.settings.consumer)
        member = KafkaConsumer({**config, "error_cb": self._on_error, "on_commit": self._on_commit}, logger=logger)
        fetcher = KafkaConsumer({**fetcher_config(config), "error_cb": self._on_fetch_error}, logger=logger)
        self._member = ConsumerThread(f"member-{group}", member, self._tend, self._fail)
        self._fetcher = ConsumerThread(f"fetch-{group}", fetcher, self._fetch, self._fail)
        self._subscribe(member, names)
        self.app.flow_control.resume()  # once: resuming clears the agents' queues
        # No tables, nothing to recover: Faust's start waits for this.
        cast(Any, self.app.tables).recovery.completed.set()
        self.add_future(self._pump())
        self._member.start()
        self._fetcher.start()

    def _subscribe(self, member: KafkaConsumer, topics: list[str]) -> None:
        member.subscribe(topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)

    async def on_stop(self) -> None:
        """Fetch no more, and leave the group: the member's thread runs the revoke callbacks, which settle what they
        can."""
        self.close()
        for thread in (self._fetcher, self._member):
            if thread is not None:
                await asyncio.to_thread(thread.join)

    def quiesce(self) -> None:
        """Fetch no more, stay in the group: the first step of an orderly stop."""
        for tp in self._assigned:
            self.hold(tp.topic, tp.partition)

    def ledger(self, topic: str, partition: int) -> OffsetLedger | None:
        """Of the partition's present epoch; None when it is not ours, or nothing of it was ever committed or read."""
        return self._ledger((topic, partition))

    def _ledger(self, key: tuple[str, int]) -> OffsetLedger | None:
        epoch = self._epochs.get(key)
        return epoch.ledger if epoch is not None else None

    @property
    def threads(self) -> Sequence[ConsumerThread]:
        """The two, once the group was joined."""
        return [thread for thread in (self._member, self._fetcher) if thread is not None]

    def group_metadata(self) -> object:
        """What a transactional producer needs to commit offsets as this member, as of the last poll. RuntimeError
        before joining."""
        if self._group is None:
            raise RuntimeError("the consumer has not joined its group yet")
        return self._group

    async def committed(self, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, str]] | None:
        """What the group has, (next offset, metadata) by topic and partition; what it has not is left out. Waits for an
        answer; None when there is none to be had. RuntimeError before joining."""
        if self._member is None:
            raise RuntimeError("the consumer has not joined its group yet")
        wanted = [TopicPartition(topic, partition) for topic, partition in places]
        answered = await asyncio.wrap_future(self._member.call(self._committed_of, wanted))
        if answered is None:
            return None
        return {(one.topic, one.partition): (one.offset, one.metadata or "") for one in answered if one.offset >= 0}

    # --- pause and resume, by the owner of a partition's records ----------------------------------

    def hold(self, topic: str, partition: int) -> None:
        """Fetch no more of this partition until `release`. What is under way still arrives."""
        key = (topic, partition)
        if key not in self._held and key in self._epochs and self._fetcher is not None:
            self._held.add(key)
            self._fetcher.call(self._apply_hold, key)

    def release(self, topic: str, partition: int) -> None:
        """Undo `hold`."""
        key = (topic, partition)
        if key in self._held and self._fetcher is not None:
            self._held.discard(key)
            self._fetcher.call(self._apply_hold, key)

    def _apply_hold(self, fetcher: KafkaConsumer, key: tuple[str, int]) -> None:
        """Bring librdkafka in line with `_held`, as it is now: calls may have crossed."""
        if key in self._fetched:
            (fetcher.pause if key in self._held else fetcher.resume)([TopicPartition(*key)])

    # --- commits, for those who write outside of transactions --------------------------------------

    def commit_soon(self, offsets: Sequence[tuple[str, int, int, str]]) -> None:
        """Have (topic, partition, next offset, metadata) committed soon, and later ones with them; waits for nothing.

        Never fails: what fails for a reason that may pass is tried again, and offsets of a partition that is not ours
        any more are dropped; its records come again elsewhere.
        """
        if self._member is not None:
            self._member.call(self._add_commits, offsets)

    def _add_commits(self, member: KafkaConsumer, offsets: Sequence[tuple[str, int, int, str]]) -> None:
        self._commits.add(offsets)
        self._commits.send(member)

    def _commit_again(self) -> None:
        member, loop = self._member, self._main_loop
        assert member is not None
        assert loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(loop.call_later, _COMMIT_AGAIN_S, member.call, self._commits.send)

    def _is_ours(self, key: tuple[str, int], offset: int) -> bool:
        """Not so for what an earlier epoch has to say about a partition that was another's since."""
        epoch = self._epochs.get(key)
        return epoch is not None and epoch.ledger is not None and epoch.ledger.live and offset >= epoch.start

    # --- the fetcher's thread ---------------------------------------------------------------------

    def _fetch(self, fetcher: KafkaConsumer) -> None:
        if not self._in_hand.acquire(timeout=_POLL_S):
            return
        # The first record is waited for, the rest is what is there: consume() alone would wait for a full batch.
        messages = fetcher.consume(1, _POLL_S)
        if messages:
            messages += fetcher.consume(self.settings.frame_records_max - 1, 0)
        frames = self._frames(messages)
        if not frames:
            self._in_hand.release()
            return
        assert self._main_loop is not None
        self._main_loop.call_soon_threadsafe(self._batches.put_nowait, frames)

    def _fetch_from(
        self, fetcher: KafkaConsumer, starts: list[TopicPartition], epochs: dict[tuple[str, int], _Epoch]
    ) -> None:
        self._fetched.update(epochs)
        fetcher.incremental_assign(starts)
        # librdkafka remembers that a partition was paused when it was last ours.
        for key in epochs:
            self._apply_hold(fetcher, key)

    def _fetch_no_more(self, fetcher: KafkaConsumer, keys: Iterable[tuple[str, int]]) -> None:
        ended = [key for key in keys if key in self._fetched]
        for key in ended:
            del self._fetched[key]
        fetcher.incremental_unassign([TopicPartition(*key) for key in ended])

    def _frames(self, messages: list[Any]) -> list[Frame]:
        by_partition: dict[tuple[str, int], list[Any]] = {}
        for message in messages:
            if message.error() is not None:
                self._on_record_error(message.error(), message)
                continue
            key = (message.topic(), message.partition())
            records = by_partition.get(key)
            if records is None:
                by_partition[key] = [message]
            else:
                records.append(message)
        frames = []
        for key, records in by_partition.items():
            epoch = self._fetched.get(key)
            if epoch is None:
                continue
            ledger = epoch.ledger or self._begin(epoch, key, records[0].offset())
            if ledger is not None:
                frames.append(Frame(*key, records, ledger))
        return frames

    def _begin(self, epoch: _Epoch, key: tuple[str, int], offset: int) -> OffsetLedger | None:
        """None when the partition has just been taken away."""
        with self._beginning:
            if not epoch.over:
                epoch.ledger = self.settings.ledger(*key, offset, None)
        return epoch.ledger

    def _on_record_error(self, error: KafkaError, message: Any) -> None:
        """An error in the place of a record. Those of one partition pass or are an operator's matter; fatal ones end
        the app."""
        if error.fatal() or error.code() == KafkaError._FATAL:
            raise KafkaException(error)
        if error.code() in DENIED:
            raise denied(error, "READ", topic=message.topic() or "", group=self.app.conf.id)
        logger.warning("%s[%s] of group %s: %s", message.topic(), message.partition(), self.app.conf.id, error.str())

    def _on_error(self, error: KafkaError) -> None:
        """librdkafka's view of the cluster; it goes on trying by itself unless the error is fatal."""
        if error.code() == KafkaError._FATAL:
            self._fail(KafkaException(error))
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            now = self._clock.monotonic()
            if now - self._away_said_s >= _SAID_AGAIN_S:
                self._away_said_s = now
                logger.warning("no broker answers; waiting for the cluster: %s", error.str())
        else:
            logger.info("kafka: %s", error.str())

    def _on_fetch_error(self, error: KafkaError) -> None:
        """The same for the fetcher, which sees what the member sees: that is said once."""
        if error.code() == KafkaError._FATAL:
            self._fail(KafkaException(error))
        else:
            logger.debug("kafka, fetching: %s", error.str())

    def _fail(self, error: Exception) -> None:
        hint = ""
        if "ConsumerGroupHeartbeat" in str(error):
            hint = " (this cluster takes classic groups only: set group_protocol to classic)"
        logger.error("the consumer of %s stops: %s%s", self.app.conf.id, error, hint)
        loop = self._main_loop
        if loop is not None and not loop.is_closed():
            asyncio.run_coroutine_threadsafe(self.app.crash(error), loop)

    # --- the member's thread ----------------------------------------------------------------------

    def _tend(self, member: KafkaConsumer) -> None:
        self._read_group(member)
        message = member.poll(_POLL_S)
        if message is not None:
            error = message.error()
            if error is None:
                raise RuntimeError("a record arrived at the consumer that is only a member")
            self._on_record_error(error, message)

    def _serve(self, member: KafkaConsumer) -> None:
        """What goes on while a callback waits."""
        if not self._left:
            self._read_group(member)
        assert self._member is not None
        self._member.serve()

    def _read_group(self, member: KafkaConsumer) -> None:
        with contextlib.suppress(
            RuntimeError
        ):  # a member that has just left a classic group has none; the last is refused
            self._group = member.consumer_group_metadata()

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        assert self._member is not None
        self._commits.answered(self._member.consumer, error, partitions)

    # --- rebalance callbacks: on the member's thread, inside poll() or close() ---------------------

    def _on_assign(self, member: KafkaConsumer, partitions: list[TopicPartition]) -> None:
        self.rebalances += 1
        assert self._fetcher is not None
        committed = self._committed_of(member, partitions) if partitions else []
        if self._protocol == "consumer":
            member.incremental_assign([])  # the member fetches nothing
        else:
            member.assign([])
        if committed is None:
            return
        epochs = {(one.topic, one.partition): _Epoch(None) for one in partitions}
        starts = []
        for one in committed:
            key = (one.topic, one.partition)
            start = OFFSET_INVALID  # as `auto.offset.reset` says
            if one.offset >= 0:
                ledger = epochs[key].ledger = self.settings.ledger(*key, one.offset, one.metadata)
                start = epochs[key].start = ledger.progress()[0]
            starts.append(TopicPartition(*key, start))
        self._epochs.update(epochs)
        added = {TP(*key) for key in epochs}
        logger.info("group %s: assigned %s", self.app.conf.id, _names(added))
        self._on_loop(member, self._now_assigned(self._assigned | added))
        if starts:
            self._fetcher.call(self._fetch_from, starts, epochs)

    def _committed_of(self, member: KafkaConsumer, partitions: list[TopicPartition]) -> list[TopicPartition] | None:
        """What the group has committed; None when there is no use in waiting for the answer any more."""
        assert self._member is not None
        for timeout_s in itertools.chain(_COMMITTED_TIMEOUTS_S, itertools.repeat(_COMMITTED_TIMEOUTS_S[-1])):
            try:
                committed = member.committed(partitions, timeout=timeout_s)
                errors = [one.error for one in committed if one.error is not None]
            except KafkaException as exception:
                errors = [exception.args[0]]
            if not errors:
                return committed
            if self._member.halted.is_set() or errors[0].code() in _STALE:
                return None
            if errors[0].fatal() or errors[0].code() in _HOPELESS:
                raise KafkaException(errors[0])
            if timeout_s >= 1:
                logger.warning("group %s: no committed offsets yet: %s; waiting", self.app.conf.id, errors[0].str())
            self._serve(member)
        raise AssertionError("the waits do not end")

    def _on_revoke(self, member: KafkaConsumer, partitions: list[TopicPartition]) -> None:
        self.rebalances += 1
        given_up = {TP(p.topic, p.partition) for p in partitions}
        keys = [(tp.topic, tp.partition) for tp in given_up]
        logger.info("group %s: giving up %s", self.app.conf.id, _names(given_up))
        with self._beginning:
            for epoch in [self._epochs[key] for key in keys if key in self._epochs]:
                epoch.over = True
                if epoch.ledger is not None:
                    # Frames on their way to an agent come too late: nobody would wait for what they start.
                    epoch.ledger.retire()
        assert self._fetcher is not None
        self._fetcher.call(self._fetch_no_more, keys)
        if self.settings.on_revoke is not None:
            self._on_loop(member, self._drain(self.settings.on_revoke, keys))
        if self.settings.commits:
            self._on_loop(member, self._commit_before_giving_up())
        self._serve(member)  # commits that were asked for
        self._commits.flush(member, keys)
        self._end(member, given_up)

    async def _drain(self, on_revoke: OnRevoke, keys: list[tuple[str, int]]) -> None:
        assert self._member is not None
        if self._protocol == "consumer" or self._member.halted.is_set():  # nobody else waits, or nothing else goes on
            await on_revoke(keys)
            return
        try:
            async with asyncio.timeout(CLASSIC_DRAIN_S):
                await on_revoke(keys)
        except TimeoutError:
            logger.info(
                "group %s: what is in flight after %s s is void and repeats; groups of the newer protocol, which keep "
                "what does not move, are given more time",
                self.app.conf.id,
                CLASSIC_DRAIN_S,
            )

    def _on_lost(self, member: KafkaConsumer, partitions: list[TopicPartition]) -> None:
        """The group went on without us: somebody else may own these partitions by now."""
        self.rebalances += 1
        lost = {TP(p.topic, p.partition) for p in partitions}
        logger.warning("group %s: lost %s", self.app.conf.id, _names(lost))
        assert self._fetcher is not None
        self._fetcher.call(self._fetch_no_more, [(tp.topic, tp.partition) for tp in lost])
        self._end(member, lost)

    def _end(self, member: KafkaConsumer, partitions: set[TP]) -> None:
        """End the epochs, tell the group, then the agents."""
        for tp in partitions:
            key = (tp.topic, tp.partition)
            epoch = self._epochs.pop(key, None)
            if epoch is not None:
                with self._beginning:
                    epoch.over = True
                if epoch.ledger is not None:
                    epoch.ledger.close()
            self._held.discard(key)
            self._committed.pop(key, None)
        self._commits.drop([(tp.topic, tp.partition) for tp in partitions])
        assert self._member is not None
        self._left = self._member.halted.is_set()
        if self._protocol == "consumer":
            member.incremental_unassign([])  # it has nothing: this says that we are done
        else:
            member.unassign()
        self._on_loop(member, self._now_assigned(self._assigned - partitions))

    async def _now_assigned(self, assigned: set[TP]) -> None:
        """Tell Faust's conductor which agents get which partitions; agents on partitions that stay notice nothing."""
        before, self._assigned = self._assigned, assigned
        await self.app.topics.on_partitions_assigned(assigned)
        if before - assigned:
            await self.app.on_partitions_revoked.send(before - assigned)
        if assigned - before:
            await self.app.on_partitions_assigned.send(assigned)

    def _on_loop(self, member: KafkaConsumer, work: Awaitable[None]) -> None:
        """Run on the event loop and wait for it, from the member's thread; not past the loop's own end.

        Calls to the member are served meanwhile, since the work may need them.
        """
        loop = self._main_loop
        assert loop is not None

        async def run() -> None:
            await work

        future = asyncio.run_coroutine_threadsafe(run(), loop)
        while not loop.is_closed():
            self._serve(member)
            try:
                future.result(timeout=0.005)
                return
            except TimeoutError:
                if future.done():
                    raise

    # --- the event loop ---------------------------------------------------------------------------

    async def _pump(self) -> None:
        """Pass frames to the agents. Waits while an agent's queue is full, which fills our hands and stops the
        fetching."""
        while not self.should_stop:
            frames = await self._batches.get()
            for frame in frames:
                if not frame.ledger.live or frame.ledger.retiring:  # given up while it waited here
                    continue
                if self.settings.commits:
                    frame.open()
                    if not frame.records:
                        continue
                tp = TP(frame.topic, frame.partition)
                await self.callback(self._message(tp, frame))
            self._in_hand.release()

    def _message(self, tp: TP, frame: Frame) -> FrameMessage:
        return FrameMessage(frame, tp, self.app.consumer_generation_id, self._done)

    def _done(self, frame: Frame) -> None:
        """No agent needs the frame any more. At a stop that says nothing: Faust takes a cancelled agent for one that is
        done."""
        if self.settings.commits and not self.app.should_stop:
            frame.ledger.finish_all([record.offset() for record in frame.records])

    def ack(self, message: Any) -> bool:
        """An agent is done with a frame."""
        message.acked = True
        return True

    def track_message(self, message: Any) -> None:
        """Nothing: the ledger tracks."""

    async def force_commit(self, topics: object = None, start_new_transaction: bool = True) -> bool:
        """Commit what the ledgers say, where committing is ours."""
        if not self.settings.commits or self._member is None or self._member.halted.is_set():
            return False
        try:
            return await self._commit_finished()
        except KafkaException as error:
            logger.warning(
                "committing offsets of %s failed, trying again at the next interval: %s", self.app.conf.id, error
            )
            return False

    async def _commit_before_giving_up(self) -> None:
        try:
            await self._commit_finished()
        except KafkaException as error:
            logger.warning("the last commit before giving up partitions failed, they will repeat: %s", error)

    async def _commit_finished(self) -> bool:
        changed = {}
        for key, epoch in list(self._epochs.items()):
            ledger = epoch.ledger
            if ledger is not None and ledger.live and self._committed.get(key) != (progress := ledger.progress()):
                changed[key] = progress
        if not changed:
            return False
        offsets = [TopicPartition(topic, partition, *progress) for (topic, partition), progress in changed.items()]
        assert self._member is not None
        await asyncio.wrap_future(self._member.call(_commit, offsets))
        self._committed.update(changed)
        return True

    async def commit_and_end_transactions(self) -> None:
        """At Faust's stop; the revoke callback commits for good."""
        await self.force_commit()

    async def wait_empty(self) -> None:
        """Nothing to wait for: frames that are not finished are not committed."""

    # --- the rest of Faust's consumer port --------------------------------------------------------

    def assignment(self) -> set[TP]:
        """The partitions that are ours."""
        return set(self._assigned)

    async def _drain_messages(self, fetcher: Any) -> None:
        """Faust's fetch loop is not used: the fetcher fetches."""

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        raise NotImplementedError("the ledgers commit")

    async def _getmany(self, active_partitions: object, timeout: float) -> Any:
        raise NotImplementedError("the fetcher fetches")

    def _to_message(self, tp: TP, record: Any) -> Any:
        raise NotImplementedError("the fetcher makes frames")

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    async def create_topic(self, *args: Any, **kwargs: Any) -> None:
        """Topics are created by `distributary topics apply`, never by a consumer."""

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """Faust pauses everything when it stops."""
        for tp in tps:
            self.hold(tp.topic, tp.partition)

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        for tp in tps:
            self.release(tp.topic, tp.partition)

    def stop_flow(self) -> None:
        """Nothing: flow is stopped by not polling."""

    def resume_flow(self) -> None:
        """Nothing, as above."""

    async def perform_seek(self) -> None:
        """Nothing: positions come from the committed offsets at assignment."""

    async def seek_to_committed(self) -> Mapping[TP, int]:
        return {}

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        raise NotImplementedError("to replay, reset the group's offsets (distributary replay offsets)")

    async def _seek(self, partition: TP, offset: int) -> None:
        raise NotImplementedError("to replay, reset the group's offsets (distributary replay offsets)")

    async def position(self, tp: TP) -> int | None:
        ledger = self._ledger((tp.topic, tp.partition))
        return ledger.progress()[0] if ledger is not None else None

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        return {tp: bounds[0] for tp, bounds in (await self._watermarks(partitions)).items()}

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        return {tp: bounds[1] for tp, bounds in (await self._watermarks(partitions)).items()}

    async def _watermarks(self, partitions: Iterable[TP]) -> dict[TP, tuple[int, int]]:
        if self._member is None:
            return {}

        def ask(member: KafkaConsumer) -> dict[TP, tuple[int, int]]:
            return {
                tp: member.get_watermark_offsets(TopicPartition(tp.topic, tp.partition), timeout=_CALL_TIMEOUT_S)
                for tp in partitions
            }

        return await asyncio.wrap_future(self._member.call(ask))

    def highwater(self, tp: TP) -> int:
        return 0  # Faust's monitor only; lag is measured from committed offsets

    def topic_partitions(self, topic: str) -> int | None:
        return None

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        return partition

    def close(self) -> None:
        """Faust's emergency exit."""
        for thread in (self._fetcher, self._member):
            if thread is not None:
                thread.halt()


class FrameProducer(FaustProducer):
    """For agents that `send()`: plain, idempotent, at-least-once. The engine's own writes go through
    `connectors/publisher.py`."""

    async def on_start(self) -> None:
        await super().on_start()
        settings = getattr(self.app, "frame_settings", None)
        bootstrap = ",".join(f"{url.host}:{url.port or 9092}" for url in self.transport.url)
        extra = _security(settings.consumer) if settings is not None else {}
        config = {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "linger.ms": 5,
            "compression.type": "lz4",
            "partitioner": "murmur2_random",
            **extra,
        }
        self._kafka = Producer(config, logger=logger)
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._poll_forever, name="frames-producer", daemon=True)
        self._thread.start()

    def _poll_forever(self) -> None:
        while not self._halt.is_set():
            self._kafka.poll(_POLL_S)

    async def on_stop(self) -> None:
        await self.flush()
        self._halt.set()
        await asyncio.to_thread(self._thread.join)

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: Any,
        *,
        transactional_id: str | None = None,
    ) -> Awaitable[RecordMetadata]:
        """Queue a record; the returned future has its place, or the KafkaException that it failed with."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[RecordMetadata] = loop.create_future()

        def resolve(error: KafkaError | None, message: Any) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(KafkaException(error))
            else:
                tp = TP(message.topic(), message.partition())
                future.set_result(RecordMetadata(tp.topic, tp.partition, tp, message.offset()))

        def delivered(error: KafkaError | None, message: Message) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(resolve, error, message)

        arguments: dict[str, Any] = {"on_delivery": delivered}
        if partition is not None:
            arguments["partition"] = partition
        if timestamp is not None:
            arguments["timestamp"] = int(timestamp * 1000)
        if headers:
            arguments["headers"] = list(headers.items() if isinstance(headers, Mapping) else headers)
        while True:
            try:
                self._kafka.produce(topic, value, key, **arguments)
            except BufferError:  # librdkafka's queue is full: wait for room
                await asyncio.to_thread(self._kafka.flush, _POLL_S)
            else:
                return future

    async def send_and_wait(self, *args: Any, **kwargs: Any) -> RecordMetadata:
        return await (await self.send(*args, **kwargs))

    async def flush(self) -> None:
        """Wait until everything queued is acknowledged or failed."""
        kafka = getattr(self, "_kafka", None)
        if kafka is not None:
            await asyncio.to_thread(kafka.flush)

    async def create_topic(self, *args: Any, **kwargs: Any) -> None:
        """Topics are created by `distributary topics apply`, never by a producer."""

    def key_partition(self, topic: str, key: bytes) -> TP:
        raise NotImplementedError("librdkafka partitions (murmur2_random, as Java does)")

    def supports_headers(self) -> bool:
        return True


class Transport(base.Transport):
    """`frames://`. A subclass that knows a ledger is registered as Faust's entry point (`streams/transport.py`)."""

    Consumer: ClassVar[type[FrameConsumer]] = FrameConsumer
    Producer: ClassVar[type[FrameProducer]] = FrameProducer
    default_port = 9092
    driver_version = "confluent_kafka"

    def default_settings(self) -> FrameSettings:
        """For apps that set none."""
        raise ImproperlyConfigured("set app.frame_settings to a connectors.frames.FrameSettings")


def _commit(member: KafkaConsumer, offsets: list[TopicPartition]) -> None:
    for committed in member.commit(offsets=offsets, asynchronous=False):
        if committed.error is not None:
            raise KafkaException(committed.error)


def _security(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that every client of a cluster needs alike."""
    return {name: value for name, value in settings.items() if name.startswith(("security.", "sasl.", "ssl."))}


def _names(partitions: Iterable[TP]) -> str:
    """For a log line, as `events[0-7] deliveries[0-3,5]`."""
    by_topic: dict[str, list[int]] = {}
    for tp in sorted(partitions):
        by_topic.setdefault(tp.topic, []).append(tp.partition)
    return " ".join(f"{topic}[{_ranges(numbers)}]" for topic, numbers in by_topic.items()) or "nothing"


def _ranges(numbers: list[int]) -> str:
    parts = []
    for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        parts.append(f"{members[0]}-{members[-1]}" if len(members) > 1 else str(members[0]))
    return ",".join(parts)


def urls(bootstrap: str) -> list[URL]:
    """`host:port,host:port` as the broker URLs that Faust wants."""
    return [URL(f"frames://{address.strip()}") for address in bootstrap.split(",") if address.strip()]
