"""The health of an endpoint as it survives restarts, and the operational events about it: values and their Avro.

Both are written when an endpoint's health changes, not for every attempt, so fastavro codes them. This file does not
decide when a circuit opens or an endpoint is disabled, and holds no URL: only a hash that tells whether it changed.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from schemas import codec

Circuit = Literal["closed", "open"]
Kind = Literal[
    "endpoint.disabled",
    "endpoint.enabled",
    "circuit.opened",
    "circuit.closed",
    "dead_letters.written",
    "quarantine.grew",
    "replay.finished",
]

#: `disabled_reason` when the owner did it (`distributary endpoints disable`).
OWNER = "owner"


class EndpointState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is known of an endpoint's health; field for field `schemas/avro/endpoint_state.v1.avsc`.

    Times are milliseconds since the epoch; 0 for one that did not come. The defaults are a healthy endpoint. The state
    is void when `url_hash` is not that of the subscription's URL. `writer` is a worker's name, empty for the owner.
    """

    subscription_id: str
    circuit: Circuit = "closed"
    opened_ms: int = 0
    until_ms: int = 0
    openings: int = 0
    failing_since_ms: int = 0
    disabled_ms: int = 0
    disabled_reason: str = ""
    url_hash: str = ""
    changed_ms: int = 0
    writer: str = ""


class Operation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an operator may want to hear of; field for field `schemas/avro/operation.v2.avsc`, which says more of each.

    Of endpoints, `subscription_id` and `tenant`; of dead letters (one for a subscription and a while) also how many and
    where; of quarantine (one for a partition and a while) no subscription and no tenant; of a replay its id, how it
    ended (`reason`) and how many deliveries it sent (`count`).
    """

    kind: Kind
    subscription_id: str
    tenant: str = "default"
    at_ms: int
    reason: str = ""
    detail: str = ""
    count: int = 0
    partition: int = -1
    first_offset: int = -1
    last_offset: int = -1
    replay_id: str = ""

    @property
    def key(self) -> bytes | None:
        """Of the record: who or what it is about; None for quarantine."""
        return (self.subscription_id or self.replay_id).encode() or None


def url_hash(url: str) -> str:
    """16 hexadecimal digits that tell one URL from another (BLAKE2b)."""
    return hashlib.blake2b(url.encode(), digest_size=8).hexdigest()


_STATE = codec.parse_schema(codec.own_schema("endpoint_state.v1"))
_OPERATION = codec.parse_schema(codec.own_schema("operation.v2"))


def encode_state(header: bytes, state: EndpointState) -> bytes:
    """The framed value of endpoint_state.v1; `header` is that of `codec.wire_header`."""
    return codec.encode_struct(header, _STATE, state)


def decode_state(value: bytes | None) -> EndpointState:
    """The state in a framed value that was written with endpoint_state.v1; UndecodableError when it was not."""
    return codec.decode_struct(value, _STATE, EndpointState)


def encode_operation(header: bytes, operation: Operation) -> bytes:
    """The framed value of operation.v2; `header` is that of `codec.wire_header`."""
    return codec.encode_struct(header, _OPERATION, operation)


def decode_operation(value: bytes | None) -> Operation:
    """The operation in a framed value that was written with operation.v2; UndecodableError when it was not."""
    return codec.decode_struct(value, _OPERATION, Operation)
