"""The command line as a whole: help, topics, schemas, and the sentences for what is wrong around it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)
from typer.testing import CliRunner

from connectors.local_kafka import Cluster, steady_ports
from schemas.topics import Topics
from streams.cli.root import app
from tests.cli import Cli, command
from tests.helpers import eventually

COMMANDS = [
    ["dev"],
    ["demo"],
    ["topics", "apply"],
    ["topics", "check"],
    ["schemas", "register"],
    ["schemas", "list"],
    ["worker"],
    ["subscriptions", "create"],
    ["subscriptions", "put"],
    ["subscriptions", "get"],
    ["subscriptions", "list"],
    ["subscriptions", "delete"],
    ["send"],
    ["tail"],
    *(["replay", word] for word in ("plan", "start", "list", "show", "pause", "resume", "cancel", "offsets")),
]
TOPICS = len(Topics().specs())


@pytest.fixture
def bare(tmp_path: Path) -> Cli:
    return Cli(tmp_path, {})


@pytest.fixture
def cli(tmp_path: Path, kafka: Cluster, prefix: str) -> Cli:
    return Cli(tmp_path, {"bootstrap": kafka.bootstrap, "prefix": prefix, "partitions": "2"})


@pytest.fixture
def admin(kafka: Cluster) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka.bootstrap})


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_teaches_with_an_example(words: list[str]) -> None:
    helped = " ".join(CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"}).stdout.split())
    assert f"Example: {'echo' if words == ['subscriptions', 'put'] else 'distributary ' + ' '.join(words)}" in helped


@pytest.mark.parametrize("words", [["topics", "check"], ["worker"], ["send", "--type", "a"]], ids=" ".join)
def test_without_a_cluster_the_sentence_says_how_to_name_one(bare: Cli, words: list[str]) -> None:
    assert bare.fails(*words).startswith("no Kafka cluster is named; set DISTRIBUTARY_BOOTSTRAP=")


@pytest.mark.parametrize("words", [["topics", "apply"], ["tail", "dead"], ["demo"]], ids=" ".join)
def test_a_cluster_that_does_not_answer_is_named(bare: Cli, words: list[str]) -> None:
    (port,) = steady_ports(1)
    said = bare.fails(*words, "--bootstrap", f"127.0.0.1:{port}")
    assert re.match(rf"no kafka answer(s|ed) at 127\.0\.0\.1:{port}\b.*check that", said, re.IGNORECASE)


def test_a_cluster_that_speaks_otherwise_is_told_from_none(kafka: Cluster, tmp_path: Path) -> None:
    encrypted = Cli(tmp_path, {"bootstrap": kafka.bootstrap, "kafka": '{"security.protocol": "ssl"}'})
    assert "SSL" in encrypted.fails("topics", "check")


def test_topics_that_are_missing_are_said_by_every_command(cli: Cli) -> None:
    prefix = cli.settings["prefix"]
    for words in (["send", "--type", "a"], ["tail", "events"], ["subscriptions", "list"]):
        assert "does not exist; run `distributary topics apply`" in cli.fails(*words)
    assert f"the topic {prefix}events does not exist; run `distributary topics apply`" in cli.fails("worker")
    assert cli.fails("replay", "offsets", "--group", "fan-out", "--to-earliest").startswith(
        f"the topic {prefix}events does not exist"
    )


def test_topics_are_created_checked_and_corrected(cli: Cli, admin: AdminClient) -> None:
    events, deliveries = (f"{cli.settings['prefix']}{name}" for name in ("events", "deliveries"))
    missing = cli.run("topics", "check", code=1)
    assert missing.stdout.count("does not exist") == TOPICS
    assert cli.run("topics", "apply").stdout.count("created the topic") == TOPICS
    assert cli.run("topics", "check").stdout == f"all {TOPICS} topics are as they should be\n"
    assert cli.lines("topics", "apply", "--json") == [{"done": []}]

    wrong = [
        ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.SET),
        ConfigEntry("max.message.bytes", "1000", incremental_operation=AlterConfigOpType.SET),
        ConfigEntry("retention.ms", "1000", incremental_operation=AlterConfigOpType.SET),
        ConfigEntry("segment.ms", "86400000", incremental_operation=AlterConfigOpType.SET),
    ]
    change = ConfigResource(ResourceType.TOPIC, events, incremental_configs=wrong)
    for future in admin.incremental_alter_configs([change]).values():
        future.result()
    problems = json.loads(cli.run("topics", "check", "--json", code=1).stdout)["problems"]
    assert sorted(problem.split(",")[0] for problem in problems) == [
        f"the topic {events} has cleanup.policy=compact",
        f"the topic {events} has max.message.bytes=1000",
        f"the topic {events} has retention.ms=1000",
    ]
    assert cli.run("topics", "apply").stdout.count("set ") == 3
    cli.run("topics", "check")
    (kept,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, events)]).values()
    assert kept.result()["segment.ms"].value == "86400000"

    admin.create_partitions([NewPartitions(deliveries, 3)])[deliveries].result()
    assert f"{deliveries} 3, {deliveries}.retry.1s 2" in cli.run("topics", "check", code=1).stdout
    assert "add partitions by hand" in cli.run("topics", "apply").stdout
    assert (
        f"{deliveries}.retry.10h 2, {deliveries}.parked 2, {deliveries}.replay 2"
        in cli.run("topics", "check", code=1).stdout
    )


def test_a_tier_that_is_created_later_gets_the_partitions_of_the_others(cli: Cli, admin: AdminClient) -> None:
    tier = f"{cli.settings['prefix']}deliveries.retry.5s"
    cli.run("topics", "apply")
    admin.delete_topics([tier])[tier].result()
    eventually(lambda: tier not in admin.list_topics(timeout=10).topics, message="the broker to know of the deletion")
    more = Cli(cli.directory, cli.settings | {"partitions": "5"})
    said = more.run("topics", "apply").stdout
    assert f"created the topic {tier}" in said
    assert "left with fewer partitions than the settings ask for" in said
    cli.run("topics", "check")


def test_settings_that_are_wrong_are_named(bare: Cli) -> None:
    bare.directory.joinpath("distributary.toml").write_text("partitions = 0\n")
    assert "the setting partitions is wrong" in bare.fails("topics", "check")
    bare.directory.joinpath("distributary.toml").write_text("partitions = \n")
    assert bare.fails("topics", "check").startswith("distributary.toml is not TOML")
    bare.directory.joinpath("distributary.toml").unlink()
    assert "DISTRIBUTARY_PREFIX" in bare.fails("topics", "check", "--prefix", "no spaces")
    assert "the setting kafka is not JSON" in Cli(bare.directory, {"kafka": "{"}).fails("topics", "check")
    nonsense = Cli(bare.directory, {"kafka": '{"no.such.setting": "1"}', "bootstrap": "127.0.0.1:1"})
    assert 'No such configuration property: "no.such.setting"' in nonsense.fails("topics", "check")


def test_schemas_are_registered_in_a_folder_and_listed(tmp_path: Path) -> None:
    folder = tmp_path / "schemas"
    folder.mkdir()
    cli = Cli(tmp_path, {"schemas": str(folder)})
    schema = tmp_path / "order.avsc"
    schema.write_text('{"type": "record", "name": "Order", "fields": [{"name": "total", "type": "double"}]}')
    first = cli.run("schemas", "register", "--subject", "orders-value", str(schema)).stdout
    again = cli.run("schemas", "register", "--subject", "orders-value", str(schema)).stdout
    assert first == again
    assert first.strip().isdecimal()
    listed = cli.lines("schemas", "list", "--json")
    assert {"subject": "orders-value", "version": 1, "id": int(first), "name": "Order"} in listed
    assert {entry["name"] for entry in listed} >= {"distributary.Event", "distributary.Subscription"}
    assert "orders-value v1  Order" in cli.run("schemas", "list").stdout


def test_schemas_that_are_none_and_registries_that_are_none(tmp_path: Path) -> None:
    cli = Cli(tmp_path, {})
    file = tmp_path / "bad.avsc"
    register = ["schemas", "register", "--subject", "a", str(file)]
    assert "bad.avsc" in cli.fails(*register)
    file.write_bytes(b"\xff\xfe")
    assert "is not UTF-8 text" in cli.fails(*register)
    file.write_text('{"type": "record"}')
    assert "is not a valid Avro schema" in cli.fails(*register)
    file.write_text('"string"')
    assert "there is no folder to keep the schema" in cli.fails(*register)
    assert "the schema folder" in Cli(tmp_path, {"schemas": str(tmp_path / "none")}).fails("schemas", "list")
    (port,) = steady_ports(1)
    url = f"http://127.0.0.1:{port}"
    assert f"the schema registry {url} does not answer" in cli.fails("schemas", "list", "--registry-url", url)


def test_debug_shows_where(bare: Cli) -> None:

    done = subprocess.run(
        command("--debug", "topics", "check"),
        capture_output=True,
        text=True,
        cwd=bare.directory,
        env=bare.env(),
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: no Kafka cluster is named")
