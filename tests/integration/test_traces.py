"""Traces on a real Kafka, with a real collector: from the producer's span to the request that a receiver gets."""

from __future__ import annotations

from typing import Any

from connectors.local_kafka import Cluster
from schemas.event import Event, encode_event
from schemas.frame import Headers
from schemas.trace_context import parse_traceparent
from tests.helpers import eventually_async
from tests.integration.sink import Sink
from tests.integration.workers import Site
from tests.metrics import scrape, value
from tests.otlp import Collector, Seen, collecting

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{'a' * 32}-{'b' * 16}-00"


def sent_to(sink: Sink, path: str) -> list[str]:
    """The `traceparent` of each request there, in their order."""
    return [received.headers["traceparent"] for received in sink.received if received.path == path]


def named(traceparent: str) -> tuple[str, str]:
    known = parse_traceparent(traceparent)
    assert known is not None
    return known.trace_id, known.span_id


def posts(collector: Collector, subscription_id: str) -> list[Seen]:
    found = [
        span for span in collector.named("POST") if span.attributes["distributary.subscription.id"] == subscription_id
    ]
    return sorted(found, key=lambda span: span.start_ns)


async def test_one_trace_from_the_producer_to_the_receiver(kafka: Cluster, prefix: str) -> None:
    with collecting() as collector:
        site = await Site.made(
            kafka.bootstrap,
            prefix,
            traces=True,
            traces_endpoint=collector.url,
            traces_ratio=1.0,
            metrics_port=0,
            circuit_results_min=0,
        )

        def produce(number: int, headers: Headers | None = None, **event: Any) -> None:
            one = Event(f"evt_{number}", "order.created", "default", 1_700_000_000_000, b"{}", **event)
            site.write(site.topics.events, [(b"k", encode_event(site.schemas.event, one))], headers=headers)

        async with Sink().running() as sink:
            site.subscribe("ok", sink.url("/ok?key=secret"))
            site.subscribe("flaky", sink.url("/flaky/1"), retry_schedule_ms=(1_000,))
            site.subscribe("dead", sink.url("/status/400"), reject_statuses=(400,))
            async with site.worker() as worker:
                produce(1, headers=[("traceparent", SAMPLED.encode()), ("tracestate", b"rojo=1")])
                produce(2, traceparent=UNSAMPLED)
                produce(3)

                async def all_sent() -> bool:
                    return value(await scrape(worker.metrics_url), "distributary_spans_total", result="sent") == 18

                await eventually_async(all_sent)
                # A collector that hangs delays nothing.
                collector.open.clear()
                before = len(sink.received)
                for number in range(10, 20):
                    produce(number)
                await eventually_async(lambda: len(sink.received) >= before + 40)
                collector.open.set()
    # Two recorded traces: the producer's, and a new one; of each one fan-out, four POSTs, and four commits.
    first = [span for span in collector.spans if span.trace_id == TRACE]
    (fan_out,) = [span for span in first if span.name == f"fan-out {site.topics.events}"]
    assert (fan_out.parent_id, fan_out.kind, fan_out.tracestate) == (SPAN, "consumer", "rojo=1")
    assert fan_out.attributes["distributary.deliveries"] == 3
    tries = {
        each: [span for span in posts(collector, each) if span.trace_id == TRACE] for each in ("ok", "flaky", "dead")
    }
    assert {each: len(spans) for each, spans in tries.items()} == {"ok": 1, "flaky": 2, "dead": 1}
    commits = [span for span in first if span.name == f"commit {site.topics.deliveries}"]
    assert len(first) == 9
    for spans in tries.values():
        for span in spans:
            assert span.parent_id == fan_out.span_id
            assert [each.parent_id for each in commits].count(span.span_id) == 1
    assert [span.attributes["distributary.outcome"] for span in tries["flaky"]] == ["retryable", "delivered"]
    assert [span.attributes["distributary.attempt"] for span in tries["flaky"]] == [1, 2]
    (dead,) = tries["dead"]
    assert (dead.failed, dead.attributes["error.type"], dead.attributes["distributary.outcome"]) == (
        True,
        "400",
        "rejected",
    )
    (ok,) = tries["ok"]
    assert ok.attributes["url.full"] == sink.url("/ok?REDACTED")
    assert ok.resource["service.name"] == "distributary"
    # What receivers got names the attempt, try by try.
    of_first = {
        path: [named(each) for each in sent_to(sink, path) if TRACE in each]
        for path in ("/ok?key=secret", "/flaky/1", "/status/400")
    }
    assert of_first == {
        "/ok?key=secret": [ok.traceparent],
        "/flaky/1": [span.traceparent for span in tries["flaky"]],
        "/status/400": [dead.traceparent],
    }
    states = {
        received.headers.get("tracestate") for received in sink.received if TRACE in received.headers["traceparent"]
    }
    assert states == {"rojo=1"}
    # Unsampled: as it was, and nothing of it at the collector.
    assert sent_to(sink, "/ok?key=secret").count(UNSAMPLED) == 1
    assert not [span for span in collector.spans if span.trace_id == "a" * 32]
    # Without a trace: one of its own.
    roots = [span for span in collector.named(f"fan-out {site.topics.events}") if not span.parent_id]
    assert {"evt_3"} <= {span.attributes["cloudevents.event_id"] for span in roots}
    # The dead letter keeps the fan-out's trace, for who replays it.
    assert {named(one["delivery"]["traceparent"])[0] for one in site.dead()} >= {TRACE}
