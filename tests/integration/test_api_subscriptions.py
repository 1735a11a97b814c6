"""Subscriptions over HTTP on a real Kafka: what is written is on the topic, no update is lost, secrets stay hidden."""

from __future__ import annotations

import asyncio
from typing import Any

import jsonschema
import msgspec
import pytest

from connectors.feed import Reader
from connectors.local_kafka import Cluster
from schemas.audit import decode_audit
from schemas.credentials import secret_key
from schemas.delivery import decode_delivery
from streams.settings import Settings
from tests.integration.test_api import Api, Caller, running, settings
from tests.transactions import readable

__all__ = ["settings"]  # the fixture

HOOK: dict[str, Any] = {"url": "https://a.example/hooks", "event_types": ["order.*"]}
SECRET = "whsec_" + "B" * 43 + "="
AUTH = {"type": "bearer", "token": "very-secret"}


async def create(caller: Caller, **given: Any) -> Any:
    status, document, headers = await caller.ask("POST", "/v1/subscriptions", json=HOOK | given)
    assert status == 201, document
    assert headers["Location"] == f"/v1/subscriptions/{document['id']}"
    assert headers["ETag"] == document["etag"]
    return document


async def records(settings: Settings, topic: str) -> list[Any]:
    config = {"bootstrap.servers": settings.bootstrap}
    assert settings.bootstrap is not None
    await asyncio.to_thread(readable, settings.bootstrap, topic)
    async with Reader(config, [topic], from_beginning=True) as reader:
        return [record async for batch in reader.batches(follow=False) for record in batch]


async def test_a_subscription_lives_and_ends(settings: Settings) -> None:
    async with running(settings) as api:
        acme, other = api("acme"), api("other")
        made = await create(acme)
        assert made["id"].startswith("sub_")
        assert made["tenant"] == "acme"
        assert len(secret_key(made.pop("secret"))) == 32
        path = f"/v1/subscriptions/{made['id']}"
        assert await acme.get(path) == made
        schemas = (await acme.get("/v1/openapi.json"))["components"]
        jsonschema.validate(made, {"$ref": "#/components/schemas/Subscription", "components": schemas})

        patch = {"description": "ours", "rate_limit": 5, "filter": {"data": {"a": [1]}}}
        status, changed, headers = await acme.ask("PATCH", path, json=patch, headers={"If-Match": made["etag"]})
        assert (status, changed["description"], changed["filter"]) == (200, "ours", {"data": {"a": [1]}})
        assert headers["ETag"] == changed["etag"] != made["etag"]
        for condition, expected in ((made["etag"], 412), (f"W/{changed['etag']}", 412), ("x", 400), (None, 428)):
            conditions = {} if condition is None else {"If-Match": condition}
            for method, body in (("PATCH", patch), ("PUT", HOOK)):
                assert (await acme.ask(method, path, json=body, headers=conditions))[0] == expected

        both = {"If-Match": f'"1", {changed["etag"]}'}
        status, replaced, _ = await acme.ask("PUT", path, json=changed | {"filter": ""}, headers=both)
        assert (status, replaced["filter"], replaced["rate_limit"]) == (200, "", 5), "what was shown may be sent back"

        for method, below in (("GET", ""), ("PATCH", ""), ("PUT", ""), ("DELETE", ""), ("POST", "/ping")):
            status, _, _ = await other.ask(method, path + below, json=HOOK, headers={"If-Match": "*"})
            assert status == 404, (method, below)

        assert (await acme.ask("DELETE", path, headers={"If-Match": made["etag"]}))[0] == 412
        assert (await acme.ask("DELETE", path))[0] == 204
        await acme.get(path, 404)
        assert (await acme.ask("DELETE", path))[0] == 404

    trail = [decode_audit(record.value()) for record in await records(settings, settings.topics.audit)]
    assert [each.action for each in trail] == ["created", "changed", "replaced", "deleted"]
    assert {each.actor for each in trail} == {"key:acme"}
    assert "whsec_B" not in msgspec.json.encode(trail).decode()


async def test_ids_of_ones_own(settings: Settings) -> None:
    async with running(settings) as api:
        operator = api("operator")
        mine = HOOK | {"tenant": "t1", "secrets": [SECRET]}
        never = {"If-None-Match": "*"}
        status, made, _ = await operator.ask("PUT", "/v1/subscriptions/mine", json=mine, headers=never)
        assert (status, made["tenant"]) == (201, "t1")
        assert "secret" not in made
        assert (await operator.ask("PUT", "/v1/subscriptions/mine", json=mine, headers=never))[0] == 412
        absent = await operator.ask("PUT", "/v1/subscriptions/none", json=mine, headers={"If-Match": "*"})
        assert absent[0] == 412
        status, problem, _ = await operator.ask(
            "PUT", "/v1/subscriptions/mine", json=mine | {"tenant": "t2"}, headers={"If-Match": "*"}
        )
        assert (status, problem["errors"][0]["path"]) == (422, "/tenant")
        status, problem, _ = await operator.ask("POST", "/v1/subscriptions", json=HOOK | {"id": "x"})
        assert (status, problem["errors"][0]["path"]) == (422, "/id")
        assert (await api("acme").ask("POST", "/v1/subscriptions", json=HOOK | {"tenant": "t1"}))[0] == 403


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"url": "ftp://x"}, "/url"),
        ({"event_types": []}, "/event_types"),
        ({"secrets": ["whsec_!"]}, "/secrets"),
        ({"secrets": ["sealed:k1:AAAA"]}, "/secrets"),
        ({"filter": {"data": 1}}, "/filter"),
        ({"rate_limit": "5"}, "/rate_limit"),
        ({"state": "asleep"}, "/state"),
        ({"unheard": 1}, ""),
        ({"headers": {"host": "x"}}, "/headers"),
    ],
)
async def test_what_may_not_stand_in_one_is_said(settings: Settings, given: dict[str, Any], path: str) -> None:
    async with running(settings) as api:
        status, problem, _ = await api("acme").ask("POST", "/v1/subscriptions", json=HOOK | given)
        assert (status, problem["errors"][0]["path"]) == (422, path), problem
        assert await api("acme").get("/v1/subscriptions") == {"items": [], "next": None}


REFUSED = {
    "https://127.0.0.1/": "a loopback address",
    "https://[::ffff:169.254.169.254]/": "a link-local address",
    "https://metadata.google.internal/": "the name of a cloud metadata service",
    "https://a.example:22/": "is not for webhooks",
    "http://1.1.1.1/": "without encryption",
    "https://2130706433/": "looks like a number",
}


async def test_a_url_that_deliveries_may_not_go_to_is_refused(settings: Settings) -> None:
    async with running(settings) as api:
        acme = api("acme")
        made = await create(acme, secrets=[SECRET])
        path, now = f"/v1/subscriptions/{made['id']}", {"If-Match": "*"}
        for url, said in REFUSED.items():
            for method, where in (("POST", "/v1/subscriptions"), ("PUT", "/v1/subscriptions/a"), ("PUT", path)):
                headers = now if where == path else {}
                status, problem, _ = await acme.ask(method, where, json=HOOK | {"url": url}, headers=headers)
                assert (status, problem["errors"][0]["path"], said in problem["detail"]) == (422, "/url", True), problem
            assert (await acme.ask("PATCH", path, json={"url": url}, headers=now))[0] == 422
        assert (await acme.get("/v1/subscriptions"))["items"] == [made]


async def test_the_api_itself_is_no_endpoint_whatever_is_opened(settings: Settings) -> None:
    opened = settings.model_copy(update={"allow_private_networks": True})
    async with running(opened, listening=[("0.0.0.0", 8080)]) as api:
        acme = api("acme")
        await create(acme, url="http://127.0.0.1:8081/")
        body = HOOK | {"url": "http://127.0.0.1:8080/v1/sources/x"}
        status, problem, _ = await acme.ask("POST", "/v1/subscriptions", json=body)
        assert (status, "where this system itself listens" in problem["detail"]) == (422, True), problem


async def test_a_url_that_was_taken_stays_when_the_guard_changes(settings: Settings) -> None:
    """What does not touch the URL may still be changed: to pause it, for instance."""
    opened = settings.model_copy(update={"allow_private_networks": True})
    async with running(opened) as api:
        made = await create(api("acme"), url="https://10.0.0.1/")
    async with running(settings) as api:
        status, paused, _ = await api("acme").ask("POST", f"/v1/subscriptions/{made['id']}/pause")
        assert (status, paused["state"]) == (200, "paused")


async def test_who_does_not_say_how_is_verified_as_the_setting_has_it(settings: Settings) -> None:
    asking = settings.model_copy(update={"api_verification": "cloudevents"})
    async with running(asking) as api:
        acme = api("acme")
        made = await create(acme)
        assert (made["verification"], made["state"]) == ("cloudevents", "pending")
        assert (await create(acme, verification="none"))["state"] == "active"
        path, now = f"/v1/subscriptions/{made['id']}", {"If-Match": "*"}
        for method, body in (("PATCH", {"verification": None}), ("PUT", HOOK)):
            status, _, _ = await acme.ask("PATCH", path, json={"verification": "none"}, headers=now)
            assert status == 200
            status, changed, _ = await acme.ask(method, path, json=body, headers=now)
            assert (status, changed["verification"]) == (200, "cloudevents"), "the default of a field that is not said"


async def test_secrets_are_shown_once_kept_when_sent_back_and_revealed_on_request(settings: Settings) -> None:
    async with running(settings) as api:
        acme = api("acme")
        made = await create(acme, headers={"x-key": "k1", "x-b": "b"}, auth=AUTH, secrets=[SECRET])
        path = f"/v1/subscriptions/{made['id']}"
        shown = msgspec.json.encode(made).decode()
        assert not any(secret in shown for secret in (SECRET, "k1", "very-secret"))
        back = {"headers": made["headers"] | {"x-b": "c"}, "auth": made["auth"]}
        status, _, _ = await acme.ask("PATCH", path, json=back, headers={"If-Match": "*"})
        assert status == 200
        (record, changed) = await records(settings, settings.topics.subscriptions)
        assert b"k1" in changed.value()
        assert b"very-secret" in changed.value()
        assert b"x-b\x02c" in changed.value()
        assert SECRET.encode() in record.value()

        revealed = await acme.ask("POST", f"{path}/reveal-secret")
        assert revealed[1] == {"secrets": [{"secret": SECRET, "expires_ms": 0}]}
        status, rotated, _ = await acme.ask("POST", f"{path}/rotate-secret", json={"overlap_ms": 600_000})
        assert status == 200
        first, second = (await acme.ask("POST", f"{path}/reveal-secret"))[1]["secrets"]
        assert (first["secret"], first["expires_ms"]) == (rotated["secret"], 0)
        assert (second["secret"], second["expires_ms"]) == (SECRET, rotated["previous_expire_ms"])
        status, problem, _ = await acme.ask("POST", f"{path}/rotate-secret", json={"secret": rotated["secret"]})
        assert status == 422, problem


async def test_states_pings_and_their_refusals(settings: Settings) -> None:
    async with running(settings) as api:
        acme = api("acme")
        made = await create(acme)
        path = f"/v1/subscriptions/{made['id']}"

        async def did(action: str) -> Any:
            status, document, _ = await acme.ask("POST", f"{path}/{action}")
            return document["state"] if status == 200 else status

        assert [await did(each) for each in ("pause", "resume", "disable")] == ["paused", "active", "disabled"]
        assert await did("ping") == 409
        assert await did("enable") == "active"
        status, pinged, _ = await acme.ask("POST", f"{path}/ping")
        assert status == 202
        (delivery,) = await records(settings, settings.topics.deliveries)
        found = decode_delivery(delivery.value())
        assert (found.id, found.subscription_id) == (pinged["delivery_id"], made["id"])
        assert b'"type":"webhook.ping"' in found.body
        assert await did("verify") == 409
        status, pending, _ = await acme.ask(
            "PATCH", path, json={"verification": "challenge"}, headers={"If-Match": "*"}
        )
        assert pending["state"] == "pending"
        assert await did("ping") == 409


async def test_two_processes_agree(kafka: Cluster, settings: Settings) -> None:
    async def count(api: Api, path: str) -> None:
        shown = await api("acme").get(path)
        step = {"description": str(int(shown["description"] or 0) + 1)}
        status, problem, _ = await api("acme").ask("PATCH", path, json=step, headers={"If-Match": shown["etag"]})
        if status == 412:  # the other one's change was not here yet when it was read
            await count(api, path)
        else:
            assert status == 200, problem

    async with running(settings) as one, running(settings) as other:
        made = await create(one("acme"))
        path = f"/v1/subscriptions/{made['id']}"
        assert (await other("acme").ask("PATCH", path, json={}, headers={"If-Match": made["etag"]}))[0] == 200
        for _ in range(3):
            await count(one, path)
            await count(other, path)
        assert (await other("acme").get(path))["description"] == "6"
