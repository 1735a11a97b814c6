"""The source's record: its rules, both of its forms, and what of it is shown."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from connectors.providers import providers
from schemas import codec
from schemas.errors import InvalidSourceError, UndecodableError
from schemas.source import (
    Source,
    checked_with,
    decode_source,
    encode_source,
    provider_of,
    shown,
    source_from_fields,
    source_from_json,
)

SECRET = "whsec_do-not-quote-me"
PLAIN: dict[str, Any] = {"id": "pay", "provider": "stripe", "secrets": [SECRET]}
HEADER = codec.wire_header(7)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"id": "a b"}, "id"),
        ({"id": 1}, "Expected `str`"),
        ({"tenant": ""}, "tenant"),
        ({"provider": ""}, "provider"),
        ({"secrets": []}, "between 1 and 5"),
        ({"secrets": [SECRET] * 6}, "between 1 and 5"),
        ({"secrets": [""]}, "printable ASCII"),
        ({"secrets": [SECRET + "\n"]}, "printable ASCII"),
        ({"secrets": [SECRET * 100]}, "printable ASCII"),
        ({"secrets": [f"sealed:{SECRET}"]}, "neither a secret nor one that was sealed"),
        ({"secrets_expire_ms": [0, 0]}, "secrets_expire_ms"),
        ({"secrets_expire_ms": [-1]}, "secrets_expire_ms"),
        ({"allowlist": ["192.0.2.1/24"]}, "allowlist"),
        ({"allowlist": ["192.0.2.1"] * 201}, "more than 200"),
        ({"event_type_prefix": "a"}, "event_type_prefix"),
        ({"overrides": "["}, "overrides: not JSON"),
        ({"overrides": "[]"}, "overrides: not a JSON object"),
        ({"overrides": {"a": "b" * 9000}}, "more than 8192"),
        ({"overrides": {"a": 1 << 64}}, "overrides: not what JSON can be here"),
        ({"description": "x" * 1025}, "description"),
        ({"state": "paused"}, "state"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_rules(change: dict[str, Any], sentence: str) -> None:
    assert source_from_fields(PLAIN).id == "pay"
    with pytest.raises(InvalidSourceError, match=sentence) as raised:
        source_from_fields(PLAIN | change)
    assert "do-not-quote-me" not in str(raised.value)


def test_what_is_no_json() -> None:
    for text in ("[]", "{", ""):
        with pytest.raises(InvalidSourceError, match="not a JSON object"):
            source_from_json(text)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"provider": "acme"}, "is none of github, hmac"),
        ({"overrides": {"id": ["json:x"]}}, "stripe is what it is"),
        ({"provider": "hmac", "overrides": {"id": ["x"]}}, "is no reference"),
        ({"provider": "sendgrid"}, "one is no key for SendGrid; it wants the verification key"),
        ({"provider": "standard"}, "one is no key for Standard Webhooks"),
    ],
)
def test_it_must_fit_its_provider(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidSourceError, match=sentence) as raised:
        checked_with(source_from_fields(PLAIN | change), providers())
    assert "do-not-quote-me" not in str(raised.value)


def test_a_sealed_secret_is_not_looked_into() -> None:
    sealed = "sealed:k1:" + "A" * 60
    source = source_from_fields(PLAIN | {"provider": "sendgrid", "secrets": [sealed]})
    assert checked_with(source, providers()) is source


def test_overrides() -> None:
    own = source_from_fields(PLAIN | {"provider": "hmac", "overrides": {"id": ["json:x"]}})
    assert own.overrides == '{"id":["json:x"]}'
    assert provider_of(own, providers()).id == ("json:x",)
    assert source_from_fields(PLAIN | {"overrides": {}}).overrides == ""
    assert shown(own)["overrides"] == {"id": ["json:x"]}


def test_both_forms() -> None:
    source = source_from_json(orjson.dumps(PLAIN | {"allowlist": ["192.0.2.0/24"], "secrets_expire_ms": [5]}))
    assert decode_source(encode_source(HEADER, source)) == source
    assert source_from_fields(shown(source, reveal=True)) == source


def test_what_is_no_record() -> None:
    with pytest.raises(UndecodableError, match="too few"):
        decode_source(b"")
    broken = encode_source(HEADER, Source(id="a b", provider="stripe", secrets=(SECRET,)))
    with pytest.raises(UndecodableError) as raised:
        decode_source(broken)
    assert raised.value.reason == "invalid"


def test_secrets_end() -> None:
    source = source_from_fields(PLAIN | {"secrets": ["a", "b", "c"], "secrets_expire_ms": [0, 5]})
    assert source.secrets_at(4) == ((0, "a"), (1, "b"), (2, "c"))
    assert source.secrets_at(5) == ((0, "a"), (2, "c"))


def test_no_secret_is_shown() -> None:
    source = source_from_fields(PLAIN)
    assert "do-not-quote-me" not in repr(source) + repr(shown(source))
    assert shown(source, reveal=True)["secrets"] == (SECRET,)
