"""Attempts that tests make up, with what matters to them and the rest as it mostly is."""

from __future__ import annotations

from typing import Any

from connectors.history.attempts import LoggedAttempt

T0 = 1_700_000_000_000


def attempt(offset: int, **given: Any) -> LoggedAttempt:
    """Delivered at the first try; each starts a second after the one before it."""
    fields: dict[str, Any] = {
        "partition": 0,
        "delivery_id": f"dlv_{offset}",
        "subscription_id": "s1",
        "event_id": f"evt_{offset}",
        "event_type": "order.created",
        "tenant": "acme",
        "event_time_ms": T0,
        "received_ms": T0 + offset * 1_000 - 500,
        "subject": None,
        "attempt": 1,
        "outcome": "delivered",
        "started_ms": T0 + offset * 1_000,
        "duration_us": 20_000,
        "status": 200,
        "cause": "",
        "detail": "",
        "excerpt": b"",
        "due_ms": 0,
    }
    return LoggedAttempt(offset=offset, **fields | given)
