"""A simulated Kafka: logs, transactions with fencing, consumer groups with member epochs, and the network to them.

What it is faithful to, because the engine's promises rest on it:

- a transaction's records take their offsets when they are produced; readers of committed records stop at the first open
  transaction (last stable offset), pass over aborted records, and find a gap where each marker stands;
- a second producer with the same transactional id fences the first and aborts what it left open, and so does the
  transaction's time-out;
- offsets of a transaction are refused from a member that the group does not know or whose epoch is old (KIP-447,
  KIP-848). The broker does *not* look at whose partition an offset is: that is the engine's matter, so the ownership at
  that moment is only written down for the checkers;
- a reader of committed offsets waits until no open transaction holds offsets of that partition;
- members are given partitions by the `range` assignor, only after the former owner said that it let go, or its session
  ran out.

Requests and answers take virtual time; while no broker answers, requests wait. This file checks nothing.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from schemas.errors import FencedError, StaleGroupError
from schemas.frame import Headers, Out
from schemas.partitions import murmur2
from tests.simulation.loop import Scheduler, VirtualLoop

if TYPE_CHECKING:
    import asyncio

#: 2025-10-09, when virtual time begins.
EPOCH_MS = 1_760_000_000_000

Partition = tuple[str, int]


def at_ms(now: float) -> int:
    """The wall clock at so many virtual seconds."""
    return EPOCH_MS + int(now * 1000 + 1e-6)


class TroubleError(Exception):
    """The broker did not do it; the transaction must be aborted and may be tried again."""


class Stored:
    """A record in a log: the `Record` protocol, so that consumers hand it over as it is."""

    __slots__ = ("_headers", "_key", "_offset", "_timestamp_ms", "_value", "partition", "topic", "transaction")

    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers | None,
        transaction: Transaction | None,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.transaction = transaction
        self._offset = offset
        self._timestamp_ms = timestamp_ms
        self._key = key
        self._value = value
        self._headers = headers

    def value(self) -> bytes | None:
        return self._value

    def key(self) -> bytes | None:
        return self._key

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return (1, self._timestamp_ms)

    def headers(self) -> Headers | None:
        return self._headers

    @property
    def committed(self) -> bool:
        """Whether readers of committed records get it."""
        return self.transaction is None or self.transaction.state == "committed"

    def __repr__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self._offset}"


class Log:
    """One partition. An entry is None where a transaction's marker stands."""

    __slots__ = ("entries", "open")

    def __init__(self) -> None:
        self.entries: list[Stored | None] = []
        self.open: dict[Transaction, int] = {}  # its first offset here; the earliest is first

    @property
    def stable_end(self) -> int:
        """Readers of committed records get what stands before this offset."""
        return next(iter(self.open.values())) if self.open else len(self.entries)

    def read(self, position: int, records_max: int) -> tuple[list[Stored], int]:
        """Committed records from the position on, and where to go on."""
        found: list[Stored] = []
        end = self.stable_end
        while position < end and len(found) < records_max:
            entry = self.entries[position]
            position += 1
            if entry is not None and entry.committed:
                found.append(entry)
        return found, position


class Transaction:
    """What one producer writes all or nothing."""

    __slots__ = ("foreign", "group", "offsets", "producer", "records", "state")

    def __init__(self, producer: ProducerSession) -> None:
        self.producer = producer
        self.state = "open"  # then committed or aborted
        self.records: list[Stored] = []
        self.group = ""
        #: (offset, metadata) by partition.
        self.offsets: dict[Partition, tuple[int, str]] = {}
        #: Partitions that were not the member's when it sent their offsets.
        self.foreign: list[Partition] = []


class ProducerSession(msgspec.Struct, eq=False):
    """One `init_transactions`: valid until the next one with this id, or until a time-out fences it."""

    transactional_id: str
    process: str
    epoch: int
    transaction: Transaction | None = None


class GroupConsumer(Protocol):
    """What a group's coordinator tells a member. Called inside the member's process."""

    loop: VirtualLoop

    def told_to_revoke(self, partitions: list[Partition]) -> None: ...
    def told_assigned(self, epoch: int, partitions: list[Partition]) -> None: ...
    def told_lost(self) -> None: ...
    def told_data(self, partition: Partition) -> None: ...


class Member(msgspec.Struct, eq=False):
    """A member of a group, as its coordinator knows it."""

    id: str
    consumer: GroupConsumer
    epoch: int
    owned: set[Partition]
    target: set[Partition]
    revoking: bool = False


class Group:
    """One consumer group."""

    def __init__(self, name: str, topics: Sequence[str]) -> None:
        self.name = name
        self.topics = topics
        self.members: dict[str, Member] = {}
        self.epoch = 0
        #: (offset, metadata) by partition.
        self.committed: dict[Partition, tuple[int, str]] = {}

    def owner(self, partition: Partition) -> Member | None:
        """Whose partition it is; nobody's while it moves."""
        return next((member for member in self.members.values() if partition in member.owned), None)


class KafkaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds."""

    partitions: Mapping[str, int]
    latency_s: tuple[float, float] = (0.0005, 0.004)
    fetch_s: tuple[float, float] = (0.001, 0.02)
    heartbeat_s: tuple[float, float] = (0.01, 0.5)
    session_s: float = 45.0
    transaction_s: float = 15.0


#: Told of every transaction that was committed.
OnCommit = Callable[[Transaction], None]


class SimKafka:
    """The cluster. `call` is the network to it; everything else happens on the broker's side."""

    def __init__(self, scheduler: Scheduler, dice: random.Random, settings: KafkaSettings) -> None:
        self.scheduler = scheduler
        self.settings = settings
        self.logs: dict[Partition, Log] = {
            (topic, number): Log() for topic, count in settings.partitions.items() for number in range(count)
        }
        self.groups: dict[str, Group] = {}
        self.on_commit: list[OnCommit] = []
        #: The chance that a producer's request fails and its transaction must be tried again.
        self.trouble = 0.0
        self.transactions = 0
        #: When it last happened that what was done might have to be done again (`lose`).
        self.last_loss_s = 0.0
        self._given_up: set[tuple[str, str]] = set()  # (group, member id) of those who do not know it yet
        self._dice = dice
        self._answers = True
        self._unanswered: deque[Callable[[], None]] = deque()
        self._epochs: dict[str, ProducerSession] = {}
        self._readers: dict[Partition, list[GroupConsumer]] = {key: [] for key in self.logs}
        self._keyless = itertools.count()

    # --- the network ------------------------------------------------------------------------------

    def call(self, loop: VirtualLoop, operation: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """A request from a process; the future gets the answer, or what the operation raised."""
        future: asyncio.Future[Any] = loop.create_future()
        self.scheduler.after(self._dice.uniform(*self.settings.latency_s), self._serve, loop, future, operation, args)
        return future

    def _serve(
        self, loop: VirtualLoop, future: asyncio.Future[Any], operation: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        if loop.state == "dead" and self._dice.random() < 0.5:
            return  # it had not left the dead process's machine
        if not self._answers:
            self._unanswered.append(lambda: self._serve(loop, future, operation, args))
            return
        result: Any = None
        error: Exception | None = None
        try:
            result = operation(*args)
        except (FencedError, StaleGroupError, TroubleError) as raised:
            error = raised
        if loop.state != "dead":
            latency = self._dice.uniform(*self.settings.latency_s)
            self.scheduler.after(latency, self._answer, loop, future, result, error)

    def _answer(self, loop: VirtualLoop, future: asyncio.Future[Any], result: object, error: Exception | None) -> None:
        if loop.state != "dead":
            loop.call_soon(_resolve, future, result, error)

    def lose(self) -> None:
        """A process died or was given up on, or wrote without knowing that it was, or could not commit in time."""
        self.last_loss_s = self.scheduler.now

    @property
    def answering(self) -> bool:
        """Whether brokers answer."""
        return self._answers

    def go_down(self) -> None:
        """No broker answers from now on."""
        self._answers = False

    def come_up(self) -> None:
        """Requests that waited are served now."""
        self._answers = True
        waiting, self._unanswered = self._unanswered, deque()
        for serve in waiting:
            serve()
        for key, log in self.logs.items():
            if log.entries:
                self._tell_readers(key)

    # --- writing ----------------------------------------------------------------------------------

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> Stored:
        """A record of a producer without transactions, which is at once there."""
        log = self.logs[topic, partition]
        stored = Stored(topic, partition, len(log.entries), at_ms(self.scheduler.now), key, value, None, None)
        log.entries.append(stored)
        self._tell_readers((topic, partition))
        return stored

    def write(self, process: str, records: Sequence[Out]) -> None:
        """Records of one partition, of a producer without transactions: all of them, or TroubleError."""
        if self._dice.random() < self.trouble:
            raise TroubleError("not the leader any more")
        if any(process == member_id for _, member_id in self._given_up):
            self.lose()
        done = Transaction(ProducerSession("", process, 0))
        done.state = "committed"
        for topic, key, value, wanted, headers in records:
            partition = self.partition_of(topic, key, wanted)
            log = self.logs[topic, partition]
            stored = Stored(topic, partition, len(log.entries), at_ms(self.scheduler.now), key, value, headers, done)
            log.entries.append(stored)
            done.records.append(stored)
        self._tell_of(done)

    def commit_offsets(
        self, process: str, group_name: str, member_id: str, epoch: int, offsets: Sequence[tuple[str, int, int, str]]
    ) -> None:
        """A consumer's own commit."""
        if self._dice.random() < self.trouble:
            raise TroubleError("the coordinator is moving")
        done = Transaction(ProducerSession("", process, 0))
        self._take_offsets(done, group_name, member_id, epoch, offsets)
        done.state = "committed"
        self.groups[group_name].committed.update(done.offsets)
        self._tell_of(done)

    def _tell_of(self, done: Transaction) -> None:
        for listener in self.on_commit:
            listener(done)
        for key in dict.fromkeys((stored.topic, stored.partition) for stored in done.records):
            self._tell_readers(key)

    def init_producer(self, transactional_id: str, process: str) -> ProducerSession:
        """`init_transactions`: fences the former session and aborts what it left open."""
        former = self._epochs.get(transactional_id)
        if former is not None and former.transaction is not None:
            self._end(former, "aborted")
        epoch = 0 if former is None else former.epoch + 1
        session = self._epochs[transactional_id] = ProducerSession(transactional_id, process, epoch)
        return session

    def produce(self, session: ProducerSession, records: Sequence[Out]) -> None:
        """Records of the session's transaction, which begins with the first."""
        transaction = self._transaction(session)
        now_ms = at_ms(self.scheduler.now)
        for topic, key, value, wanted, headers in records:
            partition = self.partition_of(topic, key, wanted)
            log = self.logs[topic, partition]
            offset = len(log.entries)
            log.open.setdefault(transaction, offset)
            stored = Stored(topic, partition, offset, now_ms, key, value, headers, transaction)
            log.entries.append(stored)
            transaction.records.append(stored)

    def add_offsets(
        self,
        session: ProducerSession,
        group_name: str,
        member_id: str,
        epoch: int,
        offsets: Sequence[tuple[str, int, int, str]],
    ) -> None:
        """`send_offsets_to_transaction`."""
        self._take_offsets(self._transaction(session), group_name, member_id, epoch, offsets)

    def _take_offsets(
        self,
        transaction: Transaction,
        group_name: str,
        member_id: str,
        epoch: int,
        offsets: Sequence[tuple[str, int, int, str]],
    ) -> None:
        group = self.groups[group_name]
        member = group.members.get(member_id)
        if member is None:
            raise StaleGroupError("UNKNOWN_MEMBER_ID")
        if member.epoch != epoch:
            raise StaleGroupError(f"STALE_MEMBER_EPOCH: {epoch}, not {member.epoch}")
        transaction.group = group_name
        for topic, partition, offset, metadata in offsets:
            transaction.offsets[topic, partition] = (offset, metadata)
            if (topic, partition) not in member.owned:
                transaction.foreign.append((topic, partition))

    def end(self, session: ProducerSession, commit: bool) -> None:
        """`commit_transaction` or `abort_transaction`; nothing to do when no broker knows of a transaction."""
        self._check(session)
        if commit and self._dice.random() < self.trouble:
            raise TroubleError("the coordinator is moving")
        if session.transaction is not None:
            self._end(session, "committed" if commit else "aborted")

    def _transaction(self, session: ProducerSession) -> Transaction:
        self._check(session)
        if self._dice.random() < self.trouble:
            raise TroubleError("not the leader any more")
        if session.transaction is None:
            session.transaction = Transaction(session)
            self.scheduler.after(self.settings.transaction_s, self._time_out, session, session.transaction)
        return session.transaction

    def _check(self, session: ProducerSession) -> None:
        if self._epochs[session.transactional_id] is not session:
            raise FencedError(f"the producer epoch {session.epoch} of {session.transactional_id} is over")

    def _time_out(self, session: ProducerSession, transaction: Transaction) -> None:
        if transaction.state == "open":
            self._end(session, "aborted")
            if self._epochs[session.transactional_id] is session:  # its epoch is over
                self._epochs[session.transactional_id] = ProducerSession(
                    session.transactional_id, session.process, session.epoch + 1
                )

    def _end(self, session: ProducerSession, state: str) -> None:
        transaction = session.transaction
        assert transaction is not None
        session.transaction = None
        transaction.state = state
        touched = dict.fromkeys((stored.topic, stored.partition) for stored in transaction.records)
        for key in touched:
            log = self.logs[key]
            del log.open[transaction]
            log.entries.append(None)  # the marker
        if state == "committed":
            self.transactions += 1
            if transaction.offsets:
                self.groups[transaction.group].committed.update(transaction.offsets)
            for listener in self.on_commit:
                listener(transaction)
        for key in touched:
            self._tell_readers(key)

    def partition_of(self, topic: str, key: bytes | None, wanted: int) -> int:
        """Where a record goes: where it is wanted, or else by its key."""
        if wanted >= 0:
            return wanted
        number = next(self._keyless) if key is None else murmur2(key)
        return (number & 0x7FFF_FFFF) % self.settings.partitions[topic]

    # --- reading ----------------------------------------------------------------------------------

    def follow(self, consumer: GroupConsumer, partition: Partition) -> None:
        """Tell this consumer whenever the partition may have more committed records."""
        self._readers[partition].append(consumer)
        if self.logs[partition].entries:
            self._tell(consumer, partition)

    def unfollow(self, consumer: GroupConsumer, partition: Partition) -> None:
        """Undo `follow`."""
        self._readers[partition].remove(consumer)

    def read(self, partition: Partition, position: int, records_max: int) -> tuple[list[Stored], int]:
        """What a fetch brings: committed records, and where to go on. Nothing while no broker answers."""
        if not self._answers:
            return [], position
        return self.logs[partition].read(position, records_max)

    def _tell_readers(self, partition: Partition) -> None:
        if self._answers:
            for consumer in self._readers[partition]:
                self._tell(consumer, partition)

    def _tell(self, consumer: GroupConsumer, partition: Partition) -> None:
        self.scheduler.after(self._dice.uniform(*self.settings.fetch_s), self._tell_now, consumer, partition)

    def _tell_now(self, consumer: GroupConsumer, partition: Partition) -> None:
        if consumer.loop.state != "dead":
            consumer.loop.call_soon(consumer.told_data, partition)

    # --- groups -----------------------------------------------------------------------------------

    def group(self, name: str, topics: Sequence[str]) -> Group:
        """The group of this name, made when it is first asked for."""
        return self.groups.setdefault(name, Group(name, topics))

    def join(self, name: str, member_id: str, consumer: GroupConsumer) -> None:
        """A member's first heartbeat, or the first after it was given up on."""
        group = self.groups[name]
        group.members[member_id] = Member(member_id, consumer, 0, set(), set())
        self._given_up.discard((name, member_id))
        self._rebalance(group)

    def leave(self, name: str, member_id: str) -> None:
        """It let go of everything before."""
        group = self.groups[name]
        if group.members.pop(member_id, None) is not None:
            self._rebalance(group)

    def let_go(self, name: str, member_id: str, partitions: Iterable[Partition]) -> None:
        """The member has revoked what it was told to."""
        group = self.groups[name]
        member = group.members.get(member_id)
        if member is None:
            return
        member.owned.difference_update(partitions)
        member.revoking = False
        if member.epoch != group.epoch and not member.owned - member.target:
            # The same heartbeat brings the member to the group's epoch (KIP-848): what it sent before, on another
            # connection, and what comes only now, is refused.
            member.epoch = group.epoch
            delay = self._dice.uniform(*self.settings.latency_s)
            self.scheduler.after(delay, self._tell_epoch, member, group.epoch)
        self._reconcile_all(group)

    def _tell_epoch(self, member: Member, epoch: int) -> None:
        if member.consumer.loop.state != "dead":
            member.consumer.loop.call_soon(member.consumer.told_assigned, epoch, [])

    def fetch_offsets(self, name: str, partitions: Sequence[Partition]) -> dict[Partition, tuple[int, str]] | None:
        """Committed offsets; None while an open transaction holds some of them (`require_stable`)."""
        group = self.groups[name]
        for session in self._epochs.values():
            transaction = session.transaction
            if transaction is None or transaction.group != name:
                continue
            if any(partition in transaction.offsets for partition in partitions):
                return None
        return {key: group.committed[key] for key in partitions if key in group.committed}

    def expire(self, name: str, member_id: str, consumer: GroupConsumer) -> None:
        """The coordinator gives up on a member; it learns of that by its next heartbeat."""
        group = self.groups.get(name)
        member = group.members.get(member_id) if group is not None else None
        if group is None or member is None or member.consumer is not consumer:
            return
        del group.members[member_id]
        self._given_up.add((name, member_id))
        self.lose()
        self.scheduler.after(self._dice.uniform(*self.settings.heartbeat_s), self._tell_lost, consumer)
        self._rebalance(group)

    def _tell_lost(self, consumer: GroupConsumer) -> None:
        if consumer.loop.state == "frozen":  # it sends no heartbeat
            self.scheduler.after(1.0, self._tell_lost, consumer)
        elif consumer.loop.state == "running":
            consumer.loop.call_soon(consumer.told_lost)

    def _rebalance(self, group: Group) -> None:
        group.epoch += 1
        members = [group.members[name] for name in sorted(group.members)]
        for member in members:
            member.target = set()
        for topic in group.topics if members else ():
            each, more = divmod(self.settings.partitions[topic], len(members))
            start = 0
            for index, member in enumerate(members):
                end = start + each + (index < more)
                member.target.update((topic, number) for number in range(start, end))
                start = end
        self._reconcile_all(group)

    def _reconcile_all(self, group: Group) -> None:
        for member in group.members.values():
            if member.target != member.owned or member.epoch != group.epoch:
                delay = self._dice.uniform(*self.settings.heartbeat_s)
                self.scheduler.after(delay, self._reconcile, group, member)

    def _reconcile(self, group: Group, member: Member) -> None:
        """The member's heartbeat: tell it what to let go of, or what it has got."""
        consumer = member.consumer
        if group.members.get(member.id) is not member or member.revoking or consumer.loop.state != "running":
            return  # a frozen one hears of it, if ever, when it is thawed (`heartbeat`)
        if not self._answers:
            self.scheduler.after(1.0, self._reconcile, group, member)
            return
        excess = member.owned - member.target
        if excess:
            member.revoking = True
            consumer.loop.call_soon(consumer.told_to_revoke, sorted(excess))
            return
        taken = {key for other in group.members.values() if other is not member for key in other.owned}
        fresh = member.target - member.owned - taken
        if member.epoch != group.epoch or fresh:
            member.epoch = group.epoch
            member.owned |= fresh
            consumer.loop.call_soon(consumer.told_assigned, group.epoch, sorted(fresh))

    def heartbeat(self, name: str, member_id: str) -> None:
        """A thawed process speaks up again."""
        group = self.groups.get(name)
        if group is not None and (member := group.members.get(member_id)) is not None:
            self._reconcile(group, member)


def _resolve(future: asyncio.Future[Any], result: object, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
