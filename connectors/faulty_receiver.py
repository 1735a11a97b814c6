"""A receiver that does everything wrong that endpoints do, for hundreds of endpoints and thousands of POSTs a second.

Each endpoint has a port of its own, a way to behave, and at times a trouble. Every POST is written down the moment its
fate is decided, in a file of fixed-size records (`posts`): that file is the audit's second opinion. Signatures are
checked here, by five lines that share nothing with the engine's.

    python -m connectors.faulty_receiver ENDPOINTS.json POSTS

prints `{"control": port, "ports": [...]}`. Orders (`control.py`):

- `{"do": "trouble", "endpoint": 3, "trouble": "hang"}` until `{"do": "well", "endpoint": 3}`;
- `{"do": "cut"}` resets every connection of every endpoint; how many there were;
- `{"do": "stats"}`: POSTs written down, those accepted, and those that made no sense; the file is complete then.

Raw asyncio protocols on uvloop: it must cost less than what it receives from. It is no model for a receiver.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import hmac
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import msgspec
import orjson
import uvloop

from connectors.clock import SystemClock
from connectors.control import port_of, take_orders, until_stopped

Behaviour = Literal["ok", "slow", "flaky", "failing", "rejecting"]
#: `lie_long`: a 200 whose body is shorter than its content-length; `lie_short`: longer; `lie_garbage`: no number at
#: all. `away`: nobody listens.
Trouble = Literal["hang", "reset", "slow", "lie_long", "lie_short", "lie_garbage", "flap", "away"]

#: What became of a POST, as written down. ACCEPTED: 2xx, whole and true. BROKEN: 2xx in an answer that lies.
#: REFUSED: another status. SILENT: no answer.
ACCEPTED, BROKEN, REFUSED, SILENT = 1, 2, 3, 4

#: l_onoff and l_linger of SO_LINGER: close() sends RST instead of FIN.
RESET = struct.pack("ii", 1, 0)
BUFFER_BYTES = 1 << 16
BACKLOG = 1024
#: What an endpoint in trouble answers, in turn.
FLAPS = (b"500 Oops", b"502 Bad Gateway", b"503 Busy\r\nretry-after: 1", b"429 Slow Down\r\nretry-after: 1")
_RECORD = struct.Struct("<HBxIQQI")


class FaultyEndpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an endpoint behaves when it is in no trouble.

    `slow` answers 204 after `delay_ms`, `flaky` answers 503 to the first POST of every fourth number, `failing` always
    500, `rejecting` always 422. Troubles that answer late take `delay_ms` too. `secret` is whsec_...
    """

    secret: str
    behaviour: Behaviour = "ok"
    delay_ms: int = 300


class Posted(msgspec.Struct, frozen=True, gc=False):
    """One event in one POST. `number` is the `n` of its data; `arrived_ms` is wall-clock; `digest` stands for the
    webhook-id of the event (in a batch: that of its entry)."""

    endpoint: int
    fate: int
    number: int
    arrived_ms: int
    digest: int
    answered_after_ms: int


def read_posts(file: Path) -> Iterator[Posted]:
    """Everything written down, in the order in which fates were decided."""
    with file.open("rb") as posts:
        while block := posts.read(_RECORD.size * 4096):
            yield from (Posted(*fields) for fields in _RECORD.iter_unpack(block))


def digest(webhook_id: str) -> int:
    """64 bits that stand for a webhook-id."""
    return int.from_bytes(hashlib.blake2b(webhook_id.encode(), digest_size=8).digest())


class Stats(msgspec.Struct):
    """`strange`: POSTs without a readable number, whose batch does not count, or to nowhere. `unsigned`: signatures
    that are wrong or missing. Both are refused, and must not happen."""

    posts: int = 0
    accepted: int = 0
    strange: int = 0
    unsigned: int = 0


class FaultyReceiver:
    """Endpoints on ports of 127.0.0.1, and the file of their POSTs."""

    def __init__(self, endpoints: Sequence[FaultyEndpoint], posts: BinaryIO) -> None:
        self.stats = Stats()
        self.posts = posts
        self.clock = SystemClock()
        self.endpoints = [_Endpoint(self, number, each) for number, each in enumerate(endpoints)]

    async def listen(self) -> list[int]:
        """Start; the ports."""
        return [await endpoint.listen() for endpoint in self.endpoints]

    def order(self, order: dict[str, Any]) -> Any:
        """Do as ordered; KeyError or ValueError for what makes no sense."""
        match order["do"]:
            case "trouble":
                self._endpoint(order).suffer(msgspec.convert(order["trouble"], Trouble))
            case "well":
                self._endpoint(order).recover()
            case "cut":
                return sum(endpoint.cut() for endpoint in self.endpoints)
            case "stats":
                self.posts.flush()
                return msgspec.to_builtins(self.stats)
            case other:
                raise ValueError(f"{other!r} is no order")
        return None

    def _endpoint(self, order: dict[str, Any]) -> _Endpoint:
        number: int = order["endpoint"]
        if not 0 <= number < len(self.endpoints):
            raise ValueError(f"endpoints are 0 to {len(self.endpoints) - 1}")
        return self.endpoints[number]


class _Endpoint:
    """A listening socket, its connections, and what is wrong with it."""

    def __init__(self, receiver: FaultyReceiver, number: int, settings: FaultyEndpoint) -> None:
        self.receiver = receiver
        self.number = number
        self.settings = settings
        self.trouble: Trouble | None = None
        self.connections: set[_Connection] = set()
        self.key = base64.b64decode(settings.secret.removeprefix("whsec_"))
        self._met: set[int] = set()  # numbers that were refused once, where flaky
        self._turn = 0
        self._server: Any = None
        # Keeps the port while nobody listens: connections are refused, and no other process gets it.
        self._place = _bound(0)

    async def listen(self) -> int:
        """Its port."""
        await self._listen()
        return int(self._place.getsockname()[1])

    async def _listen(self) -> None:
        sock = _bound(self._place.getsockname()[1])
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), sock=sock, backlog=BACKLOG)

    def suffer(self, trouble: Trouble) -> None:
        self.recover()
        self.trouble = trouble
        if trouble == "away":
            self._server.close()
            self.cut()

    def recover(self) -> None:
        if self.trouble == "away":
            # Listening needs no waiting: the socket is bound here, and create_server only looks at it.
            self._returning = asyncio.ensure_future(self._listen())
        self.trouble = None

    def cut(self) -> int:
        """Reset every connection."""
        connections = list(self.connections)
        for connection in connections:
            connection.reset()
        return len(connections)

    def flaky(self, numbers: list[int]) -> bool:
        """Whether one of these is refused now, for the first and only time."""
        new = {number for number in numbers if number % 4 == 0} - self._met
        self._met |= new
        return bool(new)

    def flap(self) -> bytes:
        self._turn += 1
        return FLAPS[self._turn % len(FLAPS)]


class _Post:
    """A POST whose fate is not decided."""

    __slots__ = ("arrived_ms", "digests", "endpoint", "numbers")

    def __init__(self, endpoint: _Endpoint, arrived_ms: int, numbers: list[int], digests: list[int]) -> None:
        self.endpoint = endpoint
        self.arrived_ms = arrived_ms
        self.numbers = numbers
        self.digests = digests

    def decide(self, fate: int) -> None:
        """Write it down."""
        receiver = self.endpoint.receiver
        after_ms = max(0, receiver.clock.now_ms() - self.arrived_ms)
        for number, each in zip(self.numbers, self.digests, strict=True):
            receiver.posts.write(_RECORD.pack(self.endpoint.number, fate, number, self.arrived_ms, each, after_ms))
        receiver.stats.posts += len(self.numbers)
        if fate == ACCEPTED:
            receiver.stats.accepted += len(self.numbers)


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, endpoint: _Endpoint) -> None:
        self._endpoint = endpoint
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none of asyncio's classes
        self._endpoint.connections.add(self)
        if self._endpoint.trouble == "away":  # it was in the backlog
            self.reset()

    def connection_lost(self, error: Exception | None) -> None:
        self._endpoint.connections.discard(self)

    def reset(self) -> None:
        """End it with an RST."""
        if not self.transport.is_closing():
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            head = buffer[:end]
            size = int(_field(head, b"content-length") or 0)
            if len(buffer) < end + 4 + size:
                break
            body, buffer = buffer[end + 4 : end + 4 + size], buffer[end + 4 + size :]
            self._take(head, body)
        self._buffer = buffer

    def _take(self, head: bytes, body: bytes) -> None:
        endpoint = self._endpoint
        receiver = endpoint.receiver
        webhook_id = _field(head, b"webhook-id")
        contents = _contents(webhook_id.decode(), body)
        if contents is None:
            receiver.stats.strange += 1
            self._write(b"400 Strange")
            return
        post = _Post(endpoint, receiver.clock.now_ms(), *contents)
        if not _signed(endpoint.key, webhook_id, head, body):
            receiver.stats.unsigned += 1
            self._answer(post, REFUSED, b"401 Unsigned")
        elif endpoint.trouble is not None:
            self._trouble(post, endpoint.trouble)
        else:
            self._behave(post)

    def _behave(self, post: _Post) -> None:
        endpoint = self._endpoint
        match endpoint.settings.behaviour:
            case "failing":
                self._answer(post, REFUSED, b"500 Never")
            case "rejecting":
                self._answer(post, REFUSED, b"422 Not Wanted")
            case "flaky" if endpoint.flaky(post.numbers):
                self._answer(post, REFUSED, b"503 Once More")
            case "slow":
                self._accept_later(post)
            case _:
                self._answer(post, ACCEPTED, b"204 Taken")

    def _trouble(self, post: _Post, trouble: Trouble) -> None:
        match trouble:
            case "hang":
                post.decide(SILENT)
            case "reset" | "away":
                post.decide(SILENT)
                self.reset()
            case "slow":
                self._accept_later(post)
            case "flap":
                self._answer(post, REFUSED, self._endpoint.flap())
            case "lie_long":
                post.decide(BROKEN)
                self._write(b"200 OK\r\ncontent-length: 500", b"taken")
                if post.numbers[0] % 2:  # else it stays open, and the rest is waited for
                    self.transport.close()
            case "lie_short":
                post.decide(BROKEN)
                self._write(b"200 OK\r\ncontent-length: 2", b"taken, and more than was promised")
            case "lie_garbage":
                post.decide(BROKEN)
                self._write(b"200 OK\r\ncontent-length: a few", b"taken")

    def _accept_later(self, post: _Post) -> None:
        delay_s = self._endpoint.settings.delay_ms / 1000
        asyncio.get_running_loop().call_later(delay_s, self._accept, post)

    def _accept(self, post: _Post) -> None:
        if self.transport.is_closing():
            post.decide(SILENT)
        else:
            self._answer(post, ACCEPTED, b"204 Taken")

    def _answer(self, post: _Post, fate: int, status: bytes) -> None:
        post.decide(fate)
        self._write(status if status.startswith(b"204") else status + b"\r\ncontent-length: 0")

    def _write(self, head: bytes, body: bytes = b"") -> None:
        self.transport.write(b"HTTP/1.1 %b\r\n\r\n%b" % (head, body))


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def _field(head: bytes, name: bytes) -> bytes:
    """A header field of a client whose spelling is known; empty when it is missing."""
    start = head.lower().find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


def _contents(webhook_id: str, body: bytes) -> tuple[list[int], list[int]] | None:
    """Numbers and digests of the events in a body; None when it makes no sense.

    A number is the `n` of an event's data. Data come first to last in a single delivery, so it is looked for and not
    decoded; a batch is `{"batch_id", "events": [{"id", "data", ...}], "event_count"}`, with its id as webhook-id.
    """
    if b'"batch_id"' in body[:64]:
        try:
            batch = orjson.loads(body)
            events = batch["events"]
            if batch["batch_id"] != webhook_id or batch["event_count"] != len(events) or not events:
                return None
            return [int(each["data"]["n"]) for each in events], [digest(each["id"]) for each in events]
        except (KeyError, TypeError, ValueError):
            return None
    at = body.find(b'"n":')
    end = body.find(b",", at)
    try:
        return [int(body[at + 4 : end])], [digest(webhook_id)]
    except ValueError:
        return None


def _signed(key: bytes, webhook_id: bytes, head: bytes, body: bytes) -> bool:
    """Whether one of the signatures is right (Standard Webhooks 1.0). Times are not judged: workers freeze here."""
    content = b"%b.%b.%b" % (webhook_id, _field(head, b"webhook-timestamp"), body)
    wanted = b"v1," + base64.b64encode(hmac.digest(key, content, "sha256"))
    return any(hmac.compare_digest(wanted, each) for each in _field(head, b"webhook-signature").split(b" "))


async def _serve(endpoints: Sequence[FaultyEndpoint], posts: BinaryIO) -> None:
    receiver = FaultyReceiver(endpoints, posts)
    ports = await receiver.listen()
    control = await take_orders(receiver.order)
    await until_stopped(control=port_of(control), ports=ports)


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(prog="python -m connectors.faulty_receiver", description="Receive badly.")
    parser.add_argument("endpoints", type=Path, help="a JSON file: [{secret, behaviour, delay_ms}, ...]")
    parser.add_argument("posts", type=Path, help="the file that POSTs are written down in")
    arguments = parser.parse_args()
    endpoints = msgspec.json.decode(arguments.endpoints.read_bytes(), type=list[FaultyEndpoint])
    with arguments.posts.open("wb", buffering=BUFFER_BYTES) as posts:
        uvloop.run(_serve(endpoints, posts))


if __name__ == "__main__":
    main()
