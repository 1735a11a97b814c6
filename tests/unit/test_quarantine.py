"""Quarantined records: what is written to resend one, how they are read, meant and shown."""

from __future__ import annotations

from typing import Any, cast

import pytest
from confluent_kafka import Message

from connectors.memory import MemoryRegistry
from schemas import codec
from schemas.endpoint import Operation, encode_operation
from schemas.errors import UndecodableError
from schemas.frame import Headers
from streams.cli.quarantine_view import hex_dump, lines, one_line
from streams.counters import Counters
from streams.quarantine import ORIGINAL_OFFSET, ORIGINAL_PARTITION, ORIGINAL_TOPIC, discarded, quarantined, resent
from streams.quarantine_check import Judge
from streams.quarantine_log import Discarded, Filter, Place, Quarantined, QuarantineError, Resent, entry, parse_place
from streams.quarantine_page import described, hidden, told
from streams.settings import Settings

AT = ("events.quarantine", 2, 7)
TRACE: Headers = [("trace", b"\xff\x00"), ("none", None)]


class Stored:
    """A record as the client hands it out."""

    def __init__(
        self, key: bytes | None, value: bytes | None, headers: Headers | None, *, offset: int = 7, topic: str = AT[0]
    ) -> None:
        self._fields = (key, value, headers, offset, topic)

    def key(self) -> bytes | None:
        return self._fields[0]

    def value(self) -> bytes | None:
        return self._fields[1]

    def headers(self) -> Headers | None:
        return self._fields[2]

    def offset(self) -> int:
        return self._fields[3]

    def topic(self) -> str:
        return self._fields[4]

    def partition(self) -> int:
        return 2

    def timestamp(self) -> tuple[int, int]:
        return 1, 1_785_585_600_000


def put_aside(headers: Headers | None = TRACE, *, value: bytes | None = b"{}", offset: int = 12) -> Quarantined:
    """What the quarantine has of a record that stood at events[1]@12."""
    error = UndecodableError("wrong_magic", "the first byte is 0x7b")
    out = quarantined(AT[0], "events", 1, Stored(b"k", value, headers, offset=offset), error, Counters())
    found = entry(cast(Message, Stored(out[1], out[2], out[4])))
    assert isinstance(found, Quarantined)
    return found


def test_what_is_quarantined_is_read_back() -> None:
    record = put_aside()
    assert (record.key, record.value, record.reason) == (b"k", b"{}", "wrong_magic")
    assert record.headers[:2] == TRACE
    assert record.source == record.original == Place("events", 1, 12)
    assert str(record.place) == "events.quarantine/2/7"


def test_a_resent_record_has_its_headers_and_where_it_stood_and_a_marker_beside_it() -> None:
    record = put_aside()
    sent, marker = resent(AT, ("events", 1, 12), record.key, b"fixed", record.headers)
    origin: Headers = [(ORIGINAL_TOPIC, b"events"), (ORIGINAL_PARTITION, b"1"), (ORIGINAL_OFFSET, b"12")]
    assert sent == ("events", b"k", b"fixed", 1, [*TRACE, *origin])
    assert marker[:4] == (AT[0], b"k", None, 2)
    assert entry(cast(Message, Stored(marker[1], marker[2], marker[4], offset=9))) == Resent(Place(*AT))


def test_where_it_first_stood_stays_when_it_comes_back_again() -> None:
    once, _ = resent(AT, ("events", 1, 12), b"k", b"v", put_aside().headers)
    again = put_aside(once[4], offset=40)
    assert again.source == Place("events", 1, 40)
    assert again.original == Place("events", 1, 12)
    twice, _ = resent(AT, ("events", 1, 40), b"k", b"v", again.headers)
    assert twice[4] == once[4]


def test_marks_that_a_producer_made_up_do_not_count() -> None:
    forged: Headers = [("distributary-source-topic", b"attempts"), ("distributary-resent", b"3")]
    record = put_aside(forged, value=None)  # without a value, as markers are
    assert record.source == Place("events", 1, 12)


@pytest.mark.parametrize(
    "headers", [None, [("distributary-source-topic", b"events")], [("distributary-source-partition", b"-1")]]
)
def test_a_record_without_marks_has_no_source(headers: Headers | None) -> None:
    found = entry(cast(Message, Stored(None, None, headers)))
    assert isinstance(found, Quarantined)
    assert found.source is None
    assert "from ?" in one_line(described(found) | {"resent": False, "discarded": None})[0]


@pytest.mark.parametrize("text", ["events.quarantine/2/7", "t1.events.quarantine/2/7", "2/7"])
def test_a_place_is_named_in_three_ways(text: str) -> None:
    assert parse_place(text, "t1.events.quarantine", "t1.") == Place("t1.events.quarantine", 2, 7)


@pytest.mark.parametrize("text", ["", "7", "events/2/7", "2/-7", "events.quarantine/2/x", "a/events.quarantine/2/7"])
def test_other_texts_are_no_place(text: str) -> None:
    with pytest.raises(QuarantineError, match="is no place in the quarantine; give it as"):
        parse_place(text, "events.quarantine", "")


@pytest.mark.parametrize(
    ("fields", "matches"),
    [
        ({}, True),
        ({"reason": "wrong_magic", "topic": "events", "partition": 1}, True),
        ({"reason": "avro"}, False),
        ({"topic": "subscriptions"}, False),
        ({"partition": 2}, False),
        ({"from_ms": 1_785_585_600_000, "to_ms": 1_785_585_600_001}, True),
        ({"from_ms": 1_785_585_600_001}, False),
        ({"to_ms": 1_785_585_600_000}, False),
    ],
)
def test_a_filter_holds_in_every_part(fields: dict[str, Any], matches: bool) -> None:
    assert Filter(**fields).matches(put_aside()) == matches


def test_bytes_are_shown_in_hexadecimal_and_as_text() -> None:
    first, second = hex_dump(bytes(range(0x38, 0x4A)))
    assert first.split("  ")[-1] == "89:;<=>?@ABCDEFG"
    assert second.split() == ["0010", "48", "49", "HI"]


def test_a_page_obeys_no_terminal_and_hides_on_request() -> None:
    page = described(put_aside([("x", b"\x1b[31m")])) | {
        "resent": False,
        "discarded": None,
        "headers": [{"name": "x", "value": "\x1b[31m"}],
        "schema": None,
        "value": {"secret": "\x1b]0;"},
        "value_base64": "e30=",
        "now": {"accepted": True, "as": {"secret": 1}},
    }
    assert "\x1b" not in "\n".join(lines(page, b"\x1b{}"))
    shown = "\n".join(lines(hidden(page), None))
    assert "secret" not in shown.replace("secrets", "")
    assert "value_base64" not in hidden(page)


def test_a_marker_says_who_discarded_a_record_and_why() -> None:
    marker = discarded(AT, b"k", "cli:me", "ein Versuch, grün")
    assert marker[:4] == (AT[0], b"k", None, 2)
    found = entry(cast(Message, Stored(marker[1], marker[2], marker[4], offset=9)))
    assert isinstance(found, Discarded)
    assert (found.place, found.by, found.why) == (Place(*AT), "cli:me", "ein Versuch, grün")
    line, style = one_line(described(put_aside()) | {"resent": False, "discarded": told(found)})
    assert ("  discarded  " in line, style) == (True, "dim")


async def test_a_quarantined_operation_is_judged_by_its_schema() -> None:
    class Odd(MemoryRegistry):
        async def schema(self, schema_id: int) -> str:
            return '{"type": "nothing"}' if schema_id == 98 else await super().schema(schema_id)

    registry = Odd()
    ours = await registry.register("o", codec.own_schema("operation.v2"))
    text, day = [await registry.register("t", each) for each in ('"string"', '{"type":"int","logicalType":"date"}')]
    judge, topic = Judge(Settings(), registry), Settings().topics.operations
    operation = Operation(kind="quarantine.grew", subscription_id="", tenant="", at_ms=1, count=2)
    value = encode_operation(codec.wire_header(ours), operation)
    assert (await judge.judge(topic, None, value, [], 0))["count"] == 2
    for wrong, reason in (
        (None, "no_value"),
        (codec.wire_header(99), "unknown_schema"),
        (codec.wire_header(text) + b"\2x", "not_an_operation"),
        (codec.wire_header(98), "bad_schema"),
        (codec.wire_header(day) + codec.put_long(2**31 - 1), "bad_data"),
    ):
        with pytest.raises(UndecodableError) as refused:
            await judge.judge(topic, None, wrong, [], 0)
        assert refused.value.reason == reason
