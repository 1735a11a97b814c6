"""Subscriptions: /v1/subscriptions.

What is shown is what the tables hold. This file does not say what a subscription may be (`schemas/subscription.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from connectors.api.cursors import LIMIT_MAX, cursor, position
from connectors.api.preconditions import ETAG, etag
from connectors.api.principal import acts_for
from connectors.api.problems import not_found
from connectors.api.routes import Answer, Call, Reply, Route
from connectors.api.subscription_documents import SubscriptionView, state_of, subscription_view
from connectors.endpoints import EndpointTable
from connectors.subscriptions import ById
from schemas.subscription import Subscription

#: Subscriptions that are looked at for one page; the next page goes on behind them.
LOOKED_AT_MAX = 10_000


class Listing:
    """A service: all subscriptions in order, and the health of their endpoints."""

    def __init__(self, subscriptions: ById, endpoints: EndpointTable, offset_of: Callable[[str], int | None]) -> None:
        self.subscriptions = subscriptions
        self.endpoints = endpoints
        self._offset_of = offset_of

    def etag(self, subscription_id: str) -> str:
        """Of its record."""
        return etag(self._offset_of(subscription_id))

    def shown(self, subscription: Subscription) -> dict[str, Any]:
        """Its document."""
        return subscription_view(subscription, self.endpoints.get(subscription.id), self.etag(subscription.id))


class ListQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a list is narrowed to."""

    tenant: Annotated[str | None, Meta(description="Of this tenant only; of an operator's key")] = None
    event_type: Annotated[str | None, Meta(description="Those that ask for events of this type")] = None
    state: Annotated[str | None, Meta(description="Those in this state")] = None
    url: Annotated[str | None, Meta(description="Those with this text in their URL")] = None
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX, description="At most so many on a page")] = 100
    cursor: Annotated[str | None, Meta(description="Where the page begins: `next` of the page before")] = None


class SubscriptionPage(msgspec.Struct, kw_only=True):
    """A page; `next` is the cursor of the next one, null on the last. A page may hold fewer than its limit."""

    items: list[SubscriptionView]  # type: ignore[valid-type]
    next: str | None


def asks_for(subscription: Subscription, event_type: str) -> bool:
    """Whether one of its patterns takes this type."""
    return any(
        pattern in ("*", event_type) or (pattern.endswith(".*") and event_type.startswith(pattern[:-1]))
        for pattern in subscription.event_types
    )


def wanted(query: ListQuery) -> Callable[[Subscription], bool]:
    """Whether a subscription belongs into the list."""

    def fits(each: Subscription) -> bool:
        return (
            (query.state is None or state_of(each) == query.state)
            and (query.url is None or query.url in each.url)
            and (query.event_type is None or asks_for(each, query.event_type))
        )

    return fits


async def list_subscriptions(call: Call) -> Reply:
    """A page of them, by tenant and id."""
    listing, query = call.get(Listing), call.query
    tenant = acts_for(call.principal, query.tenant)
    last: Any = position(query.cursor, tuple[str, str])
    fits = wanted(query)
    items: list[dict[str, Any]] = []
    following = None
    for looked_at, each in enumerate(listing.subscriptions.after(tenant, last), 1):
        if fits(each):
            items.append(listing.shown(each))
        if len(items) == query.limit or looked_at == LOOKED_AT_MAX:
            following = cursor(each.tenant, each.id)
            break
    return Reply({"items": items, "next": following})


def found(call: Call) -> Subscription:
    """The subscription that the path names. ProblemError 404 when there is none, or it is another tenant's."""
    subscription = call.get(Listing).subscriptions.get(call.params["id"])
    if subscription is None or not call.principal.sees(subscription.tenant):
        raise not_found(f"subscription {call.params['id']}")
    return subscription


async def get_subscription(call: Call) -> Reply:
    """One of them."""
    listing, subscription = call.get(Listing), found(call)
    return Reply(listing.shown(subscription), headers={"ETag": listing.etag(subscription.id)})


TAG = "subscriptions"
ROUTES = [
    Route(
        method="GET",
        path="/v1/subscriptions",
        handler=list_subscriptions,
        summary="List subscriptions, by tenant and id",
        tag=TAG,
        scope="subscriptions:read",
        query=ListQuery,
        answers={200: Answer(type=SubscriptionPage, description="A page")},
    ),
    Route(
        method="GET",
        path="/v1/subscriptions/{id}",
        handler=get_subscription,
        summary="One subscription",
        tag=TAG,
        scope="subscriptions:read",
        answers={200: Answer(type=SubscriptionView, description="The subscription", headers=(ETAG,))},
    ),
]
