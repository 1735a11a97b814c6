"""The runs of an audit. Each: set up, send and break, wait until it is quiet, stop, read everything, judge."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Message

from connectors.admin import ClusterError, apply_topics
from connectors.clock import SystemClock
from connectors.faulty_receiver import read_posts
from connectors.feed import Writer
from schemas.event import encode_event
from streams.cli.audit_books import KafkaBooks, ReceiverBooks
from streams.cli.audit_faults import REPLICATED_FROM, Made, kinds_for, schedule
from streams.cli.audit_inject import Injector
from streams.cli.audit_judge import EventPlaces, Verdict, combined, judge
from streams.cli.audit_plan import Plan, number_in
from streams.cli.audit_read import carriers, committed, ends, group_states, read
from streams.cli.audit_view import show_progress
from streams.cli.audit_world import Workers, World, open_world
from streams.cli.options import load_settings, open_registry
from streams.cli.output import note
from streams.cli.running import CommandError
from streams.cli.values import subscription_value
from streams.settings import Settings
from streams.wiring import ROLES, OwnSchemas, client_config, register_own_schemas

PARTITIONS = 8
#: Deliveries that do not move for so long will not move: what is open then is pending or lost.
STALLED_SECONDS = 90.0
#: After the last end: what is there twice, in a tier or on its way, gets the time to show itself.
GRACE_SECONDS = 8.0
PROGRESS_SECONDS = 10.0
_LOOK_SECONDS = 0.2


class AuditSettings(msgspec.Struct, frozen=True):
    """What was asked for."""

    seed: int
    deliveries: int
    minutes: float
    faults: int
    workers: int
    brokers: int


def acts(asked: AuditSettings) -> list[AuditSettings]:
    """What was asked for as runs of their own, one after the other: with one broker for the faults of workers and
    endpoints, with all of them for their own. Each gets its part of everything, by how many kinds of faults it has."""
    if asked.brokers < REPLICATED_FROM:
        return [asked]
    single, cluster = len(kinds_for(1)), len(kinds_for(asked.brokers))
    part = single / (single + cluster)
    first = msgspec.structs.replace(
        asked,
        deliveries=round(asked.deliveries * part),
        minutes=asked.minutes * part,
        faults=round(asked.faults * part),
        brokers=1,
    )
    second = msgspec.structs.replace(
        asked,
        deliveries=asked.deliveries - first.deliveries,
        minutes=asked.minutes - first.minutes,
        faults=asked.faults - first.faults,
    )
    return [first, second]


async def run_acts(asked: AuditSettings, folder: Path) -> tuple[Verdict, list[Made], int]:
    """One run after the other: what came of all, the faults made, and how many workers ended unasked."""
    verdicts: list[Verdict] = []
    made: list[Made] = []
    ended = 0
    runs = acts(asked)
    for number, act in enumerate(runs, 1):
        if len(runs) > 1:
            note(f"part {number} of {len(runs)}: {act.faults} faults, {act.brokers} broker{'s' * (act.brokers > 1)}")
        place = folder / f"part-{number}" if len(runs) > 1 else folder
        place.mkdir(exist_ok=True)
        verdict, injector, workers = await Audit(act, place).run()
        if len(runs) > 1:
            result = verdict.result
            note(f"part {number}: {result.delivered} delivered, {result.lost} lost, {result.duplicates} duplicates")
        verdicts.append(verdict)
        made += injector.made
        ended += len(workers.ended)
    return combined(verdicts), made, ended


class Audit:
    """One run."""

    def __init__(self, asked: AuditSettings, folder: Path) -> None:
        self._asked = asked
        self._folder = folder
        self._clock = SystemClock()
        self._seconds = asked.minutes * 60
        self.plan = Plan(asked.seed, asked.deliveries)
        self.faults = schedule(asked.seed, asked.faults, self._seconds, asked.workers, asked.brokers, self.plan.targets)
        self._places = EventPlaces(self.plan.events)
        #: What Kafka has so far; read again from scratch in the end.
        self._live = KafkaBooks(self.plan)
        self._sent = 0
        self._start = 0.0

    async def run(self) -> tuple[Verdict, Injector, Workers]:
        """The verdict, and who knows what was done. CommandError and others when it could not take place."""
        plan = self.plan
        async with AsyncExitStack() as stack:
            endpoints = [target.endpoint() for target in plan.targets]
            world = await stack.enter_async_context(open_world(self._folder, self._asked.brokers, endpoints))
            environment = {
                "prefix": "audit.",
                "partitions": str(PARTITIONS),
                "registry_url": "",
                "schemas": "",
                "proxy": "",
                "kafka": "{}",
                "guarantee": "exactly_once",
                "allow_private_networks": "true",
                "drain_s": "10",
            }
            settings = load_settings(bootstrap=world.brokers.direct, **environment | {"kafka": {}})
            config = client_config(settings)
            await apply_topics(config, settings.topics.specs(), -1)
            workers = Workers(self._folder, environment | {"bootstrap": world.brokers.bootstrap})
            stack.push_async_callback(asyncio.to_thread, workers.close)
            injector = Injector(world, workers, plan.targets, self._folder / "faults.jsonl")
            async with open_registry(settings) as registry:
                ids = await register_own_schemas(registry, settings.topics)
            await self._subscribe(settings, ids, world)
            for name in [await workers.join() for _ in range(self._asked.workers)]:
                if not await workers.ready(name):
                    raise CommandError(f"the worker {name} was not ready within a minute; see {self._folder}")
            note(
                f"{self._asked.workers} workers ready; sending {plan.events} events in {self._seconds:.0f} s"
                f" to {len(plan.targets)} endpoints, with {len(self.faults)} faults"
            )
            await self._until_quiet(settings, ids, injector, workers)
            note("quiet; stopping the workers, and reading everything back")
            if not await workers.leave_all():
                note("a worker did not stop in time", style="yellow")
            verdict = await self._judged(settings, world, injector)
        return verdict, injector, workers

    async def _subscribe(self, settings: Settings, ids: OwnSchemas, world: World) -> None:
        now_ms = self._clock.now_ms()
        rates = self.plan.rates(self._seconds)
        async with Writer(client_config(settings)) as writer:
            for target in self.plan.targets:
                each = target.subscription(world.ports[target.number], now_ms, rates[target.number])
                value = subscription_value(ids.subscription, each)
                await writer.write(settings.topics.subscriptions, each.id.encode(), value)

    async def _until_quiet(self, settings: Settings, ids: OwnSchemas, injector: Injector, workers: Workers) -> None:
        """Send, break, and wait until every delivery has its end, or nothing moves any more."""
        self._start = self._clock.monotonic()
        watches = [self._follow(settings), workers.supervise(), self._show(workers)]
        watching: list[asyncio.Future[Any]] = [asyncio.ensure_future(watch) for watch in watches]
        try:
            await self._do(watching, self._send(settings, ids), injector.run(self.faults, self._start))
            await self._do(watching, self._settled(settings))
            await self._do(watching, asyncio.sleep(GRACE_SECONDS))
        finally:
            await _cancel(watching)

    async def _do(self, watching: Sequence[asyncio.Future[Any]], *works: Awaitable[Any]) -> None:
        """Wait for all works; what watches never returns, and raises what makes waiting pointless."""
        left = {asyncio.ensure_future(work) for work in works}
        try:
            while left:
                done, _ = await asyncio.wait([*left, *watching], return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                left -= done
        finally:
            await _cancel(left)

    async def _send(self, settings: Settings, ids: OwnSchemas) -> None:
        rate = self.plan.events / self._seconds
        async with Writer(client_config(settings), on_acked=self._acked) as writer:
            for n in range(self.plan.events):
                if (early := self._start + n / rate - self._clock.monotonic()) > 0:
                    await asyncio.sleep(early)
                event = self.plan.event(n, self._clock.now_ms())
                # By tenant and subject: what must arrive in order must lie in one partition.
                key = str(self.plan.lane(n)).encode()
                await writer.write(settings.topics.events, key, encode_event(ids.event, event))
                self._sent = n + 1

    def _acked(self, message: Message) -> None:
        value = message.value()
        assert isinstance(value, bytes)
        n = number_in(value)
        self._places.times_ms[n] = message.timestamp()[1]
        self._places.put(n, message.partition(), message.offset())

    async def _follow(self, settings: Settings) -> None:
        """Keep the books up to date. Never returns."""
        while True:
            try:
                async for _ in read(client_config(settings), ends(settings.topics, self._live), follow=True):
                    pass
            except ClusterError as error:  # a topic that a broker just back does not know yet
                note(f"reading again from the beginning: {error}", style="yellow")
                self._live = KafkaBooks(self.plan)

    async def _settled(self, settings: Settings) -> None:
        """Wait until every delivery has its end, or nothing has moved for long."""
        seen, since = self._live.records, self._clock.monotonic()
        while self._live.open and self._clock.monotonic() < since + STALLED_SECONDS:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._live.records != seen:
                seen, since = self._live.records, self._clock.monotonic()
        if self._live.open:
            note(f"{self._live.open} deliveries have no end, and nothing moves", style="red")
            states = await group_states(client_config(settings), [settings.group(role) for role in ROLES])
            (self._folder / "groups.txt").write_text("\n".join(states) + "\n")

    async def _show(self, workers: Workers) -> None:
        """Now and then. Never returns."""
        expected = self.plan.deliveries
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            seconds = self._clock.monotonic() - self._start
            show_progress(
                seconds, self._sent, self.plan.events, expected - self._live.open, expected, len(workers.running)
            )

    async def _judged(self, settings: Settings, world: World, injector: Injector) -> Verdict:
        config, topics = client_config(settings), settings.topics
        kafka = KafkaBooks(self.plan)
        for takes in (ends(topics, kafka), carriers(topics, kafka)):
            async for _ in read(config, takes, follow=False):
                pass
        stats = await world.receiver.ask({"do": "stats"})  # completes the file, too
        receivers = ReceiverBooks(self.plan)
        receivers.strange(stats["strange"], stats["unsigned"])
        await asyncio.to_thread(lambda: receivers.take(read_posts(world.posts)))
        offsets = await committed(config, settings)
        broker = "1 broker" if world.brokers.count == 1 else f"{world.brokers.count} brokers"
        return judge(self.plan, kafka, receivers, offsets, self._places, injector.made, f"{broker} of Apache Kafka")


async def _cancel(tasks: Collection[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
