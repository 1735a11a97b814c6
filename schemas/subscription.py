"""A subscription: who wants which events, and the endpoint they go to.

Decoding and validation of the value on the `subscriptions` topic, as Avro or as a JSON object with the same
field names. This file does not match (`streams/core/match.py`), does not resolve names or addresses
(`connectors/address_guard.py`), and does not know where the bytes come from.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, NoReturn
from urllib.parse import urlsplit

import msgspec
import orjson

from schemas.credentials import (
    DEFAULT_SIGNATURES,
    OAuth2,
    Signature,
    Verification,
    auth_text,
    check_secrets,
    check_signatures,
    parse_auth,
    parse_tls,
    tls_text,
)
from schemas.endpoint import url_hash
from schemas.errors import InvalidFilterError, InvalidSubscriptionError, InvalidTransformError
from schemas.filter_parse import parse_pattern
from schemas.subjects import LATEST
from schemas.transform import compile_transform

#: Standard Webhooks 1.0, "Retry schedule": delays from a failed attempt to the next one, in milliseconds.
STANDARD_RETRY_SCHEDULE_MS: tuple[int, ...] = tuple(
    seconds * 1000 for seconds in (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
)

ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")
TENANT_PATTERN = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
#: An event type: dotted segments without white space. Wide enough for reverse-DNS CloudEvents types.
EVENT_TYPE_PATTERN = re.compile(r"[A-Za-z0-9_/:-]+(\.[A-Za-z0-9_/:-]+)*")
EVENT_TYPE_LENGTH_MAX = 256
HEADER_NAME_PATTERN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")  # RFC 9110, 5.6.2: token
HEADER_VALUE_PATTERN = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,4096}")  # RFC 9110, 5.5: no CR, LF, NUL

#: Headers that the engine writes itself; a subscription must not.
RESERVED_HEADERS = frozenset(
    {
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

EVENT_TYPES_MAX = 100
HEADERS_MAX = 50
RETRIES_MAX = 50
RETRY_DELAY_MS_MAX = 7 * 24 * 3600 * 1000  # the retention of a retry tier
URL_LENGTH_MAX = 2048
TIMEOUT_MS_MAX = 120_000
IN_FLIGHT_MAX = 1_000
RATE_LIMIT_MIN, RATE_LIMIT_MAX = 0.001, 100_000.0  # deliveries a second
BATCH_MAX = 1_000
BATCH_WAIT_MS_MAX = 60_000
DISABLE_AFTER_MS_MAX = 365 * 24 * 3600 * 1000
SCHEMA_VERSION_MAX = 2**31 - 1
URL_HASH_PATTERN = re.compile(r"[0-9a-f]{16}")
CONTENT_TYPE_LENGTH_MAX = 256
#: RFC 9110, 8.3.1, with `{version}` wherever a token may stand.
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~{}-]+"
CONTENT_TYPE_PATTERN = re.compile(rf"{_TOKEN}/(?P<subtype>{_TOKEN})( *; *{_TOKEN}=({_TOKEN}|\"[ !#-\[\]-~]*\"))*")
#: Formats whose body stands for one event and nothing else: no batch is made of them.
SINGLE_FORMATS = frozenset({"cloudevents_binary", "cloudevents_structured", "avro"})
#: Formats that do not carry the event's data as JSON: there is nothing in them to project.
UNTRANSFORMED_FORMATS = frozenset({"avro", "thin"})

State = Literal["active", "paused", "disabled"]
PayloadFormat = Literal[
    "standard", "data", "cloudevents_binary", "cloudevents_structured", "cloudevents_batch", "avro", "thin"
]
OrderingKey = Literal["subject", "type", "endpoint"]


class Subscription(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """One subscription; field for field `schemas/avro/subscription.v4.avsc`.

    Times are milliseconds since the epoch, 0 when not known. `retry_schedule_ms` holds the delays between
    attempts, so an endpoint gets `len(retry_schedule_ms) + 1` attempts at most. `reject_statuses` lead to no
    further attempt (410 never does). `rate_limit` is deliveries a second, 0 for none. With `ordered`, events of
    the same `ordering_key` arrive in order; with a `batch_max` above 1, up to so many events make one POST, which
    waits `batch_wait_ms` for them. After `disable_after_ms` of nothing but failures the endpoint is disabled; 0 is
    never.

    `filter` is the JSON text of a pattern, `transform` a JMESPath expression, both empty for none. `schema_version` is
    the version of the event's schema that its data is sent in: 0 as written, `LATEST` the newest. `content_type` takes
    the place of the format's. On the JSON form, `filter` is the pattern itself and `schema_version` may be `"latest"`.

    `secrets_expire_ms` belongs to `secrets` by position: no signature is made with one from then on; missing or 0 is
    never. `auth` and `tls` are JSON text (`schemas/credentials.py`), objects on the JSON form, and what is secret in
    them, and in `secrets`, may be sealed (`schemas/sealing.py`). `verified_url` is the hash of the URL that was last
    verified as `verification` asks.
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
    rate_limit: float = 0.0
    ordered: bool = False
    ordering_key: OrderingKey = "subject"
    batch_max: int = 1
    batch_wait_ms: int = 0
    adaptive_in_flight: bool = False
    disable_after_ms: int = 432_000_000
    filter: str = ""
    transform: str = ""
    schema_version: int = 0
    content_type: str = ""
    secrets_expire_ms: tuple[int, ...] = ()
    signatures: tuple[Signature, ...] = DEFAULT_SIGNATURES
    auth: str = ""
    tls: str = ""
    verification: Verification = "none"
    verified_url: str = ""

    @property
    def never_verified(self) -> bool:
        """Nothing is made for it, since its owner has never shown that the endpoint is theirs."""
        return self.verification != "none" and not self.verified_url

    @property
    def unverified(self) -> bool:
        """Nothing may be sent to its URL: it is not the one that was verified."""
        return self.verification != "none" and self.verified_url != url_hash(self.url)

    def __repr__(self) -> str:
        """Without the secrets and headers: a repr ends up in logs."""
        return f"Subscription({self.id!r}, tenant={self.tenant!r}, url={self.url!r}, state={self.state!r})"


_json_decoder = msgspec.json.Decoder(Subscription)
_any_decoder = msgspec.json.Decoder(dict[str, Any])
_raw_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
#: The fields whose JSON is not that of their Avro.
_JSON_FORMS = (b'"filter"', b'"schema_version"', b'"auth"', b'"tls"')
_QUOTED = re.compile(r"^Invalid (?:enum )?value '.*'", re.DOTALL)
#: Those that are an object in JSON and its text in Avro.
_OBJECTS = ("filter", "auth", "tls")


def subscription_from_json(value: bytes | str) -> Subscription:
    """Decode and validate a JSON object; InvalidSubscriptionError names what is wrong with it."""
    raw = value.encode() if isinstance(value, str) else value
    try:
        if any(name in raw for name in _JSON_FORMS):  # the few that have them pay for both steps
            return subscription_from_fields(_plain(raw))
        return checked(_sharing(_json_decoder.decode(raw)))
    except msgspec.ValidationError as error:
        raise InvalidSubscriptionError(_said(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidSubscriptionError(f"not a JSON object: {error}") from None


def _plain(value: bytes) -> dict[str, Any]:
    """The JSON form's fields as the record has them."""
    fields = _any_decoder.decode(value)
    if fields.get("schema_version") == "latest":
        fields["schema_version"] = LATEST
    if objects := [name for name in _OBJECTS if isinstance(fields.get(name), dict)]:
        raw = _raw_decoder.decode(value)  # as it is written: a pattern's numbers keep every digit
        for name in objects:
            fields[name] = bytes(raw[name]).decode()
    return fields


def subscription_from_fields(fields: dict[str, object]) -> Subscription:
    """The same for a decoded Avro record."""
    try:
        return checked(_sharing(msgspec.convert(fields, Subscription, strict=True)))
    except msgspec.ValidationError as error:
        raise InvalidSubscriptionError(_said(error)) from None


def _said(error: msgspec.ValidationError) -> str:
    """msgspec's sentence without the value that it quotes: it may be a secret in the wrong field."""
    return _QUOTED.sub("Invalid value", str(error))


def subscription_to_json(subscription: Subscription) -> bytes:
    """One compact JSON object; fields at their default are left out."""
    s = subscription
    if not (s.filter or s.schema_version == LATEST or s.auth or s.tls):
        return msgspec.json.encode(subscription)
    return orjson.dumps(json_form(msgspec.to_builtins(subscription)))


def json_form(fields: dict[str, Any]) -> dict[str, Any]:
    """The record's fields for orjson to write, with objects in place of their texts and `"latest"` in words."""
    fields = dict(fields)
    for name in _OBJECTS:
        if fields.get(name) and isinstance(fields[name], str):
            fields[name] = orjson.Fragment(fields[name])
    if fields.get("schema_version") == LATEST:
        fields["schema_version"] = "latest"
    return fields


#: Numbers that are equal in most subscriptions, while Avro makes a new object of each.
_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Subscription)}
_TIMEOUT_MS: int = _DEFAULTS["timeout_ms"]
_RATE_LIMIT: float = _DEFAULTS["rate_limit"]
_DISABLE_AFTER_MS: int = _DEFAULTS["disable_after_ms"]


def _sharing(subscription: Subscription) -> Subscription:
    """The subscription, with what is equal in many of them held once: half of the memory of what was Avro.

    To be called before anyone else has seen the value.
    """
    s, share = subscription, msgspec.structs.force_setattr
    share(s, "tenant", sys.intern(s.tenant))
    share(s, "event_types", tuple(map(sys.intern, s.event_types)))
    if s.retry_schedule_ms == STANDARD_RETRY_SCHEDULE_MS:
        share(s, "retry_schedule_ms", STANDARD_RETRY_SCHEDULE_MS)
    if s.timeout_ms == _TIMEOUT_MS:
        share(s, "timeout_ms", _TIMEOUT_MS)
    if s.rate_limit == _RATE_LIMIT:
        share(s, "rate_limit", _RATE_LIMIT)
    if s.disable_after_ms == _DISABLE_AFTER_MS:
        share(s, "disable_after_ms", _DISABLE_AFTER_MS)
    if s.updated_ms == s.created_ms:
        share(s, "updated_ms", s.created_ms)
    if s.filter:
        share(s, "filter", canonical_filter(s.filter))
    if s.transform:
        share(s, "transform", sys.intern(s.transform))
    if s.signatures == DEFAULT_SIGNATURES:
        share(s, "signatures", DEFAULT_SIGNATURES)
    if s.auth:
        share(s, "auth", auth_text(parse_auth(s.auth)))
    if s.tls:
        share(s, "tls", tls_text(parse_tls(s.tls)))
    return s


def checked(subscription: Subscription) -> Subscription:
    """The subscription itself when every rule of its fields holds; InvalidSubscriptionError otherwise."""
    s = subscription
    if not ID_PATTERN.fullmatch(s.id):
        _refuse(f"id: {s.id!r} is not 1 to 64 characters of A-Z a-z 0-9 _ -")
    if not TENANT_PATTERN.fullmatch(s.tenant):
        _refuse(f"tenant: {s.tenant!r} is not 1 to 128 characters of A-Z a-z 0-9 _ . : -")
    check_url(s.url)
    if not 0 < len(s.event_types) <= EVENT_TYPES_MAX:
        _refuse(f"event_types: between 1 and {EVENT_TYPES_MAX} are needed")
    for pattern in s.event_types:
        check_event_type_pattern(pattern)
    check_secrets(s.secrets, s.secrets_expire_ms)
    if len(s.headers) > HEADERS_MAX:
        _refuse(f"headers: more than {HEADERS_MAX}")
    for name, text in s.headers.items():
        check_header(name, text)
    schedule = s.retry_schedule_ms
    if len(schedule) > RETRIES_MAX:
        _refuse(f"retry_schedule_ms: more than {RETRIES_MAX} delays")
    if schedule and not (min(schedule) >= 0 and max(schedule) <= RETRY_DELAY_MS_MAX):
        _refuse(f"retry_schedule_ms: a delay is not between 0 and {RETRY_DELAY_MS_MAX}")
    if not all(300 <= status <= 599 for status in s.reject_statuses):
        _refuse("reject_statuses: not between 300 and 599")
    if not 0 < s.timeout_ms <= TIMEOUT_MS_MAX:
        _refuse(f"timeout_ms: not between 1 and {TIMEOUT_MS_MAX}")
    if not 0 < s.max_in_flight <= IN_FLIGHT_MAX:
        _refuse(f"max_in_flight: not between 1 and {IN_FLIGHT_MAX}")
    if s.rate_limit != 0 and not RATE_LIMIT_MIN <= s.rate_limit <= RATE_LIMIT_MAX:
        _refuse(f"rate_limit: neither 0 (no limit) nor {RATE_LIMIT_MIN:g} to {RATE_LIMIT_MAX:,.0f} deliveries a second")
    if not 0 < s.batch_max <= BATCH_MAX:
        _refuse(f"batch_max: not between 1 and {BATCH_MAX}")
    if not 0 <= s.batch_wait_ms <= BATCH_WAIT_MS_MAX:
        _refuse(f"batch_wait_ms: not between 0 and {BATCH_WAIT_MS_MAX}")
    if not 0 <= s.disable_after_ms <= DISABLE_AFTER_MS_MAX:
        _refuse(f"disable_after_ms: neither 0 (never) nor up to {DISABLE_AFTER_MS_MAX} (365 days)")
    if s.ordered and s.batch_max > 1:
        _refuse("ordered and batched cannot be combined yet: set batch_max to 1, or ordered to false")
    if s.batch_max > 1 and s.format in SINGLE_FORMATS:
        _refuse(f"format: no batch can be made of {s.format}: set batch_max to 1, or format to cloudevents_batch")
    if s.filter:
        canonical_filter(s.filter)
    if s.transform:
        check_transform(s.transform, s.format)
    if not LATEST <= s.schema_version <= SCHEMA_VERSION_MAX:
        _refuse('schema_version: neither 0 (as written), nor "latest", nor the number of a version')
    if s.content_type:
        check_content_type(s.content_type, s.format)
    if s.signatures is not DEFAULT_SIGNATURES:
        check_signatures(s.signatures, s.secrets, s.headers)
    if s.auth:
        check_auth(s.auth, s.headers)
    if s.tls:
        parse_tls(s.tls)
        if s.url[:6].lower() != "https:":
            _refuse("tls: the url does not start with https://")
    if s.verified_url and not URL_HASH_PATTERN.fullmatch(s.verified_url):
        _refuse("verified_url: not the 16 hexadecimal digits of a URL's hash; leave it out")
    return subscription


@lru_cache(maxsize=10_000)
def canonical_filter(text: str) -> str:
    """The pattern's canonical text, which equal patterns have in common; InvalidSubscriptionError with the place."""
    try:
        return parse_pattern(text).text
    except InvalidFilterError as error:
        _refuse(f"filter: {error}")


def check_auth(text: str, headers: Mapping[str, str]) -> None:
    """InvalidSubscriptionError when `auth` breaks a rule, or the headers say who is asking as well."""
    auth = parse_auth(text)
    if any(name.lower() == "authorization" for name in headers):
        _refuse("auth: headers hold an Authorization too; keep one of them")
    if isinstance(auth, OAuth2):
        try:
            check_url(auth.token_url)
        except InvalidSubscriptionError as error:
            _refuse(f"auth.token_{error}")


def check_transform(text: str, payload_format: PayloadFormat) -> None:
    """InvalidSubscriptionError with the place when the text is no expression, or has nothing to work on."""
    if payload_format in UNTRANSFORMED_FORMATS:
        _refuse(f"transform: the format {payload_format} carries no JSON data to transform; choose another, or none")
    try:
        compile_transform(text)
    except InvalidTransformError as error:
        _refuse(f"transform: {error}")


def check_content_type(text: str, payload_format: PayloadFormat) -> None:
    """A media type that may take the place of the format's; else InvalidSubscriptionError.

    What is JSON must go on to say so, since batches are made by it; the content type of CloudEvents' structured modes
    is how a receiver knows them (HTTP protocol binding 1.0.2, section 3.2).
    """
    shape = CONTENT_TYPE_PATTERN.fullmatch(text)
    if shape is None or len(text) > CONTENT_TYPE_LENGTH_MAX or re.search(r"[{}]", text.replace("{version}", "")):
        _refuse(f"content_type: {text[:80]!r} is not a media type, such as application/vnd.acme.v{{version}}+json")
    if payload_format in ("cloudevents_structured", "cloudevents_batch"):
        _refuse(f"content_type: that of {payload_format} is how receivers know it; leave content_type out")
    subtype = shape["subtype"].lower()
    if (payload_format == "avro") == (subtype == "json" or subtype.endswith("+json")):
        said = "Avro is not JSON" if payload_format == "avro" else "JSON must be application/json or end with +json"
        _refuse(f"content_type: {said}")


#: What nearly every URL looks like: no port, no brackets, no fragment. Whatever it matches keeps all rules of
#: `_check_parts`, at a tenth of its cost.
_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9.-]+(?:[/?][!-\"$-~]*)?")


def check_url(url: str) -> None:
    """An absolute http(s) URL with a host, without credentials or fragment; else InvalidSubscriptionError."""
    if len(url) > URL_LENGTH_MAX:
        _refuse(f"url: longer than {URL_LENGTH_MAX} characters")
    if not _PLAIN_URL.fullmatch(url):
        _check_parts(url)


def _check_parts(url: str) -> None:
    if not (url.isascii() and url.isprintable()) or " " in url:
        _refuse("url: white space, control or non-ASCII characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        _refuse(f"url: {error}")
    if "@" in parts.netloc:  # first, since the other sentences quote the URL
        _refuse("url: credentials do not belong into a URL; use headers")
    if parts.scheme not in ("http", "https"):
        _refuse(f"url: {url!r} does not start with https:// or http://")
    if not parts.hostname:
        _refuse(f"url: {url!r} has no host")
    if port == 0:
        _refuse("url: port 0")
    if parts.fragment:
        _refuse("url: a fragment is never sent")


def check_event_type(event_type: str) -> None:
    """InvalidSubscriptionError for anything but an exact event type."""
    if len(event_type) > EVENT_TYPE_LENGTH_MAX or not EVENT_TYPE_PATTERN.fullmatch(event_type):
        _refuse(f"event_types: {event_type!r} is neither an event type, nor a prefix with .*, nor *")


def check_event_type_pattern(pattern: str) -> None:
    """`*` is every type; `order.*` is every type that starts with `order.`; else an exact type."""
    if pattern != "*":
        check_event_type(pattern.removesuffix(".*"))


def check_header(name: str, text: str) -> None:
    """A header that a subscription may add to its deliveries; else InvalidSubscriptionError."""
    lower = name.lower()
    if not HEADER_NAME_PATTERN.fullmatch(name):
        _refuse(f"headers: {name!r} is not a header name")
    if lower in RESERVED_HEADERS or lower.startswith("webhook-"):
        _refuse(f"headers: {name!r} is written by the engine")
    if not HEADER_VALUE_PATTERN.fullmatch(text):
        _refuse(f"headers: the value of {name!r} holds a control character or is too long")


def _refuse(sentence: str) -> NoReturn:
    raise InvalidSubscriptionError(sentence)
