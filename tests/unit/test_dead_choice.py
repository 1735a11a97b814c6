"""Payloads as they are shown, and what a retry orders of what fits."""

from __future__ import annotations

import base64

import msgspec
import pytest

from connectors.dead_choice import Choice, ChoiceError, to_send
from connectors.dead_documents import Tally, parse_id, payload_view
from schemas.replay import PLACES_MAX, Place, Selection


@pytest.mark.parametrize(
    ("content_type", "body", "form", "content"),
    [
        ("application/json", b'{"n": 12345678901234567890123}', "json", b'{"n": 12345678901234567890123}'),
        ("application/cloudevents+json; charset=utf-8", b"[1]", "json", b"[1]"),
        ("application/json", b'{\r\n"a": "\\n"\n}', "json", b'{  "a": "\\n" }'),  # an export has a line for each
        ("application/json", b'{"n": ', "text", '{"n": '),
        ("text/plain", "grün".encode(), "text", "grün"),
        ("application/xml", b"<a/>", "text", "<a/>"),
        ("application/json", b"\xff", "base64", base64.b64encode(b"\xff").decode()),
        ("avro/binary", b"\x00\x01", "base64", "AAE="),
        ("", b"", "base64", ""),
    ],
)
def test_a_payload_is_shown_as_its_type_says(content_type: str, body: bytes, form: str, content: object) -> None:
    view = payload_view(content_type, body, None)
    shown = bytes(view.content) if isinstance(view.content, msgspec.Raw) else view.content
    assert (view.form, shown, view.cut) == (form, content, False)


def test_only_the_beginning_of_a_large_payload_is_shown() -> None:
    view = payload_view("application/json", b'{"n": "' + "ü".encode() * 10 + b'"}', 8)
    assert (view.form, view.content, view.cut) == ("text", '{"n": "', True), "and no half of a character"
    assert payload_view("a/b", b"123456789", 8).content == base64.b64encode(b"12345678").decode()


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "1-2-3", "a-1", "1234567890-1", "1 -2", "١-٢"])
def test_ids_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no dead letter's id"):
        parse_id(text)


SELECTION = Selection(source="dead", tenant="acme")


def choice(count: int, *, retried: int = 0, discarded: int = 0, replayed: int = 0, complete: bool = True) -> Choice:
    tally = Tally()
    tally.states.update({"open": count, "retried": retried, "discarded": discarded})
    places = [Place(0, number) for number in range(min(count, PLACES_MAX + 1))]
    return Choice(tally, {}, places, [], replayed=replayed, complete=complete)


def test_few_are_named() -> None:
    order = to_send(SELECTION, choice(PLACES_MAX, retried=7), again=False)
    assert (order.tenant, len(order.places)) == ("acme", PLACES_MAX)


def test_of_many_the_filter_is_ordered_when_none_is_discarded() -> None:
    assert to_send(SELECTION, choice(PLACES_MAX + 1, retried=7), again=False) == SELECTION
    with pytest.raises(ChoiceError, match=r"^more than 1,000 are open, and .* some are discarded \(7\): choose"):
        to_send(SELECTION, choice(PLACES_MAX + 1, discarded=7), again=False)


def test_whoever_says_again_is_not_asked() -> None:
    assert to_send(SELECTION, choice(PLACES_MAX + 1, discarded=7), again=True) == SELECTION


def test_when_not_all_were_looked_at_the_filter_is_ordered() -> None:
    assert to_send(SELECTION, choice(5, complete=False), again=False) == SELECTION


def test_nothing_open_is_said_with_why() -> None:
    with pytest.raises(ChoiceError, match=r"^no open dead letter fits$"):
        to_send(SELECTION, choice(0), again=False)
    with pytest.raises(ChoiceError, match=r"fits; retried or discarded already: 2; sent by a replay before, .*: 3$"):
        to_send(SELECTION, choice(0, retried=2, replayed=3), again=False)
