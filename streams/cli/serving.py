"""Serving an application over HTTP, for commands that do: bound to an address, stopped in order.

This file knows no application.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from streams.cli.running import CommandError

#: What requests under way get at a stop.
SHUTDOWN_SECONDS = 5.0


@asynccontextmanager
async def served(app: web.Application, host: str, port: int, *, what: str) -> AsyncIterator[str]:
    """The application's URL while it is served. CommandError when the address is taken."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise CommandError(
                f"{what} cannot listen on port {port} of {host}: {error.strerror}; choose another port"
            ) from None
        address = runner.addresses[0]
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        yield f"http://{shown}:{address[1]}"
    finally:
        await runner.cleanup()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
