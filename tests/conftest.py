"""Fixtures for every test: one Kafka for the whole run, started only when a test asks for it.

And how Hypothesis looks for examples: the same ones in each run, so that a run fails for what changed, and for as long
as it takes on a machine that is busy. `make fuzz` is for what nobody has thought of.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from connectors.local_kafka import Cluster, kafka_cluster
from tests.postgres import new_database, postgres_server

#: Names the Kafka of a run of several processes (tests/__main__.py). No setting: what a test starts must be told of it.
BOOTSTRAP = "TESTS_BOOTSTRAP"

settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("steady")


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
