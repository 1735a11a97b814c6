"""The receiving door: /v1/sources/{id}, where providers post their webhooks.

A request is verified on its raw body and answered once Kafka has its events. Until it is known to be genuine, every
answer is the same, and takes about the same work, whether there is such a source or not. How providers differ is not
known here (`connectors/providers`), and what is wrong with a request is told to the owner only
(`connectors/refusals.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from connectors.api.problems import ProblemError
from connectors.api.routes import Answer, Call, Reply, Route
from connectors.ingest import Entry, Ingest, Once, UnavailableError, source_key
from connectors.providers import providers
from connectors.refusals import UNKNOWN, Refusals
from connectors.source_desk import place
from schemas import client_address, provider, received, signed_request
from schemas.errors import InvalidSourceError, RecordTooLargeError
from schemas.event import Event
from schemas.provider import Provider
from schemas.signed_request import Refused, Request
from schemas.source import Source, provider_of

#: An event's record takes less; what is larger than that here is a batch.
BODY_BYTES_MAX = 2 << 20
OPENED_MAX = 10_000
RETRY_SECONDS = 5

#: Opens a sealed secret, given where it stands; clear text passes through. ValueError when it cannot.
OpenSecret = Callable[[str, str], str]


class ReceivingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`trusted_proxies`: networks as CIDR whose forwarding headers are believed. `public_url`: what providers call this
    API by, without a path of ours; empty: what the request says."""

    now_ms: Callable[[], int]
    open_secret: OpenSecret
    #: Of nobody: the secret that requests to sources that are not there are verified with.
    decoy: str
    trusted_proxies: tuple[str, ...] = ()
    public_url: str = ""


class _Opened(NamedTuple):
    source: Source
    provider: Provider
    secrets: tuple[str, ...]  # those of `source`, opened, by position


class Door:
    """A service: what came in, judged and published. `find` is that of the table of sources."""

    def __init__(
        self, find: Callable[[str], Source | None], ingest: Ingest, refusals: Refusals, config: ReceivingConfig
    ) -> None:
        self.refusals = refusals
        self._find = find
        self._ingest = ingest
        self._config = config
        self._opened: dict[str, _Opened] = {}
        for text in config.trusted_proxies:
            client_address.network(text)

    async def receive(self, source_id: str, web_request: web.Request, body: bytes) -> provider.Answer:
        """What to answer once it is done. ProblemError 401, 404, 400, 413, 503."""
        request = self._request(web_request, body)
        source = self._find(source_id)
        opened = self._open(source) if source is not None else None
        now_ms = self._config.now_ms()
        rules = opened.provider if opened else providers()["hmac"]
        secrets = [opened.secrets[at] for at, _ in opened.source.secrets_at(now_ms)] if opened else [self._config.decoy]
        verdict = signed_request.verify(rules, request, secrets, now_ms)
        refused = self._refused_address(web_request, opened.source if opened else None)
        if opened is None:
            raise self._refuse(UNKNOWN, Refused("no_source", f"there is no source {source_id}"))
        if isinstance(verdict, Refused) or refused is not None:
            raise self._refuse(source_id, refused or verdict)  # type: ignore[arg-type]  # one of them is
        if opened.source.state == "disabled":
            self.refusals.note(source_id, Refused("disabled", "it is genuine, and the source is disabled"))
            raise ProblemError(404, "this source is disabled")
        document = received.read(rules, request)
        if isinstance(document, Refused):
            raise self._unreadable(source_id, document)
        if (challenge := received.challenge_answer(rules, request, document, secrets)) is not None:
            return challenge
        events = received.events(
            rules,
            request,
            document,
            verdict,
            source_id=source_id,
            tenant=opened.source.tenant,
            type_prefix=opened.source.event_type_prefix,
            now_ms=now_ms,
        )
        if isinstance(events, Refused):
            raise self._unreadable(source_id, events)
        await self._publish(source_id, events)
        return rules.answer

    def challenge(self, source_id: str, web_request: web.Request) -> provider.Answer:
        """The answer to a provider that asks by GET, which nobody signs. ProblemError 404 when it asks nothing."""
        source = self._find(source_id)
        opened = self._open(source) if source is not None else None
        if opened is not None and opened.source.state == "active":
            request = self._request(web_request, b"")
            secrets = [opened.secrets[at] for at, _ in opened.source.secrets_at(self._config.now_ms())]
            answer = received.challenge_answer(opened.provider, request, None, secrets)
            if answer is not None and self._refused_address(web_request, opened.source) is None:
                return answer
        raise ProblemError(404, "nothing is asked here; webhooks are posted")

    # --- what came ------------------------------------------------------------------------------------------

    def _request(self, request: web.Request, body: bytes) -> Request:
        headers = tuple((name.lower(), value) for name, value in request.headers.items())
        origin = self._config.public_url or f"{request.scheme}://{request.host}"
        return Request(method=request.method, url=origin + request.raw_path, headers=headers, body=body)

    def _open(self, source: Source) -> _Opened:
        """The source's provider and clear secrets, once for each version of it."""
        opened = self._opened.get(source.id)
        if opened is not None and opened.source is source:
            return opened
        try:
            rules = provider_of(source, providers())
            opener = self._config.open_secret
            opened = _Opened(source, rules, tuple(opener(text, place(source.id)) for text in source.secrets))
        except (InvalidSourceError, ValueError) as error:
            # Nothing can be said of the request: its sender is to come again.
            self.refusals.note(source.id, Refused("no_secret", f"the source cannot be used: {error}"))
            headers = {"Retry-After": str(RETRY_SECONDS)}
            raise ProblemError(503, "this cannot be received just now; send it again", headers=headers) from None
        if len(self._opened) >= OPENED_MAX:
            self._opened.clear()
        self._opened[source.id] = opened
        return opened

    def _refused_address(self, request: web.Request, source: Source | None) -> Refused | None:
        if source is None or not source.allowlist:
            return None
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        address = client_address.client_address(
            str(peer[0]) if isinstance(peer, tuple) else "",
            request.headers.getall("X-Forwarded-For", []),
            request.headers.getall("Forwarded", []),
            self._config.trusted_proxies,
        )
        if address is not None and client_address.contains(source.allowlist, address):
            return None
        return Refused("address", f"it came from {address or 'an address that is not known'}, which is not allowed")

    # --- what becomes of it ---------------------------------------------------------------------------------

    def _refuse(self, source_id: str, refused: Refused) -> ProblemError:
        self.refusals.note(source_id, refused)
        return ProblemError(401, "this is not a request that the source takes; check its address, secret and time")

    def _unreadable(self, source_id: str, refused: Refused) -> ProblemError:
        self.refusals.note(source_id, refused)
        return ProblemError(400, "the request is genuine, and its body is not what this provider posts")

    async def _publish(self, source_id: str, events: Sequence[Event]) -> None:
        entries = [self._entry(source_id, event) for event in events]
        try:
            await self._ingest.publish(entries)
        except UnavailableError as error:
            headers = {"Retry-After": str(error.retry_s)}
            raise ProblemError(503, "Kafka does not answer; send it again", headers=headers) from None
        except RecordTooLargeError as error:
            raise self._unreadable(source_id, Refused("unreadable", str(error))) from None

    def _entry(self, source_id: str, event: Event) -> Entry:
        delivery = event.id.removeprefix(f"{source_id}:")
        return self._ingest.entry(event, Once(source_key(source_id, delivery), b"", event.id))


class AnyQuery(msgspec.Struct):
    """A provider may put anything into the URL."""


async def receive(call: Call) -> Reply:
    """A webhook, from its provider."""
    return _reply(await call.get(Door).receive(call.params["id"], call.request, call.body))


async def receive_hook(call: Call) -> Reply:
    """The same."""
    return await receive(call)


async def hook_challenge(call: Call) -> Reply:
    """What a provider asks before it posts."""
    return _reply(call.get(Door).challenge(call.params["id"], call.request))


def _reply(answer: provider.Answer) -> Reply:
    return Reply(answer.body.encode() if answer.body else None, answer.status, media=answer.content_type)


def _answers() -> dict[int, Answer]:
    statuses = {200, *(each.answer.status for each in providers().values())}
    said = "Kafka has it, or it is a challenge that is answered; what the provider expects to read"
    return {status: Answer(description=said, media="text/plain") for status in sorted(statuses)}


TAG = "sources"
_POST: Any = {
    "method": "POST",
    "tag": TAG,
    "scope": None,
    "raw": True,
    "media": ("*/*",),
    "body_bytes_max": BODY_BYTES_MAX,
    "query": AnyQuery,
    "answers": _answers(),
    "problems": (400, 401, 404),
    "limited": False,  # providers come in bursts, many through the same proxy; Kafka sets the limit
    "description": "No API key: the provider's signature says who it is.",
}
ROUTES = [
    Route(path="/v1/sources/{id}", handler=receive, summary="Receive a webhook of a provider", **_POST),
    Route(
        path="/v1/sources/{id}/hook",
        handler=receive_hook,
        summary="Receive a webhook of a provider that verifies its URL by GET",
        **_POST,
    ),
    Route(
        method="GET",
        path="/v1/sources/{id}/hook",
        handler=hook_challenge,
        summary="Answer a provider that verifies its URL",
        tag=TAG,
        scope=None,
        query=AnyQuery,
        answers={200: Answer(description="The challenge, as the provider wants it", media="text/plain")},
        problems=(404,),
        limited=False,
    ),
]
