"""What to look at when a POST failed or a delivery was given up: one sentence for each cause, status and reason.

For people who look at dead letters. This file decides nothing.
"""

from __future__ import annotations

#: By the cause of an attempt without a response.
CAUSES: dict[str, str] = {
    "address_refused": "the address guard does not allow this address; look at the URL and the guard's settings",
    "connect_failed": "nothing answers there; look at the endpoint's server and firewall",
    "dns_failed": "the name does not resolve; look at the URL",
    "invalid_request": "a header or the URL must not be sent; correct the subscription",
    "malformed_response": "what answers is no HTTP/1.1; look at the endpoint's proxy",
    "reset": "the connection ended before the response did; look at the endpoint's logs",
    "response_too_large": "its response headers are too large; look at the endpoint",
    "shutdown": "the worker stopped meanwhile; there is nothing to do",
    "timeout": "it did not answer in time; let it answer before it works, or raise the subscription's timeout_ms",
    "tls_failed": "look at the endpoint's certificate chain, and at the subscription's tls",
    "token_failed": "its OAuth2 token endpoint gave no token; look at the subscription's auth",
}
#: By status; a class of them where the status has none of its own.
STATUSES: dict[int, str] = {
    301: "redirects are not followed; write the new address into the subscription",
    401: "it does not take the credentials; look at the subscription's auth and secrets",
    403: "it refuses the request; look at its access rules and the subscription's auth",
    404: "there is nothing at this path; look at the URL",
    410: "it asked for no more; enable the endpoint when that was a mistake",
    413: "the payload is too large for it; raise its limit, or send less by a transform",
    429: "it was sent too much at once; give the subscription a rate limit",
    3: "redirects are not followed; write the new address into the subscription",
    4: "it refuses the request; look at what it says, and at its logs",
    5: "it failed; look at its logs",
}
#: By the reason of a dead letter, for those that are about no attempt.
REASONS: dict[str, str] = {
    "disabled": "the subscription or its endpoint is disabled; enable it, then retry",
    "expired": "it was parked for too long; resume the subscription, then retry",
    "invalid_endpoint": "the URL or a header must not be used; correct the subscription, then retry",
    "transform_failed": "the subscription's transform gives nothing for this event; correct it, then retry",
    "unresolvable": "the event cannot be read as the version that is asked for; correct schema_version or the schema, "
    "then retry",
}


def attempt_hint(status: int, cause: str) -> str:
    """Of an attempt; empty for one that succeeded, or of which nothing is known."""
    if status:
        return STATUSES.get(status) or STATUSES.get(status // 100, "")
    return CAUSES.get(cause, "")


def dead_hint(reason: str, status: int, cause: str) -> str:
    """Of a dead letter with this last attempt; both 0 and empty when there was none."""
    return REASONS.get(reason) or attempt_hint(status, cause)
