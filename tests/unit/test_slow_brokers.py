"""Brokers that answer, and take their time: they are not taken for ones that do not answer.

The broker is librdkafka's mock, which answers each request as late as it is told.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from connectors.admin import connected
from connectors.local_kafka import answers

#: More than a first try waits for.
LATE_MS = 600


@pytest.fixture
def slow() -> Iterator[str]:
    """The address of one."""
    host = Producer({"test.mock.num.brokers": 1, "test.mock.broker.rtt": LATE_MS, "log_level": 4})
    (broker,) = host.list_topics(timeout=60).brokers.values()
    yield f"{broker.host}:{broker.port}"
    del host


def test_a_command_finds_it(slow: str) -> None:
    assert connected({"bootstrap.servers": slow}).list_topics(timeout=60).brokers


def test_who_starts_one_notices_it(slow: str) -> None:
    assert answers(slow, 60.0)
