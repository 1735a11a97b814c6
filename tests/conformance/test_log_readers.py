"""What every log reader promises: run on the fake and on librdkafka with a real Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol, cast

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from connectors.local_kafka import Cluster
from connectors.log_reader import CONSUMERS_MAX, SKIP_MAX, KafkaLogReader
from connectors.memory import MemoryKafka, MemoryLogReader
from schemas.frame import Headers, Record
from streams.ports import LogReader, SpanReader
from tests.helpers import eventually_async
from tests.topics import create_topics

PARTITIONS = 6
NOW_MS = 1_760_000_000_000


class Transaction(Protocol):
    """An open transaction."""

    async def end(self, *, commit: bool) -> None: ...


class World(Protocol):
    """A Kafka with one topic of 6 partitions, and a reader of it."""

    reader: SpanReader

    async def write(self, values: Sequence[bytes | None], partition: int = 0, headers: Headers | None = None) -> None:
        """Committed records with the key `key` and the timestamp NOW_MS, one offset after the other."""

    async def begin(self, values: Sequence[bytes], partition: int = 0) -> Transaction: ...

    async def remove(self, before: int, partition: int = 0) -> None:
        """As retention does."""


class MemoryTransaction:
    """The fake writes a transaction as a whole; of an aborted one, used-up offsets are what stays."""

    def __init__(self, world: MemoryWorld, values: Sequence[bytes], partition: int) -> None:
        self._world = world
        self._values = values
        self._partition = partition

    async def end(self, *, commit: bool) -> None:
        if commit:
            await self._world.write(self._values, self._partition)
        else:
            self._world.kafka.skip("log", self._partition, len(self._values))
        self._world.kafka.skip("log", self._partition)  # the marker


class MemoryWorld:
    def __init__(self) -> None:
        self.kafka = MemoryKafka({"log": PARTITIONS}, now_ms=lambda: NOW_MS)
        self.reader: SpanReader = MemoryLogReader(self.kafka, "log")

    async def write(self, values: Sequence[bytes | None], partition: int = 0, headers: Headers | None = None) -> None:
        self.kafka.write([("log", b"key", value, partition, headers) for value in values])

    async def begin(self, values: Sequence[bytes], partition: int = 0) -> Transaction:
        return MemoryTransaction(self, values, partition)

    async def remove(self, before: int, partition: int = 0) -> None:
        self.kafka.remove("log", partition, before)


class KafkaTransaction:
    def __init__(self, world: KafkaWorld, producer: Producer, partition: int) -> None:
        self._world = world
        self._producer = producer
        self._partition = partition

    async def end(self, *, commit: bool) -> None:
        """The marker may be written after the answer: wait for it, so that offsets are known."""
        before = self._world.end_of(self._partition)
        end = self._producer.commit_transaction if commit else self._producer.abort_transaction
        await asyncio.to_thread(end, 60)
        await eventually_async(lambda: self._world.end_of(self._partition) > before)


class KafkaWorld:
    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.bootstrap = bootstrap
        self.topic = f"{prefix}log"
        self._numbers = itertools.count()
        self._admin = AdminClient({"bootstrap.servers": bootstrap})
        topic = NewTopic(self.topic, PARTITIONS, 1, config={"retention.ms": "-1"})  # NOW_MS is long ago
        create_topics(self._admin, topic)
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5})
        self._watcher = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": f"{prefix}watcher", "isolation.level": "read_uncommitted"}
        )
        self.real = KafkaLogReader({"bootstrap.servers": bootstrap}, self.topic)
        self.reader: SpanReader = self.real

    async def write(self, values: Sequence[bytes | None], partition: int = 0, headers: Headers | None = None) -> None:
        for value in values:
            self._producer.produce(
                self.topic, value, b"key", partition, timestamp=NOW_MS, headers=cast(Any, headers or [])
            )
        assert await asyncio.to_thread(self._producer.flush, 60) == 0

    async def begin(self, values: Sequence[bytes], partition: int = 0) -> Transaction:
        producer = Producer(
            {"bootstrap.servers": self.bootstrap, "transactional.id": f"{self.topic}.{next(self._numbers)}"}
        )
        await asyncio.to_thread(producer.init_transactions, 60)
        producer.begin_transaction()
        for value in values:
            producer.produce(self.topic, value, b"key", partition, timestamp=NOW_MS)
        assert await asyncio.to_thread(producer.flush, 60) == 0  # the records are in the log, nobody may see them
        return KafkaTransaction(self, producer, partition)

    def end_of(self, partition: int) -> int:
        """One past the last record or marker, seen or not."""
        return self._watcher.get_watermark_offsets(TopicPartition(self.topic, partition), 60)[1]

    async def remove(self, before: int, partition: int = 0) -> None:
        place = TopicPartition(self.topic, partition, before)
        await asyncio.wrap_future(self._admin.delete_records([place])[place])


@pytest.fixture(params=["memory", "kafka"])
async def world(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[World]:
    if request.param == "memory":
        made: World = MemoryWorld()
    else:
        kafka: Cluster = request.getfixturevalue("kafka")
        made = KafkaWorld(kafka.bootstrap, prefix)
    yield made
    await asyncio.wait_for(made.reader.close(), 60)


@pytest.fixture
async def real(kafka: Cluster, prefix: str) -> AsyncIterator[KafkaWorld]:
    world = KafkaWorld(kafka.bootstrap, prefix)
    yield world
    await asyncio.wait_for(world.reader.close(), 60)


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


def values(records: Sequence[Record]) -> list[bytes | None]:
    return [record.value() for record in records]


async def read_on(reader: LogReader, offset: int, partition: int = 0) -> list[Record]:
    """Everything from the offset to the end."""
    found: list[Record] = []
    while records := await reader.read(partition, offset):
        found += records
        offset = records[-1].offset() + 1
    return found


async def test_everything_from_an_offset_to_the_end_in_order(world: World) -> None:
    await world.write(numbered(1_200))
    first = await world.reader.read(0, 0)
    assert 1 <= len(first) <= 500
    assert values(first) == numbered(len(first))
    records = await read_on(world.reader, 0)
    assert values(records) == numbered(1_200)
    assert [record.offset() for record in records] == list(range(1_200))
    assert values(await read_on(world.reader, 1_195)) == numbered(5, 1_195)


async def test_key_value_headers_and_time(world: World) -> None:
    headers: Headers = [("a", b"1"), ("b", None)]
    await world.write([b"v", None], 2, headers)
    record, tombstone = await read_on(world.reader, 0, 2)
    assert (record.key(), record.value(), record.offset(), record.timestamp()) == (b"key", b"v", 0, (1, NOW_MS))
    assert (tombstone.value(), list(tombstone.headers() or ())) == (None, headers)


async def test_the_end_is_empty_and_what_is_written_later_is_seen(world: World) -> None:
    assert not await world.reader.read(0, 0)
    for number in range(3):
        await world.write([b"%d" % number])
        assert values(await world.reader.read(0, number)) == [b"%d" % number]
        assert not await world.reader.read(0, number + 1)
        assert not await world.reader.read(0, number + 1)
    assert not await world.reader.read(0, 99)


async def test_any_offset_in_any_order(world: World) -> None:
    await world.write(numbered(100))
    for offset in (50, 51, 60, 10, 10, 99, 0, 98):
        record = (await world.reader.read(0, offset))[0]
        assert (record.offset(), record.value()) == (offset, b"%d" % offset)


async def test_aborted_records_are_not_seen_and_leave_gaps(world: World) -> None:
    await world.write([b"a"])
    for value, commit in ((b"no", False), (b"b", True), (b"never", False)):
        transaction = await world.begin([value])
        await transaction.end(commit=commit)
    await world.write([b"c"])
    records = await read_on(world.reader, 0)
    assert [(record.offset(), record.value()) for record in records] == [(0, b"a"), (3, b"b"), (7, b"c")]
    for offset in range(1, 4):  # inside the gap, after what was read
        assert (await world.reader.read(0, offset))[0].offset() == 3
    assert not await world.reader.read(0, 8)


async def test_an_open_transaction_is_the_end(world: World) -> None:
    await world.write([b"a"])
    transaction = await world.begin([b"b", b"c"])
    assert values(await read_on(world.reader, 0)) == [b"a"]
    for offset in (1, 2):
        assert not await world.reader.read(0, offset)
    await transaction.end(commit=True)
    assert values(await read_on(world.reader, 1)) == [b"b", b"c"]


async def test_partitions_are_read_apart_and_at_once(world: World) -> None:
    for partition in range(PARTITIONS):
        await world.write(numbered(700, 1_000 * partition), partition)
    for _ in range(2):
        found = await asyncio.gather(*(read_on(world.reader, 0, partition) for partition in range(PARTITIONS)))
        assert [values(records) for records in found] == [
            numbered(700, 1_000 * partition) for partition in range(PARTITIONS)
        ]


async def test_reads_of_one_partition_may_overlap(world: World) -> None:
    await world.write(numbered(100))
    found = await asyncio.gather(*(world.reader.read(0, offset) for offset in (0, 90, 5, 42)))
    assert [records[0].offset() for records in found] == [0, 90, 5, 42]


async def test_what_retention_removed_is_passed_over(world: World) -> None:
    await world.write(numbered(20))
    await world.remove(12)
    assert values(await read_on(world.reader, 3)) == numbered(8, 12)
    assert values(await read_on(world.reader, 15)) == numbered(5, 15)


async def test_a_read_given_up_loses_nothing(world: World) -> None:
    await world.write(numbered(10))
    for offset in range(5):
        with contextlib.suppress(asyncio.CancelledError):
            reading = asyncio.ensure_future(world.reader.read(0, offset))
            await asyncio.sleep(0)
            reading.cancel()
            await reading
        assert (await world.reader.read(0, offset))[0].offset() == offset


async def test_a_closed_reader_says_so(world: World) -> None:
    await world.reader.close()
    with pytest.raises(RuntimeError, match="closed"):
        await world.reader.read(0, 0)
    await world.reader.close()


async def test_closing_ends_the_fake_s_wait_for_a_broker() -> None:
    world = MemoryWorld()
    world.kafka.answers.clear()
    await closing_ends_a_read(world.reader)


async def closing_ends_a_read(reader: LogReader) -> None:
    reading = asyncio.ensure_future(reader.read(0, 0))
    done, _ = await asyncio.wait([reading], timeout=0.3)
    assert not done
    await asyncio.wait_for(reader.close(), 60)
    with pytest.raises(RuntimeError, match="closed"):
        await asyncio.wait_for(reading, 60)


# --- the real one alone ----------------------------------------------------------------------------------------------


async def test_closing_ends_a_wait_for_a_broker(caplog: pytest.LogCaptureFixture) -> None:
    reader = KafkaLogReader({"bootstrap.servers": "127.0.0.1:1"}, "nowhere")
    await closing_ends_a_read(reader)
    assert len([record for record in caplog.records if "waiting" in record.message]) == 1


async def test_reading_on_does_not_fetch_anew(real: KafkaWorld) -> None:
    await real.write(numbered(3_000))
    transaction = await real.begin([b"aborted"])
    await transaction.end(commit=False)
    await real.write(numbered(1_000))
    offset = 0
    while offset < 3_900:
        records = await real.reader.read(0, offset)
        offset = records[-1].offset() + 1 + len(records) // 100  # some are passed over
    assert real.real.seeks == 1
    await real.reader.read(0, 100)
    assert real.real.seeks == 2


async def test_a_long_way_ahead_is_not_read_over(real: KafkaWorld) -> None:
    await real.write(numbered(SKIP_MAX + 2_000))
    first = await real.reader.read(0, 0)
    far = first[-1].offset() + SKIP_MAX + 2
    assert (await real.reader.read(0, far))[0].offset() == far
    assert real.real.seeks == 2


async def test_few_partitions_at_a_time_have_a_consumer(real: KafkaWorld) -> None:
    for partition in range(PARTITIONS):
        await real.write(numbered(5), partition)
    for partition in [*range(PARTITIONS), 4, 5]:
        await real.reader.read(partition, 0)
        assert real.real.consumers == min(partition + 1, CONSUMERS_MAX)
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith(f"log-{real.topic}")]
    assert sorted(name.split("-")[-1].split("_")[0] for name in threads) == ["2", "3", "4", "5"]
    assert real.real.seeks == PARTITIONS + 2


async def test_a_topic_that_comes_later_is_waited_for(kafka: Cluster, prefix: str) -> None:
    reader = KafkaLogReader(
        {"bootstrap.servers": kafka.bootstrap, "topic.metadata.refresh.interval.ms": 200}, f"{prefix}log"
    )
    reading = asyncio.ensure_future(reader.read(0, 0))
    done, _ = await asyncio.wait([reading], timeout=0.5)
    assert not done
    world = KafkaWorld(kafka.bootstrap, prefix)
    await world.write([b"a"])
    assert values(await asyncio.wait_for(reading, 60) or await reader.read(0, 0)) == [b"a"]
    await reader.close()
    await world.reader.close()


async def test_an_open_transaction_holds_back_what_stands_behind_it(real: KafkaWorld) -> None:
    transaction = await real.begin([b"a"])
    await real.write([b"b"])
    assert not await real.reader.read(0, 0)
    await transaction.end(commit=True)
    assert values(await read_on(real.reader, 0)) == [b"a", b"b"]


async def test_it_says_how_far_it_has_seen(world: World) -> None:
    await world.write(numbered(3))
    await (await world.begin([b"not to be read"])).end(commit=False)
    assert world.reader.reached(0) == 0
    assert len(await world.reader.read(0, 0)) == 3
    assert world.reader.reached(0) >= 3
    assert not await world.reader.read(0, 3)
    assert world.reader.reached(0) == 5  # behind the aborted record and its marker: there is nothing else
