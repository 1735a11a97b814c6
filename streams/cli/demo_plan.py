"""What the demo sets up and what must come of it: endpoints, subscriptions, events, and the deliveries they make.

The expected deliveries are written down by hand (`receives`) and not computed with the engine's own matching, so that
a wrong match shows. This file does no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from connectors.receiver import Endpoint
from schemas.event import Event
from schemas.ids import delivery_id
from schemas.subscription import Subscription

TYPES = ("order.created", "order.paid", "invoice.paid")
TENANT = "demo"
#: The retry tiers have a resolution of one second.
FLAKY_FAILURES = 2
FLAKY_SCHEDULE_MS = (1_000, 1_000, 1_000)
DEAD_SCHEDULE_MS = (1_000, 1_000)

Kind = Literal["healthy", "flaky", "dead", "refused"]


class Target(msgspec.Struct, frozen=True):
    """One subscription with its endpoint. `receives` are the types that it must get, of `TYPES`."""

    id: str
    kind: Kind
    event_types: tuple[str, ...]
    receives: frozenset[str]
    tenant: str = TENANT

    @property
    def path(self) -> str:
        """Of its endpoint."""
        return f"/{self.id}"

    @property
    def attempts(self) -> int:
        """How many POSTs each delivery takes."""
        return {"healthy": 1, "flaky": FLAKY_FAILURES + 1}.get(self.kind, len(DEAD_SCHEDULE_MS) + 1)

    @property
    def ends(self) -> Literal["delivered", "dead"]:
        """What each delivery comes to."""
        return "delivered" if self.kind in ("healthy", "flaky") else "dead"


_ORDERS = frozenset({"order.created", "order.paid"})

TARGETS = (
    Target("healthy-everything", "healthy", ("*",), frozenset(TYPES)),
    Target("healthy-orders", "healthy", ("order.*",), _ORDERS),
    Target("healthy-created", "healthy", ("order.created",), frozenset({"order.created"})),
    Target("flaky-everything", "flaky", ("*",), frozenset(TYPES)),
    Target("dead-orders", "dead", ("order.*",), _ORDERS),
    Target("refused-invoices", "refused", ("invoice.paid",), frozenset({"invoice.paid"})),
    Target("healthy-of-another-tenant", "healthy", ("*",), frozenset(), tenant="another"),
)


class Expected(msgspec.Struct, frozen=True, gc=False):
    """One delivery that must be made."""

    event_id: str
    target: Target


def endpoints(secrets: Mapping[str, str]) -> list[Endpoint]:
    """What the receiver serves; nobody listens for those that refuse connections. `secrets` by subscription id."""
    kinds: dict[Kind, Literal["healthy", "flaky", "dead"]] = {"healthy": "healthy", "flaky": "flaky", "dead": "dead"}
    return [
        Endpoint(target.path, kinds[target.kind], (secrets[target.id],), failures=FLAKY_FAILURES)
        for target in TARGETS
        if target.kind in kinds
    ]


def subscriptions(secrets: Mapping[str, str], receiver_port: int, refused_port: int, now_ms: int) -> list[Subscription]:
    """The subscriptions to write."""
    return [
        Subscription(
            id=target.id,
            tenant=target.tenant,
            url=f"http://127.0.0.1:{refused_port if target.kind == 'refused' else receiver_port}{target.path}",
            event_types=target.event_types,
            secrets=(secrets[target.id],),
            retry_schedule_ms=FLAKY_SCHEDULE_MS if target.ends == "delivered" else DEAD_SCHEDULE_MS,
            created_ms=now_ms,
            updated_ms=now_ms,
        )
        for target in TARGETS
    ]


def event(n: int, time_ms: int) -> Event:
    """The event of this number."""
    number = f"{n:06d}"
    data = f'{{"number":"o-{number}","total":{n % 500}.5,"currency":"EUR"}}'.encode()
    return Event(f"evt_demo_{number}", TYPES[n % len(TYPES)], TENANT, time_ms, data)


def expected(events: Sequence[tuple[str, str]]) -> dict[str, Expected]:
    """By delivery id (the webhook-id). `events` are (id, type)."""
    return {
        delivery_id(event_id, target.id): Expected(event_id, target)
        for event_id, event_type in events
        for target in TARGETS
        if event_type in target.receives
    }
