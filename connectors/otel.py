"""Spans by OpenTelemetry, sent to a collector by OTLP over HTTP.

Needs the extra `otel`, and is imported only where traces are on.

What is not set here is asked of OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_*`, `OTEL_TRACES_SAMPLER`,
`OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SERVICE_NAME`). Spans wait in a queue with a bound, and a thread sends them: whoever
makes one never waits, and what finds no place is counted and gone. Spans are no records: a crash takes those that wait.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import requests
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan

from schemas.trace_context import Attributes, Kind, parse_traceparent

logger = logging.getLogger(__name__)

#: Spans that wait for the collector; more are dropped.
QUEUE_MAX = 8_192
#: Of one request to it.
BATCH_SPANS = 512
EXPORT_EVERY_S = 1.0
#: A collector that does not answer is told of no more often.
WARN_EVERY_S = 60.0
#: What one request may take, with what it is tried again for; OTEL_EXPORTER_OTLP_TIMEOUT says otherwise.
TIMEOUT_S = 10.0
_PATH = "/v1/traces"
_KINDS = {"internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT, "consumer": SpanKind.CONSUMER}
_TIMEOUTS = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")


class RecordedSpan:
    """See the port (`streams/ports.py`, Span)."""

    __slots__ = ("_span", "traceparent")

    recorded = True

    def __init__(self, span: OtelSpan) -> None:
        self._span = span
        self.traceparent = _traceparent(span.get_span_context())

    def set(self, attributes: Attributes) -> None:
        """See the port."""
        self._span.set_attributes(attributes)

    def end(self, error: str = "") -> None:
        """See the port."""
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class PassedSpan:
    """Is not recorded, and hands on where it stands."""

    __slots__ = ("traceparent",)

    recorded = False

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def set(self, attributes: Attributes) -> None:
        """Nothing."""

    def end(self, error: str = "") -> None:
        """Nothing."""


class OtelTracer:
    """See the port (`streams/ports.py`, Tracer). Start spans on one thread."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float],
        endpoint: str | None = None,
        headers: Mapping[str, str] | None = None,
        ratio: float | None = None,
        instance: str = "",
    ) -> None:
        """`endpoint` as http://collector:4318, or with the path; `ratio` of the new traces are recorded; `instance` is
        this process's name. None for what the variables say; ValueError where they make no sense."""
        resource = Resource.create({SERVICE_INSTANCE_ID: instance} if instance else {})
        if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "distributary"}))
        sampler = None if ratio is None else ParentBased(TraceIdRatioBased(ratio))
        provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        self._queue = _SpanQueue(_exporter(endpoint, headers), monotonic)
        provider.add_span_processor(self._queue)
        self._parents_decide = isinstance(provider.sampler, ParentBased)
        self._tracer = provider.get_tracer("distributary")

    @property
    def sent(self) -> int:
        """Spans that the collector took."""
        return self._queue.sent

    @property
    def dropped(self) -> int:
        """Spans that it did not get: there was no place for them, or no answer."""
        return self._queue.dropped

    def start(
        self,
        name: str,
        kind: Kind,
        parent: str | None,
        attributes: Attributes,
        *,
        tracestate: str | None = None,
        links: Sequence[str] = (),
    ) -> RecordedSpan | PassedSpan:
        """See the port."""
        known = parse_traceparent(parent)
        if parent is not None and known is not None and not known.sampled and self._parents_decide:
            return PassedSpan(parent)  # as the sampler would have it, at a tenth of the cost
        around = Context()
        if parent is not None and known is not None:
            around = set_span_in_context(NonRecordingSpan(_context(parent, tracestate)), around)
        linked = [Link(_context(each, None)) for each in links if parse_traceparent(each) is not None]
        span = self._tracer.start_span(name, around, _KINDS[kind], attributes, linked)
        if span.is_recording():
            return RecordedSpan(span)
        if parent is not None and known is not None:
            return PassedSpan(parent)
        return PassedSpan(_traceparent(span.get_span_context()))

    def close(self, deadline_s: float) -> None:
        """Send what waits, for as long as that; blocks. The rest counts as dropped."""
        self._queue.close(deadline_s)


def why_not(endpoint: str | None, headers: Mapping[str, str] | None, timeout_s: float) -> str:
    """Why the collector does not take spans, asked with none; empty when it does. Blocks for `timeout_s` at most."""
    exporter, session = _exporter(endpoint, headers, timeout_s, once=True)
    try:
        taken = exporter.export(()) is SpanExportResult.SUCCESS
    finally:
        exporter.shutdown()
    return "" if taken else session.said


def asked(endpoint: str | None) -> str:
    """The URL of the collector, for people."""
    if endpoint:
        return _with_path(endpoint)
    if exact := os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return exact
    return _with_path(os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or "http://localhost:4318")


def _with_path(endpoint: str) -> str:
    return endpoint if endpoint.rstrip("/").endswith(_PATH) else endpoint.rstrip("/") + _PATH


def _context(traceparent: str, tracestate: str | None) -> SpanContext:
    """Of a valid one."""
    known = parse_traceparent(traceparent)
    assert known is not None
    return SpanContext(
        int(known.trace_id, 16),
        int(known.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(traceparent[53:55], 16)),
        trace_state=TraceState.from_header([tracestate]) if tracestate else None,
    )


def _traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


# --- sending ----------------------------------------------------------------------------------------------------------


_LATE = "it did not answer in time"


class _Session(requests.Session):
    """Remembers what became of its last request, for a sentence. Nothing of what was sent is in it."""

    said = _LATE

    def __init__(self, *, once: bool) -> None:
        """With `once`, the exporter does not try again where there is no connection."""
        super().__init__()
        self._once = once

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        try:
            response = super().send(request, **kwargs)
        except requests.Timeout:
            self.said = _LATE
            raise
        except requests.RequestException as error:
            found = re.search(r"\[Errno -?\d+\] ([^'\")\]]+)", str(error))
            self.said = found[1] if found else type(error).__name__
            if self._once:
                raise requests.RequestException from error
            raise
        self.said = f"it answered {response.status_code} {response.reason}"
        return response


Exporting = tuple[OTLPSpanExporter, _Session]


def _exporter(
    endpoint: str | None, headers: Mapping[str, str] | None, timeout_s: float | None = None, *, once: bool = False
) -> Exporting:
    if timeout_s is None and not any(os.environ.get(name) for name in _TIMEOUTS):
        timeout_s = TIMEOUT_S
    session = _Session(once=once)
    exporter = OTLPSpanExporter(asked(endpoint), headers=headers, timeout=timeout_s, session=session)
    # From here on it would log every failure, with what is not for people; we tell of them now and then.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
    return exporter, session


class _SpanQueue(SpanProcessor):
    """What ended and is to be sent."""

    def __init__(self, exporting: Exporting, monotonic: Callable[[], float]) -> None:
        self._exporter, self._session = exporting
        self._monotonic = monotonic
        self._spans: deque[ReadableSpan] = deque()
        self._wake = threading.Event()
        self._closing = self._given_up = False
        self._refused = self._lost = 0  # counted on one thread each
        self._told = 0
        self._told_s: float | None = None
        self._why = ""
        self.sent = 0
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._refused + self._lost

    def on_end(self, span: ReadableSpan) -> None:
        """On the thread that made it."""
        if self._closing or len(self._spans) >= QUEUE_MAX:
            self._refused += 1
            return
        self._spans.append(span)
        if len(self._spans) >= BATCH_SPANS and not self._wake.is_set():
            self._wake.set()

    def close(self, deadline_s: float) -> None:
        self._closing = True
        self._wake.set()
        self._thread.join(deadline_s)
        self._given_up = True
        self._exporter.shutdown()  # ends its waiting to try again
        self._tell(left=len(self._spans))

    def _run(self) -> None:
        while not self._given_up:
            self._wake.wait(EXPORT_EVERY_S)
            self._wake.clear()
            closing = self._closing
            while self._spans and not self._given_up:
                self._send([self._spans.popleft() for _ in range(min(BATCH_SPANS, len(self._spans)))])
            if closing:
                return

    def _send(self, spans: list[ReadableSpan]) -> None:
        if self._exporter.export(spans) is SpanExportResult.SUCCESS:
            self.sent += len(spans)
            self._why = ""
        else:
            self._lost += len(spans)
            self._why = self._session.said
        if not self._given_up:
            self._tell()

    def _tell(self, left: int = 0) -> None:
        """Once a minute at most, and at the end."""
        self._lost += left
        count, now = self.dropped - self._told, self._monotonic()
        if count and (left or self._told_s is None or now - self._told_s >= WARN_EVERY_S):
            self._told, self._told_s = self.dropped, now
            why = self._why or "there are more than it takes in time"
            logger.warning("%s spans are lost, the collector does not take them (%s); deliveries go on", count, why)
