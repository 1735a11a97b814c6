"""Serving an application over HTTP, for commands that do: bound to an address, stopped in order.

This file knows no application.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from streams.cli.running import CommandError

#: A URL with a hundred ids of everything that a list is filtered by.
LINE_BYTES_MAX = 64 << 10
#: What requests under way get at a stop.
SHUTDOWN_SECONDS = 5.0


def free_port(host: str, *, what: str) -> socket.socket:
    """A socket that holds a free port, on which nobody listens yet. CommandError when the address cannot be used."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind)
        try:
            taken.bind(address)
        except OSError:
            taken.close()
            raise
    except OSError as error:
        raise CommandError(f"{what} cannot listen on {host}: {error.strerror}; choose another address") from None
    return taken


@asynccontextmanager
async def served(
    app: web.Application, host: str, port: int, *, what: str, taken: socket.socket | None = None
) -> AsyncIterator[str]:
    """The application's URL while it is served, on `taken` where that is given. CommandError when the address is
    taken."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS, max_line_size=LINE_BYTES_MAX)
    await runner.setup()
    try:
        try:
            await (web.TCPSite(runner, host, port) if taken is None else web.SockSite(runner, taken)).start()
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
