"""What a worker and the commands share to reach a cluster: settings of clients, the registry, our schemas in it.

Part of the composition root, and light: a command that only reads or writes a topic does not import Faust. This file
starts nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from connectors.address_guard import AddressGuard
from connectors.admin import broker_places
from connectors.clock import SystemClock
from connectors.history.sql_store import SqlStore
from connectors.history.stores import open_store
from connectors.key_desk import KeyTopics
from connectors.own_listeners import find_listeners, place, place_of_url
from connectors.pen import Pen, Table
from connectors.registry import registry_from
from connectors.registry_client import ConfluentRegistry
from connectors.registry_folder import FolderRegistry
from schemas.codec import own_schema, wire_header
from schemas.delivery import dead_letter_schema
from schemas.topics import Topics
from streams.kafka_security import kafka_security
from streams.ports import Registry
from streams.records import DeliverySchemas
from streams.settings import Settings

if TYPE_CHECKING:
    from connectors.otel import OtelTracer

Role = Literal["fan-out", "delivery", "replay"]
ROLES: tuple[Role, ...] = ("fan-out", "delivery", "replay")


class WorkerError(Exception):
    """The worker cannot start or go on; one sentence with the next step."""


class OwnSchemas(DeliverySchemas, frozen=True, kw_only=True):
    """The registry's ids of all our record schemas."""

    event: int
    subscription: int
    api_key: int
    audit_record: int
    seen: int
    event_type: int
    source: int
    replay: int
    replay_progress: int
    dead_mark: int


def client_config(settings: Settings) -> dict[str, Any]:
    """What every Kafka client of ours shares; the setting `kafka` wins. WorkerError when no cluster is named, or its
    security makes no sense."""
    if settings.bootstrap is None:
        raise WorkerError("no Kafka cluster is named; set DISTRIBUTARY_BOOTSTRAP=host:9092, or try `distributary dev`")
    try:
        own = {**kafka_security(settings), **settings.kafka}
    except ValueError as error:
        raise WorkerError(f"the Kafka settings are wrong: {error}; see docs/how-to/secure-kafka.md") from None
    return {
        "bootstrap.servers": settings.bootstrap,
        # librdkafka waits up to 10 s between two tries to connect: a broker that was away for three would be for ten.
        "reconnect.backoff.max.ms": 1_000,
        **own,
    }


async def make_guard(settings: Settings, listening: Sequence[tuple[str, int]] = ()) -> AddressGuard:
    """Where deliveries may go under these settings; `listening` is (address, or `*` for all, and port) of this process.

    The brokers, the registry and `own_listeners` are no endpoints: their names are looked up here, once. WorkerError
    when a setting is wrong, ClusterError when Kafka does not answer.
    """
    try:
        places = [*listening, *map(place, settings.own_listeners)]
        if settings.registry_url is not None:
            places += map(place_of_url, settings.registry_url.split(","))
        config = client_config(settings)
        places += await broker_places(config)
        return AddressGuard(
            allow_private=settings.allow_private_networks,
            allow=settings.allow_networks,
            deny=settings.deny_networks,
            allow_http=settings.allow_http,
            deny_ports=settings.deny_ports,
            own=await find_listeners(places),
        )
    except ValueError as error:
        raise WorkerError(f"where deliveries may go is not clear: {error} Correct the setting") from None


def control_pen(settings: Settings, tables: Sequence[Table]) -> Pen:
    """The one pen of these topics, by its transactional id; `tables` are those that changes are decided on."""
    return Pen(client_config(settings), f"{settings.prefix}distributary.control", tables, SystemClock().jitter)


def key_topics(topics: Topics, own: OwnSchemas) -> KeyTopics:
    """Where the records of API keys go, with the ids of our schemas."""
    return KeyTopics(topics.api_keys, wire_header(own.api_key), topics.audit, wire_header(own.audit_record))


#: Where attempts are kept when nothing is said.
HISTORY = "sqlite:///distributary-history.db"


def history_store(settings: Settings) -> SqlStore:
    """The database of attempts. WorkerError when its URL is none."""
    try:
        return open_store(settings.history or HISTORY, SystemClock().monotonic)
    except ValueError as error:
        raise WorkerError(f"the setting history is wrong: {error}; correct it") from None


def otel() -> ModuleType:
    """`connectors.otel`. WorkerError when OpenTelemetry is not installed."""
    try:
        from connectors import otel  # noqa: PLC0415 - traces are off for most
    except ImportError:
        raise WorkerError(
            "traces need OpenTelemetry, which is not installed; run pip install 'distributary[otel]', or leave the"
            " setting traces out"
        ) from None
    return otel


def make_tracer(settings: Settings) -> OtelTracer | None:
    """What sends spans; None where traces are off, which costs not even an import. WorkerError without the extra, or
    with variables of OpenTelemetry that make no sense."""
    if not settings.traces or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    make: type[OtelTracer] = otel().OtelTracer
    try:
        return make(
            monotonic=SystemClock().monotonic,
            endpoint=settings.traces_endpoint,
            headers=settings.traces_headers,
            ratio=settings.traces_ratio,
            instance=settings.worker_name,
        )
    except ValueError as error:
        raise WorkerError(f"OpenTelemetry does not take one of its variables: {error}; correct it") from None


def make_registry(settings: Settings) -> FolderRegistry | ConfluentRegistry:
    """The registry server where one is named, else the folder with our own schemas."""
    conf = dict(settings.registry_conf)
    if settings.registry_auth:
        conf["basic.auth.user.info"] = settings.registry_auth
    try:
        return registry_from(
            url=settings.registry_url, folder=settings.schemas, conf=conf, monotonic=SystemClock().monotonic
        )
    except ValueError as error:
        raise WorkerError(str(error)) from None


async def register_own_schemas(registry: Registry, topics: Topics) -> OwnSchemas:
    """Register what we write under the topics' subjects (TopicNameStrategy). Idempotent."""
    return OwnSchemas(
        event=await registry.register(f"{topics.events}-value", own_schema("event.v3")),
        subscription=await registry.register(f"{topics.subscriptions}-value", own_schema("subscription.v4")),
        # In their order: a registry checks each version against those before it.
        delivery_v1=await registry.register(f"{topics.deliveries}-value", own_schema("delivery.v1")),
        delivery=await registry.register(f"{topics.deliveries}-value", own_schema("delivery.v2")),
        attempt=await registry.register(f"{topics.attempts}-value", own_schema("attempt.v1")),
        dead_letter=await registry.register(f"{topics.dead}-value", dead_letter_schema()),
        endpoint_state=await registry.register(f"{topics.endpoints_state}-value", own_schema("endpoint_state.v1")),
        operation=await registry.register(f"{topics.operations}-value", own_schema("operation.v2")),
        api_key=await registry.register(f"{topics.api_keys}-value", own_schema("api_key.v1")),
        audit_record=await registry.register(f"{topics.audit}-value", own_schema("audit_record.v1")),
        seen=await registry.register(f"{topics.seen}-value", own_schema("seen.v1")),
        event_type=await registry.register(f"{topics.event_types}-value", own_schema("event_type.v1")),
        source=await registry.register(f"{topics.sources}-value", own_schema("source.v1")),
        replay=await registry.register(f"{topics.replays}-value", own_schema("replay.v1")),
        replay_progress=await registry.register(f"{topics.replays_progress}-value", own_schema("replay_progress.v1")),
        dead_mark=await registry.register(f"{topics.dead_marks}-value", own_schema("dead_mark.v1")),
    )
