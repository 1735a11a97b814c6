"""The delivery client: POSTs over HTTP/1.1, on asyncio protocols and httptools, meant for uvloop.

One event loop, no task, future or timer per request: a request on a pooled connection costs one write, one
read, one parse and one call of `done`. Tasks exist for connecting only, and one periodic sweep enforces all
deadlines.

It does NOT decide what a status code means, does NOT retry (but for the one case below), follow redirects,
decompress or keep cookies, and does NOT speak through proxies (`aiohttp_sender` does).

Invariants that are easy to break:
- A request is in `_pending` from `post()` until `_answer()`, which is the only place that calls `done`.
- `_Origin.slots` counts the connections that are open or being opened; whoever closes one calls `_free_slot`
  once.
- A read that is, byte for byte, the whole answer that its origin gave last is not parsed again. The parser does not see
  it, and so stands where it stood: between two messages.
- A connection serves its next request only after `feed_data` has returned: what follows a complete response
  in the same read would otherwise be taken for the next answer (RFC 9112 section 9.2).
- A request is repeated at most once, and only when a reused connection ended before any byte of the answer:
  the peer had closed it while the request was on its way (RFC 9112 section 9.3.1). A POST may be repeated
  here because the delivery is at least once anyway, with the same `webhook-id`.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import OrderedDict, deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary

import httptools

from connectors.http_target import AnyRoute, FieldNames, Target, parse_target, render_fields, static_headers
from connectors.resolver import NameNotResolvedError, Resolver
from connectors.tls import CertificateError, EndpointContexts, default_ssl_context, tls_failure
from schemas.post import PostDone, PostResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.address_guard import AddressGuard
    from schemas.endpoint_tls import EndpointTls

SWEEP_S = 0.05
FIELD_CHARS_MAX = 128  # of a response field that is handed over
ANSWER_BYTES_MAX = 512  # of one that its origin remembers


class NotConnectedError(Exception):
    """No connection could be opened: one of the `schemas.post.CAUSES`, and a sentence."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause
        self.detail = detail


class _StopParsingError(Exception):
    """Raised inside a parser callback to stop the parser: what follows must not be read."""


class _Answer(NamedTuple):
    """What a complete response says."""

    status: int
    excerpt: bytes
    retry_after: str | None
    allowed_rate: str | None
    allowed_origin: str | None


class _Origin:
    """Scheme, host, port, whose TLS, and the connections made there with it. Lives as long as a route or a connection
    refers to it."""

    __slots__ = ("__weakref__", "answer", "answer_bytes", "idle", "slots", "target", "tls", "waiting")

    def __init__(self, target: Target, tls: EndpointTls | None) -> None:
        self.target = target
        self.tls = tls
        self.idle: list[_Connection] = []  # the most recently used last
        self.waiting: deque[_Request] = deque()
        self.slots = 0
        # The last answer that came in one read, alone, and left the connection open. Endpoints give the same one again
        # and again, for a second at least (the Date field), and to know it spares the parser and its callbacks: a
        # quarter of what a POST costs here, with an ordinary server's fields.
        self.answer_bytes = b""  # which no read is
        self.answer = _Answer(0, b"", None, None, None)


class HttpRoute:
    """One URL with its static headers, validated and rendered. Belongs to the sender that made it."""

    __slots__ = ("head", "origin", "pool", "timeout_s", "uri")

    def __init__(self, target: Target, pool: _Origin, head: bytes, timeout_s: float) -> None:
        self.origin = target.origin
        self.uri = target.uri
        self.pool = pool
        self.head = head
        self.timeout_s = timeout_s


class _Request:
    """One POST until its answer. `connection` and `connecting` say where it is; neither: it waits."""

    __slots__ = ("connecting", "connection", "deadline", "done", "message", "origin", "started")

    def __init__(self, origin: _Origin, message: bytes, done: PostDone, started: float, deadline: float) -> None:
        self.origin = origin
        self.message = message
        self.done = done
        self.started = started
        self.deadline = deadline
        self.connection: _Connection | None = None
        self.connecting: asyncio.Task[_Connection] | None = None


class HttpSender:
    """POSTs with pooled connections, verified TLS, deadlines, and every address judged as it is connected to.

    Create it while its event loop runs, and use it on that loop only. All bounds are arguments:
    - `connect_timeout_s` covers name resolution, TCP and TLS of one connection; the total is the route's;
    - `response_bytes_max`: beyond it the status counts, and the connection is closed;
    - `header_bytes_max` bounds the head, and `excerpt_bytes_max` what is kept of the body;
    - `ssl_context` replaces the default one (system CAs, TLS 1.2 or later), where an endpoint has none of its own in
      `endpoint_contexts`.

    Deadlines are looked at every `SWEEP_S`. Durations are differences of `loop.time()`, which has millisecond
    resolution on uvloop.
    """

    def __init__(
        self,
        guard: AddressGuard,
        *,
        connect_timeout_s: float = 5.0,
        connections_per_origin_max: int = 1_024,
        idle_connections_max: int = 1_024,
        idle_timeout_s: float = 30.0,
        excerpt_bytes_max: int = 1_024,
        response_bytes_max: int = 65_536,
        header_bytes_max: int = 16_384,
        ssl_context: ssl.SSLContext | None = None,
        endpoint_contexts: EndpointContexts | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._guard = guard
        self._connect_timeout_s = connect_timeout_s
        self._connections_per_origin_max = connections_per_origin_max
        self._idle_connections_max = idle_connections_max
        self._idle_timeout_s = idle_timeout_s
        self.excerpt_bytes_max = excerpt_bytes_max
        self.response_bytes_max = response_bytes_max
        self.header_bytes_max = header_bytes_max
        self._ssl_context = ssl_context
        self._resolver = resolver or Resolver()
        self._names = FieldNames()
        self._contexts = endpoint_contexts or EndpointContexts()
        # By the whole of what connections there have in common, not by a digest of it: who has another certificate, or
        # trusts another CA, is somewhere else.
        self._origins: WeakValueDictionary[tuple[str, EndpointTls | None], _Origin] = WeakValueDictionary()
        self._pending: set[_Request] = set()
        self._idle: OrderedDict[_Connection, float] = OrderedDict()  # with the time it became idle; the oldest first
        self._tasks: set[asyncio.Task[_Connection]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._sweeping = False  # whether the next sweep is soon enough for deadlines
        self._outbox: list[_Connection] = []
        self._closed = False

    @property
    def in_flight(self) -> int:
        """How many POSTs have not been answered yet."""
        return len(self._pending)

    @property
    def origins(self) -> int:
        """How many origins are known, one for each TLS of its own: those with a route or a connection."""
        return len(self._origins)

    @property
    def idle_connections(self) -> int:
        """How many connections wait for a request, at most `idle_connections_max`."""
        return len(self._idle)

    def route(
        self,
        url: str,
        headers: Mapping[str, str],
        timeout_s: float,
        tls: EndpointTls | None = None,
        *,
        method: str = "POST",
    ) -> HttpRoute:
        """Validate a URL and static headers once; ValueError with a sentence when they must not be used. Of `tls`, what
        cannot be used is the answer of each POST, as `tls_failed`."""
        if not timeout_s > 0:
            raise ValueError("The time-out must be greater than 0 seconds.")
        target = parse_target(url)
        fields = render_fields(static_headers(headers, self._names), self._names)
        if tls is not None and not target.tls:
            raise ValueError("A client certificate or a CA needs a URL that begins with https://.")
        pool = self._origins.get((target.origin, tls))
        if pool is None:
            pool = self._origins[target.origin, tls] = _Origin(target, tls)
        head = f"{method} {target.path} HTTP/1.1\r\nhost: {target.authority}\r\n".encode("ascii") + fields
        return HttpRoute(target, pool, head, timeout_s)

    def post(self, route: AnyRoute, headers: Sequence[tuple[str, str]], body: bytes, done: PostDone) -> None:
        """Send one POST, or what the route's method is; `done` is called exactly once, later, on the loop's thread.

        TypeError for another sender's route.
        """
        if type(route) is not HttpRoute:
            raise TypeError("post() needs a route made by this sender's route().")
        try:
            fields = render_fields(headers, self._names)
        except ValueError as error:
            self._loop.call_soon(done, PostResult(0, 0, "invalid_request", str(error)))
            return
        if self._closed:
            self._loop.call_soon(done, PostResult(0, 0, "shutdown", "The sender is closed."))
            return
        message = b"%b%bcontent-length: %d\r\n\r\n%b" % (route.head, fields, len(body), body)
        now = self._loop.time()
        origin = route.pool
        request = _Request(origin, message, done, now, now + route.timeout_s)
        self._pending.add(request)
        if not self._sweeping:
            self._sweep_in(SWEEP_S)
        if origin.idle:
            connection = origin.idle.pop()
            del self._idle[connection]
            connection.send(request)
        elif origin.slots < self._connections_per_origin_max:
            origin.slots += 1
            self._connect(request)
        else:
            origin.waiting.append(request)

    async def probe(self, route: HttpRoute) -> int | None:
        """Connect as a POST would, send nothing, and hang up; until when the server's certificate is good, in
        milliseconds since the epoch, or None without TLS. NotConnectedError."""
        try:
            connection = await self._open(route.pool)
        except NotConnectedError:
            raise
        except Exception as error:  # as `_on_connected` has it
            raise NotConnectedError("connect_failed", f"Connecting failed: {error}.") from error
        try:
            certificate = connection.transport.get_extra_info("peercert")
        finally:
            connection.close()
        return int(ssl.cert_time_to_seconds(certificate["notAfter"])) * 1000 if certificate else None

    async def close(self) -> None:
        """Answer what is in flight with cause="shutdown" and close all connections. So are later posts."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for request in list(self._pending):
            self._abandon(request, "shutdown", "The sender was closed while the request was in flight.")
        for connection in list(self._idle):
            self._discard_idle(connection)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._resolver.close()
        # Transports finish closing in the loop's next iteration.
        await asyncio.sleep(0)

    def _write_soon(self, connection: _Connection) -> None:
        """Write at the loop's next turn, together with what else is to be written by then.

        A write wakes a receiver that waits, which costs more than all else about it. Requests written one right after
        the other find it awake: a fifth of the whole cost of a delivery was saved.
        """
        if not self._outbox:
            self._loop.call_soon(self._write_all)
        self._outbox.append(connection)

    def _write_all(self) -> None:
        outbox, self._outbox = self._outbox, []
        for connection in outbox:
            connection.write()

    # -- answers and deadlines -------------------------------------------------------------------------------

    def _answer(self, request: _Request, result: PostResult) -> None:
        self._pending.discard(request)
        try:
            request.done(result)
        except Exception as error:  # noqa: BLE001
            # The caller's mistake must not take down the connection or the sweep, which serve other requests.
            self._loop.call_exception_handler({"message": "The done callback of a POST raised.", "exception": error})

    def _fail(self, request: _Request, cause: str, detail: str) -> None:
        duration_us = int((self._loop.time() - request.started) * 1e6)
        self._answer(request, PostResult(0, duration_us, cause, detail))

    def _abandon(self, request: _Request, cause: str, detail: str) -> None:
        """Answer a request wherever it is, giving up the connection it is on."""
        self._pending.discard(request)
        if request.connection is not None:
            request.connection.close()
        elif request.connecting is not None:
            request.connecting.cancel()  # its slot is freed by _on_connected
        else:
            request.origin.waiting.remove(request)
        self._fail(request, cause, detail)

    def _sweep_in(self, delay_s: float) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        self._sweep = self._loop.call_later(delay_s, self._on_sweep)
        self._sweeping = delay_s <= SWEEP_S

    def _on_sweep(self) -> None:
        now = self._loop.time()
        while self._idle:
            connection, since = next(iter(self._idle.items()))
            if now - since < self._idle_timeout_s:
                break
            self._discard_idle(connection)
        # Armed before any callback runs, so that the deadlines do not depend on them.
        self._sweep = None
        self._sweeping = False
        if self._pending:
            self._sweep_in(SWEEP_S)
        elif self._idle:
            self._sweep_in(max(self._idle_timeout_s, SWEEP_S))
        for request in [one for one in self._pending if one.deadline <= now]:
            self._abandon(request, "timeout", "There was no complete response within the time-out.")

    # -- connections -----------------------------------------------------------------------------------------

    def _release(self, connection: _Connection, now: float) -> None:
        """Give a connection that can serve again to who waits the longest, or keep it."""
        origin = connection.origin
        if origin.waiting:
            connection.send(origin.waiting.popleft())
            return
        if len(self._idle) >= self._idle_connections_max:
            self._discard_idle(next(iter(self._idle)))
        origin.idle.append(connection)
        self._idle[connection] = now

    def _discard_idle(self, connection: _Connection) -> None:
        del self._idle[connection]
        connection.origin.idle.remove(connection)
        connection.close()

    def _free_slot(self, origin: _Origin) -> None:
        if origin.waiting and not self._closed:
            self._connect(origin.waiting.popleft())
        else:
            origin.slots -= 1

    def _connect(self, request: _Request) -> None:
        """Open a connection for one request, which holds a slot of its origin already."""
        request.connection = None
        request.connecting = task = self._loop.create_task(self._open(request.origin))
        self._tasks.add(task)
        task.add_done_callback(partial(self._on_connected, request))

    def _on_connected(self, request: _Request, task: asyncio.Task[_Connection]) -> None:
        self._tasks.discard(task)
        request.connecting = None
        failure: tuple[str, str] | None = None
        if task.cancelled():
            failure = "shutdown", "Connecting was cancelled."
        elif isinstance(error := task.exception(), NotConnectedError):
            failure = error.cause, error.detail
        elif error is not None:
            failure = "connect_failed", f"Connecting failed: {error}."
        else:
            connection = task.result()
            if connection.gone:
                failure = connection.failure or (
                    "reset",
                    "The endpoint closed the connection before the request.",
                )
            else:
                connection.holds_slot = True
                if request in self._pending:
                    connection.send(request)
                elif self._closed:
                    connection.close()
                else:  # its deadline passed in the meantime
                    self._release(connection, self._loop.time())
        if failure is not None:
            self._free_slot(request.origin)
            if request in self._pending:
                self._fail(request, *failure)

    async def _open(self, origin: _Origin) -> _Connection:
        """Resolve, judge, connect; NotConnectedError when it is not to be."""
        target = origin.target
        deadline = self._loop.time() + self._connect_timeout_s
        allowed = await self._allowed_addresses(target, deadline)
        ssl_context = await self._context(origin, deadline) if target.tls else None
        failure = ""
        for position, address in enumerate(allowed):
            # Every address gets its share of the time left, so that one black hole does not use up all of it.
            now = self._loop.time()
            share_s = (deadline - now) / (len(allowed) - position)
            try:
                async with asyncio.timeout(share_s):
                    _, connection = await self._loop.create_connection(
                        partial(_Connection, self, origin),
                        address,
                        target.port,
                        ssl=ssl_context,
                        server_hostname=target.host.removesuffix(".") if target.tls else None,
                    )
                return connection
            except ssl.SSLError as error:
                raise NotConnectedError("tls_failed", tls_failure(target.host, error)) from error
            except TimeoutError:
                failure = f"{address} port {target.port} did not answer in time"
            except OSError as error:
                if target.tls and isinstance(error, (ConnectionResetError, ConnectionAbortedError)):
                    raise NotConnectedError("tls_failed", tls_failure(target.host, error)) from error
                reason = os.strerror(error.errno) if error.errno else str(error)
                failure = f"{address} port {target.port}: {reason}"
        raise NotConnectedError("connect_failed", f"Connecting to {target.host} failed: {failure}.")

    async def _allowed_addresses(self, target: Target, deadline: float) -> list[str]:
        """The addresses of the host that the guard lets through, at least one."""
        if refusal := self._guard.target_refusal(target):
            raise NotConnectedError("address_refused", refusal)
        addresses: Sequence[str] = (target.host,)
        if not target.is_address:
            try:
                async with asyncio.timeout_at(deadline):
                    addresses = await self._resolver.addresses(target.host)
            except NameNotResolvedError as error:
                raise NotConnectedError("dns_failed", str(error)) from error
            except TimeoutError:
                raise NotConnectedError("dns_failed", f"The name {target.host} did not resolve in time.") from None
        refusals = [(one, self._guard.refusal(one, target.port, tls=target.tls)) for one in addresses]
        allowed = [address for address, refusal in refusals if refusal is None]
        if not allowed:
            raise NotConnectedError("address_refused", refusals[0][1] or "")
        return allowed

    async def _context(self, origin: _Origin, deadline: float) -> ssl.SSLContext:
        if origin.tls is not None:
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._contexts.of(origin.tls)
            except CertificateError as error:
                raise NotConnectedError("tls_failed", str(error)) from None
            except TimeoutError:
                raise NotConnectedError("connect_failed", "The certificates were not ready in time.") from None
        if self._ssl_context is None:
            self._ssl_context = default_ssl_context()
        return self._ssl_context


class _Connection(asyncio.Protocol):
    """One connection: sends a request, reads its response, and hands itself back or closes."""

    __slots__ = (
        "allowed_origin",
        "allowed_rate",
        "complete",
        "excerpt",
        "failure",
        "framed",
        "gone",
        "header_bytes",
        "holds_slot",
        "keep",
        "origin",
        "parser",
        "received",
        "request",
        "retry_after",
        "sender",
        "served",
        "status",
        "transport",
        "upcoming",
    )

    def __init__(self, sender: HttpSender, origin: _Origin) -> None:
        self.sender = sender
        self.origin = origin
        self.transport: Any = None
        self.parser = httptools.HttpResponseParser(self)
        self.request: _Request | None = None  # written, and not answered
        self.upcoming: _Request | None = None  # to be written at the loop's next turn
        self.holds_slot = False  # from the moment it is handed over by _on_connected
        self.served = False  # whether it has carried a request before the present one
        self.gone = False
        self.failure: tuple[str, str] | None = None
        self._expect()

    def _expect(self) -> None:
        """Nothing is known of the next response."""
        self.status = 0  # of the final response, once its head is complete
        self.received = 0  # bytes of the answer, framing and interim responses included
        self.header_bytes = 0
        self.framed = False  # whether the head says where the body ends
        self.complete = False
        self.keep = False  # whether the connection may serve again
        self.excerpt = b""
        self.retry_after: str | None = None
        self.allowed_rate: str | None = None
        self.allowed_origin: str | None = None

    def send(self, request: _Request) -> None:
        """Write it at the loop's next turn."""
        self.upcoming = request
        request.connection = self
        self.sender._write_soon(self)

    def write(self) -> None:
        """Write what is upcoming, unless it was answered meanwhile: closed, or out of time."""
        request = self.upcoming
        if request is None:
            return
        self.upcoming = None
        self.request = request
        self.transport.write(request.message)

    def close(self) -> None:
        """Close without answering anybody, and give the slot back."""
        if self.gone:
            return
        self.gone = True
        self.request = self.upcoming = None
        self.transport.abort()
        if self.holds_slot:
            self.sender._free_slot(self.origin)

    # -- asyncio.Protocol ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        request = self.request
        if request is None:
            # Nothing was asked: whatever this is, it must not become the answer to the next request.
            self.failure = "malformed_response", "The endpoint sent bytes before it was asked."
            self._forget()
            return
        if data == self.origin.answer_bytes and not self.received:
            self._answered(request, self.origin.answer, True)
            return
        self.received += len(data)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                invalid = "malformed_response", f"The response is not valid HTTP/1.1: {error}."
                self._fail(request, *(self.failure or invalid))
                return
            self.keep = False
        if self.complete:
            self._finish(request, data)
        elif self.received > self.sender.header_bytes_max:
            if not self.status:
                self._fail(request, *self._too_large())
            elif self.received > self.sender.header_bytes_max + self.sender.response_bytes_max:
                self._finish(request, data)

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(exc)

    # -- httptools callbacks ---------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.complete:
            raise _StopParsingError  # what follows the response must not change it

    def on_header(self, name: bytes, value: bytes) -> None:
        # Told apart by length first: this runs for every header of every response.
        length = len(name)
        self.header_bytes += length + len(value) + 4
        if self.status:
            return  # a trailer
        if length == 14:
            if name.lower() == b"content-length":
                self.framed = True
        elif length == 17:
            if name.lower() == b"transfer-encoding" and value.lower().endswith(b"chunked"):
                self.framed = True
        elif length == 11 and self.retry_after is None and name.lower() == b"retry-after":
            self.retry_after = value[:FIELD_CHARS_MAX].decode("latin-1")
        elif length == 20 and self.allowed_rate is None and name.lower() == b"webhook-allowed-rate":
            self.allowed_rate = value[:FIELD_CHARS_MAX].decode("latin-1")
        elif length == 22 and self.allowed_origin is None and name.lower() == b"webhook-allowed-origin":
            self.allowed_origin = value[:FIELD_CHARS_MAX].decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if self.header_bytes > self.sender.header_bytes_max:
            self.failure = self._too_large()
        elif self.parser.get_http_version() not in ("1.1", "1.0"):
            self.failure = "malformed_response", "The response is not HTTP/1.1."
        elif 200 <= status <= 599:
            self.status = status
        elif 100 <= status < 200 and status != 101:
            self.framed = False
            self.retry_after = self.allowed_rate = self.allowed_origin = None
        else:
            self.failure = (
                "malformed_response",
                f"The response has the status {status}, which answers no POST.",
            )
        if self.failure is not None:
            raise _StopParsingError

    def on_body(self, data: bytes) -> None:
        room = self.sender.excerpt_bytes_max - len(self.excerpt)
        if room > 0:
            self.excerpt += data[:room]

    def on_message_complete(self) -> None:
        # An interim response (1xx) is a message too, but not the answer.
        if self.status:
            self.complete = True
            self.keep = self.parser.should_keep_alive()

    # -- ends ------------------------------------------------------------------------------------------------

    def _finish(self, request: _Request, data: bytes = b"") -> None:
        """The response counts, and `data` was the last read of it."""
        answer = _Answer(self.status, self.excerpt, self.retry_after, self.allowed_rate, self.allowed_origin)
        keep = self.keep
        if keep:
            if self.received == len(data) <= ANSWER_BYTES_MAX:
                self.origin.answer_bytes, self.origin.answer = data, answer
            self._expect()
        self._answered(request, answer, keep)

    def _answered(self, request: _Request, answer: _Answer, keep: bool) -> None:
        """Serve again when the exchange ended cleanly on both sides."""
        self.request = None
        sender = self.sender
        now = sender._loop.time()
        status, excerpt, retry_after, allowed_rate, allowed_origin = answer
        duration_us = int((now - request.started) * 1e6)
        if keep and not self.transport.get_write_buffer_size():
            self.served = True
            sender._release(self, now)
        else:
            self.close()
        sender._answer(
            request, PostResult(status, duration_us, None, None, excerpt, retry_after, allowed_rate, allowed_origin)
        )

    def _fail(self, request: _Request, cause: str, detail: str) -> None:
        self.close()
        self.sender._fail(request, cause, detail)

    def _forget(self) -> None:
        """Close a connection on which nothing was asked, with what would have been asked next going elsewhere."""
        if self.upcoming is not None:
            self._move(self.upcoming)
        elif self in self.sender._idle:
            self.sender._discard_idle(self)
        else:
            self.close()

    def _ended(self, error: Exception | None) -> None:
        """The peer closed the connection, or it broke."""
        request = self.request
        if self.gone:
            return
        if isinstance(error, ssl.SSLError) and self.failure is None:
            # TLS 1.3 tells only now that a certificate was not good enough.
            self.failure = "tls_failed", tls_failure(self.origin.target.host, error)
        if request is None:
            self._forget()
        elif self.status and not self.framed and error is None:
            self._finish(request)  # a body that ends with the connection (RFC 9112 section 6.3)
        elif self.received:
            self._fail(request, "reset", "The connection ended before the response was complete.")
        else:
            self._move(request)

    def _move(self, request: _Request) -> None:
        """The connection ended before it answered a byte. One that has served before was stale: open another for the
        request, once only, since that one has not served."""
        if not self.served:
            self._fail(request, *(self.failure or ("reset", self._hung_up())))
            return
        self.holds_slot = False  # the slot goes to the connection that is opened now
        self.close()
        self.sender._connect(request)

    def _hung_up(self) -> str:
        if self.origin.tls is not None and self.origin.tls.certificate:
            return "The connection ended before the response began; the endpoint may not take the client certificate."
        return "The connection ended before the response began."

    def _too_large(self) -> tuple[str, str]:
        return (
            "response_too_large",
            f"The head of the response is larger than {self.sender.header_bytes_max} bytes.",
        )
