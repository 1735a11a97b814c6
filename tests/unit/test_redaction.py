"""What of a subscription may be shown."""

from __future__ import annotations

import msgspec

from schemas.redaction import hidden, redacted
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
