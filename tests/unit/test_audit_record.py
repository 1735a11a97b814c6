"""The audit trail's record: it comes back, it holds no secret, and it is bounded."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest

from schemas import codec
from schemas.access import Principal
from schemas.api_key import new_key
from schemas.audit import (
    DOCUMENT_BYTES_MAX,
    Asked,
    AuditRecord,
    audit_out,
    audit_record,
    decode_audit,
    encode_audit,
    redacted,
)
from schemas.errors import UndecodableError
from schemas.subscription import Subscription

HEADER = codec.wire_header(7)
PRINCIPAL = Principal(actor="key:1", tenant="acme", scopes=frozenset())
ASKED = Asked(principal=PRINCIPAL, at_ms=5, request_id="r-1", remote="192.0.2.1")


def test_a_record_says_who_changed_what_and_comes_back() -> None:
    before = Subscription(id="a", url="https://a.example", event_types=("*",), secrets=("whsec_x", "whsec_y"))
    after = msgspec.structs.replace(before, secrets=(), headers={"authorization": "Bearer x"})
    record = audit_record(ASKED, "updated", "subscription", "a", "acme", before, after)
    assert (record.actor, record.at_ms, record.request_id, record.remote) == ("key:1", 5, "r-1", "192.0.2.1")
    plain = {"id": "a", "url": "https://a.example", "event_types": ["*"]}
    assert orjson.loads(record.before or "") == plain | {"secrets": ["***", "***"]}
    assert orjson.loads(record.after or "") == plain | {"headers": {"authorization": "***"}}
    topic, key, value, partition, headers = audit_out("audit", HEADER, record)
    assert (topic, key, partition, headers) == ("audit", b"acme", -1, None)
    assert decode_audit(value) == record
    nobodys = audit_record(ASKED, "created", "key", "k", None, None, None)
    assert (nobodys.before, nobodys.after, nobodys.tenant) == (None, None, None)
    assert audit_out("audit", HEADER, nobodys)[1] == b""


@pytest.mark.parametrize(
    ("document", "shown"),
    [
        ({"auth": {"username": "u", "password": "p"}}, {"auth": {"username": "u", "password": "***"}}),
        ({"auth": '{"type":"bearer","token":"t"}'}, {"auth": "***"}),
        ({"tls": {"certificate": "c", "key": "k"}}, {"tls": {"certificate": "c", "key": "***"}}),
        ({"items": [{"client_secret": "s"}, 1]}, {"items": [{"client_secret": "***"}, 1]}),
        ({"secrets": [], "auth": "", "token": None}, {"secrets": [], "auth": "", "token": None}),
        ({"secrets": {"a": "b"}}, {"secrets": "***"}),
        ({"headers": ["x"]}, {"headers": ["x"]}),
        ("text", "text"),
    ],
)  # fmt: skip
def test_secrets_are_hidden_wherever_they_stand(document: Any, shown: Any) -> None:
    assert redacted(document) == shown


def test_a_key_in_the_trail_shows_no_hash() -> None:
    key, text = new_key(
        bytes, tenant="acme", scopes=("events:write",), name="ci", created_ms=1, created_by="x", expires_ms=0
    )
    shown = audit_record(ASKED, "created", "key", key.id, "acme", None, key).after or ""
    fields = orjson.loads(shown)
    assert (fields["hash"], fields["salt"], fields["name"]) == ("***", "***", "ci")
    assert text not in shown


def test_of_a_large_thing_only_the_size_is_kept() -> None:
    record = audit_record(ASKED, "created", "x", "a", None, None, {"a": "x" * DOCUMENT_BYTES_MAX})
    assert orjson.loads(record.after or "") == {"too_large_bytes": DOCUMENT_BYTES_MAX + 8}


def test_the_schema_has_the_same_fields_and_defaults() -> None:
    fields = codec.parse_schema(codec.own_schema("audit_record.v1"))["fields"]
    ours = msgspec.structs.fields(AuditRecord)
    assert [each["name"] for each in fields] == [each.name for each in ours]
    assert [each.get("default", msgspec.NODEFAULT) for each in fields] == [each.default for each in ours]


def test_what_is_no_record_is_refused() -> None:
    value = encode_audit(HEADER, AuditRecord(at_ms=1, actor="a", action="b", kind="c", resource_id="d"))
    for bad in (None, b"", value[:-1], b"{}" + value, value + b"\0"):
        with pytest.raises(UndecodableError):
            decode_audit(bad)
