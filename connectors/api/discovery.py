"""What the API says of itself: its OpenAPI document, and what a sender of webhooks can do here.

Made once from the table of routes.
"""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from connectors.api.routes import Answer, Call, Reply, Route
from schemas.credentials import Signature, Verification
from schemas.subscription import PayloadFormat


class Document:
    """A service: the OpenAPI document, as it is sent."""

    def __init__(self, encoded: bytes) -> None:
        self.encoded = encoded


async def openapi_document(call: Call) -> Reply:
    """The whole of it."""
    return Reply(call.get(Document).encoded)


class WebhooksView(msgspec.Struct, kw_only=True):
    """Where things are, and what a subscription may ask for."""

    openapi: str = "/v1/openapi.json"
    subscriptions: str = "/v1/subscriptions"
    event_types: str = "/v1/event-types"
    specification: str = "https://www.standardwebhooks.com"
    formats: tuple[str, ...] = get_args(PayloadFormat)
    signatures: tuple[str, ...] = get_args(Signature)
    verifications: tuple[str, ...] = get_args(Verification)


async def webhooks(_: Call) -> Reply:
    """The same for everybody."""
    return Reply(WebhooksView())


ROUTES = [
    Route(
        method="GET",
        path="/.well-known/webhooks",
        handler=webhooks,
        summary="What is offered here, and where",
        tag="discovery",
        scope=None,
        answers={200: Answer(type=WebhooksView, description="Paths and names")},
    ),
    Route(
        method="GET",
        path="/v1/openapi.json",
        handler=openapi_document,
        summary="This document",
        tag="discovery",
        scope=None,
        answers={200: Answer(type=dict[str, Any], description="OpenAPI 3.1")},
    ),
]
