"""Several deliveries in one POST: `{"batch_id", "events": [...], "event_count"}`, signed as one.

Each event keeps its own id, by which a receiver tells what it has seen; the batch's id is a function of theirs, so the
same deliveries sent again are the same batch. This file does not decide what is sent together.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

#: Prefix of batch ids; as delivery ids, they hold no dot.
BATCH_PREFIX = "bat_"
#: Bodies beyond this are not put together; a single one may be larger.
BATCH_BYTES_MAX = 1 << 20


def batch_id(delivery_ids: Sequence[str]) -> str:
    """The `webhook-id` of a batch: 34 characters, 120 bits of BLAKE2b over the ids in their order."""
    return BATCH_PREFIX + blake2b("\0".join(delivery_ids).encode(), digest_size=15).hexdigest()


def batch_body(identifier: str, events: Sequence[tuple[str, bytes]], payload_format: str) -> bytes:
    """The JSON of a batch of (delivery id, body).

    In the format `standard` an event is its body with the field `id` put in front; in `data`, it is
    `{"id", "data": body}`. So it is where a body cannot take the field: bodies are rendered before they are put
    together, and the format may have changed since.
    """
    standard = payload_format == "standard"
    parts = [
        (b'{"id":"%b",%b' % (name.encode(), body[1:]))
        if standard and body.startswith(b'{"')
        else (b'{"id":"%b","data":%b}' % (name.encode(), body))
        for name, body in events
    ]
    start = b'{"batch_id":"%b","event_count":%d,"events":[' % (identifier.encode(), len(events))
    return start + b",".join(parts) + b"]}"
