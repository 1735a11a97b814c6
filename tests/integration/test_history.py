"""`distributary history` on a real Kafka: no gap and no double, however often it is killed, and one at a time."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from connectors.admin import apply_topics
from connectors.clock import SystemClock
from connectors.feed import Reader
from connectors.history.attempts import HistoryUnavailableError
from connectors.history.sql_store import SqlStore
from connectors.history.store import Batch, Span, Wanted
from connectors.history.stores import open_store
from connectors.local_kafka import Cluster
from schemas.delivery import Attempt, Delivery
from schemas.ids import delivery_id
from schemas.topics import Topics
from tests.attempt_log import AttemptLog, attempt_header, delivery
from tests.cli import Cli
from tests.helpers import eventually_async

ATTEMPTS = 120_000
SUBSCRIPTIONS = [f"s{n}" for n in range(20)]
KILLS = {"sqlite": 8, "postgres": 4}
#: Not long ago: what is older than it keeps, `history` removes.
T0 = SystemClock().now_ms() // 1_000 * 1_000 - 3_600_000


class Place:
    """A cluster with a topic of attempts, a database, and the command with the settings of both."""

    def __init__(self, bootstrap: str, topics: Topics, log: AttemptLog, url: str, directory: Path) -> None:
        self.bootstrap, self.topics, self.log, self.url = bootstrap, topics, log, url
        self.cli = Cli(directory, {"bootstrap": bootstrap, "prefix": topics.prefix, "history": url})
        self.store: SqlStore = open_store(url, SystemClock().monotonic)

    async def in_topic(self) -> list[tuple[int, int]]:
        """(partition, offset) of every committed record."""
        found = []
        config = {"bootstrap.servers": self.bootstrap}
        async with Reader(config, [self.topics.attempts], from_beginning=True) as reader:
            async for batch in reader.batches(follow=False):
                found += [(message.partition() or 0, message.offset() or 0) for message in batch]
        return sorted(found)

    async def in_store(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        before = None
        with contextlib.suppress(HistoryUnavailableError):  # nothing is there yet
            while True:
                page = await self.store.search(Wanted(), limit=10_000, before=before)
                found += [(each.partition, each.offset) for each in page.attempts]
                before = page.next
                if before is None:
                    break
        return sorted(found)

    async def stored(self) -> int:
        counts = [await self.store_count(subscription) for subscription in SUBSCRIPTIONS]
        return sum(counts)

    async def store_count(self, subscription: str) -> int:
        """By the latencies: every attempt here was a POST."""
        with contextlib.suppress(HistoryUnavailableError):
            found = await self.store.latencies(subscription, T0 - 3_600_000, T0 + 7_200_000)
            return sum(found.counts["attempt"].values())
        return 0

    async def until(self, count: int) -> int:
        """Once so many are stored, how many are."""

        async def reached() -> int:
            now = await self.stored()
            return now if now >= count else 0

        return await eventually_async(cast(Any, reached), timeout_s=120.0, message=f"{count} attempts are stored")


@pytest.fixture(params=["sqlite", "postgres"])
async def place(request: pytest.FixtureRequest, kafka: Cluster, prefix: str, tmp_path: Path) -> AsyncIterator[Place]:
    topics = Topics(prefix, 4)
    await apply_topics({"bootstrap.servers": kafka.bootstrap}, topics.specs(), -1)
    log = AttemptLog(kafka.bootstrap, topics.attempts, await attempt_header(topics))
    url = f"sqlite:///{tmp_path / 'h.db'}" if request.param == "sqlite" else request.getfixturevalue("database")
    made = Place(kafka.bootstrap, topics, log, url, tmp_path)
    yield made
    await made.store.close()


def some(count: int, outcome: str = "delivered") -> list[tuple[Delivery, Attempt]]:
    deliveries = [delivery(subscription, n, T0) for n in range(50) for subscription in SUBSCRIPTIONS]
    return [
        (deliveries[n % len(deliveries)], Attempt(1 + n // len(deliveries), outcome, T0 + n, 1_000, 200))
        for n in range(count)
    ]


async def test_killed_again_and_again_there_is_no_gap_and_no_double(place: Place) -> None:
    kills = KILLS["sqlite" if place.url.startswith("sqlite") else "postgres"]
    attempts = some(ATTEMPTS)
    place.log.write(attempts[: ATTEMPTS // 2])
    part = ATTEMPTS // 2 // kills
    stored = 0
    for number in range(kills):  # there is more each time, however fast it was
        begin = ATTEMPTS // 2 + number * part
        place.log.write(attempts[begin : begin + part])
        with place.cli.started("history") as started:
            stored = await place.until(stored + 1)
            started.process.kill()
            started.process.wait()
        stored = await place.stored()
    place.log.write(some(1_000))
    with place.cli.started("history") as started:
        await place.until(ATTEMPTS + 1_000)
        started.process.send_signal(signal.SIGTERM)
        started.ends(0)
    expected = await place.in_topic()
    assert len(expected) == ATTEMPTS + 1_000
    assert await place.in_store() == expected
    assert await place.stored() == len(expected), "latencies are counted once, too"


async def test_a_second_one_waits_and_takes_over(place: Place) -> None:
    place.log.write(some(10))
    with place.cli.started("history") as first:
        first.said("ready: ")
        directory = place.cli.directory / "second"
        directory.mkdir()
        with Cli(directory, place.cli.settings).started("history") as second:
            second.said("another process writes", on=second.err)
            first.process.kill()
            second.said("ready: ")
            place.log.write(some(10))
            await place.until(20)
            second.process.send_signal(signal.SIGTERM)
            second.ends(0)
    assert await place.in_store() == await place.in_topic()


async def test_what_is_no_attempt_is_passed_over_and_a_topic_made_anew_is_noticed(place: Place) -> None:
    place.log.write(some(3))
    for value in (None, b"", b"\x00\x00\x00\x00\x01nonsense", place.log.header + b"\x02", b"\x00\xff\xff\xff\xff"):
        place.log.raw(value)
    place.log.write(some(3))
    with place.cli.started("history") as started:
        await place.until(6)
        started.process.send_signal(signal.SIGTERM)
        started.ends(0)
    assert started.err.read_text().count("is no attempt; passed over") == 5
    assert started.err.read_text().count("added 6 attempts") == 1

    positions = await place.store.acquire(place.topics.attempts)
    assert positions
    partition, position = next(iter(positions.items()))

    await place.store.write(Batch([], {partition: Span(position, position + 1_000)}))
    await place.store.release()
    assert "it was made anew; name another store" in place.cli.fails("history")


async def test_attempts_are_searched(place: Place) -> None:
    one = delivery("s1", 1, T0)
    refused = Attempt(1, "retryable", T0 + 1_000, 30_000, 503, "", "try later", b"Overloaded", T0 + 6_000)
    place.log.write([(one, refused), (one, Attempt(2, "delivered", T0 + 6_000, 20_000, 200))])
    place.log.write([(delivery("s2", 1, T0), Attempt(1, "exhausted", T0 + 3_000, 20_000, 0, "timeout"))])
    with place.cli.started("history") as started:
        started.said("ready: ")

        async def all_there() -> bool:
            return len(await place.in_store()) == 3

        await eventually_async(cast(Any, all_there), message="three are stored")

        def numbers(*options: str) -> list[tuple[str, int]]:
            return [(each["subscription_id"], each["attempt"]) for each in search(*options)]

        def search(*options: str) -> list[Any]:
            return place.cli.lines("attempts", "search", "--json", *options)

        assert numbers() == [("s1", 2), ("s2", 1), ("s1", 1)]
        assert numbers("--limit", "1") == [("s1", 2)]
        assert numbers("--delivery", delivery_id("evt_1", "s1")) == [("s1", 2), ("s1", 1)]
        assert numbers("--failed") == [("s2", 1), ("s1", 1)]
        assert numbers("--outcome", "delivered", "--outcome", "exhausted") == [("s1", 2), ("s2", 1)]
        assert numbers("--status", "5xx") == [("s1", 1)]
        assert numbers("--status", "0") == [("s2", 1)]
        assert numbers("--text", "overload") == [("s1", 1)]
        assert numbers("--event", "evt_1", "--subscription", "s2", "--tenant", "acme") == [("s2", 1)]
        assert search("--status", "503")[0]["excerpt"] == "Overloaded"
        shown = place.cli.run("attempts", "search", "--status", "503").stdout
        assert f"retryable  {delivery_id('evt_1', 's1')} → s1 #1  503  30 ms  order.created" in shown
        assert "no attempt fits" in place.cli.run("attempts", "search", "--tenant", "nobody").stderr
        posts, whole = place.cli.lines("attempts", "latency", "s1", "--json")
        assert (posts["kind"], posts["count"]) == ("attempt", 2)
        assert 20_000 <= posts["p50_us"] < 22_000
        assert (whole["kind"], whole["count"]) == ("delivered", 1)
        assert 6_020_000 <= whole["p99_us"] < 6_600_000
        assert "attempt            2  p50 " in place.cli.run("attempts", "latency", "s1").stdout
        assert " - " in place.cli.run("attempts", "latency", "s9").stdout
    assert "is no status" in place.cli.misused("attempts", "search", "--status", "6xx")
    assert "is none of" in place.cli.misused("attempts", "search", "--outcome", "lost")


def test_a_store_that_is_none_is_said(kafka: Cluster, prefix: str, tmp_path: Path) -> None:
    cli = Cli(tmp_path, {"bootstrap": kafka.bootstrap, "prefix": prefix})
    for url in ("mysql://u:hunter2@h/d", "sqlite://", "postgresql://u:hunter2@[::1/d"):
        said = cli.fails("attempts", "search", "--store", url)
        assert said.startswith("the setting history is wrong: it is n")
        assert "hunter2" not in said
    assert "cannot be used" in cli.fails("attempts", "search", "--store", "sqlite:///none.db")
    assert not (tmp_path / "none.db").exists()
    said = cli.fails("attempts", "search", "--store", "postgresql://u:hunter2@127.0.0.1:1/d")
    assert "PostgreSQL at 127.0.0.1/d cannot be used" in said
    assert "hunter2" not in said
    assert "topics apply" in cli.fails("history")
