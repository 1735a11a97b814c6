"""An event, in the form that fan-out works on, and how both forms on the topic become it.

Either the `Event` envelope (any version, by its record name), or any Avro record with the headers of CloudEvents' Kafka
binding (`ce_id`, `ce_type`, ...; binary content mode). This file does not look up schemas and does not match.
"""

from __future__ import annotations

import datetime

import msgspec
import orjson

from schemas import codec
from schemas.codec import put_bytes, put_long, put_string
from schemas.errors import InvalidSubscriptionError, UndecodableError, UnresolvableError
from schemas.frame import Headers
from schemas.ids import EVENT_ID_BYTES_MAX
from schemas.rendering import render_json
from schemas.resolution import Resolver
from schemas.subscription import TENANT_PATTERN, check_event_type
from schemas.trace_context import TRACEPARENT, TRACESTATE, usable_tracestate

DEFAULT_TENANT = "default"
ENVELOPE_NAME = "distributary.Event"
TEXT_BYTES_MAX = 1024  # of subject, traceparent and source


class Event(msgspec.Struct, frozen=True, gc=False):
    """One application event. `data` is one JSON value as UTF-8; `time_ms` is milliseconds since the epoch.

    `hop` is what deliveries carry in place of `traceparent`, which is where the event came from: CloudEvents say the
    latter whatever happened since (their extension for distributed tracing).
    """

    id: str
    type: str
    tenant: str
    time_ms: int
    data: bytes
    subject: str | None = None
    traceparent: str | None = None
    source: str | None = None
    tracestate: str | None = None
    hop: str | None = None


class EnvelopeDecoder:
    """Decodes envelopes written with any version of the schema, by Avro's writer to reader resolution."""

    def __init__(self, writer_schema: str) -> None:
        """ValueError when the schema cannot be read as an Event."""
        self._writer = codec.parse_schema(writer_schema, logical_types=False)
        # Resolution costs fastavro half again as much: it is left out where there is nothing to resolve.
        self._reader = None if self._writer in _OWN else _READER

    def decode(self, value: bytes, headers: Headers | None, timestamp_ms: int) -> Event:
        """An event; UndecodableError with `truncated`, `avro`, `no_id`, `bad_type`, `bad_field` or `bad_data`."""
        fields = codec.decode(value, self._writer, self._reader)
        traceparent, tracestate = fields.get("traceparent"), None
        if headers:
            traceparent, tracestate = _trace_of(traceparent, headers)
        event = Event(
            fields["id"],
            fields["type"],
            fields["tenant"],
            fields["time"],
            fields["data"],
            fields.get("subject"),
            traceparent,
            fields.get("source"),
            tracestate,
        )
        checked(event)
        try:
            orjson.loads(event.data)
        except orjson.JSONDecodeError as error:
            raise UndecodableError("bad_data", f"data is not JSON: {error}") from None
        return event


class CloudEventDecoder:
    """Decodes any Avro record with `ce_*` headers (CloudEvents Kafka protocol binding 1.0.2, binary content mode)."""

    def __init__(self, writer_schema: str) -> None:
        """ValueError when it is no valid Avro schema."""
        self._resolver = Resolver(writer_schema)

    def decode(self, value: bytes, headers: Headers | None, timestamp_ms: int) -> Event:
        """An event; UndecodableError as above, and `not_an_event` without the headers that make it one."""
        attributes = cloud_event_attributes(headers)
        if not attributes:
            raise UndecodableError(
                "not_an_event",
                "neither a distributary.Event nor a record with CloudEvents headers (ce_id, ce_type, ...)",
            )
        try:
            document = self._resolver.record(value)
        except UnresolvableError as error:  # a date of the year 10000, say: no subscriber could be told
            raise UndecodableError("bad_data", f"the record cannot be written as JSON: {error}") from None
        time = attributes.get("ce_time")
        event = Event(
            id=attributes.get("ce_id", ""),
            type=attributes.get("ce_type", ""),
            tenant=attributes.get("ce_tenant", DEFAULT_TENANT),
            time_ms=_rfc3339_ms(time) if time is not None else timestamp_ms,
            data=render_json(document),
            subject=attributes.get("ce_subject"),
            traceparent=attributes.get("ce_traceparent", attributes.get("traceparent")),
            source=attributes.get("ce_source"),
            tracestate=usable_tracestate(_tracestate(attributes)),
        )
        return checked(event)


def _tracestate(attributes: dict[str, str]) -> str | None:
    """It belongs to the `traceparent` beside which it came."""
    if "ce_traceparent" in attributes:
        return attributes.get("ce_tracestate")
    return attributes.get(TRACESTATE) if TRACEPARENT in attributes else None


def _trace_of(own: str | None, headers: Headers) -> tuple[str | None, str | None]:
    """`traceparent` and `tracestate` of an envelope with its own one: else the record's counts, as instrumented
    producers set it. The envelope has no field for the latter. What is no text, or too long, is left out."""
    found: dict[str, str] = {}
    for name, raw in headers:
        if raw is not None and name in (TRACEPARENT, TRACESTATE) and len(raw) <= TEXT_BYTES_MAX and raw.isascii():
            found[name] = raw.decode()
    outer = found.get(TRACEPARENT)
    traceparent = own or outer
    if traceparent is None or outer not in (None, traceparent):  # it is of another trace
        return traceparent, None
    return traceparent, usable_tracestate(found.get(TRACESTATE))


EventDecoder = EnvelopeDecoder | CloudEventDecoder


def event_decoder(writer_schema: str) -> EventDecoder:
    """The decoder for records written with this schema; ValueError when it is no valid Avro schema."""
    tree = orjson.loads(writer_schema)
    if isinstance(tree, dict) and ENVELOPE_NAME in (tree.get("name"), f"{tree.get('namespace')}.{tree.get('name')}"):
        return EnvelopeDecoder(writer_schema)
    return CloudEventDecoder(writer_schema)


def checked(event: Event) -> Event:
    """The event when every rule of its fields holds; UndecodableError otherwise."""
    if not event.id:
        raise UndecodableError("no_id", "the event has no id; without one its deliveries cannot be told apart")
    if len(event.id.encode()) > EVENT_ID_BYTES_MAX:
        raise UndecodableError("bad_field", f"the event's id is longer than {EVENT_ID_BYTES_MAX} bytes")
    if event.type not in _types_seen:
        try:
            check_event_type(event.type)
        except InvalidSubscriptionError:
            raise UndecodableError("bad_type", f"the event's type {event.type[:80]!r} is not dotted segments") from None
        if len(_types_seen) < 10_000:
            _types_seen.add(event.type)
    if event.tenant not in _tenants_seen:
        if not TENANT_PATTERN.fullmatch(event.tenant):
            raise UndecodableError(
                "bad_field", f"the event's tenant {event.tenant[:80]!r} is not 1 to 128 of A-Z a-z 0-9 _ . : -"
            )
        if len(_tenants_seen) < 10_000:
            _tenants_seen.add(event.tenant)
    for text in (event.subject, event.traceparent, event.source):
        if text is not None and len(text) > TEXT_BYTES_MAX:
            raise UndecodableError(
                "bad_field", f"the event's subject, traceparent or source is longer than {TEXT_BYTES_MAX} characters"
            )
    if not 0 <= event.time_ms <= _TIME_MS_MAX:
        raise UndecodableError("bad_field", f"the event's time {event.time_ms} is not between the years 1970 and 9999")
    return event


# Types and tenants repeat; remembering the valid ones (a pure memo, bounded) saves a regular expression an event.
_types_seen: set[str] = set()
_tenants_seen: set[str] = set()
_TIME_MS_MAX = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z, the last that RFC 3339 can write


def cloud_event_attributes(headers: Headers | None) -> dict[str, str]:
    """The `ce_*` headers, `traceparent` and `tracestate` as text; UndecodableError `bad_field` if one is not UTF-8."""
    attributes: dict[str, str] = {}
    for name, raw in headers or ():
        if raw is not None and (name.startswith("ce_") or name in (TRACEPARENT, TRACESTATE)):
            try:
                attributes[name] = raw.decode()
            except UnicodeDecodeError:
                raise UndecodableError("bad_field", f"the header {name} is not UTF-8") from None
    if all(name in (TRACEPARENT, TRACESTATE) for name in attributes):
        return {}
    return attributes


def _rfc3339_ms(text: str) -> int:
    try:
        moment = datetime.datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError("no time zone")
    except ValueError as error:
        raise UndecodableError("bad_field", f"ce_time {text[:64]!r} is not an RFC 3339 time: {error}") from None
    return int(moment.timestamp() * 1000)


# --- writing --------------------------------------------------------------------------------------

#: Each version has the fields of the one before it, and more that may be missing.
_OWN = [codec.parse_schema(codec.own_schema(f"event.v{version}"), logical_types=False) for version in (1, 2, 3)]
_READER = _OWN[-1]


#: The branches of a union of null and text.
_NULL = b"\x00"
_SOME = b"\x02"


def encode_event(schema_id: int, event: Event) -> bytes:
    """The framed envelope, written as event.v3. By hand: four times as fast, and every event over HTTP passes here."""
    return b"".join(
        (
            codec.wire_header(schema_id),
            put_string(event.id),
            put_string(event.type),
            put_string(event.tenant),
            put_long(event.time_ms),
            put_bytes(event.data),
            _NULL if event.subject is None else _SOME + put_string(event.subject),
            _NULL if event.traceparent is None else _SOME + put_string(event.traceparent),
            _NULL if event.source is None else _SOME + put_string(event.source),
        )
    )
