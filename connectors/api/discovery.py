"""What the API says of itself: its OpenAPI document.

Made once from the table of routes.
"""

from __future__ import annotations

from typing import Any

from connectors.api.routes import Answer, Call, Reply, Route


class Document:
    """A service: the OpenAPI document, as it is sent."""

    def __init__(self, encoded: bytes) -> None:
        self.encoded = encoded


async def openapi_document(call: Call) -> Reply:
    """The whole of it."""
    return Reply(call.get(Document).encoded)


ROUTES = [
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
