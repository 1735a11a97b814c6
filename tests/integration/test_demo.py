"""The demo and `dev`, as a newcomer runs them."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import psutil
from confluent_kafka.admin import AdminClient

from connectors.local_kafka import Cluster
from streams.cli.demo_plan import TARGETS, TYPES
from tests.cli import Cli
from tests.helpers import eventually

EVENTS = 48  # as many of each type
FIELDS = [
    *("events", "deliveries", "delivered", "retried", "dead", "attempts"),
    *("lost", "invalid_signatures", "p50_ms", "p99_ms", "broker"),
]


def test_the_demo_on_a_given_cluster_accounts_for_everything_and_leaves_nothing(kafka: Cluster, tmp_path: Path) -> None:
    # Settings of the user's that must not reach the demo's workers or its registry.
    cli = Cli(
        tmp_path,
        {"bootstrap": kafka.bootstrap, "registry_url": "http://127.0.0.1:1", "worker_id": "mine", "prefix": "mine."},
    )
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    before, groups_before = demo_topics(admin), demo_groups(admin)
    done = cli.run("demo", "--events", str(EVENTS), "--workers", "2")
    result = json.loads(done.stdout.splitlines()[-1])

    each = {target.id: len(target.receives) * EVENTS // len(TYPES) for target in TARGETS}
    assert list(result) == FIELDS
    assert result["events"] == EVENTS
    assert result["deliveries"] == sum(each.values())
    assert result["delivered"] == sum(each[target.id] for target in TARGETS if target.ends == "delivered")
    assert result["dead"] == sum(each[target.id] for target in TARGETS if target.ends == "dead")
    assert result["attempts"] == sum(each[target.id] * target.attempts for target in TARGETS)
    assert result["retried"] == sum(each[target.id] for target in TARGETS if target.attempts > 1)
    assert result["lost"] == result["invalid_signatures"] == 0
    assert 0 <= result["p50_ms"] <= result["p99_ms"]
    assert kafka.bootstrap in result["broker"]
    assert "2 workers ready" in done.stderr

    eventually(lambda: demo_topics(admin) <= before, message="the demo's topics have gone")
    eventually(lambda: demo_groups(admin) <= groups_before, message="the demo's groups have gone")


def demo_topics(admin: AdminClient) -> set[str]:
    return {name for name in admin.list_topics(timeout=60).topics if name.startswith("demo-")}


def demo_groups(admin: AdminClient) -> set[str]:
    groups = admin.list_consumer_groups().result().valid
    return {group.group_id for group in groups if group.group_id.startswith("demo-")}


def test_the_demo_stops_in_order_when_interrupted(kafka: Cluster, tmp_path: Path) -> None:
    cli = Cli(tmp_path, {"bootstrap": kafka.bootstrap})
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    before = demo_topics(admin)
    with cli.started("demo", "--events", "10000") as demo:
        demo.said("sending 10000 events", on=demo.err)
        demo.process.send_signal(signal.SIGINT)
        demo.ends(130)
    eventually(lambda: demo_topics(admin) <= before, message="the demo's topics have gone")


def test_the_demo_notices_that_a_worker_died(kafka: Cluster, tmp_path: Path) -> None:
    cli = Cli(tmp_path, {"bootstrap": kafka.bootstrap})
    with cli.started("demo", "--events", "10000") as demo:
        demo.said("sending 10000 events", on=demo.err)
        children = psutil.Process(demo.process.pid).children(recursive=True)
        (worker,) = [each for each in children if "worker" in each.cmdline()]
        worker.kill()
        demo.ends(1)
        assert demo.err.read_text().splitlines()[-1].startswith("error: a worker ended while it worked")


def test_dev_tells_what_to_export_and_shows_what_arrives(tmp_path: Path) -> None:
    alone = Cli(tmp_path, {})
    with alone.started("dev") as dev:
        hint = dev.said("distributary tail", on=dev.err, timeout_s=150)
        exported = {name.lower(): value for name, value in re.findall(r"export DISTRIBUTARY_(\w+)=(\S+)", hint)}
        assert exported.keys() == {"bootstrap", "registry_url"}
        other = Cli(tmp_path, exported)
        other.run("send", "--type", "order.created", "--data", '{"total": 12.5}')
        arrived = dev.said("received dlv_")
        assert "signature ok" in arrived
        assert '"data":{"total": 12.5}' in arrived
        listed = other.lines("schemas", "list", "--json")
        assert {"events-value", "subscriptions-value"} <= {entry["subject"] for entry in listed}
        dev.process.send_signal(signal.SIGINT)
        dev.ends(0)


def test_dev_names_a_port_that_is_taken(kafka: Cluster, tmp_path: Path, prefix: str) -> None:
    cli = Cli(tmp_path, {"bootstrap": kafka.bootstrap, "prefix": prefix, "partitions": "1"})
    port = kafka.bootstrap.split(",")[0].rpartition(":")[2]
    assert f"the schema registry cannot listen on port {port}" in cli.fails("dev", "--registry-port", port)
    assert f"the sample receiver cannot listen on port {port}" in cli.fails("dev", "--receiver-port", port)
