"""A real HTTP server that does exactly what a test scripts, down to single bytes and resets.

A script drives one whole connection, so it can misbehave in every way an endpoint can. It does NOT check
anything: what it saw is in `requests` and `connections`, for the test to judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    Script = Callable[["Peer"], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass(frozen=True)
class Request:
    """What arrived: `connection` counts from 1 in the order of acceptance."""

    connection: int
    line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    shown: str = ""  # by the client's certificate

    def header(self, name: str) -> str | None:
        """The value of the first header of that (lower-case) name."""
        return next((value for key, value in self.headers if key == name), None)


class Peer:
    """The server's end of one connection."""

    def __init__(
        self,
        server: Server,
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.server = server
        self.number = number
        self._reader = reader
        self._writer = writer

    @property
    def shown(self) -> str:
        """The common name of the client certificate; "" for none."""
        subject = (self._writer.get_extra_info("peercert") or {}).get("subject", ())
        return next((value for part in subject for name, value in part if name == "commonName"), "")

    async def head(self) -> Request:
        """Read a request head and leave its body unread. `IncompleteReadError` when the client closed."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        line, *fields = head[:-4].decode("latin-1").split("\r\n")
        pairs = [field.split(": ", 1) for field in fields]
        return Request(self.number, line, tuple((name.lower(), value) for name, value in pairs), b"")

    async def request(self) -> Request:
        """Read a complete request and record it."""
        head = await self.head()
        body = await self._reader.readexactly(int(head.header("content-length") or 0))
        request = Request(self.number, head.line, head.headers, body, self.shown)
        self.server.requests.append(request)
        return request

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def gone(self) -> None:
        """Return when the client has closed the connection."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(65_536):
                pass

    def finish(self) -> None:
        """Close this end only: nothing more will be sent."""
        self._writer.write_eof()

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        sock: socket.socket = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


class Server:
    """Serves every connection with the script. `connections_max` is the most that were open at once."""

    def __init__(self, script: Script, tls: bool) -> None:
        self.script = script
        self.tls = tls
        self.host = ""
        self.port = 0
        self.requests: list[Request] = []
        self.connections = 0
        self.connections_max = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def url(self, path: str = "/hook", host: str | None = None) -> str:
        """The URL of a path, on the server's address or under a name."""
        host = host or (f"[{self.host}]" if ":" in self.host else self.host)
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{path}"

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Start the script on a new connection."""
        self.connections += 1
        task = asyncio.ensure_future(self._serve(Peer(self, self.connections, reader, writer), writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        self.connections_max = max(self.connections_max, len(self.tasks))

    async def _serve(self, peer: Peer, writer: asyncio.StreamWriter) -> None:
        try:
            await self.script(peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client closed: the script is over
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, TimeoutError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(
    script: Script, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Server]:
    """A server on a free port, gone with everything it started when the block ends."""
    server = Server(script, tls is not None)
    listener = await asyncio.start_server(server.accept, host, 0, ssl=tls)
    server.host, server.port = listener.sockets[0].getsockname()[:2]
    try:
        yield server
    finally:
        listener.close()
        for task in list(server.tasks):
            task.cancel()
        await asyncio.gather(*server.tasks, return_exceptions=True)
        await listener.wait_closed()


def answering(*answers: bytes) -> Script:
    """A script that answers requests on every connection with these in turn, the last one for ever."""

    async def script(peer: Peer) -> None:
        position = 0
        while True:
            await peer.request()
            await peer.send(answers[min(position, len(answers) - 1)])
            position += 1

    return script


def once(answer: bytes) -> Script:
    """A script that answers one request and closes the connection."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)

    return script


@contextlib.contextmanager
def black_hole(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A port that never completes a handshake: its backlog is full, so new SYNs are dropped (on Linux)."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
