"""Deliveries, attempts and dead letters: their values in Kafka, encoded and decoded by hand.

These are the records written and read for every POST, so their layout serves the hot path (`delivery.v2.avsc`): a
*head* that differs between the deliveries of one event, and a *tail* of bytes that all of them share and that a retry
carries over as it is; the tail ends with the *facts* about the event, which an attempt record repeats unread. After the
tail stand the headers to send, which version 1 does not have: what has none is written as version 1, so workers of an
older release read it. The property tests hold every function here to fastavro's answer on the same schema.

This file does not decide anything about a delivery, and holds no secret: those stay in the subscription.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import orjson

from schemas import codec
from schemas.codec import get_bytes, get_long, get_string, put_bytes, put_long, put_string
from schemas.errors import InvalidSubscriptionError, UndecodableError
from schemas.event import Event
from schemas.subscription import OrderingKey, check_header

#: Bytes of a response kept in an attempt (the sender cuts to the same length).
EXCERPT_BYTES_MAX = 256

#: The order of the symbols in attempt.v1.avsc.
OUTCOMES = ("delivered", "retryable", "rejected", "exhausted", "cancelled")
_OUTCOME_CODE = {name: put_long(index) for index, name in enumerate(OUTCOMES)}
_NULL = b"\x00"
_ZERO = b"\x00"
_SOME = b"\x02"

#: Which version of the event's schema the body is in.
VERSION_HEADER = "webhook-version"
#: Which replay this was sent by: the replay's id. What has none comes from live traffic.
REPLAY_HEADER = "webhook-replay"
_REPLAY_ID = re.compile(r"[!-~]{1,64}")

Pairs = Sequence[tuple[str, str]]


class Wire(NamedTuple):
    """The wire headers of delivery.v1 and delivery.v2."""

    v1: bytes
    v2: bytes


class Try(msgspec.Struct, frozen=True, gc=False):
    """One attempt as its delivery remembers it."""

    started_ms: int
    duration_us: int
    status: int
    cause: str = ""
    excerpt: bytes = b""


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One event for one endpoint, as far as delivering needs it.

    `ids`, `tail` and `facts` are encoded bytes that later records repeat: both ids; everything from the attempts to the
    headers; and the end of the tail with event id, type, tenant, times and subject, which only people and programs
    downstream read. `headers` are (name in lower case, value), to be sent with the body.
    """

    id: str
    subscription_id: str
    attempt: int
    due_ms: int
    first_attempt_ms: int
    tries: tuple[Try, ...]
    traceparent: str | None
    content_type: str
    body: bytes
    ids: bytes
    tail: bytes
    facts: bytes
    headers: tuple[tuple[str, str], ...] = ()


def replay_of(delivery: Delivery) -> str:
    """The id of the replay that made this delivery; empty when none did."""
    for name, value in delivery.headers:
        if name == REPLAY_HEADER:
            return value
    return ""


# --- the tail: once per event and what is sent of it ------------------------------------------------------------------


def encode_tail(event: Event, received_ms: int, content_type: str, body: bytes, headers: Pairs = ()) -> bytes:
    """The bytes that all deliveries of an event share which send the same: of version 2 when there are headers."""
    traceparent = event.hop or event.traceparent
    return b"".join(
        (
            _NULL if traceparent is None else _SOME + put_string(traceparent),
            put_string(content_type),
            put_bytes(body),
            put_string(event.id),
            put_string(event.type),
            put_string(event.tenant),
            put_long(event.time_ms),
            put_long(received_ms),
            _NULL if event.subject is None else _SOME + put_string(event.subject),
            _put_headers(headers) if headers else b"",
        )
    )


def _put_headers(headers: Pairs) -> bytes:
    """A map: one block of a count and that many pairs, ended by a count of 0."""
    pairs = [put_string(name) + put_string(value) for name, value in headers]
    return put_long(len(pairs)) + b"".join(pairs) + _ZERO


# --- the head: once per delivery --------------------------------------------------------------------------------------

#: attempt 0, due 0, first attempt 0, no attempts yet.
FRESH = _ZERO * 4


def encode_fresh(header: bytes, delivery_id: str, subscription_field: bytes, tail: bytes) -> bytes:
    """The value of a delivery never tried. `subscription_field` is `put_string(subscription id)` plus `FRESH`."""
    return header + put_bytes(delivery_id.encode()) + subscription_field + tail


def encode_delivery(wire: Wire, delivery: Delivery) -> bytes:
    """The framed value: of version 2 when there are headers."""
    if delivery.headers:
        return wire.v2 + _delivery_payload(delivery) + _put_headers(delivery.headers)
    return wire.v1 + _delivery_payload(delivery)


def _delivery_payload(delivery: Delivery) -> bytes:
    parts = [
        delivery.ids,
        put_long(delivery.attempt),
        put_long(delivery.due_ms),
        put_long(delivery.first_attempt_ms),
    ]
    if delivery.tries:  # an array is blocks of a count and that many items, ended by a count of 0
        parts.append(put_long(len(delivery.tries)))
        for entry in delivery.tries:
            parts += (
                put_long(entry.started_ms),
                put_long(entry.duration_us),
                put_long(entry.status),
                put_string(entry.cause),
                put_bytes(entry.excerpt),
            )
    parts += (_ZERO, delivery.tail)
    return b"".join(parts)


def decode_delivery(value: bytes, version: int = 1) -> Delivery:
    """The delivery in a framed value that was written with this version of the schema.

    UndecodableError `truncated` or `avro` when it was not, `bad_header` for a header that it must not have. The caller
    compares the schema id.
    """
    try:
        delivery, at = read_delivery(value, codec.HEADER_BYTES, version)
    except IndexError:
        raise UndecodableError("truncated", "the delivery ends before its last field") from None
    except UnicodeDecodeError as error:
        raise UndecodableError("avro", f"a string is not UTF-8: {error}") from None
    if at != len(value):
        raise UndecodableError("avro", f"{len(value) - at} bytes follow the delivery")
    return delivery


def read_delivery(value: bytes, start: int, version: int) -> tuple[Delivery, int]:
    # Lengths of less than 64 are one byte, twice the length: written out here, where it is read for every POST.
    at, twice = start + 1, value[start]
    if twice & 0x81:
        delivery_id, at = get_string(value, start)
    else:
        end = at + (twice >> 1)
        delivery_id, at = value[at:end].decode(), end
    twice = value[at]
    if twice & 0x81:
        subscription_id, ids_end = get_string(value, at)
    else:
        ids_end = at + 1 + (twice >> 1)
        subscription_id = value[at + 1 : ids_end].decode()
    at = ids_end + 4
    if value[ids_end:at] == FRESH:  # a first attempt: most of them
        attempt = due_ms = first_attempt_ms = 0
        tries: tuple[Try, ...] = ()
    else:
        attempt, at = get_long(value, ids_end)
        due_ms, at = get_long(value, at)
        first_attempt_ms, at = get_long(value, at)
        tries, at = _read_tries(value, at)
    tail_at = at
    if value[at] == 0:
        traceparent, at = None, at + 1
    else:
        traceparent, at = _read_optional(value, at)
    twice = value[at]
    if twice & 0x81:
        content_type, at = get_string(value, at)
    else:
        end = at + 1 + (twice >> 1)
        content_type, at = value[at + 1 : end].decode(), end
    body, facts_at = get_bytes(value, at)
    tail_end = end = _skip_facts(value, facts_at)
    headers: tuple[tuple[str, str], ...] = ()
    if version > 1:
        headers, end = _read_headers(value, tail_end)
    delivery = Delivery(
        delivery_id,
        subscription_id,
        attempt,
        due_ms,
        first_attempt_ms,
        tries,
        traceparent,
        content_type,
        body,
        value[start:ids_end],
        value[tail_at:tail_end],
        value[facts_at:tail_end],
        headers,
    )
    return delivery, end


#: Of two varints of six bytes, one after the other: the bits that are set in all bytes but the last of each.
_TWO_TIMES_MASK, _TWO_TIMES = 0x808080808080808080808080, 0x008080808080008080808080


def _skip_facts(value: bytes, at: int) -> int:
    """Past event id, type, tenant, two times and the subject, without making objects of them."""
    for _ in range(3):
        twice = value[at]
        if twice & 0x81:
            length, at = get_long(value, at)
            if length < 0:
                raise IndexError("a negative length")
            at += length
        else:
            at += 1 + (twice >> 1)
    if int.from_bytes(value[at : at + 12], "little") & _TWO_TIMES_MASK == _TWO_TIMES:
        at += 12  # times of our days in milliseconds
    else:
        _, at = get_long(value, at)
        _, at = get_long(value, at)
    branch = value[at]
    at += 1
    if branch:
        if branch != 2:
            raise UndecodableError("avro", f"union branch byte {branch:#04x} does not exist")
        twice = value[at]
        if twice & 0x81:
            length, at = get_long(value, at)
        else:
            length, at = twice >> 1, at + 1
        if length < 0 or at + length > len(value):
            raise IndexError("a length that points past the end")
        at += length
    return at


def _after_strings(facts: bytes, count: int) -> int:
    """Where so many strings at the beginning end. They were checked when the delivery was read."""
    at = 0
    for _ in range(count):
        twice = facts[at]
        if twice & 0x81:
            length, at = get_long(facts, at)
            at += length
        else:
            at += 1 + (twice >> 1)
    return at


def received_ms(facts: bytes) -> int:
    """When the event was received, of a delivery's `facts`."""
    at = _after_strings(facts, 3)
    if int.from_bytes(facts[at : at + 12], "little") & _TWO_TIMES_MASK == _TWO_TIMES:
        a, b, c, d, e, f = facts[at + 6 : at + 12]  # the second of two varints of six bytes, seven bits in each
        return (a & 127 | (b & 127) << 7 | (c & 127) << 14 | (d & 127) << 21 | (e & 127) << 28 | f << 35) >> 1
    _, at = get_long(facts, at)
    return get_long(facts, at)[0]


def is_of_tenant(facts: bytes, tenant: str) -> bool:
    """Whether a delivery's `facts` are of an event of this tenant's. Asked of every delivery: nothing else is read."""
    at = _after_strings(facts, 2)
    twice = facts[at]
    if twice & 0x81:
        return get_string(facts, at)[0] == tenant
    return facts[at + 1 : at + 1 + (twice >> 1)].decode() == tenant


def _read_headers(value: bytes, at: int) -> tuple[tuple[tuple[str, str], ...], int]:
    headers: dict[str, str] = {}  # as Avro reads a map: the last of equal names counts
    while True:
        count, at = get_long(value, at)
        if count == 0:
            return tuple(headers.items()), at
        if count < 0:  # as below
            count = -count
            _, at = get_long(value, at)
        for _ in range(count):
            name, at = get_string(value, at)
            headers[name], at = get_string(value, at)
            if name not in _names_seen:
                _check_name(name)
            if name == REPLAY_HEADER and not _REPLAY_ID.fullmatch(headers[name]):
                raise UndecodableError("bad_header", "the delivery's headers: webhook-replay is not the id of a replay")


# Names repeat; remembering the valid ones is a pure memo, bounded.
_names_seen: set[str] = set()


def _check_name(name: str) -> None:
    """What the engine writes itself must not come from a record: a second signature, say."""
    if name not in (VERSION_HEADER, REPLAY_HEADER):
        try:
            check_header(name, "")
        except InvalidSubscriptionError as error:
            raise UndecodableError("bad_header", f"the delivery's {error}") from None
        if name != name.lower():
            raise UndecodableError("bad_header", f"the delivery's headers: {name!r} is not in lower case")
    if len(_names_seen) < 1_000:
        _names_seen.add(name)


def _read_tries(value: bytes, at: int) -> tuple[tuple[Try, ...], int]:
    tries: list[Try] = []
    while True:
        count, at = get_long(value, at)
        if count == 0:
            return tuple(tries), at
        if count < 0:  # a block with its size in bytes, as other writers may make it
            count = -count
            _, at = get_long(value, at)
        for _ in range(count):
            started_ms, at = get_long(value, at)
            duration_us, at = get_long(value, at)
            status, at = get_long(value, at)
            cause, at = get_string(value, at)
            excerpt, at = get_bytes(value, at)
            tries.append(Try(started_ms, duration_us, status, cause, excerpt))


def _read_optional(value: bytes, at: int) -> tuple[str | None, int]:
    branch = value[at]
    if branch == 0:
        return None, at + 1
    if branch != 2:
        raise UndecodableError("avro", f"union branch byte {branch:#04x} does not exist")
    return get_string(value, at + 1)


def ordering_key(delivery: Delivery, kind: OrderingKey) -> str:
    """Deliveries of an ordered subscription with equal keys keep their order: the event's `subject` (those without one
    share a key) or `type`, or the same for all that go to the `endpoint`."""
    if kind == "endpoint":
        return ""
    facts = delivery.facts
    _, at = get_string(facts, 0)
    event_type, at = get_string(facts, at)
    if kind == "type":
        return event_type
    _, at = get_string(facts, at)
    _, at = get_long(facts, at)
    _, at = get_long(facts, at)
    subject, _ = _read_optional(facts, at)
    return subject or ""


class Facts(NamedTuple):
    """What a delivery knows of its event."""

    event_id: str
    event_type: str
    tenant: str
    time_ms: int
    received_ms: int
    subject: str | None


def facts_of(delivery: Delivery) -> Facts:
    """For people and programs that look; sending needs none of it, so it is not decoded with the rest."""
    facts = delivery.facts
    event_id, at = get_string(facts, 0)
    event_type, at = get_string(facts, at)
    tenant, at = get_string(facts, at)
    time_ms, at = get_long(facts, at)
    received_ms, at = get_long(facts, at)
    subject, _ = _read_optional(facts, at)
    return Facts(event_id, event_type, tenant, time_ms, received_ms, subject)


# --- attempts and dead letters ----------------------------------------------------------------------------------------


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """What `attempts` says of one POST, or of a delivery's end without one (`cancelled`)."""

    attempt: int
    outcome: str
    started_ms: int
    duration_us: int = 0
    status: int = 0
    cause: str = ""
    detail: str = ""
    excerpt: bytes = b""
    due_ms: int = 0


def encode_attempt(header: bytes, delivery: Delivery, attempt: Attempt) -> bytes:
    """The framed value of attempt.v1. What it says of the event is copied from the delivery as it is encoded there."""
    return b"".join(
        (
            header,
            delivery.ids,
            delivery.facts,
            put_long(attempt.attempt),
            _OUTCOME_CODE[attempt.outcome],
            put_long(attempt.started_ms),
            put_long(attempt.duration_us),
            put_long(attempt.status),
            # What is delivered has none of these: a third of what the record costs.
            put_string(attempt.cause) if attempt.cause else _ZERO,
            put_string(attempt.detail) if attempt.detail else _ZERO,
            put_bytes(attempt.excerpt) if attempt.excerpt else _ZERO,
            put_long(attempt.due_ms) if attempt.due_ms else _ZERO,
        )
    )


def encode_dead_letter(header: bytes, delivery: Delivery, reason: str, detail: str, dead_ms: int) -> bytes:
    """The framed value of dead_letter.v2: the reason, and the delivery with all its attempts."""
    payload = _delivery_payload(delivery)
    headers = _put_headers(delivery.headers) if delivery.headers else _ZERO
    return b"".join((header, put_string(reason), put_string(detail), put_long(dead_ms), payload, headers))


# --- whole schemas, for registries, readers and other versions ------------------------------------


#: The versions of dead letters; each holds the delivery of the same number.
DEAD_LETTER_VERSIONS = (1, 2)


def dead_letter_schema(version: int = DEAD_LETTER_VERSIONS[-1]) -> str:
    """A version of dead letters with Delivery inlined, since a registry's subject holds one self-contained schema."""
    tree: dict[str, Any] = orjson.loads(codec.own_schema(f"dead_letter.v{version}"))
    tree["fields"][-1]["type"] = orjson.loads(codec.own_schema(f"delivery.v{version}"))
    return orjson.dumps(tree).decode()
