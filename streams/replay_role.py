"""The role `replay` of a worker: what is connected to what, and who of all workers is the active one.

A part of the composition root; what a replay does is in `streams/replay.py`. The active one takes over the
transactional id, which fences whoever was active before, and only then reads how far replays have come: nothing is
written after that by anybody else. The others follow the same tables and wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator

from connectors.extents import TopicExtents
from connectors.log_reader import KafkaLogReader
from connectors.publisher import TransactionalPublisher
from connectors.replays import ProgressTable, ReplaysTable
from connectors.standby import Standby
from connectors.subscriptions import SubscriptionsTable
from schemas.errors import FencedError
from schemas.metrics import Sample
from schemas.replay import ENDED, Replay, State
from streams.counters import Counters
from streams.planning import Planner
from streams.ports import Clock, Registry
from streams.records import Records
from streams.replay import Replaying, ReplayLimits
from streams.replay_sources import Maker
from streams.settings import Settings
from streams.wiring import OwnSchemas, client_config

logger = logging.getLogger(__name__)

#: Who was fenced while the group says that it is the active one lets the other find out first.
FENCED_PAUSE_S = 5.0
#: States of replays that are not over.
OPEN_STATES: tuple[State, ...] = ("waiting", "counting", "planned", "running", "paused")


class ReplayRole:
    """For one event loop: `start`, `run` until cancelled, `stop`."""

    def __init__(
        self,
        settings: Settings,
        table: SubscriptionsTable,
        registry: Registry,
        own: OwnSchemas,
        clock: Clock,
        counters: Counters,
        limits: ReplayLimits = ReplayLimits(),  # noqa: B008 - immutable
    ) -> None:
        topics = settings.topics
        self._config = client_config(settings)
        self._topics = topics
        self._clock = clock
        self._counters = counters
        self._progress_schema = own.replay_progress
        self._limits = limits
        self.group = settings.group("replay")
        planner = Planner(registry, topics.events, clock, counters)
        self._maker = Maker(topics, table, planner, Records(topics, own), clock)
        self._orders = ReplaysTable(self._config, topics.replays)
        self._progress = ProgressTable(self._config, topics.replays_progress)
        self._extents = TopicExtents(self._config)
        self.standby = Standby(self._config, self.group, topics.replays, settings.group_protocol)
        #: While this is the active one.
        self.stage: Replaying | None = None
        self._orders.on_change(self._order_changed)
        table.on_change(lambda _, __: self._subscription_changed())

    async def start(self) -> None:
        """Follow the tables, and join the group. TableError, KafkaException."""
        await asyncio.gather(self._orders.start(), self._progress.start())
        await self.standby.start()

    async def stop(self) -> None:
        """Leave the group, and let go; when `run` has ended."""
        await self.standby.stop()
        await asyncio.gather(self._orders.stop(), self._progress.stop())

    async def run(self) -> None:
        """Until cancelled: stand by, and be the active one. Raises what waiting does not mend."""
        watched = [
            asyncio.ensure_future(each) for each in (self.standby.wait(), self._orders.wait(), self._progress.wait())
        ]
        working = asyncio.create_task(self._take_turns(), name="replay")
        try:
            done, _ = await asyncio.wait([working, *watched], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (working, *watched):
                task.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def _take_turns(self) -> None:
        while True:
            await self.standby.active.wait()
            try:
                await self._be_active()
            except FencedError as error:
                logger.warning("another worker runs the replays: %s", error)
                await asyncio.sleep(FENCED_PAUSE_S)

    async def _be_active(self) -> None:
        """Until another one is, or this is cancelled. FencedError when another one has taken over already."""
        publisher = TransactionalPublisher(self._config, self.group, lambda: None)
        try:
            await publisher.take_over()
            await self._catch_up()
            self.stage = stage = Replaying(
                self._maker,
                self._orders,
                self._progress,
                lambda topic: KafkaLogReader(self._config, topic, consumers_max=1),
                self._extents,
                publisher,
                self._clock,
                self._counters,
                self._progress_schema,
                self._limits,
            )
            logger.info("this worker runs the replays")
            working = asyncio.create_task(stage.run())
            idle = asyncio.create_task(self.standby.idle.wait())
            try:
                await asyncio.wait([working, idle], return_when=asyncio.FIRST_COMPLETED)
                if working.done():
                    working.result()
                logger.info("another worker runs the replays now")
            finally:
                working.cancel()
                idle.cancel()
                await asyncio.gather(working, idle, return_exceptions=True)
        finally:
            self.stage = None
            await publisher.close()

    async def _catch_up(self) -> None:
        """Both tables hold all that was committed before the call."""
        for table in (self._orders, self._progress):
            ends = {partition: end for partition, _, end in await self._extents(table.topic, None, None)}
            await table.reach(ends)

    def _order_changed(self, old: Replay | None, new: Replay | None) -> None:
        if self.stage is not None:
            self.stage.order_changed(old, new)

    def _subscription_changed(self) -> None:
        if self.stage is not None:
            self.stage.subscription_changed()

    # --- looks ------------------------------------------------------------------------------------

    def samples(self) -> Iterator[Sample]:
        """Numbers of now: of all replays, where this worker runs them."""
        stage = self.stage
        yield "distributary_replay_active", (), float(stage is not None)
        yield "distributary_replay_deliveries_total", (), float(self._counters["replay_sent"])
        states: Counter[str] = Counter()
        remaining = 0
        for progress in () if stage is None else stage.progress.values():
            if progress.state not in ENDED:
                states[progress.state] += 1
                remaining += max(0, progress.counted - progress.sent) if progress.state in ("running", "paused") else 0
        for state in OPEN_STATES:
            yield "distributary_replays", (state,), float(states[state])
        yield "distributary_replay_remaining_deliveries", (), float(remaining)
