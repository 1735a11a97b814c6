"""Events as they stand in a request: JSON of ours, CloudEvents, one or many, made into one form.

What is wrong is told with its place, for each event of a batch. Pure. This file does not know who asks, makes no ids
and compares nothing with schemas (`connectors/api/event_checks.py`).
"""

from __future__ import annotations

import base64
import binascii
import datetime
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import unquote

import msgspec
import orjson
from msgspec import Meta

from connectors.api.problems import Fault, ProblemError
from schemas.event import TEXT_BYTES_MAX
from schemas.ids import EVENT_ID_BYTES_MAX
from schemas.subscription import EVENT_TYPE_LENGTH_MAX, EVENT_TYPE_PATTERN, TENANT_PATTERN

JSON = "application/json"
LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl")
CLOUD_EVENT = "application/cloudevents+json"
CLOUD_EVENTS = "application/cloudevents-batch+json"
AVRO = ("application/vnd.confluent.avro", "avro/binary")
MEDIA = (JSON, *LINES, CLOUD_EVENT, CLOUD_EVENTS, *AVRO)

#: Of one request.
EVENTS_MAX = 10_000
FAULTS_MAX = 100
#: Of the attributes that CloudEvents' HTTP binding puts into headers in binary mode.
CE = "ce-"

_Id = Annotated[str, Meta(min_length=1, max_length=EVENT_ID_BYTES_MAX, description="Unique; without one, it is made")]
_Type = Annotated[
    str,
    Meta(
        pattern=f"^(?:{EVENT_TYPE_PATTERN.pattern})$",
        max_length=EVENT_TYPE_LENGTH_MAX,
        description="Dotted, as order.created",
    ),
]
_Tenant = Annotated[str, Meta(pattern=f"^(?:{TENANT_PATTERN.pattern})$", description="Whose it is")]
_Text = Annotated[str, Meta(max_length=TEXT_BYTES_MAX)]
_Time = Annotated[datetime.datetime, Meta(tz=True, description="When it happened, RFC 3339; without it, now")]


class EventGiven(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One event. `subject` is what it is about, and what it is ordered by."""

    type: _Type
    data: msgspec.Raw
    id: _Id | None = None
    tenant: _Tenant | None = None
    subject: _Text | None = None
    time: _Time | None = None
    source: _Text | None = None
    traceparent: _Text | None = None
    tracestate: _Text | None = None


class CloudEventGiven(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A CloudEvent 1.0 in JSON. Extensions other than `tenant`, `traceparent` and `tracestate` are left out."""

    specversion: Literal["1.0"]
    id: _Id
    source: Annotated[str, Meta(min_length=1, max_length=TEXT_BYTES_MAX)]
    type: _Type
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: str | msgspec.UnsetType = msgspec.UNSET
    datacontenttype: str | None = None
    subject: _Text | None = None
    time: _Time | None = None
    tenant: _Tenant | None = None
    traceparent: _Text | None = None
    tracestate: _Text | None = None


#: For the document of the API.
Body = EventGiven | list[EventGiven]

_ONE = msgspec.json.Decoder(EventGiven)
_MANY = msgspec.json.Decoder(list[EventGiven])
_CLOUD = msgspec.json.Decoder(CloudEventGiven)
_RAW = msgspec.json.Decoder(list[msgspec.Raw])


class Lines:
    """Events of which each is a line (`LINES`), read as they come: of the text, no more is kept than a line that has
    not ended. ProblemError 413 and 422, of many faults as soon as there are enough."""

    def __init__(self) -> None:
        self._events: list[EventGiven] = []
        self._faults: list[tuple[str, str]] = []
        self._begun: list[bytes] = []  # parts of a line
        self._count = 0

    def feed(self, part: bytes) -> None:
        """The next part of the body, which may end anywhere."""
        *ended, rest = part.split(b"\n")
        for line in ended:
            self._take(b"".join((*self._begun, line)))
            self._begun.clear()
        if rest:
            self._begun.append(rest)

    def end(self) -> list[EventGiven]:
        """All events, when the body has ended."""
        self._take(b"".join(self._begun))
        if self._faults:
            raise refused(self._faults, True)
        if not self._count:
            raise _no_events()
        return self._events

    def _take(self, line: bytes) -> None:
        if not line or line.isspace():
            return
        if self._count == EVENTS_MAX:
            raise ProblemError(413, f"there are more than {EVENTS_MAX} events; send fewer at once")
        _read_one(_ONE, self._count, line, self._events, self._faults)
        self._count += 1
        if len(self._faults) >= FAULTS_MAX:
            raise refused(self._faults, True)


def read_events(media: str, body: bytes, headers: Mapping[str, str]) -> tuple[list[EventGiven], bool]:
    """The events of all forms but lines, and whether they came as a batch. ProblemError 400, 413 and 422, with every
    place that is wrong.

    `headers` are those of the request that begin with `ce-`, in lower case: with them, JSON is a CloudEvent's data.
    """
    if media == CLOUD_EVENT:
        return [_of_cloud(_single(_CLOUD, body))], False
    if media == CLOUD_EVENTS:
        return _each(_CLOUD, _items(body)), True
    if headers:
        return [_single_of_headers(headers, body)], False
    if body.lstrip(b" \t\r\n")[:1] != b"[":
        return [_single(_ONE, body)], False
    try:
        events = _MANY.decode(body)
    except msgspec.ValidationError:
        return _each(_ONE, _items(body)), True
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_json(error) from None
    _count(events)
    return events, True


def place_of(message: str) -> tuple[str, str]:
    """msgspec's message as (JSON pointer, sentence)."""
    sentence, _, place = message.partition(" - at `$")
    path = place.rstrip("`").replace("[...]", "[*]").replace("[", ".").replace("]", "")
    return path.replace("~", "~0").replace("/", "~1").replace(".", "/"), sentence


def refused(faults: Sequence[tuple[str, str]], batch: bool) -> ProblemError:
    """What is wrong with the events of a request, of which none was written."""
    first, more = faults[0], len(faults) - 1
    others = f", and {more} more" if more else ""
    none = "; no event was published" if batch else ""
    sentence = f"{first[0] or 'the event'}: {first[1]}{others}{none}"
    return ProblemError(422, sentence, errors=[Fault(*each) for each in faults[:FAULTS_MAX]])


def no_type(name: str) -> str:
    """The sentence for an event type that nobody has described, where that is asked for."""
    return f"there is no event type {name}; an operator makes one with PUT /v1/event-types/{name}"


# --- each form ----------------------------------------------------------------------------------------------


def _not_json(error: Exception) -> ProblemError:
    return ProblemError(400, f"the body is not JSON: {error}")


def _count(events: Sequence[object]) -> None:
    if len(events) > EVENTS_MAX:
        raise ProblemError(413, f"{len(events)} events are more than {EVENTS_MAX}; send fewer at once")
    if not events:
        raise _no_events()


def _no_events() -> ProblemError:
    return ProblemError(422, "there are no events in the request; send at least one")


def _items(body: bytes) -> list[msgspec.Raw]:
    try:
        items = _RAW.decode(body)
    except msgspec.ValidationError:
        raise ProblemError(422, "the body is no JSON array; a batch is one") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_json(error) from None
    _count(items)
    return items


def _single(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise refused([place_of(str(error))], False) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_json(error) from None


def _each(decoder: msgspec.json.Decoder[Any], items: Sequence[Any]) -> list[EventGiven]:
    """Every event by itself, so that all that is wrong is found."""
    events: list[EventGiven] = []
    faults: list[tuple[str, str]] = []
    for number, item in enumerate(items):
        _read_one(decoder, number, item, events, faults)
        if len(faults) >= FAULTS_MAX:
            break
    if faults:
        raise refused(faults, True)
    return events


def _read_one(
    decoder: msgspec.json.Decoder[Any],
    number: int,
    item: Any,
    events: list[EventGiven],
    faults: list[tuple[str, str]],
) -> None:
    """To one of both lists."""
    try:
        found = decoder.decode(item)
        events.append(_of_cloud(found) if isinstance(found, CloudEventGiven) else found)
    except msgspec.ValidationError as error:
        path, sentence = place_of(str(error))
        faults.append((f"/{number}{path}", sentence))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        faults.append((f"/{number}", f"is not JSON: {error}"))
    except ProblemError as problem:
        faults += [(f"/{number}{fault.path}", fault.detail) for fault in problem.errors]


def _of_cloud(given: CloudEventGiven) -> EventGiven:
    content = given.datacontenttype
    if content is not None and not is_json(content):
        raise refused([("/datacontenttype", f"{content[:80]!r} is not JSON, and data must be")], False)
    data: msgspec.Raw = msgspec.Raw(b"null") if given.data is msgspec.UNSET else given.data
    if given.data_base64 is not msgspec.UNSET:
        if given.data is not msgspec.UNSET:
            raise refused([("/data_base64", "stands beside data; send one of them")], False)
        try:
            data = msgspec.Raw(base64.b64decode(given.data_base64, validate=True))
        except (binascii.Error, ValueError):
            raise refused([("/data_base64", "is not base64")], False) from None
    return EventGiven(
        type=given.type,
        data=data,
        id=given.id,
        tenant=given.tenant,
        subject=given.subject,
        time=given.time,
        source=given.source,
        traceparent=given.traceparent,
        tracestate=given.tracestate,
    )


def attributes(headers: Mapping[str, str]) -> dict[str, str]:
    """The attributes of CloudEvents' HTTP binding 1.0.2, binary mode: names without `ce-`, values percent-decoded.

    ProblemError 400 for a value that is not ASCII: such must be percent-encoded (3.1.3.2).
    """
    for name, value in headers.items():
        if not value.isascii():
            detail = "is not ASCII; percent-encode its UTF-8"
            raise ProblemError(400, f"the header {name} {detail}", errors=[Fault(name, detail)])
    return {name.removeprefix(CE): unquote(value) for name, value in headers.items()}


def _single_of_headers(headers: Mapping[str, str], body: bytes) -> EventGiven:
    found = attributes(headers)
    if {"data", "data_base64"} & found.keys():
        raise ProblemError(422, "data is the body in binary mode; leave out the headers ce-data and ce-data_base64")
    try:
        given = msgspec.convert(found, CloudEventGiven)
    except msgspec.ValidationError as error:
        path, sentence = place_of(str(error))
        if not path:  # a field that is missing, which the sentence names
            raise ProblemError(422, f"the headers ce-… do not make an event: {sentence}") from None
        name = f"ce-{path[1:]}"
        raise ProblemError(422, f"{name}: {sentence}", errors=[Fault(name, sentence)]) from None
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _not_json(error) from None
    return _of_cloud(msgspec.structs.replace(given, data=msgspec.Raw(body), datacontenttype=None))


def is_json(content_type: str) -> bool:
    """Whether a media type is JSON's, or of its family."""
    media = content_type.partition(";")[0].strip().lower()
    return media == JSON or media.endswith("+json")
