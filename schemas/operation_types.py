"""Operations as event types: what each is called and says, with an example.

They are listed beside the event types that an operator describes, and nobody can change them. This file does not make
events of operations (`streams/operation_events.py`).
"""

from __future__ import annotations

from typing import get_args

import msgspec
import orjson

from schemas.endpoint import Kind, Operation
from schemas.event_type import EventType

#: Of their names; the rest is the operation's kind.
PREFIX = "operation."
GROUP = "operations"
RECORD_NAME = "distributary.Operation"

_AT_MS = 1_767_268_800_000  # 2026-01-01T12:00:00Z
_ENDPOINT = Operation(kind="circuit.opened", subscription_id="acme-orders", tenant="acme", at_ms=_AT_MS)
_SAID: dict[Kind, tuple[str, Operation]] = {
    "circuit.opened": ("An endpoint fails: it is only probed until it answers again.", _ENDPOINT),
    "circuit.closed": ("An endpoint that failed answers again.", _ENDPOINT),
    "endpoint.disabled": (
        "An endpoint is not sent anything any more: it answered 410, failed for too long, or its owner said so.",
        msgspec.structs.replace(_ENDPOINT, reason="gone"),
    ),
    "endpoint.enabled": (
        "Its owner says that an endpoint may be sent to again.",
        msgspec.structs.replace(_ENDPOINT, reason="owner", detail="by `distributary endpoints`"),
    ),
    "dead_letters.written": (
        "Deliveries of a subscription were given up; one event for all of a while.",
        msgspec.structs.replace(
            _ENDPOINT, detail="40 exhausted, 2 rejected", count=42, partition=3, first_offset=117, last_offset=160
        ),
    ),
    "quarantine.grew": (
        "Records that are no events were put aside; one event for all of a partition and a while.",
        Operation(
            kind="quarantine.grew",
            subscription_id="",
            tenant="",
            at_ms=_AT_MS,
            reason="unknown_schema",
            detail="3 unknown_schema",
            count=3,
            partition=1,
            first_offset=20,
            last_offset=22,
        ),
    ),
    "replay.finished": (
        "A replay ended.",
        Operation(
            kind="replay.finished",
            subscription_id="",
            tenant="acme",
            at_ms=_AT_MS,
            reason="done",
            count=1_200,
            replay_id="rpl_01",
        ),
    ),
}


def operation_types(subject: str = "") -> list[EventType]:
    """All of them, by name; `subject` is where the registry has the schema of their data."""
    return [_type(kind, subject) for kind in sorted(get_args(Kind))]


def is_operation_type(name: str) -> bool:
    """Whether an event type is one of ours."""
    return name.removeprefix(PREFIX) in _SAID and name.startswith(PREFIX)


def _type(kind: Kind, subject: str) -> EventType:
    description, operation = _SAID[kind]
    example = orjson.dumps(msgspec.structs.asdict(msgspec.structs.replace(operation, kind=kind))).decode()
    return EventType(name=PREFIX + kind, description=description, group=GROUP, schema=subject, example=example)
