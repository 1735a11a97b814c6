"""The body and the id of a batch."""

from __future__ import annotations

import orjson
import pytest

from streams.core.batch import batch_body, batch_id

STANDARD = b'{"type":"order.created","timestamp":"2023-11-14T22:13:20.000Z","data":{"n":1}}'


def test_the_same_deliveries_are_the_same_batch() -> None:
    first = batch_id(["dlv_a", "dlv_b"])
    assert first == batch_id(["dlv_a", "dlv_b"])
    assert len({first, batch_id(["dlv_b", "dlv_a"]), batch_id(["dlv_a"]), batch_id(["dlv_adlv_b"])}) == 4
    assert first.startswith("bat_")
    assert len(first) == 34
    assert "." not in first


def test_a_standard_event_keeps_its_fields_and_gets_its_id() -> None:
    body = orjson.loads(batch_body("bat_1", [("dlv_a", STANDARD), ("dlv_b", STANDARD)], "standard"))
    event = orjson.loads(STANDARD)
    events = [{"id": "dlv_a", **event}, {"id": "dlv_b", **event}]
    assert body == {"batch_id": "bat_1", "event_count": 2, "events": events}


@pytest.mark.parametrize("data", [b'{"n":1}', b"{}", b"[1,2]", b'"text"', b"7", b"null"])
def test_bare_data_stands_beside_its_id(data: bytes) -> None:
    body = orjson.loads(batch_body("bat_1", [("dlv_a", data)], "data"))
    assert body["events"] == [{"id": "dlv_a", "data": orjson.loads(data)}]


@pytest.mark.parametrize("data", [b"{}", b"{ }", b"[1,2]", b'"text"', b"7", b"null"])
def test_what_was_rendered_before_the_format_changed_spoils_no_batch(data: bytes) -> None:
    """Bodies are made at fan-out, and may have been parked for days."""
    body = orjson.loads(batch_body("bat_1", [("dlv_a", data), ("dlv_b", STANDARD)], "standard"))
    assert body["events"] == [{"id": "dlv_a", "data": orjson.loads(data)}, {"id": "dlv_b", **orjson.loads(STANDARD)}]
