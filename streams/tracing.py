"""Spans of fan-out, attempts and settlements, by OpenTelemetry's semantic conventions for HTTP and messaging.

All of it stands beside the stages: what a lane sends and the records are made by another class where traces are on, so
nothing is spent where they are off. What may be secret is in no span: no header, no body, no answer, no sentence of an
error, and of a URL no query. This file knows the port alone; what sends spans is in `connectors/otel.py`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from functools import partial
from urllib.parse import urlsplit

import msgspec

from schemas.delivery import Delivery, facts_of, replay_of
from schemas.event import Event
from schemas.frame import Out, Record
from schemas.post import PostDone, PostResult
from schemas.subscription import Subscription
from schemas.topics import Topics
from schemas.trace_context import TRACESTATE, Attributes, Kind, parse_traceparent
from streams.core.verdict import succeeded
from streams.ports import Opener, Sender, Span, Tracer
from streams.records import DeliverySchemas, Records
from streams.requests import Outgoing, for_all
from streams.settle import Settler
from streams.tokens import Tokens

POST = "POST"


class FanOutSpans:
    """One span for each event that subscriptions ask for."""

    def __init__(self, tracer: Tracer, topics: Topics, group: str) -> None:
        self._tracer = tracer
        self._topics = topics
        self._name = f"fan-out {topics.events}"
        self._known: Attributes = {
            "messaging.system": "kafka",
            "messaging.operation.type": "process",
            "messaging.operation.name": "fan-out",
            "messaging.destination.name": topics.events,
            "messaging.consumer.group.name": group,
        }

    def start(self, event: Event, record: Record, partition: int) -> tuple[Span, Event]:
        """The span, and the event whose deliveries follow on it."""
        span = self._tracer.start(self._name, "consumer", event.traceparent, self._known, tracestate=event.tracestate)
        if span.recorded:
            span.set(
                {
                    "messaging.destination.partition.id": str(partition),
                    "messaging.kafka.offset": record.offset(),
                    "messaging.message.body.size": len(record.value() or b""),
                    "cloudevents.event_id": event.id,
                    "cloudevents.event_type": event.type,
                    "distributary.tenant": event.tenant,
                }
            )
        if span.traceparent != event.traceparent:
            event = msgspec.structs.replace(event, hop=span.traceparent)
        return span, event

    def end(self, span: Span, planned: Sequence[Out]) -> None:
        """With what became of the event."""
        if span.recorded:
            made = Counter(topic for topic, *_ in planned)
            dead = made[self._topics.dead]
            span.set({"distributary.deliveries": made[self._topics.deliveries], "distributary.dead_letters": dead})
            span.end("dead_letter" if dead else "")


class Tracing:
    """The spans of a delivery stage. Call its methods on the event loop only."""

    def __init__(self, tracer: Tracer, settler: Settler, topics: Topics) -> None:
        self.tracer = tracer
        self._settler = settler
        self._settlement: Attributes = {
            "messaging.system": "kafka",
            "messaging.operation.type": "settle",
            "messaging.operation.name": "commit",
            "messaging.destination.name": topics.deliveries,
        }
        self._commit = f"commit {topics.deliveries}"
        self._answered: dict[str, Span] = {}  # by delivery id: those of the answer that is judged now
        self._judged: list[Span] = []  # of them, those of which something is to be written
        self._unsettled: deque[tuple[int, Span]] = deque()  # until their records are durable
        settler.on_settled(self._on_settled)

    def outgoing(self, subscription: Subscription, sender: Sender, opener: Opener, tokens: Tokens) -> Outgoing:
        """What a lane sends, with spans."""
        return TracedOutgoing(subscription, sender, opener, tokens, self)

    def judged(self, delivery: Delivery, outcome: str, due_ms: int) -> str | None:
        """What an attempt came to; the `traceparent` of its span, or of whatever it belongs to."""
        span = self._answered.get(delivery.id)
        if span is None:
            return delivery.traceparent
        self._judged.append(span)
        span.set({"distributary.outcome": outcome} | ({"distributary.due_ms": due_ms} if due_ms else {}))
        return span.traceparent

    def answered(self, spans: Sequence[tuple[str, Span]], done: PostDone, result: PostResult) -> None:
        """A POST ended: the stage judges it, which says the outcome, and then its spans end. `spans` has the delivery's
        id with each."""
        self._answered = dict(spans)
        done(result)
        self._answered, judged, self._judged = {}, self._judged, []
        error = "" if succeeded(result) else result.cause or str(result.status)
        ticket = self._settler.ticket()
        for _, span in spans:
            if result.status:
                span.set({"http.response.status_code": result.status})
            span.end(error)
        for span in judged:
            settling = self.tracer.start(self._commit, "client", span.traceparent, self._settlement)
            self._unsettled.append((ticket, settling))

    def _on_settled(self) -> None:
        while self._unsettled and self._unsettled[0][0] <= self._settler.settled:
            self._unsettled.popleft()[1].end()


class TracedOutgoing(Outgoing):
    """The POSTs of one version of a subscription, each with a span, whose `traceparent` the receiver gets."""

    __slots__ = ("_known", "_tracing")

    def __init__(
        self, subscription: Subscription, sender: Sender, opener: Opener, tokens: Tokens, tracing: Tracing
    ) -> None:
        super().__init__(subscription, sender, opener, tokens)
        self._tracing = tracing
        self._known: Attributes = {
            "http.request.method": "POST",
            **_url(subscription.url),
            "distributary.subscription.id": subscription.id,
            "distributary.tenant": subscription.tenant,
        }

    def post(self, identifier: str, delivery: Delivery, body: bytes, now_ms: int, done: PostDone) -> None:
        """See `Outgoing`."""
        state = next((text for name, text in delivery.headers if name == TRACESTATE), None)
        span = self._start(POST, delivery, identifier, body, state)
        if span.recorded:
            done = partial(self._tracing.answered, ((delivery.id, span),), done)
        if span.traceparent != delivery.traceparent:
            delivery = msgspec.structs.replace(delivery, traceparent=span.traceparent)
        super().post(identifier, delivery, body, now_ms, done)

    def post_batch(
        self, identifier: str, deliveries: Sequence[Delivery], body: bytes, now_ms: int, done: PostDone
    ) -> None:
        """See `Outgoing`. The POST's span is in the trace of the first delivery that is recorded, and has links to all;
        each other one has a span in its own trace, with a link to that."""
        sampled = [each for each in deliveries if (known := parse_traceparent(each.traceparent)) and known.sampled]
        first = sampled[0] if sampled else deliveries[0]
        links = [each.traceparent for each in deliveries if each.traceparent is not None and each is not first]
        span = self._start(POST, first, identifier, body, None, links)
        if span.recorded:
            span.set({"messaging.batch.message_count": len(deliveries)})
            spans = [(first.id, span)]
            for each in sampled[1:]:
                other = self._start(f"{POST} in a batch", each, identifier, each.body, None, [span.traceparent])
                spans.append((each.id, other))
            done = partial(self._tracing.answered, spans, done)
        shared = for_all(deliveries[0], span.traceparent if span.recorded else None)
        super().post(identifier, shared, body, now_ms, done)

    def _start(
        self,
        name: str,
        delivery: Delivery,
        identifier: str,
        body: bytes,
        tracestate: str | None,
        links: Sequence[str] = (),
    ) -> Span:
        kind: Kind = "client" if name == POST else "internal"
        start = self._tracing.tracer.start
        span = start(name, kind, delivery.traceparent, self._known, tracestate=tracestate, links=links)
        if span.recorded:
            facts = facts_of(delivery)
            span.set(
                {
                    "http.request.body.size": len(body),
                    "webhook.id": identifier,
                    "cloudevents.event_id": facts.event_id,
                    "cloudevents.event_type": facts.event_type,
                    "distributary.delivery.id": delivery.id,
                    "distributary.attempt": delivery.attempt + 1,
                }
            )
            if delivery.attempt:
                span.set({"http.request.resend_count": delivery.attempt})
            if replay := replay_of(delivery):
                span.set({"distributary.replay": replay})
        return span


class TracedRecords(Records):
    """Makes the records, and says in spans what attempts came to."""

    def __init__(self, topics: Topics, schema_ids: DeliverySchemas, tracing: Tracing) -> None:
        super().__init__(topics, schema_ids)
        self._tracing = tracing

    def attempt(
        self, delivery: Delivery, number: int, outcome: str, started_ms: int, result: PostResult, due_ms: int = 0
    ) -> Out:
        """See `Records`."""
        self._tracing.judged(delivery, outcome, due_ms)
        return super().attempt(delivery, number, outcome, started_ms, result, due_ms)


def _url(url: str) -> dict[str, str | int]:
    """Where a request goes, without what may be secret: no credentials and no query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    shown = f"[{host}]" if ":" in host else host
    authority = shown if parts.port is None else f"{shown}:{port}"
    query = "?REDACTED" if parts.query else ""
    return {
        "url.full": f"{parts.scheme}://{authority}{parts.path or '/'}{query}",
        "server.address": host,
        "server.port": port,
    }
