"""Rendering: what a receiver reads."""

from __future__ import annotations

import orjson
import pytest

from schemas.event import Event
from streams.core.fanout import render, rfc3339


def event(data: bytes) -> Event:
    return Event("evt_1", "order.created", "acme", 1_700_000_000_123, data)


def test_standard_webhooks_body() -> None:
    content_type, body = render(event(b'{"total":12.50}'), "standard")
    assert content_type == "application/json"
    assert orjson.loads(body) == {
        "type": "order.created",
        "timestamp": "2023-11-14T22:13:20.123Z",
        "data": {"total": 12.5},
    }


def test_numbers_keep_every_digit() -> None:
    exact = b'{"big":123456789012345678901234567890,"small":0.1000}'
    assert exact in render(event(exact), "standard")[1]


def test_data_alone() -> None:
    assert render(event(b"[1]"), "data") == ("application/json", b"[1]")


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times(time_ms: int, text: str) -> None:
    assert rfc3339(time_ms) == text
