"""Replays ordered by command and over HTTP, and done by a real worker: what is counted is what is sent, and steered."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from connectors.admin import apply_topics
from connectors.local_kafka import Cluster
from connectors.receiver import Endpoint, Post, Receiver
from schemas import codec
from schemas.ids import delivery_id
from schemas.replay import Replay, Selection, encode_replay
from schemas.subscription import Subscription, subscription_to_json
from schemas.topics import Topics
from streams.api_app import api_app
from streams.new_secrets import new_secret
from streams.settings import Settings
from tests.cli import Cli, Started, command
from tests.helpers import eventually_async
from tests.integration.test_api import KEYS, Caller
from tests.subscriptions_topic import CompactedTopic

EVENTS = 6
SLOW = "0.02"  # one delivery in 50 s: it does not come to its end while it is looked at


class Town:
    """The command line, a receiver and what it got, and the API."""

    def __init__(self, cli: Cli, receiver: Receiver, posts: list[Post], caller: Any) -> None:
        self.cli, self.receiver, self.posts, self.api = cli, receiver, posts, caller

    async def run(self, *arguments: str) -> str:
        return (await asyncio.to_thread(self.cli.run, *arguments)).stdout

    async def lines(self, *arguments: str) -> list[Any]:
        return await asyncio.to_thread(self.cli.lines, *arguments)

    async def fails(self, *arguments: str) -> str:
        return await asyncio.to_thread(self.cli.fails, *arguments)

    async def answers(self, answer: str, *arguments: str, code: int = 0) -> tuple[str, str]:
        """A command on a terminal, where somebody answers its question: stdout and stderr."""
        ours, theirs = os.openpty()
        try:
            os.write(ours, f"{answer}\n".encode())
            done = await asyncio.to_thread(
                lambda: subprocess.run(
                    command(*arguments),
                    stdin=theirs,
                    capture_output=True,
                    text=True,
                    timeout=120,
                    check=False,
                    cwd=self.cli.directory,
                    env=self.cli.env(),
                )
            )
        finally:
            os.close(ours)
            os.close(theirs)
        assert done.returncode == code, done
        return done.stdout, done.stderr

    async def arrived(self, hook: str, counts: dict[str, int]) -> None:
        """So many POSTs of each delivery, and no other."""

        def there() -> bool:
            found: dict[str, int] = {}
            for post in self.posts:
                if post.path == f"/{hook}":
                    found[post.webhook_id] = found.get(post.webhook_id, 0) + 1
            return found == counts

        await eventually_async(there, timeout_s=60, message=f"{counts} at {hook}")

    async def until(self, key: str, replay_id: str, state: str) -> dict[str, Any]:
        async def reached() -> Any:
            found = await self.api(key).get(f"/v1/replays/{replay_id}")
            return found if found["state"] == state else None

        found: dict[str, Any] = await eventually_async(reached, timeout_s=60, message=f"{replay_id} is {state}")
        return found


@asynccontextmanager
async def opened(kafka: Cluster, prefix: str, directory: Path) -> AsyncIterator[Town]:
    await apply_topics({"bootstrap.servers": kafka.bootstrap}, Topics(prefix, 2).specs(), -1)
    cli = Cli(directory, {"bootstrap": kafka.bootstrap, "prefix": prefix, "partitions": "2"})
    settings = Settings(
        bootstrap=kafka.bootstrap,
        prefix=prefix,
        partitions=2,
        api_rate=0,
        api_verification="none",
        allow_private_networks=True,
    )
    posts: list[Post] = []
    async with (
        Receiver([Endpoint("/a"), Endpoint("/b")], on_post=posts.append) as receiver,
        api_app(settings, KEYS) as app,
        TestServer(app) as server,
        ClientSession() as session,
    ):
        url = str(server.make_url("")).rstrip("/")
        yield Town(cli, receiver, posts, lambda key: Caller(session, url, key))


def ready(worker: Started) -> None:
    worker.said("ready: ")


@pytest.mark.timeout(600)
async def test_what_is_planned_is_sent_again_paused_and_cancelled(kafka: Cluster, prefix: str, tmp_path: Path) -> None:
    async with opened(kafka, prefix, tmp_path) as town:
        # It is there for long, by its times: what is new is waited for, until all workers know it.
        old = Subscription(
            id="a", tenant="acme", url=town.receiver.url("/a"), event_types=("order.*",), secrets=(new_secret(),)
        )
        topic = CompactedTopic(kafka.bootstrap, Topics(prefix).subscriptions, create=False)
        topic.write(old.id, subscription_to_json(old))
        with town.cli.started("worker", "--allow-private-networks") as worker:
            await asyncio.to_thread(ready, worker)
            await planned_and_started(town)
            await asked_on_a_terminal(town)
            await steered_over_http(town)
            await starts_in_the_past(town)
            await followed_until_interrupted(town)


async def planned_and_started(town: Town) -> None:
    """The dry run counts exactly what is sent then, under the ids of the first time, with the marker."""
    send = ("send", "--type", "order.created", "--tenant", "acme", "--id", "e", "--count", str(EVENTS), "--json")
    ids = {delivery_id(each["id"], "a") for each in await town.lines(*send)}
    await town.arrived("a", dict.fromkeys(ids, 1))
    assert not any("webhook-replay" in {name.lower() for name in post.headers} for post in town.posts)

    plan = ("replay", "plan", "--subscription", "a", "--why", "it was down")
    (counted,) = await town.lines(*plan, "--json")
    assert (counted["state"], counted["counted"], counted["sent"], counted["why"]) == (
        *("planned", EVENTS, 0),
        "it was down",
    )
    assert counted["counted_bytes"] > 0
    said = await town.run("replay", "start", counted["id"], "--follow")
    assert said == f"{counted['id']}  done, {EVENTS} sent\n"
    await town.arrived("a", dict.fromkeys(ids, 2))
    markers = [{name.lower(): value for name, value in post.headers.items()} for post in town.posts[EVENTS:]]
    assert {each.get("webhook-replay") for each in markers} == {counted["id"]}

    again = ("replay", "start", "--subscription", "a", "--yes")
    assert f"the replay {counted['id']} sends some of the same" in await town.fails(*again)
    assert "is done; order another one" in await town.fails("replay", "pause", counted["id"])
    shown = await town.run("replay", "show", counted["id"])
    assert "it was down" in shown
    assert f"{EVENTS} deliveries" in shown


async def asked_on_a_terminal(town: Town) -> None:
    """It is counted first, and sent when somebody says so."""
    start = ("replay", "start", "--subscription", "a", "--event", "e-1", "--follow")
    said, errors = await town.answers("n", *start, code=1)
    assert said.startswith("1 delivery, ")
    assert "Send them?" in errors
    assert errors.endswith("error: nothing was sent\n")
    (newest, *_) = await town.lines("replay", "list", "--json")
    assert (newest["state"], newest["sent"]) == ("cancelled", 0)
    said, _ = await town.answers("y", *start)
    assert said.endswith("done, 1 sent\n")


async def steered_over_http(town: Town) -> None:
    """Whoever orders one sees it; it is paused, goes on at another rate, and is cancelled."""
    acme, other, operator = town.api("acme"), town.api("other"), town.api("operator")
    order = {"subscriptions": ["a"], "rate_max": float(SLOW)}
    status, made, headers = await acme.ask("POST", "/v1/replays", json=order)
    assert (status, made["tenant"]) == (201, "acme"), made
    assert made["state"] in ("waiting", "counting", "running")  # a worker may be faster than the answer
    path = headers["Location"]
    assert path == f"/v1/replays/{made['id']}"
    assert (await other.get(path, 404))["detail"] == f"there is no replay {made['id']}"
    status, problem, _ = await other.ask("PATCH", path, json={"wanted": "cancelled"})
    assert status == 404, problem
    status, problem, _ = await acme.ask("POST", "/v1/replays", json=order)
    assert (status, problem["detail"].split(" sends")[0]) == (409, f"the replay {made['id']}")

    running = await town.until("acme", made["id"], "running")
    assert running["counted"] == EVENTS
    status, _, _ = await acme.ask("PATCH", path, json={"wanted": "paused"})
    assert status == 200
    paused = await town.until("acme", made["id"], "paused")
    assert paused["sent"] < EVENTS
    status, going, _ = await operator.ask("PATCH", path, json={"wanted": "running", "rate_max": 0})
    assert (status, going.get("rate_max")) == (200, 0), going
    done = await town.until("acme", made["id"], "done")
    assert (done["sent"], done["percent"]) == (EVENTS, 100)
    status, problem, _ = await acme.ask("PATCH", path, json={"wanted": "running"})
    assert (status, problem["detail"]) == (409, f"the replay {made['id']} is done; order another one")

    status, slow, _ = await acme.ask("POST", "/v1/replays", json=order | {"again": True})
    assert status == 201, slow
    await town.until("acme", slow["id"], "running")
    await acme.ask("PATCH", f"/v1/replays/{slow['id']}", json={"wanted": "cancelled"})
    await town.until("acme", slow["id"], "cancelled")

    for fields, where in (
        ({"subscriptions": ["nobody"]}, "/subscriptions/0"),
        ({"reasons": ["exhausted"]}, ""),
        ({"source": "dead", "error_classes": ["9xx"]}, "/error_classes"),
        ({"event_types": ["order.*.x"]}, "/event_types"),
    ):
        status, problem, _ = await acme.ask("POST", "/v1/replays", json=fields)
        assert (status, problem["errors"][0]["path"]) == (422, where), problem
    first = await acme.get("/v1/replays?limit=1")
    assert [each["id"] for each in first["items"]] == [slow["id"]]
    rest = await acme.get(f"/v1/replays?cursor={first['next']}")
    assert ([each["id"] for each in rest["items"]], rest["next"]) == ([made["id"]], None)
    assert (await other.get("/v1/replays"))["items"] == []
    assert [each["id"] for each in (await operator.get("/v1/replays?state=cancelled&tenant=acme"))["items"]] == [
        slow["id"]
    ]
    trail = await operator.get(f"/v1/audit?kind=replay&resource_id={made['id']}")
    assert [each["action"] for each in trail["items"]] == ["resumed", "paused", "created"]


async def starts_in_the_past(town: Town) -> None:
    """A new subscription gets what came before it, and what comes while and after: nothing is left out."""
    acme = town.api("acme")
    hook = {"url": town.receiver.url("/b"), "event_types": ["order.*"]}
    wrong: tuple[tuple[Any, str], ...] = (
        ("yesterday", "neither earliest, nor a time"),
        ("2999-01-01T00:00:00Z", "not in the past"),
        ({"offsets": {"2": 0}}, "has no partition 2, but 0 to 1"),
        ({"offsets": {"0": 1_000_000}}, "leave it out to start there now"),
    )
    for start_at, said in wrong:
        status, problem, _ = await acme.ask("POST", "/v1/subscriptions", json=hook | {"start_at": start_at})
        assert (status, problem["errors"][0]["path"]) == (422, "/start_at")
        assert said in problem["detail"]
    for start_at in ({"offsets": {}}, {"offsets": {"x": 1}}, {"offsets": {"0": -1}}, {}):
        status, problem, _ = await acme.ask("POST", "/v1/subscriptions", json=hook | {"start_at": start_at})
        assert status == 422, problem
    status, made, _ = await acme.ask("POST", "/v1/subscriptions", json=hook | {"start_at": "earliest"})
    assert status == 201, made
    live = ("send", "--type", "order.created", "--tenant", "acme", "--id", "live", "--count", str(EVENTS), "--json")
    events = [f"e-{n}" for n in range(1, EVENTS + 1)] + [each["id"] for each in await town.lines(*live)]
    done = await town.until("acme", made["replay"], "done")
    assert (done["selection"]["subscriptions"], done["why"]) == (
        [made["id"]],
        f"the start of the subscription {made['id']}",
    )
    wanted = {delivery_id(event, made["id"]) for event in events}

    def got() -> set[str]:
        return {post.webhook_id for post in town.posts if post.path == "/b"}

    await eventually_async(lambda: got() == wanted, timeout_s=60, message="past and present")
    sent = 0
    halves = []
    for partition in ("0", "1"):  # all of this one, and nothing of the other
        status, made, _ = await acme.ask(
            "POST", "/v1/subscriptions", json=hook | {"start_at": {"offsets": {partition: 0}}}
        )
        assert status == 201, made
        halves.append(made["replay"])
    for number, replay in enumerate(halves):
        done = await town.until("acme", replay, "done")
        assert done["starts"] == [{"partition": number, "offset": 0}]
        sent += done["sent"]
    assert sent == len(events)


async def followed_until_interrupted(town: Town) -> None:
    """Ctrl-C ends the watching, not the replay."""
    slow = ("replay", "start", "--subscription", "a", "--event", "e-1", "--event", "e-2", "--rate", SLOW, "--yes")
    with town.cli.started(*slow, "--follow") as following:
        await asyncio.to_thread(lambda: following.said("running", on=following.err))
        following.process.send_signal(signal.SIGINT)
        await asyncio.to_thread(lambda: following.ends(130))
        assert "goes on; `distributary replay show" in following.err.read_text()
    (newest, *_) = await town.lines("replay", "list", "--json")
    assert newest["state"] == "running"
    (cancelled,) = await town.lines("replay", "cancel", newest["id"], "--json")
    assert cancelled["state"] == "cancelled"
    assert f"{newest['id']}  cancelled" in await town.run("replay", "show", newest["id"])
    followed = await town.fails("replay", "show", newest["id"], "--follow")
    assert f"the replay {newest['id']} is cancelled" in followed


async def test_without_a_worker_it_is_said_that_nobody_answers(kafka: Cluster, prefix: str, tmp_path: Path) -> None:
    topics = Topics(prefix, 2)
    await apply_topics({"bootstrap.servers": kafka.bootstrap}, topics.specs(), -1)
    order = Replay(id="rpl_1", created_ms=1, by="me", selection=Selection(source="events"), wanted="running")
    CompactedTopic(kafka.bootstrap, topics.replays, create=False).write(
        order.id, encode_replay(codec.wire_header(1), order)
    )
    cli = Cli(tmp_path, {"bootstrap": kafka.bootstrap, "prefix": prefix})
    paused = cli.run("replay", "pause", "rpl_1")
    assert "no worker with the role replay answers; start one with `distributary worker --role replay`" in paused.stderr
    assert "rpl_1  waiting (pausing), no worker with the role replay has looked at it yet" in paused.stdout
    assert cli.run("replay", "cancel", "rpl_1").stdout == "rpl_1  cancelled\n"
    assert cli.fails("replay", "resume", "rpl_1") == "the replay rpl_1 is cancelled; order another one"
    assert "no terminal to ask on; add --yes" in cli.fails("replay", "start")
    assert "there is no subscription 'a'" in cli.fails("replay", "start", "--yes", "--subscription", "a")
    assert "leave the other options out" in cli.misused("replay", "start", "rpl_1", "--tenant", "acme")
    create = ("subscriptions", "create", "https://a.example/", "--event-type", "*", "--id", "a", "--start-at")
    assert "it is not in the past" in cli.misused(*create, "2999-01-01T00:00:00Z")
    assert "'0:5' is not as offsets:0=120,1=98" in cli.misused(*create, "offsets:0:5")
    assert "a partition is named twice" in cli.misused(*create, "offsets:0=1,0=2")
    assert "has no partition 7, but 0 to 1" in cli.fails(*create, "offsets:0=0,7=1")
    assert "ends at 0, before 3; leave it out to start there now" in cli.fails(*create, "offsets:1=3")
    (made,) = cli.lines(*create, "2026-01-01T00:00:00Z", "--json")
    (listed, _) = cli.lines("replay", "list", "--json")
    assert (listed["id"], listed["selection"]["subscriptions"]) == (made["replay"], ["a"])
    assert "there is a subscription a already" in cli.fails(*create, "earliest")
    cli.run(*create[:-2], "b", "--start-at", "offsets:1=0,0=0")
    said = cli.run("replay", "list").stdout
    assert "events, matched again for b from 1=0, 0=0 on" in said
