"""Spans of the stages: which there are, what hangs on what, what they say and what never."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from connectors.memory import MemorySpan, MemoryTracer
from schemas.event import encode_event
from schemas.post import PostResult
from schemas.trace_context import parse_traceparent
from streams.attempt_log import LoggedRecords
from streams.requests import Outgoing
from streams.tracing import FanOutSpans, TracedRecords, Tracing
from tests.unit import test_fan_out_stage
from tests.unit.stages import TOPICS, subscription, turns
from tests.unit.test_dispatch import OK, REFUSED, SCHEMAS, Stage, fresh, with_headers
from tests.unit.test_fan_out_stage import CE, avro, event

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
OTHER = f"00-{'c' * 32}-{'d' * 16}-01"
COMMIT = f"commit {TOPICS.deliveries}"


def traced(endpoint: Any = None, *, sample: bool = True) -> tuple[Stage, MemoryTracer]:
    stage = Stage(endpoint) if endpoint else Stage()
    tracer = MemoryTracer(sample=sample)
    tracing = Tracing(tracer, stage.settler, TOPICS)
    stage.stage._make_outgoing = tracing.outgoing
    stage.stage._records = TracedRecords(TOPICS, SCHEMAS, tracing)
    return stage, tracer


def attempts(tracer: MemoryTracer) -> list[MemorySpan]:
    assert all(span.ended for span in tracer.spans)
    return [span for span in tracer.spans if span.name.startswith("POST")]


# --- attempts ---------------------------------------------------------------------------------------------------------


async def test_every_try_has_its_span_and_the_receiver_gets_that_one() -> None:
    answers = iter([REFUSED, PostResult(503, 9, excerpt=b"the body says secret"), OK])
    world, tracer = traced(lambda posted: next(answers))
    url = "https://user-7.example:8443/hook/a?token=secret"
    world.table.put(subscription("sub_1", url=url, headers={"x": "secret"}, retry_schedule_ms=(5_000, 5_000)))
    async with world.running():
        await world.admit(fresh(1, traceparent=SAMPLED))
        await world.settled()
        for number in range(2):
            again = world.tier("5s")[number]
            world.clock.advance_ms(6_000)
            await world.admit(again.value, topic=again.topic, timestamp_ms=world.clock.now_ms() - 6_000)
            await world.settled()
    first, second, third = attempts(tracer)
    assert [posted.headers["traceparent"] for posted in world.sender.posted] == [
        span.traceparent for span in (first, second, third)
    ]
    assert {span.parent for span in (first, second, third)} == {SAMPLED}
    assert first.attributes == {
        "http.request.method": "POST",
        "url.full": "https://user-7.example:8443/hook/a?REDACTED",
        "server.address": "user-7.example",
        "server.port": 8443,
        "http.request.body.size": len(b'{"n":1}'),
        "webhook.id": world.attempts()[0]["delivery_id"],
        "cloudevents.event_id": "evt_1",
        "cloudevents.event_type": "order.created",
        "distributary.subscription.id": "sub_1",
        "distributary.tenant": "default",
        "distributary.delivery.id": world.attempts()[0]["delivery_id"],
        "distributary.attempt": 1,
        "distributary.outcome": "retryable",
        "distributary.due_ms": world.attempts()[0]["due_ms"],
    }
    told = ("distributary.attempt", "http.request.resend_count", "http.response.status_code", "distributary.outcome")
    assert [(*map(span.attributes.get, told), span.error) for span in (first, second, third)] == [
        (1, None, None, "retryable", "connect_failed"),
        (2, 1, 503, "retryable", "503"),
        (3, 2, 204, "delivered", ""),
    ]
    commits = [span for span in tracer.spans if span.name == COMMIT]
    assert [span.parent for span in commits] == [span.traceparent for span in (first, second, third)]
    assert len(tracer.spans) == 6
    assert "secret" not in str([(span.name, span.attributes) for span in tracer.spans])


async def test_a_settlement_lasts_until_it_is_durable() -> None:
    world, tracer = traced()
    world.table.put(subscription())
    world.settler._group_entries_max = 1
    seen: list[list[bool]] = []
    await world.admit(*(fresh(number, traceparent=SAMPLED) for number in (1, 2)))  # nobody writes groups yet
    await turns()
    commits = [span for span in tracer.spans if span.name == COMMIT]
    assert [span.ended for span in commits] == [False, False]
    world.settler.on_settled(lambda: seen.append([span.ended for span in commits]))
    async with world.running():
        await world.settled()
    assert seen == [[True, False], [True, True]]


async def test_an_unsampled_trace_goes_on_as_it_is() -> None:
    world, tracer = traced()
    world.table.put(subscription())
    async with world.running():
        await world.admit(fresh(1, traceparent=UNSAMPLED))
        await world.settled()
    assert [posted.headers["traceparent"] for posted in world.sender.posted] == [UNSAMPLED]
    assert tracer.spans == []


@pytest.mark.parametrize("sample", [True, False])
async def test_what_has_no_trace_begins_one_as_the_sampling_says(sample: bool) -> None:
    world, tracer = traced(sample=sample)
    world.table.put(subscription())
    async with world.running():
        await world.admit(fresh(1), fresh(2, traceparent="not valid"))
        await world.settled()
    sent = [parse_traceparent(posted.headers["traceparent"]) for posted in world.sender.posted]
    assert [known and known.sampled for known in sent] == [sample, sample]
    assert len({known.trace_id for known in sent if known}) == 2
    assert len(attempts(tracer)) == (2 if sample else 0)


async def test_a_tracestate_goes_with_it_and_a_replay_is_named() -> None:
    world, tracer = traced()
    world.table.put(subscription())
    async with world.running():
        await world.admit(with_headers(1, tracestate="rojo=1", webhook_replay="rpl_1"))
        await world.settled()
    (span,) = attempts(tracer)
    assert span.attributes["distributary.replay"] == "rpl_1"
    assert span.tracestate == world.sender.posted[0].headers["tracestate"] == "rojo=1"


async def test_what_ends_without_an_answer_has_no_outcome() -> None:
    world, tracer = traced(lambda posted: None)
    world.table.put(subscription())
    async with world.running():
        await world.admit(fresh(1, traceparent=SAMPLED))
        await turns()
        await world.sender.close()
        await world.settled()
    (span,) = attempts(tracer)
    assert span.error == "shutdown"
    assert "distributary.outcome" not in span.attributes


async def test_each_delivery_of_a_batch_has_a_span_in_its_own_trace() -> None:
    world, tracer = traced(lambda posted: PostResult(400, 1))
    world.table.put(subscription(batch_max=10, max_in_flight=1, reject_statuses=(400,)))
    given: list[dict[str, Any]] = [{"traceparent": each} for each in (UNSAMPLED, SAMPLED, OTHER)]
    async with world.running():
        await world.admit(fresh(1), *(fresh(number, **each) for number, each in enumerate(given, 2)))
        await world.settled()
    (posted,) = world.sender.posted
    post, other = attempts(tracer)
    assert posted.headers["traceparent"] == post.traceparent
    assert (post.name, post.kind, post.parent, post.links) == ("POST", "client", SAMPLED, (UNSAMPLED, OTHER))
    assert (other.name, other.kind, other.parent) == ("POST in a batch", "internal", OTHER)
    assert other.links == (post.traceparent,)
    assert post.attributes["messaging.batch.message_count"] == 4
    for span in (post, other):
        assert span.attributes["webhook.id"] == posted.headers["webhook-id"]
        assert (span.attributes["distributary.outcome"], span.error) == ("rejected", "400")


async def test_a_batch_without_a_recorded_trace_is_sent_without_one() -> None:
    world, tracer = traced()
    world.table.put(subscription(batch_max=10, max_in_flight=1))
    async with world.running():
        await world.admit(fresh(1, traceparent=UNSAMPLED), fresh(2, traceparent=UNSAMPLED))
        await world.settled()
    (posted,) = world.sender.posted
    assert "traceparent" not in posted.headers
    assert tracer.spans == []


async def test_the_lines_of_attempts_name_the_span_that_was_sent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "distributary.attempts")
    world, tracer = traced()
    tracing = Tracing(tracer, world.settler, TOPICS)
    world.stage._make_outgoing = tracing.outgoing
    world.stage._records = LoggedRecords(TOPICS, SCHEMAS, world.table, "w1", tracing)
    world.table.put(subscription("sub_1"))
    async with world.running():
        await world.admit(fresh(1, traceparent=SAMPLED), fresh(2, "sub_gone", traceparent=SAMPLED))
        await world.settled()
    lines = [record.fields for record in caplog.records if record.name == "distributary.attempts"]  # type: ignore[attr-defined]
    named = {each["outcome"]: (each["trace_id"], each["span_id"]) for each in lines}
    (span,) = attempts(tracer)
    known = parse_traceparent(span.traceparent)
    assert known is not None
    assert named == {"delivered": (TRACE, known.span_id), "cancelled": (TRACE, SPAN)}
    assert span.attributes["distributary.outcome"] == "delivered"


@pytest.mark.parametrize(
    ("url", "shown", "port"),
    [
        ("https://a.example", "https://a.example/", 443),
        ("http://[::1]:8080/x", "http://[::1]:8080/x", 8080),
        ("http://127.0.0.1/x?a=1", "http://127.0.0.1/x?REDACTED", 80),
    ],
)
async def test_where_it_goes_without_what_may_be_secret(url: str, shown: str, port: int) -> None:
    world, tracer = traced()
    world.table.put(subscription(url=url))
    async with world.running():
        await world.admit(fresh(1, traceparent=SAMPLED))
        await world.settled()
    (span,) = attempts(tracer)
    assert (span.attributes["url.full"], span.attributes["server.port"]) == (shown, port)


async def test_off_is_the_plain_thing() -> None:
    stage = Stage().stage
    assert stage._make_outgoing is Outgoing


# --- fan-out ----------------------------------------------------------------------------------------------------------


def fanning(*, sample: bool = True) -> tuple[test_fan_out_stage.Stage, MemoryTracer]:
    world = test_fan_out_stage.Stage()
    tracer = MemoryTracer(sample=sample)
    world.stage._spans = FanOutSpans(tracer, TOPICS, "group")
    return world, tracer


async def test_an_event_that_is_asked_for_has_a_span_and_its_deliveries_follow_on_it() -> None:
    world, tracer = fanning()
    schema_id = await world.envelope()
    world.table.put(subscription("a"))
    world.table.put(subscription("b", format="cloudevents_structured"))
    value = encode_event(schema_id, event(traceparent=SAMPLED))
    async with world.running():
        await world.process(encode_event(schema_id, event(9, "unheard.of", traceparent=SAMPLED)), value)
    (span,) = tracer.spans
    made = world.deliveries(TOPICS.deliveries)
    assert {one.traceparent for one in made} == {span.traceparent}
    assert any(SAMPLED.encode() in one.body for one in made)  # the CloudEvent says where it began
    assert (span.name, span.kind, span.parent, span.ended) == (f"fan-out {TOPICS.events}", "consumer", SAMPLED, True)
    assert span.attributes == {
        "messaging.system": "kafka",
        "messaging.operation.type": "process",
        "messaging.operation.name": "fan-out",
        "messaging.destination.name": TOPICS.events,
        "messaging.consumer.group.name": "group",
        "messaging.destination.partition.id": "0",
        "messaging.kafka.offset": 1,
        "messaging.message.body.size": len(value),
        "cloudevents.event_id": "evt_1",
        "cloudevents.event_type": "order.created",
        "distributary.tenant": "default",
        "distributary.deliveries": 2,
        "distributary.dead_letters": 0,
    }


@pytest.mark.parametrize("sample", [True, False])
async def test_the_deliveries_of_an_event_without_a_trace_share_one(sample: bool) -> None:
    world, tracer = fanning(sample=sample)
    schema_id = await world.envelope()
    world.table.put(subscription("a"))
    world.table.put(subscription("b"))
    async with world.running():
        await world.process(encode_event(schema_id, event()), encode_event(schema_id, event(2, traceparent=UNSAMPLED)))
    first, second, *others = [one.traceparent for one in world.deliveries(TOPICS.deliveries)]
    known = parse_traceparent(first)
    assert first == second
    assert known is not None
    assert known.sampled is sample
    assert others == [UNSAMPLED, UNSAMPLED]
    assert len(tracer.spans) == sample


async def test_dead_letters_of_fan_out_are_told_and_keep_the_trace() -> None:
    world, tracer = fanning()
    schema = '{"type": "record", "name": "N", "fields": [{"name": "n", "type": "long"}]}'
    schema_id = await world.register(schema)
    world.table.put(subscription("bad", transform="abs('x')"))
    async with world.running():
        await world.process(avro(schema_id, schema, {"n": 1}), headers=[*CE, ("traceparent", SAMPLED.encode())])
    (span,) = tracer.spans
    assert (span.error, span.attributes["distributary.dead_letters"]) == ("dead_letter", 1)
    (letter,) = world.written(TOPICS.dead)
    assert span.traceparent.encode() in (letter.value or b"")
