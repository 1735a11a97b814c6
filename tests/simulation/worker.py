"""One worker process: both roles on a loop of its own, started and stopped in the order of `streams/app.py`."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from connectors.memory import MemoryEndpointTable, MemoryTable
from schemas.endpoint import EndpointState
from schemas.errors import FencedError
from schemas.frame import Frame, Record
from schemas.subscription import Subscription
from streams.core.match import MatchIndex
from streams.counters import Counters
from tests.simulation.consumer import SimConsumer
from tests.simulation.endpoints import Internet, SimSender
from tests.simulation.engine import Engine
from tests.simulation.kafka import Partition, SimKafka, at_ms
from tests.simulation.loop import Scheduler, VirtualLoop
from tests.simulation.publisher import SimPlainPublisher, SimPublisher

FAN_OUT = "fan-out"
DELIVERY = "delivery"


class SimClock:
    """The `Clock` port on virtual time."""

    def __init__(self, scheduler: Scheduler, dice: random.Random) -> None:
        self._scheduler = scheduler
        self._dice = dice

    def now_ms(self) -> int:
        return at_ms(self._scheduler.now)

    def monotonic(self) -> float:
        return self._scheduler.now

    def jitter(self) -> float:
        return self._dice.random()


class SimLogReader:
    """The `LogReader` port on the simulated Kafka."""

    def __init__(self, loop: VirtualLoop, kafka: SimKafka, topic: str, records_max: int) -> None:
        self._loop = loop
        self._kafka = kafka
        self._topic = topic
        self._records_max = records_max
        self._closed = False

    async def read(self, partition: int, offset: int) -> Sequence[Record]:
        """See the port."""
        records, _ = await self._kafka.call(
            self._loop, self._kafka.read, (self._topic, partition), offset, self._records_max
        )
        if self._closed:
            raise RuntimeError("the log reader is closed")
        return cast(Sequence[Record], records)

    async def close(self) -> None:
        """See the port."""
        self._closed = True


class Part:
    """One role: its consumer, publisher and settler; as `streams.app.Part`."""

    def __init__(self, worker: SimWorker, role: str, topics: list[str]) -> None:
        self.worker = worker
        self.group = role
        kafka, loop, dice = worker.kafka, worker.loop, worker.dice
        self.settling: asyncio.Task[None] | None = None
        self.handle: Callable[[Frame], Awaitable[None]] | None = None
        self.on_give_up: Callable[[list[Partition], float], Awaitable[None]] | None = None
        self.on_stop: Callable[[float], Awaitable[None]] | None = None
        self.consumer = SimConsumer(
            loop,
            kafka,
            dice,
            group=role,
            member_id=worker.name,
            topics=topics,
            new_ledger=worker.engine.ledger,
            handle=self._handle,
            on_revoke=self._on_revoke,
            frame_records_max=worker.engine.bounds.frame_records_max,
            fail=worker.fail,
        )
        self.publisher: SimPublisher | SimPlainPublisher
        if worker.engine.at_least_once:
            self.publisher = SimPlainPublisher(
                loop, kafka, dice, worker.name, worker.engine.in_order, self.consumer.commit_soon
            )
        else:
            self.publisher = SimPublisher(
                loop, kafka, dice, f"{role}.{worker.id}", worker.name, role, self.consumer.group_metadata
            )
        self.settler = worker.engine.settler(self.publisher)

    async def _handle(self, frame: Frame) -> None:
        assert self.handle is not None
        await self.handle(frame)

    async def start(self) -> None:
        """End what a predecessor left open, then join the group."""
        await self.publisher.start()
        self.settling = asyncio.ensure_future(self.settler.run())
        await self.consumer.start()

    async def stop(self) -> None:
        """Let what is under way end and be settled, leave the group, let go."""
        drain_s = self.worker.drain_s
        if self.settling is not None and not self.settling.done():
            self.consumer.quiesce()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_s + 5):
                    if self.on_stop is not None:
                        await self.on_stop(drain_s)
                    await self.settler.flush()
        await self.consumer.stop()
        if self.settling is not None:
            self.settling.cancel()
            await asyncio.gather(self.settling, return_exceptions=True)
        await self.publisher.close()

    async def _on_revoke(self, partitions: list[Partition]) -> None:
        if self.settling is None or self.settling.done():
            return
        if self.on_give_up is not None:
            await self.on_give_up(partitions, self.worker.drain_s)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.worker.drain_s):
                    await self.settler.flush()
        if self.worker.engine.at_least_once and self.settler.backlog:
            # No broker answered in time. Without transactions, what is on its way is written after all, when whoever
            # gets the partition has begun where it was committed last.
            self.worker.kafka.lose()


class SimWorker:
    """A process. `id` outlives restarts where it is stable, `name` is this incarnation's."""

    def __init__(
        self,
        scheduler: Scheduler,
        kafka: SimKafka,
        internet: Internet,
        engine: Engine,
        dice: random.Random,
        *,
        id_: str,
        name: str,
        drain_s: float,
        subscriptions: list[Subscription],
        states: list[EndpointState],
        on_exit: Callable[[SimWorker, BaseException | None], None],
    ) -> None:
        self.scheduler = scheduler
        self.kafka = kafka
        self.engine = engine
        self.dice = dice
        self.id = id_
        self.name = name
        self.drain_s = drain_s
        self.loop = VirtualLoop(scheduler)
        self.loop.on_exception = self._on_exception
        self.table = MemoryTable(MatchIndex())
        for subscription in subscriptions:
            self.table.put(subscription)
        self.endpoints = MemoryEndpointTable()
        for state in states:
            self.endpoints.put(state)
        self.sender = SimSender(self.loop, internet, name)
        self.reader = SimLogReader(self.loop, kafka, engine.topics.parked, engine.bounds.read_records_max)
        self.counters = Counters()
        self.parts: list[Part] = []
        self.frozen_since_s = 0.0
        #: How long after its end a supervisor starts another one.
        self.replaced_after_s = 1.0
        self._told_until_s = 0.0
        self._told_states_until_s = 0.0
        self._on_exit = on_exit
        self._stop = False
        self._failed: BaseException | None = None
        self._changed: asyncio.Event | None = None
        self._main: asyncio.Task[None] | None = None
        self.loop.call_soon(self._begin)

    # --- what happens to it -----------------------------------------------------------------------

    def stop(self) -> None:
        """SIGTERM."""
        self.loop.call_soon(self._ask_to_stop)

    def fail(self, error: BaseException) -> None:
        """A part cannot go on."""
        self._failed = self._failed or error
        self._wake()

    def tell(self, subscription: Subscription | str, at_s: float) -> None:
        """The subscriptions table hears of a change at this time, after all earlier ones: a subscription, or the id of
        a deleted one."""
        self._told_until_s = max(self._told_until_s, at_s)
        if isinstance(subscription, str):
            self.loop.call_at(self._told_until_s, self.table.delete, subscription)
        else:
            self.loop.call_at(self._told_until_s, self.table.put, subscription)

    def tell_state(self, state: EndpointState, at_s: float) -> None:
        """The same for the table of endpoints."""
        self._told_states_until_s = max(self._told_states_until_s, at_s)
        self.loop.call_at(self._told_states_until_s, self.endpoints.put, state)

    @property
    def members(self) -> list[tuple[str, str, SimConsumer]]:
        """(group, member id, consumer) of its parts."""
        return [(part.group, self.name, part.consumer) for part in self.parts]

    # --- inside -----------------------------------------------------------------------------------

    def _ask_to_stop(self) -> None:
        self._stop = True
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()

    def _begin(self) -> None:
        self._changed = asyncio.Event()
        self._main = asyncio.ensure_future(self._run())

    def _on_exception(self, context: dict[str, object]) -> None:
        error = context.get("exception")
        self.fail(error if isinstance(error, BaseException) else RuntimeError(str(context.get("message"))))

    async def _run(self) -> None:
        assert self._changed is not None
        started: list[Part] = []
        try:
            for make in (self._fan_out, self._delivery):
                part = make()
                self.parts.append(part)
                await part.start()
                started.append(part)
                assert part.settling is not None
                part.settling.add_done_callback(self._on_settling_done)
            while not self._stop and self._failed is None:
                self._changed.clear()
                await self._changed.wait()
        except FencedError as error:
            self.fail(error)
        for part in reversed(started):
            try:
                await part.stop()
            except FencedError as error:
                self.fail(error)
            if part.group == DELIVERY:
                await self.reader.close()
                await self.sender.close()
        self._on_exit(self, self._failed)

    def _on_settling_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    def _fan_out(self) -> Part:
        part = Part(self, FAN_OUT, [self.engine.topics.events])
        clock = SimClock(self.scheduler, self.dice)
        part.handle = self.engine.fan_out(self.table, part.settler, clock, self.counters).process
        return part

    def _delivery(self) -> Part:
        part = Part(self, DELIVERY, self.engine.dispatch_topics())
        clock = SimClock(self.scheduler, self.dice)
        stage = self.engine.dispatch(
            self.table,
            self.endpoints,
            self.sender,
            self.reader,
            part.settler,
            clock,
            self.counters,
            part.consumer,
            self.name,
        )
        part.handle = stage.admit
        part.on_give_up = stage.give_up
        part.on_stop = stage.stop
        return part
