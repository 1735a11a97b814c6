"""What a provider's file may say, and what a source may say instead."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.providers import providers
from schemas.errors import InvalidProviderError
from schemas.provider import adjusted, parts, provider_from_fields, provider_from_toml

SIGNATURE: dict[str, Any] = {"header": "x-sig", "algorithm": "hmac-sha256", "encoding": "hex"}
PLAIN: dict[str, Any] = {
    "name": "p",
    "title": "P",
    "secret": "a secret",
    "signatures": [SIGNATURE],
    "type": {"prefix": "p."},
}


def signature(**more: Any) -> dict[str, Any]:
    return {"signatures": [SIGNATURE | more]}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "a b"}, "name"),
        ({"signatures": []}, "between 1 and 4"),
        ({"signatures": [SIGNATURE] * 5}, "between 1 and 4"),
        ({"nonsense": 1}, "nonsense"),
        (signature(algorithm="md5"), "md5"),
        (signature(header="X-Sig"), "name of a header"),
        (signature(signed="{nonsense}"), "no part"),
        (signature(signed="v0:"), "neither {body} nor {form}"),
        (signature(signed="{url}"), "neither {body} nor {form}"),
        (signature(signed="{form}"), "content_types are those of forms only"),
        (signature(signed="{timestamp}.{body}"), r"no \[timestamp\]"),
        (signature(signed="{id}.{body}"), "id is one header"),
        (signature(signed="{id}{body}") | {"id": ["header:x-id"]}, "nothing tells where"),
        (signature(signed="{body}{url}"), "nothing tells where"),
        (signature(algorithm="ed25519"), "are base64"),
        ({"timestamp": {"header": "x-t"}}, "it is not signed"),
        (signature(signed="{timestamp}.{body}") | {"timestamp": {"header": "X"}}, "name of a header"),
        (signature(signed="{timestamp}.{body}") | {"timestamp": {"header": "x", "tolerance_s": 86401}}, "tolerance"),
        ({"type": {"prefix": "p"}}, "does not end with a dot"),
        ({"type": {"prefix": "a b."}}, "not dotted segments"),
        ({"type": {"prefix": "", "default": ".."}}, "default"),
        ({"id": ["cookie:a"]}, "is no reference"),
        ({"id": ["header:X-Id"]}, "in lower case"),
        ({"id": ["json:a"] * 9}, "more than 8"),
        ({"content_types": []}, "content_types"),
        ({"challenges": [{"answer": "{value}"}]}, "there is no value"),
        ({"challenges": [{"answer": "{nonsense}", "value": "json:a"}]}, "no part"),
        ({"challenges": [{"method": "GET", "answer": "ok"}]}, "needs a value"),
        ({"challenges": [{"answer": "ok"}] * 5}, "more than 4"),
        ({"answer": {"status": 500}}, "does not say that it was received"),
        ({"answer": {"status": 204, "body": "ok"}}, "there is no body"),
        ({"answer": {"content_type": "text/html"}}, "text/html"),
    ],
)
def test_what_a_file_must_not_say(change: dict[str, Any], sentence: str) -> None:
    assert provider_from_fields(PLAIN).name == "p"
    with pytest.raises(InvalidProviderError, match=sentence):
        provider_from_fields(PLAIN | change)


def test_a_file_that_is_no_toml() -> None:
    with pytest.raises(InvalidProviderError, match="not TOML"):
        provider_from_toml("name = ")


def test_parts() -> None:
    assert [tuple(part) for part in parts("v0:{timestamp}:{body}")] == [
        ("", "v0:"),
        ("timestamp", ""),
        ("", ":"),
        ("body", ""),
    ]


def test_only_hmac_can_be_adjusted() -> None:
    own = {"signatures": [SIGNATURE], "type": {"prefix": "own."}, "id": ["json:id"]}
    changed = adjusted(providers()["hmac"], own)
    assert changed.signatures[0].header == "x-sig"
    assert changed.type.prefix == "own."
    assert changed.type.references == providers()["hmac"].type.references  # of a table, only what is named
    assert adjusted(providers()["stripe"], {}) is providers()["stripe"]
    with pytest.raises(InvalidProviderError, match="stripe is what it is"):
        adjusted(providers()["stripe"], own)
    for name in ("name", "adjustable"):
        with pytest.raises(InvalidProviderError, match="cannot be overridden"):
            adjusted(providers()["hmac"], {name: "stripe"})
    with pytest.raises(InvalidProviderError, match="answers of your own are text/plain"):
        adjusted(providers()["hmac"], {"answer": {"content_type": "text/xml"}})
    with pytest.raises(InvalidProviderError, match="answers of your own are text/plain"):
        adjusted(providers()["hmac"], {"challenges": [{"answer": "<a/>", "content_type": "text/xml"}]})
    with pytest.raises(InvalidProviderError, match="nonsense"):
        adjusted(providers()["hmac"], {"nonsense": 1})
    with pytest.raises(InvalidProviderError, match=r"neither .body"):
        adjusted(providers()["hmac"], {"signatures": [SIGNATURE | {"signed": "x"}]})
