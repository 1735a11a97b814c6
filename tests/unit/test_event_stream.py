"""Events as server-sent events: written, cut anywhere, and read again; which of them somebody wants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.event_feed import Heard, InvalidCursorError, Wanted, check_cursor
from connectors.event_stream import MESSAGE_BYTES_MAX, MessageParser, StreamLostError, heartbeat, message
from schemas.event import Event
from schemas.subscription import Subscription
from streams.core.match import MatchIndex

TYPES = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join)
PATTERNS = st.one_of(TYPES, TYPES.map(lambda name: f"{name}.*"), st.just("*"))


def event(type_: str = "order.created", data: bytes = b"{}", **given: str) -> Event:
    return Event("evt_1", type_, given.pop("tenant", "acme"), 1_700_000_000_000, data, **given)


@given(
    st.lists(
        st.one_of(st.none(), st.sampled_from([b"{}", b'{\n  "a": "b"\n}', b'{"a":"\\n"}', b"[\r\n1]"])), max_size=4
    ),
    st.integers(1, 40),
)
def test_messages_are_read_as_they_were_written_however_they_are_cut(bodies: list[bytes | None], size: int) -> None:
    heard = [Heard(f"{n}.7", None if body is None else event(data=body)) for n, body in enumerate(bodies)]
    sent = b"".join([message(each) + heartbeat() for each in heard])
    parser = MessageParser()
    found = [one for start in range(0, len(sent), size) for one in parser.feed(sent[start : start + size]) if one.id]
    assert [one.id for one in found] == [each.cursor for each in heard]
    for one, each in zip(found, heard, strict=True):
        assert (one.data == b"") == (each.event is None)
        if each.event is not None:
            assert each.event.data.replace(b"\r", b" ") in one.data


def test_what_is_too_large_is_not_waited_for() -> None:
    parser = MessageParser()
    parser.feed(b"x" * MESSAGE_BYTES_MAX)
    with pytest.raises(StreamLostError, match="too large"):
        parser.feed(b"x")


@given(TYPES, st.lists(PATTERNS, min_size=1, max_size=3))
def test_types_are_chosen_as_subscriptions_choose_them(name: str, patterns: list[str]) -> None:
    index = MatchIndex()
    index.put(Subscription(id="s", tenant="acme", url="https://a.example/", event_types=tuple(patterns)))
    assert Wanted("acme", tuple(patterns)).fits(event(name)) == bool(index.match("acme", name))


def test_a_tenant_hears_its_own_events_and_no_types_are_all() -> None:
    assert Wanted("acme").fits(event())
    assert not Wanted("acme").fits(event(tenant="other"))
    assert Wanted().fits(event(tenant="other"))


def test_places() -> None:
    for good in ("0", "17.0.4", str((1 << 63) - 1)):
        check_cursor(good)
    for bad in ("", "a", "1.", ".1", "-1", "1 .2", str(1 << 63), "1" * 20):
        with pytest.raises(InvalidCursorError, match="none of ours"):
            check_cursor(bad)
