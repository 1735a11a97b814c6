"""One POST to an endpoint: what a sender is asked for and what it answers.

Shared by the dispatch stage, which decides, and the senders in `connectors`, which touch the network.
This file holds values only: no URL parsing, no verdict about a status code (`streams/core/verdict.py`), no I/O.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

#: Causes a sender may report when there was no usable response. A closed set, so that metrics, dead letters and
#: tests can rely on the spelling. `shutdown` is the only one that says nothing about the endpoint.
CAUSES = frozenset(
    {
        "address_refused",  # the address guard does not allow the address the host resolves to
        "connect_failed",  # refused, unreachable, or the connect time-out passed
        "dns_failed",  # the host name did not resolve
        "invalid_request",  # a header or URL that must not be sent
        "malformed_response",  # not HTTP/1.1, or lies about its length
        "reset",  # the connection ended before the response did
        "response_too_large",  # headers above the cap (a body above its cap is cut, not an error)
        "shutdown",  # the sender was closed while the request was in flight
        "timeout",  # the total time-out passed
        "token_failed",  # the endpoint was not asked: its OAuth2 token endpoint gave no token
        "tls_failed",  # handshake or certificate verification
    }
)


class PostResult(msgspec.Struct, frozen=True, gc=False):
    """What became of one POST.

    Exactly one of `status` and `cause` says something: a response was read (`status` 200..599, `cause` None), or it was
    not (`status` 0, `cause` one of `CAUSES`, `detail` a sentence for people).
    """

    status: int
    duration_us: int
    cause: str | None = None
    detail: str | None = None
    excerpt: bytes = b""  # the first bytes of the response body, at most the sender's `excerpt_bytes_max`
    retry_after: str | None = None  # the Retry-After field as received (RFC 9110, 10.2.3)
    allowed_rate: str | None = None  # WebHook-Allowed-Rate as received (CloudEvents HTTP webhooks 1.0)
    allowed_origin: str | None = None  # WebHook-Allowed-Origin as received (the same)


#: Called exactly once for every POST, on the event loop's thread, never from inside `post()` itself.
PostDone = Callable[[PostResult], None]
