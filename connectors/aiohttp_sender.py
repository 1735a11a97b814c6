"""The delivery client on aiohttp: for endpoints that are reached through an HTTP proxy.

Same contract as `http_sender`, at a fraction of its speed. With a proxy it is the proxy that resolves names,
so the address guard can judge literal addresses, names, ports and schemes only and the proxy has to restrict the rest;
without one, names go through a resolver that hands aiohttp nothing but addresses the guard allows.

It does NOT follow redirects, decompress or keep cookies, and reads no .netrc file. Where aiohttp differs:
header values outside ASCII are sent as UTF-8, the number of idle connections in all is not bounded (per
origin it is), and a connection that is *reset* in the middle of a response head may be repeated once, since
aiohttp does not tell.
"""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp import abc, http_exceptions
from multidict import CIMultiDict
from yarl import URL

from connectors.http_target import (
    AnyRoute,
    FieldNames,
    Target,
    parse_target,
    render_fields,
    static_headers,
)
from connectors.resolver import NameNotResolvedError, Resolver
from connectors.tls import CertificateError, EndpointContexts, default_ssl_context, tls_failure
from schemas.post import PostDone, PostResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.address_guard import AddressGuard
    from schemas.endpoint_tls import EndpointTls

FIELD_CHARS_MAX = 128  # of a response field that is handed over
ANSWER_FIELDS = ("retry-after", "webhook-allowed-rate", "webhook-allowed-origin")
#: aiohttp warns about larger bodies given as bytes.
BODY_BYTES_AS_IS_MAX = 1_048_576


class _Reuse(TypedDict, total=False):
    """What a connector is told about keeping connections: one of the two."""

    force_close: bool
    keepalive_timeout: float


class _Answer(NamedTuple):
    """A response, as far as a `PostResult` repeats it."""

    status: int
    excerpt: bytes
    retry_after: str | None
    allowed_rate: str | None
    allowed_origin: str | None


class _AddressRefusedError(OSError):
    """No address of a name is allowed. An OSError, because aiohttp hands those on."""


class _UnusableError(Exception):
    """A response that was read but must not count: cause and sentence."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause
        self.detail = detail


class AiohttpRoute:
    """One URL with its static headers, validated. Belongs to the sender that made it."""

    __slots__ = ("headers", "method", "origin", "proxy", "target", "timeout_s", "tls", "uri", "url")

    def __init__(
        self,
        target: Target,
        headers: Sequence[tuple[str, str]],
        proxy: str | None,
        timeout_s: float,
        tls: EndpointTls | None,
        method: str,
    ) -> None:
        self.origin = target.origin
        self.uri = target.uri
        self.target = target
        self.url = URL(target.origin + target.path, encoded=True)
        self.headers = headers
        self.proxy = proxy
        self.timeout_s = timeout_s
        self.tls = tls
        self.method = method


class _Attempt:
    """What the session's trace tells about one request: whether its connection had been used before."""

    __slots__ = ("reused",)

    def __init__(self) -> None:
        self.reused = False


class AiohttpSender:
    """POSTs through aiohttp; see `http_sender.HttpSender` for the contract and the bounds.

    `proxy` is the URL of an HTTP proxy for everything. With `trust_env` (and no `proxy`) HTTP_PROXY,
    HTTPS_PROXY and NO_PROXY are read whenever a route is made. Create the sender while its event loop runs.
    """

    def __init__(
        self,
        guard: AddressGuard,
        *,
        proxy: str | None = None,
        trust_env: bool = False,
        connect_timeout_s: float = 5.0,
        connections_per_origin_max: int = 1_024,
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
        self._proxy = proxy
        self._trust_env = trust_env
        self._connect_timeout_s = connect_timeout_s
        self._connections_per_origin_max = connections_per_origin_max
        self._idle_timeout_s = idle_timeout_s
        self._excerpt_bytes_max = excerpt_bytes_max
        self._response_bytes_max = response_bytes_max
        self._header_bytes_max = header_bytes_max
        self._ssl_context = ssl_context or default_ssl_context()
        self._contexts = endpoint_contexts or EndpointContexts()
        self._resolver = resolver or Resolver()
        self._names = FieldNames()
        self._sessions: dict[tuple[bool, bool, bool], aiohttp.ClientSession] = {}
        self._tasks: set[asyncio.Task[PostResult]] = set()
        self._closed = False

    @property
    def in_flight(self) -> int:
        """How many POSTs have not been answered yet."""
        return len(self._tasks)

    def route(
        self,
        url: str,
        headers: Mapping[str, str],
        timeout_s: float,
        tls: EndpointTls | None = None,
        *,
        method: str = "POST",
    ) -> AiohttpRoute:
        """Validate a URL and static headers once; ValueError with a sentence when they must not be used. Of `tls`, what
        cannot be used is the answer of each POST, as `tls_failed`."""
        if not timeout_s > 0:
            raise ValueError("The time-out must be greater than 0 seconds.")
        target = parse_target(url)
        fields = [("host", target.authority), *static_headers(headers, self._names)]
        if tls is not None and not target.tls:
            raise ValueError("A client certificate or a CA needs a URL that begins with https://.")
        return AiohttpRoute(target, fields, self._proxy or self._env_proxy(target), timeout_s, tls, method)

    def post(self, route: AnyRoute, headers: Sequence[tuple[str, str]], body: bytes, done: PostDone) -> None:
        """Send one POST, or what the route's method is; `done` is called exactly once, later, on the loop's thread.

        TypeError for another sender's route.
        """
        if not isinstance(route, AiohttpRoute):
            raise TypeError("post() needs a route made by this sender's route().")
        try:
            render_fields(headers, self._names)
        except ValueError as error:
            self._loop.call_soon(done, PostResult(0, 0, "invalid_request", str(error)))
            return
        if self._closed:
            self._loop.call_soon(done, PostResult(0, 0, "shutdown", "The sender is closed."))
            return
        started = self._loop.time()
        task = self._loop.create_task(self._exchange(route, headers, body, started))
        self._tasks.add(task)
        task.add_done_callback(partial(self._on_done, done, started))

    async def close(self) -> None:
        """Answer what is in flight with cause="shutdown" and close all connections. So are later posts."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
            await asyncio.sleep(0)  # the done callbacks run in the iteration after the tasks end
        for session in self._sessions.values():
            await session.close()
        await self._resolver.close()

    def _on_done(self, done: PostDone, started: float, task: asyncio.Task[PostResult]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            duration_us = int((self._loop.time() - started) * 1e6)
            detail = "The sender was closed while the request was in flight."
            done(PostResult(0, duration_us, "shutdown", detail))
        else:
            done(task.result())

    async def _exchange(
        self, route: AiohttpRoute, headers: Sequence[tuple[str, str]], body: bytes, started: float
    ) -> PostResult:
        cause: str
        detail: str
        try:
            async with asyncio.timeout_at(started + route.timeout_s):
                answer = await self._post(route, headers, body)
            return PostResult(answer.status, int((self._loop.time() - started) * 1e6), None, None, *answer[1:])
        except _UnusableError as error:
            cause, detail = error.cause, error.detail
        except Exception as error:  # noqa: BLE001 - every request is answered, whatever aiohttp raises
            cause, detail = _failure(route, error)
        return PostResult(0, int((self._loop.time() - started) * 1e6), cause, detail)

    async def _post(self, route: AiohttpRoute, headers: Sequence[tuple[str, str]], body: bytes) -> _Answer:
        if refusal := self._guard.target_refusal(route.target, proxied=route.proxy is not None):
            raise _UnusableError("address_refused", refusal)
        attempt = _Attempt()
        try:
            return await self._once(route, headers, body, attempt, fresh=False)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            # A kept-alive connection that the peer had closed meanwhile (RFC 9112 section 9.3.1); see
            # http_sender.
            if not attempt.reused or isinstance(error, aiohttp.ClientConnectorError) or _began(error):
                raise
        return await self._once(route, headers, body, attempt, fresh=True)

    async def _once(
        self,
        route: AiohttpRoute,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        attempt: _Attempt,
        fresh: bool,
    ) -> _Answer:
        context: ssl.SSLContext | bool = True  # the connector's own
        if route.tls is not None:
            try:
                context = await self._contexts.of(route.tls)
            except CertificateError as error:
                raise _UnusableError("tls_failed", str(error)) from None
        session = self._session(proxied=route.proxy is not None, fresh=fresh, tls=route.target.tls)
        async with session.request(
            route.method,
            route.url,
            data=body if len(body) < BODY_BYTES_AS_IS_MAX else io.BytesIO(body),
            headers=CIMultiDict([*route.headers, *headers]),
            allow_redirects=False,
            proxy=route.proxy,
            # aiohttp keeps connections by the context too, and each subscription has one of its own.
            ssl=context,
            trace_request_ctx=attempt,
        ) as response:
            self._check_head(response)
            excerpt = b""
            received = 0
            while received < self._response_bytes_max and (chunk := await response.content.readany()):
                received += len(chunk)
                excerpt += chunk[: self._excerpt_bytes_max - len(excerpt)]
            if not response.content.at_eof():
                response.close()  # the rest may be endless
            fields = [response.headers.get(name) for name in ANSWER_FIELDS]
            return _Answer(response.status, excerpt, *[field and field[:FIELD_CHARS_MAX] for field in fields])

    def _check_head(self, response: aiohttp.ClientResponse) -> None:
        failure: _UnusableError | None = None
        if sum(len(name) + len(value) + 4 for name, value in response.raw_headers) > self._header_bytes_max:
            failure = _UnusableError("response_too_large", "The head of the response is too large.")
        elif response.version not in (aiohttp.HttpVersion10, aiohttp.HttpVersion11):
            failure = _UnusableError("malformed_response", "The response is not HTTP/1.1.")
        elif not 200 <= response.status <= 599:
            detail = f"The response has the status {response.status}, which answers no POST."
            failure = _UnusableError("malformed_response", detail)
        if failure is not None:
            response.close()
            raise failure

    def _session(self, proxied: bool, fresh: bool, tls: bool) -> aiohttp.ClientSession:
        """The session for direct or proxied requests, on pooled or on fresh connections, with or without TLS: a
        connector does not tell its resolver what the address is for, and the guard wants to know."""
        session = self._sessions.get((proxied, fresh, tls))
        if session is None:
            trace = aiohttp.TraceConfig()
            trace.on_connection_reuseconn.append(_on_reuse)
            reuse: _Reuse = {"force_close": True} if fresh else {"keepalive_timeout": self._idle_timeout_s}
            connector = _Connector(
                resolver=_AllowedAddresses(self._resolver, None if proxied else self._guard, tls),
                use_dns_cache=False,  # the resolver has a cache, and the guard is asked every time
                limit=0,
                limit_per_host=self._connections_per_origin_max,
                ssl=self._ssl_context,
                **reuse,
            )
            session = self._sessions[proxied, fresh, tls] = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
                max_line_size=self._header_bytes_max,
                max_field_size=self._header_bytes_max,
                trace_configs=[trace],
            )
        return session

    def _env_proxy(self, target: Target) -> str | None:
        if not self._trust_env or proxy_bypass(target.host):
            return None
        return getproxies().get("https" if target.tls else "http")


class _Connector(aiohttp.TCPConnector):
    """Does not reuse a connection on which something arrived while it was idle.

    aiohttp would take that for the answer to the next request. This overrides an internal method, so the
    conformance suite has a case for it.
    """

    async def _get(self, key: Any, traces: list[Any]) -> Any:
        connection = await super()._get(key, traces)
        while connection is not None and (connection.protocol is None or connection.protocol.should_close):
            connection.close()
            connection = await super()._get(key, traces)
        return connection


class _AllowedAddresses(abc.AbstractResolver):
    """Hands aiohttp the addresses the guard allows; all of them without a guard."""

    def __init__(self, resolver: Resolver, guard: AddressGuard | None, tls: bool) -> None:
        self._resolver = resolver
        self._guard = guard
        self._tls = tls

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[abc.ResolveResult]:
        try:
            addresses = await self._resolver.addresses(host)
        except NameNotResolvedError as error:
            raise OSError(str(error)) from error
        guard = self._guard
        refusals = [(one, guard.refusal(one, port, tls=self._tls) if guard else None) for one in addresses]
        allowed = [address for address, refusal in refusals if refusal is None]
        if not allowed:
            raise _AddressRefusedError(refusals[0][1])
        return [
            abc.ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in allowed
        ]

    async def close(self) -> None:
        """The resolver is shared and belongs to the sender."""


async def _on_reuse(
    session: aiohttp.ClientSession, context: object, params: aiohttp.TraceConnectionReuseconnParams
) -> None:
    attempt = getattr(context, "trace_request_ctx", None)
    if isinstance(attempt, _Attempt):
        attempt.reused = True


def _began(error: Exception) -> bool:
    """Whether a part of the response head had been read when the connection ended."""
    return isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(error.message, str)


def _failure(route: AiohttpRoute, error: Exception) -> tuple[str, str]:
    """One of `schemas.post.CAUSES` and a sentence for what aiohttp raised. Subclasses precede their bases."""
    target = route.target
    match error:
        case aiohttp.ClientConnectorDNSError():
            cause = "address_refused" if isinstance(error.os_error, _AddressRefusedError) else "dns_failed"
            return cause, str(error.os_error)
        case aiohttp.ClientConnectorCertificateError():
            return "tls_failed", tls_failure(target.host, error.certificate_error)
        case aiohttp.ClientSSLError():
            return "tls_failed", tls_failure(target.host, error.os_error)
        case aiohttp.ClientConnectorError():
            closed = isinstance(error.os_error, (ConnectionResetError, ConnectionAbortedError))
            if target.tls and closed:
                return "tls_failed", tls_failure(target.host, error.os_error)
            return "connect_failed", f"Connecting to {target.host} failed: {error.os_error.strerror}."
        case aiohttp.ConnectionTimeoutError():
            return "connect_failed", f"Connecting to {target.host} failed: it did not answer in time."
        case TimeoutError():
            return "timeout", "There was no complete response within the time-out."
        case aiohttp.ClientHttpProxyError():
            return "connect_failed", f"The proxy refused to connect: {error.status} {error.message}."
        case aiohttp.ClientResponseError():
            if isinstance(error.__cause__ and error.__cause__.__cause__, http_exceptions.LineTooLong):
                return "response_too_large", "The head of the response is too large."
            # aiohttp quotes what it read on further lines.
            reason = error.message.split("\n")[0].rstrip(":.")
            return "malformed_response", f"The response is not valid HTTP/1.1: {reason}."
        case aiohttp.ClientOSError() if isinstance(error.__cause__, ssl.SSLError):
            # TLS 1.3 tells only after the handshake that a certificate was not good enough.
            return "tls_failed", tls_failure(target.host, error.__cause__)
        case aiohttp.ServerDisconnectedError() if route.tls is not None and route.tls.certificate:
            return "reset", "The connection ended early; the endpoint may not take the client certificate."
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return "reset", "The connection ended before the response was complete."
        case _:
            return "invalid_request", f"The request could not be sent: {error}."
