"""What may come into force as a subscription, and every refusal with the field it names."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec
from schemas import subscription as module
from schemas.errors import InvalidSubscriptionError
from schemas.subscription import (
    STANDARD_RETRY_SCHEDULE_MS,
    Subscription,
    check_event_type,
    secret_key,
    subscription_from_fields,
    subscription_from_json,
    subscription_to_json,
)
from schemas.subscription_codec import SubscriptionDecoder

SECRET = "whsec_" + base64.b64encode(bytes(24)).decode()
LEAST: dict[str, Any] = {
    "id": "sub_1",
    "url": "https://example.com/hook",
    "event_types": ["order.created"],
    "secrets": [SECRET],
}


def from_json(**changed: Any) -> Subscription:
    return subscription_from_json(msgspec.json.encode(LEAST | changed))


def test_the_least_subscription_gets_the_documented_defaults() -> None:
    s = from_json()
    assert (s.tenant, s.format, s.state, s.timeout_ms, s.max_in_flight) == (
        "default",
        "standard",
        "active",
        15_000,
        8,
    )
    assert s.retry_schedule_ms == STANDARD_RETRY_SCHEDULE_MS
    assert (s.headers, s.reject_statuses, s.description, s.created_ms, s.updated_ms) == ({}, (), "", 0, 0)
    assert (s.rate_limit, s.ordered, s.ordering_key, s.adaptive_in_flight) == (0.0, False, "subject", False)
    assert (s.batch_max, s.batch_wait_ms, s.disable_after_ms) == (1, 0, 5 * 24 * 3600 * 1000)


def test_json_leaves_out_defaults_and_comes_back_equal() -> None:
    s = from_json(event_types=["order.*", "*"], headers={"X-Team": "a"}, state="paused", reject_statuses=[404])
    text = subscription_to_json(s)
    assert b"timeout_ms" not in text
    assert subscription_from_json(text) == s


def test_the_avro_schema_has_the_same_fields_and_defaults() -> None:
    schema = codec.parse_schema(codec.own_schema("subscription.v2"))
    value = codec.encode(1, schema, LEAST)
    assert subscription_from_fields(codec.decode(value, schema)) == from_json()
    assert [field["name"] for field in schema["fields"]] == list(Subscription.__struct_fields__)


def test_what_many_subscriptions_have_in_common_is_held_once() -> None:
    schema = codec.parse_schema(codec.own_schema("subscription.v2"))
    value = codec.encode(1, schema, LEAST | {"tenant": "acme"})
    one = subscription_from_fields(codec.decode(value, schema))
    two = subscription_from_fields(codec.decode(value, schema))
    assert one.tenant is two.tenant
    assert one.event_types[0] is two.event_types[0]
    assert one.retry_schedule_ms is two.retry_schedule_ms is STANDARD_RETRY_SCHEDULE_MS
    for usual in ("timeout_ms", "rate_limit", "ordering_key", "disable_after_ms"):
        assert getattr(one, usual) is getattr(two, usual)
    assert one.headers is not two.headers  # a dictionary can be written to: never shared


def test_a_repr_shows_neither_secrets_nor_headers() -> None:
    shown = repr(from_json(headers={"Authorization": "Bearer hush"}))
    assert "sub_1" in shown
    assert "hush" not in shown
    assert SECRET not in shown


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"id": ""}, "id: "),
    ({"id": "a.b"}, "id: "),  # the signed content joins with dots
    ({"id": "a" * 65}, "id: "),
    ({"id": "a\n"}, "id: "),
    ({"tenant": ""}, "tenant: "),
    ({"tenant": "a b"}, "tenant: "),
    ({"tenant": "t" * 129}, "tenant: "),
    ({"url": "https://example.com/" + "x" * 2029}, "url: longer"),
    ({"url": "https://example.com/a b"}, "url: white space"),
    ({"url": "https://example.com/a\tb"}, "url: white space"),
    ({"url": "https://exämple.com/"}, "url: white space"),
    ({"url": "https://[::1/"}, "url: Invalid IPv6"),
    ({"url": "https://example.com:65536/"}, "url: Port out of range"),
    ({"url": "ftp://example.com/"}, "does not start with https:// or http://"),
    ({"url": "/hook"}, "does not start with https:// or http://"),
    ({"url": "https:///hook"}, "has no host"),
    ({"url": "https://:443/hook"}, "has no host"),
    ({"url": "https://example.com:0/"}, "url: port 0"),
    ({"url": "https://user:hush@example.com/"}, "url: credentials"),
    ({"url": "https://example.com/#top"}, "url: a fragment"),
    ({"event_types": []}, "event_types: between 1 and 100"),
    ({"event_types": ["a"] * 101}, "event_types: between 1 and 100"),
    ({"event_types": [""]}, "event_types: ''"),
    ({"event_types": [".*"]}, "event_types: ''"),
    ({"event_types": ["*.*"]}, "event_types: '*'"),
    ({"event_types": ["order.*.paid"]}, "event_types: "),
    ({"event_types": ["order*"]}, "event_types: "),
    ({"event_types": ["order..paid"]}, "event_types: "),
    ({"event_types": ["order paid"]}, "event_types: "),
    ({"event_types": ["a" * 257]}, "event_types: "),
    ({"secrets": []}, "secrets: between 1 and 5"),
    ({"secrets": [SECRET] * 6}, "secrets: between 1 and 5"),
    ({"secrets": [SECRET.removeprefix("whsec_")]}, "secrets: not whsec_"),
    ({"secrets": ["whsec_" + base64.b64encode(bytes(23)).decode()]}, "secrets: not whsec_"),
    ({"secrets": ["whsec_" + base64.b64encode(bytes(65)).decode()]}, "secrets: not whsec_"),
    ({"secrets": ["whsec_!" + SECRET[6:]]}, "secrets: not whsec_"),
    ({"secrets": ["whsec_ä"]}, "secrets: not whsec_"),
    ({"headers": {f"X-{n}": "" for n in range(51)}}, "headers: more than 50"),
    ({"headers": {"X Y": ""}}, "headers: 'X Y' is not a header name"),
    ({"headers": {"": ""}}, "headers: '' is not a header name"),
    ({"headers": {"Host": "example.com"}}, "headers: 'Host' is written by the engine"),
    ({"headers": {"Transfer-Encoding": "chunked"}}, "headers: 'Transfer-Encoding' is written by the engine"),
    ({"headers": {"Webhook-Id": "1"}}, "headers: 'Webhook-Id' is written by the engine"),
    ({"headers": {"X-A": "a\r\nHost: b"}}, "headers: the value of 'X-A'"),
    ({"headers": {"X-A": "a" * 4097}}, "headers: the value of 'X-A'"),
    ({"retry_schedule_ms": [1] * 51}, "retry_schedule_ms: more than 50"),
    ({"retry_schedule_ms": [1000, -1]}, "retry_schedule_ms: a delay"),
    ({"retry_schedule_ms": [7 * 24 * 3600 * 1000 + 1]}, "retry_schedule_ms: a delay"),
    ({"reject_statuses": [299]}, "reject_statuses: "),
    ({"reject_statuses": [600]}, "reject_statuses: "),
    ({"timeout_ms": 0}, "timeout_ms: "),
    ({"timeout_ms": 120_001}, "timeout_ms: "),
    ({"max_in_flight": 0}, "max_in_flight: "),
    ({"max_in_flight": 1_001}, "max_in_flight: "),
    ({"rate_limit": 0.0009}, "rate_limit: neither 0 (no limit) nor 0.001 to 100,000 deliveries a second"),
    ({"rate_limit": -1}, "rate_limit: "),
    ({"rate_limit": 100_001}, "rate_limit: "),
    ({"rate_limit": "10"}, "$.rate_limit"),
    ({"ordering_key": "id"}, "$.ordering_key"),
    ({"ordered": 1}, "$.ordered"),
    ({"batch_max": 0}, "batch_max: not between 1 and 1000"),
    ({"batch_max": 1_001}, "batch_max: "),
    ({"batch_wait_ms": -1}, "batch_wait_ms: not between 0 and 60000"),
    ({"batch_wait_ms": 60_001}, "batch_wait_ms: "),
    ({"disable_after_ms": -1}, "disable_after_ms: neither 0 (never) nor"),
    ({"disable_after_ms": 365 * 24 * 3600 * 1000 + 1}, "disable_after_ms: "),
    ({"ordered": True, "batch_max": 2}, "ordered and batched cannot be combined yet: set batch_max to 1, or ordered"),
    ({"state": "gone"}, "$.state"),
    ({"format": "xml"}, "$.format"),
    ({"timeout_ms": "15000"}, "$.timeout_ms"),
    ({"colour": "red"}, "colour"),
]


@pytest.mark.parametrize(("changed", "sentence"), REFUSALS)
def test_refused_in_json_and_in_avro(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidSubscriptionError) as from_text:
        from_json(**changed)
    with pytest.raises(InvalidSubscriptionError) as from_fields:
        subscription_from_fields(LEAST | changed)
    assert sentence in str(from_text.value)
    assert sentence in str(from_fields.value)
    assert "hush" not in str(from_text.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"id": "A-z_9" + "a" * 59},
        {"url": "http://127.0.0.1:8080/"},
        {"url": "https://[2001:db8::1]:65535/hook?a=b"},
        {"url": "HTTPS://example.com"},
        {"url": "https://example.com/@" + "x" * 2027},
        {"event_types": ["a" * 256]},
        {"event_types": ["com.example/orders:v1.created-now", "com.example.*"]},
        {"secrets": ["whsec_" + base64.b64encode(bytes(64)).decode()] * 5},
        {"retry_schedule_ms": []},
        {"retry_schedule_ms": [0, 7 * 24 * 3600 * 1000]},
        {"reject_statuses": [300, 599]},
        {"timeout_ms": 120_000, "max_in_flight": 1_000},
        {"headers": {"X-A": "caf\xe9\t"}},
        {"rate_limit": 0.001, "ordered": True, "ordering_key": "endpoint", "disable_after_ms": 0},
        {"rate_limit": 100_000, "adaptive_in_flight": True, "batch_max": 1_000, "batch_wait_ms": 60_000},
        {"disable_after_ms": 365 * 24 * 3600 * 1000},
    ],
)
def test_accepted_at_the_edge(changed: dict[str, Any]) -> None:
    assert from_json(**changed) == subscription_from_fields(LEAST | changed)


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -float("inf")])
def test_a_rate_that_is_no_number_is_refused(rate: float) -> None:
    with pytest.raises(InvalidSubscriptionError, match="rate_limit: "):  # Avro can say it, JSON cannot
        subscription_from_fields(LEAST | {"rate_limit": rate})


def test_avro_of_version_1_gets_the_defaults_of_what_came_later() -> None:
    schema = codec.parse_schema(codec.own_schema("subscription.v1"), logical_types=False)
    value = codec.encode(1, schema, LEAST | {"max_in_flight": 3})
    decoder = SubscriptionDecoder()
    assert decoder.wanted(value) == 1
    decoder.learn(1, codec.own_schema("subscription.v1"))
    assert decoder.decode(b"sub_1", value) == from_json(max_in_flight=3)


@pytest.mark.parametrize("value", [b"", b"[]", b"{", b"null", b'{"id": "\xff"}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidSubscriptionError):
        subscription_from_json(value)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(InvalidSubscriptionError, match="url"):
        subscription_from_json(b'{"id": "a"}')


def test_the_key_of_a_secret() -> None:
    assert secret_key("whsec_" + base64.b64encode(b"k" * 32).decode()) == b"k" * 32


def test_a_pattern_is_no_event_type() -> None:
    check_event_type("order.created")
    for pattern in ("*", "order.*"):
        with pytest.raises(InvalidSubscriptionError, match="event_types"):
            check_event_type(pattern)


@given(st.text(st.characters(codec="latin-1"), max_size=30).map(lambda tail: "https://a.b" + tail))
def test_the_quick_look_at_a_url_accepts_nothing_that_the_thorough_one_refuses(url: str) -> None:
    if module._PLAIN_URL.fullmatch(url):
        module._check_parts(url)
