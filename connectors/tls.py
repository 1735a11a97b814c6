"""TLS as a delivery needs it: the default context of both senders, contexts for endpoints that ask for a client
certificate or a CA of their own, and failures in words.

It does NOT open connections. No sentence made here quotes what it was given: it may be a key.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from connectors.clock import SystemClock
from schemas.endpoint_tls import EndpointTls

#: A context with the system's authorities takes 0.8 MiB and some 20 ms to make, one with a pinned CA next to nothing.
CONTEXTS_MAX = 256


class CertificateError(Exception):
    """An endpoint's certificate, key or CA cannot be used; the text is a sentence for people."""


def default_ssl_context() -> ssl.SSLContext:
    """The system's certificate authorities, host names checked, TLS 1.2 or later, HTTP/1.1 offered."""
    return _ordinary(ssl.create_default_context())


def _ordinary(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def tls_failure(host: str, error: Exception) -> str:
    """A sentence about a handshake that failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message.removesuffix(".")
    elif isinstance(error, ssl.SSLError):
        reason = (error.reason or str(error)).replace("_", " ").lower()
    else:
        reason = "the connection was closed during the handshake"
    return f"TLS with {host} failed: {reason}."


class _Identity:
    """What came of one `EndpointTls`: a context, with the times its certificate is good for; or why there is none."""

    __slots__ = ("context", "failure", "from_ms", "until_ms")

    def __init__(self, context: ssl.SSLContext | None, from_ms: int, until_ms: int, failure: str = "") -> None:
        self.context = context
        self.from_ms = from_ms
        self.until_ms = until_ms
        self.failure = failure


class EndpointContexts:
    """A context for each `EndpointTls`, made once, on a thread. The `contexts_max` used last are kept."""

    def __init__(self, now_ms: Callable[[], int] | None = None, contexts_max: int = CONTEXTS_MAX) -> None:
        """`now_ms` is the wall clock that the client certificate's validity is held against; default: the system's."""
        self._now_ms = now_ms or SystemClock().now_ms
        self._contexts_max = contexts_max
        self._recent: OrderedDict[EndpointTls, _Identity] = OrderedDict()
        self._making: dict[EndpointTls, asyncio.Task[_Identity]] = {}

    @property
    def kept(self) -> int:
        """How many are remembered, at most `contexts_max`, with those of which none can be made."""
        return len(self._recent)

    async def of(self, tls: EndpointTls) -> ssl.SSLContext:
        """The same context for the same value. CertificateError when none can be made, or the client certificate is not
        valid now: a server would refuse it in words that help nobody."""
        identity = self._recent.get(tls)
        if identity is None:
            task = self._making.get(tls)
            if task is None:
                task = self._making[tls] = asyncio.ensure_future(self._make(tls))
            identity = await asyncio.shield(task)  # a caller that gives up does not take it away from the others
        else:
            self._recent.move_to_end(tls)
        if identity.context is None:
            raise CertificateError(identity.failure)
        now_ms = self._now_ms()
        if now_ms >= identity.until_ms:
            raise CertificateError(
                f"The client certificate expired at {_time(identity.until_ms)}; put a new one into `tls`."
            )
        if now_ms < identity.from_ms:
            raise CertificateError(f"The client certificate is not valid before {_time(identity.from_ms)}.")
        return identity.context

    async def _make(self, tls: EndpointTls) -> _Identity:
        try:
            identity = await asyncio.to_thread(_made, tls)
        finally:
            del self._making[tls]
        self._recent[tls] = identity
        if len(self._recent) > self._contexts_max:
            self._recent.popitem(last=False)
        return identity


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _made(tls: EndpointTls) -> _Identity:
    try:
        context = _pinned(tls.ca) if tls.ca else default_ssl_context()
        from_ms, until_ms = _show(context, tls) if tls.certificate or tls.key else (0, sys.maxsize)
    except CertificateError as error:
        return _Identity(None, 0, 0, str(error))
    return _Identity(context, from_ms, until_ms)


def _pinned(ca: str) -> ssl.SSLContext:
    """A context that trusts these certificates and no other, whether they are roots, intermediate ones or the
    server's own."""
    context = _ordinary(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        x509.load_pem_x509_certificates(ca.encode())
        context.load_verify_locations(cadata=ca)
    except (ValueError, ssl.SSLError):
        raise CertificateError("The pinned ca is not a PEM certificate (-----BEGIN CERTIFICATE-----).") from None
    return context


def _show(context: ssl.SSLContext, tls: EndpointTls) -> tuple[int, int]:
    """Make the context show a client certificate; from when and until when that is valid (milliseconds)."""
    try:
        certificate = x509.load_pem_x509_certificates(tls.certificate.encode())[0]
    except ValueError:
        raise CertificateError("The client certificate is not PEM (-----BEGIN CERTIFICATE-----).") from None
    try:
        key = load_pem_private_key(tls.key.encode(), None)
    except TypeError:
        raise CertificateError("The client certificate's key has a passphrase; store it without one.") from None
    except Exception:  # noqa: BLE001 - whatever the parser thinks of it
        raise CertificateError("The client certificate's key is not a PEM private key.") from None
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise CertificateError("The key does not belong to the client certificate.")
    try:
        _load(context, tls)
    except ssl.SSLError as error:
        reason = (error.reason or "it cannot be used").replace("_", " ").lower()
        raise CertificateError(f"The client certificate cannot be used: {reason}.") from None
    return (
        int(certificate.not_valid_before_utc.timestamp() * 1000),
        int(certificate.not_valid_after_utc.timestamp() * 1000),
    )


def _load(context: ssl.SSLContext, tls: EndpointTls) -> None:
    """The ssl module takes certificates from files only: here from one without a name, in memory where there is such
    a thing."""
    with _nameless() as file:
        file.write(f"{tls.certificate}\n{tls.key}\n".encode())
        file.flush()
        file.seek(0)
        # An empty password: without one, OpenSSL would ask the terminal for it.
        context.load_cert_chain(f"/dev/fd/{file.fileno()}", password="")


def _nameless() -> IO[bytes]:
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("tls"), "wb")
    return tempfile.TemporaryFile()
