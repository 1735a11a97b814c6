"""An endpoint that costs as little as possible: answers 204 to every POST, at once or, under `/hang`, after 30 seconds;
under `/down` it answers 503 for as long as it is told to.

What it keeps is asked for: nothing; the times at which POSTs came, by path (8 bytes each); when which `webhook-id` came
first; or each POST. This file does not verify anything; correctness is the demo's and the audit's matter. `Sink` is the
side of the process that measures.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import urllib.request
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, cast

import orjson

from bench import harness
from bench.harness import report

HANG_S = 30.0

Keep = Literal["nothing", "times", "ids", "posts"]

_ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
_DOWN = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


class Posted(NamedTuple):
    """A POST that came: where, which, when (CLOCK_MONOTONIC), how it was answered, and the replay that sent it."""

    path: str
    id: str
    at_s: float
    status: int
    replay: str


class _Memory:
    """What came. Times are CLOCK_MONOTONIC, which all processes of a machine share."""

    def __init__(self, keep: Keep) -> None:
        self.times: defaultdict[bytes, array[float]] = defaultdict(lambda: array("d"))
        self.ids: dict[bytes, float] = {}
        self.posts: list[Posted] = []
        self.taken: Counter[str] = Counter()  # of these, those that were answered 204, by path
        self.down = False
        notes = {"nothing": None, "times": self._time, "ids": self._id, "posts": self._post}
        self.note: Callable[[bytes, bytes], None] | None = notes[keep]

    def _time(self, path: bytes, _: bytes) -> None:
        self.times[path].append(time.monotonic())

    def _id(self, _: bytes, head: bytes) -> None:
        self.ids.setdefault(_field(head, b"webhook-id"), time.monotonic())

    def _post(self, path: bytes, head: bytes) -> None:
        replay = _field(head, b"webhook-replay").decode() if b"\r\nwebhook-replay:" in head else ""
        status = 503 if self.is_down(path) else 204
        self.taken[path.decode()] += status == 204
        self.posts.append(Posted(path.decode(), _field(head, b"webhook-id").decode(), time.monotonic(), status, replay))

    def is_down(self, path: bytes) -> bool:
        """Whether a POST there fails."""
        return self.down and path.startswith(b"/down")

    def about(self, path: bytes) -> Any:
        """The answer to a GET."""
        if path.startswith(b"/turn/"):
            self.down = path == b"/turn/down"
            return {}
        if path.startswith(b"/posts/"):
            under = path[len(b"/posts") :].decode()
            return [list(each) for each in self.posts if each.path.startswith(under)]
        if path == b"/counts" and self.posts:
            return self.taken
        if path == b"/counts":
            return {name.decode(): len(times) for name, times in self.times.items()}
        if path == b"/times":
            return {name.decode(): times.tolist() for name, times in self.times.items()}
        return {name.decode(): at for name, at in self.ids.items()}


class _Connection(asyncio.Protocol):
    def __init__(self, memory: _Memory) -> None:
        self._memory = memory
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
            method, path, _ = head.split(b" ", 2)
            if method == b"get":
                rows = orjson.dumps(self._memory.about(path))
                self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(rows) + rows)
                buffer = buffer[end + 4 :]
                continue
            size = int(_field(head, b"content-length"))
            if len(buffer) < end + 4 + size:
                break
            buffer = buffer[end + 4 + size :]
            if self._memory.note is not None:
                self._memory.note(path, head)
            if path.startswith(b"/hang"):
                asyncio.get_running_loop().call_later(HANG_S, self._answer_late)
            else:
                self._transport.write(_DOWN if self._memory.is_down(path) else _ANSWER)
        self._buffer = buffer

    def _answer_late(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(_ANSWER)


def _field(head: bytes, name: bytes) -> bytes:
    start = head.index(b"\r\n" + name + b":") + len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


async def serve(keep: Keep) -> None:
    """A role: reports its port, and serves until it is ended. GET `/counts` and `/times` are by path, `/ids` is by
    `webhook-id`, `/posts/<path>` are those whose path begins so. `/turn/down` and `/turn/up` are orders to `/down`."""
    memory = _Memory(keep)
    loop = asyncio.get_running_loop()
    server: Any = await loop.create_server(lambda: _Connection(memory), "127.0.0.1", 0, backlog=1024)
    report(server.sockets[0].getsockname()[1])
    await server.serve_forever()


# --- the side that measures -------------------------------------------------------------------------------------


class Sink:
    """A sink in a process of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def url(self, path: str) -> str:
        """The URL of an endpoint of its."""
        return f"http://127.0.0.1:{self.port}{path}"

    def count(self, under: str) -> int:
        """How many POSTs came for paths that begin so."""
        return sum(count for path, count in self._ask("/counts").items() if path.startswith(under))

    def times(self, under: str) -> list[float]:
        """When they came, ascending."""
        return sorted(at for path, times in self._ask("/times").items() if path.startswith(under) for at in times)

    def ids(self) -> dict[str, float]:
        """When each delivery came first, by `webhook-id`."""
        return dict(self._ask("/ids"))

    def posts(self, under: str) -> list[Posted]:
        """The POSTs for paths that begin so, as they came."""
        return [Posted(*row) for row in self._ask(f"/posts{under}")]

    def turn(self, *, down: bool) -> None:
        """From now on, what is under `/down` fails, or does not."""
        self._ask("/turn/down" if down else "/turn/up")

    def _ask(self, path: str) -> Any:
        with urllib.request.urlopen(self.url(path)) as answer:
            return orjson.loads(answer.read())


@contextlib.contextmanager
def sink(keep: Keep = "nothing", timeout_s: float = harness.ROLE_TIMEOUT_S) -> Iterator[Sink]:
    """A sink while the block runs."""
    with harness.role("bench.sink:serve", timeout_s, keep=keep) as running:
        yield Sink(running.line())


def wait_until(reached: Callable[[], bool], timeout_s: float, every_s: float = 0.2) -> bool:
    """Whether it became true within the time."""
    deadline = time.monotonic() + timeout_s
    while not reached():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True
