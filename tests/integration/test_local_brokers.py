"""Three real brokers: one of them at a time may go, in order or not, and comes back as it was."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from connectors.local_brokers import Brokers, Leadership, choose_doors, local_brokers
from connectors.local_kafka import Finders, KafkaUnavailable, steady_ports
from tests.helpers import eventually

PARTITIONS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("brokers")


@pytest.fixture(scope="module")
def brokers(folder: Path) -> Iterator[Brokers]:
    with local_brokers(folder, choose_doors(3)) as running:
        admin = AdminClient({"bootstrap.servers": running.direct})
        admin.create_topics([NewTopic("made", PARTITIONS)])["made"].result(timeout=60)
        whole(running)
        yield running


def whole(brokers: Brokers) -> Leadership:
    """Once every partition has all its replicas in sync."""

    def found() -> Leadership | None:
        leadership = brokers.leadership()
        return leadership if leadership and not leadership.lacking and leadership.leaders else None

    leadership = eventually(found, timeout_s=60, message="all replicas are in sync")
    assert leadership is not None
    return leadership


def written(bootstrap: str, count: int) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    for number in range(count):
        producer.produce("made", b"x", partition=number % PARTITIONS)
    assert producer.flush(60) == 0


@pytest.mark.timeout(300)
def test_topics_are_replicated_and_led_by_all(brokers: Brokers) -> None:
    leaders = {place: leader for place, leader in whole(brokers).leaders.items() if place[0] == "made"}
    assert Counter(leaders.values()) == {0: 2, 1: 2, 2: 2}
    topic = AdminClient({"bootstrap.servers": brokers.direct}).list_topics("made", timeout=60).topics["made"]
    assert all(len(partition.replicas) == 3 for partition in topic.partitions.values())
    written(brokers.bootstrap, 12)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kill", [False, True], ids=["in order", "killed"])
def test_one_goes_others_lead_it_comes_back_and_is_elected(brokers: Brokers, kill: bool) -> None:
    before = whole(brokers).leaders
    away = before["made", 0]
    (brokers.kill if kill else brokers.stop)(away)

    def led() -> bool:
        leadership = brokers.leadership()
        return leadership is not None and away not in leadership.leaders.values()

    eventually(led, timeout_s=60, message="others lead")
    written(brokers.bootstrap, 12)  # two of three are enough
    brokers.start(away)
    assert away not in whole(brokers).leaders.values()
    brokers.elect()
    eventually(lambda: whole(brokers).leaders == before, timeout_s=60, message="all lead as before")


def test_steady_ports_are_free_different_and_below_what_connections_get() -> None:
    ports = steady_ports(30)
    assert len(set(ports)) == 30
    assert max(ports) < 32_000


def test_a_broker_that_does_not_start_is_quoted(tmp_path: Path) -> None:
    with (
        pytest.raises(KafkaUnavailable, match=r"broker 0 did not start: .*num\.io\.threads"),
        local_brokers(tmp_path, choose_doors(1), properties={"num.io.threads": "-1"}),
    ):
        pass
    assert not [each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(each.info["cmdline"])]
    shutil.rmtree(tmp_path)


def test_without_packages_the_sentence_says_what_to_install(tmp_path: Path) -> None:
    finders = Finders(java=lambda: None)
    with (
        pytest.raises(KafkaUnavailable, match=r"pip install 'distributary\[kafka\]'"),
        local_brokers(tmp_path, choose_doors(3), finders=finders),
    ):
        pass
