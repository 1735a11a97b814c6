"""The body and the id of a batch."""

from __future__ import annotations

import orjson
import pytest

from schemas.delivery import Delivery
from schemas.subscription import PayloadFormat
from streams.core.batch import batch_body, batch_id, batchable, together
from streams.core.formats import AVRO, CLOUDEVENT, CLOUDEVENTS_BATCH

STANDARD = b'{"type":"order.created","timestamp":"2023-11-14T22:13:20.000Z","data":{"n":1}}'


def delivery(
    identifier: str = "dlv_a",
    body: bytes = STANDARD,
    content_type: str = "application/json",
    headers: tuple[tuple[str, str], ...] = (),
) -> Delivery:
    return Delivery(identifier, "s", 0, 0, 0, (), None, content_type, body, b"", b"", b"", headers)


def batch(*events: tuple[str, bytes], payload_format: PayloadFormat = "standard") -> bytes:
    return batch_body("bat_1", [delivery(*each) for each in events], payload_format)


def test_the_same_deliveries_are_the_same_batch() -> None:
    first = batch_id(["dlv_a", "dlv_b"])
    assert first == batch_id(["dlv_a", "dlv_b"])
    assert len({first, batch_id(["dlv_b", "dlv_a"]), batch_id(["dlv_a"]), batch_id(["dlv_adlv_b"])}) == 4
    assert first.startswith("bat_")
    assert len(first) == 34
    assert "." not in first


def test_a_standard_event_keeps_its_fields_and_gets_its_id() -> None:
    body = orjson.loads(batch(("dlv_a", STANDARD), ("dlv_b", STANDARD)))
    event = orjson.loads(STANDARD)
    events = [{"id": "dlv_a", **event}, {"id": "dlv_b", **event}]
    assert body == {"batch_id": "bat_1", "event_count": 2, "events": events}


@pytest.mark.parametrize("data", [b'{"n":1}', b"{}", b"[1,2]", b'"text"', b"7", b"null"])
def test_bare_data_stands_beside_its_id(data: bytes) -> None:
    body = orjson.loads(batch(("dlv_a", data), payload_format="data"))
    assert body["events"] == [{"id": "dlv_a", "data": orjson.loads(data)}]


@pytest.mark.parametrize("data", [b"{}", b"{ }", b"[1,2]", b'"text"', b"7", b"null"])
def test_what_was_rendered_before_the_format_changed_spoils_no_batch(data: bytes) -> None:
    """Bodies are made at fan-out, and may have been parked for days."""
    body = orjson.loads(batch(("dlv_a", data), ("dlv_b", STANDARD)))
    assert body["events"] == [{"id": "dlv_a", "data": orjson.loads(data)}, {"id": "dlv_b", **orjson.loads(STANDARD)}]


def test_cloud_events_are_one_array_whatever_the_format_is_now() -> None:
    events = [delivery(body=b'[{"id":"%d"}]' % n, content_type=CLOUDEVENTS_BATCH) for n in range(3)]
    for now in ("cloudevents_batch", "standard"):
        assert orjson.loads(batch_body("bat_1", events, now)) == [{"id": "0"}, {"id": "1"}, {"id": "2"}]


@pytest.mark.parametrize(
    ("content_type", "headers", "may"),
    [
        ("application/json", {}, True),
        ("application/json", {"webhook-version": "3"}, True),
        ("application/vnd.acme.v2+json; charset=utf-8", {}, True),
        ("Application/JSON ; a=b", {}, True),
        (CLOUDEVENTS_BATCH, {"webhook-version": "3"}, True),
        ("application/json", {"ce-id": "1"}, False),
        (CLOUDEVENT, {}, False),
        (AVRO, {}, False),
        ("text/notjson", {}, False),
    ],
)
def test_what_stands_for_one_event_alone_is_in_no_batch(content_type: str, headers: dict[str, str], may: bool) -> None:
    assert batchable(delivery(content_type=content_type, headers=tuple(headers.items()))) is may


def test_what_has_the_same_headers_is_together() -> None:
    plain, second = delivery(), delivery(headers=(("webhook-version", "2"),))
    assert together(plain, delivery("dlv_b", b"1"))
    assert together(second, delivery("dlv_b", headers=(("webhook-version", "2"),)))
    assert not together(plain, second)
    assert together(plain, delivery("dlv_b", headers=(("tracestate", "a=1"),)))  # which tells of one event alone
    assert not together(second, delivery("dlv_b", headers=(("tracestate", "a=1"),)))
    assert not together(plain, delivery(content_type="application/vnd.acme+json"))
