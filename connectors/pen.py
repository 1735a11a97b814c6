"""The pen: whoever changes what the control plane's compacted topics hold has it, one process at a time.

There is one transactional id for it. Who takes the pen (`init_transactions`) fences the holder before; then reads the
tables to their ends, so it knows all that was ever written with the pen; and then decides on that. A holder that was
fenced meanwhile cannot write: its transaction is refused, it takes the pen in turn, and decides anew. So what was
decided on is always what the change follows, whichever of any number of processes makes it, and Kafka is all the
coordination there is. Changes that are asked for at the same time share a transaction.

This file does not know what is written, and does not follow the topics (`connectors/compacted.py` does). A record that
was written without the pen, by hand or by a worker, is seen as soon as the tables see it, and no sooner.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from connectors.admin import answer, connected
from connectors.publisher import TransactionalPublisher
from schemas.errors import FencedError, RecordTooLargeError
from schemas.frame import Out

log = logging.getLogger(__name__)

#: Changes that may wait; one more is refused.
WAITING_MAX = 1_000
#: Changes of one transaction.
GROUP_MAX = 200
#: How long a group of changes may take, taking the pen included.
WRITE_SECONDS = 20.0
#: How long somebody who was fenced lets the other one finish: up to this, doubled each time.
YIELD_SECONDS_MIN, YIELD_SECONDS_MAX = 0.05, 1.0
REQUEST_SECONDS = 10.0

#: Returns what is to be written, on the tables as they are; raises when nothing is.
Decide = Callable[[], list[Out]]


class PenError(ConnectionError):
    """A change was not made, or it is not known whether it was; one sentence with the next step."""


class PenBusyError(PenError):
    """Too many changes wait; this one was not made."""


class Table(Protocol):
    """What changes are decided on (`connectors.compacted.Follower`)."""

    @property
    def topic(self) -> str: ...

    async def reach(self, positions: Mapping[int, int]) -> None:
        """Everything below these offsets, by partition, is applied."""


class _Change:
    """One that was asked for."""

    __slots__ = ("about", "decide", "done")

    def __init__(self, decide: Decide, about: Hashable, done: asyncio.Future[None]) -> None:
        self.decide = decide
        self.about = about
        self.done = done

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Pen:
    """For one event loop; `start` first, `close` at the end. The tables follow their topics already.

    `jitter` is uniform in [0, 1): it spreads those who fence each other.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        transactional_id: str,
        tables: Sequence[Table],
        jitter: Callable[[], float],
        *,
        write_seconds: float = WRITE_SECONDS,
    ) -> None:
        self._config = dict(config)
        self._id = transactional_id
        self._tables = {table.topic: table for table in tables}
        self._jitter = jitter
        self._write_seconds = write_seconds
        self._waiting: deque[_Change] = deque()
        self._asked = asyncio.Event()
        self._publisher: TransactionalPublisher | None = None
        self._admin: AdminClient | None = None
        self._partitions: list[TopicPartition] = []
        self._writing: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        #: How often this process took the pen.
        self.takings = 0

    async def start(self) -> None:
        """Be ready to write; the pen is taken with the first change."""
        self._writing = asyncio.create_task(self._run(), name=f"pen {self._id}")

    async def close(self) -> None:
        """Let go. What still waits is refused; a transaction under way is aborted, or was committed."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        self._fail(self._waiting, PenError("the process stops; ask again"))
        self._waiting.clear()
        self._let_go()
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def change(self, decide: Decide, *, about: Hashable = None) -> None:
        """Write what `decide` returns, all or nothing; returns when the tables have taken it in.

        `decide` is called on the event loop, with the tables up to date, in order of arrival, and once more whenever
        somebody else had the pen meanwhile: it must change nothing itself. What it raises is raised here, and nothing
        is written. It returns nothing when there is nothing to write.

        `about` names the one thing that `decide` looks at and writes, such as ("subscription", id): changes about
        different things share a transaction. None: it may look at anything, and has a transaction of its own.

        PenBusyError; PenError when Kafka does not answer in time; RecordTooLargeError.
        """
        if self._writing is None or self._writing.done():
            raise PenError("the pen is closed; ask again")
        if len(self._waiting) >= WAITING_MAX:
            raise PenBusyError("too many changes wait for Kafka; try again in a moment")
        change = _Change(decide, about, asyncio.get_running_loop().create_future())
        self._waiting.append(change)
        self._asked.set()
        await change.done

    # --- the writing task -----------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._asked.wait()
            if group := self._next_group():
                await self._write(group)
            elif not self._waiting:
                self._asked.clear()

    def _next_group(self) -> list[_Change]:
        """Changes about different things, in order of arrival; or one that is about anything."""
        group: list[_Change] = []
        taken: set[Hashable] = set()
        left: deque[_Change] = deque()
        waiting, self._waiting = self._waiting, left
        while waiting:
            change = waiting.popleft()
            if change.done.done():  # whoever asked has gone
                continue
            if len(group) == GROUP_MAX or (change.about is None and (group or left)):
                waiting.appendleft(change)
                break
            if change.about is None:
                group.append(change)
                break
            if change.about in taken:
                left.append(change)
            else:
                taken.add(change.about)
                group.append(change)
        left.extend(waiting)
        return group

    async def _write(self, group: list[_Change]) -> None:
        try:
            async with asyncio.timeout(self._write_seconds):
                await self._write_in_turn(group)
            return
        except TimeoutError:
            error: Exception = PenError("Kafka did not take the change in time; look whether it did, and ask again")
        except KafkaException as cause:
            error = PenError(f"Kafka refuses the change: {cause.args[0].str()}; check the cluster")
        except ConnectionError as cause:  # ClusterError: its text is a sentence
            error = PenError(str(cause))
        except asyncio.CancelledError:
            self._fail(group, PenError("the process stops; look whether the change was made, and ask again"))
            raise
        except Exception as cause:
            log.exception("a group of %d changes failed", len(group))
            error = cause
        self._let_go()  # whether it was written is not known: who takes the pen next finds out
        self._fail(group, error)
        if isinstance(error, PenError):  # what waited meanwhile would wait as long again, and as vainly
            waiting, self._waiting = self._waiting, deque()
            self._fail(waiting, PenError("Kafka does not take changes; nothing was written, ask again"))

    async def _write_in_turn(self, group: list[_Change]) -> None:
        fenced = 0
        while True:
            try:
                fresh = self._publisher is None
                publisher = self._publisher or await self._take()
                await self._write_once(publisher, group, fresh)
            except FencedError:  # another process has the pen; nothing of this was written
                self._let_go()
                most = min(YIELD_SECONDS_MIN * 2**fenced, YIELD_SECONDS_MAX)
                await asyncio.sleep(most * self._jitter())
                fenced += 1
            except RecordTooLargeError as error:  # one of them: each by itself, so that only that one fails
                if len(group) == 1:
                    group[0].fail(error)
                    return
                for change in group:
                    await self._write_in_turn([change])
                return
            else:
                return

    async def _write_once(self, publisher: TransactionalPublisher, group: list[_Change], fresh: bool) -> None:
        decided, refused = _decided(group)
        if not fresh and len(decided) < len(group):
            # Some change nothing, or may not be made. That must not be said on what this process knew when it last had
            # the pen: others may have written since.
            await self._catch_up()
            decided, refused = _decided(group)
        for change, error in refused:
            change.fail(error)
        records = [record for _, outs in decided for record in outs]
        if records:
            await publisher.publish(records, ())
            await self._read_back(publisher.written)
        for change in group:
            if not change.done.done():
                change.done.set_result(None)

    async def _take(self) -> TransactionalPublisher:
        """Fence the holder before, and know all that it wrote. FencedError when a third one was faster."""
        await asyncio.gather(*self._closing)  # or one of ours that still tries to start would fence the next
        publisher = TransactionalPublisher(self._config, self._id, lambda: None, reports=True)
        self._publisher = publisher  # already: `_let_go` must find it
        await publisher.take_over()
        await self._catch_up()
        self.takings += 1
        log.info("took the pen %s", self._id)
        return publisher

    def _let_go(self) -> None:
        """Not waited for here: what this producer has begun ends when the pen is taken again, by whomever."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            task = asyncio.create_task(publisher.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _catch_up(self) -> None:
        """The tables hold all that was committed before the call."""
        try:
            ends = await asyncio.to_thread(self._ends)
        except KafkaException:  # after a broker's restart, librdkafka's admin client goes on with the leaders of before
            self._admin = None
            ends = await asyncio.to_thread(self._ends)
        await asyncio.gather(*(self._tables[topic].reach(positions) for topic, positions in ends.items()))

    def _ends(self) -> dict[str, dict[int, int]]:
        """In a thread: one past the last committed offset of each partition, by topic. ClusterError, KafkaException."""
        if self._admin is None:
            admin = connected(self._config)
            listed = admin.list_topics(timeout=REQUEST_SECONDS).topics
            self._partitions = [TopicPartition(topic, p) for topic in self._tables for p in listed[topic].partitions]
            self._admin = admin
        asked = {partition: OffsetSpec.latest() for partition in self._partitions}  # type: ignore[no-untyped-call]
        answers = self._admin.list_offsets(
            asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=REQUEST_SECONDS
        )
        ends: dict[str, dict[int, int]] = {}
        for partition, future in answers.items():
            ends.setdefault(partition.topic, {})[partition.partition] = answer(future).offset
        return ends

    async def _read_back(self, written: Mapping[tuple[str, int], int]) -> None:
        positions: dict[str, dict[int, int]] = {}
        for (topic, partition), offset in written.items():
            if topic in self._tables:
                positions.setdefault(topic, {})[partition] = offset + 1
        await asyncio.gather(*(self._tables[topic].reach(where) for topic, where in positions.items()))

    def _fail(self, group: Iterable[_Change], error: Exception) -> None:
        for change in group:
            change.fail(error)


def _decided(group: list[_Change]) -> tuple[list[tuple[_Change, list[Out]]], list[tuple[_Change, Exception]]]:
    """What is written, and what may not be. A change that writes nothing is in neither."""
    decided: list[tuple[_Change, list[Out]]] = []
    refused: list[tuple[_Change, Exception]] = []
    for change in group:
        if change.done.done():
            continue
        try:
            outs = change.decide()
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            refused.append((change, error))
        else:
            if outs:
                decided.append((change, outs))
    return decided, refused
