"""The health of an endpoint and operational events: what is written comes back, and nothing else is taken for one."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec
from schemas.compatibility import Level, incompatibilities
from schemas.endpoint import (
    EndpointState,
    Kind,
    Operation,
    decode_operation,
    decode_state,
    encode_operation,
    encode_state,
    url_hash,
)
from schemas.errors import UndecodableError

HEADER = codec.wire_header(7)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
times = st.integers(0, 2**63 - 1)

states = st.builds(
    EndpointState,
    subscription_id=texts,
    circuit=st.sampled_from(["closed", "open"]),
    opened_ms=times,
    until_ms=times,
    openings=st.integers(0, 2**31 - 1),
    failing_since_ms=times,
    disabled_ms=times,
    disabled_reason=texts,
    url_hash=texts,
    changed_ms=times,
    writer=texts,
)
operations = st.builds(
    Operation,
    kind=st.sampled_from(get_args(Kind)),
    subscription_id=texts,
    tenant=texts,
    at_ms=times,
    reason=texts,
    detail=texts,
    count=times,
    partition=st.integers(-1, 2**31 - 1),
    first_offset=times,
    last_offset=times,
    replay_id=texts,
)


@given(states)
def test_a_state_comes_back(state: EndpointState) -> None:
    value = encode_state(HEADER, state)
    assert codec.wire_schema_id(value) == 7
    assert decode_state(value) == state


@given(operations)
def test_an_operation_comes_back(operation: Operation) -> None:
    assert decode_operation(encode_operation(HEADER, operation)) == operation


def test_the_schemas_have_the_same_fields_and_defaults() -> None:
    for name, kind in (("endpoint_state.v1", EndpointState), ("operation.v2", Operation)):
        schema = codec.parse_schema(codec.own_schema(name))
        fields = msgspec.structs.fields(kind)
        assert [field["name"] for field in schema["fields"]] == [field.name for field in fields]
        assert [field.get("default", msgspec.NODEFAULT) for field in schema["fields"]] == [
            field.default for field in fields
        ]


STATE = encode_state(HEADER, EndpointState(subscription_id="a", circuit="open"))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no_value"),
        (b"", "truncated"),
        (STATE[:-1], "truncated"),
        (b"{}" + STATE, "wrong_magic"),
        (STATE + b"\0", "avro"),
        (STATE.replace(b"open", b"ajar"), "avro"),
    ],
)
def test_what_is_no_state_is_refused(value: bytes | None, reason: str) -> None:
    with pytest.raises(UndecodableError) as refused:
        decode_state(value)
    assert refused.value.reason == reason


def test_an_operation_of_an_unknown_kind_is_refused() -> None:
    value = encode_operation(HEADER, Operation(kind="circuit.closed", subscription_id="a", at_ms=1))
    with pytest.raises(UndecodableError, match="kind"):
        decode_operation(value.replace(b"closed", b"melted"))


def test_operations_of_both_versions_are_read_as_either() -> None:
    old, new = (codec.own_schema(f"operation.v{version}") for version in (1, 2))
    assert not incompatibilities(Level.FULL, new, [old])
    fields = {"kind": "circuit.opened", "subscription_id": "a", "tenant": "t", "at_ms": 1, "reason": "", "detail": "d"}
    value = codec.encode(1, codec.parse_schema(old), fields)
    read = codec.decode(value, codec.parse_schema(old), codec.parse_schema(new))
    expected = Operation(kind="circuit.opened", subscription_id="a", tenant="t", at_ms=1, detail="d")
    assert msgspec.convert(read, Operation) == expected


def test_the_key_is_whom_it_is_about() -> None:
    for subscription_id, replay_id, key in (("a", "", b"a"), ("", "rpl_1", b"rpl_1"), ("", "", None)):
        operation = Operation(kind="replay.finished", subscription_id=subscription_id, replay_id=replay_id, at_ms=1)
        assert operation.key == key


HASH = "d6ab8982c8d4b2c0"  # stored in records: another way of hashing would void them all


def test_the_hash_of_a_url_is_the_same_for_ever() -> None:
    assert url_hash("https://example.com/hook") == HASH
    assert url_hash("https://example.com/hook?") != HASH
