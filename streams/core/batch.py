"""Several deliveries in one POST: `{"batch_id", "events": [...], "event_count"}` or CloudEvents' batch, signed as one.

Each event keeps its own id, by which a receiver tells what it has seen; the batch's id is a function of theirs, so the
same deliveries sent again are the same batch. This file does not decide what is sent together, only what never is.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from schemas.delivery import Delivery
from schemas.subscription import PayloadFormat
from schemas.trace_context import TRACESTATE
from streams.core.formats import CLOUDEVENTS_BATCH

#: Prefix of batch ids; as delivery ids, they hold no dot.
BATCH_PREFIX = "bat_"
#: Bodies beyond this are not put together; a single one may be larger.
BATCH_BYTES_MAX = 1 << 20


def batch_id(delivery_ids: Sequence[str]) -> str:
    """The `webhook-id` of a batch: 34 characters, 120 bits of BLAKE2b over the ids in their order."""
    return BATCH_PREFIX + blake2b("\0".join(delivery_ids).encode(), digest_size=15).hexdigest()


def batchable(delivery: Delivery) -> bool:
    """Whether others may be put together with it: bodies are rendered before, and the format may have changed since."""
    content_type = delivery.content_type
    if content_type == CLOUDEVENTS_BATCH:
        return True
    media_type = content_type.partition(";")[0].rstrip().lower()
    if media_type.startswith("application/cloudevents") or not media_type.endswith(("/json", "+json")):
        return False
    return not any(name.startswith("ce-") for name, _ in delivery.headers)  # a header tells of one event


def together(one: Delivery, other: Delivery) -> bool:
    """Whether what the batch's headers say of one is true of the other."""
    if one.content_type != other.content_type:
        return False
    return one.headers == other.headers or shared_headers(one) == shared_headers(other)


def shared_headers(delivery: Delivery) -> tuple[tuple[str, str], ...]:
    """A delivery's own headers without what tells of its event alone."""
    return tuple(each for each in delivery.headers if each[0] != TRACESTATE)


def batch_body(identifier: str, deliveries: Sequence[Delivery], payload_format: PayloadFormat) -> bytes:
    """The JSON of a batch of deliveries that may be together; `payload_format` is the subscription's of now.

    In the format `standard` an event is its body with the field `id` put in front; in `data`, it is
    `{"id", "data": body}`. So it is where a body cannot take the field. CloudEvents are one array.
    """
    if deliveries[0].content_type == CLOUDEVENTS_BATCH:
        return b"[" + b",".join([each.body[1:-1] for each in deliveries]) + b"]"
    standard = payload_format in ("standard", "thin")
    parts = [
        (b'{"id":"%b",%b' % (each.id.encode(), each.body[1:]))
        if standard and each.body.startswith(b'{"')
        else (b'{"id":"%b","data":%b}' % (each.id.encode(), each.body))
        for each in deliveries
    ]
    start = b'{"batch_id":"%b","event_count":%d,"events":[' % (identifier.encode(), len(deliveries))
    return start + b",".join(parts) + b"]}"
