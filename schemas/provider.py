"""How a provider signs and shapes its webhooks: the declaration in `connectors/providers/*.toml`, and its rules.

Everything that the engine knows of a provider stands in such a file; none of the code names one. This file does not
verify (`schemas/signed_request.py`) and makes no events (`schemas/received.py`).
"""

from __future__ import annotations

import itertools
import re
import tomllib
from functools import lru_cache
from typing import Any, Literal, NamedTuple, NoReturn

import msgspec

from schemas.errors import InvalidProviderError, InvalidSubscriptionError
from schemas.subscription import EVENT_TYPE_PATTERN, ID_PATTERN, check_event_type

Algorithm = Literal["hmac-sha256", "hmac-sha1", "hmac-sha512", "ed25519", "ecdsa-p256"]
Encoding = Literal["hex", "base64"]
Key = Literal["text", "base64"]
Unit = Literal["s", "ms", "rfc3339"]
#: Of answers. What a browser would take for a page is not among them.
AnswerType = Literal["text/plain", "application/json", "text/xml"]

SIGNATURE_RULES_MAX = 4
CHALLENGES_MAX = 4
REFERENCES_MAX = 8
#: Within which a signed time may be at most away from now. A day: the longest that a provider is known to retry what it
#: has signed once.
TOLERANCE_S_MAX = 24 * 3600
_HEADER_PATTERN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,128}")  # RFC 9110, 5.6.2, in the form that headers are kept in
_REFERENCE_PATTERN = re.compile(r"(header|query|json|form):([\x21-\x7e]{1,200})")
_PART_PATTERN = re.compile(r"\{([a-z]+)\}")
_PARTS = frozenset({"body", "form", "id", "timestamp", "url"})
_ANSWER_PARTS = frozenset({"value", "hmac-hex", "hmac-base64"})


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way in which a request is signed.

    The header holds one signature, or several with `separator` between them; of those, the ones that begin with
    `prefix` count. `signed` is what is signed, with `{body}`, `{timestamp}`, `{id}`, `{url}` and `{form}` (the form's
    parameters sorted by name, names and values without anything between) in it. `key` says how the secret's text
    becomes the key's bytes, after `key_prefix`, which also tells which of several rules a secret is for. Public keys
    are base64, of 32 bytes for ed25519 and DER (SubjectPublicKeyInfo) for ecdsa-p256. `body_digest` names a parameter
    of the URL with the body's SHA-256 in hex, where the body itself is not signed. With `content_types`, the rule is
    for those only.
    """

    header: str
    algorithm: Algorithm
    encoding: Encoding
    signed: str = "{body}"
    prefix: str = ""
    separator: str = ""
    key: Key = "text"
    key_prefix: str = ""
    body_digest: str = ""
    content_types: tuple[str, ...] = ()


class Timestamp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the time of signing is: whole seconds or milliseconds, at most `tolerance_s` away from now."""

    header: str
    prefix: str = ""
    separator: str = ""
    unit: Literal["s", "ms"] = "s"
    tolerance_s: int = 300


class EventType(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The event's type: `prefix`, the first of `references` that is there (or `default`), and what `then` refers to.

    A character of `dots` becomes a dot.
    """

    prefix: str
    references: tuple[str, ...] = ()
    then: str = ""
    default: str = "received"
    dots: str = ""


class EventTime(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When it happened, and how that is written."""

    references: tuple[str, ...]
    unit: Unit = "s"


class Challenge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request that wants an answer and is no event: of this `method`, with all values of `when`, by reference.

    A POST is answered once its signature is verified; a GET has none. `answer` may hold `{value}`, what `value` refers
    to, and `{hmac-hex}` or `{hmac-base64}`, its HMAC-SHA256 under the source's secret.
    """

    method: Literal["GET", "POST"] = "POST"
    when: dict[str, str] = {}
    value: str = ""
    answer: str = "{value}"
    content_type: AnswerType = "text/plain"


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the sender is told when its event is on Kafka."""

    status: int = 200
    body: str = ""
    content_type: AnswerType = "text/plain"


class Provider(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One provider. `secret` and `unsigned` are for people: where the secret is found, and what is not signed.

    `id` and `subject` are references, of which the first that is there counts. With `batch`, an array is an event for
    each item, and `json:` refers into the item. `form_json` names a form parameter that holds the whole JSON. What is
    `adjustable` may be changed by a source's `overrides`.
    """

    name: str
    title: str
    secret: str
    documentation: str = ""
    unsigned: str = ""
    signatures: tuple[Signature, ...]
    timestamp: Timestamp | None = None
    id: tuple[str, ...] = ()
    type: EventType
    time: EventTime | None = None
    subject: tuple[str, ...] = ()
    batch: bool = False
    content_types: tuple[str, ...] = ("application/json",)
    form_json: str = ""
    challenges: tuple[Challenge, ...] = ()
    answer: Answer = Answer()
    adjustable: bool = False


class Reference(NamedTuple):
    """A place in a request. `path` is a header, a parameter, or the names of members from the outside in."""

    kind: Literal["header", "query", "json", "form"]
    path: tuple[str, ...]


@lru_cache(maxsize=1_000)
def reference(text: str) -> Reference:
    """`header:x-event`, `query:crc_token`, `form:CallSid`, `json:data.object.id`; InvalidProviderError otherwise."""
    found = _REFERENCE_PATTERN.fullmatch(text)
    if found is None:
        _refuse(f"{text[:80]!r} is no reference, such as header:x-event-id or json:data.id")
    kind, name = found.groups()
    if kind == "header" and not _HEADER_PATTERN.fullmatch(name):
        _refuse(f"{name[:80]!r} is no name of a header in lower case")
    path = tuple(name.split(".")) if kind == "json" else (name,)
    return Reference(kind, path)  # type: ignore[arg-type]  # one of the pattern's


class Part(NamedTuple):
    """A piece of what is signed: `text` as it stands, or a part of the request by its name."""

    name: str
    text: str


@lru_cache(maxsize=1_000)
def parts(signed: str) -> tuple[Part, ...]:
    """A `signed` text in its parts; InvalidProviderError for one that is not there."""
    found = []
    for index, piece in enumerate(_PART_PATTERN.split(signed)):
        if index % 2:
            if piece not in _PARTS:
                _refuse(f"signed: there is no part {{{piece}}}; there are {', '.join(sorted(_PARTS))}")
            found.append(Part(piece, ""))
        elif piece:
            found.append(Part("", piece))
    return tuple(found)


def provider_from_toml(text: str) -> Provider:
    """A provider's file; InvalidProviderError names what is wrong with it."""
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        _refuse(f"not TOML: {error}")
    return provider_from_fields(fields)


def provider_from_fields(fields: dict[str, Any]) -> Provider:
    """The same for what TOML or JSON gave."""
    try:
        return checked(msgspec.convert(fields, Provider, strict=True))
    except msgspec.ValidationError as error:
        _refuse(str(error))


def adjusted(provider: Provider, overrides: dict[str, Any]) -> Provider:
    """The provider with a source's own rules: each member of `overrides` takes the place of the one of that name.

    InvalidProviderError when the provider does not allow that, or it does not make sense.
    """
    if not overrides:
        return provider
    if not provider.adjustable:
        _refuse(f"{provider.name} is what it is; rules of your own go with the provider hmac")
    fields = msgspec.to_builtins(provider)
    for name, value in overrides.items():
        if name in ("name", "title", "adjustable"):
            _refuse(f"{name} cannot be overridden")
        fields[name] = fields[name] | value if isinstance(value, dict) and isinstance(fields.get(name), dict) else value
    own = provider_from_fields(fields)
    # Others' text under our name: XML may hold a page with a script.
    if "text/xml" in (own.answer.content_type, *(challenge.content_type for challenge in own.challenges)):
        _refuse("answers of your own are text/plain or application/json")
    return own


def checked(provider: Provider) -> Provider:
    """The provider itself when every rule of its fields holds; InvalidProviderError otherwise."""
    p = provider
    if not ID_PATTERN.fullmatch(p.name):
        _refuse(f"name: {p.name[:80]!r} is not 1 to 64 characters of A-Z a-z 0-9 _ -")
    if not 0 < len(p.signatures) <= SIGNATURE_RULES_MAX:
        _refuse(f"signatures: between 1 and {SIGNATURE_RULES_MAX} are needed")
    for each in p.signatures:
        _check_signature(p, each)
    if p.timestamp is not None:
        _check_header(p.timestamp.header)
        if not 0 < p.timestamp.tolerance_s <= TOLERANCE_S_MAX:
            _refuse(f"timestamp: a tolerance of {p.timestamp.tolerance_s} s is not between 1 and {TOLERANCE_S_MAX}")
        if not any(part.name == "timestamp" for each in p.signatures for part in parts(each.signed)):
            _refuse("timestamp: it is not signed, so it proves nothing")
    check_prefix(p.type.prefix)
    if not EVENT_TYPE_PATTERN.fullmatch(p.type.default):
        _refuse(f"type: the default {p.type.default[:80]!r} is not dotted segments")
    times = p.time.references if p.time is not None else ()
    then = (p.type.then,) if p.type.then else ()
    for references in (p.id, p.type.references, then, times, p.subject):
        if len(references) > REFERENCES_MAX:
            _refuse(f"more than {REFERENCES_MAX} references for one thing")
        for each_reference in references:
            reference(each_reference)
    if not p.content_types:
        _refuse("content_types: at least one is needed")
    if len(p.challenges) > CHALLENGES_MAX:
        _refuse(f"challenges: more than {CHALLENGES_MAX}")
    for challenge in p.challenges:
        _check_challenge(challenge)
    if not 200 <= p.answer.status <= 299:
        _refuse(f"answer: {p.answer.status} does not say that it was received")
    if p.answer.body and p.answer.status in (204, 205):
        _refuse(f"answer: with {p.answer.status}, there is no body (RFC 9110, 15.3)")
    return provider


def check_prefix(prefix: str) -> None:
    """What types begin with: empty, or dotted segments and a dot; InvalidProviderError."""
    try:
        if prefix:
            check_event_type(prefix.removesuffix("."))
    except InvalidSubscriptionError:
        _refuse(f"the prefix {prefix[:80]!r} of types is not dotted segments and a dot, such as stripe.")
    if prefix and not prefix.endswith("."):
        _refuse(f"the prefix {prefix[:80]!r} of types does not end with a dot")


def _check_signature(provider: Provider, rule: Signature) -> None:
    _check_header(rule.header)
    names = [part.name for part in parts(rule.signed)]
    if "body" not in names and "form" not in names and not rule.body_digest:
        _refuse("signed: neither {body} nor {form} is in it, and no body_digest stands for them")
    if "form" in names and set(rule.content_types) != {"application/x-www-form-urlencoded"}:
        _refuse("signed: with {form}, content_types are those of forms only, since nothing else of the body is signed")
    if "timestamp" in names and provider.timestamp is None:
        _refuse("signed: it has a {timestamp}, and there is no [timestamp]")
    if "id" in names and (len(provider.id) != 1 or reference(provider.id[0]).kind != "header"):
        _refuse("signed: with {id}, id is one header")
    for this, following in itertools.pairwise(names):
        if this and following:
            allowed = {("timestamp", "body"), ("url", "form")}  # digits, then a body that is no number; Twilio's
            if (this, following) not in allowed:
                _refuse(f"signed: nothing tells where {{{this}}} ends and {{{following}}} begins")
    if rule.algorithm in ("ed25519", "ecdsa-p256") and (rule.key != "base64" or rule.encoding != "base64"):
        _refuse(f"signatures: the key and the encoding of {rule.algorithm} are base64")


def _check_challenge(challenge: Challenge) -> None:
    for text in (*challenge.when, *filter(None, [challenge.value])):
        reference(text)
    for name in re.findall(r"\{([a-z-]+)\}", challenge.answer):
        if name not in _ANSWER_PARTS:
            _refuse(f"challenges: an answer has no part {{{name}}}")
        if not challenge.value:
            _refuse("challenges: the answer has a part, and there is no value")
    if challenge.method == "GET" and not challenge.value:
        _refuse("challenges: one by GET needs a value to answer with")


def _check_header(name: str) -> None:
    if not _HEADER_PATTERN.fullmatch(name):
        _refuse(f"{name[:80]!r} is no name of a header in lower case")


def _refuse(reason: str) -> NoReturn:
    raise InvalidProviderError(reason)
