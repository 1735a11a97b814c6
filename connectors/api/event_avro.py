"""One event as Avro in Confluent's wire format, with CloudEvents headers: checked by decoding it as fan-out will.

A record of the application's own is written as it came, so that versions of its schema can be pinned; the attributes
become the headers of CloudEvents' Kafka binding. An `Event` envelope is written anew, for the tenant of the key.
"""

from __future__ import annotations

import orjson

from connectors.api.event_checks import EventChecks
from connectors.api.event_input import CE, attributes, no_type, refused
from connectors.api.problems import Fault, ProblemError
from connectors.api.routes import Call
from connectors.ingest import Entry, Ingest, Once, event_key, key_of
from schemas import codec
from schemas.errors import UndecodableError
from schemas.event import CloudEventDecoder
from schemas.frame import Headers
from schemas.seen import digest_of
from schemas.topics import EVENT_BYTES_MAX
from schemas.trace_context import TRACEPARENT, TRACESTATE, parse_traceparent, usable_tracestate


async def avro_entry(
    call: Call, ingest: Ingest, checks: EventChecks, default: str, made_id: str, now_ms: int
) -> tuple[str | None, Entry]:
    """The id that was given, and what Kafka is told. ProblemError 400, 403, 422; RegistryUnavailableError."""
    body: bytes = call.body
    if len(body) > EVENT_BYTES_MAX:
        raise ProblemError(413, f"the event has {len(body)} bytes, and may have {EVENT_BYTES_MAX}")
    given = attributes({n.lower(): v for n, v in call.request.headers.items() if n[:3].lower() == CE})
    try:
        schema_id = codec.wire_schema_id(body)
    except UndecodableError as error:
        raise ProblemError(400, f"the body is not in Confluent's wire format: {error}") from None
    decoder = await checks.decoder(schema_id)
    headers = None
    if isinstance(decoder, CloudEventDecoder):
        tenant = given.get("tenant", default)
        headers = _kafka_headers(given, tenant, made_id, *trace_of(call))
    try:
        event = decoder.decode(body, headers, now_ms)
    except UndecodableError as error:
        raise ProblemError(422, f"the event is not accepted: {error}", errors=[Fault("", str(error))]) from None
    if not call.principal.sees(event.tenant):
        raise ProblemError(403, "the event is of another tenant than this key; leave its tenant out")
    if checks.unknown([event.type]):
        raise ProblemError(422, no_type(event.type))
    own_id = event.id if headers is None else given.get("id")
    digest = digest_of(body, event.type.encode())
    once = None if own_id is None else Once(event_key(event.tenant, event.id), digest, event.id)
    if headers is not None:
        await checks.fits(schema_id, event.type)
        return own_id, Entry((ingest.events_topic, key_of(event), body, -1, headers), once)
    check = (await checks.of([event.type])).get(event.type)
    if check is not None and (faults := check.faults(orjson.loads(event.data))):
        raise refused([(f"/data{path}", sentence) for path, sentence in faults], False)
    return own_id, ingest.entry(event, once)


def trace_of(call: Call) -> tuple[str | None, str | None]:
    """The request's `traceparent` and `tracestate`; None for both where the former is none that is valid."""
    traceparent = call.header(TRACEPARENT)
    return (traceparent, call.header(TRACESTATE)) if parse_traceparent(traceparent) is not None else (None, None)


def _kafka_headers(
    given: dict[str, str], tenant: str, made_id: str, traceparent: str | None, tracestate: str | None
) -> Headers:
    """Those of the Kafka binding: `ce_` and the attribute's name."""
    found = {"specversion": "1.0", "id": made_id} | given | {"tenant": tenant}
    headers: Headers = [(f"ce_{name}", value.encode()) for name, value in sorted(found.items())]
    if traceparent is not None and TRACEPARENT not in given:
        headers.append((TRACEPARENT, traceparent.encode()))
        if tracestate := usable_tracestate(tracestate):
            headers.append((TRACESTATE, tracestate.encode()))
    return headers
