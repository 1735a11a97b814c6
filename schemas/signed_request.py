"""Whether a request was signed by who knows the secret, and lately: the declaration of a provider, interpreted.

Pure: the time is an argument. Everything is checked on the bytes of the body as they came. Signatures are compared as
text, in constant time and exactly: what another case or other padding would spell is not the signature that was made.
This file does not look at addresses (`schemas/client_address.py`) and makes no events (`schemas/received.py`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple
from urllib.parse import parse_qsl

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from schemas.provider import Provider, Signature, parts

FORM = "application/x-www-form-urlencoded"
SIGNATURES_MAX = 20  # in one header; a sender that rotates has two
SIGNATURE_LENGTH_MAX = 1024
ID_LENGTH_MAX = 256
FORM_FIELDS_MAX = 1_000
_TIMESTAMP_PATTERN = re.compile(r"[1-9][0-9]{0,15}")
_ID_PATTERN = re.compile(r"[\x21-\x7e]{1,256}")

#: Why a request is refused. The sender is not told which; the owner is.
Reason = Literal[
    "no_signature",
    "no_timestamp",
    "no_id",
    "twice",
    "stale",
    "wrong_signature",
    "wrong_digest",
    "wrong_type",
    "bad_form",
    "address",
    "unreadable",
    "no_secret",
    "no_source",
    "disabled",
]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What came. Header names are in lower case; `url` is absolute, as its sender wrote it, query included."""

    method: str = "POST"
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def all(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        return [value for each, value in self.headers if each == name]

    def query(self, name: str) -> list[str]:
        """Every value of a parameter of the URL, in order; none of a query with too many."""
        try:
            pairs = parse_qsl(self.url.partition("?")[2], keep_blank_values=True, max_num_fields=FORM_FIELDS_MAX)
        except ValueError:
            return []
        return [value for each, value in pairs if each == name]

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters; empty without one, or with two."""
        found = self.all("content-type")
        return found[0].partition(";")[0].strip().lower() if len(found) == 1 else ""


class Verified(NamedTuple):
    """The request is genuine. `signed_ms` is its time of signing, if any; `digest` tells what was signed.

    The digest is 32 hexadecimal digits, for senders that give their deliveries no id.
    """

    signed_ms: int | None
    digest: str


class Refused(NamedTuple):
    """It is not to be believed: the reason for counters, and a sentence for the owner, without a secret."""

    reason: Reason
    detail: str


class _RefusedError(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.refused = Refused(reason, detail)


def verify(provider: Provider, request: Request, secrets: Sequence[str], now_ms: int) -> Verified | Refused:
    """Whether one of the signatures in the request was made with one of the secrets, over what came, at about now."""
    try:
        rule = _rule_for_content(provider, request)
        given = _signatures(request, rule)
        signed_ms, timestamp = _timestamp(provider, request)
        signed = _signed(provider, rule, request, timestamp)
        if not secrets:
            return Refused("no_secret", "the source has no secret that is in force; give it one")
        # Every pair, whatever the first gives: how long it takes says nothing of which was right.
        right = [_is_right(provider, rule, secret, signed, text) for secret in secrets for text in given]
        if not any(right):
            return Refused("wrong_signature", f"no signature in {rule.header} is that of a secret of this source")
        if rule.body_digest:
            _check_digest(rule.body_digest, request)
        if provider.timestamp is not None and signed_ms is not None:
            away_s = abs(now_ms - signed_ms) / 1000
            if away_s > provider.timestamp.tolerance_s:
                detail = f"it was signed {away_s:.0f} s away from now, more than {provider.timestamp.tolerance_s}"
                return Refused("stale", f"{detail}: a replay, or a clock that is wrong")
        return Verified(signed_ms, hashlib.sha256(signed).hexdigest()[:32])
    except _RefusedError as error:
        return error.refused


def secret_fits(provider: Provider, secret: str) -> bool:
    """Whether a key can be made of the secret for at least one of the provider's rules."""
    return any(_key(rule, secret) is not None for rule in provider.signatures if _is_for(provider, rule, secret))


# --- what is signed ----------------------------------------------------------------------------------------


def _rule_for_content(provider: Provider, request: Request) -> Signature:
    kind = request.content_type
    for rule in provider.signatures:
        if not rule.content_types or kind in rule.content_types:
            return rule
    raise _RefusedError("wrong_type", f"a body of the type {kind[:80]!r} is not signed in a way that is declared")


def _signed(provider: Provider, rule: Signature, request: Request, timestamp: str) -> bytes:
    pieces = []
    needed = parts(rule.signed)
    for index, part in enumerate(needed):
        match part.name:
            case "":
                pieces.append(part.text.encode())
            case "body":
                pieces.append(request.body)
            case "timestamp":
                pieces.append(timestamp.encode())
            case "url":
                pieces.append(_bytes(request.url))
            case "form":
                try:
                    pairs = form_fields(request.body)
                except ValueError as error:
                    raise _RefusedError("bad_form", str(error)) from None
                # Twilio's helper libraries: sorted by name, equal values of a name once, those of a name sorted.
                pieces += [f"{name}{value}".encode() for name, value in sorted(set(pairs))]
            case "id":
                after = needed[index + 1].text if index + 1 < len(needed) else ""
                pieces.append(_id(provider, request, after))
    return b"".join(pieces)


def _id(provider: Provider, request: Request, after: str) -> bytes:
    name = provider.id[0].removeprefix("header:")
    text = _only(request, name, "no_id")
    # With what follows it in what is signed inside an id, two requests could have the same signature.
    if not _ID_PATTERN.fullmatch(text) or (after and after in text):
        raise _RefusedError("no_id", f"{name} is no id: 1 to {ID_LENGTH_MAX} visible characters without {after!r}")
    return text.encode()


def _timestamp(provider: Provider, request: Request) -> tuple[int | None, str]:
    rule = provider.timestamp
    if rule is None:
        return None, ""
    text = _only(request, rule.header, "no_timestamp")
    if rule.separator:
        found = [each.removeprefix(rule.prefix) for each in _items(text, rule.separator, rule.prefix)]
    else:
        found = [text.removeprefix(rule.prefix)] if text.startswith(rule.prefix) else []
    if len(found) > 1:
        raise _RefusedError("twice", f"{rule.header} names more than one time")
    if not found or not _TIMESTAMP_PATTERN.fullmatch(found[0]):
        raise _RefusedError("no_timestamp", f"{rule.header} holds no whole number of {rule.unit} since 1970")
    return int(found[0]) * (1000 if rule.unit == "s" else 1), found[0]


def form_fields(body: bytes) -> list[tuple[str, str]]:
    """The parameters of a form in the order in which they came; ValueError when it is none."""
    try:
        return parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=FORM_FIELDS_MAX,
        )
    except ValueError:  # UnicodeDecodeError too
        raise ValueError(f"the body is no form of up to {FORM_FIELDS_MAX} parameters in UTF-8") from None


def _check_digest(parameter: str, request: Request) -> None:
    found = request.query(parameter)
    expected = hashlib.sha256(request.body).hexdigest()
    if len(found) != 1 or not hmac.compare_digest(_bytes(found[0]), expected.encode()):
        raise _RefusedError("wrong_digest", f"the URL's {parameter} is not the SHA-256 of the body")


# --- signatures --------------------------------------------------------------------------------------------


def _signatures(request: Request, rule: Signature) -> list[str]:
    """What the header holds, one text for each signature, with its prefix."""
    text = _only(request, rule.header, "no_signature")
    found = _items(text, rule.separator, "") if rule.separator else [text]
    return [each for each in found if len(each) <= SIGNATURE_LENGTH_MAX]


def _only(request: Request, name: str, missing: Reason) -> str:
    found = request.all(name)
    if not found:
        raise _RefusedError(missing, f"there is no header {name}")
    if len(found) > 1:  # which of them another reader would take is anyone's guess
        raise _RefusedError("twice", f"the header {name} stands there {len(found)} times")
    return found[0]


def _items(text: str, separator: str, prefix: str) -> list[str]:
    found = text.split(separator, SIGNATURES_MAX)
    if len(found) > SIGNATURES_MAX:
        raise _RefusedError("wrong_signature", f"more than {SIGNATURES_MAX} signatures are in one header")
    return [each for each in found if each.startswith(prefix)]


def _is_right(provider: Provider, first: Signature, secret: str, signed: bytes, text: str) -> bool:
    """Whether this signature is that of this secret. `first` is the rule for secrets that no prefix tells apart."""
    rule = next(
        (each for each in provider.signatures if _same_way(each, first) and _is_for(provider, each, secret)), first
    )
    key = _key(rule, secret)
    if key is None:
        return False
    match rule.algorithm:
        case "hmac-sha256" | "hmac-sha1" | "hmac-sha512":
            mac = hmac.digest(key, signed, rule.algorithm.removeprefix("hmac-"))
            expected = mac.hex() if rule.encoding == "hex" else base64.b64encode(mac).decode()
            return hmac.compare_digest(_bytes(rule.prefix + expected), _bytes(text))
        case "ed25519" | "ecdsa-p256":
            given = _canonical_base64(text.removeprefix(rule.prefix)) if text.startswith(rule.prefix) else None
            return given is not None and _verifies(rule, key, given, signed)


def _same_way(rule: Signature, first: Signature) -> bool:
    return (rule.header, rule.signed, rule.separator) == (first.header, first.signed, first.separator)


def _is_for(provider: Provider, rule: Signature, secret: str) -> bool:
    """Whether the secret's prefix is this rule's; one that has no rule's prefix belongs to any that is the first."""
    if rule.key_prefix and secret.startswith(rule.key_prefix):
        return True
    if any(each.key_prefix and secret.startswith(each.key_prefix) for each in provider.signatures):
        return False
    return not rule.key_prefix or rule is provider.signatures[0]


def _key(rule: Signature, secret: str) -> bytes | None:
    text = secret.removeprefix(rule.key_prefix)
    if rule.key == "text":
        return text.encode() or None
    key = _canonical_base64(text)
    if not key or (rule.algorithm == "ed25519" and len(key) != 32):
        return None
    return key if rule.algorithm != "ecdsa-p256" or _p256(key) is not None else None


def _p256(der: bytes) -> ec.EllipticCurvePublicKey | None:
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1) else None


def _verifies(rule: Signature, key: bytes, given: bytes, signed: bytes) -> bool:
    try:
        if rule.algorithm == "ed25519":
            ed25519.Ed25519PublicKey.from_public_bytes(key).verify(given, signed)
            return True
        public = _p256(key)
        if public is None:
            return False
        public.verify(given, signed, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError):  # ValueError: 32 bytes that are no point of the curve
        return False
    return True


def _canonical_base64(text: str) -> bytes | None:
    """The bytes of base64 as an encoder writes it; None for what other texts may stand for the same bytes."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == text else None


def _bytes(text: str) -> bytes:
    """Headers may hold anything: what was no UTF-8 comes as surrogates."""
    return text.encode("utf-8", "surrogateescape")
