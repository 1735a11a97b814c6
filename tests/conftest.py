"""Fixtures for every test: one Kafka for the whole run, started only when a test asks for it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from connectors.local_kafka import Cluster, kafka_cluster

#: Names the Kafka of a run of several processes (tests/__main__.py). No setting: what a test starts must be told of it.
BOOTSTRAP = "TESTS_BOOTSTRAP"


@pytest.fixture(scope="session")
def kafka() -> Iterator[Cluster]:
    """A real Kafka: the one that all processes of the run share, or DISTRIBUTARY_BOOTSTRAP names, else its own."""
    given = os.environ.get(BOOTSTRAP) or os.environ.get("DISTRIBUTARY_BOOTSTRAP")
    with kafka_cluster(given=given) as cluster:
        yield cluster


def new_prefix() -> str:
    """A prefix for topics, groups and transactional ids that nobody else has, such as `t3f2a9c.`."""
    return f"t{uuid.uuid4().hex[:6]}."


@pytest.fixture
def prefix() -> str:
    """One for the test."""
    return new_prefix()
