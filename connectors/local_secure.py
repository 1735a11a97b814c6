"""A real Kafka that lets nobody in without a password: SCRAM over TLS, and rights by ACL. For tests.

One broker from packages, as in `local_kafka.py`. Its users exist from the start; what they may do is for the
administrator to say. The broker talks to itself, and only to itself, without either. This file makes no certificates.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from connectors.guardian import guarded
from connectors.local_kafka import (
    DEVELOPMENT,
    START_SECONDS,
    VERSION,
    Finders,
    KafkaUnavailable,
    answers,
    broker_commands,
    find_packages,
    log_reason,
    new_cluster_id,
)

MECHANISM = "SCRAM-SHA-512"
ADMINISTRATOR = "admin"
_LISTENERS = ("SASL_SSL", "PLAINTEXT", "CONTROLLER")


class SecureCluster(msgspec.Struct, frozen=True):
    """`bootstrap` is for users, over TLS; `plain` is the broker's own door: who comes in there may do anything."""

    bootstrap: str
    plain: str


@contextlib.contextmanager
def secure_cluster(
    *,
    identity: str,
    users: Mapping[str, str],
    version: str = VERSION,
    heap_mib: int = 512,
    finders: Finders = Finders(),  # noqa: B008, frozen
) -> Iterator[SecureCluster]:
    """A cluster to use inside the block; `users` are passwords by name, of whom `ADMINISTRATOR` may do anything.

    `identity` is a PEM text: the broker's private key (PKCS#8), then its certificates, for 127.0.0.1. KafkaUnavailable.
    """
    java, jars = find_packages(version, lambda _: None, finders)
    home = Path(tempfile.mkdtemp(prefix="distributary-kafka-"))
    (home / "identity.pem").touch(mode=0o600)
    (home / "identity.pem").write_text(identity)
    ports = dict(zip(_LISTENERS, finders.ports(len(_LISTENERS)), strict=True))
    settings = DEVELOPMENT | {
        "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items()),
        "advertised.listeners": ",".join(f"{name}://127.0.0.1:{ports[name]}" for name in _LISTENERS[:2]),
        "listener.security.protocol.map": "SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "controller.quorum.voters": f"1@127.0.0.1:{ports['CONTROLLER']}",
        "log.dirs": str(home / "data"),
        "sasl.enabled.mechanisms": MECHANISM,
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(home / "identity.pem"),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{ADMINISTRATOR};User:ANONYMOUS",
    }
    commands = broker_commands(java, jars, settings, home, heap_mib, new_cluster_id())
    for name, password in users.items():
        commands[0] += ["--add-scram", f"{MECHANISM}=[name={name},password={password}]"]
    log = home / "kafka.log"
    plain = f"127.0.0.1:{ports['PLAINTEXT']}"
    with guarded(*commands, log=log, remove=home) as broker:
        if not answers(plain, START_SECONDS, broker.ended):
            raise KafkaUnavailable(f"Apache Kafka {version} did not start: {log_reason(log.read_text())}")
        yield SecureCluster(f"127.0.0.1:{ports['SASL_SSL']}", plain)
