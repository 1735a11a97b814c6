"""Portal links: what was signed is read, until it ends; what anybody changed, or signed elsewhere, is not."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from schemas.access import InvalidAccessError
from schemas.portal import LIFE_MS_MAX, PortalLink, PortalSigner

NOW = 1_790_000_000_000
OLD, NEW = b"o" * 32, b"n" * 32
AUDIENCE = "distributary.api"


def signer(*secrets: bytes, audience: str = AUDIENCE) -> PortalSigner:
    return PortalSigner(secrets or (NEW,), audience)


def issue(by: PortalSigner, **fields: Any) -> tuple[PortalLink, str]:
    given: dict[str, Any] = {"tenant": "acme", "scopes": ("subscriptions:read",), "key": "k1", "life_ms": 1_000}
    return by.issue("l1", now_ms=NOW, **given | fields)


def test_a_link_is_read_until_it_ends() -> None:
    link, token = issue(signer())
    assert (link.tenant, link.scopes, link.expires_ms) == ("acme", ("subscriptions:read",), NOW + 1_000)
    assert signer().read(token, NOW + 999) == link
    assert signer().read(token, NOW + 1_000) is None


def test_secrets_are_replaced_one_by_one() -> None:
    _, old_token = issue(signer(OLD))
    assert signer(NEW, OLD).read(old_token, NOW)
    assert signer(NEW).read(old_token, NOW) is None
    _, new_token = issue(signer(NEW, OLD))
    assert signer(NEW).read(new_token, NOW)
    assert signer(OLD).read(new_token, NOW) is None


def test_a_link_of_another_api_is_none_here() -> None:
    _, token = issue(signer(audience="staging.distributary.api"))
    assert signer().read(token, NOW) is None


def test_no_part_of_a_token_can_be_changed() -> None:
    _, token = issue(signer())
    for at in range(len(token)):
        for other in "Ax.":
            changed = token[:at] + other + token[at + 1 :]
            assert changed == token or signer().read(changed, NOW) is None, at
    for bad in ("", "dsp_", token + "A", token + "\n", " " + token, token[:-1], token.replace("dsp_", "dsk_")):
        assert signer().read(bad, NOW) is None


def forged(claims: bytes, secret: bytes = NEW) -> str:
    """Signed as ours are, with the parts of another library."""
    derived = HKDF(algorithm=SHA256(), length=36, salt=None, info=b"distributary portal link v1").derive(secret)
    head = f"{derived[32:].hex()}.{base64.urlsafe_b64encode(claims).rstrip(b'=').decode()}"
    mac = HMAC(derived[:32], SHA256())
    mac.update(head.encode())
    return f"dsp_{head}.{base64.urlsafe_b64encode(mac.finalize()).rstrip(b'=').decode()}"


CLAIMS: dict[str, Any] = {
    "id": "l1",
    "tenant": "acme",
    "scopes": ["subscriptions:read"],
    "key": "k1",
    "audience": AUDIENCE,
    "issued_ms": NOW,
    "expires_ms": NOW + 1_000,
}


def test_the_signature_is_what_the_document_says() -> None:
    assert signer().read(forged(msgspec.json.encode(CLAIMS)), NOW) == msgspec.convert(CLAIMS, PortalLink)
    assert forged(msgspec.json.encode(issue(signer())[0])) == issue(signer())[1]


@pytest.mark.parametrize(
    "change",
    [
        {"scopes": ["keys:write"]},
        {"expires_ms": NOW + LIFE_MS_MAX + 1},
        {"audience": ""},
        {"more": 1},
        {"tenant": 7},
    ],
)
def test_claims_that_no_link_of_ours_has_are_refused_though_signed(change: dict[str, Any]) -> None:
    assert signer().read(forged(msgspec.json.encode(CLAIMS | change)), NOW) is None


def test_claims_that_are_no_json_are_refused_though_signed() -> None:
    for claims in (b"[]", b"x", b"{"):
        assert signer().read(forged(claims), NOW) is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"life_ms": 0}, "expires_in_s"),
        ({"life_ms": LIFE_MS_MAX + 1}, "expires_in_s"),
        ({"scopes": ("keys:write", "subscriptions:read")}, "cannot carry keys:write"),
    ],
)
def test_a_link_that_cannot_be_is_not_made(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidAccessError, match=said):
        issue(signer(), **fields)


def test_a_signer_needs_a_secret_that_is_long_enough() -> None:
    with pytest.raises(ValueError, match="less than 32 bytes"):
        signer(b"short")
    with pytest.raises(ValueError, match="no portal secret"):
        PortalSigner((), AUDIENCE)
