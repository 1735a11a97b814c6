"""Whatever byte of a signed request is changed, it is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
from hypothesis import assume, example, given
from hypothesis import strategies as st

from connectors.providers import providers
from schemas.client_address import client_address
from schemas.event import checked as check_event
from schemas.event import encode_event
from schemas.received import challenge_answer, events, read
from schemas.signed_request import Refused, Request, Verified, verify
from tests.provider_cases import CASES, FORM, JSON, Case

cases = st.sampled_from(CASES)


def is_verified(case: Case, **changes: Any) -> bool:
    request = msgspec.structs.replace(case.request, **changes)
    return isinstance(verify(providers()[case.provider], request, [case.secret], case.now_ms), Verified)


@given(case=cases, data=st.data())
def test_a_byte_of_the_body(case: Case, data: st.DataObject) -> None:
    body = bytearray(case.request.body)
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != body[at]))
    if is_verified(case, body=bytes(body)):
        # Of a form, Twilio signs the parameters: what reads the same may be written in another way, as %2b for %2B.
        assert case.provider == "twilio"
        assert FORM in case.request.headers
        before, after = (
            read(providers()["twilio"], msgspec.structs.replace(case.request, body=each))
            for each in (case.request.body, bytes(body))
        )
        assert not isinstance(before, Refused)
        assert not isinstance(after, Refused)
        assert before.data == after.data


@given(case=cases, data=st.data())
def test_a_character_of_a_header_that_is_signed_or_signs(case: Case, data: st.DataObject) -> None:
    provider = providers()[case.provider]
    rule = provider.signatures[0]
    names = {rule.header} | ({provider.timestamp.header} if provider.timestamp else set())
    names |= {provider.id[0].removeprefix("header:")} if "{id}" in rule.signed else set()
    headers = list(case.request.headers)
    index = data.draw(st.sampled_from([i for i, (name, _) in enumerate(headers) if name in names]))
    name, value = headers[index]
    at = data.draw(st.integers(0, len(value) - 1))
    # Stripe's test scheme, which proves nothing.
    assume(not (case.provider == "stripe" and value.index(",v0=") <= at < value.index(",v1=")))
    other = data.draw(st.characters(min_codepoint=0x20, max_codepoint=0xFF).filter(lambda each: each != value[at]))
    headers[index] = (name, value[:at] + other + value[at + 1 :])
    assert not is_verified(case, headers=tuple(headers))


@given(case=cases, insert=st.binary(min_size=1, max_size=3), data=st.data())
def test_bytes_more(case: Case, insert: bytes, data: st.DataObject) -> None:
    body = case.request.body
    at = data.draw(st.integers(0, len(body)))
    changed = body[:at] + insert + body[at:]
    assume(FORM not in case.request.headers or case.provider != "twilio")
    assert not is_verified(case, body=changed)


@given(
    headers=st.lists(st.tuples(st.sampled_from(["content-type", "stripe-signature", "webhook-id"]), st.text())),
    body=st.binary(),
    case=cases,
)
@example(headers=[("stripe-signature", "t=1,v1=\x00,,=")], body=b"", case=CASES[0])
def test_anything_else_is_refused_and_raises_nothing(headers: list[tuple[str, str]], body: bytes, case: Case) -> None:
    assert not is_verified(case, headers=tuple(headers), body=body)


addresses = st.ip_addresses().map(str)


@given(st.lists(addresses | st.text(max_size=20), max_size=6), addresses)
def test_what_a_client_writes_in_front_does_not_say_who_it_is(claims: list[str], client: str) -> None:
    """The proxy appends the address that it saw; whatever stood there before came from the client."""
    assume(not client.startswith("10."))
    found = client_address("10.0.0.1", [*claims, client], [], ["10.0.0.0/8"])
    assert found == client_address(client, [], [], [])


MEMBERS = st.sampled_from(["id", "type", "event", "data", "object", "timestamp", "sg_event_id", "challenge", "action"])
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), 1 << 63) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(MEMBERS, inner, max_size=4),
    max_leaves=12,
)


@given(
    name=st.sampled_from(sorted(providers())),
    body=st.binary(max_size=60) | DOCUMENTS.map(orjson.dumps),
    header=st.text(max_size=30),
    kind=st.sampled_from([FORM, JSON, ("content-type", "text/plain")]),
    query=st.text(max_size=30),
    method=st.sampled_from(["GET", "POST"]),
)
def test_what_is_genuine_becomes_events_or_is_refused(
    name: str, body: bytes, header: str, kind: tuple[str, str], query: str, method: str
) -> None:
    """Whatever a provider signs: nothing raises, and each event is one that fan-out takes."""
    provider = providers()[name]
    told = ("x-github-event", "x-shopify-topic", "x-event-type", "webhook-id", "x-shopify-triggered-at")
    headers = (kind, *((each, header) for each in told))
    request = Request(method=method, url=f"https://h/v1/sources/s?{query}", headers=headers, body=body)
    document = read(provider, request)
    challenge_answer(provider, request, None if isinstance(document, Refused) else document, ["hush"])
    if isinstance(document, Refused):
        return
    ids: dict[str, Any] = {"source_id": "s", "tenant": "t", "type_prefix": ""}
    made = events(provider, request, document, Verified(None, "0" * 32), **ids, now_ms=5)
    if not isinstance(made, Refused):
        for each in made:
            orjson.loads(each.data)
            assert check_event(each) is each
            assert encode_event(1, each)
