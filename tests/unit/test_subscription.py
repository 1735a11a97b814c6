"""What may come into force as a subscription, and every refusal with the field it names."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec
from schemas import subscription as module
from schemas.credentials import parse_auth, parse_tls, private_key, secret_key
from schemas.endpoint import url_hash
from schemas.errors import InvalidSubscriptionError
from schemas.subjects import LATEST
from schemas.subscription import (
    STANDARD_RETRY_SCHEDULE_MS,
    Subscription,
    check_event_type,
    subscription_from_fields,
    subscription_from_json,
    subscription_to_json,
)
from schemas.subscription_codec import SubscriptionDecoder

SECRET = "whsec_" + base64.b64encode(bytes(24)).decode()
PRIVATE = "whsk_" + base64.b64encode(bytes(32)).decode()
LEAST: dict[str, Any] = {
    "id": "sub_1",
    "url": "https://example.com/hook",
    "event_types": ["order.created"],
    "secrets": [SECRET],
}
CERTIFICATE = "-----BEGIN CERTIFICATE-----\n" + base64.b64encode(bytes(60)).decode() + "\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\n" + base64.b64encode(b"hush" * 12).decode() + "\n-----END PRIVATE KEY-----\n"
OAUTH2 = {"type": "oauth2", "token_url": "https://auth.example/token", "client_id": "a", "client_secret": "hush"}


def from_json(**changed: Any) -> Subscription:
    return subscription_from_json(json.dumps(LEAST | changed))


def as_record(fields: dict[str, Any]) -> dict[str, Any]:
    """What Avro has where JSON has an object."""
    texts = {name: json.dumps(fields[name]) for name in ("auth", "tls") if isinstance(fields.get(name), dict)}
    return fields | texts


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
    assert (s.filter, s.transform, s.schema_version, s.content_type) == ("", "", 0, "")
    assert (s.secrets_expire_ms, s.signatures, s.auth, s.tls) == ((), ("standard",), "", "")
    assert (s.verification, s.verified_url, s.unverified, s.never_verified) == ("none", "", False, False)


def test_json_leaves_out_defaults_and_comes_back_equal() -> None:
    s = from_json(event_types=["order.*", "*"], headers={"X-Team": "a"}, state="paused", reject_statuses=[404])
    text = subscription_to_json(s)
    assert b"timeout_ms" not in text
    assert subscription_from_json(text) == s


def test_the_avro_schema_has_the_same_fields_and_defaults() -> None:
    schema = codec.parse_schema(codec.own_schema("subscription.v4"))
    value = codec.encode(1, schema, LEAST)
    assert subscription_from_fields(codec.decode(value, schema)) == from_json()
    assert [field["name"] for field in schema["fields"]] == list(Subscription.__struct_fields__)


def test_what_many_subscriptions_have_in_common_is_held_once() -> None:
    schema = codec.parse_schema(codec.own_schema("subscription.v4"))
    value = codec.encode(1, schema, LEAST | {"tenant": "acme"})
    one = subscription_from_fields(codec.decode(value, schema))
    two = subscription_from_fields(codec.decode(value, schema))
    assert one.tenant is two.tenant
    assert one.event_types[0] is two.event_types[0]
    assert one.retry_schedule_ms is two.retry_schedule_ms is STANDARD_RETRY_SCHEDULE_MS
    for usual in ("timeout_ms", "rate_limit", "ordering_key", "disable_after_ms", "signatures", "verification"):
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
    ({"secrets": ["whsk_hush"]}, "secrets: not whsk_ followed by base64 of an ed25519 private key"),
    ({"secrets": ["whsk_" + base64.b64encode(bytes(33)).decode()]}, "secrets: not whsk_"),
    ({"secrets": ["sealed:hush"]}, "secrets: neither a secret nor one that was sealed"),
    ({"secrets": ["sealed:k 1:" + "A" * 60]}, "secrets: neither a secret nor"),
    ({"secrets": ["sealed:k1:" + "A" * 37]}, "secrets: neither a secret nor"),
    ({"secrets": ["sealed:k1:" + "A" * 174]}, "secrets: neither a secret nor"),
    ({"secrets": ["sealed:k1:" + "A" * 59 + "="]}, "secrets: neither a secret nor"),
    ({"secrets_expire_ms": [0, 0]}, "secrets_expire_ms: more times than secrets"),
    ({"secrets": [SECRET] * 2, "secrets_expire_ms": [-1]}, "secrets_expire_ms: a time is neither 0 (never) nor"),
    ({"secrets": [SECRET] * 2, "secrets_expire_ms": [0, 10**13]}, "secrets_expire_ms: a time"),
    ({"secrets_expire_ms": [1]}, "secrets_expire_ms: every secret expires"),
    ({"signatures": []}, "signatures: one at least is needed, and none twice"),
    ({"signatures": ["standard", "standard"]}, "signatures: one at least"),
    ({"signatures": ["md5"]}, "$.signatures[0]"),
    ({"signatures": ["stripe"], "secrets": ["whsk_" + "A" * 43 + "="]}, "signatures: github and stripe need a whsec_"),
    ({"signatures": ["github"], "headers": {"X-Hub-Signature-256": "x"}}, "headers: 'X-Hub-Signature-256' is written"),
    ({"signatures": ["standard", "rfc9421"], "headers": {"Signature": "x"}}, "headers: 'Signature' is written"),
    ({"auth": "hush"}, "auth: not a JSON object"),
    ({"auth": {"type": "hush"}}, "auth: type is none of basic, bearer and oauth2"),
    ({"auth": {"token": "hush"}}, "auth: Object missing required field `type`"),
    ({"auth": {"type": "bearer", "token": 1}}, "auth: Expected `str`, got `int` - at `$.token`"),
    ({"auth": {"type": "bearer", "token": "hush", "realm": ""}}, "auth: Object contains unknown field `realm`"),
    ({"auth": {"type": "bearer", "token": ""}}, "auth.token: not 1 to 4096 characters"),
    ({"auth": {"type": "bearer", "token": "hush hush"}}, "auth: the token holds something else than visible ASCII"),
    ({"auth": {"type": "bearer", "token": "sealed:hush"}}, "auth.token: neither a secret nor one that was sealed"),
    ({"auth": {"type": "basic", "username": "a:b", "password": "hush"}}, "auth: the username holds a colon"),
    ({"auth": {"type": "basic", "username": "a", "password": "hush\r\n"}}, "auth.password: not 0 to 4096 characters"),
    ({"auth": {"type": "basic", "username": "a\n", "password": "hush"}}, "auth.username: not 0 to 4096 characters"),
    ({"auth": OAUTH2 | {"token_url": "ftp://a.example"}}, "auth.token_url: 'ftp://a.example' does not start with"),
    ({"auth": OAUTH2 | {"client_id": ""}}, "auth.client_id: not 1 to"),
    ({"auth": OAUTH2 | {"client_auth": "hush"}}, "client_auth neither basic nor post"),
    ({"auth": OAUTH2 | {"scope": "\0"}}, "auth.scope: not 0 to"),
    ({"auth": OAUTH2 | {"audience": "a" * 4097}}, "auth.audience: not 0 to"),
    ({"auth": OAUTH2, "headers": {"authorization": "Bearer hush"}}, "auth: headers hold an Authorization too"),
    ({"tls": "{"}, "tls: not a JSON object"),
    ({"tls": {}}, "tls: neither a certificate with its key, nor a ca"),
    ({"tls": {"certificate": CERTIFICATE}}, "tls: certificate and key are needed together"),
    ({"tls": {"certificate": "hush", "key": KEY}}, "tls: certificate is no PEM text of certificates"),
    ({"tls": {"certificate": CERTIFICATE, "key": "hush"}}, "tls: key is no PEM text of an unencrypted private key"),
    (
        {"tls": {"certificate": CERTIFICATE, "key": "sealed:k:hush"}},
        "tls.key: neither a secret nor one that was sealed",
    ),
    ({"tls": {"ca": KEY}}, "tls: ca is no PEM text of certificates"),
    ({"tls": {"ca": CERTIFICATE * 400}}, "tls: ca is no PEM text of certificates of at most 32768 characters"),
    ({"tls": {"ca": " " * 30_000 + CERTIFICATE + " " * 2_000 + "x"}}, "tls: ca is no PEM text"),
    ({"tls": {"ca": CERTIFICATE}, "url": "http://example.com/"}, "tls: the url does not start with https://"),
    ({"verification": "word"}, "$.verification"),
    ({"verified_url": "https://example.com/hook"}, "verified_url: not the 16 hexadecimal digits"),
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
    ({"format": "avro", "batch_max": 2}, "format: no batch can be made of avro: set batch_max to 1, or format"),
    ({"format": "cloudevents_binary", "batch_max": 2}, "format: no batch can be made of cloudevents_binary"),
    ({"filter": "{"}, "filter: $: not JSON"),
    ({"filter": "[]"}, "filter: $: an object is needed"),
    ({"filter": '{"data": {"amount": [{"numeric": [">", "10"]}]}}'}, "filter: $.data.amount[0].numeric[1]: "),
    ({"filter": 1}, "$.filter"),
    ({"transform": "{id: order.}"}, "transform: column 12: "),
    ({"transform": "nosuch(@)"}, "transform: there is no function nosuch()"),
    ({"transform": "a" * 4097}, "transform: longer than 4096 characters"),
    ({"transform": "@", "format": "avro"}, "transform: the format avro carries no JSON data"),
    ({"transform": "@", "format": "thin"}, "transform: the format thin carries no JSON data"),
    ({"schema_version": -2}, 'schema_version: neither 0 (as written), nor "latest", nor the number of a version'),
    ({"schema_version": 2**31}, "schema_version: "),
    ({"schema_version": "newest"}, "$.schema_version"),
    ({"content_type": "json"}, "content_type: 'json' is not a media type"),
    ({"content_type": "application/json\r\nx: y"}, "content_type: "),
    ({"content_type": 'application/json; a="\r\n"'}, "content_type: "),
    ({"content_type": 'application/json; a="\U0001f600"'}, "content_type: "),
    ({"content_type": 'application/json; a="\x7f"'}, "content_type: "),
    ({"content_type": "application/vnd.acme.v{n}+json"}, "content_type: "),
    ({"content_type": "application/" + "a" * 250 + "+json"}, "content_type: "),
    ({"content_type": "text/plain"}, "content_type: JSON must be application/json or end with +json"),
    ({"content_type": "text/notjson"}, "content_type: JSON must be"),
    ({"content_type": "application/json", "format": "avro"}, "content_type: Avro is not JSON"),
    ({"content_type": "application/json", "format": "cloudevents_batch"}, "content_type: that of cloudevents_batch"),
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
        subscription_from_fields(as_record(LEAST | changed))
    assert sentence in str(from_text.value)
    assert sentence in str(from_fields.value)
    assert "hush" not in str(from_text.value) + str(from_fields.value)


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
        {"filter": '{"type":["order.created"]}', "transform": "a" * 4096, "schema_version": 2**31 - 1},
        {"schema_version": -1, "format": "cloudevents_batch", "batch_max": 1_000},
        {"content_type": 'application/vnd.acme.v{version}+json; charset=utf-8; profile="a b"', "format": "thin"},
        {"content_type": "avro/binary", "format": "avro"},
        {"content_type": "application/" + "a" * 239 + "+json"},
        {"secrets": [PRIVATE, "whsk_" + base64.b64encode(bytes(64)).decode(), "sealed:k-1_A:" + "A" * 38]},
        {"secrets": ["sealed:k:" + "-" * 173, SECRET], "secrets_expire_ms": [10**13 - 1]},
        {"secrets": [SECRET] * 2, "secrets_expire_ms": [0, 1]},
        {"signatures": ["rfc9421", "stripe", "github", "standard"], "verification": "ping", "verified_url": "0" * 16},
        {"auth": {"type": "basic", "username": "", "password": ""}},
        {"auth": {"type": "basic", "username": "Zoë", "password": "sealed:k:" + "A" * 38}},
        {"auth": {"type": "bearer", "token": "a" * 4096}, "headers": {"X-Authorization": ""}},
        {"auth": OAUTH2 | {"scope": "a b", "audience": "https://a.example", "client_auth": "post"}},
        {"tls": {"certificate": CERTIFICATE * 2, "key": KEY, "ca": "\n" + CERTIFICATE}},
        {"tls": {"certificate": CERTIFICATE, "key": KEY.replace("PRIVATE", "EC PRIVATE")}, "url": "HTTPS://a.example"},
        {"tls": {"certificate": CERTIFICATE, "key": "sealed:k:" + "A" * 43_000}},
    ],
)
def test_accepted_at_the_edge(changed: dict[str, Any]) -> None:
    assert from_json(**changed) == subscription_from_fields(as_record(LEAST | changed))


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


def test_avro_of_version_2_gets_the_defaults_of_what_came_later() -> None:
    schema = codec.parse_schema(codec.own_schema("subscription.v2"), logical_types=False)
    value = codec.encode(2, schema, LEAST | {"batch_max": 3})
    decoder = SubscriptionDecoder()
    decoder.learn(2, codec.own_schema("subscription.v2"))
    assert decoder.decode(b"sub_1", value) == from_json(batch_max=3)


def test_avro_of_version_3_gets_the_defaults_of_what_came_later() -> None:
    schema = codec.parse_schema(codec.own_schema("subscription.v3"), logical_types=False)
    value = codec.encode(3, schema, LEAST | {"content_type": "application/vnd.a+json"})
    decoder = SubscriptionDecoder()
    decoder.learn(3, codec.own_schema("subscription.v3"))
    assert decoder.decode(b"sub_1", value) == from_json(content_type="application/vnd.a+json")


def test_the_bytes_of_version_4_by_hand() -> None:
    old = codec.parse_schema(codec.own_schema("subscription.v3"))
    new = codec.parse_schema(codec.own_schema("subscription.v4"))
    before = codec.encode(7, old, LEAST)
    # No expiry, one signature form, no auth, no tls, no verification, no verified URL.
    assert codec.encode(7, new, LEAST) == before + b"\0" + b"\2\x10standard\0" + b"\0" + b"\0" + b"\x08none" + b"\0"


def test_in_json_a_filter_is_an_object_and_the_newest_version_a_word() -> None:
    pattern = {"data": {"total": [{"numeric": [">", 100]}]}, "type": ["order.created", "order.paid"]}
    s = from_json(filter=pattern, schema_version="latest")
    assert s.schema_version == LATEST
    assert msgspec.json.decode(s.filter) == pattern
    written = msgspec.json.decode(subscription_to_json(s))
    assert (written["filter"], written["schema_version"]) == (pattern, "latest")
    assert subscription_from_json(subscription_to_json(s)) == s
    assert from_json(filter=s.filter, schema_version=-1) == s  # as the record has it


def test_in_json_auth_and_tls_are_objects() -> None:
    tls = {"certificate": CERTIFICATE, "key": KEY}
    s = from_json(auth=OAUTH2, tls=tls)
    assert (msgspec.json.decode(s.auth), msgspec.json.decode(s.tls)) == (OAUTH2, tls)
    written = msgspec.json.decode(subscription_to_json(s))
    assert (written["auth"], written["tls"]) == (OAUTH2, tls)
    assert subscription_from_json(subscription_to_json(s)) == s
    assert from_json(auth=json.dumps(OAUTH2, indent=2), tls=s.tls) == s  # as the record has it, and made canonical


@pytest.mark.parametrize(
    ("fields", "unverified", "never"),
    [
        ({}, False, False),
        ({"verification": "ping"}, True, True),
        ({"verification": "ping", "verified_url": url_hash(LEAST["url"])}, False, False),
        ({"verification": "ping", "verified_url": url_hash("https://old.example/")}, True, False),
        ({"verified_url": url_hash("https://old.example/")}, False, False),
    ],
)
def test_verified_is_the_url_of_now(fields: dict[str, Any], unverified: bool, never: bool) -> None:
    s = from_json(**fields)
    assert (s.unverified, s.never_verified) == (unverified, never)


def test_no_repr_shows_a_secret() -> None:
    for value in (OAUTH2, {"type": "bearer", "token": "hush"}, {"type": "basic", "username": "a", "password": "hush"}):
        assert "hush" not in repr(parse_auth(json.dumps(value)))
    assert "PRIVATE" not in repr(parse_tls(json.dumps({"certificate": CERTIFICATE, "key": KEY})))


def test_the_seed_of_a_private_key() -> None:
    assert private_key("whsk_" + base64.b64encode(b"s" * 32 + b"p" * 32).decode()) == b"s" * 32


def test_equal_filters_are_one_text_whatever_they_were_written_as() -> None:
    one = from_json(filter={"type": ["a"], "tenant": ["t"]}).filter
    two = from_json(filter='{ "tenant": ["t"],   "type": ["a"] }').filter
    assert one == two
    assert from_json(filter=one).filter is from_json(filter=two).filter


def test_a_number_in_a_filter_keeps_every_digit() -> None:
    text = '{"id": "a", "filter": {"data": {"n": [12345678901234567890.25]}}}'
    fields = msgspec.json.encode(LEAST)[:-1] + b"," + text.encode()[1:-1].partition(b",")[2] + b"}"
    assert "12345678901234567890.25" in subscription_from_json(fields).filter


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
