"""The health of endpoints by the command line: listed as workers see it, and the owner's word written for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from connectors.admin import apply_topics
from connectors.clock import SystemClock
from connectors.local_kafka import Cluster
from schemas import codec
from schemas.endpoint import EndpointState, encode_state, url_hash
from schemas.topics import Topics
from streams.cli.values import iso
from tests.cli import Cli

URL = "https://acme.example/hooks"
ACME: dict[str, Any] = {"id": "acme", "url": URL, "event_types": ["*"]}
AT = 1_785_585_600_000  # 2026-08-01T12:00:00Z


@pytest.fixture
async def cli(tmp_path: Path, kafka: Cluster, prefix: str) -> Cli:
    await apply_topics({"bootstrap.servers": kafka.bootstrap}, Topics(prefix, 2).specs(), -1)
    return Cli(tmp_path, {"bootstrap": kafka.bootstrap, "prefix": prefix})


def put(cli: Cli, *objects: dict[str, Any]) -> None:
    cli.run("subscriptions", "put", "-", stdin="\n".join(map(json.dumps, objects)))


def a_worker_writes(cli: Cli, *states: EndpointState) -> None:
    """What a worker would."""
    header = codec.wire_header(codec.content_id(codec.own_schema("endpoint_state.v1")))
    producer = Producer({"bootstrap.servers": cli.settings["bootstrap"]})
    for state in states:
        producer.produce(f"{cli.settings['prefix']}endpoints.state", encode_state(header, state), state.subscription_id)
    assert producer.flush(60) == 0


def state(subscription_id: str, url: str = URL, **fields: Any) -> EndpointState:
    return EndpointState(subscription_id=subscription_id, url_hash=url_hash(url), changed_ms=AT, writer="w1", **fields)


def operations(cli: Cli, *options: str) -> list[Any]:
    lines = cli.lines("tail", "operations", "--from-beginning", "--no-follow", "--json", *options)
    return [line["value"] for line in lines]


def test_an_endpoint_is_disabled_and_brought_back_by_its_owner(cli: Cli) -> None:
    put(cli, ACME | {"tenant": "a"})
    assert "nothing is written of any endpoint" in cli.run("endpoints", "list").stderr
    assert cli.run("endpoints", "enable", "acme").stdout.startswith("acme is enabled and healthy already")
    assert operations(cli) == []
    before_ms = SystemClock().now_ms()

    assert cli.lines("endpoints", "disable", "acme", "--json") == [{"id": "acme", "enabled": False, "changed": True}]
    (listed,) = cli.lines("endpoints", "list", "--disabled", "--json")
    assert (listed["tenant"], listed["subscription_id"], listed["url"]) == ("a", "acme", URL)
    assert (listed["circuit"], listed["disabled_reason"], listed["writer"]) == ("closed", "owner", "")
    assert listed["disabled_ms"] == listed["changed_ms"] >= before_ms
    since = iso(listed["disabled_ms"])
    assert cli.run("endpoints", "list").stdout == f"a  acme  disabled at {since}: by the owner  {URL}\n"
    assert cli.run("endpoints", "disable", "acme").stdout == "acme is disabled already; nothing was written\n"

    assert cli.run("endpoints", "enable", "acme").stdout == "enabled acme\n"
    assert cli.run("endpoints", "list").stdout == f"a  acme  healthy  {URL}\n"
    assert "no endpoint is disabled" in cli.run("endpoints", "list", "--disabled").stderr
    assert cli.lines("endpoints", "enable", "acme", "--json") == [{"id": "acme", "enabled": True, "changed": False}]
    assert cli.run("endpoints", "disable", "acme").stdout == "disabled acme\n"

    seen = operations(cli, "--subscription", "acme")
    assert [each["kind"] for each in seen] == ["endpoint.disabled", "endpoint.enabled", "endpoint.disabled"]
    assert {(each["subscription_id"], each["tenant"], each["reason"]) for each in seen} == {("acme", "a", "owner")}
    assert seen[0]["at_ms"] == listed["disabled_ms"]
    first, *_ = cli.run("tail", "operations", "--from-beginning", "--no-follow").stdout.splitlines()
    assert first.endswith("  endpoint.disabled  acme  of a  owner  by `distributary endpoints`")


def test_what_workers_wrote_is_listed_in_words(cli: Cli) -> None:
    put(cli, *(ACME | {"id": name} for name in ("broken", "gone", "slow", "fine", "moved")))
    a_worker_writes(
        cli,
        state("broken", circuit="open", opened_ms=AT, until_ms=AT + 60_000, openings=2, failing_since_ms=AT),
        state("gone", disabled_ms=AT, disabled_reason="gone", circuit="open"),
        state("slow", disabled_ms=AT, disabled_reason="failing", failing_since_ms=AT - 86_400_000),
        state("moved", "https://acme.example/old", disabled_ms=AT, disabled_reason="gone"),  # void: of another URL
        state("deleted", disabled_ms=AT, disabled_reason="gone"),
    )
    noon, before = "2026-08-01T12:00:00.000Z", "2026-07-31T12:00:00.000Z"
    assert cli.run("endpoints", "list").stdout.splitlines() == [
        f"default  broken  circuit open until 2026-08-01T12:01:00.000Z, failing since {noon}  {URL}",
        f"default  gone  disabled at {noon}: it answered 410  {URL}",
        f"default  slow  disabled at {noon}: nothing but failures, failing since {before}  {URL}",
    ]
    only = cli.lines("endpoints", "list", "--disabled", "--json")
    assert [each["subscription_id"] for each in only] == ["gone", "slow"]

    for name in ("broken", "gone"):  # an open circuit is closed by the owner's word too
        assert cli.run("endpoints", "enable", name).stdout == f"enabled {name}\n"
    assert cli.run("endpoints", "disable", "slow").stdout.startswith("slow is disabled already")
    found = {each["subscription_id"]: each for each in cli.lines("endpoints", "list", "--json")}
    assert found["slow"]["writer"] == "w1"
    for name in ("broken", "gone"):
        healthy = found[name]
        assert (healthy["circuit"], healthy["until_ms"], healthy["openings"]) == ("closed", 0, 0)
        assert (healthy["failing_since_ms"], healthy["disabled_ms"], healthy["writer"]) == (0, 0, "")


def test_disabling_remembers_since_when_it_failed(cli: Cli) -> None:
    put(cli, ACME)
    a_worker_writes(cli, state("acme", circuit="open", until_ms=AT, failing_since_ms=AT))
    cli.run("endpoints", "disable", "acme")
    (listed,) = cli.lines("endpoints", "list", "--json")
    assert (listed["failing_since_ms"], listed["circuit"], listed["disabled_reason"]) == (AT, "closed", "owner")


def test_what_enabling_does_not_change_is_told(cli: Cli) -> None:
    put(cli, ACME | {"state": "paused"})
    enabled = cli.run("endpoints", "enable", "acme")
    assert "its subscription is paused; see `distributary subscriptions put`" in enabled.stderr


def test_an_unknown_id_and_a_missing_topic(cli: Cli) -> None:
    for command in ("enable", "disable"):
        assert cli.fails("endpoints", command, "no").startswith("there is no subscription 'no'; see")
    elsewhere = Cli(cli.directory, cli.settings | {"prefix": "nowhere."})
    assert "distributary topics apply" in elsewhere.fails("endpoints", "list")


def test_a_bad_record_on_the_topic_is_told_and_left_out(cli: Cli) -> None:
    put(cli, ACME)
    producer = Producer({"bootstrap.servers": cli.settings["bootstrap"]})
    producer.produce(f"{cli.settings['prefix']}endpoints.state", b"{}", b"acme")
    producer.flush()
    listed = cli.run("endpoints", "list")
    assert listed.stdout == ""
    assert "is no endpoint state, and changes none" in listed.stderr
