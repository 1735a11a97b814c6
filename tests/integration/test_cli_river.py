"""Sending, watching, working and replaying by the command line, with a real worker in a process of its own."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from connectors.admin import apply_topics
from connectors.feed import wait_for_open_transactions
from connectors.local_kafka import Cluster
from connectors.receiver import Endpoint, Receiver
from schemas import codec
from schemas.delivery import FRESH, encode_fresh, encode_tail
from schemas.event import Event
from schemas.ids import delivery_id
from schemas.topics import Topics
from streams.new_secrets import new_secret
from tests.cli import Cli, Started
from tests.helpers import eventually_async

SEND = ("send", "--type", "order.created")


@pytest.fixture
async def cli(tmp_path: Path, kafka: Cluster, prefix: str) -> Cli:
    await apply_topics({"bootstrap.servers": kafka.bootstrap}, Topics(prefix, 2).specs(), -1)
    return Cli(tmp_path, {"bootstrap": kafka.bootstrap, "prefix": prefix})


def tail(cli: Cli, topic: str, *options: str) -> list[Any]:
    return cli.lines("tail", topic, "--from-beginning", "--no-follow", "--json", *options)


def test_events_are_sent_with_their_fields_and_seen(cli: Cli) -> None:
    (cli.directory / "data.json").write_text('{"total": 12.5}')
    sent = cli.run(
        *SEND, "--subject", "o-17", "--tenant", "acme", "--id", "e1", "--source", "/s", "--data", "@data.json"
    ).stdout
    assert sent == "e1\n"
    many = cli.lines(*SEND, "--count", "3", "--rate", "1000", "--json", "--data", "-", stdin="[1, 2]")
    ids = [each["id"] for each in many]
    assert ids == [f"{ids[0].removesuffix('-1')}-{n}" for n in (1, 2, 3)]

    seen = {each["value"]["id"]: each for each in tail(cli, "events")}
    assert seen.keys() == {"e1", *ids}
    first = seen["e1"]
    assert first["key"] == "o-17"
    assert {name: first["value"][name] for name in ("type", "tenant", "subject", "source", "data")} == {
        "type": "order.created",
        "tenant": "acme",
        "subject": "o-17",
        "source": "/s",
        "data": {"total": 12.5},
    }
    assert seen[ids[0]]["key"] == ids[0]
    assert seen[ids[0]]["value"]["data"] == [1, 2]
    assert len(tail(cli, "events", "--limit", "2")) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--type", "a", "--data", "{"], "--data is not JSON"),
        (["--type", "a b"], "the event would not be accepted: the event's type 'a b'"),
        (["--type", "a", "--tenant", ""], "the event would not be accepted: the event's tenant"),
        (["--type", "a", "--data", "@none.json"], "the system refuses 'none.json': No such file"),
    ],
)
def test_events_that_would_not_be_accepted_are_not_sent(cli: Cli, options: list[str], said: str) -> None:
    assert cli.fails("send", *options).startswith(said)


def test_an_event_too_large_is_warned_of_and_one_too_large_for_the_topic_refused(cli: Cli) -> None:
    large = cli.run(*SEND, "--data", "-", stdin=json.dumps("x" * (2 << 20)))
    assert "are put into quarantine" in large.stderr
    incompressible = base64.b64encode(os.urandom(7 << 20)).decode()
    assert "is more than the topic" in cli.fails(*SEND, "--data", "-", stdin=json.dumps(incompressible))


def test_what_cannot_be_decoded_is_shown_without_its_control_characters(cli: Cli, kafka: Cluster) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(f"{cli.settings['prefix']}events", b"\x1b[2Jnot framed", b"k\x1b[2J")
    producer.flush()
    (seen,) = tail(cli, "events")
    assert seen["error"].startswith("the first byte is 0x1b")
    assert seen["size_bytes"] == len(b"\x1b[2Jnot framed")
    text = cli.run("tail", "events", "--from-beginning", "--limit", "1").stdout
    assert "cannot be decoded" in text
    assert "\x1b" not in text


def test_what_is_parked_is_seen_with_what_finishes_it(cli: Cli, kafka: Cluster) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    topic = f"{cli.settings['prefix']}deliveries.parked"
    tail_bytes = encode_tail(
        Event(id="e1", type="order.created", tenant="t", time_ms=1, data=b"1"), 2, "text/plain", b"1"
    )
    header = codec.wire_header(codec.content_id(codec.own_schema("delivery.v1")))
    value = encode_fresh(header, "dlv_1", codec.put_string("acme") + FRESH, tail_bytes)
    producer.produce(topic, value, b"acme", partition=1)
    producer.produce(topic, None, b"acme", partition=1, headers=[("distributary-finished", b"0")])
    producer.produce(topic, None, None, partition=1)
    producer.flush()
    parked, finished, mark = tail(cli, "parked")
    assert (parked["key"], parked["value"]["id"], parked["value"]["event_id"]) == ("acme", "dlv_1", "e1")
    assert (finished["key"], finished["finished"]) == ("acme", 0)
    assert mark["finished"] is None
    assert len(tail(cli, "parked", "--subscription", "acme")) == 2
    shown = cli.run("tail", "parked", "--from-beginning", "--no-follow").stdout.splitlines()
    assert [line.split("  ", 1)[1] for line in shown] == [
        "dlv_1 → acme  order.created  e1",
        f"finished  {topic}[1]@0 → acme",
        f"a worker's mark  {topic}[1]@2",
    ]


def test_tail_follows_from_now_on_and_ends_with_ctrl_c(cli: Cli) -> None:
    cli.run(*SEND, "--id", "before")
    with cli.started("tail", "events") as tailing:
        tailing.said("waiting for new records", on=tailing.err)
        cli.run(*SEND, "--id", "after")
        assert "before" not in tailing.said("after")
        tailing.process.send_signal(signal.SIGINT)
        tailing.ends(0)


def test_wrong_usage_is_told_with_the_option(cli: Cli) -> None:
    assert "attempts, dead, operations are by subscription" in cli.misused("tail", "events", "--subscription", "a")
    replay = ("replay", "offsets", "--group", "delivery")
    assert "give one of --to-time, --to-offset and --to-earliest" in cli.misused(*replay)
    assert "has no time zone" in cli.misused(*replay, "--to-time", "2026-08-01T12:00:00")
    assert "is not a time such as" in cli.misused(*replay, "--to-time", "yesterday")
    assert "add --partition" in cli.misused(*replay, "--to-offset", "3")
    assert "add --topic" in cli.misused("replay", "offsets", "--group", "other", "--to-earliest")


def worker_ready(worker: Started) -> None:
    assert worker.said("ready") == "ready: fan-out, delivery, replay\n"


async def test_the_river_runs_stops_and_is_replayed(cli: Cli) -> None:
    secret = new_secret()
    hooks = [Endpoint("/a", secrets=(secret,)), Endpoint("/b", "dead", secrets=(secret,))]
    async with Receiver(hooks) as receiver:
        subscriptions = [
            {
                "id": name,
                "url": receiver.url(f"/{name}"),
                "event_types": ["order.*"],
                "secrets": [secret],
                "retry_schedule_ms": [],
            }
            for name in ("a", "b")
        ]
        await _run(cli, "subscriptions", "put", "-", stdin="\n".join(map(json.dumps, subscriptions)))
        work = ("worker", "--allow-private-networks")
        with cli.started(*work) as worker:
            await _thread(worker_ready, worker)
            await _run(cli, *SEND, "--id", "e", "--count", "5")
            expected = {delivery_id(f"e-{n}", "a") for n in range(1, 6)}
            await eventually_async(
                lambda: receiver.arrivals()["/a"].keys() == expected and len(receiver.arrivals()["/b"]) == 5,
                message="webhooks",
            )
            assert all(stats.invalid == 0 for stats in receiver.stats().values())
            running = await _thread(
                lambda: cli.fails("replay", "offsets", "--group", "delivery", "--to-earliest", "--yes")
            )
            assert re.match(r"the group \S+ is running \(.+\); stop its workers first", running)
            worker.process.send_signal(signal.SIGTERM)
            await _thread(lambda: worker.ends(0))

        for topic in ("attempts", "dead"):  # a transaction is over for its writer before it is for readers
            settings = {"bootstrap.servers": cli.settings["bootstrap"]}
            await wait_for_open_transactions(settings, cli.settings["prefix"] + topic)
        delivered = await _thread(lambda: tail(cli, "attempts", "--subscription", "a"))
        assert {each["value"]["delivery_id"] for each in delivered} == expected
        assert {each["value"]["outcome"] for each in delivered} == {"delivered"}
        dead = await _thread(lambda: tail(cli, "dead"))
        assert [(each["value"]["reason"], each["value"]["delivery"]["subscription_id"]) for each in dead] == [
            ("exhausted", "b")
        ] * 5
        for topic, shown in (
            ("attempts", "exhausted"),
            ("dead", "after 1 attempt"),
            ("deliveries", "→ a"),
            ("events", "e-1"),
        ):
            assert shown in (await _run(cli, "tail", topic, "--from-beginning", "--no-follow"))

        # Replay: asked first, refused without a terminal, looked at, done; the same webhook-ids arrive again.
        replay = ("replay", "offsets", "--group", "delivery", "--to-earliest")
        assert "no terminal to ask on; add --yes" in await _thread(lambda: cli.fails(*replay))
        look = await _thread(lambda: cli.lines(*replay, "--dry-run", "--json"))
        assert sum(move["records_max"] for move in look) >= 10
        assert not any(move["done"] for move in look)
        done = await _thread(lambda: cli.lines(*replay, "--yes", "--json"))
        assert all(move["done"] for move in done)
        after = await _thread(lambda: cli.lines(*replay, "--dry-run", "--json"))
        assert {move["committed"] for move in after} == {0}
        with cli.started(*work) as worker:
            await eventually_async(
                lambda: all(each.posts == 2 for each in receiver.arrivals()["/a"].values()),
                message="again",
            )
            assert receiver.arrivals()["/a"].keys() == expected
            worker.process.send_signal(signal.SIGINT)
            await _thread(lambda: worker.ends(0))


async def test_what_is_quarantined_is_told_and_not_shown(cli: Cli, kafka: Cluster) -> None:
    with cli.started("worker", "--role", "fan-out") as worker:
        await _thread(lambda: worker.said("ready: fan-out"))
        producer = Producer({"bootstrap.servers": kafka.bootstrap})
        producer.produce(f"{cli.settings['prefix']}events", b"hush-hush", b"k")
        producer.flush()
        seen = await _run(cli, "tail", "quarantine", "--from-beginning", "--limit", "1", "--json")
    document = json.loads(seen)
    assert document["reason"] == "wrong_magic"
    assert document["source"]["topic"] == f"{cli.settings['prefix']}events"
    assert document["size_bytes"] == len(b"hush-hush")
    text = await _run(cli, "tail", "quarantine", "--from-beginning", "--no-follow")
    assert "wrong_magic" in text
    assert "hush" not in seen + text


def test_replay_to_a_time_and_to_an_offset(cli: Cli) -> None:
    cli.run(*SEND, "--subject", "same", "--count", "4")
    seen = tail(cli, "events")
    place, third = seen[0]["partition"], seen[2]
    replay = ("replay", "offsets", "--group", "fan-out", "--dry-run", "--json")
    (by_offset,) = cli.lines(*replay, "--partition", str(place), "--to-offset", "1")
    assert (by_offset["target"], by_offset["end"], by_offset["records_max"]) == (1, 4, 3)
    by_time = {move["partition"]: move for move in cli.lines(*replay, "--to-time", third["timestamp"])}
    assert by_time[place]["target"] == min(each["offset"] for each in seen if each["timestamp"] >= third["timestamp"])
    later = cli.lines(*replay, "--to-time", "2999-01-01T00:00:00Z")
    assert sum(move["records_max"] for move in later) == 0

    assert "is not in" in cli.fails(*replay, "--partition", str(place), "--to-offset", "5")
    assert "has no partition 7" in cli.fails(*replay, "--partition", "7", "--to-earliest")
    assert "the topic none does not exist" in cli.fails(*replay, "--topic", "none", "--to-earliest")


async def _thread(function: Any, *arguments: Any) -> Any:
    """The receiver answers on this loop: nothing here may block it."""
    return await asyncio.to_thread(function, *arguments)


async def _run(cli: Cli, *arguments: str, stdin: str = "") -> str:
    out: str = (await _thread(lambda: cli.run(*arguments, stdin=stdin))).stdout
    return out
