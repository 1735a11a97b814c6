"""OAuth2 tokens for lanes: one source for each client, whoever uses it, and the POSTs that carry a token.

Nothing happens here by itself: a token is asked for when a delivery needs one, and asked for again when a delivery is
sent with one that has passed the greater part of its life; that delivery does not wait for it. Of each source one
request is under way at a time, and all who need its token wait for that one.

A token endpoint is an endpoint: its URL, addresses, deadline and the size of its answer are the business of the
`Sender` that the requests go through. A delivery that waits for a token is under way, and so has one of its lane's
places: a token endpoint that hangs does to a lane what an endpoint does that hangs, and the same things protect the
others from it. One that fails gives each delivery that needed it a retryable result, `token_failed`, and is left alone
for a while.

Why a 401 is answered inside the POST, and the attempt judged by what comes after: the endpoint has said that it did not
take the event, so nothing is sent twice. The delivery keeps its place in the order of its key, no attempt is spent on
what the endpoint is not to blame for, and nobody downstream has to know: health, limits and records see one POST.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from weakref import WeakValueDictionary

from schemas.credentials import OAuth2
from schemas.endpoint_tls import EndpointTls
from schemas.post import PostDone, PostResult
from streams.core.masking import Mask, masked
from streams.core.oauth2 import (
    Granted,
    judge_answer,
    pause_s,
    renew_after_s,
    token_request,
    usable_s,
)
from streams.core.retry import parse_retry_after_ms
from streams.ports import Clock, Route, Sender

TIMEOUT_S = 10.0
#: A lane whose endpoint answers 401 has a new token asked for no more often: it may refuse every one.
RENEWAL_EVERY_S = 30.0

#: Called with a token, or with the result of a POST that cannot be made without one.
Got = Callable[[str | PostResult], None]


class TokenSource:
    """The token of one client at one token endpoint."""

    __slots__ = (
        "__weakref__", "_asked_s", "_asking", "_client", "_clock", "_failed", "_failures", "_renew_s", "_request",
        "_resume_s", "_route", "_sender", "_token", "_until_s", "_waiting",
    )  # fmt: skip

    def __init__(self, client: OAuth2, sender: Sender, clock: Clock) -> None:
        """ValueError with a sentence when the sender refuses the token endpoint."""
        self._client = client
        self._sender = sender
        self._clock = clock
        self._request = token_request(client)
        try:
            self._route = sender.route(client.token_url, {}, TIMEOUT_S)
        except ValueError as error:
            raise ValueError(f"auth.token_url: {error}") from None
        self._token = ""
        self._until_s = 0.0  # it is used until then (monotonic seconds, as all of these)
        self._renew_s = 0.0
        self._asking = False
        self._asked_s = 0.0
        self._waiting: list[Got] = []
        self._failures = 0  # in a row
        self._failed = PostResult(0, 0)  # the result of who needs a token until `_resume_s`
        self._resume_s = 0.0

    def token(self) -> str:
        """The token to send with now; "" when there is none."""
        if not self._token:
            return ""
        now = self._clock.monotonic()
        if now >= self._until_s:
            self._token = ""
        elif now >= self._renew_s and not self._asking and now >= self._resume_s:
            self._ask(now)
        return self._token

    def wait(self, got: Got) -> None:
        """`got` is called once, later, with the token to send with, or with why there is none."""
        now = self._clock.monotonic()
        if token := self.token():
            asyncio.get_running_loop().call_soon(got, token)
        elif self._asking:
            self._waiting.append(got)
        elif now < self._resume_s:
            asyncio.get_running_loop().call_soon(got, self._failed)
        else:
            self._waiting.append(got)
            self._ask(now)

    def refused(self, token: str) -> None:
        """An endpoint did not take it: it is not used any more, by nobody."""
        if self._token == token:
            self._token = ""

    def _ask(self, now: float) -> None:
        self._asking = True
        self._asked_s = now
        self._sender.post(self._route, self._request.headers, self._request.body, self._answered)

    def _answered(self, result: PostResult) -> None:
        self._asking = False
        judged = judge_answer(self._client, result)
        outcome: str | PostResult
        if isinstance(judged, Granted):
            outcome = self._token = judged.token
            self._failures = 0
            self._resume_s = 0.0
            self._until_s = self._asked_s + usable_s(judged.life_s)
            self._renew_s = self._asked_s + renew_after_s(judged.life_s, self._clock.jitter())
        else:
            self._failures += 1
            retry_after_ms = parse_retry_after_ms(result.retry_after, self._clock.now_ms())
            pause = pause_s(self._failures, retry_after_ms, self._clock.jitter())
            self._resume_s = self._clock.monotonic() + pause
            cause = "shutdown" if result.cause == "shutdown" else "token_failed"
            outcome = self._failed = PostResult(0, 0, cause, judged.detail)
        waiting, self._waiting = self._waiting, []
        for got in waiting:
            got(outcome)


class Tokens:
    """The sources of a worker: one for each client, for as long as a lane uses it."""

    def __init__(self, sender: Sender, clock: Clock) -> None:
        """`sender` posts to token endpoints; it has to hand over `ANSWER_BYTES_MAX` of an answer."""
        self._sender = sender
        self.clock = clock
        # By all that a token depends on, and by the secret: who does not know it has no part in the token.
        self._sources: WeakValueDictionary[OAuth2, TokenSource] = WeakValueDictionary()

    def source(self, client: OAuth2) -> TokenSource:
        """The source of this client's tokens. ValueError when its token endpoint must not be used."""
        source = self._sources.get(client)
        if source is None:
            source = self._sources[client] = TokenSource(client, self._sender, self.clock)
        return source


class TokenPosts:
    """The POSTs of one version of a subscription, each with the token of its time."""

    __slots__ = (
        "_clock", "_headers", "_mask", "_method", "_renewed_s", "_route", "_sender", "_source", "_timeout_s", "_tls",
        "_token", "_url",
    )  # fmt: skip

    def __init__(
        self,
        tokens: Tokens,
        client: OAuth2,
        sender: Sender,
        url: str,
        headers: Mapping[str, str],
        timeout_s: float,
        tls: EndpointTls | None,
        method: str = "POST",
    ) -> None:
        """The rest as in `Sender.route`, which has to have accepted it. ValueError when the token endpoint must not be
        used."""
        self._source = tokens.source(client)
        self._clock = tokens.clock
        self._sender = sender
        self._url = url
        self._headers = headers
        self._timeout_s = timeout_s
        self._tls = tls
        self._method = method
        self._token = ""
        self._mask = Mask(())  # strikes out the token, should the endpoint send it back
        self._route: Route | None = None  # that of `_token`: a token is rendered once
        self._renewed_s = -RENEWAL_EVERY_S

    def post(self, _: Route, headers: Sequence[tuple[str, str]], body: bytes, done: PostDone) -> None:
        """As `Sender.post`, with a token; `token_failed` when there is none."""
        token = self._source.token()
        if token:
            self._send(headers, body, done, token)
        else:
            self._source.wait(partial(self._got, headers, body, done, False))

    def _got(
        self, headers: Sequence[tuple[str, str]], body: bytes, done: PostDone, last: bool, got: str | PostResult
    ) -> None:
        if isinstance(got, str):
            self._send(headers, body, done, got, last=last)
        else:
            done(got)

    def _send(
        self, headers: Sequence[tuple[str, str]], body: bytes, done: PostDone, token: str, *, last: bool = False
    ) -> None:
        if self._token != token:
            fields = {**self._headers, "authorization": f"Bearer {token}"}
            try:
                self._route = self._sender.route(self._url, fields, self._timeout_s, self._tls, method=self._method)
            except ValueError as error:  # a long token beside many headers
                failed = PostResult(0, 0, "token_failed", f"The token cannot be sent: {error}")
                asyncio.get_running_loop().call_soon(done, failed)
                return
            self._token = token
            self._mask = Mask([token])
        assert self._route is not None
        answered = done if last else partial(self._answered, headers, body, done, token)
        self._sender.post(self._route, headers, body, partial(masked, self._mask, answered))

    def _answered(
        self, headers: Sequence[tuple[str, str]], body: bytes, done: PostDone, token: str, result: PostResult
    ) -> None:
        """Once more with another token when this one was not taken, and once only."""
        if result.status != 401 or not self._renewable(token):
            done(result)
            return
        self._source.refused(token)
        self._source.wait(partial(self._got, headers, body, done, True))

    def _renewable(self, token: str) -> bool:
        """Whether there is a token besides this one, or may be soon."""
        if self._source.token() != token:
            return True
        now = self._clock.monotonic()
        if now - self._renewed_s < RENEWAL_EVERY_S:
            return False
        self._renewed_s = now
        return True
