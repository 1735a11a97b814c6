"""Subscriptions by the command line: what is put is validated, kept, shown without secrets, and gone when deleted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from connectors.admin import apply_topics
from connectors.local_kafka import Cluster
from schemas.credentials import secret_key
from schemas.topics import Topics
from tests.cli import Cli

ACME: dict[str, Any] = {"id": "acme", "url": "https://acme.example/hooks", "event_types": ["order.*"]}
SECRET = "whsec_" + "A" * 43 + "="


@pytest.fixture
async def cli(tmp_path: Path, kafka: Cluster, prefix: str) -> Cli:
    await apply_topics({"bootstrap.servers": kafka.bootstrap}, Topics(prefix, 2).specs(), -1)
    return Cli(tmp_path, {"bootstrap": kafka.bootstrap, "prefix": prefix})


def put(cli: Cli, *objects: dict[str, Any], options: tuple[str, ...] = ()) -> list[Any]:
    return cli.lines("subscriptions", "put", "-", "--json", *options, stdin="\n".join(map(json.dumps, objects)))


def get(cli: Cli, subscription_id: str, *options: str) -> Any:
    (found,) = cli.lines("subscriptions", "get", subscription_id, *options)
    return found


def test_a_secret_is_made_shown_once_and_kept(cli: Cli) -> None:
    (created,) = put(cli, ACME)
    assert created["created"]
    assert len(secret_key(created["secret"])) == 32
    shown = get(cli, "acme")
    assert shown["secrets"] == ["whsec_…"]
    assert shown["created_ms"] == shown["updated_ms"] > 0
    assert get(cli, "acme", "--reveal")["secrets"] == [created["secret"]]

    assert put(cli, ACME | {"state": "paused"}) == [{"id": "acme", "created": False}]
    replaced = get(cli, "acme", "--reveal")
    assert (replaced["state"], replaced["secrets"]) == ("paused", [created["secret"]])
    assert replaced["created_ms"] == shown["created_ms"] < replaced["updated_ms"]


def test_several_are_put_listed_by_tenant_and_deleted(cli: Cli) -> None:
    others = [ACME | {"id": f"b{n}", "tenant": "b", "secrets": [SECRET], "headers": {"x-key": "k1"}} for n in (2, 1)]
    put(cli, ACME, *others, options=("--as-json",))
    text = cli.run("subscriptions", "list")
    assert [line.split()[:2] for line in text.stdout.splitlines()] == [["b", "b1"], ["b", "b2"], ["default", "acme"]]
    of_b = cli.run("subscriptions", "list", "--tenant", "b", "--json").stdout
    assert [json.loads(line)["id"] for line in of_b.splitlines()] == ["b1", "b2"]
    assert SECRET not in text.stdout + of_b
    assert "k1" not in text.stdout + of_b
    assert SECRET in cli.run("subscriptions", "list", "--reveal").stdout

    assert cli.run("subscriptions", "delete", "b1").stdout == "deleted b1\n"
    assert [each["id"] for each in cli.lines("subscriptions", "list", "--tenant", "b", "--json")] == ["b2"]
    assert "there are no subscriptions of the tenant c" in cli.run("subscriptions", "list", "--tenant", "c").stderr


def test_a_file_may_hold_one_object_over_many_lines(cli: Cli) -> None:
    file = cli.directory / "acme.json"
    file.write_text(json.dumps(ACME, indent=2))
    said = cli.run("subscriptions", "put", str(file)).stdout
    assert said.startswith("created acme  its secret, shown once: whsec_")


def test_what_is_wrong_is_named_and_nothing_is_written(cli: Cli) -> None:
    def refused(text: str) -> str:
        return cli.fails("subscriptions", "put", "-", stdin=text)

    bad_url = json.dumps(ACME) + "\n" + json.dumps(ACME | {"id": "b", "url": "ftp://b.example"})
    assert refused(bad_url).startswith("line 2 is no subscription: url: 'ftp://b.example' does not start with https://")
    assert refused(json.dumps(ACME) + "\n" + json.dumps(ACME)).startswith("the id acme stands twice")
    short = json.dumps(ACME | {"secrets": ["whsec_dG9vc2hvcnQ="]})
    said = refused(short)
    assert "secrets: not whsec_ followed by base64" in said
    assert "dG9vc2hvcnQ" not in said
    assert cli.lines("subscriptions", "list", "--json") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no JSON object in the input"),
        ("{", "the input is not JSON"),
        ("[]", "the input is not a JSON object"),
        (b"\xff", "the input is not JSON"),
    ],
)
def test_input_that_is_no_json_object(cli: Cli, text: str | bytes, said: str) -> None:
    assert cli.fails("subscriptions", "put", "-", stdin=text).startswith(said)


def test_an_unknown_id_and_a_missing_file(cli: Cli) -> None:
    assert cli.fails("subscriptions", "get", "no").startswith("there is no subscription 'no'; see")
    assert cli.fails("subscriptions", "delete", "no").startswith("there is no subscription 'no'; see")
    assert "'none.json': No such file" in cli.fails("subscriptions", "put", "none.json")


def test_a_bad_record_on_the_topic_is_told_and_left_out(cli: Cli, kafka: Cluster) -> None:
    put(cli, ACME)
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(f"{cli.settings['prefix']}subscriptions", b'{"id": "acme", "url": 7}', b"acme")
    producer.flush()
    listed = cli.run("subscriptions", "list")
    assert listed.stdout.split()[1] == "acme"
    assert "is no subscription, and changes none" in listed.stderr
