"""What every publisher promises: run on the fake and on librdkafka with a real Kafka, with and without transactions.

What only transactions can promise runs on those that have them. A harness shows what a consumer of committed records
and the group's coordinator see; nothing here looks inside a publisher, but where no broker can be brought to answer so.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

import pytest
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from connectors.local_kafka import Cluster
from connectors.memory import MemoryKafka, MemoryMember, MemoryPublisher, Stored
from connectors.paired_publisher import PairedPublisher
from connectors.plain_publisher import PlainPublisher
from connectors.publisher import RECORD_BYTES_MAX, TransactionalPublisher
from schemas.errors import FencedError, RecordTooLargeError, StaleGroupError
from schemas.frame import Out
from schemas.partitions import murmur2
from streams.ports import Publisher
from tests.helpers import eventually, eventually_async
from tests.topics import create_topics

PARTITIONS = 4
LATEST = OffsetSpec.latest()  # type: ignore[no-untyped-call]
READ_COMMITTED, READ_UNCOMMITTED = IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED
SMALL_BYTES_MAX = 10_000


class StartedPublisher(Publisher, Protocol):
    """The port, and what the composition root calls besides."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


class World(Protocol):
    """A Kafka with the topics `out` (4 partitions), `small` (1, at most 10,000 bytes) and `source` (4)."""

    def topic(self, name: str) -> str: ...

    async def member(self) -> None:
        """Join the group; `leave` ends it."""

    async def leave(self) -> None: ...

    async def publisher(self, transactional_id: str) -> StartedPublisher:
        """A started one that commits offsets as the member of now."""

    async def read(self, topic: str) -> list[Stored]:
        """Everything committed, by partition and offset."""

    async def committed(self, topic: str, partition: int) -> tuple[int, str] | None: ...


class MemoryWorld:
    def __init__(self) -> None:
        self._kafka = MemoryKafka(
            {"out": PARTITIONS, "small": 1, "source": PARTITIONS}, record_bytes_max={"small": SMALL_BYTES_MAX}
        )
        self._member = MemoryMember("group")

    def topic(self, name: str) -> str:
        return name

    async def member(self) -> None:
        self._member = MemoryMember("group")

    async def leave(self) -> None:
        self._member.live = False

    async def publisher(self, transactional_id: str) -> StartedPublisher:
        publisher = MemoryPublisher(self._kafka, transactional_id, lambda: self._member)
        await publisher.start()
        return publisher

    async def read(self, topic: str) -> list[Stored]:
        return sorted(self._kafka.records[topic], key=lambda record: (record.partition, record.offset))

    async def committed(self, topic: str, partition: int) -> tuple[int, str] | None:
        return self._kafka.committed.get(("group", topic, partition))


class KafkaWorld:
    def __init__(self, bootstrap: str, prefix: str) -> None:
        self._bootstrap = bootstrap
        self._prefix = prefix
        self._member: Consumer | None = None
        self._group: object = None
        self._publishers: list[StartedPublisher] = []
        self._admin = AdminClient({"bootstrap.servers": bootstrap})
        topics = [
            NewTopic(self.topic("out"), PARTITIONS, 1),
            NewTopic(self.topic("small"), 1, 1, config={"max.message.bytes": str(SMALL_BYTES_MAX)}),
            NewTopic(self.topic("source"), PARTITIONS, 1),
        ]
        create_topics(self._admin, *topics)

    def topic(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def _consumer(self, group: str) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": group,
                "group.protocol": "consumer",
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
        )

    async def member(self) -> None:
        await self.leave()
        self._member = self._consumer(f"{self._prefix}group")
        self._member.subscribe([self.topic("source")])

        def joined() -> bool:
            assert self._member is not None
            self._member.poll(0.05)
            return len(self._member.assignment()) == PARTITIONS

        await eventually_async(joined, message="the member has its partitions")
        self._group = self._member.consumer_group_metadata()

    async def leave(self) -> None:
        if self._member is not None:
            self._member.close()
            self._member = None

    async def publisher(self, transactional_id: str) -> StartedPublisher:
        publisher = self._made(transactional_id)
        self._publishers.append(publisher)
        await publisher.start()
        return publisher

    def _made(self, transactional_id: str) -> StartedPublisher:
        return TransactionalPublisher(
            {"bootstrap.servers": self._bootstrap}, f"{self._prefix}{transactional_id}", lambda: self._group
        )

    async def read(self, topic: str) -> list[Stored]:
        return await asyncio.to_thread(self._read, topic)

    def _read(self, topic: str) -> list[Stored]:
        consumer = self._consumer(f"{self._prefix}reader")
        partitions = consumer.list_topics(topic, timeout=60).topics[topic].partitions
        # A commit is answered before its markers are written, and only then readers see it.
        eventually(
            lambda: self._ends(topic, partitions, READ_COMMITTED) == self._ends(topic, partitions, READ_UNCOMMITTED),
            message="no transaction is open",
        )
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        found: list[Stored] = []
        ended: set[int] = set()
        while len(ended) < len(partitions):
            message: Any = consumer.poll(60)
            assert message is not None, "the partitions do not end"
            if (error := message.error()) is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                ended.add(message.partition())
                continue
            place = (message.topic(), message.partition(), message.offset())
            found.append(Stored(*place, message.key(), message.value(), message.headers()))
        consumer.close()
        return sorted(found, key=lambda record: (record.partition, record.offset))

    def _ends(self, topic: str, partitions: Iterable[int], isolation: IsolationLevel) -> list[int]:
        asked: dict[TopicPartition, Any] = {TopicPartition(topic, number): LATEST for number in partitions}
        answers = self._admin.list_offsets(asked, isolation_level=isolation, request_timeout=60)
        return [future.result().offset for future in answers.values()]

    async def committed(self, topic: str, partition: int) -> tuple[int, str] | None:
        consumer = self._consumer(f"{self._prefix}group")
        (answer,) = await asyncio.to_thread(consumer.committed, [TopicPartition(topic, partition)], 60)
        consumer.close()
        return (answer.offset, answer.metadata or "") if answer.offset >= 0 else None

    async def close(self) -> None:
        await self.leave()
        for publisher in self._publishers:
            await publisher.close()


class PairedWorld(KafkaWorld):
    """Two producers that take turns."""

    def _made(self, transactional_id: str) -> StartedPublisher:
        return PairedPublisher(
            {"bootstrap.servers": self._bootstrap}, f"{self._prefix}{transactional_id}", lambda: self._group
        )


class PlainWorld(KafkaWorld):
    """Without transactions: the member commits what it was handed when somebody looks."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        super().__init__(bootstrap, prefix)
        self.handed: list[tuple[str, int, int, str]] = []

    def _made(self, transactional_id: str) -> StartedPublisher:
        return PlainPublisher({"bootstrap.servers": self._bootstrap}, self.handed.extend)

    async def committed(self, topic: str, partition: int) -> tuple[int, str] | None:
        assert self._member is not None
        if self.handed:
            offsets = [TopicPartition(*handed) for handed in self.handed]
            await asyncio.to_thread(self._member.commit, offsets=offsets, asynchronous=False)
            self.handed.clear()
        return await super().committed(topic, partition)


@contextlib.asynccontextmanager
async def made(name: str, request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[World]:
    if name == "memory":
        yield MemoryWorld()
        return
    kafka: Cluster = request.getfixturevalue("kafka")
    kinds = {"kafka": KafkaWorld, "paired": PairedWorld, "plain": PlainWorld}
    real = kinds[name](kafka.bootstrap, prefix)
    try:
        yield real
    finally:
        await real.close()


@pytest.fixture(params=["memory", "kafka", "paired", "plain"])
async def world(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[World]:
    """For what every publisher promises."""
    async with made(request.param, request, prefix) as one:
        yield one


@pytest.fixture(params=["memory", "kafka", "paired"])
async def transactional(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[World]:
    """For what transactions promise."""
    async with made(request.param, request, prefix) as one:
        yield one


@pytest.fixture
async def plain(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[PlainWorld]:
    async with made("plain", request, prefix) as one:
        assert isinstance(one, PlainWorld)
        yield one


def record(topic: str, value: bytes | None, key: bytes | None = b"k", partition: int = -1) -> Out:
    return (topic, key, value, partition, None)


def incompressible() -> bytes:
    """40,000 bytes, of which a batch will not make less."""
    return b"".join(murmur2(number.to_bytes(4, "big")).to_bytes(4, "big") for number in range(10_000))


def values(records: Iterable[Stored]) -> list[bytes | None]:
    return [stored.value for stored in records]


async def test_records_and_offsets_are_committed_together(world: World) -> None:
    out, source = world.topic("out"), world.topic("source")
    await world.member()
    publisher = await world.publisher("a")
    metadata = "r" + "x" * 3_500
    await publisher.publish([record(out, b"1"), record(out, b"2")], [(source, 0, 7, metadata), (source, 3, 1, "")])
    assert values(await world.read(out)) == [b"1", b"2"]
    assert await world.committed(source, 0) == (7, metadata)
    assert (await world.committed(source, 3) or (0, ""))[0] == 1
    assert await world.committed(source, 1) is None


async def test_offsets_alone_and_records_alone(world: World) -> None:
    out, source = world.topic("out"), world.topic("source")
    await world.member()
    publisher = await world.publisher("a")
    await publisher.publish([], [(source, 0, 5, "m")])
    assert await world.committed(source, 0) == (5, "m")
    await publisher.publish([record(out, b"1")], [])
    assert values(await world.read(out)) == [b"1"]


async def test_null_values_null_keys_headers_and_named_partitions_are_kept(world: World) -> None:
    out = world.topic("out")
    publisher = await world.publisher("a")
    headers: list[tuple[str, bytes | None]] = [("a", b"1"), ("b", None), ("a", b"\x00\xff")]
    await publisher.publish(
        [(out, None, b"no key", 2, None), (out, b"k", b"v", 2, headers), (out, b"gone", None, 2, None)], []
    )
    stored = await world.read(out)
    assert [(one.partition, one.key, one.value) for one in stored] == [
        (2, None, b"no key"),
        (2, b"k", b"v"),
        (2, b"gone", None),  # last: without transactions, what has no value waits for what has
    ]
    assert [list(one.headers or ()) for one in stored] == [[], headers, []]


async def test_a_key_goes_where_java_clients_send_it(world: World) -> None:
    out = world.topic("out")
    publisher = await world.publisher("a")
    keys = [f"sub_{number}".encode() for number in range(40)] + [b"", b"a", b"ab", b"abc", "schlüssel".encode()]
    await publisher.publish([record(out, b"v", key) for key in keys if key], [])
    stored = await world.read(out)
    assert {one.key: one.partition for one in stored} == {
        key: (murmur2(key) & 0x7FFF_FFFF) % PARTITIONS for key in keys if key
    }
    assert {one.partition for one in stored} == set(range(PARTITIONS))


def test_murmur2_is_java_s() -> None:
    """The figures are those of `UtilsTest.testMurmur2` in Apache Kafka, as unsigned numbers."""
    java = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536, b"abc": 479470107}
    assert {key: murmur2(key) for key in java} == {key: number & 0xFFFF_FFFF for key, number in java.items()}


async def test_a_second_publisher_of_the_same_id_fences_the_first(transactional: World) -> None:
    out, source = transactional.topic("out"), transactional.topic("source")
    await transactional.member()
    first = await transactional.publisher("same")
    await first.publish([record(out, b"1")], [(source, 0, 1, "")])
    second = await transactional.publisher("same")
    for _ in range(2):  # and for good
        with pytest.raises(FencedError, match="another worker uses"):
            await first.publish([record(out, b"never")], [(source, 0, 99, "")])
    await second.publish([record(out, b"2")], [(source, 0, 2, "")])
    assert values(await transactional.read(out)) == [b"1", b"2"]
    assert (await transactional.committed(source, 0) or (0, ""))[0] == 2


async def test_a_member_that_left_is_refused_and_the_next_one_is_not(transactional: World) -> None:
    out, source = transactional.topic("out"), transactional.topic("source")
    await transactional.member()
    publisher = await transactional.publisher("a")
    await publisher.publish([record(out, b"1")], [(source, 0, 1, "")])
    await transactional.leave()
    with pytest.raises(StaleGroupError):
        await publisher.publish([record(out, b"never")], [(source, 0, 99, "")])
    await transactional.member()
    await publisher.publish([record(out, b"2")], [(source, 0, 2, "")])
    assert values(await transactional.read(out)) == [b"1", b"2"]
    assert (await transactional.committed(source, 0) or (0, ""))[0] == 2


async def test_what_an_earlier_epoch_had_to_say_is_not_written_by_a_later_one(transactional: World) -> None:
    """The member is live again, and the group would take its offsets; only their owner knows that they are old."""
    out, source = transactional.topic("out"), transactional.topic("source")
    await transactional.member()
    publisher = await transactional.publisher("a")
    with pytest.raises(StaleGroupError, match="given up"):
        await publisher.publish([record(out, b"never")], [(source, 0, 99, "")], lambda: False)
    await publisher.publish([record(out, b"1")], [(source, 0, 1, "")], lambda: True)
    assert values(await transactional.read(out)) == [b"1"]
    assert (await transactional.committed(source, 0) or (0, ""))[0] == 1


async def test_a_record_that_its_topic_does_not_take_leaves_nothing(transactional: World) -> None:
    out, small, source = transactional.topic("out"), transactional.topic("small"), transactional.topic("source")
    await transactional.member()
    publisher = await transactional.publisher("a")
    large = incompressible()
    with pytest.raises(RecordTooLargeError) as caught:
        await publisher.publish(
            [record(out, b"never"), record(small, large), record(out, b"never either")], [(source, 0, 99, "")]
        )
    assert (caught.value.topic, caught.value.size_bytes) == (small, len(large))
    await publisher.publish([record(out, b"1"), record(small, b"fits")], [(source, 0, 1, "")])
    assert values(await transactional.read(out)) == [b"1"]
    assert values(await transactional.read(small)) == [b"fits"]
    assert (await transactional.committed(source, 0) or (0, ""))[0] == 1


async def test_order_within_a_key_is_the_order_of_publishing(world: World) -> None:
    out = world.topic("out")
    publisher = await world.publisher("a")
    for start in range(0, 3_000, 1_000):
        await publisher.publish([record(out, b"%d" % number) for number in range(start, start + 1_000)], [])
    assert values(await world.read(out)) == [b"%d" % number for number in range(3_000)]


async def test_a_record_larger_than_any_topic_takes_is_named(world: World) -> None:
    publisher = await world.publisher("a")
    large = bytes(RECORD_BYTES_MAX + 1)
    with pytest.raises(RecordTooLargeError, match=str(len(large))):
        await publisher.publish([record(world.topic("small"), large)], [])


# --- the real one alone: what has no counterpart without a network ---------------------------------------------------


async def test_closing_an_idle_publisher_returns_and_its_id_can_be_taken_over(kafka: Cluster, prefix: str) -> None:
    world = KafkaWorld(kafka.bootstrap, prefix)
    first = TransactionalPublisher({"bootstrap.servers": kafka.bootstrap}, f"{prefix}a", lambda: None)
    await first.start()
    await asyncio.wait_for(first.close(), 60)
    second = await world.publisher("a")
    await second.publish([record(world.topic("out"), b"1")], [])
    await world.close()


@contextlib.asynccontextmanager
async def running(work: Awaitable[None]) -> AsyncIterator[asyncio.Future[None]]:
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("kind", [KafkaWorld, PairedWorld, PlainWorld])
async def test_while_a_topic_is_missing_it_waits_and_then_goes_on(
    kafka: Cluster, prefix: str, kind: type[KafkaWorld]
) -> None:
    world = kind(kafka.bootstrap, prefix)
    await world.member()
    source = world.topic("source")
    publisher = await world.publisher("a")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    late = f"{prefix}late"
    async with running(publisher.publish([record(late, b"1")], [(source, 0, 1, "")])) as publishing:
        done, _ = await asyncio.wait([publishing], timeout=0.5)
        assert not done
        assert not isinstance(world, PlainWorld) or world.handed == []
        admin.create_topics([NewTopic(late, 1, 1)])[late].result(timeout=60)
        await asyncio.wait_for(publishing, 60)
    assert values(await world.read(late)) == [b"1"]
    assert (await world.committed(source, 0) or (0, ""))[0] == 1
    await world.close()


async def test_a_transaction_that_took_too_long_is_void(kafka: Cluster, prefix: str) -> None:
    """As after a long pause of the process: the coordinator has ended the transaction, and nothing of it may appear."""
    world = KafkaWorld(kafka.bootstrap, prefix)
    await world.member()
    out, source = world.topic("out"), world.topic("source")
    reader = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": f"{prefix}r"})
    asked = 0

    def last_stable_offset() -> int:
        return int(reader.get_watermark_offsets(TopicPartition(out, 0), timeout=60)[1])

    def group() -> object:
        """Called inside the transaction: wait until the coordinator has aborted it and readers may pass."""
        nonlocal asked
        asked += 1
        eventually(lambda: last_stable_offset() > 0, timeout_s=60, message="the transaction is aborted")
        return world._group

    publisher = TransactionalPublisher(
        {"bootstrap.servers": kafka.bootstrap, "transaction.timeout.ms": 3_000}, f"{prefix}slow", group
    )
    await publisher.start()
    with pytest.raises(FencedError):
        await publisher.publish([record(out, b"never", partition=0)], [(source, 0, 99, "")])
    assert asked == 1
    assert await world.read(out) == []
    assert await world.committed(source, 0) is None
    await publisher.close()
    reader.close()
    await world.close()


# --- the pair alone --------------------------------------------------------------------------------------------------


class Interrupted:
    """A real producer whose next commit ends as it does when brokers were away: refused, with the transaction committed
    by then, or aborted by a producer of the same id that came after."""

    def __init__(self, real: Any, aborted_by: Callable[[], object] | None) -> None:
        self._real = real
        self._aborted_by = aborted_by

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def commit_transaction(self, timeout: float) -> None:
        if self._aborted_by is not None:
            self._aborted_by()
        self._real.commit_transaction(timeout)
        raise KafkaException(KafkaError(KafkaError._FENCED, "fenced", fatal=True))


class Recovering(KafkaWorld):
    """A worker's: its publisher may ask what the group has."""

    def _made(self, transactional_id: str) -> TransactionalPublisher:
        return TransactionalPublisher(
            {"bootstrap.servers": self._bootstrap}, f"{self._prefix}{transactional_id}", lambda: self._group, self._has
        )

    async def _has(self, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, str]]:
        found = {place: await self.committed(*place) for place in places}
        return {place: offset for place, offset in found.items() if offset is not None}

    def take(self, transactional_id: str) -> None:
        """Whatever is open under this id is aborted, and its producer refused from now on."""
        config = {"bootstrap.servers": self._bootstrap, "transactional.id": f"{self._prefix}{transactional_id}"}
        Producer(config).init_transactions(30)


@pytest.fixture
async def recovering(kafka: Cluster, prefix: str) -> AsyncIterator[Recovering]:
    world = Recovering(kafka.bootstrap, prefix)
    await world.member()
    try:
        yield world
    finally:
        await world.close()


async def test_a_producer_that_the_brokers_gave_up_is_replaced_once_a_minute(recovering: Recovering) -> None:
    out, source = recovering.topic("out"), recovering.topic("source")
    publisher = await recovering.publisher("a")
    for number in (1, 2):
        await publisher.publish([record(out, b"%d" % number)], [(source, 0, number, "")], lambda: True, decisive=True)
        recovering.take("a")
    with pytest.raises(FencedError, match="another worker uses"):
        await publisher.publish([record(out, b"3")], [(source, 0, 3, "")], lambda: True, decisive=True)
    assert values(await recovering.read(out)) == [b"1", b"2"]
    assert await recovering.committed(source, 0) == (2, "")


@pytest.mark.parametrize("committed", [True, False])
async def test_a_transaction_that_was_refused_while_it_was_committed_is_written_once(
    recovering: Recovering, committed: bool
) -> None:
    out, source = recovering.topic("out"), recovering.topic("source")
    publisher = await recovering.publisher("a")
    assert isinstance(publisher, TransactionalPublisher)
    await publisher.publish([record(out, b"1")], [(source, 0, 1, "")], lambda: True, decisive=True)
    interrupted: Any = Interrupted(publisher._producer, None if committed else lambda: recovering.take("a"))
    publisher._producer = interrupted
    await publisher.publish([record(out, b"2")], [(source, 0, 2, "m")], lambda: True, decisive=True)
    await publisher.publish([record(out, b"3")], [(source, 0, 3, "")], lambda: True, decisive=True)
    assert values(await recovering.read(out)) == [b"1", b"2", b"3"]
    assert await recovering.committed(source, 0) == (3, "")
    assert publisher.transactions == 3


@pytest.mark.parametrize("lost", [False, True], ids=["nothing tells", "lost meanwhile"])
async def test_where_it_cannot_be_told_whether_it_was_committed_the_worker_ends(
    recovering: Recovering, lost: bool
) -> None:
    out, source = recovering.topic("out"), recovering.topic("source")
    publisher = await recovering.publisher("a")
    assert isinstance(publisher, TransactionalPublisher)
    interrupted: Any = Interrupted(publisher._producer, None)
    publisher._producer = interrupted
    answers = iter([True, True, not lost])  # twice while it is written
    with pytest.raises(FencedError):
        await publisher.publish([record(out, b"1")], [(source, 0, 1, "")], lambda: next(answers), decisive=lost)
    assert values(await recovering.read(out)) == [b"1"]


async def test_of_two_that_take_turns_the_later_offsets_stay(kafka: Cluster, prefix: str) -> None:
    """However the markers of both come to the group: transactions follow each other as fast as they can."""
    world = PairedWorld(kafka.bootstrap, prefix)
    await world.member()
    out, source = world.topic("out"), world.topic("source")
    publisher = await world.publisher("a")
    for number in range(1, 101):
        await publisher.publish([record(out, b"%d" % number, partition=0)], [(source, 0, number, "")])
    assert values(await world.read(out)) == [b"%d" % number for number in range(1, 101)]
    assert await world.committed(source, 0) == (100, "")
    await world.close()


# --- the plain one alone ---------------------------------------------------------------------------------------------


async def test_offsets_of_a_group_with_a_record_that_is_too_large_are_not_handed_on(plain: PlainWorld) -> None:
    """The others may be there: that is what at least once means."""
    out, small, source = plain.topic("out"), plain.topic("small"), plain.topic("source")
    publisher = await plain.publisher("a")
    with pytest.raises(RecordTooLargeError) as caught:
        await publisher.publish([record(out, b"1"), record(small, incompressible())], [(source, 0, 99, "")])
    assert caught.value.topic == small
    assert plain.handed == []
    await publisher.publish([record(small, b"fits")], [(source, 0, 1, "")])
    assert plain.handed == [(source, 0, 1, "")]


async def test_writing_needs_no_group(plain: PlainWorld) -> None:
    """What a member wrote that the group has given up on is there, and its offsets are the committer's matter."""
    out, source = plain.topic("out"), plain.topic("source")
    publisher = await plain.publisher("a")
    await publisher.publish([record(out, b"1")], [(source, 0, 1, "")], lambda: False)
    assert values(await plain.read(out)) == [b"1"]
    assert plain.handed == [(source, 0, 1, "")]


async def test_closing_ends_a_wait_for_a_broker() -> None:
    handed: list[object] = []
    publisher = PlainPublisher({"bootstrap.servers": "127.0.0.1:1"}, handed.extend)
    await publisher.start()
    async with running(publisher.publish([record("t", b"1")], [("s", 0, 1, "")])) as publishing:
        done, _ = await asyncio.wait([publishing], timeout=0.3)
        assert not done
        await asyncio.wait_for(publisher.close(), 60)
        with pytest.raises(FencedError, match="closed"):
            await asyncio.wait_for(publishing, 60)
    assert handed == []
    with pytest.raises(RuntimeError, match="not started"):
        await publisher.publish([record("t", b"1")], [])


class Report:
    """A record as librdkafka reports of it."""

    def __init__(self, topic: str, value: bytes | None, key: bytes | None, partition: int, headers: Any) -> None:
        self._fields = (topic, value, key, partition, headers)

    def topic(self) -> Any:
        return self._fields[0]

    def value(self) -> Any:
        return self._fields[1]

    def key(self) -> Any:
        return self._fields[2]

    def partition(self) -> Any:
        return self._fields[3]

    def headers(self) -> Any:
        return self._fields[4]


class Scripted:
    """In place of librdkafka's producer, for errors that no broker can be asked for: each record meets the next of
    `fates`, None for an acknowledgement, an exception for a refusal on the spot. Reports come from another thread."""

    def __init__(self, *fates: KafkaError | Exception | None) -> None:
        self.produced: list[tuple[Any, ...]] = []
        self._fates = iter(fates)
        self._reports: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()

    def produce(
        self, topic: str, value: bytes | None, key: bytes | None, partition: int, reported: Any, headers: Any = None
    ) -> None:
        fate = next(self._fates, None)
        if isinstance(fate, Exception):
            raise fate
        self.produced.append((topic, value, key, partition, headers))
        self._reports.put((reported, fate, Report(topic, value, key, partition, headers)))

    def poll(self, timeout: float) -> None:
        with contextlib.suppress(queue.Empty):
            reported, fate, report = self._reports.get(timeout=timeout)
            reported(fate, report)

    def flush(self, timeout: float) -> None: ...

    def purge(self) -> None: ...


@contextlib.asynccontextmanager
async def scripted(*fates: KafkaError | Exception | None) -> AsyncIterator[tuple[PlainPublisher, Scripted, list[Any]]]:
    handed: list[Any] = []
    publisher = PlainPublisher({"bootstrap.servers": "127.0.0.1:1"}, handed.extend)
    real: Any = Scripted(*fates)
    publisher._producer = real
    publisher._thread.start()
    try:
        yield publisher, real, handed
    finally:
        await publisher.close()


async def test_what_is_refused_for_a_while_is_written_again_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    passing = KafkaError(KafkaError.NOT_ENOUGH_REPLICAS)
    async with scripted(None, passing, KafkaException(passing), BufferError(), None, passing) as (
        publisher,
        producer,
        handed,
    ):
        headers: list[tuple[str, bytes | None]] = [("h", b"1")]
        records: list[Out] = [("t", b"k", b"%d" % n, n, headers if n == 1 else None) for n in range(4)]
        await publisher.publish(records, [("s", 0, 4, "")])
        first = [("t", b"%d" % n, b"k", n, headers if n == 1 else None) for n in range(4)]
        # 2 was refused on the spot, 1 by a report, 3 waited for room; then 2 once more by a report.
        assert producer.produced == [first[0], first[1], first[3], first[2], first[1], first[2]]
        assert handed == [("s", 0, 4, "")]
        assert publisher.groups == 1
        assert "written again" in caplog.text


@pytest.mark.parametrize("on_the_spot", [False, True])
async def test_a_producer_that_cannot_go_on_says_so(on_the_spot: bool) -> None:
    error = KafkaError(KafkaError._FATAL, "out of order", fatal=True)
    async with scripted(None, KafkaException(error) if on_the_spot else error) as (publisher, _, handed):
        with pytest.raises(FencedError, match="out of order"):
            await publisher.publish([record("t", b"1"), record("t", b"2")], [("s", 0, 2, "")])
        assert handed == []
