"""A receiver for volume: raw asyncio, counts every `webhook-id`, answers by path.

In-process, or a process of its own.

Paths: `/ok` 204 at once · `/slow/<ms>` 204 after that long · `/status/<n>` that status · `/flaky/<n>` 500 to the
first n attempts of an id, then 204 · `/hang` never. `GET /counts` is JSON: how often each id came, by path.
As a process it prints its port and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import urllib.request
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple, Self, cast

import orjson
import uvloop


class Received(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes


class Sink:
    """Counts by path and id; `received` keeps whole requests where `keep` is set."""

    def __init__(self, keep: bool = True) -> None:
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.received: list[Received] = []
        self.keep = keep
        self.port = 0
        self.connections: set[Connection] = set()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @contextlib.asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[Self]:
        """`port` may be one that another socket holds for us, with SO_REUSEPORT."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(self), "127.0.0.1", port, reuse_port=port > 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for connection in list(self.connections):
                connection.transport.abort()
            await server.wait_closed()

    def take(self, connection: Connection, start_line: str, headers: dict[str, str], body: bytes) -> None:
        """Answer a request, now or later."""
        path = start_line.split(" ")[1]
        if path == "/counts":
            connection.respond(200, orjson.dumps(self.counts))
            return
        identifier = headers["webhook-id"]
        self.counts[path][identifier] += 1
        if self.keep:
            self.received.append(Received(path, headers, body))
        match path.split("/")[1:]:
            case ["slow", delay_ms]:
                asyncio.get_running_loop().call_later(int(delay_ms) / 1000, connection.respond, 204)
            case ["status", status]:
                connection.respond(int(status), b"no")
            case ["flaky", failures]:
                connection.respond(500 if self.counts[path][identifier] <= int(failures) else 204)
            case ["hang", *_]:
                pass
            case _:
                connection.respond(204)


class Connection(asyncio.Protocol):
    """One, which reads requests and writes answers."""

    transport: asyncio.Transport

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none of asyncio's classes
        self._sink.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._sink.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            start_line, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            total = end + 4 + int(headers.get("content-length", "0"))
            if len(self._buffer) < total:
                return
            body, self._buffer = self._buffer[end + 4 : total], self._buffer[total:]
            self._sink.take(self, start_line, headers, body)

    def respond(self, status: int, body: bytes = b"", fields: bytes = b"") -> bool:
        """Answer, with more header lines; False when nobody is there any more."""
        if self.transport.is_closing():
            return False
        length = b"" if status == 204 else b"content-length: %d\r\n" % len(body)
        self.transport.write(b"HTTP/1.1 %d X\r\n%s%s\r\n%s" % (status, fields, length, body))
        return True


class SinkProcess:
    """A sink that outlives a worker that is killed."""

    def __init__(self, port: int) -> None:
        self.port = port

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def counts(self) -> dict[str, int]:
        """How often each id came, over all paths."""
        with urllib.request.urlopen(self.url("/counts"), timeout=60) as answer:
            by_path: dict[str, dict[str, int]] = orjson.loads(answer.read())
        total: Counter[str] = Counter()
        for counts in by_path.values():
            total.update(counts)
        return dict(total)

    def total(self) -> int:
        return sum(self.counts().values())


@contextlib.contextmanager
def process(module: str, *arguments: str) -> Iterator[int]:
    """A receiver as a process, which ends with the block; its port."""
    command = [sys.executable, "-m", module, *arguments]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        try:
            yield int(running.stdout.readline())
        finally:
            running.kill()


@contextlib.contextmanager
def sink_process() -> Iterator[SinkProcess]:
    with process("tests.integration.sink") as port:
        yield SinkProcess(port)


async def be_a_process(sink: Sink, port: int = 0) -> None:
    """Run until standard input ends."""
    loop = asyncio.get_running_loop()
    async with sink.running(port):
        sys.stdout.write(f"{sink.port}\n")
        sys.stdout.flush()
        await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(be_a_process(Sink(keep=False)))
