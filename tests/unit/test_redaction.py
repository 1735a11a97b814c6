"""What of a subscription may be shown."""

from __future__ import annotations

import msgspec

from schemas import codec
from schemas.redaction import hidden, redacted, redacted_fields
from schemas.subscription_codec import SubscriptionDecoder, subscription_value
from tests.unit.test_subscription import CERTIFICATE, KEY, OAUTH2, SECRET, from_json


def test_everything_but_what_is_secret() -> None:
    s = from_json(
        headers={"X-Key": "hush"}, auth=OAUTH2, tls={"certificate": CERTIFICATE, "key": KEY}, description="for Zoë"
    )
    shown = redacted(s)
    text = str(shown)
    assert "hush" not in text
    assert SECRET not in text
    assert KEY.splitlines()[1] not in text
    assert shown["auth"] == OAUTH2 | {"client_secret": "…"}
    assert shown["tls"] == {"certificate": CERTIFICATE, "key": "…"}
    assert (shown["secrets"], shown["headers"]) == (["whsec_…"], {"X-Key": "…"})
    whole = msgspec.structs.asdict(s)
    assert {name for name, value in shown.items() if value != whole[name]} == {"secrets", "headers", "auth", "tls"}


def test_a_ca_has_no_key_to_hide() -> None:
    assert redacted(from_json(tls={"ca": CERTIFICATE}))["tls"] == {"ca": CERTIFICATE}


def test_the_kind_of_a_secret_and_the_key_of_a_sealed_one_are_no_secret() -> None:
    assert [hidden(each) for each in ("whsec_aa", "whsk_aa", "sealed:k1:aa", "hunter2")] == [
        "whsec_…",
        "whsk_…",
        "sealed:k1:…",
        "…",
    ]


def test_of_fields_that_make_no_subscription_little_is_shown() -> None:
    bad = {
        "id": "acme",
        "url": "https://user:hush@a.example/x",
        "event_types": ["order.*"],
        "timeout_ms": -1,
        "ordered": True,
        "filter": None,
        "secrets": [SECRET, "hush", 7],
        "auth": {"type": "bearer", "token": "hush"},
        "tls": "hush",
        "state": "hush",
        "secret": "hush",
    }
    shown = redacted_fields(bad)
    assert "hush" not in str(shown)
    assert SECRET not in str(shown)
    assert list(shown) == list(bad)
    assert shown["secrets"] == ["whsec_…", "…", "…"]
    assert shown["url"] == "https://…@a.example/x"
    assert {name for name in bad if shown[name] == bad[name]} == {
        "id",
        "event_types",
        "timeout_ms",
        "ordered",
        "filter",
    }


def test_what_is_kept_of_a_bad_record() -> None:
    decoder = SubscriptionDecoder()
    kept = decoder.without_secrets
    assert kept(None) is None
    assert kept(b'{"id": "acme", "secrets": "hush"}') == '{"id":"acme","secrets":"…"}'.encode()
    assert kept(b'{"id": "acme", "secrets": ["hush"') == b"{}"
    assert kept(b"nonsense") == b"nonsense"
    value = subscription_value(7, from_json(id="acme"))
    assert kept(value) == value, "a schema that arrives may mend it"
    decoder.learn(7, codec.own_schema("subscription.v4"))
    readable = kept(value)
    assert readable is not None
    assert SECRET.encode() not in readable
    assert msgspec.json.decode(readable)["id"] == "acme"
    assert kept(value[:-3]) == value[:-3]
