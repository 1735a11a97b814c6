"""Identifiers: how a delivery's derives from its event and subscription, and those of events that came without.

This file draws no random numbers; those of subscriptions are their owners'.
"""

from __future__ import annotations

from hashlib import blake2b

#: Prefix of delivery ids. No `.` may occur in an id: the signed content joins id, time and body with dots.
DELIVERY_PREFIX = "dlv_"
EVENT_ID_BYTES_MAX = 512


def delivery_id(event_id: str, subscription_id: str) -> str:
    """The `webhook-id`: 34 characters, the same for every attempt and every replay of this event for this subscription.

    120 bits of BLAKE2b; NUL cannot occur in a subscription id, so no two pairs have the same input.
    """
    return DELIVERY_PREFIX + blake2b(f"{event_id}\0{subscription_id}".encode(), digest_size=15).hexdigest()


#: Prefix of the ids of events that came without one.
EVENT_PREFIX = "evt_"


def event_id(base: int, number: int) -> str:
    """The id of the `number`th event of a request: in order of time. `base` is milliseconds since the epoch times 2^64,
    plus 64 random bits."""
    return f"{EVENT_PREFIX}{base + number:028x}"
