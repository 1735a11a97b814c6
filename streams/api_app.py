"""The composition root of `distributary api`: tables and services, and the application that is made of them.

What is connected to what, and in which order it starts and stops; nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from aiohttp import web

from connectors.admin import check_topics
from connectors.api.app import ApiConfig, make_app
from connectors.api.attempts import Attempts
from connectors.api.dead_letters import Dead
from connectors.api.deliveries import Past
from connectors.api.discovery import Document
from connectors.api.event_checks import EventChecks
from connectors.api.event_types import Catalogue
from connectors.api.events import Publishing
from connectors.api.health import Readiness
from connectors.api.key_check import KeyCheck
from connectors.api.keys import Portal
from connectors.api.limits import Policy
from connectors.api.listening import Listeners
from connectors.api.openapi import openapi
from connectors.api.principal import Authenticate
from connectors.api.quarantine import Quarantine
from connectors.api.receiving import Door, ReceivingConfig
from connectors.api.routes import Services
from connectors.api.sources import Sources
from connectors.api.subscription_start import EventExtents
from connectors.api.subscriptions import Listing
from connectors.api.table import ROUTES
from connectors.api.trail import History
from connectors.api.who import Who
from connectors.api_keys import KeysTable
from connectors.clock import SystemClock
from connectors.dead_letters import DeadLetters
from connectors.dead_marks import DeadDesk, DeadMarksTable
from connectors.endpoints import EndpointTable
from connectors.event_feed import EventFeed
from connectors.event_types import EventTypeTable
from connectors.extents import TopicExtents
from connectors.history.topic import KafkaHistory
from connectors.ingest import Ingest, IngestLimits, kafka_ingest
from connectors.key_desk import KeyDesk
from connectors.newest import NewestFirst
from connectors.refusals import Refusals
from connectors.replays import ProgressTable, ReplaysTable
from connectors.source_desk import Sealer, SourceDesk
from connectors.sources import SourcesTable
from connectors.subscriptions import ById, SubscriptionsTable
from connectors.topic_pages import TopicPages
from schemas.client_address import network
from schemas.codec import wire_header
from schemas.event_type import encode_event_type
from schemas.operation_types import RECORD_NAME, operation_types
from schemas.portal import PortalSigner
from schemas.subjects import subject_of
from streams.control import control_services, verifying
from streams.dead_judge import DeadJudge, mark_topics
from streams.observed import Observed
from streams.ports import Registry
from streams.quarantine_service import QuarantineService
from streams.replay_wiring import replay_desk
from streams.secret_keys import SecretKeys
from streams.settings import Settings
from streams.source_wiring import source_sealer, source_topics
from streams.verifier import open_verifier
from streams.wiring import (
    OwnSchemas,
    WorkerError,
    client_config,
    control_pen,
    history_store,
    key_topics,
    make_guard,
    make_registry,
    register_own_schemas,
)

logger = logging.getLogger(__name__)


def portal_signer(settings: Settings) -> PortalSigner | None:
    """Who signs portal links; None without a secret. WorkerError for one that is too short."""
    if not settings.portal_secret:
        return None
    texts = [text.strip() for text in settings.portal_secret.split(",")]
    try:
        return PortalSigner([text.encode() for text in texts], f"{settings.prefix}distributary.api")
    except ValueError as error:
        raise WorkerError(f"the setting portal_secret is wrong: {error}") from None


def receiving_config(settings: Settings, clock: SystemClock, sealer: Sealer) -> ReceivingConfig:
    """How the receiving door sees the world. WorkerError for a setting that is wrong."""
    for text in settings.trusted_proxies:
        try:
            network(text)
        except ValueError as error:
            raise WorkerError(f"the setting trusted_proxies is wrong: {error}") from None
    return ReceivingConfig(
        now_ms=clock.now_ms,
        open_secret=sealer.open,
        decoy=secrets.token_hex(32),
        trusted_proxies=settings.trusted_proxies,
        public_url=settings.public_url.rstrip("/"),
    )


@contextlib.asynccontextmanager
async def api_app(
    settings: Settings,
    authenticate: Authenticate | None = None,
    observed: Observed | None = None,
    *,
    listening: Sequence[tuple[str, int]] = (),
) -> AsyncIterator[web.Application]:
    """The application, whose tables have caught up. WorkerError when it cannot start; ClusterError; TableError.

    `authenticate` takes the place of API keys, for tests. `observed` is told what there is to show. `listening` is
    where it is served, as (host, port): no endpoint may be there.
    """
    config, topics, clock = client_config(settings), settings.topics, SystemClock()
    secret_keys = SecretKeys(settings)
    if not secret_keys.keyring:
        logger.warning(
            "there are no secret keys: secrets are written to Kafka in clear; see `distributary secret-keys new`"
        )
    if problems := await check_topics(config, topics.specs()):
        raise WorkerError(f"{problems[0]}; run `distributary topics apply` (`topics check` shows all {len(problems)})")
    async with contextlib.AsyncExitStack() as stack:
        registry = make_registry(settings)
        stack.push_async_callback(registry.close)
        own = await register_own_schemas(registry, topics)
        index = ById()
        subscriptions = SubscriptionsTable(
            config, topics.subscriptions, index=index, schemas=registry, keep_offsets=True
        )
        endpoints = EndpointTable(config, topics.endpoints_state)
        keys = KeysTable(config, topics.api_keys)
        event_types = EventTypeTable(config, topics.event_types)
        sources = SourcesTable(config, topics.sources)
        replays = ReplaysTable(config, topics.replays)
        progresses = ProgressTable(config, topics.replays_progress)
        marks = DeadMarksTable(config, topics.dead_marks)
        written = (subscriptions, endpoints, keys, event_types, sources, replays, marks)
        tables = (*written, progresses)
        for table in tables:
            stack.push_async_callback(table.stop)
            await table.start()
        pen = control_pen(settings, written)
        await pen.start()
        stack.push_async_callback(pen.close)
        key_check = KeyCheck(keys.get, clock.now_ms)
        stack.push_async_callback(key_check.close)
        failures = Policy(settings.auth_failures_per_minute / 60, settings.auth_failures_per_minute)
        clocks: Any = {"now_ms": clock.now_ms, "monotonic": clock.monotonic}
        signer = portal_signer(settings)
        who = Who(keys.get, key_check, signer, failures=failures, **clocks)
        newest = NewestFirst(config, topics.audit)
        stack.push_async_callback(newest.close)
        watching = asyncio.create_task(secret_keys.watch(lambda: None), name="secret keys")
        stack.callback(watching.cancel)
        ingest = _ingest(settings, own)
        stack.push_async_callback(ingest.close)
        await ingest.start()
        refusals = Refusals(clock.monotonic)
        sealer = source_sealer(secret_keys)
        desk = SourceDesk(sources, pen, source_topics(topics, own), sealer)
        store = history_store(settings) if settings.history else None
        history = store or KafkaHistory(config, topics.attempts, clock.monotonic)
        stack.push_async_callback(history.close)
        dead_letters = DeadLetters(config, topics.dead, clock.monotonic)
        stack.push_async_callback(dead_letters.close)
        aside = TopicPages(config, topics.quarantine, clock.monotonic)
        stack.push_async_callback(aside.close)
        checks = EventChecks(event_types, registry, strict=settings.unknown_event_types == "refuse")

        guard = await make_guard(settings, listening)
        extents = TopicExtents(config)
        listeners = Listeners(EventFeed(config, topics.events, registry), clock.monotonic)

        def troubles() -> list[str]:
            return [each.trouble for each in (*tables, ingest) if each.trouble]

        services = Services(
            authenticate or who,
            Document(msgspec.json.encode(openapi(ROUTES))),
            Listing(index, endpoints, subscriptions.offset_of),
            *control_services(settings, own, pen, secret_keys, guard),
            verifying(await stack.enter_async_context(open_verifier(settings, secret_keys.open, guard))),
            listeners,
            Past(history),
            Attempts(store, clock.now_ms),
            await _catalogue(event_types, settings, own, registry),
            Publishing(ingest, checks, draw=lambda: secrets.randbits(64), now_ms=clock.now_ms),
            Door(sources.get, ingest, refusals, receiving_config(settings, clock, sealer)),
            Sources(desk, refusals, clock.now_ms, lambda: f"src_{secrets.token_hex(8)}"),
            KeyDesk(keys, pen, key_topics(topics, own), secrets.token_bytes, key_check.compute),
            EventExtents(topics.events, lambda topic: extents(topic, None, None)),
            replays_desk := replay_desk(settings, own, pen, replays, progresses),
            dead := Dead(dead_letters, DeadJudge(topics.dead, replays_desk.every, marks.marks), clock.monotonic),
            Quarantine(QuarantineService(settings, registry, own, aside, clock.monotonic)),
            DeadDesk(pen, mark_topics(topics, own), marks.marks, lambda: secrets.token_hex(8)),
            Portal(signer, settings.portal_url, lambda: secrets.token_hex(8)),
            History(newest),
            Readiness(troubles),
        )
        app = make_app(
            ROUTES,
            services,
            ApiConfig(
                monotonic=clock.monotonic,
                new_id=lambda: secrets.token_hex(12),
                request_seconds=settings.api_request_s,
                rate=settings.api_rate,
                burst=settings.api_burst,
            ),
        )
        app.on_shutdown.append(listeners.stop)
        app.on_shutdown.append(dead.stop)
        if observed is not None:
            observed.serves(app, troubles, lambda: [("distributary_ingest_queue_records", (), float(ingest.queued))])
        yield app


def _ingest(settings: Settings, own: OwnSchemas) -> Ingest:
    return kafka_ingest(
        client_config(settings),
        settings.topics,
        transactional_id=f"{settings.prefix}distributary.ingest.{settings.worker_name}",
        event_schema=own.event,
        seen_schema=own.seen,
        clock=SystemClock(),
        limits=IngestLimits(
            window_ms=round(settings.ingest_window_s * 1000),
            marks_max=settings.ingest_ids_max,
            wait_s=settings.ingest_wait_s,
        ),
    )


async def _catalogue(table: EventTypeTable, settings: Settings, own: OwnSchemas, registry: Registry) -> Catalogue:
    header, topics = wire_header(own.event_type), settings.topics
    place = subject_of(await registry.versions_of(own.operation), RECORD_NAME, topics.events)
    return Catalogue(
        table,
        topics.event_types,
        lambda each: encode_event_type(header, each),
        registry,
        operations=operation_types(place[0] if place else ""),
        operator_tenant=settings.operator_tenant,
    )
