"""The composition root: a worker, made of the parts that the other files define.

A worker has one role or more. Fan-out and delivery are each a Faust app of its own with its consumer group, its
transactional producer and its stage; replays need no Faust. All share the subscriptions table and the registry. This
file decides what is connected to what, and in which order it starts and stops; nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from confluent_kafka import KafkaException

from connectors import frames
from connectors.address_guard import AddressGuard
from connectors.admin import ClusterError, check_topics
from connectors.aiohttp_sender import AiohttpSender
from connectors.clock import SystemClock
from connectors.compacted import TableError
from connectors.end_offsets import EndOffsets
from connectors.endpoints import EndpointTable
from connectors.http_sender import HttpSender
from connectors.log_reader import KafkaLogReader
from connectors.metrics_server import MetricsServerError, metrics_served
from connectors.own_listeners import place_of_url
from connectors.paired_publisher import PairedPublisher
from connectors.plain_publisher import PlainPublisher
from connectors.subscriptions import SubscriptionsTable
from schemas.endpoint import Kind
from schemas.errors import FencedError, RecordTooLargeError, RegistryUnavailableError
from schemas.frame import OffsetLedger
from schemas.topics import Topics
from streams.agents import Handler, frame_agent
from streams.attempt_log import LoggedRecords
from streams.core.breaker import NEVER, BreakerPolicy
from streams.core.ledger import Ledger
from streams.core.match import MatchIndex
from streams.core.oauth2 import ANSWER_BYTES_MAX
from streams.core.parked import ParkedLog
from streams.counters import Counters, line
from streams.dispatch import Dispatch
from streams.dispatch_state import DispatchLimits
from streams.fan_out import FanOut
from streams.operation_events import OperationEvents
from streams.ports import Registry, Sender, Tracer
from streams.records import Records
from streams.replay_role import ReplayRole
from streams.requests import Outgoing
from streams.secret_keys import SecretKeys
from streams.settings import Settings
from streams.settle import Settler
from streams.subscription_check import SubscriptionCheck
from streams.tally import Read, Tally, dead_letter, quarantined_record
from streams.tracing import FanOutSpans, TracedRecords, Tracing
from streams.wiring import (
    OwnSchemas,
    Role,
    WorkerError,
    client_config,
    make_guard,
    make_registry,
    make_tracer,
    register_own_schemas,
)
from streams.worker_metrics import WorkerMetrics

logger = logging.getLogger(__name__)

_STATUS_EVERY_S = 10.0
#: How long a stop waits for the collector of traces.
TRACES_CLOSE_S = 3.0


def _spare_the_collector() -> None:
    """Records in flight are many and make no cycles: looking through them every 700 allocations costs a tenth of a
    delivery."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _allow_files(wanted: int) -> None:
    """Raise the limit of open files, of which each connection is one, as far as this process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        logger.warning(
            "this process may have %s open files, of which POSTs may need %s; raise the limit (ulimit -Hn, or"
            " LimitNOFILE), or lower in_flight_max",
            most,
            wanted,
        )


def _log_progress(followed: int, total: int) -> None:
    logger.info("reading subscriptions: %s of %s records", followed, total)


class Worker:
    """Runs the roles until told to stop, or until something fails that waiting does not mend."""

    def __init__(
        self, settings: Settings, roles: Sequence[Role], *, on_ready: Callable[[], None] | None = None
    ) -> None:
        """`on_ready` is called once the table has caught up and partitions are assigned to every role."""
        self.settings = settings
        self.roles = tuple(roles)
        self.counters = Counters()
        self._on_ready = on_ready
        self._clock = SystemClock()
        self._failure: asyncio.Future[None] | None = None
        self._tracer: Tracer | None = None
        self._replays: asyncio.Task[None] | None = None
        self.metrics: WorkerMetrics | None = None  # where they are shown
        self.metrics_url = ""
        if settings.metrics_port is not None:
            self.metrics = WorkerMetrics(settings, self.counters, self._clock)
            self.metrics.roles = self.roles

    async def run(self, stop: asyncio.Event) -> None:
        """Start, work until `stop` is set, and stop in order. WorkerError when it cannot start or go on."""
        self._failure = asyncio.get_running_loop().create_future()
        topics = self.settings.topics
        async with contextlib.AsyncExitStack() as stack:
            try:
                await self._show(stack)
                table, parts = await self._start(stack, topics)
                await self._wait(stop, table, parts)
            except KafkaException as error:
                raise WorkerError(f"Kafka: {error.args[0].str()}") from None
            except (ClusterError, TableError, RegistryUnavailableError, FencedError, RecordTooLargeError) as error:
                raise WorkerError(str(error)) from None
            except MetricsServerError as error:
                raise WorkerError(str(error)) from None
        logger.info("stopped; %s", line(self.counters))

    async def _show(self, stack: contextlib.AsyncExitStack) -> None:
        """Metrics and health, before all else: they tell why the rest has not started yet."""
        metrics, port = self.metrics, self.settings.metrics_port
        if metrics is None or port is None:
            return
        self.metrics_url = await stack.enter_async_context(
            metrics_served(metrics.shown(), self.settings.metrics_host, port)
        )
        metrics.ends = EndOffsets(client_config(self.settings), metrics.places)
        following = asyncio.create_task(metrics.ends.follow(), name="end-offsets")
        stack.callback(following.cancel)

    async def _start(self, stack: contextlib.AsyncExitStack, topics: Topics) -> tuple[SubscriptionsTable, list[Part]]:
        """Start what all roles share, then each role. The stack undoes it in the opposite order."""
        tracer = self._tracer = make_tracer(self.settings)
        if tracer is not None:
            stack.push_async_callback(asyncio.to_thread, tracer.close, TRACES_CLOSE_S)
            if self.metrics is not None:
                self.metrics.tracer = tracer
        config = client_config(self.settings)
        problems = await check_topics(config, topics.specs())
        if problems:
            raise WorkerError(
                f"{problems[0]}; run `distributary topics apply` (and `topics check` for all {len(problems)})"
            )
        registry = make_registry(self.settings)
        stack.push_async_callback(registry.close)
        schema_ids = await register_own_schemas(registry, topics)
        table = SubscriptionsTable(
            config,
            topics.subscriptions,
            index=MatchIndex(),
            schemas=registry,
            on_progress=_log_progress,
        )
        stack.push_async_callback(table.stop)
        await table.start()
        logger.info("the subscriptions table has caught up: %s subscriptions", len(table))
        metrics = self.metrics
        if metrics is not None:
            metrics.table, metrics.table_trouble = table, lambda: table.trouble
        parts: list[Part] = []
        for role in self.roles:
            if role == "replay":
                await self._replay(stack, table, registry, schema_ids)
                continue
            if role == "fan-out":
                part = self._fan_out(topics, table, registry, schema_ids)
            else:
                part = await self._delivery(stack, topics, table, schema_ids)
            parts.append(part)
            await part.start()
            stack.push_async_callback(part.stop)
            if metrics is not None:
                metrics.parts.append(part)
                stack.callback(metrics.parts.remove, part)  # while it stops, it is neither ready nor dead
        _spare_the_collector()
        return table, parts

    async def _wait(self, stop: asyncio.Event, table: SubscriptionsTable, parts: list[Part]) -> None:
        failure = self._failure
        assert failure is not None
        stopped = asyncio.ensure_future(stop.wait())
        status = asyncio.ensure_future(self._report(parts))
        followed = asyncio.ensure_future(table.wait())
        try:
            tasks: list[asyncio.Future[Any]] = [stopped, failure, status, followed]
            tasks += [part.settling for part in parts if part.settling is not None]
            if self._replays is not None:
                tasks.append(self._replays)
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # raises what ended it
        finally:
            for watcher in (stopped, status, followed):
                watcher.cancel()

    async def _report(self, parts: list[Part]) -> None:
        """Say when everything is assigned, and then now and again what was done."""
        assigned = asyncio.gather(*(part.assigned.wait() for part in parts))
        done, _ = await asyncio.wait([assigned], timeout=_STATUS_EVERY_S)
        if not done:
            idle = ", ".join(part.group for part in parts if not part.assigned.is_set())
            logger.info("no partitions of %s yet: other workers hold them all, this one stands by", idle)
        await assigned
        logger.info("ready: %s", ", ".join(self.roles))
        if self._on_ready is not None:
            self._on_ready()
        before = line(self.counters)
        while True:
            await asyncio.sleep(_STATUS_EVERY_S)
            now = line(self.counters)
            if now != before:
                logger.info("%s", now)
                before = now

    def _fail(self, error: BaseException) -> None:
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    # --- roles ------------------------------------------------------------------------------------

    def _fan_out(self, topics: Topics, table: SubscriptionsTable, registry: Registry, schema_ids: OwnSchemas) -> Part:
        part = Part(self.settings, "fan-out", self._fail)
        spans = None if self._tracer is None else FanOutSpans(self._tracer, topics, part.group)
        stage = FanOut(topics, table, registry, part.settler, self._clock, self.counters, schema_ids, spans)
        if self.metrics is not None:
            self.metrics.fan_out = stage
        part.listen("fan-out", [topics.events], stage.process)
        check = SubscriptionCheck(topics, registry, part.settler, self.counters)
        part.listen("subscriptions", [topics.subscriptions], check.process)
        operations = OperationEvents(
            topics, self.settings.operator_tenant, registry, stage, part.settler, self.counters
        )
        part.listen("operations", [topics.operations], operations.process)
        window_ms, records = round(self.settings.operations_window_s * 1_000), Records(topics, schema_ids)
        tallies: list[tuple[str, Kind, Read]] = [
            (topics.dead, "dead_letters.written", dead_letter),
            (topics.quarantine, "quarantine.grew", quarantined_record),
        ]
        for topic, kind, read in tallies:
            tally = Tally(kind, read, part.settler, self._clock, records, window_ms=window_ms)
            part.listen(kind, [topic], tally.process)
        return part

    async def _delivery(
        self, stack: contextlib.AsyncExitStack, topics: Topics, table: SubscriptionsTable, schema_ids: OwnSchemas
    ) -> Part:
        settings = self.settings
        part = Part(settings, "delivery", self._fail)
        keys = SecretKeys(settings)
        endpoints = EndpointTable(client_config(settings), topics.endpoints_state)
        stack.push_async_callback(endpoints.stop)
        await endpoints.start()
        guard = await make_guard(settings, [place_of_url(self.metrics_url)] if self.metrics_url else ())
        # The second is closed first: who waits for a token is answered while there is somebody to answer.
        sender, token_sender = self._sender(guard), self._sender(guard, excerpt_bytes_max=ANSWER_BYTES_MAX)
        stack.push_async_callback(sender.close)
        stack.push_async_callback(token_sender.close)
        reader = KafkaLogReader(client_config(settings), topics.parked)
        stack.push_async_callback(reader.close)
        tracing = None if self._tracer is None else Tracing(self._tracer, part.settler, topics)
        records: Records | None = None if tracing is None else TracedRecords(topics, schema_ids, tracing)
        if settings.log_attempts:
            records = LoggedRecords(topics, schema_ids, table, settings.worker_name, tracing)
        stage = Dispatch(
            topics,
            table,
            endpoints,
            sender,
            reader,
            part.settler,
            self._clock,
            self.counters,
            schema_ids,
            hold=part.hold,
            release=part.release,
            ledger=part.ledger,
            opener=keys.open,
            token_sender=token_sender,
            worker=settings.worker_name,
            limits=DispatchLimits(
                in_flight_max=settings.in_flight_max,
                origin_rate_max=settings.origin_rate_max,
                tenant_weights=settings.tenant_weights,
                circuit=BreakerPolicy(requests_min=settings.circuit_results_min or NEVER),
            ),
            meter=None if self.metrics is None else self.metrics.meter,
            records=records,
            outgoing=Outgoing if tracing is None else tracing.outgoing,
        )
        if self.metrics is not None:
            self.metrics.dispatch = stage
        watching = asyncio.create_task(keys.watch(stage.keys_changed), name="secret-keys")
        stack.callback(watching.cancel)
        part.on_give_up = stage.give_up
        part.on_stop = stage.stop
        part.listen("delivery", [topics.deliveries, *topics.tiers.values(), topics.parked, topics.replay], stage.admit)
        return part

    async def _replay(
        self, stack: contextlib.AsyncExitStack, table: SubscriptionsTable, registry: Registry, schema_ids: OwnSchemas
    ) -> None:
        role = ReplayRole(self.settings, table, registry, schema_ids, self._clock, self.counters)
        stack.push_async_callback(role.stop)
        await role.start()
        self._replays = running = asyncio.create_task(role.run(), name="replay")

        async def end() -> None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        stack.push_async_callback(end)
        if self.metrics is not None:
            self.metrics.replay = role

    def _sender(self, guard: AddressGuard, excerpt_bytes_max: int = 1_024) -> Sender:
        # As many as there are places: what is too much for an endpoint its lane knows. Fewer, and endpoints that hang
        # would hold up others behind the same host.
        most = self.settings.in_flight_max
        _allow_files(2 * most + 1_024)
        if self.settings.proxy is not None:
            return AiohttpSender(
                guard,
                proxy=self.settings.proxy,
                connections_per_origin_max=most,
                excerpt_bytes_max=excerpt_bytes_max,
            )
        return HttpSender(guard, connections_per_origin_max=most, excerpt_bytes_max=excerpt_bytes_max)


class Part:
    """One role's Faust app, publisher and settler: what starts and stops together."""

    def __init__(self, settings: Settings, role: Role, fail: Callable[[BaseException], None]) -> None:
        self.settings = settings
        self.group = settings.group(role)
        self.assigned = asyncio.Event()
        self.settling: asyncio.Task[None] | None = None
        self.on_give_up: Callable[[list[tuple[str, int]], float], Awaitable[None]] | None = None
        self.on_stop: Callable[[float], Awaitable[None]] | None = None
        self._fail = fail
        name = settings.worker_name
        self.publisher: PairedPublisher | PlainPublisher
        if settings.guarantee == "at_least_once":
            self.publisher = PlainPublisher(client_config(settings), self._commit_soon)
        else:
            self.publisher = PairedPublisher(
                client_config(settings), f"{self.group}.{name}", self._group_metadata, self._committed
            )
        self.settler = Settler(self.publisher)
        self.app = frames.FrameApp(
            self.group,
            broker=frames.urls(client_config(settings)["bootstrap.servers"]),
            key_serializer="raw",
            value_serializer="raw",
            topic_disable_leader=True,
            topic_allow_declare=False,
            web_enabled=False,
            stream_wait_empty=False,
            stream_buffer_maxsize=2,  # frames; what waits here is not yet admitted
            autodiscover=False,
        )
        self.app.frame_settings = frames.FrameSettings(
            ledger=self._new_ledger,
            consumer=client_config(settings),
            group_protocol=settings.group_protocol,
            commits=False,  # offsets go with what the settler writes
            on_revoke=self._on_revoke,
        )
        self.app.on_crash = fail
        self.app.on_partitions_assigned.connect(self._on_assigned)

    def listen(self, name: str, topics: list[str], handle: Handler) -> None:
        """Declare the role's agent."""
        frame_agent(self.app, name, topics, handle, self._fail)

    async def start(self) -> None:
        """End what a predecessor left open, then join the group."""
        await self.publisher.start()
        self.settling = asyncio.create_task(self.settler.run(), name=f"settle-{self.group}")
        await self.app.start()

    async def stop(self) -> None:
        """Let what is under way end and be settled, leave the group, let go."""
        drain_s = self.settings.drain_s
        if self.settling is not None and not self.settling.done():
            self.consumer.quiesce()
            try:
                async with asyncio.timeout(drain_s + 5):
                    if self.on_stop is not None:
                        await self.on_stop(drain_s)
                    await self.settler.flush()
            except TimeoutError:
                logger.warning("%s did not settle everything in time; the next worker repeats it", self.group)
        await self.app.stop()
        if self.settling is not None:
            self.settling.cancel()
            await asyncio.gather(self.settling, return_exceptions=True)
        await self.publisher.close()

    @property
    def consumer(self) -> frames.FrameConsumer:
        """The app's, once it has started."""
        return cast(frames.FrameConsumer, self.app.consumer)

    def _new_ledger(self, topic: str, partition: int, position: int, metadata: str | None) -> OffsetLedger:
        return ParkedLog(position) if topic == self.settings.topics.parked else Ledger(position, metadata)

    def ledger(self, topic: str, partition: int) -> OffsetLedger | None:
        """Of the partition's present epoch; None when it is not ours, or nothing of it was ever committed or read."""
        return self.consumer.ledger(topic, partition)

    def hold(self, topic: str, partition: int) -> None:
        """Pause a partition's fetching."""
        self.consumer.hold(topic, partition)

    def release(self, topic: str, partition: int) -> None:
        """Resume it."""
        self.consumer.release(topic, partition)

    def _group_metadata(self) -> object:
        return self.consumer.group_metadata()

    async def _committed(self, places: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], tuple[int, str]] | None:
        return await self.consumer.committed(places)

    def _commit_soon(self, offsets: Sequence[tuple[str, int, int, str]]) -> None:
        self.consumer.commit_soon(offsets)

    async def _on_assigned(self, *_: Any, **__: Any) -> None:
        self.assigned.set()

    async def _on_revoke(self, partitions: list[tuple[str, int]]) -> None:
        if self.settling is None or self.settling.done():  # nothing can be settled any more
            return
        if self.on_give_up is not None:
            await self.on_give_up(partitions, self.settings.drain_s)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.drain_s):
                    await self.settler.flush()
