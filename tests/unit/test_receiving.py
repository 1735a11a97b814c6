"""The receiving door, over HTTP and with a Kafka in memory: who gets in, who is told what, and what is written."""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncIterator, Iterable
from typing import Any

import orjson
import pytest
from aiohttp import ClientResponse, ClientSession
from aiohttp.test_utils import TestServer

from connectors.api.app import ApiConfig, make_app
from connectors.api.principal import FixedKeys
from connectors.api.receiving import BODY_BYTES_MAX, ROUTES, Door, ReceivingConfig
from connectors.api.routes import Services
from connectors.ingest import Ingest, IngestLimits
from connectors.memory import ManualClock, MemoryKafka, MemoryMember, MemoryPublisher
from connectors.refusals import LOG_SECONDS, UNKNOWN, Refusals
from connectors.seen import SeenWindow
from schemas.codec import own_schema
from schemas.event import Event, event_decoder
from schemas.signed_request import Refused, Request
from schemas.source import Source
from schemas.topics import Topics
from tests.provider_cases import (
    GITHUB_BODY,
    NOW_MS,
    SLACK_BODY,
    any_hmac,
    github,
    sha256_prefixed,
    shopify,
    slack,
    stripe,
    twilio,
)
from tests.unit.test_ingest import NoFollower

TOPICS = Topics()
PUBLIC_URL = "https://hooks.example.com"


class World:
    """A door with sources of its own."""

    def __init__(
        self, session: ClientSession, url: str, door: Door, kafka: MemoryKafka, sources: dict[str, Source]
    ) -> None:
        self._session, self._url = session, url
        self.sources = sources
        self.door, self.kafka = door, kafka

    async def post(
        self, request: Request, source: str = "src", *, more: Iterable[tuple[str, str]] = ()
    ) -> ClientResponse:
        """As the provider would."""
        path = request.url.removeprefix(f"{PUBLIC_URL}/v1/sources/s1")
        headers = [*request.headers, *more]
        async with self._session.post(
            f"{self._url}/v1/sources/{source}{path}", data=io.BytesIO(request.body), headers=headers
        ) as response:
            await response.read()
            return response

    async def status(self, request: Request, source: str = "src", **more: Any) -> int:
        return (await self.post(request, source, **more)).status

    async def get(self, path: str) -> tuple[int, str]:
        async with self._session.get(self._url + path) as response:
            return response.status, await response.text()

    def events(self) -> list[Event]:
        decoder = event_decoder(own_schema("event.v3"))
        return [decoder.decode(each.value or b"", None, 0) for each in self.kafka.records[TOPICS.events]]

    def ids(self) -> list[str]:
        return [event.id for event in self.events()]


@contextlib.asynccontextmanager
async def world(*sources: Source, trusted: tuple[str, ...] = (), wait_s: float = 10.0) -> AsyncIterator[World]:
    kafka = MemoryKafka({TOPICS.events: 1, TOPICS.seen: 1}, {TOPICS.events: 1 << 20})
    limits = IngestLimits(wait_s=wait_s)
    ingest = Ingest(
        MemoryPublisher(kafka, "ingest", lambda: MemoryMember("none")),
        SeenWindow(limits.window_ms, limits.marks_max),
        NoFollower(),
        TOPICS,
        event_schema=5,
        seen_schema=6,
        clock=ManualClock(),
        limits=limits,
    )
    by_id = {source.id: source for source in sources}
    config = ReceivingConfig(
        now_ms=lambda: NOW_MS, open_secret=_opened, decoy="nobody's", trusted_proxies=trusted, public_url=PUBLIC_URL
    )
    door = Door(by_id.get, ingest, Refusals(lambda: 0.0), config)
    app = make_app(ROUTES, Services(FixedKeys({}), door), ApiConfig(monotonic=lambda: 0.0, new_id=lambda: "r"))
    await ingest.start()
    async with TestServer(app) as server, ClientSession() as session:
        yield World(session, str(server.make_url("")).rstrip("/"), door, kafka, by_id)
    await ingest.close()


def _opened(text: str, place: str) -> str:
    if not text.startswith("sealed:"):
        return text
    assert place == "sources/src/secrets"
    if text == "sealed:lost":
        raise ValueError(f"{place} is sealed with a key that is not here")
    return text.removeprefix("sealed:k:")


def source(provider: str, *secrets: str, **more: Any) -> Source:
    return Source(id="src", tenant="acme", provider=provider, secrets=secrets or ("hush",), **more)


async def test_a_webhook_becomes_an_event_once() -> None:
    async with world(source("github")) as here:
        assert await here.status(github()) == 202
        assert await here.status(github()) == 202  # as GitHub does when it was not answered in time
        assert await here.status(github(delivery="another")) == 202
        assert here.ids() == ["src:72d3162e-cc78-11e3-81ab-4c9367dc0958", "src:another"]
        event = here.events()[0]
        assert (event.type, event.tenant, event.data) == ("github.issues.opened", "acme", GITHUB_BODY)


async def test_two_sources_do_not_share_ids() -> None:
    async with world(source("github"), Source(id="b", provider="github", secrets=("hush",))) as here:
        assert await here.status(github()) == 202
        assert await here.status(github(), "b") == 202
        assert len(here.ids()) == 2


async def test_who_is_not_believed_is_told_the_same_whatever_is_wrong() -> None:
    wrong = source("stripe", "whsec_stripe", allowlist=("192.0.2.0/24",))
    right = Source(id="ok", provider="stripe", secrets=("whsec_stripe",))
    async with world(
        wrong, right, Source(id="ended", provider="stripe", secrets=("x",), secrets_expire_ms=(5,))
    ) as here:
        answers = [
            await here.post(stripe(), "nobody"),
            await here.post(stripe(secret="another"), "ok"),
            await here.post(stripe(timestamp=str(NOW_MS // 1000 - 301)), "ok"),
            await here.post(stripe(), "src"),  # from another address
            await here.post(stripe(), "ended"),
            await here.post(Request(url=f"{PUBLIC_URL}/v1/sources/s1"), "ok"),
        ]
        assert {answer.status for answer in answers} == {401}
        bodies = {(await answer.text()).replace(str(answer.url.path), "") for answer in answers}
        assert len(bodies) == 1
        assert not here.events()
        assert not here.kafka.records[TOPICS.seen]
        assert here.door.refusals.of("ok") == {"wrong_signature": 1, "stale": 1, "no_signature": 1}
        assert here.door.refusals.of("src") == {"address": 1}
        assert here.door.refusals.of("ended") == {"no_secret": 1}
        assert here.door.refusals.of(UNKNOWN) == {"no_source": 1}


async def test_a_disabled_source_says_so_to_its_provider_only() -> None:
    async with world(source("github", state="disabled")) as here:
        assert await here.status(github()) == 404
        assert await here.status(Request(url=github().url, body=b"{}")) == 401
        assert not here.events()


async def test_what_is_genuine_and_cannot_be_read() -> None:
    async with world(source("hmac")) as here:
        assert await here.status(any_hmac(b"Hello")) == 400
        assert await here.status(any_hmac(b"[1]" * 2)) == 400
        assert await here.status(any_hmac(b"\xff")) == 400
        assert await here.status(any_hmac(b"")) == 400
        assert await here.status(any_hmac(b'{"a":"' + b"x" * (1 << 20) + b'"}')) == 400
        assert await here.status(any_hmac(b"x" * (BODY_BYTES_MAX + 1))) == 413
        assert here.door.refusals.of("src") == {"unreadable": 5}
        assert not here.events()


async def test_headers_that_stand_there_twice() -> None:
    async with world(source("github")) as here:
        name = "x-hub-signature-256"
        assert await here.status(github(), more=[(name, github().all(name)[0])]) == 401
        assert here.door.refusals.of("src") == {"twice": 1}


async def test_challenges_are_answered_and_are_no_events() -> None:
    async with world(
        source("slack"),
        Source(id="m", provider="meta", secrets=("hush",), allowlist=("127.0.0.0/8",)),
        Source(id="elsewhere", provider="meta", secrets=("hush",), allowlist=("192.0.2.0/24",)),
        Source(id="off", provider="meta", secrets=("hush",), state="disabled"),
        Source(id="x", provider="x", secrets=("hush",)),
    ) as here:
        asked = slack(b'{"type":"url_verification","challenge":"abc"}')
        answer = await here.post(asked)
        assert (answer.status, answer.content_type, await answer.text()) == (200, "text/plain", "abc")
        assert await here.status(Request(url=asked.url, body=asked.body)) == 401  # not signed
        query = "hub.mode=subscribe&hub.challenge=42"
        assert await here.get(f"/v1/sources/m/hook?{query}") == (200, "42")
        for other in ("off", "elsewhere", "nobody", "src"):
            assert (await here.get(f"/v1/sources/{other}/hook?{query}"))[0] == 404
        status, text = await here.get("/v1/sources/x/hook?crc_token=abc")
        assert (status, text[:26]) == (200, '{"response_token":"sha256=')
        assert not here.events()
        assert await here.status(sha256_prefixed("x-hub-signature-256", b'{"object":"page"}'), "m/hook") == 200
        assert [event.type for event in here.events()] == ["meta.page"]


async def test_the_answer_is_the_providers() -> None:
    async with world(source("twilio")) as here:
        url = f"{PUBLIC_URL}/v1/sources/src?foo=1&bar=2"
        signed = twilio(b"CallSid=CA1", url=url)
        answer = await here.post(
            Request(url=f"{PUBLIC_URL}/v1/sources/s1?foo=1&bar=2", headers=signed.headers, body=signed.body)
        )
        assert (answer.status, answer.content_type, await answer.text()) == (200, "text/xml", "<Response/>")
        assert (
            await here.status(
                Request(url=f"{PUBLIC_URL}/v1/sources/s1?foo=2", headers=signed.headers, body=signed.body)
            )
            == 401
        )


async def test_while_kafka_is_out_providers_come_again() -> None:
    async with world(source("shopify"), wait_s=0.05) as here:
        here.kafka.answers.clear()
        answer = await here.post(shopify())
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "1"
        here.kafka.answers.set()
        async with world(source("shopify")) as later:
            assert await later.status(shopify()) == 200


async def test_forwarding_headers_are_believed_from_trusted_proxies_only() -> None:
    allowed = source("slack", allowlist=("192.0.2.0/24",))
    spoofed = [("X-Forwarded-For", "192.0.2.1")]
    async with world(allowed) as here:
        assert await here.status(slack(), more=spoofed) == 401
    async with world(allowed, trusted=("127.0.0.0/8", "::1/128")) as here:
        assert await here.status(slack()) == 401
        assert await here.status(slack(), more=[("X-Forwarded-For", "192.0.2.1, 198.51.100.1")]) == 401
        assert await here.status(slack(), more=[*spoofed, ("X-Forwarded-For", "198.51.100.1")]) == 401
        assert await here.status(slack(), more=[*spoofed, ("Forwarded", "for=198.51.100.1")]) == 401
        assert not here.events()
        assert await here.status(slack(), more=[("X-Forwarded-For", "198.51.100.1, 192.0.2.1")]) == 200
        assert here.events()[0].data == SLACK_BODY


async def test_sealed_secrets_are_opened_and_lost_keys_let_providers_come_again() -> None:
    async with world(source("github", "sealed:k:hush")) as here:
        assert await here.status(github()) == 202
    async with world(source("github", "sealed:lost")) as here:
        answer = await here.post(github())
        assert answer.status == 503
        assert "Retry-After" in answer.headers
        assert here.door.refusals.of("src") == {"no_secret": 1}
    async with world(source("acme")) as here:
        assert await here.status(github()) == 503


async def test_a_source_that_changes_counts_at_once() -> None:
    async with world(source("github", "before")) as here:
        assert await here.status(github()) == 401
        here.sources["src"] = source("github", "hush", "before")
        assert await here.status(github()) == 202


async def test_a_batch_is_one_transaction_without_what_was_there() -> None:
    body = (
        b'[{"sg_event_id":"a","event":"open"},{"sg_event_id":"b","event":"click"},{"sg_event_id":"a","event":"open"}]'
    )
    rules: dict[str, Any] = {
        "batch": True,
        "id": ["json:sg_event_id"],
        "type": {"prefix": "sg.", "references": ["json:event"]},
    }
    async with world(source("hmac", overrides=orjson.dumps(rules).decode())) as here:
        assert await here.status(any_hmac(body)) == 200
        assert sorted(here.ids()) == ["src:a", "src:b"]
        assert await here.status(any_hmac(body)) == 200
        assert len(here.ids()) == 2


def test_the_log_is_not_filled(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    refusals = Refusals(lambda: now[0])
    for _ in range(100):
        refusals.note("s", Refused("stale", "late"))
        refusals.note("s", Refused("twice", "two"))
    assert [record.getMessage() for record in caplog.records] == [
        "source s refused 1 (stale), the last: late",
        "source s refused 1 (twice), the last: two",
    ]
    now[0] = LOG_SECONDS
    refusals.note("s", Refused("stale", "later"))
    assert caplog.records[-1].getMessage() == "source s refused 100 (stale), the last: later"
    assert refusals.of("s") == {"stale": 101, "twice": 100}
    assert refusals.of("t") == {}
