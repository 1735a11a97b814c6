"""No tenant sees or touches another's anything: every route of the API, with every kind of key that must not do.

The routes are those of the table, so one that is added without a case here fails.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from connectors.admin import apply_topics
from connectors.api.routes import Route
from connectors.api.table import ROUTES
from connectors.local_kafka import Cluster
from schemas import codec
from schemas.access import SCOPES
from schemas.api_key import encode_key, new_key, revoked
from schemas.delivery import (
    FRESH,
    Attempt,
    decode_delivery,
    encode_attempt,
    encode_dead_letter,
    encode_fresh,
    encode_tail,
)
from schemas.event import Event
from schemas.ids import delivery_id
from schemas.partitions import partition_of
from schemas.portal import PortalSigner
from schemas.replay import Replay, Selection, encode_replay
from schemas.subscription import Subscription, subscription_to_json
from schemas.topics import Topics
from streams.api_app import api_app
from streams.settings import Settings
from tests.subscriptions_topic import CompactedTopic

NOW = 1_700_000_000_000
FAR = 10_000_000_000_000
PORTAL_SECRET = "p" * 32
SECRET = "whsec_" + "B" * 43 + "="
OTHER = "their-tenant"
#: Of the other tenant: each has a word in it that no answer to anybody else may hold.
THEIR_SUBSCRIPTION = "sub_theirs"
THEIR_SOURCE = "src_theirs"
THEIR_REPLAY = "rpl_theirs"
THEIR_DELIVERY = delivery_id("evt_theirs", THEIR_SUBSCRIPTION)
#: The first in the partition of their subscription, of two.
THEIR_DEAD = f"{partition_of(THEIR_SUBSCRIPTION.encode(), 2)}-0"
WORDS = ("evt_theirs", "their-url", "their-name", SECRET, "their-secret")
#: There is no such thing.
NOBODYS = {
    THEIR_SUBSCRIPTION: "sub_nobodys",
    THEIR_SOURCE: "src_nobodys",
    THEIR_REPLAY: "rpl_nobodys",
    THEIR_DELIVERY: delivery_id("evt_nobodys", "s"),
    THEIR_DEAD: "1-77",
}

#: Anybody may call these. The door of sources asks for a signature instead of a key.
OPEN = {
    ("GET", "/.well-known/webhooks"),
    ("GET", "/v1/health/live"),
    ("GET", "/v1/health/ready"),
    ("GET", "/v1/openapi.json"),
    ("GET", "/v1/sources/{id}/hook"),
    ("POST", "/v1/sources/{id}"),
    ("POST", "/v1/sources/{id}/hook"),
}


class Case(msgspec.Struct, frozen=True):
    """A request for what is another tenant's, and the answer. `creates`: where there is nothing, it makes something."""

    path: str
    status: int
    body: Any = None
    creates: bool = False


def thing(path: str, body: Any = None, *, creates: bool = False) -> Case:
    """Named by its id: as if it did not exist."""
    return Case(path, 404, body, creates)


def named(path: str, body: Any = None) -> Case:
    """The tenant is named in so many words."""
    return Case(path, 403, body)


SUBSCRIPTION = {"url": "https://mine.example/", "event_types": ["*"]}
SOURCE: dict[str, Any] = {"provider": "github", "secrets": ["mine-mine-mine-mine"]}
THEIRS = f"/v1/subscriptions/{THEIR_SUBSCRIPTION}"
KEY = "/v1/keys/{key}"

CASES: dict[tuple[str, str], list[Case]] = {
    ("GET", "/v1/subscriptions"): [named(f"/v1/subscriptions?tenant={OTHER}")],
    ("POST", "/v1/subscriptions"): [named("/v1/subscriptions", SUBSCRIPTION | {"tenant": OTHER})],
    ("GET", "/v1/subscriptions/{id}"): [thing(THEIRS)],
    ("PUT", "/v1/subscriptions/{id}"): [
        thing(THEIRS, SUBSCRIPTION, creates=True),
        named(THEIRS, SUBSCRIPTION | {"tenant": OTHER}),
    ],
    ("PATCH", "/v1/subscriptions/{id}"): [thing(THEIRS, {"state": "paused"})],
    ("DELETE", "/v1/subscriptions/{id}"): [thing(THEIRS)],
    ("POST", "/v1/subscriptions/{id}/rotate-secret"): [thing(f"{THEIRS}/rotate-secret", {})],
    **{
        ("POST", f"/v1/subscriptions/{{id}}/{action}"): [thing(f"{THEIRS}/{action}")]
        for action in ("pause", "resume", "disable", "enable", "ping", "verify", "reveal-secret")
    },
    ("POST", "/v1/events"): [
        named(f"/v1/events?tenant={OTHER}", {"type": "a.b", "data": {}}),
        named("/v1/events", {"type": "a.b", "data": {}, "tenant": OTHER}),
        named("/v1/events", [{"type": "a.b", "data": {}}, {"type": "a.b", "data": {}, "tenant": OTHER}]),
    ],
    ("GET", "/v1/subscriptions/{id}/attempts"): [thing(f"{THEIRS}/attempts")],
    ("GET", "/v1/subscriptions/{id}/deliveries"): [thing(f"{THEIRS}/deliveries")],
    ("GET", "/v1/attempts"): [named(f"/v1/attempts?tenant={OTHER}")],
    ("GET", "/v1/subscriptions/{id}/latency"): [thing(f"{THEIRS}/latency")],
    ("GET", "/v1/deliveries/{id}"): [
        thing(f"/v1/deliveries/{THEIR_DELIVERY}"),
        thing(f"/v1/deliveries/{THEIR_DELIVERY}?subscription={THEIR_SUBSCRIPTION}"),
    ],
    # Event types are for all tenants: everybody reads them, and only operators change them.
    ("GET", "/v1/event-types"): [Case("/v1/event-types", 200)],
    ("GET", "/v1/event-types/{name}"): [thing("/v1/event-types/nothing")],
    ("PUT", "/v1/event-types/{name}"): [named("/v1/event-types/a.b", {})],
    ("DELETE", "/v1/event-types/{name}"): [named("/v1/event-types/a.b")],
    ("GET", "/v1/events/listen"): [named(f"/v1/events/listen?tenant={OTHER}")],
    ("GET", "/v1/sources"): [named(f"/v1/sources?tenant={OTHER}")],
    ("POST", "/v1/sources"): [named("/v1/sources", SOURCE | {"tenant": OTHER})],
    ("GET", "/v1/sources/{id}"): [thing(f"/v1/sources/{THEIR_SOURCE}")],
    ("PUT", "/v1/sources/{id}"): [
        thing(f"/v1/sources/{THEIR_SOURCE}", SOURCE, creates=True),
        named(f"/v1/sources/{THEIR_SOURCE}", SOURCE | {"tenant": OTHER}),
    ],
    ("DELETE", "/v1/sources/{id}"): [thing(f"/v1/sources/{THEIR_SOURCE}")],
    ("GET", "/v1/dead-letters"): [named(f"/v1/dead-letters?tenant={OTHER}")],
    ("GET", "/v1/dead-letters/summary"): [named(f"/v1/dead-letters/summary?tenant={OTHER}")],
    ("GET", "/v1/dead-letters/export"): [named(f"/v1/dead-letters/export?tenant={OTHER}")],
    ("GET", "/v1/dead-letters/{id}"): [thing(f"/v1/dead-letters/{THEIR_DEAD}")],
    ("POST", "/v1/dead-letters/retry"): [
        thing("/v1/dead-letters/retry", {"ids": [THEIR_DEAD]}),
        named("/v1/dead-letters/retry", {"all": True, "tenant": OTHER}),
        Case("/v1/dead-letters/retry", 409, {"subscription": [THEIR_SUBSCRIPTION]}),
    ],
    ("POST", "/v1/dead-letters/discard"): [
        thing("/v1/dead-letters/discard", {"ids": [THEIR_DEAD], "why": "w"}),
        named("/v1/dead-letters/discard", {"all": True, "tenant": OTHER, "why": "w"}),
    ],
    # What is in quarantine is nobody's yet: operators see it, and no tenant does.
    ("GET", "/v1/quarantine"): [named("/v1/quarantine")],
    ("GET", "/v1/quarantine/{id}"): [named("/v1/quarantine/0-0")],
    ("POST", "/v1/quarantine/resend"): [named("/v1/quarantine/resend", {"all": True})],
    ("POST", "/v1/quarantine/discard"): [named("/v1/quarantine/discard", {"all": True, "why": "w"})],
    ("GET", "/v1/replays"): [named(f"/v1/replays?tenant={OTHER}")],
    ("POST", "/v1/replays"): [
        named("/v1/replays", {"tenant": OTHER}),
        Case("/v1/replays", 422, {"subscriptions": [THEIR_SUBSCRIPTION]}),
    ],
    ("GET", "/v1/replays/{id}"): [thing(f"/v1/replays/{THEIR_REPLAY}")],
    ("PATCH", "/v1/replays/{id}"): [thing(f"/v1/replays/{THEIR_REPLAY}", {"wanted": "cancelled"})],
    ("GET", "/v1/keys"): [named(f"/v1/keys?tenant={OTHER}")],
    ("POST", "/v1/keys"): [named("/v1/keys", {"scopes": ["keys:read"], "tenant": OTHER})],
    ("GET", "/v1/keys/{id}"): [thing(KEY)],
    ("POST", "/v1/keys/{id}/rotate"): [thing(f"{KEY}/rotate", {})],
    ("POST", "/v1/keys/{id}/revoke"): [thing(f"{KEY}/revoke")],
    ("POST", "/v1/portal-links"): [named("/v1/portal-links", {"scopes": ["keys:read"], "tenant": OTHER})],
    ("GET", "/v1/audit"): [named(f"/v1/audit?tenant={OTHER}")],
}
#: What an operator cannot make without saying whose it is.
UNNAMED: dict[str, dict[str, Any]] = {
    "/v1/keys": {"scopes": ["keys:read"]},
    "/v1/portal-links": {"scopes": ["keys:read"]},
    "/v1/sources": SOURCE,
}
SCOPED = [route for route in ROUTES if route.scope is not None]


class Town:
    """A running API with keys of all kinds, and things of two tenants."""

    def __init__(self, session: ClientSession, url: str, tokens: dict[str, str], their_key: str) -> None:
        self.session, self.url, self.tokens, self.their_key = session, url, tokens, their_key

    async def ask(self, token: str | None, method: str, path: str, body: Any = None) -> tuple[int, Any, Any]:
        headers = {} if token is None else {"Authorization": f"Bearer {self.tokens.get(token, token)}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        content = None if body is None else msgspec.json.encode(body)
        path = path.replace("{key}", self.their_key)
        async with self.session.request(method, self.url + path, headers=headers, data=content) as response:
            got = await response.read()
            return response.status, msgspec.json.decode(got) if got else None, response.headers

    async def seen(self) -> list[Any]:
        """All that the operator sees of the other tenant's."""
        paths = [
            *(THEIRS, f"/v1/sources/{THEIR_SOURCE}", KEY, f"/v1/audit?tenant={OTHER}"),
            *(f"/v1/deliveries/{THEIR_DELIVERY}", f"/v1/replays/{THEIR_REPLAY}"),
            f"/v1/dead-letters/{THEIR_DEAD}",
        ]
        answers = [await self.ask("operator", "GET", path) for path in paths]
        assert [status for status, _, _ in answers] == [200] * len(paths)
        return [document for _, document, _ in answers]


@pytest.fixture
async def town(kafka: Cluster, prefix: str) -> AsyncIterator[Town]:
    await apply_topics({"bootstrap.servers": kafka.bootstrap}, Topics(prefix, 2).specs(), -1)
    settings = Settings(
        bootstrap=kafka.bootstrap,
        prefix=prefix,
        partitions=2,
        api_rate=0,
        auth_failures_per_minute=1_000_000,
        portal_secret=PORTAL_SECRET,
    )
    tokens, their_key = write_keys(settings)
    topic = CompactedTopic(kafka.bootstrap, settings.topics.subscriptions, create=False)
    theirs = Subscription(
        id=THEIR_SUBSCRIPTION, tenant=OTHER, url="https://their-url.example/", event_types=("*",), secrets=(SECRET,)
    )
    topic.write(theirs.id, subscription_to_json(theirs))
    write_attempt(settings)
    write_replay(settings)
    async with api_app(settings) as app, TestServer(app) as server, ClientSession() as session:
        made = Town(session, str(server.make_url("")).rstrip("/"), tokens, their_key)
        source = SOURCE | {"tenant": OTHER, "description": "their-name", "secrets": ["their-secret-their-secret"]}
        status, document, _ = await made.ask("operator", "PUT", f"/v1/sources/{THEIR_SOURCE}", source)
        assert status == 201, document
        yield made


def write_attempt(settings: Settings) -> None:
    """One delivery of the other tenant's, and a dead letter of it."""
    assert settings.bootstrap is not None
    event = Event("evt_theirs", "a.b", OTHER, NOW, b"{}", None)
    tail = encode_tail(event, NOW, "application/json", b"{}")
    header, field = codec.wire_header(1), codec.put_string(THEIR_SUBSCRIPTION) + FRESH
    delivery = decode_delivery(encode_fresh(header, THEIR_DELIVERY, field, tail))
    made = Attempt(1, "delivered", NOW, 1_000, 200, "", "", b"ok")
    partition = partition_of(THEIR_SUBSCRIPTION.encode(), settings.partitions)
    topic = CompactedTopic(settings.bootstrap, settings.topics.attempts, create=False)
    topic.write(THEIR_SUBSCRIPTION, encode_attempt(header, delivery, made), partition=partition)
    topic = CompactedTopic(settings.bootstrap, settings.topics.dead, create=False)
    topic.write(THEIR_SUBSCRIPTION, encode_dead_letter(header, delivery, "gone", "", NOW), partition=partition)


def write_replay(settings: Settings) -> None:
    """One order of the other tenant's, which is theirs to cancel."""
    assert settings.bootstrap is not None
    order = Replay(
        id=THEIR_REPLAY,
        created_ms=NOW,
        by="their-name",
        selection=Selection(source="events", tenant=OTHER, subscriptions=(THEIR_SUBSCRIPTION,)),
    )
    topic = CompactedTopic(settings.bootstrap, settings.topics.replays, create=False)
    topic.write(order.id, encode_replay(codec.wire_header(1), order))


def write_keys(settings: Settings) -> tuple[dict[str, str], str]:
    """Tokens by what they are, and the id of the other tenant's key."""
    assert settings.bootstrap is not None
    topic = CompactedTopic(settings.bootstrap, settings.topics.api_keys, create=False)
    number = 0

    def draw(length: int) -> bytes:
        nonlocal number
        number += 1
        return number.to_bytes(length, "big")

    tokens, ids = {}, {}
    kinds: dict[str, tuple[str | None, tuple[str, ...], int]] = {
        "operator": (None, SCOPES, 0),
        "mine": ("mine", SCOPES, 0),
        "theirs": (OTHER, SCOPES, 0),
        "expired": (OTHER, SCOPES, NOW + 1),
        "revoked": (OTHER, SCOPES, 0),
        **{f"without {scope}": ("mine", tuple(set(SCOPES) - {scope}), 0) for scope in SCOPES},
    }
    for kind, (tenant, scopes, expires_ms) in kinds.items():
        key, tokens[kind] = new_key(
            draw, tenant=tenant, scopes=scopes, name="their-name", created_ms=NOW, created_by="", expires_ms=expires_ms
        )
        ids[kind] = key.id
        key = revoked(key, NOW) if kind == "revoked" else key
        topic.write(key.id, encode_key(codec.wire_header(1), key))
    signer = PortalSigner([PORTAL_SECRET.encode()], f"{settings.prefix}distributary.api")
    for kind in ("mine", "theirs"):
        _, tokens[f"ended link of {kind}"] = signer.issue(
            "l", tenant=OTHER, scopes=("keys:read",), key=ids[kind], now_ms=NOW, life_ms=1_000
        )
    _, tokens["link of revoked"] = signer.issue(
        "l", tenant=OTHER, scopes=("keys:read",), key=ids["revoked"], now_ms=FAR, life_ms=1_000
    )
    _, tokens["link of a key that may not"] = signer.issue(
        "l", tenant=OTHER, scopes=("keys:read",), key=ids["mine"], now_ms=FAR, life_ms=1_000
    )
    tokens |= {
        "unknown": f"dsk_{'f' * 16}_{tokens['theirs'][21:]}",
        "wrong secret": tokens["theirs"][:21] + tokens["mine"][21:],
        "malformed": tokens["theirs"][:-1],
        "nonsense": "nonsense",
        "a link that nobody signed": tokens["ended link of theirs"][:-1] + "A",
    }
    return tokens, ids["theirs"]


BAD = [
    *("expired", "revoked", "unknown", "wrong secret", "malformed", "nonsense", "a link that nobody signed"),
    *("ended link of mine", "ended link of theirs", "link of revoked", "link of a key that may not"),
]


def of(route: Route) -> tuple[str, str]:
    return route.method, route.path


def path_of(route: Route) -> str:
    return CASES[of(route)][0].path


def test_every_route_has_its_cases() -> None:
    assert {of(route) for route in ROUTES if route.scope is None} == OPEN
    assert {of(route) for route in SCOPED} == CASES.keys()


async def test_another_tenants_things_are_as_if_they_did_not_exist(town: Town) -> None:
    before = await town.seen()
    for (method, _), cases in CASES.items():
        for case in cases:
            status, document, _ = await town.ask("mine", method, case.path, case.body)
            assert status == case.status, (method, case, document)
            assert not any(word in str(document) for word in WORDS), (method, case, document)
            if status == 404 and not case.creates:
                assert without_ids(document, town) == await nobodys(town, method, case), (method, case)
    assert await town.seen() == before
    status, page, _ = await town.ask("operator", "GET", "/v1/audit?limit=500")
    mine = [each for each in page["items"] if each["actor"] == f"key:{town.tokens['mine'][4:20]}"]
    assert (status, mine) == (200, [])


def without_ids(document: Any, town: Town) -> str:
    """The answer but for what differs in every answer."""
    text = str({name: value for name, value in document.items() if name != "request_id"})
    for theirs, other in (NOBODYS | {town.their_key: "0" * 16}).items():
        text = text.replace(theirs, "ID").replace(other, "ID")
    return text


async def nobodys(town: Town, method: str, case: Case) -> str:
    """The same question about something that does not exist."""
    path = case.path.replace("{key}", "0" * 16)
    for theirs, other in NOBODYS.items():
        path = path.replace(theirs, other)
    _, document, _ = await town.ask("mine", method, path, case.body)
    return without_ids(document, town)


async def test_lists_hold_what_is_ones_own(town: Town) -> None:
    lists = ["/v1/subscriptions", "/v1/sources", "/v1/keys", "/v1/audit", "/v1/replays", "/v1/dead-letters"]
    for path in lists:
        status, page, _ = await town.ask("mine", "GET", path)
        assert status == 200
        assert {each["tenant"] for each in page["items"]} <= {"mine"}, path
        status, page, _ = await town.ask("theirs", "GET", path)
        assert {each["tenant"] for each in page["items"]} == {OTHER}, path


async def test_without_a_key_and_with_a_bad_one_there_is_a_challenge(town: Town) -> None:
    plain = 'Bearer realm="distributary"'
    for route in SCOPED:
        status, document, headers = await town.ask(None, route.method, path_of(route))
        assert (status, headers["WWW-Authenticate"]) == (401, plain), (route.path, document)
    details = set()
    for route in SCOPED:
        for kind in BAD:
            status, document, headers = await town.ask(kind, route.method, path_of(route))
            assert (status, headers["WWW-Authenticate"]) == (401, f'{plain}, error="invalid_token"'), (route.path, kind)
            details.add(document["detail"])
    assert len(details) == 1


async def test_without_its_scope_a_route_is_forbidden(town: Town) -> None:
    for route in SCOPED:
        status, document, headers = await town.ask(f"without {route.scope}", route.method, path_of(route))
        assert (status, document["detail"]) == (403, f"this key lacks the scope {route.scope}; use one that has it")
        assert f'error="insufficient_scope", scope="{route.scope}"' in headers["WWW-Authenticate"]
    starts = SUBSCRIPTION | {"start_at": "earliest"}  # it orders a replay besides
    status, document, headers = await town.ask("without replays:write", "POST", "/v1/subscriptions", starts)
    assert (status, document["detail"].split(",")[0]) == (403, "start_at needs the scope replays:write")
    assert 'error="insufficient_scope", scope="replays:write"' in headers["WWW-Authenticate"]


@pytest.mark.parametrize("path", UNNAMED)
async def test_an_operator_says_whose_it_is(town: Town, path: str) -> None:
    status, document, _ = await town.ask("operator", "POST", path, UNNAMED[path])
    assert (status, [each["path"] for each in document["errors"]]) == (422, ["/tenant"])
    status, document, _ = await town.ask("operator", "POST", path, UNNAMED[path] | {"tenant": OTHER})
    assert (status, document["tenant"]) == (201, OTHER)
