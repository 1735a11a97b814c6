"""Fixtures for every test: one Kafka for the whole run, started only when a test asks for it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from connectors.local_kafka import Cluster, kafka_cluster
from tests.postgres import new_database, postgres_server

#: Names the Kafka of a run of several processes (tests/__main__.py). No setting: what a test starts must be told of it.
BOOTSTRAP = "TESTS_BOOTSTRAP"


@pytest.fixture(scope="session")
def kafka() -> Iterator[Cluster]:
    """A real Kafka: the one that all processes of the run share, or DISTRIBUTARY_BOOTSTRAP names, else its own."""
    given = os.environ.get(BOOTSTRAP) or os.environ.get("DISTRIBUTARY_BOOTSTRAP")
    with kafka_cluster(given=given, answer_seconds=60.0) as cluster:
        yield cluster


def new_prefix() -> str:
    """A prefix for topics, groups and transactional ids that nobody else has, such as `t3f2a9c.`."""
    return f"t{uuid.uuid4().hex[:6]}."


@pytest.fixture
def prefix() -> str:
    """One for the test."""
    return new_prefix()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL, of this process's own."""
    with postgres_server() as url:
        if url is None:
            pytest.skip("there is neither a `postgres` on this machine nor a Docker engine")
        yield url


@pytest.fixture
def database(postgres_url: str) -> str:
    """The URL of a database that nobody else has."""
    return new_database(postgres_url, f"d{uuid.uuid4().hex[:12]}")
