"""Verification of endpoints for the API and the command line: its sender, its randomness, its clock.

Part of the composition root. How an endpoint is asked stands in `streams/verification.py`. This file writes nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from connectors.aiohttp_sender import AiohttpSender
from connectors.clock import SystemClock
from connectors.http_sender import HttpSender
from schemas.subscription import Subscription
from streams.ports import Clock, Opener, Sender
from streams.settings import Settings
from streams.verification import Refused, Verified, verify
from streams.wiring import make_guard

#: To one origin at a time, of all that are verified.
CONNECTIONS_MAX = 8
TOKEN_BYTES = 24


class Verifier:
    """Asks endpoints, each time with a new challenge."""

    def __init__(self, sender: Sender, opener: Opener, clock: Clock, origin: str) -> None:
        self._sender = sender
        self._opener = opener
        self._clock = clock
        self._origin = origin

    async def __call__(self, subscription: Subscription) -> Verified | Refused:
        """Ask once; an endpoint that does not answer takes some 10 s. Raises nothing for what it answers."""
        return await verify(
            subscription,
            self._sender,
            self._opener,
            token=secrets.token_urlsafe(TOKEN_BYTES),
            now_ms=self._clock.now_ms(),
            origin=self._origin,
        )


@asynccontextmanager
async def open_verifier(
    settings: Settings, opener: Opener, listening: Sequence[tuple[str, int]] = ()
) -> AsyncIterator[Verifier]:
    """A verifier under these settings, through the same guard and proxy as deliveries; `listening` as in `make_guard`.

    WorkerError, ClusterError.
    """
    guard = await make_guard(settings, listening)
    sender: AiohttpSender | HttpSender
    if settings.proxy is not None:
        sender = AiohttpSender(guard, proxy=settings.proxy, connections_per_origin_max=CONNECTIONS_MAX)
    else:
        sender = HttpSender(guard, connections_per_origin_max=CONNECTIONS_MAX)
    try:
        yield Verifier(sender, opener, SystemClock(), settings.webhook_origin)
    finally:
        await sender.close()
