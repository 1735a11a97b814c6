"""Errors whose text is already a sentence for people.

Imported when there is an error to be told: together they need most of what there is. This file tells nothing.
"""

from __future__ import annotations

from connectors.compacted import TableError
from connectors.group_offsets import ReplayError
from connectors.history.store import StoreMismatchError
from connectors.key_desk import KeyConflictError, UnknownKeyError
from connectors.local_kafka import KafkaUnavailable
from connectors.metrics_server import MetricsServerError
from connectors.receiver import StandardWebhooksMissing
from connectors.registry_topic import StoreError
from connectors.replay_desk import ReplayConflictError
from schemas.access import InvalidAccessError
from schemas.dead_mark import InvalidMarkError
from schemas.errors import (
    FencedError,
    InvalidSubscriptionError,
    RecordTooLargeError,
    RegistryUnavailableError,
    UndecodableError,
    UnknownSchemaError,
    UnsealableError,
)
from schemas.replay import InvalidReplayError
from streams.quarantine_log import QuarantineError
from streams.wiring import WorkerError

#: All of them, but the command line's own.
SENTENCES = (
    FencedError,
    InvalidAccessError,
    InvalidMarkError,
    InvalidReplayError,
    InvalidSubscriptionError,
    KafkaUnavailable,
    KeyConflictError,
    MetricsServerError,
    QuarantineError,
    RecordTooLargeError,
    RegistryUnavailableError,
    ReplayConflictError,
    ReplayError,
    StandardWebhooksMissing,
    StoreError,
    StoreMismatchError,
    TableError,
    UndecodableError,
    UnknownKeyError,
    UnknownSchemaError,
    UnsealableError,
    WorkerError,
)
