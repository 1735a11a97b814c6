"""All routes of the API. One that does not stand here cannot be called.

Each noun's module has its own `ROUTES`.
"""

from __future__ import annotations

from connectors.api import (
    attempts,
    dead_actions,
    dead_letters,
    deliveries,
    discovery,
    event_types,
    events,
    health,
    keys,
    listening,
    quarantine,
    receiving,
    replays,
    sources,
    subscription_actions,
    subscription_changes,
    subscriptions,
    trail,
)
from connectors.api.routes import Route

ROUTES: list[Route] = [
    *subscriptions.ROUTES,
    *subscription_changes.ROUTES,
    *subscription_actions.ROUTES,
    *events.ROUTES,
    *event_types.ROUTES,
    *receiving.ROUTES,
    *sources.ROUTES,
    *listening.ROUTES,
    *keys.ROUTES,
    *replays.ROUTES,
    *trail.ROUTES,
    *deliveries.ROUTES,
    *attempts.ROUTES,
    *dead_letters.ROUTES,
    *dead_actions.ROUTES,
    *quarantine.ROUTES,
    *health.ROUTES,
    *discovery.ROUTES,
]
