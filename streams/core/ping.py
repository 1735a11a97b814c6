"""The delivery of a test event to one subscription: it takes the same road as any other.

Filter, transform and schema version are left aside, since a test event is of no schema of the application's; and so is
the Avro format, which would need one. Pure.
"""

from __future__ import annotations

import msgspec
import orjson

from schemas.delivery import Wire
from schemas.event import Event
from schemas.frame import Out
from schemas.ids import delivery_id
from schemas.subscription import Subscription
from streams.core.fanout import Targets, deliveries
from streams.core.views import View

PING = "webhook.ping"


def ping(topic: str, wire: Wire, subscription: Subscription, event_id: str, now_ms: int) -> tuple[Out, str]:
    """The record for `deliveries`, and the delivery's id."""
    shape = "standard" if subscription.format == "avro" else subscription.format
    plain = msgspec.structs.replace(
        subscription, format=shape, filter="", transform="", schema_version=0, content_type=""
    )
    data = orjson.dumps({"subscription_id": subscription.id})
    event = Event(event_id, PING, subscription.tenant, now_ms, data)
    view = View(b"", data, 0)
    (record,) = deliveries(topic, wire, event, now_ms, Targets((plain,)), view, lambda _: view).records
    return record, delivery_id(event_id, subscription.id)
