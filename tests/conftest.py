"""Fixtures for every test: one Kafka for the whole run, started only when a test asks for it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from connectors.local_kafka import Cluster, kafka_cluster


@pytest.fixture(scope="session")
def kafka() -> Iterator[Cluster]:
    """A real Kafka: the one DISTRIBUTARY_BOOTSTRAP names, else one of this run's own."""
    with kafka_cluster(given=os.environ.get("DISTRIBUTARY_BOOTSTRAP")) as cluster:
        yield cluster


def new_prefix() -> str:
    """A prefix for topics, groups and transactional ids that nobody else has, such as `t3f2a9c.`."""
    return f"t{uuid.uuid4().hex[:6]}."


@pytest.fixture
def prefix() -> str:
    """One for the test."""
    return new_prefix()
