"""Verification of endpoints for the API and the command line: its sender, its randomness, its clock.

Part of the composition root. How an endpoint is asked stands in `streams/verification.py`. This file writes nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from connectors.address_guard import AddressGuard
from connectors.aiohttp_sender import AiohttpSender
from connectors.clock import SystemClock
from connectors.http_sender import HttpSender
from schemas.subscription import Subscription
from streams.core.oauth2 import ANSWER_BYTES_MAX
from streams.ports import Clock, Opener, Sender
from streams.requests import Outgoing
from streams.settings import Settings
from streams.tokens import Tokens
from streams.verification import Refused, Verified, verify

#: To one origin at a time, of all that are verified.
BOUNDS: dict[str, Any] = {"connections_per_origin_max": 8, "excerpt_bytes_max": ANSWER_BYTES_MAX}
TOKEN_BYTES = 24


class Verifier:
    """Asks endpoints, each time with a new challenge."""

    def __init__(self, sender: Sender, opener: Opener, clock: Clock, origin: str) -> None:
        """`sender` hands over `ANSWER_BYTES_MAX` of an answer, since it asks for tokens too."""
        tokens = Tokens(sender, clock)
        self._make = lambda subscription, method: Outgoing(subscription, sender, opener, tokens, method=method)
        self._clock = clock
        self._origin = origin

    async def __call__(self, subscription: Subscription) -> Verified | Refused:
        """Ask once; an endpoint that does not answer takes some 10 s. Raises nothing for what it answers."""
        return await verify(
            subscription,
            self._make,
            token=secrets.token_urlsafe(TOKEN_BYTES),
            now_ms=self._clock.now_ms(),
            origin=self._origin,
        )


@asynccontextmanager
async def open_verifier(settings: Settings, opener: Opener, guard: AddressGuard) -> AsyncIterator[Verifier]:
    """A verifier under these settings, through the same proxy as deliveries."""
    sender: AiohttpSender | HttpSender
    if settings.proxy is not None:
        sender = AiohttpSender(guard, proxy=settings.proxy, **BOUNDS)
    else:
        sender = HttpSender(guard, **BOUNDS)
    try:
        yield Verifier(sender, opener, SystemClock(), settings.webhook_origin)
    finally:
        await sender.close()
