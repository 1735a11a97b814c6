"""Forwarding events to a developer's machine: each becomes the webhook that an endpoint would get, signed and POSTed.

The delivery client is that of the workers, and so are format and signature; what is missing is everything that a worker
does afterwards: nothing is retried and nothing is written. This file does not know where events come from.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Literal

from connectors.address_guard import AddressGuard
from connectors.clock import SystemClock
from connectors.http_sender import HttpSender
from schemas.event import Event
from schemas.ids import delivery_id
from schemas.post import PostResult
from streams.core.formats import render
from streams.core.signing import Signer

#: Those of subscriptions, but Avro: what is heard through the API is no Avro.
ForwardFormat = Literal["standard", "data", "cloudevents_binary", "cloudevents_structured", "cloudevents_batch", "thin"]
#: Of the subscription that there is not: an event's id is the same each time it is forwarded.
LISTENER = "listen"
TIMEOUT_S = 15.0
#: Events that can be sent again.
KEPT_MAX = 100


class Forwarder:
    """An async context manager."""

    def __init__(self, url: str, secret: str, payload_format: ForwardFormat = "standard") -> None:
        """ValueError with a sentence for a URL that cannot be posted to; InvalidSubscriptionError for no secret."""
        self._clock = SystemClock()
        self._format = payload_format
        # It is the developer's own machine and network that is sent to, at their word.
        guard = AddressGuard(allow_private=True, allow=["0.0.0.0/0", "::/0"], allow_http=True)
        self._sender = HttpSender(guard)
        self._route = self._sender.route(url, {}, TIMEOUT_S)
        self._signer = Signer([secret], target_uri=self._route.uri)
        self._kept: OrderedDict[int, Event] = OrderedDict()
        #: How many events there were.
        self.count = 0

    async def __aenter__(self) -> Forwarder:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._sender.close()

    def keep(self, event: Event) -> int:
        """Number the event, so that it can be sent again."""
        self.count += 1
        self._kept[self.count] = event
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        return self.count

    def kept(self, number: int | None = None) -> tuple[int, Event] | None:
        """The event of this number, or the last one; None when it is not there any more."""
        number = number or self.count
        event = self._kept.get(number)
        return None if event is None else (number, event)

    async def post(self, event: Event) -> PostResult:
        """What the endpoint answers to the event in the format, without a schema's version."""
        rendered = render(event, self._format, event.data, b"")
        identifier = delivery_id(event.id, LISTENER)
        headers = self._signer.headers(identifier, rendered.content_type, rendered.body, self._clock.now_ms())
        headers += rendered.headers
        if event.traceparent is not None:
            headers.append(("traceparent", event.traceparent))
        answer: asyncio.Future[PostResult] = asyncio.get_running_loop().create_future()
        self._sender.post(self._route, headers, rendered.body, answer.set_result)
        return await answer
