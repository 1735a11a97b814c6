"""Secrets at rest: sealed with AES-256-GCM under keys that are not in Kafka, and opened again.

A sealed text is `sealed:<key id>:<base64url of nonce, ciphertext and tag>`. Its *place*, `<subscription id>/<field>`,
is authenticated with it, so that it opens nowhere else: not as another subscription's secret, nor as another field.
Pure: the nonce is an argument. This file reads no settings (`streams/secret_keys.py` does) and signs nothing.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schemas.credentials import (
    AUTH_SECRETS,
    KEY_ID_PATTERN,
    NONCE_BYTES,
    SEALED_PREFIX,
    auth_text,
    is_sealed,
    parse_auth,
    parse_tls,
    tls_text,
)
from schemas.errors import UnsealableError
from schemas.subscription import Subscription

KEY_BYTES = 32
KEYS_MAX = 100


class Keyring:
    """Keys by id, of which the *primary* one seals. Without any, texts stay as they are."""

    __slots__ = ("_ciphers", "primary")

    def __init__(self, keys: Mapping[str, bytes], primary: str = "") -> None:
        """`keys` are 32 bytes each; the primary is the first unless named. ValueError; no message quotes a key."""
        if len(keys) > KEYS_MAX:
            raise ValueError(f"more than {KEYS_MAX} keys")
        for key_id, key in keys.items():
            if not KEY_ID_PATTERN.fullmatch(key_id):
                raise ValueError("the id of a key is not 1 to 64 characters of A-Z a-z 0-9 _ -")
            if len(key) != KEY_BYTES:
                raise ValueError(f"the key {key_id} is not base64 of {KEY_BYTES} bytes")
        if primary and primary not in keys:
            raise ValueError(f"there is no key {primary}")
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        #: The id of the key that seals; empty when there is none.
        self.primary = primary or next(iter(keys), "")

    def __bool__(self) -> bool:
        """Whether there is a key to seal with."""
        return bool(self.primary)

    def __repr__(self) -> str:
        return f"Keyring({list(self._ciphers)}, primary={self.primary!r})"

    def seal(self, text: str, place: str, nonce: bytes) -> str:
        """The text, sealed by the primary key for this place; as it is when there is no key.

        The nonce is 12 random bytes, never used before (NIST SP 800-38D, 8.2.2: no more than 2^32 times with one key).
        """
        if not self.primary:
            return text
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
        box = nonce + self._ciphers[self.primary].encrypt(nonce, text.encode(), place.encode())
        return f"{SEALED_PREFIX}{self.primary}:{base64.urlsafe_b64encode(box).decode().rstrip('=')}"

    def open(self, text: str, place: str) -> str:
        """What was sealed for this place; a clear text as it is. UnsealableError."""
        if not is_sealed(text):
            return text
        key_id = key_of(text)
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise UnsealableError(
                f"{place} is sealed with the key {key_id!r}, which is not here; add it to the secret keys"
                " (DISTRIBUTARY_SECRET_KEYS or DISTRIBUTARY_SECRET_KEYS_FILE)"
            )
        try:
            box = base64.b64decode(_padded(text.rpartition(":")[2]), altchars=b"-_", validate=True)
            return cipher.decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], place.encode()).decode()
        except (binascii.Error, InvalidTag, ValueError):
            raise UnsealableError(
                f"{place} does not open with the key {key_id!r}: the key is another one, or the text was sealed for"
                " another place or changed; set the secret anew"
            ) from None


def key_of(text: str) -> str:
    """The id of the key that a text was sealed with; empty for a clear one."""
    return text.split(":", 2)[1] if is_sealed(text) else ""


def keyring_from_texts(keys: Mapping[str, str]) -> Keyring:
    """Keys as base64 of 32 bytes by their ids, the first of which seals. ValueError."""
    return Keyring({key_id: _key(key) for key_id, key in keys.items()})


def keyring_from_lines(text: str) -> Keyring:
    """Keys of `<key id>:<base64 of 32 bytes>` a line, the first of which seals; empty lines and comments (#) aside.
    ValueError."""
    keys: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        key_id, colon, key = entry.partition(":")
        if not colon:
            raise ValueError(f"line {number} is not <id>:<base64 of {KEY_BYTES} bytes>")
        if key_id in keys:
            raise ValueError(f"line {number} has the id of another line")
        keys[key_id] = _key(key)
    if not keys:
        raise ValueError("it holds no key")
    return Keyring(keys)


def opened(subscription: Subscription, keyring: Keyring) -> Subscription:
    """The subscription with nothing sealed in it. UnsealableError."""
    return _changed(subscription, keyring.open)


def sealed(subscription: Subscription, keyring: Keyring, nonce: Callable[[], bytes]) -> Subscription:
    """The subscription with all clear secrets sealed; what is sealed stays as it is, whatever the key."""
    if not keyring:
        return subscription

    def seal(text: str, place: str) -> str:
        return text if is_sealed(text) else keyring.seal(text, place, nonce())

    return _changed(subscription, seal)


def resealed(subscription: Subscription, keyring: Keyring, nonce: Callable[[], bytes]) -> Subscription:
    """The subscription with all secrets sealed by the primary key: clear ones too, and those of other keys.
    UnsealableError."""

    def seal(text: str, place: str) -> str:
        if key_of(text) == keyring.primary:
            return text
        return keyring.seal(keyring.open(text, place), place, nonce())

    return _changed(subscription, seal)


def texts_of(subscription: Subscription) -> list[str]:
    """Every secret of a subscription, as it is there."""
    found: list[str] = []

    def look(text: str, _: str) -> str:
        found.append(text)
        return text

    _changed(subscription, look)
    return found


def _changed(subscription: Subscription, change: Callable[[str, str], str]) -> Subscription:
    """With every secret as `change(text, place)` has it; the same object when nothing changes."""
    s = subscription
    fields: dict[str, object] = {"secrets": tuple(change(secret, f"{s.id}/secrets") for secret in s.secrets)}
    if s.auth:
        auth = parse_auth(s.auth)
        name = AUTH_SECRETS[type(auth)]
        new = change(getattr(auth, name), f"{s.id}/auth.{name}")
        fields["auth"] = auth_text(msgspec.structs.replace(auth, **{name: new}))
    if s.tls and (tls := parse_tls(s.tls)).key:
        fields["tls"] = tls_text(msgspec.structs.replace(tls, key=change(tls.key, f"{s.id}/tls.key")))
    if all(getattr(s, name) == value for name, value in fields.items()):
        return s
    return msgspec.structs.replace(s, **fields)


def _key(text: str) -> bytes:
    """What the base64 text holds; nothing when it is none, which is refused by its length."""
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _padded(text: str) -> str:
    return text + "=" * (-len(text) % 4)
