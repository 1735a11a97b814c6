"""What a lane sends: the route to its endpoint, its signatures, what it proves itself with, and the header fields of
one POST.

An `Outgoing` is made when a lane adopts a version of its subscription, and holds all that this version fixes, so that a
POST costs no more than what changes with it. This file does not decide when anything is sent, nor what an answer means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from schemas.credentials import Basic, Bearer, OAuth2, parse_auth, parse_tls
from schemas.delivery import Delivery, replay_of
from schemas.endpoint_tls import EndpointTls
from schemas.errors import InvalidSubscriptionError, UnsealableError
from schemas.post import PostDone, PostResult
from schemas.subscription import Subscription
from streams.core.batch import shared_headers
from streams.core.masking import Mask, masked
from streams.core.oauth2 import basic
from streams.core.signing import Signer
from streams.ports import Opener, Route, Sender
from streams.tokens import TokenPosts, Tokens

#: Of a delivery that no worker has made: RFC 9421, section 2.1, has no form for what is not ASCII.
_UNSIGNABLE = PostResult(0, 0, "invalid_request", "The id or content type is not ASCII, so it cannot be signed.")


class Outgoing:
    """The POSTs of one version of a subscription."""

    __slots__ = ("_header_names", "_mask", "_post", "_route", "_signer", "locked", "origin")

    def __init__(
        self, subscription: Subscription, sender: Sender, opener: Opener, tokens: Tokens, *, method: str = "POST"
    ) -> None:
        """ValueError with a sentence when the sender refuses the endpoint. `method` is for `ask`."""
        timeout_s = subscription.timeout_ms / 1000
        self._route = sender.route(subscription.url, subscription.headers, timeout_s, method=method)
        self._post: Callable[[Route, Sequence[tuple[str, str]], bytes, PostDone], None] = sender.post
        self._header_names = frozenset(name.lower() for name in subscription.headers)
        self._mask = Mask(subscription.headers.values())
        #: Why nothing may be posted, in a sentence without a secret; empty when it may.
        self.locked = ""
        try:
            s = opener(subscription)
            self._signer = Signer(s.secrets, s.secrets_expire_ms, s.signatures, self._route.uri)
            if s.auth or s.tls:
                self._prove(s, sender, tokens, method)
        except (UnsealableError, InvalidSubscriptionError) as error:  # the latter of what was sealed and is no secret
            self.locked = str(error)
        else:
            self._header_names |= self._signer.header_names
        self.origin = self._route.origin

    def _prove(self, s: Subscription, sender: Sender, tokens: Tokens, method: str) -> None:
        """Authenticate as an opened subscription says: in the route's own header and TLS, so that a POST costs no more;
        or with a token that is asked for when it is needed. ValueError, InvalidSubscriptionError."""
        headers, timeout_s, tls = dict(s.headers), s.timeout_ms / 1000, None
        if s.tls:
            given = parse_tls(s.tls)
            tls = EndpointTls(owner=s.id, certificate=given.certificate, key=given.key, ca=given.ca)
        auth = parse_auth(s.auth) if s.auth else None
        if auth is not None:
            self._header_names |= {"authorization"}
        match auth:
            case Basic():
                headers["authorization"] = basic(auth.username, auth.password)
            case Bearer():
                headers["authorization"] = f"Bearer {auth.token}"
            case OAuth2():
                self._post = TokenPosts(tokens, auth, sender, s.url, headers, timeout_s, tls, method).post
        self._route = sender.route(s.url, headers, timeout_s, tls, method=method)
        if isinstance(auth, Basic | Bearer):
            sent = headers["authorization"].partition(" ")[2]
            secret = auth.password if isinstance(auth, Basic) else auth.token
            self._mask = Mask([*s.headers.values(), sent, secret])

    def post(self, identifier: str, delivery: Delivery, body: bytes, now_ms: int, done: PostDone) -> None:
        """POST this body with what a delivery says beside its own; `done` as in `Sender.post`."""
        replay = replay_of(delivery) if delivery.headers else ""
        try:
            headers = self._signer.headers(identifier, delivery.content_type, body, now_ms, replay)
        except UnicodeEncodeError:  # anything may be written to a topic, and who is asked for a POST must answer it
            asyncio.get_running_loop().call_soon(done, _UNSIGNABLE)
            return
        if delivery.headers:  # what the subscription sets itself wins, and what signs
            headers += [each for each in delivery.headers if each[0] not in self._header_names]
        trace = delivery.traceparent
        # A producer may have written anything there, and a trace must never cost an event.
        if trace is not None and trace.isascii() and trace.isprintable():
            headers.append(("traceparent", trace))
        self._post(self._route, headers, body, partial(masked, self._mask, done) if self._mask else done)

    def post_batch(
        self, identifier: str, deliveries: Sequence[Delivery], body: bytes, now_ms: int, done: PostDone
    ) -> None:
        """POST deliveries that are together (`streams/core/batch.py`) as one; of none alone the trace is sent."""
        self.post(identifier, for_all(deliveries[0], None), body, now_ms, done)

    def signed(self, identifier: str, content_type: str, body: bytes, now_ms: int) -> list[tuple[str, str]]:
        """The header fields that sign a body which is no delivery, for `ask`. Not where `locked`."""
        return self._signer.headers(identifier, content_type, body, now_ms)

    def ask(self, headers: list[tuple[str, str]], body: bytes, done: PostDone) -> None:
        """Send what is no delivery, by the method of this one. Of its answer nothing is struck out: it is not kept."""
        self._post(self._route, headers, body, done)


def for_all(first: Delivery, traceparent: str | None) -> Delivery:
    """What the first delivery of a batch says of all of them, with the trace of the batch."""
    return msgspec.structs.replace(first, traceparent=traceparent, headers=shared_headers(first))
