"""API keys: the text checked against the record, through rotation, expiry and revocation; bad records refused."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import msgspec
import pytest

from schemas import codec
from schemas.access import InvalidAccessError as Invalid
from schemas.access import Principal, check_given, check_scopes
from schemas.api_key import (
    EXPIRES_MS_MAX,
    KEPT_MS,
    NOBODY,
    OVERLAP_MS_MAX,
    SCRYPT_N,
    SCRYPT_P,
    SCRYPT_R,
    ApiKey,
    decode_key,
    encode_key,
    new_key,
    parse_key,
    revoked,
    rotated,
)
from schemas.errors import UndecodableError

HEADER = codec.wire_header(7)
NOW = 1_790_000_000_000


class Draw:
    """Random bytes that are not: a different one each time."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)

    def __call__(self, length: int) -> bytes:
        return next(self.numbers).to_bytes(length, "big")


def made(**fields: Any) -> tuple[ApiKey, str]:
    given: dict[str, Any] = {"tenant": "acme", "scopes": ("events:write",), "name": "ci", "expires_ms": 0}
    return new_key(Draw(), created_ms=NOW, created_by="cli:me@here", **given | fields)


def secret_of(text: str) -> str:
    parsed = parse_key(text)
    assert parsed is not None
    return parsed[1]


def test_the_text_of_a_key_names_it_and_holds_a_secret_that_the_record_does_not() -> None:
    key, text = made()
    assert parse_key(text) == (key.id, text[len("dsk_") + 17 :])
    assert (key.id, len(secret_of(text))) == ("0000000000000001", 43)
    assert secret_of(text) not in repr(key) + repr(msgspec.structs.asdict(key))
    assert key.hash.hex() not in repr(key)
    expected = hashlib.scrypt(
        secret_of(text).encode(), salt=key.salt, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P, maxmem=1 << 26, dklen=32
    )
    assert key.hash == expected
    assert (key.created_ms, key.created_by, key.state(NOW)) == (NOW, "cli:me@here", "active")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dsk_",
        "dsk_0000000000000001",
        f"dsk_000000000000000g_{'A' * 43}",
        f"dsk_0000000000000001_{'A' * 42}",
        f"dsk_0000000000000001_{'A' * 44}",
        f"dsk_0000000000000001_{'A' * 43}\n",
        f"dsk_0000000000000001_{'ä' * 43}",
        f"DSK_0000000000000001_{'A' * 43}",
    ],
)
def test_what_does_not_have_the_form_of_a_key_is_none(text: str) -> None:
    assert parse_key(text) is None


def test_a_secret_is_valid_until_the_key_expires_or_is_revoked() -> None:
    key, text = made(expires_ms=NOW + 10)
    right, wrong = key.hashed(secret_of(text)), key.hashed("A" * 43)
    assert key.valid_until_ms(right, NOW + 9) == NOW + 10
    assert key.valid_until_ms(right, NOW + 10) is None
    assert key.valid_until_ms(wrong, NOW) is None
    assert key.valid_until_ms(b"", NOW) is None  # there is no hash before, and nothing is not it
    ended = revoked(key, NOW + 1)
    assert (ended.state(NOW), ended.valid_until_ms(right, NOW)) == ("revoked", None)
    assert revoked(ended, NOW + 5) is ended
    assert (key.state(NOW + 9), key.state(NOW + 10)) == ("active", "expired")
    assert NOBODY.valid_until_ms(NOBODY.hash, NOW) is None


def test_a_rotation_keeps_the_secret_before_for_a_while_and_none_before_that() -> None:
    draw = Draw()
    key, first = new_key(
        draw, tenant=None, scopes=("events:write",), name="", created_ms=NOW, created_by="", expires_ms=0
    )
    second_key, second = rotated(key, draw, NOW + 100, 50)
    assert (second_key.id, second_key.salt, second_key.rotated_ms) == (key.id, key.salt, NOW + 100)
    hashes = [key.hashed(secret_of(text)) for text in (first, second)]
    assert [second_key.valid_until_ms(each, NOW + 149) for each in hashes] == [NOW + 150, 0]
    assert [second_key.valid_until_ms(each, NOW + 150) for each in hashes] == [None, 0]
    third_key, third = rotated(second_key, draw, NOW + 110, 0)
    assert third_key.previous_hash == b""
    assert [third_key.valid_until_ms(each, NOW + 111) for each in hashes] == [None, None]
    assert third_key.valid_until_ms(third_key.hashed(secret_of(third)), NOW + 111) == 0


def test_the_secret_before_does_not_outlive_its_key() -> None:
    key, first = made(expires_ms=NOW + 20)
    after, _ = rotated(key, Draw(), NOW + 1, 1_000)
    assert after.valid_until_ms(key.hashed(secret_of(first)), NOW + 2) == NOW + 20


@pytest.mark.parametrize("overlap_ms", [-1, OVERLAP_MS_MAX + 1])
def test_a_rotation_is_refused(overlap_ms: int) -> None:
    key, _ = made()
    with pytest.raises(Invalid, match="overlap_ms"):
        rotated(key, Draw(), NOW, overlap_ms)
    with pytest.raises(Invalid, match="is revoked; make a new one"):
        rotated(revoked(key, NOW), Draw(), NOW, 0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "x" * 201}, "name"),
        ({"name": "a\x1b[2J"}, "name"),
        ({"expires_ms": NOW}, "expires_ms"),
        ({"rate": 0.001}, "rate"),
        ({"rate": 1e9}, "rate"),
        ({"expires_ms": NOW + EXPIRES_MS_MAX + 1}, "expires_ms"),
    ],
)
def test_a_key_that_cannot_be_is_not_made(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid, match=said):
        made(**fields)


def test_a_key_that_ended_long_ago_may_go() -> None:
    key, _ = made(expires_ms=NOW + 10)
    assert not made()[0].removable(NOW + EXPIRES_MS_MAX)
    assert (key.removable(NOW + 9 + KEPT_MS), key.removable(NOW + 10 + KEPT_MS)) == (False, True)
    assert revoked(key, NOW + 1).removable(NOW + 1 + KEPT_MS)


def test_a_record_comes_back_and_has_the_fields_of_its_schema() -> None:
    key, _ = made(tenant=None, expires_ms=NOW + 5)
    for each in (key, rotated(key, Draw(), NOW, 5)[0], revoked(key, NOW)):
        assert decode_key(encode_key(HEADER, each)) == each
    fields = codec.parse_schema(codec.own_schema("api_key.v1"))["fields"]
    ours = msgspec.structs.fields(ApiKey)
    assert [each["name"] for each in fields] == [each.name for each in ours]
    assert [each.get("default", msgspec.NODEFAULT) for each in fields] == [each.default for each in ours]


@pytest.mark.parametrize(
    "change",
    [
        {"id": "a"},
        {"tenant": "a b"},
        {"scrypt_n": 0},
        {"scrypt_n": 3},
        {"scrypt_n": 1 << 20},
        {"scrypt_r": 0},
        {"scrypt_p": 0},
        {"scrypt_p": 1 << 20},
        {"salt": b"short"},
        {"hash": b"short"},
        {"previous_hash": b"short"},
    ],
)
def test_a_record_that_must_not_be_used_is_refused(change: dict[str, Any]) -> None:
    key = msgspec.structs.replace(made()[0], **change)
    with pytest.raises(UndecodableError):
        decode_key(encode_key(HEADER, key))


def test_what_is_no_record_is_refused() -> None:
    value = encode_key(HEADER, made()[0])
    for bad in (None, b"", value[:-1], b"{}" + value, value + b"\0"):
        with pytest.raises(UndecodableError):
            decode_key(bad)


# --- who may give what ------------------------------------------------------------------------------------------------

TENANT = Principal(actor="key:1", tenant="acme", scopes=frozenset({"keys:write", "events:write"}))
OPERATOR = Principal(actor="key:2", tenant=None, scopes=frozenset({"keys:write"}))


def test_nobody_gives_what_they_do_not_have() -> None:
    assert check_given(TENANT, "acme", ["keys:write", "events:write", "keys:write"]) == ("events:write", "keys:write")
    assert check_given(OPERATOR, "acme", ["keys:write"]) == check_given(OPERATOR, None, ["keys:write"])
    for giver, tenant, scopes, said in [
        (TENANT, "acme", ["audit:read"], "you do not have audit:read"),
        (TENANT, "other", ["events:write"], "not yours"),
        (TENANT, None, ["events:write"], "not yours"),
        (OPERATOR, "acme", ["events:write"], "you do not have events:write"),
        (OPERATOR, "a b", ["keys:write"], "tenant"),
        (TENANT, "acme", [], "at least one"),
        (TENANT, "acme", ["everything"], "'everything' is none of"),
    ]:
        with pytest.raises(Invalid, match=said):
            check_given(giver, tenant, scopes)


def test_scopes_are_held_once_and_in_order() -> None:
    assert check_scopes(["keys:read", "audit:read", "keys:read"]) == ("audit:read", "keys:read")


def test_a_tenant_sees_its_own_and_an_operator_everything() -> None:
    assert [TENANT.sees(each) for each in ("acme", "other", None)] == [True, False, False]
    assert [OPERATOR.sees(each) for each in ("acme", "other", None)] == [True, True, True]
