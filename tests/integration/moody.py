"""A receiver whose endpoints are told how to answer, in a process of its own, and which remembers every POST.

Each path is an endpoint. It answers 204 unless a mood says otherwise (`PUT /moods`); of several moods the first that
applies counts. What it remembers (`GET /arrivals`) is in the order of arrival, with times that are read before an
answer is written: what is derived from them holds however slow the machine is.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from email.utils import formatdate

import msgspec
import uvloop

from connectors.clock import SystemClock
from tests.integration.sink import Connection, Sink, be_a_process, process


class Mood(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a POST is answered: with `status` after `delay_ms`; status 0 is no answer until the moods change.

    It applies to POSTs whose body holds `holding`; only to the first one with each id where `each` is 1, to so many of
    them where it is more; and only to `times` POSTs in all. 0 is no limit. `retry_after_s` is a header of the answer,
    as a date when `date`.
    """

    status: int = 204
    delay_ms: int = 0
    holding: str = ""
    each: int = 0
    times: int = 0
    retry_after_s: int = 0
    date: bool = False


class Arrival(msgspec.Struct):
    """A POST. `at_s` is monotonic, `at_ms` the wall clock's; `status` is what was answered, 0 for nothing (yet), and
    `named_ms` the time that a Retry-After of the answer came to, at the earliest."""

    at_s: float
    at_ms: int
    path: str
    id: str
    headers: dict[str, str]
    body: bytes
    status: int = 0
    named_ms: int = 0


class MoodySink(Sink):
    """The process's side."""

    def __init__(self) -> None:
        super().__init__(keep=False)
        self.moods: dict[str, list[Mood]] = {}
        self.arrivals: defaultdict[str, list[Arrival]] = defaultdict(list)
        self.accepted: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._used: Counter[tuple[str, int]] = Counter()  # how often the moods of a path applied
        self._pending: defaultdict[str, list[tuple[Connection, Arrival]]] = defaultdict(list)

    def take(self, connection: Connection, start_line: str, headers: dict[str, str], body: bytes) -> None:
        method, path, _ = start_line.split(" ")
        match method, path.split("/")[1:]:
            case "GET", ["accepted", of]:
                connection.respond(200, msgspec.json.encode(self.accepted[f"/{of}"]))
            case "GET", ["taken", of]:
                connection.respond(200, msgspec.json.encode(len(self.accepted[f"/{of}"])))
            case "GET", ["arrivals", of]:
                connection.respond(200, msgspec.json.encode(self.arrivals[f"/{of}"]))
            case "PUT", ["moods", of]:
                self._turn(f"/{of}", msgspec.json.decode(body, type=list[Mood]))
                connection.respond(204)
            case _:
                arrival = Arrival(time.monotonic(), SystemClock().now_ms(), path, headers["webhook-id"], headers, body)
                self.counts[path][arrival.id] += 1
                self.arrivals[path].append(arrival)
                self._answer(connection, arrival)

    def _turn(self, path: str, moods: list[Mood]) -> None:
        self.moods[path] = moods
        for number in range(len(moods)):
            del self._used[path, number]
        for connection, arrival in self._pending.pop(path, []):
            self._answer(connection, arrival)

    def _mood(self, arrival: Arrival) -> Mood:
        for number, mood in enumerate(self.moods.get(arrival.path, [])):
            used = self._used[arrival.path, number]
            if (
                mood.holding.encode() in arrival.body
                and not 0 < mood.times <= used
                and not 0 < mood.each < self.counts[arrival.path][arrival.id]
            ):
                self._used[arrival.path, number] += 1
                return mood
        return Mood()

    def _answer(self, connection: Connection, arrival: Arrival) -> None:
        mood = self._mood(arrival)
        if not mood.status:
            self._pending[arrival.path].append((connection, arrival))
        elif mood.delay_ms:
            asyncio.get_running_loop().call_later(mood.delay_ms / 1000, self._write, connection, arrival, mood)
        else:
            self._write(connection, arrival, mood)

    def _write(self, connection: Connection, arrival: Arrival, mood: Mood) -> None:
        fields = b""
        named_ms = 0
        if mood.retry_after_s:
            # A date has whole seconds; what is not a date counts from when it is read, which is later than now.
            named_ms = SystemClock().now_ms() + mood.retry_after_s * 1000
            named_ms -= named_ms % 1000 if mood.date else 0
            value = formatdate(named_ms / 1000, usegmt=True) if mood.date else str(mood.retry_after_s)
            fields = f"retry-after: {value}\r\n".encode()
        if connection.respond(mood.status, fields=fields):
            arrival.status, arrival.named_ms = mood.status, named_ms
            if 200 <= mood.status <= 299:
                self.accepted[arrival.path][arrival.id] += 1


class Moody:
    """The test's side."""

    def __init__(self, port: int) -> None:
        self.port = port

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def turn(self, path: str, *moods: Mood) -> None:
        """From now on, the endpoint is like that; without moods, well."""
        self._ask("PUT", f"/moods{path}", msgspec.json.encode(moods))

    def accepted(self, path: str) -> Counter[str]:
        """How often each id was answered 2xx."""
        return Counter(msgspec.json.decode(self._ask("GET", f"/accepted{path}")))

    def taken(self, path: str) -> int:
        """How many different ids were answered 2xx."""
        return int(self._ask("GET", f"/taken{path}"))

    def arrivals(self, path: str) -> list[Arrival]:
        """Every POST to the endpoint, in the order of arrival."""
        return msgspec.json.decode(self._ask("GET", f"/arrivals{path}"), type=list[Arrival])

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.url(path), body, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            content: bytes = answer.read()
            return content


@contextlib.contextmanager
def moody_process(port: int = 0) -> Iterator[Moody]:
    """A receiver that outlives a worker that is killed, on a port of `held_port` where it has one."""
    with process("tests.integration.moody", str(port)) as own:
        yield Moody(own)


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """A port where nobody listens and connections are refused, until somebody does; nobody else gets it."""
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        place.bind(("127.0.0.1", 0))
        yield place.getsockname()[1]


if __name__ == "__main__":
    uvloop.run(be_a_process(MoodySink(), int(sys.argv[1])))
