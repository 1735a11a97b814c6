"""What a subscription proves itself with: signing secrets, authentication, TLS; the rules of their values.

Any of the secret ones may be *sealed*: encrypted text that says which key opens it (`schemas/sealing.py`). Here only
its shape is checked, which needs no key. No error quotes a secret. This file opens nothing, signs nothing and connects
to nothing.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal, NoReturn

import msgspec

from schemas.errors import InvalidSubscriptionError

#: What a sealed text begins with; then `<key id>:<base64url of nonce, ciphertext and tag>`, without padding.
SEALED_PREFIX = "sealed:"
KEY_ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SEALED = re.compile(rf"{SEALED_PREFIX}{KEY_ID_PATTERN.pattern}:(?P<box>[A-Za-z0-9_-]+)")
#: AES-GCM's nonce and tag, in bytes.
NONCE_BYTES, TAG_BYTES = 12, 16

SYMMETRIC, PRIVATE = "whsec_", "whsk_"
SECRETS_MAX = 5
SECRET_LENGTH_MAX = 100  # base64 of 64 bytes with the longer prefix
#: Expiry times end here: the year 2286.
EXPIRE_MS_MAX = 10**13 - 1
CREDENTIAL_LENGTH_MAX = 4_096
PEM_LENGTH_MAX = 32_768

Signature = Literal["standard", "github", "stripe", "rfc9421"]
DEFAULT_SIGNATURES: tuple[Signature, ...] = ("standard",)
#: The header fields of each form, in lower case, besides `webhook-*`.
SIGNATURE_HEADERS: dict[Signature, tuple[str, ...]] = {
    "standard": (),
    "github": ("x-hub-signature-256",),
    "stripe": ("stripe-signature",),
    "rfc9421": ("content-digest", "signature-input", "signature"),
}
#: Forms whose key is the text of a symmetric secret.
TEXT_KEYED: frozenset[Signature] = frozenset({"github", "stripe"})
Verification = Literal["none", "challenge", "cloudevents", "ping"]


class Basic(msgspec.Struct, frozen=True, kw_only=True, tag="basic", forbid_unknown_fields=True):
    """RFC 7617. `password` may be sealed."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Basic(username={self.username!r})"


class Bearer(msgspec.Struct, frozen=True, kw_only=True, tag="bearer", forbid_unknown_fields=True):
    """RFC 6750. `token` may be sealed."""

    token: str

    def __repr__(self) -> str:
        return "Bearer()"


class OAuth2(msgspec.Struct, frozen=True, kw_only=True, tag="oauth2", omit_defaults=True, forbid_unknown_fields=True):
    """The client credentials grant of RFC 6749, 4.4. `client_secret` may be sealed; `client_auth` is how the token
    endpoint gets it: in an `Authorization` header or in the body (2.3.1)."""

    token_url: str
    client_id: str
    client_secret: str
    scope: str = ""
    audience: str = ""
    client_auth: Literal["basic", "post"] = "basic"

    def __repr__(self) -> str:
        return f"OAuth2(token_url={self.token_url!r}, client_id={self.client_id!r})"


Auth = Basic | Bearer | OAuth2
#: The secret field of each.
AUTH_SECRETS: dict[type[Auth], str] = {Basic: "password", Bearer: "token", OAuth2: "client_secret"}


class Tls(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """PEM texts. `certificate` (a chain, the client's own first) and `key` are shown to the server; the server's
    certificate must chain to `ca`, where there is one. `key` may be sealed."""

    certificate: str = ""
    key: str = ""
    ca: str = ""

    def __repr__(self) -> str:
        return f"Tls(certificate={bool(self.certificate)}, ca={bool(self.ca)})"


_auth_decoder: msgspec.json.Decoder[Auth] = msgspec.json.Decoder(Auth)
_tls_decoder = msgspec.json.Decoder(Tls)


def is_sealed(text: str) -> bool:
    """Whether the text claims to be sealed."""
    return text.startswith(SEALED_PREFIX)


def check_sealed(field: str, text: str, length_max: int) -> None:
    """InvalidSubscriptionError unless the text has the shape of `length_max` sealed characters at most."""
    shape = _SEALED.fullmatch(text)
    # Characters of clear text are ASCII, and base64 makes four of three.
    box_max = (length_max + NONCE_BYTES + TAG_BYTES) * 4 // 3 + 3
    if shape is None or not (NONCE_BYTES + TAG_BYTES) * 4 // 3 < len(shape["box"]) <= box_max:
        _refuse(f"{field}: neither a secret nor one that was sealed (sealed:<key id>:<base64url>)")


def check_secrets(secrets: Sequence[str], expire_ms: Sequence[int]) -> None:
    """The signing secrets and when each expires; else InvalidSubscriptionError."""
    if not 0 < len(secrets) <= SECRETS_MAX:
        _refuse(f"secrets: between 1 and {SECRETS_MAX} are needed (whsec_...)")
    for secret in secrets:
        if secret.startswith(SYMMETRIC):  # as most do
            secret_key(secret)
        elif is_sealed(secret):
            check_sealed("secrets", secret, SECRET_LENGTH_MAX)
        elif secret.startswith(PRIVATE):
            private_key(secret)
        else:
            secret_key(secret)  # says what is wanted
    if not expire_ms:
        return
    if len(expire_ms) > len(secrets):
        _refuse("secrets_expire_ms: more times than secrets")
    if not (min(expire_ms) >= 0 and max(expire_ms) <= EXPIRE_MS_MAX):
        _refuse(f"secrets_expire_ms: a time is neither 0 (never) nor up to {EXPIRE_MS_MAX}")
    if len(expire_ms) == len(secrets) and all(expire_ms):
        _refuse("secrets_expire_ms: every secret expires; one at least must not (0), or nothing could be signed")


def secret_key(secret: str) -> bytes:
    """The key of a `whsec_` secret (Standard Webhooks 1.0: base64 of 24 to 64 bytes); no error quotes it."""
    key = _base64(secret.removeprefix(SYMMETRIC))
    if not (secret.startswith(SYMMETRIC) and 24 <= len(key) <= 64):
        _refuse("secrets: not whsec_ followed by base64 of 24 to 64 bytes")
    return key


def private_key(secret: str) -> bytes:
    """The 32 bytes of the ed25519 seed (RFC 8032) in a `whsk_` secret, which may have the public key behind it."""
    key = _base64(secret.removeprefix(PRIVATE))
    if not (secret.startswith(PRIVATE) and len(key) in (32, 64)):
        _refuse("secrets: not whsk_ followed by base64 of an ed25519 private key, 32 or 64 bytes")
    return key[:32]


def check_signatures(signatures: Sequence[Signature], secrets: Sequence[str], headers: Iterable[str]) -> None:
    """InvalidSubscriptionError unless there is one at least and none twice, the secrets can make each, and no header of
    the subscription's own has the name of one."""
    if not signatures or len(set(signatures)) < len(signatures):
        _refuse("signatures: one at least is needed, and none twice (standard, github, stripe, rfc9421)")
    if not TEXT_KEYED.isdisjoint(signatures) and all(secret.startswith(PRIVATE) for secret in secrets):
        _refuse("signatures: github and stripe need a whsec_ secret; add one, or leave them out")
    written = {name for form in signatures for name in SIGNATURE_HEADERS[form]}
    for name in headers:
        if name.lower() in written:
            _refuse(f"headers: {name!r} is written by the engine, as signatures asks")


@lru_cache(maxsize=1_000)
def parse_auth(text: str) -> Auth:
    """What the JSON text of `auth` says; InvalidSubscriptionError."""
    auth: Auth = _decoded("auth", text, _auth_decoder)
    match auth:
        case Basic():
            _check_text("auth.username", auth.username, least=0)
            if ":" in auth.username:
                _refuse("auth: the username holds a colon, which RFC 7617 does not allow")
            _check_secret("auth.password", auth.password, least=0)
        case Bearer():
            _check_secret("auth.token", auth.token, least=1)
            if not is_sealed(auth.token) and not re.fullmatch(r"[!-~]+", auth.token):
                _refuse("auth: the token holds something else than visible ASCII characters")
        case OAuth2():
            _check_text("auth.client_id", auth.client_id, least=1)
            _check_secret("auth.client_secret", auth.client_secret, least=0)
            _check_text("auth.scope", auth.scope, least=0)
            _check_text("auth.audience", auth.audience, least=0)
    return auth


@lru_cache(maxsize=1_000)
def parse_tls(text: str) -> Tls:
    """What the JSON text of `tls` says; InvalidSubscriptionError.

    Only the shape of PEM texts is checked: whether key and certificate fit is found out where they are used.
    """
    tls: Tls = _decoded("tls", text, _tls_decoder)
    if not (tls.certificate or tls.ca):
        _refuse("tls: neither a certificate with its key, nor a ca")
    if bool(tls.certificate) != bool(tls.key):
        _refuse("tls: certificate and key are needed together")
    for name, pem in (("certificate", tls.certificate), ("ca", tls.ca)):
        if pem and not _is_pem(pem, "CERTIFICATE"):
            _refuse(f"tls: {name} is no PEM text of certificates of at most {PEM_LENGTH_MAX} characters")
    if is_sealed(tls.key):
        check_sealed("tls.key", tls.key, PEM_LENGTH_MAX)
    elif tls.key and not _is_pem(tls.key, "(?:RSA |EC )?PRIVATE KEY"):
        _refuse(f"tls: key is no PEM text of an unencrypted private key of at most {PEM_LENGTH_MAX} characters")
    return tls


def auth_text(auth: Auth) -> str:
    """The text that `parse_auth` reads, which equal values have in common."""
    return msgspec.json.encode(auth).decode()


def tls_text(tls: Tls) -> str:
    """The text that `parse_tls` reads, which equal values have in common."""
    return msgspec.json.encode(tls).decode()


def _decoded(field: str, text: str, decoder: msgspec.json.Decoder[Any]) -> Any:
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        said = str(error)
        if (
            "Invalid value" in said or "Invalid enum" in said
        ):  # it quotes the value, which may be a secret in the wrong place
            said = "type is none of basic, bearer and oauth2, or client_auth neither basic nor post"
        _refuse(f"{field}: {said}")
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        _refuse(f"{field}: not a JSON object: {'not Unicode text' if isinstance(error, UnicodeError) else error}")


def _check_text(field: str, text: str, *, least: int) -> None:
    if not least <= len(text) <= CREDENTIAL_LENGTH_MAX or not text.isprintable():
        _refuse(f"{field}: not {least} to {CREDENTIAL_LENGTH_MAX} characters, all of them printable")


def _check_secret(field: str, text: str, *, least: int) -> None:
    if is_sealed(text):
        check_sealed(field, text, 4 * CREDENTIAL_LENGTH_MAX)  # four bytes of UTF-8 at most for each
    else:
        _check_text(field, text, least=least)


def _is_pem(text: str, label: str) -> bool:
    """RFC 7468: blocks of this label, and nothing but white space between them."""
    if len(text) > PEM_LENGTH_MAX or not text.isascii():
        return False
    block = rf"-----BEGIN {label}-----\s[A-Za-z0-9+/=\s]+-----END {label}-----\s*"
    return re.fullmatch(f"(?:{block})+", text.lstrip()) is not None


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _refuse(sentence: str) -> NoReturn:
    raise InvalidSubscriptionError(sentence)
