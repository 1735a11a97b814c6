"""The topics: one table of names, partitions, clean-up and limits, used by everything that touches Kafka.

This file does not talk to a broker (`streams/cli/topics.py` creates and checks what stands here).
"""

from __future__ import annotations

from typing import Literal

import msgspec

DAY_MS = 24 * 3600 * 1000
MIB = 1 << 20

#: The retry tiers: what a record of the tier is held, in milliseconds, by the name's suffix. Powers of about five to
#: seven: any delay is reached in at most a few hops (`streams/core/retry.py`).
HOLDS_MS: dict[str, int] = {
    "1s": 1_000,
    "5s": 5_000,
    "30s": 30_000,
    "5m": 300_000,
    "30m": 1_800_000,
    "2h": 7_200_000,
    "10h": 36_000_000,
}

#: An event may be this large; a larger one is quarantined, and fits there with its headers.
EVENT_BYTES_MAX = MIB
#: The JSON of an event: up to several times its Avro, where a byte stands for a record with long names. What is left to
#: `DELIVERY_BYTES_MAX` is for the rest of the record and its attempts.
DATA_BYTES_MAX = 7 * MIB
DELIVERY_BYTES_MAX = 8 * MIB


class TopicSpec(msgspec.Struct, frozen=True):
    """What a topic must be like. `retention_ms` is None for compacted topics."""

    name: str
    partitions: int
    cleanup: Literal["delete", "compact", "compact,delete"]
    retention_ms: int | None
    message_bytes_max: int

    def config(self) -> dict[str, str]:
        """Kafka's topic settings."""
        settings = {"cleanup.policy": self.cleanup, "max.message.bytes": str(self.message_bytes_max)}
        if self.retention_ms is not None:
            settings["retention.ms"] = str(self.retention_ms)
        return settings


class Topics(msgspec.Struct, frozen=True):
    """The names of all topics under a prefix, and how many partitions they have.

    `deliveries`, its retry tiers, `deliveries.parked` and `deliveries.replay` have equal partition counts: with the
    `range` assignor, equal partitions meet in one worker, which is what lets circuits and limits work without
    coordination.
    """

    prefix: str = ""
    partitions: int = 8

    @property
    def events(self) -> str:
        return f"{self.prefix}events"

    @property
    def subscriptions(self) -> str:
        return f"{self.prefix}subscriptions"

    @property
    def deliveries(self) -> str:
        return f"{self.prefix}deliveries"

    @property
    def parked(self) -> str:
        return f"{self.prefix}deliveries.parked"

    @property
    def replay(self) -> str:
        """The replay lane: what replays send again."""
        return f"{self.prefix}deliveries.replay"

    @property
    def dead(self) -> str:
        return f"{self.prefix}deliveries.dead"

    @property
    def quarantine(self) -> str:
        return f"{self.prefix}events.quarantine"

    @property
    def attempts(self) -> str:
        return f"{self.prefix}attempts"

    @property
    def endpoints_state(self) -> str:
        return f"{self.prefix}endpoints.state"

    @property
    def operations(self) -> str:
        return f"{self.prefix}operations"

    @property
    def api_keys(self) -> str:
        return f"{self.prefix}api.keys"

    @property
    def audit(self) -> str:
        return f"{self.prefix}audit"

    @property
    def seen(self) -> str:
        return f"{self.prefix}ingest.seen"

    @property
    def event_types(self) -> str:
        return f"{self.prefix}event.types"

    @property
    def sources(self) -> str:
        return f"{self.prefix}sources"

    @property
    def replays(self) -> str:
        """Orders to replay; `replay` is what they make."""
        return f"{self.prefix}replays"

    @property
    def replays_progress(self) -> str:
        return f"{self.prefix}replays.progress"

    @property
    def dead_marks(self) -> str:
        return f"{self.prefix}dead.marks"

    @property
    def tiers(self) -> dict[int, str]:
        """Topic by hold in milliseconds, ascending."""
        return {hold_ms: f"{self.prefix}deliveries.retry.{suffix}" for suffix, hold_ms in HOLDS_MS.items()}

    def specs(self) -> list[TopicSpec]:
        """Every topic, in the order in which they are created."""
        n = self.partitions
        return [
            # Larger than an event may be: the broker's refusal reaches only the producer, a quarantine record everyone.
            TopicSpec(self.events, n, "delete", 7 * DAY_MS, 8 * MIB),
            TopicSpec(self.subscriptions, 1, "compact", None, MIB),
            TopicSpec(self.deliveries, n, "delete", 3 * DAY_MS, DELIVERY_BYTES_MAX),
            *(TopicSpec(name, n, "delete", 7 * DAY_MS, DELIVERY_BYTES_MAX) for name in self.tiers.values()),
            # Two days more than a delivery may be parked.
            TopicSpec(self.parked, n, "delete", 16 * DAY_MS, DELIVERY_BYTES_MAX),
            TopicSpec(self.replay, n, "delete", 3 * DAY_MS, DELIVERY_BYTES_MAX),
            TopicSpec(self.dead, n, "delete", 30 * DAY_MS, DELIVERY_BYTES_MAX),
            TopicSpec(self.quarantine, n, "delete", 30 * DAY_MS, 9 * MIB),
            TopicSpec(self.attempts, n, "delete", 7 * DAY_MS, MIB),
            TopicSpec(self.operations, 1, "delete", 30 * DAY_MS, MIB),
            TopicSpec(self.endpoints_state, 1, "compact", None, MIB),
            TopicSpec(self.api_keys, 1, "compact", None, MIB),
            # One partition: the order in which things were changed. A record holds a thing twice, before and after.
            TopicSpec(self.audit, 1, "delete", 365 * DAY_MS, 3 * MIB),
            # Longer than what was seen is remembered by default.
            TopicSpec(self.seen, 1, "compact,delete", 2 * DAY_MS, MIB),
            TopicSpec(self.event_types, 1, "compact", None, MIB),
            TopicSpec(self.sources, 1, "compact", None, MIB),
            # Twice as long as the dead letters of which they tell whether they were retried or discarded.
            TopicSpec(self.replays, 1, "compact,delete", 60 * DAY_MS, MIB),
            TopicSpec(self.replays_progress, 1, "compact,delete", 60 * DAY_MS, MIB),
            TopicSpec(self.dead_marks, 1, "compact,delete", 60 * DAY_MS, MIB),
        ]
