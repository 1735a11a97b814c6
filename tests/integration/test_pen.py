"""The pen on a real Kafka: no update is lost, whoever writes, whoever is fenced, killed or cut off meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from confluent_kafka import Producer

from connectors.local_brokers import choose_doors, local_brokers
from connectors.local_kafka import Cluster
from connectors.log_reader import KafkaLogReader
from connectors.pen import WAITING_MAX, Pen, PenBusyError, PenError
from schemas.errors import RecordTooLargeError
from schemas.frame import Out
from tests.cli import ROOT
from tests.helpers import eventually_async
from tests.integration.counters import Counters
from tests.subscriptions_topic import CompactedTopic


@pytest.fixture
def topic(kafka: Cluster, prefix: str) -> CompactedTopic:
    return CompactedTopic(kafka.bootstrap, f"{prefix}counters")


class Hand:
    """A pen and its table: one process's."""

    def __init__(self, pen: Pen, table: Counters) -> None:
        self.pen, self.table = pen, table

    async def add(self, name: str) -> int:
        """One more; the sum that this process sees when it is told that it was written."""
        await self.pen.change(self.table.adding(name), about=name)
        return self.table.sums[name]


@asynccontextmanager
async def hand(topic: CompactedTopic, *, write_seconds: float = 30.0) -> AsyncIterator[Hand]:
    table = Counters(topic.conf, topic.name)
    pen = Pen(topic.conf, pen_id(topic), [table], lambda: 0.5, write_seconds=write_seconds)
    await table.start()
    await pen.start()
    try:
        yield Hand(pen, table)
    finally:
        await pen.close()
        await table.stop()


def pen_id(topic: CompactedTopic) -> str:
    return f"{topic.name}.pen"


async def history(topic: CompactedTopic, name: str) -> list[int]:
    """Every committed sum, in order."""
    reader = KafkaLogReader(topic.conf, topic.name)
    found: list[int] = []
    position = 0
    try:
        while records := await reader.read(0, position):
            position = records[-1].offset() + 1
            found += [int(record.value() or b"0") for record in records if record.key() == name.encode()]
    finally:
        await reader.close()
    return found


async def together(*asked: Awaitable[object]) -> list[object]:
    return await asyncio.gather(*asked)


async def test_what_is_written_is_seen_when_it_is_acknowledged(topic: CompactedTopic) -> None:
    async with hand(topic) as one:
        assert [await one.add("a") for _ in range(3)] == [1, 2, 3]
        assert one.table.offset_of("a") is not None
        first = one.table.offset_of("a")
        await one.add("b")
        assert one.table.offset_of("a") == first
        await one.pen.change(lambda: [(topic.name, b"a", None, 0, None)])
        assert one.table.offset_of("a") is None
        assert one.pen.takings == 1


async def test_changes_of_different_things_share_a_transaction(topic: CompactedTopic) -> None:
    async with hand(topic) as one:
        await one.add("first")
        ends = (await together(*(one.add(f"n{number}") for number in range(100))), one.table.offset_of("n99"))
        assert ends[0] == [1] * 100
        # A transaction ends with a marker, which takes an offset.
        assert ends[1] is not None
        assert ends[1] < 2 * 100, "fewer markers than changes"


async def test_changes_of_one_thing_see_each_other(topic: CompactedTopic) -> None:
    async with hand(topic) as one:
        assert await together(*(one.add("a") for _ in range(30))) == list(range(1, 31))
        anything = (one.pen.change(one.table.adding("a")) for _ in range(5))
        await together(*anything, one.add("a"), one.add("b"))
    assert await history(topic, "a") == list(range(1, 37))


async def test_two_take_turns_and_lose_nothing(topic: CompactedTopic) -> None:
    async with hand(topic) as one, hand(topic) as other:
        for number in range(1, 11):  # in turns: each time the pen is taken
            assert await (one if number % 2 else other).add("a") == number
        assert (one.pen.takings, other.pen.takings) == (5, 5)
        await together(*(each.add("a") for each in (one, other) for _ in range(50)))
    assert await history(topic, "a") == list(range(1, 111))


async def test_a_refusal_is_about_what_others_wrote_too(topic: CompactedTopic) -> None:
    async with hand(topic) as one, hand(topic) as other:
        await one.add("a")
        for most in range(2, 8):
            await other.add("a")
            with pytest.raises(OverflowError, match=f"a is {most}"):  # not what it was when `one` last wrote
                await one.pen.change(one.table.adding("a", most=most))


async def test_who_is_fenced_in_the_middle_decides_again(topic: CompactedTopic) -> None:
    async with hand(topic) as one:
        await one.add("a")
        seen: list[int] = []

        def decide() -> list[Out]:
            if not seen:  # somebody else takes the pen between the decision and its transaction, and counts
                usurper = Producer({**topic.conf, "transactional.id": pen_id(topic)})
                usurper.init_transactions(60)
                usurper.begin_transaction()
                usurper.produce(topic.name, b"2", b"a", 0)
                usurper.commit_transaction(60)
            seen.append(one.table.sums["a"])
            return one.table.adding("a")()

        await one.pen.change(decide)
        assert seen == [1, 2]
        assert one.table.sums["a"] == 3
    assert await history(topic, "a") == [1, 2, 3]


async def test_what_a_killed_writer_left_open_is_nothing(topic: CompactedTopic) -> None:
    dead = Producer({**topic.conf, "transactional.id": pen_id(topic)})
    dead.init_transactions(60)
    dead.begin_transaction()
    dead.produce(topic.name, b"100", b"a", 0)
    assert dead.flush(60) == 0  # in the log, and never committed
    async with hand(topic) as one:
        assert await one.add("a") == 1
    assert await history(topic, "a") == [1]


@pytest.mark.timeout(300)
async def test_processes_that_are_killed_lose_nothing_that_was_acknowledged(
    kafka: Cluster, topic: CompactedTopic, tmp_path: Path
) -> None:
    said: list[int] = []
    async with hand(topic) as one:
        for life in range(4):
            out = tmp_path / f"out{life}"
            with out.open("wb") as output:
                command = [sys.executable, "-m", "tests.integration.counters"]
                arguments = [kafka.bootstrap, topic.name, pen_id(topic), "a"]
                process = subprocess.Popen(  # noqa: ASYNC220
                    [*command, *arguments], stdout=output, cwd=ROOT
                )
            try:
                lines = out.read_text
                await eventually_async(lambda: len(lines().splitlines()) >= 2, timeout_s=60, message="it counts")  # noqa: B023
                for _ in range(5):
                    await one.add("a")
                    said.append(one.table.decided["a"])
            finally:
                process.kill()
                process.wait()
            said += [int(line) for line in out.read_text().splitlines(keepends=True) if line.endswith("\n")]
        total = await one.add("a")
    assert await history(topic, "a") == list(range(1, total + 1))
    assert len(set(said)) == len(said) < total


async def test_one_that_is_too_large_fails_alone(topic: CompactedTopic) -> None:
    async with hand(topic) as one:
        await one.add("a")

        def large() -> list[Out]:
            return [(topic.name, b"large", b"1" + b" " * (11 << 20), 0, None)]

        asked = [one.add("a"), one.pen.change(large, about="large"), one.add("b")]
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert (done[0], done[2]) == (2, 1)
        assert isinstance(done[1], RecordTooLargeError)
        assert "large" not in one.table.sums


async def test_nothing_to_write_and_nobody_who_waits_any_more(topic: CompactedTopic) -> None:
    async with hand(topic) as one:
        await one.pen.change(list)
        gone = asyncio.create_task(one.add("gone"))
        stays = asyncio.create_task(one.add("stays"))
        await asyncio.sleep(0)
        gone.cancel()
        assert await stays == 1
        assert "gone" not in one.table.sums


@pytest.mark.timeout(300)
async def test_while_kafka_is_away_changes_fail_in_time_and_then_work_again(tmp_path: Path) -> None:
    with local_brokers(tmp_path / "kafka", choose_doors(1)) as brokers:
        topic = CompactedTopic(brokers.bootstrap, "counters")
        topic.conf["reconnect.backoff.max.ms"] = 1_000  # as `client_config` has it
        async with hand(topic, write_seconds=6.0) as one:

            async def added() -> bool:
                with contextlib.suppress(PenError):
                    return await one.add("a") > 0
                return False

            await eventually_async(cast(Any, added), timeout_s=60)
            brokers.stop(0)
            waiting = [asyncio.create_task(one.add(f"w{number}")) for number in range(WAITING_MAX + 300)]
            done = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(each) for each in done} == {PenError, PenBusyError}
            assert not await added()
            brokers.start(0)
            await eventually_async(cast(Any, added), timeout_s=60)
            total = one.table.sums["a"]
        assert await history(topic, "a") == list(range(1, total + 1))


async def test_what_waits_is_told_when_the_pen_is_put_away(topic: CompactedTopic) -> None:
    async with hand(topic) as one:
        await one.add("a")
        waits = asyncio.create_task(one.add("b"))
        await asyncio.sleep(0)
        await one.pen.close()
        with pytest.raises(PenError, match="stops"):
            await waits
        with pytest.raises(PenError, match="closed"):
            await one.add("c")
