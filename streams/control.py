"""The services of the HTTP API that write with the pen, as the composition root makes them.

This file serves nothing and follows no topic.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from connectors.address_guard import AddressGuard
from connectors.api.control import Control
from connectors.api.subscription_actions import Actions, Verifying
from connectors.api.subscription_changes import Editing
from connectors.clock import SystemClock
from connectors.http_target import parse_target
from connectors.pen import Pen
from schemas import codec
from schemas.delivery import Wire
from schemas.frame import Out
from schemas.subscription import Subscription
from schemas.subscription_codec import subscription_value
from streams.core.ping import ping
from streams.new_secrets import new_secret
from streams.secret_keys import SecretKeys
from streams.settings import Settings
from streams.verification import Refused, confirmed
from streams.verifier import Verifier
from streams.wiring import OwnSchemas

Confirm = Callable[[Subscription], Subscription]


def control_services(
    settings: Settings, own: OwnSchemas, pen: Pen, keys: SecretKeys, guard: AddressGuard
) -> tuple[object, ...]:
    """Control, Editing and Actions of the API."""
    topics, clock = settings.topics, SystemClock()
    wire = Wire(codec.wire_header(own.delivery_v1), codec.wire_header(own.delivery))

    def make_ping(subscription: Subscription, now_ms: int) -> tuple[Out, str, str]:
        event_id = f"ping_{secrets.token_hex(12)}"
        record, delivery_id = ping(topics.deliveries, wire, subscription, event_id, now_ms)
        return record, event_id, delivery_id

    return (
        Control(pen, topics.audit, codec.wire_header(own.audit_record), clock.now_ms),
        Editing(
            topics.subscriptions,
            topics.endpoints_state,
            encode=lambda subscription: subscription_value(own.subscription, subscription),
            seal=keys.seal,
            new_secret=new_secret,
            new_id=lambda: f"sub_{secrets.token_hex(12)}",
            refusal=lambda url: _refusal(url, guard, proxied=settings.proxy is not None),
            verification=settings.api_verification,
        ),
        Actions(topics, own.endpoint_state, own.operation, open_=keys.open, ping=make_ping),
    )


def _refusal(url: str, guard: AddressGuard, *, proxied: bool) -> str | None:
    try:
        return guard.target_refusal(parse_target(url), proxied=proxied)
    except ValueError as error:
        return str(error)


def verifying(verifier: Verifier) -> Verifying:
    """The API's service that asks endpoints."""
    clock = SystemClock()

    async def ask(subscription: Subscription) -> Confirm | str:
        result = await verifier(subscription)
        if isinstance(result, Refused):
            return result.reason
        agreed = result
        return lambda present: confirmed(present, agreed, clock.now_ms())

    return Verifying(ask)
