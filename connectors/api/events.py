"""Publishing events: POST /v1/events.

All events of a request are published or none; 202 says that Kafka has them. What forms there are is in
`event_input.py`, what Kafka is told in `connectors/ingest.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from hashlib import blake2b
from typing import Annotated

import msgspec
import orjson
from msgspec import Meta

from connectors.api.event_avro import avro_entry, trace_of
from connectors.api.event_checks import EventChecks
from connectors.api.event_input import (
    AVRO,
    CE,
    EVENTS_MAX,
    FAULTS_MAX,
    LINES,
    MEDIA,
    Body,
    EventGiven,
    Lines,
    no_type,
    read_events,
    refused,
)
from connectors.api.principal import acts_for
from connectors.api.problems import Fault, ProblemError
from connectors.api.routes import Answer, Call, Header, Reply, Route
from connectors.ingest import (
    ConflictError,
    Entry,
    Ingest,
    Once,
    Published,
    UnavailableError,
    event_key,
    request_key,
)
from schemas.errors import RecordTooLargeError, UndecodableError
from schemas.event import DEFAULT_TENANT, Event, checked
from schemas.ids import event_id
from schemas.json_check import JsonCheck
from schemas.seen import digest_of
from schemas.topics import EVENT_BYTES_MAX
from schemas.trace_context import TRACEPARENT, usable_tracestate

BODY_BYTES_MAX = 16 << 20
KEY_LENGTH_MAX = 255
IDEMPOTENCY_KEY = "Idempotency-Key"
#: Events that are made ready before the loop gets a turn: some milliseconds.
PART = 250


class Publishing:
    """A service: what publishing needs. `draw` answers 64 random bits; `now_ms` the time."""

    def __init__(
        self, ingest: Ingest, checks: EventChecks, *, draw: Callable[[], int], now_ms: Callable[[], int]
    ) -> None:
        self.ingest = ingest
        self.checks = checks
        self.draw = draw
        self.now_ms = now_ms


class EventsQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """For whom."""

    tenant: Annotated[str | None, Meta(description="Of events that do not name one; of an operator's key")] = None


class EventAccepted(msgspec.Struct, omit_defaults=True):
    """An event that Kafka has; `duplicate` when it had it before this request."""

    id: str
    duplicate: bool = False


class EventsAccepted(msgspec.Struct):
    """In the order of the request."""

    events: list[EventAccepted]


async def publish_events(call: Call) -> Reply:
    """One or many, each once, all or none."""
    desk = call.get(Publishing)
    tenant = acts_for(call.principal, call.query.tenant)
    media = call.request.content_type
    content, lines = await _read_lines(call.body) if media in LINES else (call.body, [])
    once, base = _request(call, desk, tenant, content)
    if media in AVRO:
        own, entry = await avro_entry(
            call, desk.ingest, desk.checks, tenant or DEFAULT_TENANT, event_id(base, 0), desk.now_ms()
        )
        ids: list[str | None] = [own]
        entries = [entry]
        batch = False
    else:
        given, batch = (lines, True) if lines else read_events(media, content, _ce_headers(call))
        ids, entries = await _entries(desk, given, tenant, call.principal.tenant, base, batch, trace_of(call))
    try:
        published = await desk.ingest.publish(entries, once)
    except ConflictError as error:
        raise _conflict(error, batch) from None
    except UnavailableError as error:
        raise ProblemError(503, str(error), headers={"Retry-After": str(error.retry_s)}) from None
    except RecordTooLargeError as error:
        raise ProblemError(413, f"{error}; nothing was published") from None
    return _reply(published, ids, base)


def _reply(published: Published, ids: list[str | None], base: int) -> Reply:
    if published.repeated:  # with the ids that were made the first time
        base = int(published.id, 16)
    duplicates = published.duplicates
    events = [EventAccepted(own or event_id(base, n), n in duplicates) for n, own in enumerate(ids)]
    headers = {"Idempotency-Replayed": "true"} if published.repeated else {}
    return Reply(EventsAccepted(events), status=202, headers=headers)


async def _read_lines(parts: AsyncIterator[bytes]) -> tuple[bytes, list[EventGiven]]:
    """What tells the body from others, and its events, one at least; the body itself is never whole. ProblemError 413
    and 422."""
    digest, lines = blake2b(), Lines()
    async for part in parts:
        digest.update(part)
        lines.feed(part)
    return digest.digest(), lines.end()


def _request(call: Call, desk: Publishing, tenant: str | None, content: bytes) -> tuple[Once | None, int]:
    """What makes the request one of a kind, if anything does, and the number that its events' ids are made from.
    `content` is the body, or what tells it from others."""
    base = (desk.now_ms() << 64) + desk.draw()
    key = call.header(IDEMPOTENCY_KEY)
    if key is None:
        return None, base
    if not (0 < len(key) <= KEY_LENGTH_MAX and key.isascii() and key.isprintable()):
        detail = f"{IDEMPOTENCY_KEY} must be 1 to {KEY_LENGTH_MAX} printable ASCII characters"
        raise ProblemError(400, detail, errors=[Fault(IDEMPOTENCY_KEY, detail)])
    said = [call.request.content_type, tenant or "", *(f"{name}:{v}" for name, v in sorted(_ce_headers(call).items()))]
    digest = digest_of(content, *(each.encode("utf-8", "surrogateescape") for each in said))
    return Once(request_key(call.principal.tenant or "", key), digest, f"{base:x}"), base


def _ce_headers(call: Call) -> dict[str, str]:
    return {name.lower(): value for name, value in call.request.headers.items() if name[:3].lower() == CE}


def _conflict(error: ConflictError, batch: bool) -> ProblemError:
    """RFC 9110, 15.5.10, for an event's id; 422 for the key, as draft-ietf-httpapi-idempotency-key-header-07 has it."""
    if not error.positions:
        detail = "this key was used for another request; make a new one for each request, and keep it for its retries"
        return ProblemError(422, detail, errors=[Fault(IDEMPOTENCY_KEY, detail)])
    detail = "this id was published before with another content; nothing was published"
    paths = [f"/{position}/id" if batch else "/id" for position in error.positions[:FAULTS_MAX]]
    return ProblemError(
        409, detail, errors=[Fault(path, "was published before with another content") for path in paths]
    )


async def _entries(
    desk: Publishing,
    given: list[EventGiven],
    tenant: str | None,
    own_tenant: str | None,
    base: int,
    batch: bool,
    trace: tuple[str | None, str | None],
) -> tuple[list[str | None], list[Entry]]:
    """The ids that were given, and what Kafka is told. ProblemError 403 and 422; nothing is awaited for each event.
    `trace` is the request's, for events that have none of their own."""
    names = {each.type for each in given}
    unknown = desk.checks.unknown(names)
    checks = await desk.checks.of(names)
    default = tenant or DEFAULT_TENANT
    now_ms = desk.now_ms()
    make = desk.ingest.entry
    ids: list[str | None] = []
    entries: list[Entry] = []
    faults: list[tuple[str, str]] = []
    for number, each in enumerate(given):
        whose = each.tenant or default
        if own_tenant is not None and whose != own_tenant:
            path = f"/{number}/tenant" if batch else "/tenant"
            raise ProblemError(
                403, "this key is of another tenant; leave the tenant out", errors=[Fault(path, "not yours")]
            )
        traceparent, tracestate = (each.traceparent, each.tracestate) if each.traceparent else trace
        event = Event(
            each.id or event_id(base, number),
            each.type,
            whose,
            now_ms if each.time is None else int(each.time.timestamp() * 1000),
            bytes(each.data),
            each.subject,
            traceparent,
            each.source,
            usable_tracestate(tracestate),
        )
        wrong = _faults(event, unknown, checks)
        if not wrong:
            ids.append(each.id)
            entry = make(event, None if each.id is None else _once(each, event))
            entries.append(entry)
            size = len(entry.record[2] or b"")
            if size > EVENT_BYTES_MAX:
                wrong = [("", f"has {size} bytes, and an event may have {EVENT_BYTES_MAX}")]
        if wrong:
            faults += [(f"/{number}{path}" if batch else path, sentence) for path, sentence in wrong]
            if len(faults) >= FAULTS_MAX:
                break
        if number % PART == PART - 1:
            await asyncio.sleep(0)
    if faults:
        raise refused(faults, batch)
    return ids, entries


def _once(given: EventGiven, event: Event) -> Once:
    """What a repetition must have in common: all but the trace, and the time where it was not given."""
    time = b"" if given.time is None else b"%d" % event.time_ms
    texts = (event.type, event.subject or "", event.source or "")
    digest = digest_of(event.data, time, *(text.encode() for text in texts))
    return Once(event_key(event.tenant, event.id), digest, event.id)


def _faults(event: Event, unknown: set[str], checks: dict[str, JsonCheck]) -> list[tuple[str, str]]:
    """What is wrong with an event, by place."""
    try:
        checked(event)
    except UndecodableError as error:
        return [(_PLACES.get(error.reason, ""), error.detail)]
    if event.type in unknown:
        return [("/type", no_type(event.type))]
    try:
        document = orjson.loads(event.data)
    except orjson.JSONDecodeError as error:
        return [("/data", f"is not JSON: {error}")]
    check = checks.get(event.type)
    return [] if check is None else [(f"/data{path}", sentence) for path, sentence in check.faults(document)]


_PLACES = {"no_id": "/id", "bad_type": "/type"}

ROUTES = [
    Route(
        method="POST",
        path="/v1/events",
        handler=publish_events,
        summary="Publish one event, or many",
        tag="events",
        scope="events:write",
        description=(
            f"One event, an array or lines of at most {EVENTS_MAX}, CloudEvents in JSON or in headers, or Avro in"
            " Confluent's wire format with CloudEvents headers. All of a request are published, or none."
        ),
        body=Body,
        raw=True,
        media=MEDIA,
        in_parts=LINES,
        body_bytes_max=BODY_BYTES_MAX,
        query=EventsQuery,
        headers=(
            Header(IDEMPOTENCY_KEY, "Chosen by you for this request and its retries: they publish once"),
            Header(TRACEPARENT, "W3C trace context, for events that have none of their own"),
        ),
        answers={
            202: Answer(
                type=EventsAccepted,
                description="Kafka has them",
                headers=(Header("Idempotency-Replayed", "`true` when the request is a repetition"),),
            )
        },
        problems=(409,),
    ),
]
