"""TLS as a delivery needs it: the default context of both senders, and failures in words.

It does NOT open connections.
"""

from __future__ import annotations

import ssl


def default_ssl_context() -> ssl.SSLContext:
    """The system's certificate authorities, host names checked, TLS 1.2 or later, HTTP/1.1 offered."""
    context = ssl.create_default_context()
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
