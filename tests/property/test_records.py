"""Deliveries, attempts and dead letters: our hand-written encodings against fastavro's on the same schemas."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec, ids
from schemas.delivery import (
    FRESH,
    OUTCOMES,
    REPLAY_HEADER,
    Attempt,
    Delivery,
    Try,
    Wire,
    dead_letter_schema,
    decode_delivery,
    encode_attempt,
    encode_dead_letter,
    encode_delivery,
    encode_fresh,
    encode_tail,
    replay_of,
)
from schemas.errors import UndecodableError
from schemas.event import Event
from schemas.subscription import Subscription
from streams.core.fanout import Targets, deliveries
from streams.core.formats import render
from streams.core.views import View

DELIVERY = [codec.parse_schema(codec.own_schema(f"delivery.v{version}")) for version in (1, 2)]
ATTEMPT = codec.parse_schema(codec.own_schema("attempt.v1"))
DEAD_LETTER = codec.parse_schema(dead_letter_schema())
HEADER = codec.wire_header(7)
WIRE = Wire(HEADER, codec.wire_header(8))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
longs = st.integers(-(2**63), 2**63 - 1)
times = st.integers(0, 2**50)
ints = st.integers(-(2**31), 2**31 - 1)

events = st.builds(
    Event,
    id=texts,
    type=st.just("order.created"),
    tenant=texts,
    time_ms=st.integers(0, 253_402_300_799_999),
    data=st.binary(max_size=60),
    subject=st.none() | texts,
    traceparent=st.none() | texts,
)
header_names = st.sampled_from([f"ce-{letter}" for letter in "abcdefgh"] + ["webhook-version"])
replays = st.none() | st.from_regex(r"rpl_[0-9a-z]{1,20}", fullmatch=True)
headers = st.builds(
    lambda pairs, replay: (*pairs.items(), *([] if replay is None else [(REPLAY_HEADER, replay)])),
    st.dictionaries(header_names, texts, max_size=4),
    replays,
)
tries = st.builds(Try, longs, longs, ints, texts, st.binary(max_size=20))


def read(event: Event, received_ms: int, subscription_id: str) -> Delivery:
    tail = encode_tail(event, received_ms, "application/json", event.data)
    return decode_delivery(encode_fresh(HEADER, "dlv_x", codec.put_string(subscription_id) + FRESH, tail))


@given(events, times, texts, ints, longs, longs, st.lists(tries, max_size=4), headers)
def test_a_delivery_means_the_same_to_fastavro(
    event: Event, received_ms: int, subscription_id: str, attempt: int, due: int, first: int, memory: list[Try],
    sent: tuple[tuple[str, str], ...],
) -> None:  # fmt: skip
    delivery = msgspec.structs.replace(
        read(event, received_ms, subscription_id),
        attempt=attempt,
        due_ms=due,
        first_attempt_ms=first,
        tries=tuple(memory),
        headers=sent,
    )
    value = encode_delivery(WIRE, delivery)
    version = 2 if sent else 1
    assert value.startswith(WIRE[version - 1])
    fields = {
        "id": "dlv_x",
        "subscription_id": subscription_id,
        "attempt": attempt,
        "due_ms": due,
        "first_attempt_ms": first,
        "attempts": [msgspec.structs.asdict(entry) for entry in memory],
        "traceparent": event.traceparent,
        "content_type": "application/json",
        "body": event.data,
        "event_id": event.id,
        "event_type": event.type,
        "tenant": event.tenant,
        "event_time_ms": event.time_ms,
        "received_ms": received_ms,
        "subject": event.subject,
    }
    of_both = fields | {"headers": dict(sent)}
    assert codec.decode(value, DELIVERY[version - 1]) == (of_both if sent else fields)
    assert codec.decode(value, DELIVERY[version - 1], DELIVERY[1]) == of_both  # as whoever reads the newest
    assert decode_delivery(value, version) == delivery


@given(events, times, texts, headers)
def test_what_fastavro_writes_as_version_2_is_read(
    event: Event, received_ms: int, subscription_id: str, sent: tuple[tuple[str, str], ...]
) -> None:
    delivery = msgspec.structs.replace(read(event, received_ms, subscription_id), headers=sent)
    value = encode_delivery(Wire(HEADER, HEADER), delivery)
    fields = codec.decode(value, DELIVERY[1 if sent else 0], DELIVERY[1])
    assert decode_delivery(codec.encode(7, DELIVERY[1], fields), 2) == delivery


@given(events, times, texts, headers)
def test_the_tail_of_fresh_deliveries_has_the_headers(
    event: Event, received_ms: int, subscription_id: str, sent: tuple[tuple[str, str], ...]
) -> None:
    tail = encode_tail(event, received_ms, "application/json", event.data, sent)
    value = encode_fresh(HEADER, "dlv_x", codec.put_string(subscription_id) + FRESH, tail)
    assert decode_delivery(value, 2 if sent else 1).headers == sent


@pytest.mark.parametrize("name", ["webhook-signature", "content-length", "Host", "X-Upper", "a b", ""])
def test_a_header_that_only_the_engine_writes_is_refused(name: str) -> None:
    delivery = msgspec.structs.replace(read(Event("e", "a.b", "t", 0, b"1"), 0, "s"), headers=((name, "1"),))
    with pytest.raises(UndecodableError) as refused:
        decode_delivery(encode_delivery(WIRE, delivery), 2)
    assert refused.value.reason == "bad_header"


@pytest.mark.parametrize("replay", ["", "two words", "rpl_1\n", "r\u00e9", "x" * 65])
def test_a_marker_that_is_no_id_is_refused(replay: str) -> None:
    """It is sent and signed: nothing may stand in it that a header cannot hold."""
    marked = msgspec.structs.replace(
        read(Event("e", "a.b", "t", 0, b"1"), 0, "s"), headers=(("ce-id", "1"), (REPLAY_HEADER, replay))
    )
    with pytest.raises(UndecodableError) as refused:
        decode_delivery(encode_delivery(WIRE, marked), 2)
    assert refused.value.reason == "bad_header"
    assert replay_of(marked) == replay
    assert replay_of(msgspec.structs.replace(marked, headers=(("ce-id", "1"),))) == ""


@given(events, times, texts, ints, st.sampled_from(OUTCOMES), longs, longs, ints, texts, texts, st.binary(max_size=9))
def test_an_attempt_means_the_same_to_fastavro(
    event: Event, received_ms: int, subscription_id: str, number: int, outcome: str,
    started: int, duration: int, status: int, cause: str, detail: str, excerpt: bytes,
) -> None:  # fmt: skip
    delivery = read(event, received_ms, subscription_id)
    attempt = Attempt(number, outcome, started, duration, status, cause, detail, excerpt, 12)
    assert codec.decode(encode_attempt(HEADER, delivery, attempt), ATTEMPT) == {
        "delivery_id": "dlv_x",
        "subscription_id": subscription_id,
        "event_id": event.id,
        "event_type": event.type,
        "tenant": event.tenant,
        "event_time_ms": event.time_ms,
        "received_ms": received_ms,
        "subject": event.subject,
        **msgspec.structs.asdict(attempt),
    }


@given(events, times, texts, texts, longs, st.lists(tries, max_size=3), headers)
def test_a_dead_letter_means_the_same_to_fastavro(
    event: Event, received_ms: int, reason: str, detail: str, dead_ms: int, memory: list[Try],
    sent: tuple[tuple[str, str], ...],
) -> None:  # fmt: skip
    delivery = msgspec.structs.replace(read(event, received_ms, "s"), tries=tuple(memory), headers=sent)
    letter = codec.decode(encode_dead_letter(HEADER, delivery, reason, detail, dead_ms), DEAD_LETTER)
    assert (letter["reason"], letter["detail"], letter["dead_ms"]) == (reason, detail, dead_ms)
    value = encode_delivery(WIRE, delivery)
    assert letter["delivery"] == codec.decode(value, DELIVERY[1 if sent else 0], DELIVERY[1])


@given(st.binary(max_size=200))
def test_hostile_bytes_are_undecodable_and_nothing_else(payload: bytes) -> None:
    with contextlib.suppress(UndecodableError):
        decode_delivery(HEADER + payload)
    with contextlib.suppress(UndecodableError):
        decode_delivery(HEADER + payload, 2)


@given(events, times, headers)
def test_every_prefix_of_a_delivery_is_undecodable(
    event: Event, received_ms: int, sent: tuple[tuple[str, str], ...]
) -> None:
    value = encode_delivery(WIRE, msgspec.structs.replace(read(event, received_ms, "sub_1"), headers=sent))
    for end in range(codec.HEADER_BYTES, len(value)):
        try:
            decode_delivery(value[:end], 2 if sent else 1)
        except UndecodableError:
            continue
        raise AssertionError(f"the first {end} of {len(value)} bytes were taken for a delivery")


@given(events, times, st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True), unique=True, max_size=5))
def test_fan_out_writes_what_a_delivery_is(event: Event, received_ms: int, names: list[str]) -> None:
    subscriptions = tuple(
        Subscription(id=name, url="https://example.com/", event_types=("*",), format="data" if i % 2 else "standard")
        for i, name in enumerate(names)
    )
    written = View(b"", event.data, 0)
    records = deliveries("d", WIRE, event, received_ms, Targets(subscriptions), written, lambda _: written).records
    assert {key for _, key, _, _, _ in records} == {name.encode() for name in names}
    by_id = {subscription.id: subscription for subscription in subscriptions}
    for topic, key, value, partition, headers in records:
        assert (topic, partition, headers) == ("d", -1, None)
        assert key is not None
        assert value is not None
        delivery = decode_delivery(value)
        assert delivery.subscription_id == key.decode()
        assert delivery.id == ids.delivery_id(event.id, delivery.subscription_id)
        sent = render(event, by_id[delivery.subscription_id].format, event.data, b"")
        assert (delivery.content_type, delivery.body, delivery.headers) == sent
        assert (delivery.attempt, delivery.due_ms, delivery.first_attempt_ms, delivery.tries) == (0, 0, 0, ())
