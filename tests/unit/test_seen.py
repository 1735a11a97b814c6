"""What was published is remembered for the window, or for as long as there is room; its record comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.seen import GENERATIONS, Known, SeenWindow, mark_of
from schemas import codec
from schemas.errors import UndecodableError
from schemas.seen import Seen, decode_seen, digest_of, encode_seen

HEADER = codec.wire_header(9)
HOUR_MS = 3_600_000
SOME = Known("evt", b"digest")


def mark(number: int) -> bytes:
    return mark_of(b"acme/%d" % number)


def test_a_mark_is_known_until_the_window_has_passed() -> None:
    window = SeenWindow(8 * HOUR_MS, 1_000)
    for hour in range(12):
        window.add(mark(hour), Known(f"evt_{hour}", b""), hour * HOUR_MS, hour * HOUR_MS)
    known = [hour for hour in range(12) if window.get(mark(hour)) is not None]
    assert known[:2] in ([2, 3], [3, 4])  # what is older than 8 h goes, with what shares its eighth of the window
    assert known[-1] == 11
    assert len(window) == len(known)
    assert window.get(mark(11)) == Known("evt_11", b"")
    assert window.forgotten == 0


def test_with_more_than_there_is_room_for_the_oldest_eighth_goes() -> None:
    window = SeenWindow(HOUR_MS, 80)
    for number in range(81):
        window.add(mark(number), SOME, number, number)
    assert [number for number in range(81) if window.get(mark(number)) is None] == list(range(80 // GENERATIONS))
    assert (len(window), window.forgotten) == (71, 10)


def test_what_is_too_old_or_known_is_not_taken_in() -> None:
    window = SeenWindow(HOUR_MS, 10)
    window.add(mark(1), SOME, 0, HOUR_MS + 1)
    assert window.get(mark(1)) is None
    window.add(mark(2), SOME, 5, 5)
    window.add(mark(2), Known("other", b""), 6, 6)
    assert (window.get(mark(2)), len(window)) == (SOME, 1)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30)), max_size=300), st.integers(1, 40))
def test_the_bound_holds_and_the_newest_is_always_known(steps: list[tuple[int, int]], most: int) -> None:
    window = SeenWindow(100, most)
    now = 0
    for number, later in steps:
        now += later
        window.add(mark(number), SOME, now, now)
        assert window.get(mark(number)) is not None
        assert len(window) <= most


def test_a_digest_tells_how_bytes_are_parted() -> None:
    assert digest_of(b"ab", b"c") != digest_of(b"a", b"bc")
    assert digest_of(b"ab") == digest_of(b"ab")


@given(st.text(max_size=80), st.binary(max_size=20), st.integers(0, 2**62))
def test_a_record_is_what_fastavro_writes(id_: str, digest: bytes, at_ms: int) -> None:
    value = encode_seen(HEADER, Seen(id_, digest, at_ms))
    schema = codec.parse_schema(codec.own_schema("seen.v1"))
    assert value == codec.encode(9, schema, {"id": id_, "digest": digest, "at_ms": at_ms})
    assert decode_seen(value) == Seen(id_, digest, at_ms)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no_value"),
        (b"{", "truncated"),
        (HEADER + b"\x02", "truncated"),
        (HEADER + b"\x02\xff\x00\x00", "avro"),
        (HEADER + b"\x02a\x00\x00\x00", "avro"),
    ],
)
def test_what_is_none_is_refused(value: bytes | None, reason: str) -> None:
    with pytest.raises(UndecodableError) as refused:
        decode_seen(value)
    assert refused.value.reason == reason
