"""Sealed secrets: they open where they were sealed, with the key they were sealed with, and nowhere else."""

from __future__ import annotations

import base64
import json
import os
from itertools import count

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import UnsealableError
from schemas.sealing import (
    Keyring,
    key_of,
    keyring_from_lines,
    keyring_from_texts,
    opened,
    resealed,
    sealed,
    texts_of,
)
from schemas.subscription import Subscription, subscription_from_json, subscription_to_json
from tests.unit.test_subscription import CERTIFICATE, KEY, OAUTH2, PRIVATE, SECRET, from_json

KEYS = {"k1": bytes(range(32)), "k2": b"2" * 32}
RING = Keyring(KEYS)
TEXT = "whsec_hush"
NONCE = b"n" * 12


def nonces() -> bytes:
    return next(_counted).to_bytes(12)


_counted = count()


def full() -> Subscription:
    return from_json(
        secrets=[SECRET, PRIVATE], auth=OAUTH2, tls={"certificate": CERTIFICATE, "key": KEY, "ca": CERTIFICATE}
    )


def test_the_form_by_an_independent_hand() -> None:
    kind, key_id, box = RING.seal(TEXT, "sub_1/secrets", NONCE).split(":")
    raw = base64.urlsafe_b64decode(box + "=" * (-len(box) % 4))
    assert (kind, key_id, raw[:12]) == ("sealed", "k1", NONCE)
    assert AESGCM(KEYS["k1"]).decrypt(raw[:12], raw[12:], b"sub_1/secrets") == TEXT.encode()


@given(st.text(max_size=300), st.text(max_size=80), st.binary(min_size=12, max_size=12))
def test_what_is_sealed_opens_at_its_place_only(text: str, place: str, nonce: bytes) -> None:
    box = RING.seal(text, place, nonce)
    assert RING.open(box, place) == text
    with pytest.raises(UnsealableError):
        RING.open(box, place + "x")


def test_every_changed_character_is_noticed() -> None:
    box = RING.seal(TEXT, "a/secrets", NONCE)
    for at in range(len("sealed:k1:"), len(box)):
        other = box[:at] + ("A" if box[at] != "A" else "B") + box[at + 1 :]
        with pytest.raises(UnsealableError) as error:
            RING.open(other, "a/secrets")
        assert "hush" not in str(error.value)


def test_the_key_that_is_missing_is_named_with_the_next_step() -> None:
    box = RING.seal(TEXT, "a/secrets", NONCE)
    with pytest.raises(UnsealableError, match=r"a/secrets is sealed with the key 'k1', which is not here; add it to"):
        Keyring({"k2": KEYS["k2"]}).open(box, "a/secrets")
    with pytest.raises(UnsealableError, match="the key is another one, or"):
        Keyring({"k1": KEYS["k2"]}).open(box, "a/secrets")
    for broken in ("sealed:k1:", "sealed:k1:!", "sealed:", "sealed:k1:" + "A" * 40):
        with pytest.raises(UnsealableError):
            RING.open(broken, "a/secrets")


def test_without_a_key_texts_stay_clear_and_clear_texts_pass() -> None:
    none = Keyring({})
    assert not none
    assert none.seal(TEXT, "a/secrets", NONCE) == TEXT
    assert RING.open(TEXT, "a/secrets") == none.open(TEXT, "a/secrets") == TEXT
    assert sealed(full(), none, nonces) == full()


def test_the_first_key_seals_unless_another_is_named() -> None:
    assert (RING.primary, Keyring(KEYS, "k2").primary) == ("k1", "k2")
    assert key_of(Keyring(KEYS, "k2").seal(TEXT, "a/b", NONCE)) == "k2"
    assert key_of(TEXT) == ""


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"a b": bytes(32)}, "the id of a key is not"),
        ({"": bytes(32)}, "the id of a key is not"),
        ({"a": b"hush" * 7}, "the key a is not base64 of 32 bytes"),
        ({f"k{n}": bytes(32) for n in range(101)}, "more than 100 keys"),
    ],
)
def test_keys_that_are_none(keys: dict[str, bytes], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        Keyring(keys)
    assert "hush" not in str(error.value)


def test_a_primary_that_is_not_there_and_a_nonce_of_another_length() -> None:
    with pytest.raises(ValueError, match="there is no key k9"):
        Keyring(KEYS, "k9")
    with pytest.raises(ValueError, match="12 bytes"):
        RING.seal(TEXT, "a/b", b"short")


def test_no_repr_shows_a_key() -> None:
    assert repr(RING) == "Keyring(['k1', 'k2'], primary='k1')"


def test_keys_from_a_file_and_from_a_setting() -> None:
    one, two = (base64.b64encode(key).decode() for key in KEYS.values())
    box = RING.seal(TEXT, "a/b", NONCE)
    for ring in (
        keyring_from_lines(f"# the newest first\n\n k1:{one} \nk2:{two}\n"),
        keyring_from_texts({"k1": one, "k2": two}),
    ):
        assert ring.primary == "k1"
        assert ring.open(box, "a/b") == TEXT


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "it holds no key"),
        ("# k1:x", "it holds no key"),
        ("hush", "line 1 is not <id>:<base64 of 32 bytes>"),
        ("\nk1:hush!", "the key k1 is not base64 of 32 bytes"),
        ("k1:" + "A" * 43 + "=\nk1:" + "B" * 43 + "=", "line 2 has the id of another line"),
    ],
)
def test_lines_that_are_no_keys(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        keyring_from_lines(text)
    assert "hush" not in str(error.value)


def test_a_subscription_is_sealed_in_every_secret_field_and_still_a_subscription() -> None:
    clear = full()
    shut = sealed(clear, RING, nonces)
    assert len(texts_of(shut)) == 4
    assert all(key_of(text) == "k1" for text in texts_of(shut))
    for secret in texts_of(clear):
        assert secret not in subscription_to_json(shut).decode()
    assert subscription_from_json(subscription_to_json(shut)) == shut  # it keeps every rule
    assert opened(shut, RING) == clear
    assert opened(clear, RING) is clear
    assert sealed(shut, RING, nonces) is shut
    assert json.loads(shut.tls)["ca"] == CERTIFICATE


def test_the_largest_secrets_keep_the_rules_when_they_are_sealed() -> None:
    bearer = from_json(
        secrets=["whsec_" + base64.b64encode(bytes(64)).decode()] * 5, auth={"type": "bearer", "token": "a" * 4096}
    )
    key = KEY.replace("aHVz", "aHVz" * 8_000, 1)
    basic = from_json(
        auth={"type": "basic", "username": "a", "password": "\U0001f511" * 4096},
        tls={"certificate": CERTIFICATE, "key": key},
    )
    for large in (bearer, basic):
        shut = sealed(large, Keyring({"k" * 64: bytes(32)}), nonces)
        assert opened(subscription_from_json(subscription_to_json(shut)), Keyring({"k" * 64: bytes(32)})) == large


def test_a_sealed_secret_is_of_no_use_to_another_subscription_or_field() -> None:
    shut = sealed(full(), RING, nonces)
    with pytest.raises(UnsealableError, match="another/secrets does not open"):
        opened(msgspec.structs.replace(shut, id="another"), RING)
    moved = json.dumps({"type": "bearer", "token": shut.secrets[0]})
    with pytest.raises(UnsealableError, match=r"sub_1/auth\.token does not open"):
        opened(msgspec.structs.replace(shut, auth=moved), RING)


def test_sealing_again_takes_clear_ones_and_those_of_other_keys_and_leaves_the_rest() -> None:
    half = msgspec.structs.replace(sealed(full(), RING, nonces), auth=full().auth)
    new = Keyring(KEYS, "k2")
    shut = resealed(half, new, nonces)
    assert all(key_of(text) == "k2" for text in texts_of(shut))
    assert opened(shut, new) == full()
    assert resealed(shut, new, nonces) is shut
    with pytest.raises(UnsealableError):
        resealed(half, Keyring({"k2": KEYS["k2"]}), nonces)


def test_no_two_sealings_are_alike() -> None:
    assert len({RING.seal(TEXT, "a/b", os.urandom(12)) for _ in range(10)}) == 10
