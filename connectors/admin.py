"""The topics of a cluster: compared with the table in `schemas/topics.py`, created, corrected, removed.

Each function makes a client of its own and blocks in a thread; these are calls of a command line and of a
worker's start. This file never changes the number of partitions (keys would move) and never touches consumer
groups (`connectors/group_offsets.py`).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
    TopicMetadata,
)

from connectors.clock import SystemClock
from schemas.topics import TopicSpec

T = TypeVar("T")

REQUEST_SECONDS = 30.0
#: How long brokers are asked again of whom all refuse connections.
REFUSED_SECONDS = 2.0
_TRY_SECONDS = 0.5
KAFKA_PORT = 9092  # librdkafka's, where an address has none
#: A created topic is known to the controller first and to the other brokers a moment later.
SETTLE_SECONDS = 60.0
_POLL_SECONDS = 0.05


class ClusterError(ConnectionError):
    """The cluster does not answer, or refuses; one sentence with the next step."""


async def check_topics(config: Mapping[str, Any], specs: Sequence[TopicSpec]) -> list[str]:
    """What differs from the specs, a sentence each; empty when all is well. Other settings of a topic are its owner's.

    `config` is librdkafka's. ClusterError when the cluster does not answer.
    """
    return await asyncio.to_thread(_check, config, specs)


async def apply_topics(config: Mapping[str, Any], specs: Sequence[TopicSpec], replication_factor: int) -> list[str]:
    """Create what is missing, correct settings that differ; a sentence for each thing done or left to be done.

    Returns once the topics have leaders. Doing it again does nothing and returns an empty list, unless partition
    counts differ: those are only reported, because another count sends keys elsewhere. `replication_factor` -1 is
    the cluster's default. ClusterError when the cluster does not answer or refuses.
    """
    return await asyncio.to_thread(_apply, config, specs, replication_factor)


async def require_topics(config: Mapping[str, Any], names: Sequence[str]) -> None:
    """ClusterError when the cluster does not answer or one of the topics is missing."""
    topics = (await asyncio.to_thread(lambda: connected(config).list_topics(timeout=REQUEST_SECONDS))).topics
    if missing := [name for name in names if name not in topics]:
        raise ClusterError(f"the topic {missing[0]} does not exist; run `distributary topics apply`, or check --prefix")


async def broker_places(config: Mapping[str, Any]) -> list[tuple[str, int]]:
    """(host, port) of all brokers: those that the settings name, and those that the cluster does. ClusterError."""
    metadata = await asyncio.to_thread(lambda: connected(config).list_topics(timeout=REQUEST_SECONDS))
    named = (address.strip().rpartition("://")[2] for address in str(config["bootstrap.servers"]).split(","))
    return [*map(_place, named), *((str(broker.host), broker.port) for broker in metadata.brokers.values())]


def _place(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if host else (address, KAFKA_PORT)


async def delete_topics(config: Mapping[str, Any], names: Sequence[str]) -> None:
    """Remove topics with everything in them; one that is not there is no error. ClusterError."""
    await asyncio.to_thread(_delete, config, names)


def connected(config: Mapping[str, Any]) -> AdminClient:
    """A client whose cluster has answered. ClusterError."""
    reasons: list[KafkaError] = []
    settings: dict[str, Any] = {**config, "error_cb": reasons.append}
    clock = SystemClock()
    start = clock.monotonic()
    try:
        admin = AdminClient(settings, logger=silent_logger())
        while True:
            # As long again each time: an answer that comes later than a try waits is lost, and asked for anew.
            patience = min(max(_TRY_SECONDS, clock.monotonic() - start), REQUEST_SECONDS)
            try:
                admin.list_topics(timeout=patience)
            except KafkaException as error:
                admin.poll(0)  # lets librdkafka say why: `error_cb`
                # Addresses where nobody listens are known at once; a broker that is only slow gets its time.
                down = any(reason.code() == KafkaError._ALL_BROKERS_DOWN for reason in reasons)
                if clock.monotonic() - start >= (REFUSED_SECONDS if down else REQUEST_SECONDS):
                    raise unavailable(config, _most_telling([*reasons, error.args[0]])) from None
            else:
                return admin
    except KafkaException as error:  # of making the client
        raise unavailable(config, error.args[0]) from None


def silent_logger() -> logging.Logger:
    """For clients whose errors are reported otherwise: librdkafka logs each refused connection."""
    logger = logging.getLogger(f"{__name__}.silent")
    logger.setLevel(logging.CRITICAL + 1)
    return logger


def unavailable(config: Mapping[str, Any], error: KafkaError) -> ClusterError:
    """What this error means to people."""
    where = config.get("bootstrap.servers", "the cluster")
    detail = _DETAIL.search(error.str())
    if error.code() in _UNANSWERED:
        # A port that wants TLS hangs up without a word.
        silent = ", and whether it wants TLS or a password (DISTRIBUTARY_KAFKA_SECURITY_PROTOCOL)"
        unlike = detail is None or "PLAINTEXT broker listener" in detail[1]
        return ClusterError(
            f"no Kafka answers at {where}{f' ({detail[1]})' if detail else ''}; check that it runs there,"
            f" and that --bootstrap or DISTRIBUTARY_BOOTSTRAP names it{silent if unlike else ''}"
        )
    if "certificate verify failed" in error.str():
        return ClusterError(
            f"Kafka at {where} shows a certificate that is not trusted; name the CA that issued it with"
            " DISTRIBUTARY_KAFKA_CA_FILE"
        )
    if error.code() in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
        said = detail[1] if detail else error.str()
        return ClusterError(
            f"Kafka at {where} does not let this user in ({said}); correct DISTRIBUTARY_KAFKA_USERNAME, _KAFKA_PASSWORD"
            " and _KAFKA_SASL_MECHANISM"
        )
    if error.code() in _REFUSED:
        return ClusterError(f"Kafka at {where} refuses: {error.str()}; check the credentials and rights of this user")
    if error.code() in (KafkaError._INVALID_ARG, KafkaError._CONFLICT):
        return ClusterError(f"the Kafka settings are wrong: {error.str()}; correct --bootstrap or DISTRIBUTARY_KAFKA")
    return ClusterError(f"Kafka at {where} answers with an error: {error.str()}; see the broker's log")


_UNANSWERED = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError.REQUEST_TIMED_OUT,
    }
)
_REFUSED = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.POLICY_VIOLATION,
    }
)


def _most_telling(errors: Sequence[KafkaError]) -> KafkaError:
    """A refusal explains more than the time-out that follows it, and so does what happened to a connection."""
    refused = (error for error in errors if error.code() in _REFUSED)
    detailed = (error for error in errors if _DETAIL.search(error.str()))
    return next(refused, None) or next(detailed, None) or errors[-1]


#: What librdkafka says of a connection: "host:port/bootstrap: this is why (after 3ms in state ...)".
_DETAIL = re.compile(r"/(?:bootstrap|\d+): (.+?)(?: \(after [^)]*\))?$")


@contextlib.contextmanager
def translated(config: Mapping[str, Any]) -> Iterator[None]:
    """KafkaException of the block as ClusterError."""
    try:
        yield
    except KafkaException as error:
        raise unavailable(config, error.args[0]) from None


def not_granted(operation: str, kind: str, name: str) -> ClusterError:
    """This user lacks a right on a topic, a group or a transactional id."""
    return ClusterError(
        f"Kafka denies this user {operation} on the {kind} {name}; grant it (docs/how-to/secure-kafka.md has a table)"
    )


@contextlib.contextmanager
def _needing(operation: str, topic: str) -> Iterator[None]:
    """A refusal of the block as the ClusterError that names the right; other KafkaExceptions as they are."""
    try:
        yield
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise not_granted(operation, "topic", topic) from None
        raise


def answer(future: concurrent.futures.Future[T]) -> T:
    """An admin request's answer."""
    return future.result(timeout=REQUEST_SECONDS + 5)


# --- checking -------------------------------------------------------------------------------------------------


def _check(config: Mapping[str, Any], specs: Sequence[TopicSpec]) -> list[str]:
    admin = connected(config)
    with translated(config):
        present, settings = _present(admin, specs)
    problems: list[str] = []
    for spec in specs:
        if spec.name not in present:
            problems.append(f"the topic {spec.name} does not exist")
        else:
            problems += _setting_problems(spec, settings[spec.name])
    return problems + _partition_problems(specs, {name: len(topic.partitions) for name, topic in present.items()})


def _present(
    admin: AdminClient, specs: Sequence[TopicSpec]
) -> tuple[dict[str, TopicMetadata], dict[str, dict[str, str]]]:
    """The specified topics that exist, and their settings. One listing, since asking for a topic by name may create it.

    A broker may still list a topic that was deleted a moment ago; having no settings tells.
    """
    topics = admin.list_topics(timeout=REQUEST_SECONDS).topics
    settings = _settings(admin, [spec.name for spec in specs if spec.name in topics])
    return {name: topics[name] for name in settings}, settings


def _settings(admin: AdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    futures = admin.describe_configs(resources, request_timeout=REQUEST_SECONDS) if resources else {}
    settings = {}
    for resource, future in futures.items():
        try:
            with _needing("DESCRIBE_CONFIGS", resource.name):
                settings[resource.name] = {name: str(entry.value) for name, entry in answer(future).items()}
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
    return settings


def _setting_problems(spec: TopicSpec, actual: Mapping[str, str]) -> list[str]:
    return [
        f"the topic {spec.name} has {name}={actual.get(name, 'unknown')}, {wanted}"
        for name, wanted in _wrong_settings(spec, actual).items()
    ]


def _wrong_settings(spec: TopicSpec, actual: Mapping[str, str]) -> dict[str, str]:
    """What must be different, by setting: the words for it.

    More room than needed and a longer retention are an operator's choice; a shorter retention loses what was
    promised to be kept, and deletion forgets subscriptions.
    """
    wrong: dict[str, str] = {}
    policies = {policy.strip() for policy in actual.get("cleanup.policy", "").split(",")}
    if policies != set(spec.cleanup.split(",")):
        wrong["cleanup.policy"] = f"which must be {spec.cleanup}"
    if _number(actual, "max.message.bytes") < spec.message_bytes_max:
        wrong["max.message.bytes"] = f"which must be at least {spec.message_bytes_max}"
    retention_ms = _number(actual, "retention.ms")
    if spec.retention_ms is not None and 0 <= retention_ms < spec.retention_ms:  # -1 is for ever
        wrong["retention.ms"] = f"which must be at least {spec.retention_ms}"
    return wrong


def _number(actual: Mapping[str, str], name: str) -> int:
    try:
        return int(actual.get(name, ""))
    except ValueError:
        return 0


def _partition_problems(specs: Sequence[TopicSpec], actual: Mapping[str, int]) -> list[str]:
    """Equal is what matters; the number of the settings is only what a new topic gets."""
    problems = []
    for names in _equal_groups(specs):
        counts = {name: actual[name] for name in names if name in actual}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} {count}" for name, count in counts.items())
            problems.append(
                "deliveries, retries, parked and replayed ones must have equal numbers of partitions, and have: "
                f"{listed}"
            )
    return problems


def _equal_groups(specs: Sequence[TopicSpec]) -> list[list[str]]:
    """Names of the topics that need as many partitions as each other: deliveries, those to be retried, parked ones and
    replayed ones."""
    groups: dict[str, list[str]] = {}
    for spec in specs:
        groups.setdefault(_TIER.sub("", spec.name), []).append(spec.name)
    return [names for names in groups.values() if len(names) > 1]


_TIER = re.compile(r"(?<=deliveries)\.(retry\.[^.]+|parked|replay)$")


# --- applying -------------------------------------------------------------------------------------------------


def _apply(config: Mapping[str, Any], specs: Sequence[TopicSpec], replication_factor: int) -> list[str]:
    admin = connected(config)
    with translated(config):
        present, settings = _present(admin, specs)
        done = _create(admin, specs, present, replication_factor) + _left_smaller(specs, present)
        for spec in specs:
            if spec.name in present:
                done += _correct(admin, spec, _wrong_settings(spec, settings[spec.name]), settings[spec.name])
        counts = {name: len(topic.partitions) for name, topic in _present(admin, specs)[0].items()}
    return done + [
        f"{problem}; add partitions by hand while no worker runs" for problem in _partition_problems(specs, counts)
    ]


def _create(
    admin: AdminClient, specs: Sequence[TopicSpec], present: Mapping[str, TopicMetadata], replication_factor: int
) -> list[str]:
    missing = [spec for spec in specs if spec.name not in present]
    if not missing:
        return []
    counts = _partitions_to_create(specs, present)
    new = [NewTopic(spec.name, counts[spec.name], replication_factor, config=spec.config()) for spec in missing]
    done = []
    for name, future in admin.create_topics(new, request_timeout=REQUEST_SECONDS).items():
        try:
            with _needing("CREATE", name):
                answer(future)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # someone else was faster
                raise
        else:
            done.append(f"created the topic {name}")
    _wait_until_known(admin, missing)
    return done


def _partitions_to_create(specs: Sequence[TopicSpec], present: Mapping[str, TopicMetadata]) -> dict[str, int]:
    """As specified; but a topic that joins others which must be equal gets as many as they have."""
    counts = {spec.name: spec.partitions for spec in specs}
    for names in _equal_groups(specs):
        if joined := max((len(present[name].partitions) for name in names if name in present), default=0):
            counts.update(dict.fromkeys(names, joined))
    return counts


def _left_smaller(specs: Sequence[TopicSpec], present: Mapping[str, TopicMetadata]) -> list[str]:
    smaller = [s.name for s in specs if s.name in present and len(present[s.name].partitions) < s.partitions]
    if not smaller:
        return []
    return [f"left with fewer partitions than the settings ask for, since keys would move: {', '.join(smaller)}"]


def _known(admin: AdminClient, specs: Sequence[TopicSpec]) -> bool:
    """Whether all are listed with their partitions, and each partition has a leader."""
    present, _ = _present(admin, specs)
    return len(present) == len(specs) and all(
        topic.partitions and all(partition.leader >= 0 for partition in topic.partitions.values())
        for topic in present.values()
    )


def _correct(admin: AdminClient, spec: TopicSpec, wrong: Mapping[str, str], actual: Mapping[str, str]) -> list[str]:
    if not wrong:
        return []
    wanted = spec.config()
    entries = [ConfigEntry(name, wanted[name], incremental_operation=AlterConfigOpType.SET) for name in sorted(wrong)]
    resource = ConfigResource(ResourceType.TOPIC, spec.name, incremental_configs=entries)
    for future in admin.incremental_alter_configs([resource], request_timeout=REQUEST_SECONDS).values():
        with _needing("ALTER_CONFIGS", spec.name):
            answer(future)
    return [
        f"set {name}={wanted[name]} on the topic {spec.name} (was {actual.get(name, 'unknown')})"
        for name in sorted(wrong)
    ]


def _delete(config: Mapping[str, Any], names: Sequence[str]) -> None:
    admin = connected(config)
    with translated(config):
        gone = admin.delete_topics(list(names), request_timeout=REQUEST_SECONDS) if names else {}
        for name, future in gone.items():
            try:
                with _needing("DELETE", name):
                    answer(future)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise


def _wait_until_known(admin: AdminClient, specs: Sequence[TopicSpec]) -> None:
    clock, pause = SystemClock(), threading.Event()
    deadline = clock.monotonic() + SETTLE_SECONDS
    while not _known(admin, specs):
        if clock.monotonic() > deadline:
            names = ", ".join(spec.name for spec in specs)
            raise ClusterError(
                f"the topics {names} were created, and have no leaders after {SETTLE_SECONDS:g} s; look at the brokers"
            )
        pause.wait(_POLL_SECONDS)
