"""An endpoint that costs as little as possible: answers 204 to every POST, and remembers when which delivery came.

This file does not verify anything; correctness is the demo's and the audit's matter.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

from bench.harness import report

_ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


class _Connection(asyncio.Protocol):
    def __init__(self, arrivals: dict[str, float] | None) -> None:
        self._arrivals = arrivals
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        while True:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                break
            head = buffer[:end].lower()
            if head.startswith(b"get "):
                self._answer_arrivals()
                buffer = buffer[end + 4 :]
                continue
            size = int(_field(head, b"content-length"))
            if len(buffer) < end + 4 + size:
                break
            buffer = buffer[end + 4 + size :]
            if self._arrivals is not None:
                self._arrivals.setdefault(_field(head, b"webhook-id").decode(), time.monotonic())
            self._transport.write(_ANSWER)
        self._buffer = buffer

    def _answer_arrivals(self) -> None:
        rows = "\n".join(f"{name} {at}" for name, at in (self._arrivals or {}).items()).encode()
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(rows) + rows)


def _field(head: bytes, name: bytes) -> bytes:
    start = head.index(b"\r\n" + name + b":") + len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


async def serve(remember: bool = False) -> None:
    """A role: reports its port, and serves until it is ended. GET answers with `webhook-id seconds` lines
    (CLOCK_MONOTONIC)."""
    arrivals: dict[str, float] | None = {} if remember else None
    loop = asyncio.get_running_loop()
    server: Any = await loop.create_server(lambda: _Connection(arrivals), "127.0.0.1", 0, backlog=1024)
    report(server.sockets[0].getsockname()[1])
    await server.serve_forever()
