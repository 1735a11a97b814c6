"""From one event and the subscriptions that match it to delivery records.

The body is rendered, and the part of the record that all deliveries share is encoded, once per payload format. This
file does not match (`streams/core/match.py`) and does not write.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from hashlib import blake2b

from schemas.codec import put_long, put_string
from schemas.delivery import FRESH, encode_tail
from schemas.event import Event
from schemas.frame import Out
from schemas.ids import DELIVERY_PREFIX
from schemas.subscription import Subscription

JSON = "application/json"

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
# A delivery id has always the same length, so its length field is a constant.
_ID_FIELD_START = put_long(len(DELIVERY_PREFIX) + 30) + DELIVERY_PREFIX.encode()


class Targets:
    """The matching subscriptions of one tenant and event type, prepared for encoding. Made once per change of the
    table."""

    __slots__ = ("by_format", "count", "subscriptions")

    def __init__(self, subscriptions: Sequence[Subscription]) -> None:
        self.subscriptions = subscriptions
        self.count = len(subscriptions)
        #: format -> [(record key, what the id's hash takes after the event id, encoded fields after the id)]
        self.by_format: dict[str, list[tuple[bytes, bytes, bytes]]] = {}
        for subscription in subscriptions:
            key = subscription.id.encode()
            entry = (key, b"\0" + key, put_string(subscription.id) + FRESH)
            self.by_format.setdefault(subscription.format, []).append(entry)


def deliveries(topic: str, header: bytes, event: Event, received_ms: int, targets: Targets) -> list[Out]:
    """One record per target. `header` is the wire header of delivery.v1; ids as `schemas.ids.delivery_id` makes
    them."""
    records: list[Out] = []
    append = records.append
    event_id = event.id.encode()
    for payload_format, entries in targets.by_format.items():
        content_type, body = render(event, payload_format)
        tail = encode_tail(event, received_ms, content_type, body)
        for key, hashed, fields in entries:
            digest = blake2b(event_id + hashed, digest_size=15).hexdigest()
            append((topic, key, header + _ID_FIELD_START + digest.encode() + fields + tail, -1, None))
    return records


def render(event: Event, payload_format: str) -> tuple[str, bytes]:
    """(content type, body). `standard`: Standard Webhooks' `{"type","timestamp","data"}`; `data`: the event's data
    alone.

    The data is embedded as it came, byte for byte: it was checked to be JSON, and numbers keep every digit.
    """
    if payload_format == "data":
        return JSON, event.data
    # An event type holds no character that JSON would escape (schemas/subscription.py, EVENT_TYPE_PATTERN).
    start = f'{{"type":"{event.type}","timestamp":"{rfc3339(event.time_ms)}","data":'
    return JSON, start.encode() + event.data + b"}"


def rfc3339(time_ms: int) -> str:
    """UTC with milliseconds, as 2026-11-22T09:40:00.123Z."""
    moment = _EPOCH + datetime.timedelta(milliseconds=time_ms)
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + f".{time_ms % 1000:03d}Z"
