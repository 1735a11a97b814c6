"""What every table of endpoints' health does: the fake, and the real one on a real Kafka."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

import pytest

from connectors.endpoints import EndpointTable as EndpointTableOnKafka
from connectors.memory import MemoryEndpointTable
from schemas import codec
from schemas.endpoint import EndpointState, encode_state
from streams.ports import EndpointTable
from tests.helpers import eventually_async
from tests.subscriptions_topic import CompactedTopic

HEADER = codec.wire_header(1)
MARKER = "marker"


def state(subscription_id: str, **fields: Any) -> EndpointState:
    return EndpointState(subscription_id=subscription_id, changed_ms=1, **fields)


class Harness(Protocol):
    """A table, and how it comes to its content; both return when the table has taken it in."""

    @property
    def table(self) -> EndpointTable: ...

    async def put(self, state: EndpointState) -> None: ...

    async def delete(self, subscription_id: str) -> None: ...


class InMemory:
    """The fake is written to directly."""

    def __init__(self) -> None:
        self.table = MemoryEndpointTable()

    async def put(self, state: EndpointState) -> None:
        self.table.put(state)

    async def delete(self, subscription_id: str) -> None:
        self.table.delete(subscription_id)


class OnKafka:
    """The real one reads its topic."""

    def __init__(self, topic: CompactedTopic, table: EndpointTableOnKafka) -> None:
        self.topic = topic
        self.table = table

    async def put(self, state: EndpointState) -> None:
        self.topic.write(state.subscription_id, encode_state(HEADER, state))
        await self._settle()

    async def delete(self, subscription_id: str) -> None:
        self.topic.write(subscription_id, None)
        await self._settle()

    async def _settle(self) -> None:
        """A marker that comes and goes: what was written before it is taken in."""
        self.topic.write(MARKER, encode_state(HEADER, state(MARKER)))
        await eventually_async(lambda: self.table.get(MARKER))
        self.topic.write(MARKER, None)
        await eventually_async(lambda: self.table.get(MARKER) is None)


@pytest.fixture(params=["memory", "kafka"])
async def harness(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[Harness]:
    if request.param == "memory":
        yield InMemory()
        return
    topic = CompactedTopic(request.getfixturevalue("kafka").bootstrap, f"{prefix}endpoints.state")
    table = EndpointTableOnKafka(topic.conf, topic.name)
    await table.start()
    yield OnKafka(topic, table)
    await table.stop()


async def test_a_new_table_knows_nobody(harness: Harness) -> None:
    assert harness.table.get("a") is None


async def test_the_latest_state_counts_and_a_deletion_removes(harness: Harness) -> None:
    other = state("b", disabled_ms=5, disabled_reason="gone", writer="w1")
    await harness.put(other)
    await harness.put(state("a", circuit="open", opened_ms=3, until_ms=9, openings=1, failing_since_ms=2))
    await harness.put(closed := state("a", url_hash="d6ab8982c8d4b2c0"))
    assert (harness.table.get("a"), harness.table.get("b")) == (closed, other)
    await harness.delete("a")
    assert (harness.table.get("a"), harness.table.get("b")) == (None, other)


async def test_listeners_hear_of_every_change_with_old_and_new(harness: Harness) -> None:
    heard: list[tuple[EndpointState | None, EndpointState | None]] = []

    def listen(old: EndpointState | None, new: EndpointState | None) -> None:
        if MARKER not in (old and old.subscription_id, new and new.subscription_id):
            assert new is None or harness.table.get(new.subscription_id) == new
            heard.append((old, new))

    harness.table.on_change(listen)
    first, second = state("a", circuit="open"), state("a")
    await harness.put(first)
    await harness.put(first)  # as it was: no change
    await harness.put(second)
    await harness.delete("a")
    await harness.delete("a")
    await harness.delete("never there")
    assert heard == [(None, first), (first, second), (second, None)]
