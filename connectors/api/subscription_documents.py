"""Subscriptions as the API shows them: without secrets, with the health of their endpoint.

The types are made from `schemas.subscription.Subscription`, so that a field that is added there is shown here. This
file does not validate (`schemas/subscription.py`). Pure.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from schemas.endpoint import EndpointState, url_hash
from schemas.redaction import redacted
from schemas.subscription import Subscription, json_form

#: Never shown but by reveal, and the one time when they are made.
SECRET_FIELDS = frozenset({"secrets", "secrets_expire_ms"})
#: Shown instead of a value that may be a credential.
HIDDEN = "***"

Status = Literal["healthy", "failing", "circuit_open", "disabled"]


class EndpointView(msgspec.Struct, kw_only=True):
    """The health of a subscription's endpoint. Times are milliseconds since the epoch, 0 for none."""

    status: Status = "healthy"
    failing_since_ms: int = 0
    circuit_open_until_ms: int = 0
    disabled_ms: int = 0
    disabled_reason: str = ""


#: Fields whose JSON is not that of their Avro, or that show more than what is stored.
_SHOWN: dict[str, Any] = {
    "state": Literal["active", "paused", "disabled", "pending"],
    "filter": Annotated[
        dict[str, Any] | Literal[""], Meta(description="A pattern; see the reference of filters. Empty for none.")
    ],
    "auth": Annotated[
        dict[str, Any] | Literal[""],
        Meta(description="How requests say who sends them, its secret hidden. Empty for not."),
    ],
    "tls": Annotated[
        dict[str, Any] | Literal[""],
        Meta(description="Client certificate, its key hidden, and CA. Empty for the usual."),
    ],
    "schema_version": Annotated[
        int | Literal["latest"], Meta(description="0: as written; a number, or latest: the data in that version")
    ],
}


def _view() -> type[msgspec.Struct]:
    fields: list[Any] = [
        (field.name, _SHOWN.get(field.name, field.type))
        for field in msgspec.structs.fields(Subscription)
        if field.name not in SECRET_FIELDS
    ]
    return msgspec.defstruct("Subscription", [*fields, ("endpoint", EndpointView)], kw_only=True)


SubscriptionView = _view()


def endpoint_view(subscription: Subscription, state: EndpointState | None) -> EndpointView:
    """What is known of it; the state of another URL does not count."""
    if state is None or state.url_hash != url_hash(subscription.url):
        return EndpointView()
    status: Status = "healthy"
    if state.disabled_ms:
        status = "disabled"
    elif state.circuit == "open":
        status = "circuit_open"
    elif state.failing_since_ms:
        status = "failing"
    return EndpointView(
        status=status,
        failing_since_ms=state.failing_since_ms,
        circuit_open_until_ms=state.until_ms if state.circuit == "open" else 0,
        disabled_ms=state.disabled_ms,
        disabled_reason=state.disabled_reason,
    )


def subscription_view(subscription: Subscription, state: EndpointState | None) -> dict[str, Any]:
    """The document of `SubscriptionView`, for msgspec to write."""
    everything = redacted(subscription, HIDDEN)
    shown = json_form({name: value for name, value in everything.items() if name not in SECRET_FIELDS})
    if subscription.filter:
        shown["filter"] = msgspec.Raw(subscription.filter.encode())
    return shown | {"endpoint": endpoint_view(subscription, state)}
