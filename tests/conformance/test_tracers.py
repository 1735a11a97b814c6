"""What every tracer does: the fake, and OpenTelemetry's with a collector at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from connectors.clock import SystemClock
from connectors.memory import MemoryTracer
from connectors.otel import OtelTracer
from schemas.trace_context import parse_traceparent
from streams.ports import Tracer
from tests.otlp import Seen, collecting

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
OTHER = f"00-{'c' * 32}-{'d' * 16}-01"

#: A tracer that records new traces or not, and what became of its spans: asked once, at the end.
World = tuple[Tracer, Callable[[], list[Seen]]]


def _of_memory(sample: bool) -> Iterator[World]:
    tracer = MemoryTracer(sample=sample)

    def ended() -> list[Seen]:
        found = []
        for span in tracer.spans:
            context = parse_traceparent(span.traceparent)
            parent = parse_traceparent(span.parent)
            assert context is not None
            if span.ended:
                links = [known for each in span.links if (known := parse_traceparent(each))]
                errors = {"error.type": span.error} if span.error else {}
                found.append(
                    Seen(
                        name=span.name,
                        kind=span.kind,
                        trace_id=context.trace_id,
                        span_id=context.span_id,
                        parent_id="" if parent is None else parent.span_id,
                        tracestate=span.tracestate or "",
                        attributes=span.attributes | errors,
                        links=tuple((link.trace_id, link.span_id) for link in links),
                        failed=bool(span.error),
                        start_ns=1,
                        end_ns=1,
                        resource={},
                    )
                )
        return found

    yield tracer, ended


def _of_otel(sample: bool) -> Iterator[World]:
    with collecting() as collector:
        tracer = OtelTracer(monotonic=SystemClock().monotonic, endpoint=collector.url, ratio=float(sample))

        def ended() -> list[Seen]:
            tracer.close(60)
            assert (tracer.sent, tracer.dropped) == (len(collector.spans), 0)
            return collector.spans

        yield tracer, ended
        tracer.close(0)


@pytest.fixture(params=[_of_memory, _of_otel], ids=["memory", "otel"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    yield from request.param(True)


@pytest.fixture(params=[_of_memory, _of_otel], ids=["memory", "otel"])
def unsampled(request: pytest.FixtureRequest) -> Iterator[World]:
    yield from request.param(False)


def test_a_trace_of_two_spans(world: World) -> None:
    tracer, ended = world
    root = tracer.start("fan-out", "consumer", None, {"a": "x", "n": 1})
    child = tracer.start("POST", "client", root.traceparent, {})
    child.set({"yes": True})
    child.end("timeout")
    root.end()
    tracer.start("never ended", "internal", None, {})
    first, second = sorted(ended(), key=lambda span: span.kind, reverse=True)
    assert root.recorded
    assert child.recorded
    assert (first.name, first.kind, first.parent_id, first.failed) == ("fan-out", "consumer", "", False)
    assert first.attributes == {"a": "x", "n": 1}
    assert (second.name, second.kind, second.failed) == ("POST", "client", True)
    assert second.attributes == {"yes": True, "error.type": "timeout"}
    assert (second.trace_id, second.parent_id) == first.traceparent
    for made, seen in ((root, first), (child, second)):
        known = parse_traceparent(made.traceparent)
        assert known is not None
        assert (known.trace_id, known.span_id, known.sampled) == (*seen.traceparent, True)
    assert 0 < second.start_ns <= second.end_ns


def test_a_sampled_parent_from_elsewhere_is_followed_whatever_the_sampling(unsampled: World) -> None:
    tracer, ended = unsampled
    span = tracer.start("POST", "client", SAMPLED, {}, tracestate="rojo=1,congo=2", links=[OTHER, "none", UNSAMPLED])
    span.end()
    (seen,) = ended()
    assert (seen.trace_id, seen.parent_id, seen.tracestate) == (TRACE, SPAN, "rojo=1,congo=2")
    assert seen.links == (("c" * 32, "d" * 16), (TRACE, SPAN))
    assert span.traceparent.startswith(f"00-{TRACE}-{seen.span_id}-")


def test_an_unsampled_parent_is_passed_on_as_it_came(world: World) -> None:
    tracer, ended = world
    for parent in (UNSAMPLED, f"cc-{TRACE}-{SPAN}-00-more"):
        span = tracer.start("POST", "client", parent, {"a": 1})
        span.set({"b": 2})
        span.end("timeout")
        assert (span.recorded, span.traceparent) == (False, parent)
    assert ended() == []


@pytest.mark.parametrize("parent", [None, "", "00-1-2-01", f"00-{'0' * 32}-{SPAN}-01"])
def test_what_is_no_parent_begins_a_trace(world: World, parent: str | None) -> None:
    tracer, ended = world
    tracer.start("POST", "client", parent, {}).end()
    (seen,) = ended()
    assert seen.parent_id == ""
    assert seen.trace_id != TRACE


def test_a_new_trace_that_is_not_sampled_says_so_to_those_that_follow(unsampled: World) -> None:
    tracer, ended = unsampled
    root = tracer.start("fan-out", "consumer", None, {})
    child = tracer.start("POST", "client", root.traceparent, {})
    child.end()
    root.end()
    known = parse_traceparent(root.traceparent)
    assert known is not None
    assert not known.sampled
    assert (root.recorded, child.recorded, child.traceparent) == (False, False, root.traceparent)
    assert ended() == []
