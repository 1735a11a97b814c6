"""What every subscriptions table does: the fake, and the real one on a real Kafka."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import pytest

from connectors.memory import MemoryTable
from connectors.subscriptions import SubscriptionsTable
from schemas.subscription import Subscription
from streams.core.match import MatchIndex
from streams.ports import SubscriptionTable
from tests.helpers import eventually_async
from tests.subscriptions_topic import SubscriptionsTopic, sub

MARKER = "marker"


class Harness(Protocol):
    """A table, and how it comes to its content; both return when the table has taken it in."""

    @property
    def table(self) -> SubscriptionTable: ...

    async def put(self, subscription: Subscription) -> None: ...

    async def delete(self, subscription_id: str) -> None: ...


class InMemory:
    """The fake is written to directly."""

    def __init__(self) -> None:
        self.table = MemoryTable(MatchIndex())

    async def put(self, subscription: Subscription) -> None:
        self.table.put(subscription)

    async def delete(self, subscription_id: str) -> None:
        self.table.delete(subscription_id)


class OnKafka:
    """The real one reads its topic."""

    def __init__(self, topic: SubscriptionsTopic, table: SubscriptionsTable) -> None:
        self.topic = topic
        self.table = table

    async def put(self, subscription: Subscription) -> None:
        self.topic.put(subscription)
        await self._settle()

    async def delete(self, subscription_id: str) -> None:
        self.topic.write(subscription_id, None)
        await self._settle()

    async def _settle(self) -> None:
        """A marker that comes and goes: what was written before it is taken in."""
        self.topic.put(sub(MARKER, tenant="marker"))
        await eventually_async(lambda: self.table.get(MARKER))
        self.topic.write(MARKER, None)
        await eventually_async(lambda: self.table.get(MARKER) is None)


@pytest.fixture(params=["memory", "kafka"])
async def harness(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[Harness]:
    if request.param == "memory":
        yield InMemory()
        return
    topic = SubscriptionsTopic(request.getfixturevalue("kafka").bootstrap, f"{prefix}subscriptions")
    table = topic.table()
    await table.start()
    yield OnKafka(topic, table)
    await table.stop()


async def test_a_new_table_is_empty(harness: Harness) -> None:
    assert (len(harness.table), harness.table.get("a"), list(harness.table.match("t", "x"))) == (0, None, [])


async def test_what_is_put_is_found_and_matched(harness: Harness) -> None:
    a, b = sub("a", "order.*", tenant="acme"), sub("b", "order.created", tenant="acme", state="paused")
    await harness.put(a)
    await harness.put(b)
    assert (len(harness.table), harness.table.get("a"), harness.table.get("b")) == (2, a, b)
    assert sorted(s.id for s in harness.table.match("acme", "order.created")) == ["a", "b"]
    assert list(harness.table.match("acme", "order.paid")) == [a]
    assert list(harness.table.match("default", "order.created")) == []


async def test_a_later_version_replaces_and_a_deletion_removes(harness: Harness) -> None:
    await harness.put(sub("a", "x"))
    await harness.put(new := sub("a", "y", state="disabled"))
    assert (list(harness.table.match("default", "x")), list(harness.table.match("default", "y"))) == ([], [new])
    await harness.delete("a")
    assert (len(harness.table), harness.table.get("a"), list(harness.table.match("default", "y"))) == (0, None, [])


async def test_a_match_is_the_same_object_until_the_tenant_changes(harness: Harness) -> None:
    await harness.put(sub("a", "x"))
    before = harness.table.match("default", "x")
    await harness.put(sub("b", "x", tenant="other"))
    assert harness.table.match("default", "x") is before
    await harness.put(sub("a", "x", state="paused"))
    assert harness.table.match("default", "x") is not before


async def test_listeners_hear_of_every_change_with_old_and_new(harness: Harness) -> None:
    heard: list[tuple[Subscription | None, Subscription | None]] = []

    def listen(old: Subscription | None, new: Subscription | None) -> None:
        if MARKER not in (old and old.id, new and new.id):
            heard.append((old, new))

    harness.table.on_change(listen)
    first, second = sub("a", "x"), sub("a", "y")
    await harness.put(first)
    await harness.put(first)  # as it was: no change
    await harness.put(second)
    await harness.delete("a")
    await harness.delete("a")
    await harness.delete("never there")
    assert heard == [(None, first), (first, second), (second, None)]


async def test_a_listener_sees_the_table_after_the_change(harness: Harness) -> None:
    seen: list[bool] = []
    harness.table.on_change(lambda old, new: seen.append(new is None or harness.table.get(new.id) == new))
    await harness.put(sub("a"))
    await harness.delete("a")
    assert all(seen)
    assert seen
