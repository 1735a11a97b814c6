"""Verification of ownership: whether who runs an endpoint wants what a subscription would send there.

Three ways to ask, each through the same guarded sender as deliveries, with the endpoint's TLS and authentication; no
answer is a redirect that is followed:

- `challenge`: GET with `?challenge=<random>`; the body of a 2xx answer is the challenge, or JSON `{"challenge": it}`.
- `cloudevents`: OPTIONS with `WebHook-Request-Origin` (CloudEvents 1.0, HTTP webhooks, section 4). Consent is in the
  answer's header fields, whatever its status. The form with a callback is not asked for.
- `ping`: a signed POST of type `webhook.verify`; any 2xx answer.

What is found out is returned as data. This file writes nothing, tries once, and reads neither clock nor randomness.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urlsplit

import msgspec

from schemas.endpoint import url_hash
from schemas.errors import InvalidSubscriptionError
from schemas.post import PostResult
from schemas.subscription import RATE_LIMIT_MAX, Subscription
from streams.core.limits import parse_allowed_rate
from streams.requests import Outgoing

#: An endpoint that answers later than this would be a slow one anyway, and somebody waits.
TIMEOUT_MS = 10_000
CONTENT_TYPE = "application/json"
#: Of an answer that can be an echo; what senders keep of a body is more.
ECHO_BYTES_MAX = 512
#: Of `schemas.post.CAUSES`: what is as true later as it is now.
_LASTING = frozenset({"address_refused", "invalid_request"})
_PASSING_STATUSES = frozenset({408, 425, 429})


#: What goes to the endpoint of a subscription, by a method.
MakeOutgoing = Callable[[Subscription, str], Outgoing]


class Verified(msgspec.Struct, frozen=True):
    """The endpoint agreed; `rate` is the deliveries a second that it allows, 0 for any."""

    rate: float = 0.0


class Refused(msgspec.Struct, frozen=True):
    """It did not. `reason` is a sentence; `again` says whether asking later may help though nobody changes anything."""

    reason: str
    again: bool = False


async def verify(
    subscription: Subscription, make: MakeOutgoing, *, token: str, now_ms: int, origin: str
) -> Verified | Refused:
    """Ask the endpoint once, by the subscription's method.

    `token` is a random text of A-Z a-z 0-9 _ -, never used before; `origin` a name for this system (DNS).
    """
    # What may go to an endpoint that is not verified is what is asked here, so the lane's bars do not count.
    s = msgspec.structs.replace(subscription, timeout_ms=min(subscription.timeout_ms, TIMEOUT_MS))
    try:
        match s.verification:
            case "none":
                return Verified()
            case "challenge":
                separator = "&" if urlsplit(s.url).query else "?"
                asked = msgspec.structs.replace(s, url=f"{s.url.removesuffix('?')}{separator}challenge={token}")
                return _echoed(await _ask(make(asked, "GET"), []), token)
            case "cloudevents":
                headers = [("webhook-request-origin", origin)]
                if s.rate_limit:
                    headers.append(("webhook-request-rate", str(max(1, int(s.rate_limit * 60)))))
                return _consented(await _ask(make(s, "OPTIONS"), headers), origin)
            case "ping":
                return _accepted(await _ping(s, make(s, "POST"), token, now_ms))
    except (ValueError, InvalidSubscriptionError) as error:
        return Refused(str(error))


def confirmed(subscription: Subscription, result: Verified, now_ms: int) -> Subscription:
    """The subscription with its present URL verified, and the rate that the endpoint allows as a ceiling of its own."""
    rates = [rate for rate in (subscription.rate_limit, result.rate) if rate]
    return msgspec.structs.replace(
        subscription,
        verified_url=url_hash(subscription.url),
        rate_limit=min(rates, default=0.0),
        updated_ms=now_ms,
    )


async def _ping(s: Subscription, outgoing: Outgoing, token: str, now_ms: int) -> PostResult:
    moment = datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    document = {"type": "webhook.verify", "timestamp": moment, "data": {"subscription_id": s.id}}
    body = msgspec.json.encode(document)
    signed = [] if outgoing.locked else outgoing.signed(f"verify_{token}", CONTENT_TYPE, body, now_ms)
    return await _ask(outgoing, signed, body)


async def _ask(outgoing: Outgoing, headers: list[tuple[str, str]], body: bytes = b"") -> PostResult:
    if outgoing.locked:
        raise InvalidSubscriptionError(outgoing.locked)
    answer: asyncio.Future[PostResult] = asyncio.get_running_loop().create_future()

    def done(result: PostResult) -> None:
        if not answer.done():  # who asked may have been cancelled
            answer.set_result(result)

    outgoing.ask(headers, body, done)
    return await answer


def _echoed(result: PostResult, token: str) -> Verified | Refused:
    if refused := _failed(result):
        return refused
    echo = result.excerpt.strip() if len(result.excerpt) <= ECHO_BYTES_MAX else b""
    if echo.startswith(b"{"):
        try:
            echo = msgspec.json.decode(echo, type=_Echo).challenge.encode()
        except msgspec.DecodeError:
            echo = b""
    if not hmac.compare_digest(echo, token.encode()):
        return Refused("The endpoint did not answer with the challenge; its body must be what ?challenge= asked for.")
    return Verified()


class _Echo(msgspec.Struct):
    challenge: str


def _consented(result: PostResult, origin: str) -> Verified | Refused:
    if result.cause is not None:
        return _failed(result) or Verified()
    allowed = (result.allowed_origin or "").strip().lower()
    if allowed not in ("*", origin.lower()):
        said = f"allows {allowed[:80]!r}" if allowed else "has no WebHook-Allowed-Origin"
        passing = result.status >= 500 or result.status in _PASSING_STATUSES
        return Refused(f"The answer to OPTIONS {said}; it must be * or {origin}.", passing and not allowed)
    return Verified(min(parse_allowed_rate(result.allowed_rate) or 0.0, RATE_LIMIT_MAX))


def _accepted(result: PostResult) -> Verified | Refused:
    return _failed(result) or Verified()


def _failed(result: PostResult) -> Refused | None:
    """Why an answer is none, or not 2xx."""
    if result.cause is not None:
        return Refused(result.detail or result.cause, result.cause not in _LASTING)
    if 300 <= result.status < 400:
        return Refused(
            f"The endpoint redirects ({result.status}), which is never followed; subscribe where it leads to."
        )
    if not 200 <= result.status < 300:
        passing = result.status >= 500 or result.status in _PASSING_STATUSES
        return Refused(f"The endpoint answered with the status {result.status}; it must be 2xx.", passing)
    return None
