"""What a verified request becomes: an answer to a challenge, or events.

The body is JSON (an object, or an array where the provider posts several events at once) or a form, which becomes a
JSON object. This file verifies nothing (`schemas/signed_request.py` does, before) and publishes nothing.
"""

from __future__ import annotations

import base64
import datetime
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import orjson

from schemas.errors import UndecodableError
from schemas.event import TEXT_BYTES_MAX, Event, checked
from schemas.provider import Answer, Challenge, EventTime, Provider, reference
from schemas.signed_request import FORM, Refused, Request, Verified, form_fields
from schemas.subscription import EVENT_TYPE_LENGTH_MAX
from schemas.topics import EVENT_BYTES_MAX

ITEMS_MAX = 5_000  # events of one request
#: What is left of an event's record is for its other fields.
DATA_BYTES_MAX = EVENT_BYTES_MAX - (16 << 10)
DELIVERY_ID_BYTES_MAX = 256
#: What may be sent back: letters and digits of challenges. No markup, no quote, no brace: no answer of ours is a
#: script, and no HMAC that is given away is that of a JSON object.
_VALUE_PATTERN = re.compile(r"[A-Za-z0-9._~+/=-]{1,512}")
_NOT_IN_TYPE = re.compile(r"[^A-Za-z0-9_/:.-]+")
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_TIME_MS_MAX = 253_402_300_799_999


class _UnreadableError(Exception):
    """The body is nothing that a provider posts."""


class Document(NamedTuple):
    """A request, read: `data` is its JSON value, `form` the parameters if it was one."""

    data: Any
    raw: bytes
    form: Mapping[str, str]


def read(provider: Provider, request: Request) -> Document | Refused:
    """The body's JSON; Refused `unreadable` or `wrong_type` when it has none that a provider posts."""
    kind = request.content_type
    if not any(kind == each or (each.endswith("/json") and kind.endswith("+json")) for each in provider.content_types):
        return Refused("wrong_type", f"the content type {kind[:80]!r} is none of {', '.join(provider.content_types)}")
    try:
        return _read_form(provider, request.body) if kind == FORM else _read_json(request.body, {})
    except _UnreadableError as error:
        return Refused("unreadable", str(error))


def _read_json(raw: bytes, form: Mapping[str, str]) -> Document:
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _UnreadableError(f"the body is not JSON: {error}") from None
    if not isinstance(data, dict | list):
        raise _UnreadableError("the body is neither an object nor an array")
    return Document(data, raw, form)


def _read_form(provider: Provider, body: bytes) -> Document:
    try:
        pairs = list(dict.fromkeys(form_fields(body)))  # equal ones once: that is how Twilio signs them
    except ValueError as error:
        raise _UnreadableError(str(error)) from None
    form: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name, value in pairs:
        form.setdefault(name, value)
        before = values.get(name)
        values[name] = value if before is None else [*before, value] if isinstance(before, list) else [before, value]
    if provider.form_json and provider.form_json in form:
        return _read_json(form[provider.form_json].encode(), form)
    return Document(values, orjson.dumps(values), form)


# --- challenges ------------------------------------------------------------------------------------------------------


def challenge_answer(
    provider: Provider, request: Request, document: Document | None, secrets: Sequence[str]
) -> Answer | None:
    """The answer, if the request is a challenge. A POST must have been verified, and comes with its document."""
    for challenge in provider.challenges:
        if challenge.method == request.method and _is_asked(challenge, request, document):
            return _answer(challenge, request, document, secrets)
    return None


def _is_asked(challenge: Challenge, request: Request, document: Document | None) -> bool:
    data = document.data if document else None
    if any(_found(text, request, document, data) != wanted for text, wanted in challenge.when.items()):
        return False
    return not challenge.value or _value(challenge, request, document) is not None


def _value(challenge: Challenge, request: Request, document: Document | None) -> str | None:
    value = _found(challenge.value, request, document, document.data if document else None)
    return value if value is not None and _VALUE_PATTERN.fullmatch(value) else None


def _answer(challenge: Challenge, request: Request, document: Document | None, secrets: Sequence[str]) -> Answer | None:
    body = challenge.answer
    if challenge.value:
        value = _value(challenge, request, document)
        if value is None or ("{hmac" in body and not secrets):
            return None
        if "{hmac" in body:
            mac = hmac.digest(secrets[0].encode(), value.encode(), "sha256")
            body = body.replace("{hmac-hex}", mac.hex()).replace("{hmac-base64}", base64.b64encode(mac).decode())
        body = body.replace("{value}", value)
    return Answer(body=body, content_type=challenge.content_type)


# --- events ----------------------------------------------------------------------------------------------------------


def events(
    provider: Provider,
    request: Request,
    document: Document,
    verified: Verified,
    *,
    source_id: str,
    tenant: str,
    type_prefix: str,
    now_ms: int,
) -> list[Event] | Refused:
    """The events of a verified request, each with an id that it has on every retry: `<source>:<delivery id>`.

    Where the provider gives no id, it is the digest of what was signed. `type_prefix` takes the place of the provider's
    unless it is empty. The time is the event's own where it can be read, else that of signing, else now.
    """
    several = provider.batch and isinstance(document.data, list)
    items = document.data if several else [document.data]
    if len(items) > ITEMS_MAX:
        return Refused("unreadable", f"it holds {len(items)} events, more than {ITEMS_MAX}")
    raws = _raws.decode(document.raw) if several else []  # as they were written: numbers keep every digit
    found = []
    for index, item in enumerate(items):
        if several and not isinstance(item, dict):
            return Refused("unreadable", f"item {index} of the array is not an object")
        delivery = _first(provider.id, request, document, item)
        if delivery is None or len(delivery.encode()) > DELIVERY_ID_BYTES_MAX or not delivery.isprintable():
            delivery = f"{verified.digest}.{index}" if several else verified.digest
        signed_ms = verified.signed_ms if verified.signed_ms is not None else now_ms
        time_ms = _time(provider.time, request, document, item)
        event = Event(
            id=f"{source_id}:{delivery}",
            type=_type(provider, request, document, item, type_prefix or provider.type.prefix),
            tenant=tenant,
            time_ms=signed_ms if time_ms is None else time_ms,
            data=bytes(raws[index]) if several else document.raw.strip(),
            subject=(_first(provider.subject, request, document, item) or "")[:TEXT_BYTES_MAX] or None,
            source=f"/sources/{source_id}",
        )
        if len(event.data) > DATA_BYTES_MAX:
            return Refused("unreadable", f"item {index} has more than {DATA_BYTES_MAX} bytes")
        try:
            found.append(checked(event))
        except UndecodableError as error:
            return Refused("unreadable", f"item {index}: {error.detail}")
    return found


def _type(provider: Provider, request: Request, document: Document, item: Any, prefix: str) -> str:
    rule = provider.type
    text = _first(rule.references, request, document, item)
    name = _segments(text, rule.dots) if text else ""
    if not name:
        return f"{prefix}{rule.default}"
    then = _first((rule.then,), request, document, item) if rule.then else None
    more = _segments(then, rule.dots) if then else ""
    return f"{prefix}{name}.{more}"[:EVENT_TYPE_LENGTH_MAX].rstrip(".") if more else f"{prefix}{name}"


def _segments(text: str, dots: str) -> str:
    """Dotted segments of what a provider calls it: other characters become `_`, empty segments go."""
    for character in dots:
        text = text.replace(character, ".")
    text = _NOT_IN_TYPE.sub("_", text[: EVENT_TYPE_LENGTH_MAX // 2])
    return ".".join(filter(None, text.split(".")))


def _time(rule: EventTime | None, request: Request, document: Document, item: Any) -> int | None:
    text = _first(rule.references, request, document, item) if rule is not None else None
    if rule is None or text is None:
        return None
    try:
        if rule.unit == "rfc3339":
            moment = datetime.datetime.fromisoformat(text)
            time_ms = int(moment.timestamp() * 1000) if moment.tzinfo is not None else -1
        else:
            time_ms = int(float(text) * 1000) if rule.unit == "s" else int(text)
    except (ValueError, OverflowError):
        return None
    return time_ms if 0 <= time_ms <= _TIME_MS_MAX else None


def _first(references: Sequence[str], request: Request, document: Document | None, item: Any) -> str | None:
    return next((found for text in references if (found := _found(text, request, document, item))), None)


def _found(text: str, request: Request, document: Document | None, item: Any) -> str | None:
    """What a reference refers to, as text; None for nothing, and for what is no text or number."""
    kind, path = reference(text)
    match kind:
        case "header":
            values = request.all(path[0])
            return values[0] if len(values) == 1 and values[0].isprintable() else None
        case "query":
            found = request.query(path[0])
            return found[0] if len(found) == 1 else None
        case "form":
            return document.form.get(path[0]) if document else None
        case "json":
            for name in path:
                item = item.get(name) if isinstance(item, dict) else None
            return None if isinstance(item, bool) or not isinstance(item, str | int | float) else str(item)
