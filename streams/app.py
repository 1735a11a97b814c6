"""The composition root: a worker, made of the parts that the other files define.

A worker has one or both roles, each a Faust app of its own with its consumer group, its transactional producer and its stage; both
share the subscriptions table and the registry. This file decides what is connected to what, and in which order it starts and
stops; nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Any, Literal

import faust
from confluent_kafka import KafkaException

from connectors import frames
from connectors.address_guard import AddressGuard
from connectors.aiohttp_sender import AiohttpSender
from connectors.clock import SystemClock
from connectors.http_sender import HttpSender
from connectors.publisher import TransactionalPublisher
from connectors.registry import registry_from
from connectors.subscriptions import SubscriptionsTable
from schemas.codec import own_schema
from schemas.delivery import dead_letter_schema
from schemas.frame import Headers
from streams.agents import frame_agent
from streams.core.ledger import Ledger
from streams.core.match import MatchIndex
from streams.core.quarantine import quarantined
from streams.counters import Counters, line
from streams.dispatch import DeliverySchemas, Dispatch, DispatchLimits
from streams.fan_out import FanOut
from streams.ports import Registry, Sender
from streams.settings import Settings
from streams.settle import Settler
from streams.transport import Transport

logger = logging.getLogger(__name__)

Role = Literal["fan-out", "delivery"]
ROLES: tuple[Role, ...] = ("fan-out", "delivery")
_STATUS_EVERY_S = 10.0


class WorkerError(Exception):
    """The worker cannot start or go on; one sentence with the next step."""


class OwnSchemas(DeliverySchemas, frozen=True):
    """The registry's ids of all our record schemas."""

    event: int
    subscription: int


def client_config(settings: Settings) -> dict[str, Any]:
    """What every Kafka client of ours shares. WorkerError when no cluster is named."""
    if settings.bootstrap is None:
        raise WorkerError("no Kafka cluster is named; set DISTRIBUTARY_BOOTSTRAP=host:9092, or try `distributary dev`")
    return {"bootstrap.servers": settings.bootstrap, **settings.kafka}


def make_registry(settings: Settings) -> Registry:
    """The registry server where one is named, else the folder with our own schemas."""
    return registry_from(
        settings.registry_url, folder=settings.schemas, auth=settings.registry_auth, monotonic=SystemClock().monotonic
    )


async def register_own_schemas(registry: Registry, topics: Topics) -> OwnSchemas:
    """Register what we write under the topics' subjects (TopicNameStrategy). Idempotent."""
    return OwnSchemas(
        event=await registry.register(f"{topics.events}-value", own_schema("event.v2")),
        subscription=await registry.register(f"{topics.subscriptions}-value", own_schema("subscription.v1")),
        delivery=await registry.register(f"{topics.deliveries}-value", own_schema("delivery.v1")),
        attempt=await registry.register(f"{topics.attempts}-value", own_schema("attempt.v1")),
        dead_letter=await registry.register(f"{topics.dead}-value", dead_letter_schema()),
    )
