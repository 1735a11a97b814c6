"""Access on a real Kafka: keys made by the command line and over HTTP, portal links, and the trail of every change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from connectors.admin import apply_topics
from connectors.api_keys import KeysTable
from connectors.feed import Writer
from connectors.local_kafka import Cluster
from connectors.newest import OFFSETS_MAX, NewestFirst
from schemas import codec
from schemas.api_key import KEPT_MS, encode_key, new_key
from schemas.topics import Topics
from streams.api_app import api_app
from streams.settings import Settings
from tests.cli import Cli
from tests.helpers import eventually_async
from tests.subscriptions_topic import CompactedTopic
from tests.transactions import readable

DAY_MS = 86_400_000


@pytest.fixture
async def settings(kafka: Cluster, prefix: str) -> Settings:
    await apply_topics({"bootstrap.servers": kafka.bootstrap}, Topics(prefix, 2).specs(), -1)
    return Settings(
        bootstrap=kafka.bootstrap,
        prefix=prefix,
        partitions=2,
        portal_secret="p" * 32,
        portal_url="https://portal.example/webhooks",
    )


@pytest.fixture
def cli(tmp_path: Path, settings: Settings) -> Cli:
    return Cli(tmp_path, {"bootstrap": settings.bootstrap or "", "prefix": settings.prefix, "partitions": "2"})


class Api:
    """A running API; every call names the token that it is made with."""

    def __init__(self, session: ClientSession, url: str) -> None:
        self.session, self.url = session, url

    async def ask(self, token: str, method: str, path: str, status: int, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {token}"}
        async with self.session.request(method, self.url + path, headers=headers, json=body) as response:
            content = await response.read()
            assert response.status == status, content
            return msgspec.json.decode(content)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Api]:
    async with api_app(settings) as app, TestServer(app) as server, ClientSession() as session:
        yield Api(session, str(server.make_url("")).rstrip("/"))


def made(cli: Cli, *options: str) -> tuple[str, str]:
    """(id, text) of a key from the command line."""
    (line,) = cli.lines("keys", "create", *options, "--json")
    return line["id"], line["key"]


async def test_keys_are_made_used_rotated_and_revoked(settings: Settings, cli: Cli) -> None:
    _, operator = made(cli, "--operator", "--name", "first")
    async with running(settings) as api:
        acme = await api.ask(
            operator, "POST", "/v1/keys", 201, {"tenant": "acme", "scopes": ["keys:read", "keys:write", "audit:read"]}
        )
        assert (acme["tenant"], acme["state"], acme["expires_ms"]) == ("acme", "active", 0)
        text = acme.pop("key")
        assert await api.ask(text, "GET", f"/v1/keys/{acme['id']}", 200) == acme
        assert (await api.ask(text, "GET", "/v1/keys", 200))["items"] == [acme]
        assert len((await api.ask(operator, "GET", "/v1/keys", 200))["items"]) == 2

        narrow = {"scopes": ["keys:read"], "name": "reader", "expires_in_s": 3600, "rate": 5}
        reader = await api.ask(text, "POST", "/v1/keys", 201, narrow)
        assert (reader["tenant"], reader["created_by"]) == ("acme", f"key:{acme['id']}")
        assert reader["expires_ms"] == reader["created_ms"] + 3_600_000
        await api.ask(reader["key"], "POST", "/v1/keys", 403, narrow)
        page = await api.ask(text, "GET", "/v1/keys?limit=1", 200)
        rest = await api.ask(text, "GET", f"/v1/keys?cursor={page['next']}", 200)
        assert sorted(each["id"] for each in page["items"] + rest["items"]) == sorted([acme["id"], reader["id"]])
        assert rest["next"] is None

        new = await api.ask(text, "POST", f"/v1/keys/{acme['id']}/rotate", 200, {"overlap_s": 600})
        assert new["previous_until_ms"] == new["rotated_ms"] + 600_000
        for each in (text, new["key"]):
            await api.ask(each, "GET", "/v1/keys", 200)
        again = await api.ask(new["key"], "POST", f"/v1/keys/{acme['id']}/rotate", 200, {"overlap_s": 0})
        for each in (text, new["key"]):
            await api.ask(each, "GET", "/v1/keys", 401)

        ended = await api.ask(again["key"], "POST", f"/v1/keys/{reader['id']}/revoke", 200)
        assert ended["state"] == "revoked"
        assert await api.ask(again["key"], "POST", f"/v1/keys/{reader['id']}/revoke", 200) == ended
        await api.ask(reader["key"], "GET", "/v1/keys", 401)
        problem = await api.ask(again["key"], "POST", f"/v1/keys/{reader['id']}/rotate", 422, {})
        assert "is revoked; make a new one" in problem["detail"]
        assert [each["id"] for each in (await api.ask(operator, "GET", "/v1/keys?state=revoked", 200))["items"]] == [
            reader["id"]
        ]

        assert cli.run("keys", "revoke", acme["id"]).stdout == f"revoked {acme['id']}\n"

        async def refused() -> bool:
            headers = {"Authorization": f"Bearer {again['key']}"}
            async with api.session.get(f"{api.url}/v1/keys", headers=headers) as response:
                return response.status == 401

        await eventually_async(cast(Any, refused))


async def test_nobody_gives_more_than_they_have(settings: Settings, cli: Cli) -> None:
    operator_id, operator = made(cli, "--operator")
    acme_id, acme = made(cli, "--tenant", "acme", "--scope", "keys:read", "--scope", "keys:write")
    strong_id, _ = made(cli, "--tenant", "acme", "--scope", "secrets:reveal")
    other_id, _ = made(cli, "--tenant", "other", "--scope", "keys:read")
    async with running(settings) as api:
        for body, status, said in [
            ({"scopes": ["secrets:reveal"]}, 422, "you do not have secrets:reveal"),
            ({"scopes": ["keys:read"], "tenant": "other"}, 403, "another tenant"),
            ({"scopes": ["keys:read"], "operator": True}, 422, "only an operator"),
            ({"scopes": []}, 422, "does not fit"),
            ({"scopes": ["everything"]}, 422, "does not fit"),
            ({"scopes": ["keys:read"], "name": "a\nb"}, 422, "name"),
        ]:
            assert said in (await api.ask(acme, "POST", "/v1/keys", status, body))["detail"], body
        # Rotating gives the text away.
        problem = await api.ask(acme, "POST", f"/v1/keys/{strong_id}/rotate", 422, {})
        assert "you do not have secrets:reveal" in problem["detail"]
        for path, method in [("", "GET"), ("/revoke", "POST"), ("/rotate", "POST")]:
            for foreign in (other_id, operator_id, "0" * 16):
                problem = await api.ask(
                    acme, method, f"/v1/keys/{foreign}{path}", 404, {} if path == "/rotate" else None
                )
                assert problem["detail"] == f"there is no key {foreign}"
        await api.ask(acme, "POST", f"/v1/keys/{strong_id}/revoke", 200)
        for body, said in [({}, "name whose it is"), ({"tenant": "acme", "operator": True}, "names no tenant")]:
            problem = await api.ask(operator, "POST", "/v1/keys", 422, {"scopes": ["keys:read"]} | body)
            assert said in problem["detail"]
        made_here = await api.ask(operator, "POST", "/v1/keys", 201, {"scopes": ["keys:read"], "operator": True})
        assert made_here["tenant"] is None
        assert len((await api.ask(acme, "GET", "/v1/keys", 200))["items"]) == 2
        assert (await api.ask(acme, "GET", f"/v1/keys/{acme_id}", 200))["id"] == acme_id


async def test_portal_links_end_with_their_key(settings: Settings, cli: Cli) -> None:
    _, operator = made(cli, "--operator")
    acme_id, acme = made(cli, "--tenant", "acme", "--scope", "keys:read", "--scope", "keys:write")
    async with running(settings) as api:
        link = await api.ask(acme, "POST", "/v1/portal-links", 201, {"scopes": ["keys:read"], "expires_in_s": 600})
        assert link["url"] == f"https://portal.example/webhooks#{link['token']}"
        assert (link["tenant"], link["scopes"]) == ("acme", ["keys:read"])
        listed = await api.ask(link["token"], "GET", "/v1/keys", 200)
        assert [each["id"] for each in listed["items"]] == [acme_id]
        await api.ask(link["token"], "POST", "/v1/portal-links", 403, {"scopes": ["keys:read"]})
        for body, said in [
            ({"scopes": ["keys:write"]}, "cannot carry keys:write"),
            ({"scopes": ["audit:read"]}, "you do not have audit:read"),
            ({"scopes": ["keys:read"], "expires_in_s": 86_401}, "does not fit"),
        ]:
            assert said in (await api.ask(acme, "POST", "/v1/portal-links", 422, body))["detail"], body
        problem = await api.ask(operator, "POST", "/v1/portal-links", 422, {"scopes": ["keys:read"]})
        assert "name whose it is" in problem["detail"]
        of_operator = await api.ask(
            operator, "POST", "/v1/portal-links", 201, {"scopes": ["keys:read"], "tenant": "acme"}
        )
        await api.ask(acme, "POST", f"/v1/keys/{acme_id}/revoke", 200)
        await api.ask(link["token"], "GET", "/v1/keys", 401)
        assert len((await api.ask(of_operator["token"], "GET", "/v1/keys", 200))["items"]) == 1
    async with running(settings.model_copy(update={"portal_secret": None})) as api:
        await api.ask(of_operator["token"], "GET", "/v1/keys", 401)
        problem = await api.ask(operator, "POST", "/v1/portal-links", 409, {"scopes": ["keys:read"], "tenant": "acme"})
        assert "DISTRIBUTARY_PORTAL_SECRET" in problem["detail"]


async def test_the_trail_tells_of_every_change_and_of_no_secret(settings: Settings, cli: Cli) -> None:
    _, operator = made(cli, "--operator")
    async with running(settings) as api:
        body = {"tenant": "acme", "scopes": ["audit:read", "keys:write"], "name": "one"}
        acme = await api.ask(operator, "POST", "/v1/keys", 201, body)
        other = await api.ask(operator, "POST", "/v1/keys", 201, {"tenant": "other", "scopes": ["audit:read"]})
        link = await api.ask(acme["key"], "POST", "/v1/portal-links", 201, {"scopes": ["audit:read"]})
        await api.ask(acme["key"], "POST", "/v1/keys", 422, {"scopes": ["keys:read"]})  # nothing was changed
        await api.ask(acme["key"], "POST", f"/v1/keys/{acme['id']}/revoke", 200)

        async def told() -> Any:
            return (await api.ask(operator, "GET", "/v1/audit", 200))["items"]

        async def all_told() -> bool:
            return len(await told()) >= 5

        await eventually_async(cast(Any, all_told))  # the trail shows a change a moment after it was answered
        everything = await told()
        assert [(each["action"], each["kind"], each["tenant"]) for each in everything] == [
            ("revoked", "key", "acme"),
            ("created", "portal-link", "acme"),
            ("created", "key", "other"),
            ("created", "key", "acme"),
            ("created", "key", None),
        ]
        revoked, linked, _, created, first = everything
        assert (revoked["actor"], created["actor"]) == (f"key:{acme['id']}", f"key:{first['resource_id']}")
        assert first["actor"].startswith("cli:")
        assert (first["request_id"], first["remote"], created["remote"]) == ("", "", "127.0.0.1")
        assert created["request_id"]
        assert (created["before"], created["after"]["hash"], created["after"]["name"]) == (None, "***", "one")
        assert (revoked["before"]["revoked_ms"], revoked["after"]["revoked_ms"]) == (0, revoked["at_ms"])
        assert linked["resource_id"] == link["id"]
        shown = msgspec.json.encode(everything).decode()
        for text in (operator, acme["key"], other["key"], link["token"]):
            assert text not in shown
            assert text[21:] not in shown

        theirs = (await api.ask(other["key"], "GET", "/v1/audit", 200))["items"]
        assert [each["resource_id"] for each in theirs] == [other["id"]]
        await api.ask(other["key"], "GET", "/v1/audit?tenant=acme", 403)
        for query, count in [
            ("kind=key", 4),
            ("action=created&tenant=acme", 2),
            (f"resource_id={acme['id']}", 2),
            (f"actor={first['actor']}", 1),
            (f"since_ms={revoked['at_ms']}", 1),
            (f"until_ms={revoked['at_ms']}", 4),
        ]:
            assert len((await api.ask(operator, "GET", f"/v1/audit?{query}", 200))["items"]) == count, query
        pages, cursor = [], ""
        while cursor is not None:
            page = await api.ask(operator, "GET", f"/v1/audit?limit=2&cursor={cursor}", 200)
            pages += page["items"]
            cursor = page["next"]
        assert pages == everything
        await api.ask(operator, "GET", "/v1/audit?cursor=nonsense", 400)

    assert cli.lines("audit-log", "--json") == everything
    assert [line["id"] for line in cli.lines("audit-log", "--json", "--tenant", "acme", "--limit", "1")] == [
        revoked["id"]
    ]
    printed = cli.run("audit-log", "--kind", "key", "--id", acme["id"]).stdout.splitlines()
    assert printed[0].endswith(f"  key:{acme['id']}  revoked key {acme['id']} of acme  revoked_ms")
    assert "nothing of that kind" in cli.run("audit-log", "--since", "2100-01-01T00:00:00Z").stderr


async def test_the_command_line_says_what_is_wrong(cli: Cli) -> None:
    key_id, text = made(cli, "--tenant", "acme", "--scope", "events:write", "--expires", "90d", "--name", "shop")
    assert text.startswith(f"dsk_{key_id}_")
    assert cli.run("keys", "list").stdout.startswith(f"acme  {key_id}  active until 2")
    assert cli.run("keys", "list", "--tenant", "acme").stdout.endswith("  events:write  shop\n")
    assert "there is no such key" in cli.run("keys", "list", "--operator").stderr
    (line,) = cli.lines("keys", "list", "--json")
    assert line["expires_ms"] == line["created_ms"] + 90 * DAY_MS
    assert text not in str(line)
    rotated = cli.run("keys", "rotate", key_id, "--overlap", "0m").stdout
    assert rotated.startswith(f"rotated {key_id}  the key, shown once: dsk_{key_id}_")
    assert cli.fails("keys", "revoke", "0" * 16) == f"there is no key {'0' * 16}"
    assert cli.run("keys", "revoke", key_id).stdout == f"revoked {key_id}\n"
    assert cli.fails("keys", "rotate", key_id) == f"the key {key_id} is revoked; make a new one"
    assert "'everything' is none of" in cli.fails("keys", "create", "--tenant", "acme", "--scope", "everything")
    assert "name either --operator or --tenant" in cli.misused("keys", "create")
    assert "name either" in cli.misused("keys", "create", "--operator", "--tenant", "acme")
    assert "at least one is needed" in cli.misused("keys", "create", "--tenant", "acme")
    assert "'soon' is not a time such as" in cli.misused("keys", "create", "--operator", "--expires", "soon")


async def test_what_commands_change_of_subscriptions_is_in_the_trail_too(cli: Cli) -> None:
    fields = '{"id": "shop", "tenant": "acme", "url": "https://shop.example/", "event_types": ["*"]}'
    (made_now,) = cli.lines("subscriptions", "put", "-", "--json", stdin=fields)
    cli.run("subscriptions", "put", "-", stdin=fields.replace("shop.example", "new.example"))
    (rotated,) = cli.lines("subscriptions", "rotate-secret", "shop", "--json")
    cli.run("subscriptions", "delete", "shop")
    readable(cli.settings["bootstrap"], f"{cli.settings['prefix']}audit")
    trail = cli.lines("audit-log", "--json", "--kind", "subscription", "--id", "shop")
    assert [each["action"] for each in trail] == ["deleted", "secret-rotated", "replaced", "created"]
    assert {(each["tenant"], each["actor"].partition(":")[0]) for each in trail} == {("acme", "cli")}
    urls = [(each["before"] and each["before"]["url"], each["after"] and each["after"]["url"]) for each in trail]
    old, new = "https://shop.example/", "https://new.example/"
    assert urls == [(new, None), (new, new), (old, new), (None, old)]
    assert not any(secret in str(trail) for secret in (made_now["secret"], rotated["secret"]))


async def test_keys_that_ended_long_ago_go_with_the_next_change(settings: Settings, cli: Cli) -> None:
    assert settings.bootstrap is not None
    topic = CompactedTopic(settings.bootstrap, settings.topics.api_keys, create=False)
    old, _ = new_key(
        bytes, tenant="acme", scopes=("events:write",), name="", created_ms=1, created_by="", expires_ms=KEPT_MS
    )
    topic.write(old.id, encode_key(codec.wire_header(1), old))
    assert [line["state"] for line in cli.lines("keys", "list", "--json")] == ["expired"]
    key_id, _ = made(cli, "--operator")
    assert [line["id"] for line in cli.lines("keys", "list", "--json")] == [key_id]
    table = KeysTable(topic.conf, topic.name)
    await table.start()
    await table.stop()
    assert (table.get(old.id), len(table)) == (None, 1)


async def test_a_long_topic_is_read_backwards_to_its_start(kafka: Cluster, prefix: str) -> None:
    topic = CompactedTopic(kafka.bootstrap, f"{prefix}log", cleanup="delete")
    newest = NewestFirst(topic.conf, topic.name)
    try:
        assert await newest.read(0, None) == ([], None)
        async with Writer(topic.conf) as writer:
            for number in range(OFFSETS_MAX + 7):
                await writer.write(topic.name, b"", str(number).encode())
        first, before = await newest.read(0, None)
        assert [record.value() for record in first] == [str(n).encode() for n in range(OFFSETS_MAX + 6, 6, -1)]
        topic.write("", b"later")  # does not move the pages behind
        second, end = await newest.read(0, before)
        assert ([record.value() for record in second], end) == ([str(n).encode() for n in range(6, -1, -1)], None)
        assert await newest.read(0, 0) == ([], None)
    finally:
        await newest.close()
