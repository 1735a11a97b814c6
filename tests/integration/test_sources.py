"""Sources on a real Kafka: made over HTTP and by command, posted to as providers do, and on to a subscriber."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import io
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from connectors.admin import apply_topics
from connectors.api.principal import SCOPES, FixedKeys, Principal
from connectors.clock import SystemClock
from connectors.local_brokers import choose_doors, local_brokers
from connectors.local_kafka import Cluster
from schemas import codec
from schemas.audit import decode_audit
from schemas.event import Event, event_decoder
from schemas.source import decode_source
from schemas.topics import Topics
from streams.api_app import api_app
from streams.settings import Settings
from tests.cli import Cli, Started
from tests.helpers import eventually_async
from tests.integration.sink import Sink
from tests.integration.workers import Site
from tests.provider_cases import any_hmac, github, shopify, slack, stripe, twilio

KEYS = FixedKeys(
    {
        name: Principal(actor=f"key:{name}", tenant=tenant, scopes=frozenset(scopes))
        for name, tenant, scopes in (
            ("operator", None, SCOPES),
            ("acme", "acme", SCOPES),
            ("rival", "rival", SCOPES),
            ("reader", "acme", ["sources:read"]),
        )
    }
)
Headers = Iterable[tuple[str, str]]
DER_KEY = ec.derive_private_key(0x5EED, ec.SECP256R1())
PUBLIC = base64.b64encode(DER_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
SEAL_KEY = base64.b64encode(bytes(32)).decode()


class Api:
    """A running API: `ask` as an owner, `post` as a provider."""

    def __init__(self, session: ClientSession, url: str) -> None:
        self._session, self.url = session, url

    async def ask(
        self, method: str, path: str, body: Any = None, key: str = "acme", **headers: str
    ) -> tuple[int, Any, Any]:
        named = {"Authorization": f"Bearer {key}"} | {name.replace("_", "-"): text for name, text in headers.items()}
        async with self._session.request(method, self.url + path, json=body, headers=named) as response:
            content = await response.read()
            return response.status, json.loads(content) if content else None, response.headers

    async def post(self, path: str, headers: Headers, body: bytes) -> int:
        async with self._session.post(self.url + path, data=io.BytesIO(body), headers=list(headers)) as response:
            await response.read()
            return response.status


@pytest.fixture
async def settings(kafka: Cluster, prefix: str) -> Settings:
    await apply_topics({"bootstrap.servers": kafka.bootstrap}, Topics(prefix, 2).specs(), -1)
    return Settings(bootstrap=kafka.bootstrap, prefix=prefix, partitions=2, secret_keys={"k1": SEAL_KEY})


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Api]:
    async with api_app(settings, KEYS) as app, TestServer(app) as server, ClientSession() as session:
        yield Api(session, str(server.make_url("")).rstrip("/"))


def site(settings: Settings) -> Site:
    return Site(settings, None)  # type: ignore[arg-type]  # writes no event of its own


def events(settings: Settings) -> list[Event]:
    decoder = event_decoder(codec.own_schema("event.v3"))
    return [decoder.decode(each.value(), None, 0) for each in site(settings).read(settings.topics.events)]


def now_s() -> str:
    return str(SystemClock().now_ms() // 1000)


def sendgrid(body: bytes) -> Headers:
    """As SendGrid signs."""
    signature = base64.b64encode(DER_KEY.sign(now_s().encode() + body, ec.ECDSA(SHA256()))).decode()
    name = "x-twilio-email-event-webhook"
    return [("content-type", "application/json"), (f"{name}-signature", signature), (f"{name}-timestamp", now_s())]


def standard(secret: bytes, body: bytes, message: str) -> Headers:
    """As a Standard Webhooks sender signs."""
    mac = base64.b64encode(hmac.digest(secret, f"{message}.{now_s()}.".encode() + body, "sha256")).decode()
    named = (("webhook-id", message), ("webhook-timestamp", now_s()), ("webhook-signature", f"v1,{mac}"))
    return [("content-type", "application/json"), *named]


def requests(url: str) -> dict[str, tuple[str, Headers, bytes]]:
    """(secret, headers, body) of a genuine request of each provider, as of now."""
    key = hashlib.sha256(b"standard").digest()
    signed = {
        "stripe": ("whsec_stripe", stripe(timestamp=now_s())),
        "github": ("hush", github()),
        "slack": ("hush", slack(timestamp=now_s())),
        "twilio": ("hush", twilio(b"CallSid=CA1&CallStatus=ringing", url=f"{url}/v1/sources/twilio")),
        "shopify": ("hush", shopify()),
        "hmac": ("hush", any_hmac(b'{"n":1}')),
    }
    found: dict[str, tuple[str, Headers, bytes]] = {
        name: (secret, request.headers, request.body) for name, (secret, request) in signed.items()
    }
    batch = b'[{"sg_event_id":"a","event":"open"},{"sg_event_id":"b","event":"click"}]\r\n'
    found["sendgrid"] = (PUBLIC, sendgrid(batch), batch)
    body = b'{"type":"user.created","data":{}}'
    found["standard"] = (f"whsec_{base64.b64encode(key).decode()}", standard(key, body, "msg_1"), body)
    return found


TYPES = {
    "stripe.invoice.paid",
    "github.issues.opened",
    "slack.app_mention",
    "twilio.ringing",
    "shopify.orders.create",
    "thing.done",
    "sendgrid.open",
    "sendgrid.click",
    "user.created",
}


async def test_every_providers_webhooks_reach_a_subscriber_once(kafka: Cluster, prefix: str) -> None:
    here = await Site.made(kafka.bootstrap, prefix)
    async with AsyncExitStack() as stack:
        sink = await stack.enter_async_context(Sink().running())
        here.subscribe("all", sink.url("/all"), event_types=("*",), tenant="acme")
        await stack.enter_async_context(here.worker())
        api = await stack.enter_async_context(running(here.settings))
        for name, (secret, headers, body) in requests(api.url).items():
            status, made, answer = await api.ask("PUT", f"/v1/sources/{name}", {"provider": name, "secrets": [secret]})
            assert status == 201, made
            assert (made["tenant"], made["path"]) == ("acme", f"/v1/sources/{name}")
            assert answer["ETag"]
            for _ in range(3):  # the first, and twice again as after an answer that was lost
                assert await api.post(f"/v1/sources/{name}", headers, body) in (200, 202), name
            assert await api.post(f"/v1/sources/{name}", headers, body + b" ") == 401, name
        await eventually_async(lambda: len(sink.received) >= len(TYPES), timeout_s=60)
        assert sorted(each.type for each in events(here.settings)) == sorted(TYPES)
        assert {json.loads(each.body)["type"] for each in sink.received} == TYPES
        assert len(sink.received) == len(TYPES)
        shown = (await api.ask("GET", "/v1/sources/github"))[1]
        assert shown["refused"] == {"wrong_signature": 1}


async def test_sources_over_http(settings: Settings) -> None:
    given = {"id": "pay", "provider": "stripe", "secrets": ["whsec_one"], "allowlist": ["127.0.0.0/8", "::1/128"]}
    async with running(settings) as api:
        status, made, headers = await api.ask("POST", "/v1/sources", given)
        assert (status, headers["Location"], made["secrets"]) == (201, "/v1/sources/pay", ["sealed:k1:…"])
        first = headers["ETag"]
        assert (await api.ask("POST", "/v1/sources", given))[0] == 409
        assert (await api.ask("GET", "/v1/sources/pay"))[2]["ETag"] == first

        request = stripe(timestamp=now_s(), secret="whsec_one")
        assert await api.post("/v1/sources/pay", request.headers, request.body) == 200

        # Both secrets while one takes the place of the other; without `secrets`, they stay.
        both = {"provider": "stripe", "secrets": ["whsec_two", "whsec_one"]}
        status, _, headers = await api.ask("PUT", "/v1/sources/pay", both, If_Match=first)
        assert status == 200
        assert (await api.ask("PUT", "/v1/sources/pay", both, If_Match=first))[0] == 412
        assert (await api.ask("DELETE", "/v1/sources/pay", If_Match=first))[0] == 412
        assert (await api.ask("DELETE", "/v1/sources/pay", If_Match="pay"))[0] == 400
        for secret in ("whsec_one", "whsec_two"):
            request = stripe(b'{"id":"%s","type":"t"}' % secret.encode(), now_s(), secret)
            assert await api.post("/v1/sources/pay", request.headers, request.body) == 200
        changed = {"provider": "stripe", "description": "live", "event_type_prefix": "pay."}
        status, shown, _ = await api.ask("PUT", "/v1/sources/pay", changed, If_Match="*")
        assert (status, shown["description"], len(shown["secrets"])) == (200, "live", 2)
        request = stripe(b'{"id":"evt_9","type":"done"}', now_s(), "whsec_two")
        assert await api.post("/v1/sources/pay", request.headers, request.body) == 200
        assert events(settings)[-1].type in {"pay.done", "stripe.t", "stripe.invoice.paid"}
        assert "pay.done" in {each.type for each in events(settings)}

        for wrong, pointer in (
            ({"provider": "acme", "secrets": ["x"]}, "/provider"),
            ({"provider": "standard", "secrets": ["no key"]}, "/secrets"),
            ({"provider": "stripe", "secrets": ["sealed:k1:" + "A" * 60]}, "/secrets"),
            ({"provider": "stripe"}, "/secrets"),
            ({"provider": "stripe", "secrets": ["x"], "overrides": {"id": []}}, "/overrides"),
        ):
            status, problem, _ = await api.ask("PUT", "/v1/sources/new", wrong)
            assert (status, problem["errors"][0]["path"]) == (422, pointer), problem
        assert (await api.ask("PUT", "/v1/sources/new", {"provider": "hmac"}, key="operator"))[0] == 422
        assert (await api.ask("PUT", "/v1/sources/none", changed, If_Match="*"))[0] == 412

        made = (await api.ask("POST", "/v1/sources", {"provider": "github", "secrets": ["s"]}))[1]
        assert made["id"].startswith("src_")
        page = (await api.ask("GET", "/v1/sources?limit=1"))[1]
        rest = (await api.ask("GET", f"/v1/sources?limit=1&cursor={page['next']}"))[1]
        assert ([page["items"][0]["id"], rest["items"][0]["id"]], rest["next"]) == (["pay", made["id"]], None)
        assert len((await api.ask("GET", "/v1/sources?provider=github", key="operator"))[1]["items"]) == 1

        assert (await api.ask("DELETE", "/v1/sources/pay"))[0] == 204
        assert await api.post("/v1/sources/pay", request.headers, request.body) == 401
        assert (await api.ask("GET", "/v1/sources/pay"))[0] == 404
        assert (await api.ask("DELETE", "/v1/sources/pay"))[0] == 404

    trail = [decode_audit(each.value()) for each in site(settings).read(settings.topics.audit)]
    actions = [(each.action, each.resource_id) for each in trail]
    assert actions[:4] == [("created", "pay"), ("updated", "pay"), ("updated", "pay"), ("created", made["id"])]
    assert actions[4:] == [("deleted", "pay")]
    written = site(settings).read(settings.topics.sources, settings.topics.audit)
    assert not any(b"whsec_" in (each.value() or b"") for each in written)


async def test_a_tenant_sees_its_own_sources_only(settings: Settings) -> None:
    given = {"provider": "github", "secrets": ["hush"]}
    async with running(settings) as api:
        assert (await api.ask("PUT", "/v1/sources/mine", given))[0] == 201
        for method, body in (("GET", None), ("PUT", given), ("DELETE", None)):
            assert (await api.ask(method, "/v1/sources/mine", body, key="rival"))[0] == 404
        assert (await api.ask("PUT", "/v1/sources/x", given | {"tenant": "acme"}, key="rival"))[0] == 403
        assert (await api.ask("GET", "/v1/sources?tenant=acme", key="rival"))[0] == 403
        assert (await api.ask("GET", "/v1/sources", key="rival"))[1]["items"] == []
        assert (await api.ask("GET", "/v1/sources/mine", key="reader"))[0] == 200
        assert (await api.ask("PUT", "/v1/sources/mine", given, key="reader"))[0] == 403
        assert (await api.ask("PUT", "/v1/sources/mine", given | {"tenant": "rival"}))[0] == 403
        assert (await api.ask("PUT", "/v1/sources/mine", given, key="operator"))[0] == 200
        assert (await api.ask("GET", "/v1/sources/mine"))[1]["tenant"] == "acme"


def api_url(api: Started) -> str:
    return api.said("ready: ").split("ready: ")[1].split()[0]


async def test_a_provider_that_comes_again_after_a_crash_makes_one_event(
    tmp_path: Path, kafka: Cluster, prefix: str
) -> None:
    await apply_topics({"bootstrap.servers": kafka.bootstrap}, Topics(prefix, 2).specs(), -1)
    cli = Cli(tmp_path, {"bootstrap": kafka.bootstrap, "prefix": prefix})
    source = {"id": "gh", "provider": "github", "secrets": ["hush"], "tenant": "acme"}
    cli.run("sources", "put", "-", stdin=json.dumps(source))
    request = github()
    async with ClientSession() as session:
        for _ in range(2):
            with cli.started("api", "--port", "0") as process:
                api = Api(session, api_url(process))
                assert await api.post("/v1/sources/gh", request.headers, request.body) == 202
                process.process.kill()
                process.process.wait()
    found = events(Settings(bootstrap=kafka.bootstrap, prefix=prefix, partitions=2))
    assert [(each.type, each.tenant) for each in found] == [("github.issues.opened", "acme")]


@pytest.mark.timeout(600)
async def test_while_the_broker_is_down_providers_are_told_to_come_again(tmp_path: Path) -> None:
    with local_brokers(tmp_path, choose_doors(1)) as brokers:
        settings = Settings(bootstrap=brokers.bootstrap, partitions=1, ingest_wait_s=2.0)
        await apply_topics({"bootstrap.servers": brokers.bootstrap}, settings.topics.specs(), 1)
        async with running(settings) as api:
            given = {"provider": "github", "secrets": ["hush"]}
            assert (await api.ask("PUT", "/v1/sources/gh", given))[0] == 201
            request = github()
            await asyncio.to_thread(brokers.kill, 0)
            assert await api.post("/v1/sources/gh", request.headers, request.body) == 503
            assert await api.post("/v1/sources/gh", request.headers, b"{}") == 401  # it still knows whom to believe
            await asyncio.to_thread(brokers.start, 0)

            async def accepted() -> bool:
                return await api.post("/v1/sources/gh", request.headers, request.body) == 202

            await eventually_async(accepted, timeout_s=60)
            assert [each.type for each in events(settings)] == ["github.issues.opened"]


def test_the_command(tmp_path: Path, kafka: Cluster, prefix: str) -> None:
    cli = Cli(tmp_path, {"bootstrap": kafka.bootstrap, "prefix": prefix, "secret_keys": json.dumps({"k1": SEAL_KEY})})
    cli.run("topics", "apply")
    source = {"id": "gh", "provider": "github", "secrets": ["hush"], "tenant": "acme"}
    said = cli.run("sources", "put", "-", stdin=json.dumps(source)).stdout
    assert said == "created gh  github posts to /v1/sources/gh\n"
    assert "replaced gh" in cli.run("sources", "put", "-", stdin=json.dumps(source)).stdout
    asks = {"id": "fb", "provider": "meta", "secrets": ["hush"]}
    assert cli.lines("sources", "put", "-", "--json", stdin=json.dumps(asks)) == [
        {"id": "fb", "created": True, "path": "/v1/sources/fb/hook"}
    ]
    (shown,) = cli.lines("sources", "get", "gh")
    assert (shown["provider"], shown["secrets"]) == ("github", ["sealed:k1:…"])
    assert [each["id"] for each in cli.lines("sources", "list", "--json")] == ["gh", "fb"]
    assert cli.run("sources", "list", "--tenant", "acme").stdout == "acme  gh  github  active  /v1/sources/gh\n"
    assert "there are no sources of the tenant none" in cli.run("sources", "list", "--tenant", "none").stderr

    body = tmp_path / "body.json"
    request = github()
    body.write_bytes(request.body)
    headers = [part for name, value in request.headers for part in ("--header", f"{name}: {value}")]
    (verdict,) = cli.lines("sources", "test", "gh", "--body", str(body), *headers)
    assert verdict["events"][0]["type"] == "github.issues.opened"
    refused = cli.run("sources", "test", "gh", "--body", str(body), code=1)
    assert json.loads(refused.stdout)["refused"] == "no_signature"
    assert "is not 'name: value'" in cli.misused("sources", "test", "gh", "--body", str(body), "--header", "x")
    for name, said in (("ping", "challenge"), ("", "events")):
        event = [("x-github-event", name)] if name else []
        more = [part for each in event for part in ("--header", ": ".join(each))]
        without = [
            part
            for each in request.headers
            if not (name and each[0] == "x-github-event")
            for part in ("--header", ": ".join(each))
        ]
        assert said in cli.lines("sources", "test", "gh", "--body", str(body), *without, *more)[0]
    body.write_bytes(b"Hello, World!")
    sig = f"x-hub-signature-256: sha256={hmac.digest(b'hush', b'Hello, World!', 'sha256').hex()}"
    unreadable = cli.run(
        "sources",
        "test",
        "gh",
        "--body",
        str(body),
        "--header",
        sig,
        "--header",
        "content-type: application/json",
        code=1,
    )
    assert json.loads(unreadable.stdout)["refused"] == "unreadable"

    old = {"k1": SEAL_KEY, "k2": base64.b64encode(bytes(31) + b"2").decode()}
    clear = Cli(tmp_path, {name: text for name, text in cli.settings.items() if name != "secret_keys"})
    assert "there is no secret key to seal with" in clear.fails("sources", "reencrypt")
    new = Cli(tmp_path, cli.settings | {"secret_keys": json.dumps({"k2": old["k2"], "k1": SEAL_KEY})})
    assert new.run("sources", "reencrypt").stdout == "sealed the secrets of 2 of 2 sources\n"
    assert new.lines("sources", "reencrypt", "--json") == [{"sources": 2, "sealed": 0, "locked": []}]
    assert new.lines("sources", "get", "gh")[0]["secrets"] == ["sealed:k2:…"]
    lost = Cli(
        tmp_path, cli.settings | {"secret_keys": json.dumps({"k3": base64.b64encode(bytes(31) + b"3").decode()})}
    )
    failed = lost.run("sources", "reencrypt", code=1)
    assert failed.stdout == "sealed the secrets of 0 of 2 sources; 2 do not open\n"
    assert "sources/gh/secrets is sealed with the key 'k2'" in failed.stderr

    assert cli.run("sources", "delete", "gh").stdout == "deleted gh\n"
    assert cli.lines("sources", "delete", "fb", "--json") == [{"id": "fb", "deleted": True}]
    for command in ("get", "delete"):
        assert cli.fails("sources", command, "gh").startswith("there is no source 'gh'")
    assert "there are no sources" in cli.run("sources", "list").stderr
    wrong = cli.fails("sources", "put", "-", stdin=json.dumps(source | {"provider": "x y"}))
    assert wrong.startswith("the input is no source: provider")
    providers = cli.lines("sources", "providers", "--json")
    assert {"stripe", "github", "slack", "twilio", "sendgrid", "shopify", "standard", "hmac"} <= {
        each["name"] for each in providers
    }
    records = site(Settings(bootstrap=kafka.bootstrap, prefix=prefix)).read(f"{prefix}sources")
    assert decode_source(records[0].value()).id == "gh"
