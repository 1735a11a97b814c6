"""What is sent of an event in each payload format: content type, body, and headers of its own.

Standard Webhooks 1.0; CloudEvents 1.0.2 with its HTTP protocol binding; Avro as on the topic. Data is embedded as it
was rendered, byte for byte. This file does not choose the version of the data (`streams/core/views.py`), does not sign,
and does not put several events together (`streams/core/batch.py`).
"""

from __future__ import annotations

import datetime
from typing import NamedTuple
from urllib.parse import quote

import orjson

from schemas.delivery import VERSION_HEADER
from schemas.event import Event
from schemas.subscription import PayloadFormat
from schemas.trace_context import TRACESTATE

JSON = "application/json"
AVRO = "application/avro"
#: HTTP protocol binding, sections 3.2 and 3.3.
CLOUDEVENT = "application/cloudevents+json; charset=UTF-8"
CLOUDEVENTS_BATCH = "application/cloudevents-batch+json; charset=UTF-8"
#: The extension attribute that has the version of the data: in a batch, each event has its own.
DATA_VERSION = "dataversion"

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
#: HTTP protocol binding, section 3.1.3.2: what of printable ASCII is not percent-encoded in a header's value.
_HEADER_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')

Headers = tuple[tuple[str, str], ...]


class Rendered(NamedTuple):
    """What is POSTed, but for the headers that differ by attempt."""

    content_type: str
    body: bytes
    headers: Headers = ()


def render(
    event: Event, payload_format: PayloadFormat, data: bytes, value: bytes, version: int = 0, content_type: str = ""
) -> Rendered:
    """One event in one format.

    `data` is the JSON to send, `value` the framed Avro of the same version (each needed by its formats only), `version`
    its number, 0 for data without versions; `content_type` the subscription's own, which is not used where it asks for
    a version and there is none.
    """
    state: Headers = ((TRACESTATE, event.tracestate),) if event.tracestate else ()
    headers = ((VERSION_HEADER, str(version)), *state) if version else state
    if content_type and (version or "{version}" not in content_type):
        chosen = content_type.replace("{version}", str(version))
    else:
        chosen = AVRO if payload_format == "avro" else JSON
    match payload_format:
        case "standard":
            return Rendered(chosen, _standard(event, data), headers)
        case "data":
            return Rendered(chosen, data, headers)
        case "thin":  # ids only, so of no version
            ids = {"id": event.id} if event.subject is None else {"id": event.id, "subject": event.subject}
            return Rendered(chosen, _standard(event, orjson.dumps(ids)), state)
        case "avro":
            return Rendered(chosen, value, headers)
        case "cloudevents_binary":
            attributes = cloud_event_attributes(event, version)
            own = tuple((f"ce-{name}", quote(text, safe=_HEADER_SAFE)) for name, text in attributes.items())
            return Rendered(chosen, data, own + headers)
        case "cloudevents_structured":
            return Rendered(CLOUDEVENT, _cloud_event(event, data, version), headers)
        case "cloudevents_batch":
            return Rendered(CLOUDEVENTS_BATCH, b"[" + _cloud_event(event, data, version) + b"]", headers)


def cloud_event_attributes(event: Event, version: int) -> dict[str, str]:
    """CloudEvents' context attributes, without the data and its content type; extensions last."""
    attributes = {
        "specversion": "1.0",
        "id": event.id,
        "source": source_of(event),
        "type": event.type,
        "time": rfc3339(event.time_ms),
    }
    if event.subject:  # "MUST be a non-empty string" where it is present
        attributes["subject"] = event.subject
    attributes["tenant"] = event.tenant
    if event.traceparent:
        attributes["traceparent"] = event.traceparent
    if event.tracestate:
        attributes["tracestate"] = event.tracestate
    if version:
        attributes[DATA_VERSION] = str(version)
    return attributes


def source_of(event: Event) -> str:
    """The event's source; of one that names none, a path with its tenant: an id is unique within its source."""
    return event.source or f"/distributary/{event.tenant}"


def rfc3339(time_ms: int) -> str:
    """UTC with milliseconds, as 2026-11-22T09:40:00.123Z."""
    moment = _EPOCH + datetime.timedelta(milliseconds=time_ms)
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + f".{time_ms % 1000:03d}Z"


def _standard(event: Event, data: bytes) -> bytes:
    # An event type holds no character that JSON would escape (schemas/subscription.py, EVENT_TYPE_PATTERN).
    start = f'{{"type":"{event.type}","timestamp":"{rfc3339(event.time_ms)}","data":'
    return start.encode() + data + b"}"


def _cloud_event(event: Event, data: bytes, version: int) -> bytes:
    attributes = cloud_event_attributes(event, version) | {"datacontenttype": JSON}
    return orjson.dumps(attributes)[:-1] + b',"data":' + data + b"}"
