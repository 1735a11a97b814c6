"""Several real brokers on this machine, from packages, to be stopped, killed and started again one by one.

Each is broker and controller in KRaft mode; topics and Kafka's own are replicated threefold and take writes while two
replicas are in sync, so one of three may be away at any time. Every broker has two doors for clients: `bootstrap` is
told the addresses that the caller advertises (those of a `cutter.py`, so that its clients can be cut off), `direct`
the broker's own, which the brokers use among themselves too.

Made for faults, not for production. Everything dies with the process that started it (`guardian.py`). Nothing here
waits in an event loop: call what blocks in a thread.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from confluent_kafka import ElectionType, KafkaException
from confluent_kafka.admin import AdminClient

from connectors.admin import silent_logger
from connectors.guardian import Guarded, guarded
from connectors.local_kafka import (
    DEVELOPMENT,
    VERSION,
    Finders,
    KafkaUnavailable,
    Progress,
    answers,
    broker_commands,
    find_packages,
    log_reason,
    new_cluster_id,
    steady_ports,
)

#: Three JVMs on two cores format their disks and elect a controller first.
START_SECONDS = 120.0
STOP_SECONDS = 20.0
REPLICAS_MAX = 3
_REQUEST_SECONDS = 5.0

#: Wins over `DEVELOPMENT`.
REPLICATED: dict[str, str] = {
    # Leaders move when somebody asks, as `elect` does.
    "auto.leader.rebalance.enable": "false",
    # A broker that was killed is given up after 5 s (9 s is Kafka's): what is tried is what happens then, not waiting.
    "broker.session.timeout.ms": "5000",
    "broker.heartbeat.interval.ms": "1000",
    "controlled.shutdown.retry.backoff.ms": "500",
    # librdkafka waits two of these intervals for an answer: with `DEVELOPMENT`'s half a second, every pause of a busy
    # machine would look like a broker that is away.
    "group.consumer.heartbeat.interval.ms": "2000",
    "group.consumer.min.heartbeat.interval.ms": "2000",
    "group.consumer.session.timeout.ms": "9000",
    "group.consumer.min.session.timeout.ms": "9000",
}


class Doors(msgspec.Struct, frozen=True):
    """The ports of one broker on 127.0.0.1."""

    clients: int
    direct: int
    controller: int


def choose_doors(count: int) -> list[Doors]:
    """Ports for so many brokers."""
    ports = steady_ports(3 * count)
    return [Doors(*ports[3 * n : 3 * n + 3]) for n in range(count)]


class Leadership(msgspec.Struct, frozen=True):
    """Of all partitions: the leader by (topic, partition), and how many lack replicas in sync."""

    leaders: dict[tuple[str, int], int]
    lacking: int


class Brokers:
    """Brokers 0 to `count` - 1. Made by `local_brokers`. Its methods block; one thread at a time."""

    def __init__(self, doors: Sequence[Doors], advertised: Sequence[int], commands: Sequence[list[list[str]]]) -> None:
        self.count = len(doors)
        self.bootstrap = ",".join(f"127.0.0.1:{port}" for port in advertised)
        self.direct = ",".join(f"127.0.0.1:{each.direct}" for each in doors)
        self._doors = doors
        self._commands = commands
        self._running: dict[int, tuple[Guarded, contextlib.ExitStack]] = {}
        self._logs = [Path(each[-1][-1]).with_name("kafka.log") for each in commands]
        timeout_ms = int(_REQUEST_SECONDS * 1000)
        self._admin = AdminClient(
            {"bootstrap.servers": self.direct, "socket.timeout.ms": timeout_ms}, logger=silent_logger()
        )

    def start(self, broker: int) -> None:
        """Start one that does not run, and wait until it answers. KafkaUnavailable when it does not."""
        log = self._logs[broker]
        log_start = log.stat().st_size if log.exists() else 0
        stack = contextlib.ExitStack()
        # The last command alone: the disk is formatted once.
        formatted = (log.parent / "data" / "meta.properties").exists()
        commands = self._commands[broker][-1:] if formatted else self._commands[broker]
        running = stack.enter_context(guarded(*commands, log=log, grace_seconds=STOP_SECONDS))
        self._running[broker] = (running, stack)
        if not answers(f"127.0.0.1:{self._doors[broker].direct}", START_SECONDS, running.ended):
            reason = log_reason(log.read_bytes()[log_start:].decode(errors="replace"))
            raise KafkaUnavailable(f"broker {broker} did not start: {reason}")

    def stop(self, broker: int) -> None:
        """In order: its leaders move first."""
        self._running.pop(broker)[1].close()

    def kill(self, broker: int) -> None:
        """kill -9."""
        running, stack = self._running.pop(broker)
        running.signal(signal.SIGKILL)
        stack.close()

    def stop_all(self) -> None:
        """All at once, and not in order: the data is of no use without them."""
        for running, _ in self._running.values():
            running.signal(signal.SIGKILL)
        for broker in list(self._running):
            self.stop(broker)

    def leadership(self) -> Leadership | None:
        """As the brokers that answer see it; None when none does."""
        try:
            topics = self._admin.list_topics(timeout=_REQUEST_SECONDS).topics
        except KafkaException:
            return None
        found = {(name, number): each for name, topic in topics.items() for number, each in topic.partitions.items()}
        lacking = sum(len(each.isrs) < len(each.replicas) or each.leader < 0 for each in found.values())
        return Leadership({place: each.leader for place, each in found.items()}, lacking)

    def elect(self) -> None:
        """Have every partition led by its preferred replica again. KafkaException when the cluster refuses; a
        partition that cannot is left as it is."""
        # Without its keyword arguments: any of them is a SystemError in confluent-kafka 2.16.
        self._admin.elect_leaders(ElectionType.PREFERRED, None).result()


@contextlib.contextmanager
def local_brokers(
    folder: Path,
    doors: Sequence[Doors],
    *,
    advertised: Sequence[int] | None = None,
    properties: Mapping[str, str] | None = None,
    version: str = VERSION,
    heap_mib: int = 384,
    progress: Progress = lambda _: None,
    finders: Finders = Finders(),  # noqa: B008, frozen
) -> Iterator[Brokers]:
    """Running brokers inside the block, one for each of `doors`; data, settings and logs are left in `folder`.

    `advertised` are ports of 127.0.0.1 that lead to the brokers' `clients` doors (default: these themselves).
    `properties` win over `REPLICATED` and `DEVELOPMENT`. Raises `KafkaUnavailable`.
    """
    java, jars = find_packages(version, progress, finders)
    outside = list(advertised or [each.clients for each in doors])
    cluster_id = new_cluster_id()
    replicas = min(len(doors), REPLICAS_MAX)
    common = DEVELOPMENT | REPLICATED | _replication(replicas) | dict(properties or {})
    voters = ",".join(f"{n}@127.0.0.1:{each.controller}" for n, each in enumerate(doors))
    commands = []
    for n, each in enumerate(doors):
        home = folder / f"broker-{n}"
        home.mkdir(parents=True, exist_ok=True)
        own = {
            "node.id": str(n),
            "listeners": f"CLIENTS://127.0.0.1:{each.clients},DIRECT://127.0.0.1:{each.direct},"
            f"CONTROLLER://127.0.0.1:{each.controller}",
            "advertised.listeners": f"CLIENTS://127.0.0.1:{outside[n]},DIRECT://127.0.0.1:{each.direct}",
            "listener.security.protocol.map": "CLIENTS:PLAINTEXT,DIRECT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "DIRECT",
            "controller.quorum.voters": voters,
            "log.dirs": str(home / "data"),
        }
        commands.append(broker_commands(java, jars, common | own, home, heap_mib, cluster_id))
    brokers = Brokers(doors, outside, commands)
    progress(f"Starting {len(doors)} brokers…" if len(doors) > 1 else "Starting Kafka…")
    try:
        with ThreadPoolExecutor(len(doors)) as pool:
            list(pool.map(brokers.start, range(len(doors))))
        yield brokers
    finally:
        brokers.stop_all()


def _replication(replicas: int) -> dict[str, str]:
    in_sync = str(max(1, replicas - 1))
    factor = str(replicas)
    return {
        "default.replication.factor": factor,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": factor,
        "transaction.state.log.replication.factor": factor,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": factor,
        "share.coordinator.state.topic.min.isr": in_sync,
    }
