"""Dead letters read back: both versions, and everything that is none; a hint for all that may go wrong."""

from __future__ import annotations

import pytest

from schemas import codec, hints
from schemas.dead_letter import decode_dead_letter
from schemas.delivery import FRESH, Delivery, Try, Wire, decode_delivery, encode_dead_letter, encode_fresh, encode_tail
from schemas.errors import UndecodableError
from schemas.event import Event
from schemas.post import CAUSES, PostResult
from streams.records import after

WIRE = Wire(codec.wire_header(1), codec.wire_header(2))
NOW = 1_700_000_000_000


def a_delivery(tries: int = 2, headers: tuple[tuple[str, str], ...] = ()) -> Delivery:
    event = Event("evt_1", "order.created", "acme", NOW, b"{}", "o-1")
    tail = encode_tail(event, NOW, "application/json", b'{"a": 1}', headers)
    fields = codec.put_string("sub_1") + FRESH
    wire = WIRE.v2 if headers else WIRE.v1
    delivery = decode_delivery(encode_fresh(wire, "dlv_1", fields, tail), 2 if headers else 1)
    for number in range(tries):
        delivery = after(delivery, number + 1, 0, NOW + number, PostResult(503, 1_000, excerpt=b"busy"))
    return delivery


def of_version_1(delivery: Delivery) -> bytes:
    """As older releases wrote it: without the map of headers at its end."""
    value = encode_dead_letter(WIRE.v1, delivery, "exhausted", "the last one", NOW)
    assert value.endswith(b"\x00")
    return value[:-1]


@pytest.mark.parametrize("headers", [(), (("webhook-version", "3"),)])
def test_what_was_written_is_read(headers: tuple[tuple[str, str], ...]) -> None:
    delivery = a_delivery(headers=headers)
    letter = decode_dead_letter(encode_dead_letter(WIRE.v2, delivery, "exhausted", "the last one", NOW))
    assert (letter.reason, letter.detail, letter.dead_ms) == ("exhausted", "the last one", NOW)
    assert letter.delivery == delivery
    assert (letter.facts.event_id, letter.facts.tenant, letter.facts.subject) == ("evt_1", "acme", "o-1")
    assert letter.last == Try(NOW + 1, 1_000, 503, "", b"busy")


def test_version_1_is_read_too() -> None:
    letter = decode_dead_letter(of_version_1(a_delivery()))
    assert (letter.reason, letter.delivery) == ("exhausted", a_delivery())
    assert decode_dead_letter(of_version_1(a_delivery(tries=0))).last is None


def test_everything_else_is_refused() -> None:
    value = encode_dead_letter(WIRE.v2, a_delivery(headers=(("webhook-version", "3"),)), "exhausted", "", NOW)
    for length in range(len(value)):
        cut = value[:length]
        try:
            letter = decode_dead_letter(cut)
        except UndecodableError:
            continue
        assert not letter.delivery.headers, "cut before the headers, it reads as version 1"
    for bad in (None, b"", b"{}", value + b"\x00", WIRE.v2 + b"\x02\xff"):
        with pytest.raises(UndecodableError):
            decode_dead_letter(bad)


def test_there_is_a_hint_for_every_cause_and_class_of_status() -> None:
    assert hints.CAUSES.keys() == CAUSES
    assert all(hints.attempt_hint(status, "") for status in (302, 400, 418, 503))
    assert hints.attempt_hint(404, "") != hints.attempt_hint(400, "")
    assert hints.attempt_hint(200, "") == hints.attempt_hint(0, "unheard-of") == ""
    assert hints.dead_hint("exhausted", 0, "timeout") == hints.CAUSES["timeout"]
    assert hints.dead_hint("disabled", 503, "") == hints.REASONS["disabled"]
