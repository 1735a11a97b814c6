"""A group member as `connectors/frames.py` is one: frames, a ledger for each partition and epoch, pause and resume.

What is the same: rebalance callbacks are worked off one by one; a partition about to be given up is retired, drained,
closed, and then let go of; a lost one is closed at once; group metadata is read between polls, so it may be old; frames
wait in a few hands and in an agent's short queue, where their partition may be given up meanwhile; commits outside of
transactions are merged by the same `Commits`. What differs: threads are tasks of the process's loop, woken by the
broker instead of polling.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, cast

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from connectors.commits import Commits
from schemas.errors import StaleGroupError
from schemas.frame import Frame, OffsetLedger
from tests.simulation.kafka import Partition, SimKafka, TroubleError
from tests.simulation.loop import VirtualLoop

BATCHES_IN_HAND_MAX = 4
COMMIT_AGAIN_S = 0.1
AGENT_QUEUE_MAX = 2

if TYPE_CHECKING:
    from confluent_kafka import Consumer

#: As `connectors.frames.NewLedger`.
NewLedger = Callable[[str, int, int, str | None], OffsetLedger]


class SimConsumer:
    """One member of one group; implements `GroupConsumer`."""

    def __init__(
        self,
        loop: VirtualLoop,
        kafka: SimKafka,
        dice: random.Random,
        *,
        group: str,
        member_id: str,
        topics: list[str],
        new_ledger: NewLedger,
        handle: Callable[[Frame], Awaitable[None]],
        on_revoke: Callable[[list[Partition]], Awaitable[None]],
        frame_records_max: int,
        fail: Callable[[BaseException], None],
    ) -> None:
        self.loop = loop
        self.group = group
        self.member_id = member_id
        self.ledgers: dict[Partition, OffsetLedger] = {}
        self._kafka = kafka
        self._dice = dice
        self._topics = topics
        self._new_ledger = new_ledger
        self._handle = handle
        self._on_revoke = on_revoke
        self._frame_records_max = frame_records_max
        self._fail = fail
        self._positions: dict[Partition, int] = {}  # of what is assigned
        self._starts: dict[Partition, int] = {}  # what was committed when it was assigned
        self._commits = Commits(self._is_ours, self._send_commits_later)
        self._committer = cast("Consumer", _Committer(loop, kafka, self))
        self._held: set[Partition] = set()
        self._news: dict[Partition, None] = {}  # partitions that may have records to fetch
        self._control: deque[Callable[[], Awaitable[None]]] = deque()
        self._told = asyncio.Event()
        self._wake = asyncio.Event()
        self._in_hand = 0
        self._batches: asyncio.Queue[list[Frame]] = asyncio.Queue()
        self._agent_queue: asyncio.Queue[Frame] = asyncio.Queue(AGENT_QUEUE_MAX)
        self._epoch = -1
        self._metadata = (member_id, -1)
        self._halt = False
        self._tasks: list[asyncio.Task[None]] = []

    # --- life cycle -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join the group."""
        self._kafka.group(self.group, self._topics)
        self._tasks = [asyncio.ensure_future(work()) for work in (self._tend, self._fetch, self._pump, self._agent)]
        await self._kafka.call(self.loop, self._kafka.join, self.group, self.member_id, self)

    async def stop(self) -> None:
        """Give up everything in order and leave the group, as `Consumer.close()` does."""
        self._halt = True
        self._told.set()
        self._wake.set()
        await self._tasks[0]
        for task in self._tasks[1:]:
            task.cancel()
        await asyncio.gather(*self._tasks[1:], return_exceptions=True)

    def quiesce(self) -> None:
        """Fetch no more, stay in the group."""
        for key in self._positions:
            self.hold(*key)

    def group_metadata(self) -> tuple[str, int]:
        """(member id, member epoch) as of the last poll."""
        return self._metadata

    @property
    def epoch(self) -> int:
        """The member's epoch, as it was last told."""
        return self._epoch

    def ledger(self, topic: str, partition: int) -> OffsetLedger | None:
        """Of the partition's present epoch."""
        return self.ledgers.get((topic, partition))

    def hold(self, topic: str, partition: int) -> None:
        """Fetch no more of this partition until `release`."""
        if (topic, partition) in self.ledgers:
            self._held.add((topic, partition))

    def release(self, topic: str, partition: int) -> None:
        """Undo `hold`."""
        key = (topic, partition)
        if key in self._held:
            self._held.discard(key)
            self.told_data(key)

    # --- commits outside of transactions ----------------------------------------------------------

    def commit_soon(self, offsets: Sequence[tuple[str, int, int, str]]) -> None:
        """Merge these offsets into the next commit."""
        self._commits.add(offsets)
        self._commits.send(self._committer)

    def commit_answered(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """What the broker says of one."""
        self._commits.answered(self._committer, error, partitions)

    def _send_commits_later(self) -> None:
        self.loop.call_later(COMMIT_AGAIN_S, self._commits.send, self._committer)

    def _is_ours(self, key: Partition, offset: int) -> bool:
        ledger = self.ledgers.get(key)
        return ledger is not None and ledger.live and offset >= self._starts.get(key, 0)

    # --- told by the broker -----------------------------------------------------------------------

    def told_data(self, partition: Partition) -> None:
        """There may be more to read."""
        if partition in self._positions:
            self._news[partition] = None
            self._wake.set()

    def told_to_revoke(self, partitions: list[Partition]) -> None:
        self._obey(lambda: self._revoke(partitions))

    def told_assigned(self, epoch: int, partitions: list[Partition]) -> None:
        self._obey(lambda: self._assign(epoch, partitions))

    def told_lost(self) -> None:
        self._obey(self._lost)

    def _obey(self, work: Callable[[], Awaitable[None]]) -> None:
        self._control.append(work)
        self._told.set()

    # --- the member -------------------------------------------------------------------------------

    async def _tend(self) -> None:
        try:
            while not self._halt:
                if self._control:
                    await self._control.popleft()()
                else:
                    self._told.clear()
                    await self._told.wait()
            await self._give_up(sorted(self._positions))
            await self._kafka.call(self.loop, self._kafka.leave, self.group, self.member_id)
        except Exception as error:  # noqa: BLE001 - a thread's last word
            self._fail(error)

    # --- the fetcher ------------------------------------------------------------------------------

    async def _fetch(self) -> None:
        while not self._halt:
            if self._in_hand >= BATCHES_IN_HAND_MAX or not (frames := self._next_frames()):
                self._wake.clear()
                await self._wake.wait()
            else:
                self._in_hand += 1
                self._batches.put_nowait(frames)
                await asyncio.sleep(0)

    def _next_frames(self) -> list[Frame]:
        """A frame of each partition that has records, up to so many records in all."""
        frames: list[Frame] = []
        room = self._frame_records_max
        for key in list(self._news):
            if room <= 0:
                break
            if key in self._held or key not in self._positions:
                del self._news[key]
                continue
            before = self._positions[key]
            records, after = self._kafka.read(key, before, room)
            if after == before:
                del self._news[key]
                continue
            self._positions[key] = after
            if not records:
                continue
            ledger = self.ledgers.get(key)
            if ledger is None:  # no committed offset: the start is where the first record is
                ledger = self.ledgers[key] = self._new_ledger(*key, records[0].offset(), None)
            room -= len(records)
            frames.append(Frame(*key, records, ledger))
        return frames

    # --- rebalance callbacks ----------------------------------------------------------------------

    async def _assign(self, epoch: int, partitions: list[Partition]) -> None:
        self._epoch = epoch
        self.loop.call_later(self._dice.uniform(0, 0.1), self._refresh_metadata)
        if not partitions:
            return
        while True:
            committed = await self._kafka.call(self.loop, self._kafka.fetch_offsets, self.group, partitions)
            if committed is not None:
                break
            await self.loop.pause(0.05)
        for key in partitions:
            self._positions[key] = self._starts[key] = 0
            if key in committed:
                position, metadata = committed[key]
                self.ledgers[key] = self._new_ledger(*key, position, metadata)
                self._positions[key] = self._starts[key] = position
            self._kafka.follow(self, key)

    def _refresh_metadata(self) -> None:
        self._metadata = (self.member_id, self._epoch)

    async def _revoke(self, partitions: list[Partition]) -> None:
        await self._give_up(partitions)
        await self._kafka.call(self.loop, self._kafka.let_go, self.group, self.member_id, partitions)

    async def _give_up(self, partitions: list[Partition]) -> None:
        for key in partitions:
            if (ledger := self.ledgers.get(key)) is not None:
                ledger.retire()
        await self._on_revoke(partitions)
        self._commits.flush(self._committer, partitions)
        self._forget(partitions)

    async def _lost(self) -> None:
        self._forget(list(self._positions))
        await self._kafka.call(self.loop, self._kafka.join, self.group, self.member_id, self)

    def _forget(self, partitions: list[Partition]) -> None:
        for key in partitions:
            ledger = self.ledgers.pop(key, None)
            if ledger is not None:
                ledger.close()
            self._held.discard(key)
            self._news.pop(key, None)
            if self._positions.pop(key, None) is not None:
                self._kafka.unfollow(self, key)
        self._commits.drop(partitions)

    # --- the event loop ---------------------------------------------------------------------------

    async def _pump(self) -> None:
        while True:
            for frame in await self._batches.get():
                if frame.ledger.live and not frame.ledger.retiring:
                    await self._agent_queue.put(frame)
            self._in_hand -= 1
            self._wake.set()

    async def _agent(self) -> None:
        while True:
            frame = await self._agent_queue.get()
            try:
                await self._handle(frame)
            except Exception as error:
                self._fail(error)
                raise


class _Committer:
    """The part of a `confluent_kafka.Consumer` that `Commits` needs: requests of one connection, served in their
    order."""

    def __init__(self, loop: VirtualLoop, kafka: SimKafka, consumer: SimConsumer) -> None:
        self._loop = loop
        self._kafka = kafka
        self._consumer = consumer
        self._under_way: list[TopicPartition] = []

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition]:
        """As librdkafka's. What is waited for takes no time here, and waits for its coordinator."""
        if asynchronous:
            self._under_way = offsets
            self._loop.create_task(self._commit(offsets, self._consumer.epoch))
            return offsets
        before, self._under_way = self._under_way, []
        for request in (before, offsets):
            if request and not self._kafka.answering:
                self._kafka.lose()
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            error = self._serve(request, self._consumer.epoch) if request else None
            while error is not None and error.code() == KafkaError.NOT_COORDINATOR:
                error = self._serve(request, self._consumer.epoch)
            if error is not None and request is offsets:
                raise KafkaException(error)
        return offsets

    async def _commit(self, offsets: list[TopicPartition], epoch: int) -> None:
        error = await self._kafka.call(self._loop, self._arrive, offsets, epoch)
        self._consumer.commit_answered(error, offsets)

    def _arrive(self, offsets: list[TopicPartition], epoch: int) -> KafkaError | None:
        if self._under_way is not offsets:  # it was served already, before one that was waited for
            return None
        self._under_way = []
        return self._serve(offsets, epoch)

    def _serve(self, offsets: list[TopicPartition], epoch: int) -> KafkaError | None:
        consumer = self._consumer
        listed = [(one.topic, one.partition, one.offset, one.metadata or "") for one in offsets]
        name = consumer.member_id
        try:
            self._kafka.commit_offsets(name, consumer.group, name, epoch, listed)
        except StaleGroupError:
            return KafkaError(KafkaError.UNKNOWN_MEMBER_ID)
        except TroubleError:
            return KafkaError(KafkaError.NOT_COORDINATOR)
        return None
