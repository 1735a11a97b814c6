"""A source: webhooks of one provider that become events of a tenant. Decoding, validation, and what may be shown.

This file does not know the providers (`connectors/providers`): a source is checked against the one that it names by
`checked_with`.
"""

from __future__ import annotations

from typing import Any, Literal, NoReturn

import msgspec
import orjson

from schemas import codec
from schemas.client_address import network
from schemas.credentials import check_sealed, is_sealed
from schemas.errors import InvalidProviderError, InvalidSourceError, InvalidSubscriptionError, UndecodableError
from schemas.provider import Provider, adjusted, check_prefix
from schemas.redaction import hidden
from schemas.signed_request import secret_fits
from schemas.subscription import ID_PATTERN, TENANT_PATTERN

SECRETS_MAX = 5
SECRET_LENGTH_MAX = 1_024
ALLOWLIST_MAX = 200
OVERRIDES_LENGTH_MAX = 8_192
DESCRIPTION_LENGTH_MAX = 1_024
EXPIRE_MS_MAX = 10**13 - 1

State = Literal["active", "disabled"]


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One source; field for field `schemas/avro/source.v1.avsc`. Times are milliseconds since the epoch.

    `overrides` is JSON text; on the JSON form it is the object itself.
    """

    id: str
    provider: str
    tenant: str = "default"
    secrets: tuple[str, ...] = ()
    secrets_expire_ms: tuple[int, ...] = ()
    allowlist: tuple[str, ...] = ()
    event_type_prefix: str = ""
    overrides: str = ""
    state: State = "active"
    description: str = ""
    created_ms: int = 0
    updated_ms: int = 0

    def __repr__(self) -> str:
        """Without the secrets: a repr ends up in logs."""
        return f"Source({self.id!r}, tenant={self.tenant!r}, provider={self.provider!r}, state={self.state!r})"

    def secrets_at(self, now_ms: int) -> tuple[tuple[int, str], ...]:
        """The secrets that have not ended, each with its position, which is part of where it is sealed for."""
        ends = self.secrets_expire_ms + (0,) * len(self.secrets)
        return tuple((at, each) for at, each in enumerate(self.secrets) if not ends[at] or now_ms < ends[at])

    @property
    def rules(self) -> dict[str, Any]:
        """The overrides; empty for none."""
        return orjson.loads(self.overrides) if self.overrides else {}


def source_from_json(value: bytes | str) -> Source:
    """Decode and validate a JSON object; InvalidSourceError names what is wrong with it."""
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        _refuse(f"not a JSON object: {error}")
    if not isinstance(fields, dict):
        _refuse("not a JSON object")
    return source_from_fields(fields)


def source_from_fields(fields: dict[str, Any]) -> Source:
    """The same for fields of the JSON form, or of a decoded Avro record."""
    if isinstance(fields.get("overrides"), dict):
        try:
            text = (
                orjson.dumps(fields["overrides"], option=orjson.OPT_SORT_KEYS).decode() if fields["overrides"] else ""
            )
        except (
            orjson.JSONEncodeError
        ) as error:  # a number of more than 64 bits, or objects inside each other too deeply
            _refuse(f"overrides: not what JSON can be here: {error}")
        fields = fields | {"overrides": text}
    try:
        return checked(msgspec.convert(fields, Source, strict=True))
    except msgspec.ValidationError as error:
        _refuse(str(error))


def checked(source: Source) -> Source:
    """The source itself when every rule of its fields holds; InvalidSourceError otherwise."""
    s = source
    if not ID_PATTERN.fullmatch(s.id):
        _refuse(f"id: {s.id[:80]!r} is not 1 to 64 characters of A-Z a-z 0-9 _ -")
    if not TENANT_PATTERN.fullmatch(s.tenant):
        _refuse(f"tenant: {s.tenant[:140]!r} is not 1 to 128 characters of A-Z a-z 0-9 _ . : -")
    if not ID_PATTERN.fullmatch(s.provider):
        _refuse("provider: not a name of the table of providers")
    if not 0 < len(s.secrets) <= SECRETS_MAX:
        _refuse(f"secrets: between 1 and {SECRETS_MAX} are needed")
    for secret in s.secrets:
        _check_secret(secret)
    ends = s.secrets_expire_ms
    if len(ends) > len(s.secrets) or not all(0 <= each <= EXPIRE_MS_MAX for each in ends):
        _refuse("secrets_expire_ms: one time in milliseconds, or 0, for each secret")
    if len(s.allowlist) > ALLOWLIST_MAX:
        _refuse(f"allowlist: more than {ALLOWLIST_MAX} networks")
    for text in s.allowlist:
        try:
            network(text)
        except ValueError as error:
            _refuse(f"allowlist: {error}")
    if len(s.description) > DESCRIPTION_LENGTH_MAX:
        _refuse(f"description: longer than {DESCRIPTION_LENGTH_MAX} characters")
    try:
        check_prefix(s.event_type_prefix)
    except InvalidProviderError as error:
        _refuse(f"event_type_prefix: {error}")
    if len(s.overrides) > OVERRIDES_LENGTH_MAX:
        _refuse(f"overrides: more than {OVERRIDES_LENGTH_MAX} characters")
    try:
        if not isinstance(s.rules, dict):
            _refuse("overrides: not a JSON object")
    except orjson.JSONDecodeError as error:
        _refuse(f"overrides: not JSON: {error}")
    return source


def provider_of(source: Source, providers: dict[str, Provider]) -> Provider:
    """The provider as this source has it; InvalidSourceError when there is none, or its rules make no sense."""
    provider = providers.get(source.provider)
    if provider is None:
        _refuse(f"provider: {source.provider!r} is none of {', '.join(providers)}")
    try:
        return adjusted(provider, source.rules)
    except InvalidProviderError as error:
        _refuse(f"overrides: {error}")


def checked_with(source: Source, providers: dict[str, Provider]) -> Source:
    """The source itself when it fits its provider: its rules, and each secret that is not sealed."""
    provider = provider_of(source, providers)
    for secret in source.secrets:
        if not is_sealed(secret) and not secret_fits(provider, secret):
            _refuse(f"secrets: one is no key for {provider.title}; it wants {provider.secret}")
    return source


def _check_secret(secret: str) -> None:
    if is_sealed(secret):
        try:
            check_sealed("secrets", secret, SECRET_LENGTH_MAX)
        except InvalidSubscriptionError as error:
            raise InvalidSourceError(str(error)) from None
    elif not 0 < len(secret) <= SECRET_LENGTH_MAX or not secret.isascii() or not secret.isprintable():
        _refuse(f"secrets: not 1 to {SECRET_LENGTH_MAX} printable ASCII characters")


def shown(source: Source, *, reveal: bool = False) -> dict[str, Any]:
    """All fields of the JSON form; secrets as which kind they are, unless revealed."""
    fields = {name: getattr(source, name) for name in source.__struct_fields__}
    fields["overrides"] = source.rules
    if not reveal:
        fields["secrets"] = [hidden(secret) for secret in source.secrets]
    return fields


_SCHEMA = codec.parse_schema(codec.own_schema("source.v1"))


def encode_source(header: bytes, source: Source) -> bytes:
    """The framed value of source.v1; `header` is that of `codec.wire_header`."""
    return codec.encode_struct(header, _SCHEMA, source)


def decode_source(value: bytes | None) -> Source:
    """The source in a framed value of source.v1; UndecodableError when it is none, or breaks a rule."""
    fields = codec.decode_framed(value, _SCHEMA)
    try:
        return source_from_fields(fields)
    except InvalidSourceError as error:
        raise UndecodableError("invalid", str(error)) from None


def _refuse(reason: str) -> NoReturn:
    raise InvalidSourceError(reason)
