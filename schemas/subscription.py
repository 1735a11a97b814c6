"""A subscription: who wants which events, and the endpoint they go to.

Decoding and validation of the value on the `subscriptions` topic, as Avro or as a JSON object with the same field names.
This file does not match (`streams/core/match.py`), does not resolve names or addresses (`connectors/address_guard.py`), and
does not know where the bytes come from.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from schemas.errors import InvalidSubscriptionError

#: Standard Webhooks 1.0, "Retry schedule": delays after the failed attempt before each next one, in milliseconds.
STANDARD_RETRY_SCHEDULE_MS: tuple[int, ...] = tuple(
    seconds * 1000
    for seconds in (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
)

ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")
TENANT_PATTERN = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
#: An event type: dotted segments without white space. Wide enough for reverse-DNS CloudEvents types.
EVENT_TYPE_PATTERN = re.compile(r"[A-Za-z0-9_/:-]+(\.[A-Za-z0-9_/:-]+)*")
EVENT_TYPE_LENGTH_MAX = 256
HEADER_NAME_PATTERN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")  # RFC 9110, 5.6.2: token
HEADER_VALUE_PATTERN = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,4096}")  # RFC 9110, 5.5: no CR, LF, NUL

#: Headers that the engine writes itself; a subscription must not.
RESERVED_HEADERS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection", "expect", "te",
                              "trailer", "upgrade", "keep-alive", "proxy-connection"})

EVENT_TYPES_MAX = 100
HEADERS_MAX = 50
SECRETS_MAX = 5
RETRIES_MAX = 50
RETRY_DELAY_MS_MAX = 7 * 24 * 3600 * 1000  # the retention of a retry tier
URL_LENGTH_MAX = 2048
TIMEOUT_MS_MAX = 120_000
IN_FLIGHT_MAX = 1_000

State = Literal["active", "paused", "disabled"]
PayloadFormat = Literal["standard", "data"]


class Subscription(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """One subscription; field for field `schemas/avro/subscription.v1.avsc`.

    Times are milliseconds since the epoch, 0 when not known. `retry_schedule_ms` holds the delays between attempts, so an
    endpoint gets `len(retry_schedule_ms) + 1` attempts at most. `reject_statuses` are answered with no further attempt
    (410 always is).
    """

    id: str
    url: str
    event_types: tuple[str, ...]
    secrets: tuple[str, ...] = msgspec.field(default=())
    tenant: str = "default"
    format: PayloadFormat = "standard"
    headers: dict[str, str] = {}
    retry_schedule_ms: tuple[int, ...] = STANDARD_RETRY_SCHEDULE_MS
    reject_statuses: tuple[int, ...] = ()
    timeout_ms: int = 15_000
    max_in_flight: int = 8
    state: State = "active"
    description: str = ""
    created_ms: int = 0
    updated_ms: int = 0

    def __repr__(self) -> str:
        """Without the secrets and headers: a repr ends up in logs."""
        return f"Subscription({self.id!r}, tenant={self.tenant!r}, url={self.url!r}, state={self.state!r})"


_json_decoder = msgspec.json.Decoder(Subscription)


def subscription_from_json(value: bytes | str) -> Subscription:
    """Decode and validate a JSON object; InvalidSubscriptionError names what is wrong with it."""
    try:
        return checked(_json_decoder.decode(value))
    except msgspec.ValidationError as error:
        raise InvalidSubscriptionError(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidSubscriptionError(f"not a JSON object: {error}") from None


def subscription_from_fields(fields: dict[str, object]) -> Subscription:
    """The same for a decoded Avro record."""
    try:
        return checked(msgspec.convert(fields, Subscription, strict=True))
    except msgspec.ValidationError as error:
        raise InvalidSubscriptionError(str(error)) from None


def subscription_to_json(subscription: Subscription) -> bytes:
    """One compact JSON object; fields at their default are left out."""
    return msgspec.json.encode(subscription)


def checked(subscription: Subscription) -> Subscription:
    """The subscription itself when every rule of its fields holds; InvalidSubscriptionError otherwise."""
    s = subscription
    _require(ID_PATTERN.fullmatch(s.id), f"id: {s.id!r} is not 1 to 64 characters of A-Z a-z 0-9 _ -")
    _require(TENANT_PATTERN.fullmatch(s.tenant), f"tenant: {s.tenant!r} is not 1 to 128 characters of A-Z a-z 0-9 _ . : -")
    check_url(s.url)
    _require(0 < len(s.event_types) <= EVENT_TYPES_MAX, f"event_types: between 1 and {EVENT_TYPES_MAX} are needed")
    for pattern in s.event_types:
        check_event_type_pattern(pattern)
    _require(0 < len(s.secrets) <= SECRETS_MAX, f"secrets: between 1 and {SECRETS_MAX} are needed (whsec_...)")
    for secret in s.secrets:
        secret_key(secret)
    _require(len(s.headers) <= HEADERS_MAX, f"headers: more than {HEADERS_MAX}")
    for name, text in s.headers.items():
        check_header(name, text)
    _require(len(s.retry_schedule_ms) <= RETRIES_MAX, f"retry_schedule_ms: more than {RETRIES_MAX} delays")
    _require(
        all(0 <= delay <= RETRY_DELAY_MS_MAX for delay in s.retry_schedule_ms),
        f"retry_schedule_ms: a delay is not between 0 and {RETRY_DELAY_MS_MAX}",
    )
    _require(all(300 <= status <= 599 for status in s.reject_statuses), "reject_statuses: not between 300 and 599")
    _require(0 < s.timeout_ms <= TIMEOUT_MS_MAX, f"timeout_ms: not between 1 and {TIMEOUT_MS_MAX}")
    _require(0 < s.max_in_flight <= IN_FLIGHT_MAX, f"max_in_flight: not between 1 and {IN_FLIGHT_MAX}")
    return subscription


def check_url(url: str) -> None:
    """An absolute http or https URL with a host and without credentials or fragment; else InvalidSubscriptionError."""
    _require(len(url) <= URL_LENGTH_MAX, f"url: longer than {URL_LENGTH_MAX} characters")
    _require(url.isascii() and url.isprintable() and " " not in url, "url: white space, control or non-ASCII characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidSubscriptionError(f"url: {error}") from None
    _require(parts.scheme in ("http", "https"), f"url: {url!r} does not start with https:// or http://")
    _require(parts.hostname, f"url: {url!r} has no host")
    _require(port is None or port > 0, "url: port 0")
    _require("@" not in parts.netloc, "url: credentials do not belong into a URL; use headers")
    _require(not parts.fragment, "url: a fragment is never sent")


def check_event_type(event_type: str) -> None:
    """InvalidSubscriptionError for anything but an exact event type."""
    _require(
        len(event_type) <= EVENT_TYPE_LENGTH_MAX and EVENT_TYPE_PATTERN.fullmatch(event_type),
        f"event_types: {event_type!r} is neither an event type, nor a prefix with .*, nor *",
    )


def check_event_type_pattern(pattern: str) -> None:
    """`*` is every type; `order.*` is every type that starts with `order.`; else an exact type."""
    if pattern != "*":
        check_event_type(pattern.removesuffix(".*"))


def check_header(name: str, text: str) -> None:
    """A header that a subscription may add to its deliveries; else InvalidSubscriptionError."""
    lower = name.lower()
    _require(HEADER_NAME_PATTERN.fullmatch(name), f"headers: {name!r} is not a header name")
    _require(
        lower not in RESERVED_HEADERS and not lower.startswith("webhook-"), f"headers: {name!r} is written by the engine"
    )
    _require(HEADER_VALUE_PATTERN.fullmatch(text), f"headers: the value of {name!r} holds a control character or is too long")


def secret_key(secret: str) -> bytes:
    """The key bytes of a `whsec_` secret (Standard Webhooks 1.0: base64 of 24 to 64 bytes); never quoted in an error."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    _require(
        secret.startswith("whsec_") and 24 <= len(key) <= 64, "secrets: not whsec_ followed by base64 of 24 to 64 bytes"
    )
    return key


def _require(condition: object, sentence: str) -> None:
    if not condition:
        raise InvalidSubscriptionError(sentence)
