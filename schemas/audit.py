"""The audit trail: who changed what, and when. The record on `audit`, and what of a thing may stand in it.

Secrets never do: `redacted` puts `***` in their place, and it knows them by the names of their fields. This file does
not write the record (whoever changes something does, in the same transaction), and has nothing to do with
`distributary audit`, which looks for faults.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from schemas import codec
from schemas.access import Principal
from schemas.frame import Out

HIDDEN = "***"
#: Fields that hold a secret, whatever they are part of.
SECRET_FIELDS = frozenset(
    {
        "auth_token",
        "client_secret",
        "hash",
        "key",
        "password",
        "previous_hash",
        "salt",
        "secret",
        "secrets",
        "signing_secret",
        "token",
    }
)
#: Objects whose values may be secrets, as a header of authorization is. Their names are shown.
SECRET_VALUES = frozenset({"headers"})
#: Settings in JSON which a record holds as text, and a document as an object: only the object is looked into.
SETTINGS_FIELDS = frozenset({"auth", "tls"})
#: Of what a thing was or is now; of a larger one only its size is kept.
DOCUMENT_BYTES_MAX = 1 << 20


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One change; field for field `schemas/avro/audit_record.v1.avsc`. `before`, `after`: JSON without secrets."""

    at_ms: int
    actor: str
    tenant: str | None = None
    action: str
    kind: str
    resource_id: str
    before: str | None = None
    after: str | None = None
    request_id: str = ""
    remote: str = ""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A change as it was asked for: by whom, when, and from where."""

    principal: Principal
    at_ms: int
    request_id: str = ""
    remote: str = ""


def audit_record(
    asked: Asked,
    action: str,
    kind: str,
    resource_id: str,
    tenant: str | None,
    before: object | None,
    after: object | None,
) -> AuditRecord:
    """The record of a change. `before` and `after` are the thing as a struct or a document, None where it is not there;
    their secrets are hidden here."""
    return AuditRecord(
        at_ms=asked.at_ms,
        actor=asked.principal.actor,
        tenant=tenant,
        action=action,
        kind=kind,
        resource_id=resource_id,
        before=_shown(before),
        after=_shown(after),
        request_id=asked.request_id,
        remote=asked.remote,
    )


def audit_out(topic: str, header: bytes, record: AuditRecord) -> Out:
    """What is to be written with the change itself. `header` is that of `codec.wire_header`."""
    return topic, (record.tenant or "").encode(), encode_audit(header, record), -1, None


def redacted(document: Any) -> Any:
    """A document, as JSON has it, without its secrets."""
    if isinstance(document, dict):
        return {name: _redacted_field(name, value) for name, value in document.items()}
    if isinstance(document, list | tuple):
        return [redacted(item) for item in document]
    return document


def _redacted_field(name: str, value: Any) -> Any:
    if name in SECRET_FIELDS or (name in SETTINGS_FIELDS and isinstance(value, str)):
        return _hidden(value)
    if name in SECRET_VALUES and isinstance(value, dict):
        return {inner: _hidden(each) for inner, each in value.items()}
    return redacted(value)


def _hidden(value: Any) -> Any:
    """How many there are may be known, and that there is none."""
    if isinstance(value, list | tuple):
        return [_hidden(item) for item in value]
    return HIDDEN if value else value


def _shown(thing: object | None) -> str | None:
    if thing is None:
        return None
    text = orjson.dumps(redacted(msgspec.to_builtins(thing)))
    if len(text) > DOCUMENT_BYTES_MAX:
        return orjson.dumps({"too_large_bytes": len(text)}).decode()
    return text.decode()


_SCHEMA = codec.parse_schema(codec.own_schema("audit_record.v1"))


def encode_audit(header: bytes, record: AuditRecord) -> bytes:
    """The framed value of audit_record.v1; `header` is that of `codec.wire_header`."""
    return codec.encode_struct(header, _SCHEMA, record)


def decode_audit(value: bytes | None) -> AuditRecord:
    """The record in a framed value that was written with audit_record.v1; UndecodableError when it was not."""
    return codec.decode_struct(value, _SCHEMA, AuditRecord)
