"""What a lane sends: the route to its endpoint, its signatures, and the header fields of one POST.

An `Outgoing` is made when a lane adopts a version of its subscription, and holds all that this version fixes, so that a
POST costs no more than what changes with it. This file does not decide when anything is sent, nor what an answer means.
"""

from __future__ import annotations

from schemas.delivery import Delivery
from schemas.errors import InvalidSubscriptionError
from schemas.post import PostDone
from schemas.subscription import Subscription
from streams.core.signing import Signer
from streams.ports import Sender


class Outgoing:
    """The POSTs of one version of a subscription."""

    __slots__ = ("_header_names", "_post", "_route", "_signer", "origin", "usable")

    def __init__(self, subscription: Subscription, sender: Sender) -> None:
        """ValueError with a sentence when the sender refuses the endpoint."""
        self._route = sender.route(subscription.url, subscription.headers, subscription.timeout_ms / 1000)
        self._post = sender.post
        self._header_names = frozenset(name.lower() for name in subscription.headers)
        #: Whether anything may be posted: not with secrets that are sealed, or of a kind that is not known here.
        self.usable = True
        s, uri = subscription, self._route.uri
        try:
            self._signer = Signer(s.secrets, s.secrets_expire_ms, s.signatures, uri)
        except InvalidSubscriptionError:
            self.usable = False
        else:
            self._header_names |= self._signer.header_names
        self.origin = self._route.origin

    def post(self, identifier: str, delivery: Delivery, body: bytes, now_ms: int, done: PostDone) -> None:
        """POST a delivery's own body, or that of a batch that it stands for; `done` as in `Sender.post`."""
        headers = self._signer.headers(identifier, delivery.content_type, body, now_ms)
        if delivery.headers:  # what the subscription sets itself wins, and what signs
            headers += [each for each in delivery.headers if each[0] not in self._header_names]
        if identifier is delivery.id and delivery.traceparent is not None:
            headers.append(("traceparent", delivery.traceparent))
        self._post(self._route, headers, body, done)
