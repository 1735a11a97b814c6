"""A secured Kafka for tests: its certificates, its users, and the rights of docs/how-to/secure-kafka.md.

Users are the roles; each has its name as the beginning of its password. Nobody has a right but those given here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from connectors.local_secure import ADMINISTRATOR, secure_cluster
from tests.docs import ROOT, tables
from tests.helpers import eventually

DOCUMENT = ROOT / "docs/how-to/secure-kafka.md"
RESOURCES = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional id": ResourceType.TRANSACTIONAL_ID,
}


class Right(msgspec.Struct, frozen=True):
    """A row of the document's table."""

    role: str
    resource: str
    name: str
    operations: tuple[str, ...]


def rights() -> list[Right]:
    """All rows."""
    rows = tables(DOCUMENT.read_text(), "Give each role what it needs, and no more")
    return [Right(role, resource, name.strip("`"), tuple(given.split(", "))) for role, resource, name, given in rows]


ROLES = sorted({right.role for right in rights()})


_SOME: Any = None  # whichever; the library's types do not know
EVERYTHING = AclBindingFilter(
    ResourceType.ANY, _SOME, ResourcePatternType.ANY, _SOME, _SOME, AclOperation.ANY, AclPermissionType.ANY
)


class Secured:
    """A cluster whose users log in with SCRAM over TLS."""

    def __init__(self, bootstrap: str, plain: str, ca_file: Path, other_ca_file: Path) -> None:
        self.bootstrap = bootstrap
        self.plain = plain
        self.ca_file = ca_file
        self.other_ca_file = other_ca_file
        self._admin = AdminClient({"bootstrap.servers": plain})

    def login(self, user: str, **more: Any) -> dict[str, Any]:
        """The settings of a process of this user."""
        return {
            "bootstrap": self.bootstrap,
            "kafka_username": user,
            "kafka_password": password(user),
            "kafka_ca_file": self.ca_file,
        } | more

    def grant(self, prefix: str, given: Sequence[Right]) -> None:
        """These, with `prefix` in place of the document's; they are in force on return."""
        bindings = [
            AclBinding(
                RESOURCES[right.resource],
                named(right.name, prefix).removesuffix("*"),
                ResourcePatternType.PREFIXED if right.name.endswith("*") else ResourcePatternType.LITERAL,
                f"User:{right.role}",
                "*",
                AclOperation[operation],
                AclPermissionType.ALLOW,
            )
            for right in given
            for operation in right.operations
        ]
        for made in self._admin.create_acls(bindings).values():
            made.result(60)
        # The controller has them, and the broker, which is asked here, a moment later.
        eventually(lambda: set(bindings) <= self._in_force(), timeout_s=60, message="the rights are in force")

    def revoke_all(self) -> None:
        """Nobody may do anything, on return."""
        for removed in self._admin.delete_acls([EVERYTHING]).values():
            removed.result(60)
        eventually(lambda: not self._in_force(), timeout_s=60, message="no right is in force")

    def _in_force(self) -> set[AclBinding]:
        return set(self._admin.describe_acls(EVERYTHING).result(60))


def named(name: str, prefix: str) -> str:
    """A name of the document, for topics of this prefix: the registry's topic has none, and gets it."""
    return name.replace("hooks.", prefix).replace("_schemas", f"{prefix}_schemas")


def password(user: str) -> str:
    """Of a user."""
    return f"{user}-password"


@contextlib.contextmanager
def secured(directory: Path) -> Iterator[Secured]:
    """A cluster with a user for each role of the document."""
    authority, other = trustme.CA(), trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    identity = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    identity += "".join(each.bytes().decode() for each in issued.cert_chain_pems)
    ca_file, other_ca_file = directory / "ca.pem", directory / "other.pem"
    ca_file.write_bytes(authority.cert_pem.bytes())
    other_ca_file.write_bytes(other.cert_pem.bytes())
    users = {user: password(user) for user in (ADMINISTRATOR, *ROLES)}
    with secure_cluster(identity=identity, users=users) as cluster:
        yield Secured(cluster.bootstrap, cluster.plain, ca_file, other_ca_file)
