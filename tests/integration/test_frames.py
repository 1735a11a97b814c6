"""The Faust transport on a real Kafka: what agents get, what is committed, who owns what when members come and go."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from faust.exceptions import ImproperlyConfigured

from connectors.consumer_thread import ConsumerThread
from connectors.frames import FrameSettings, group_protocol
from connectors.local_kafka import Cluster, kafka_cluster
from schemas.frame import Frame
from tests.helpers import drip, eventually_async
from tests.integration.frame_apps import FrameApp, committed, create_topics, new_ledger, produce, running
from tests.unit.stages import Consumed


@pytest.fixture
def topic(kafka: Cluster, prefix: str) -> str:
    """A topic with two partitions."""
    create_topics(kafka.bootstrap, **{f"{prefix}in": 2})
    return f"{prefix}in"


@pytest.fixture
def group(prefix: str) -> str:
    return f"{prefix}group"


def stalled(app: FrameApp) -> bool:
    """Whether all batches are in hand: one is being passed on, the others wait."""
    return app.consumer._batches.qsize() == app.consumer.settings.batches_in_hand_max - 1


async def test_an_ordinary_agent_gets_frames_and_goes_on_where_it_stopped(
    kafka: Cluster, topic: str, group: str
) -> None:
    produce(kafka.bootstrap, topic, [b"%d" % n for n in range(1_200)])
    first = FrameApp(kafka.bootstrap, group, [topic], settings=None)  # what the entry point gives
    async with running(first):
        await eventually_async(lambda: len(first.values()) == 1_200)
        await eventually_async(lambda: committed(kafka.bootstrap, group, topic)[0] == 1_200)
    assert first.values() == [b"%d" % n for n in range(1_200)]
    assert all(1 <= len(frame.records) <= 500 for frame in first.frames)
    assert max(len(frame.records) for frame in first.frames) > 50
    produce(kafka.bootstrap, topic, [b"more"])
    second = FrameApp(kafka.bootstrap, group, [topic], settings=None)
    async with running(second):
        await eventually_async(second.values)
    assert second.values() == [b"more"]
    assert committed(kafka.bootstrap, group, topic) == (1_201, "")


async def test_finished_frames_are_committed_at_the_stop_and_unfinished_ones_come_again(
    kafka: Cluster, topic: str, group: str
) -> None:
    produce(kafka.bootstrap, topic, [b"done"], 0)

    async def handle(frame: Frame) -> None:
        if frame.partition == 1:
            await asyncio.Event().wait()

    first = FrameApp(kafka.bootstrap, group, [topic], handle, broker_commit_interval=60)
    async with running(first):
        await eventually_async(first.values)
        produce(kafka.bootstrap, topic, [b"not done"], 1)
        await eventually_async(lambda: len(first.values()) == 2)
        assert committed(kafka.bootstrap, group, topic, 0)[0] < 1
    assert committed(kafka.bootstrap, group, topic, 0)[0] == 1
    assert committed(kafka.bootstrap, group, topic, 1)[0] < 1
    second = FrameApp(kafka.bootstrap, group, [topic])
    async with running(second):
        await eventually_async(lambda: second.values() == [b"not done"])


async def test_null_values_and_gaps(kafka: Cluster, topic: str, group: str) -> None:
    produce(kafka.bootstrap, topic, [b"a", None, b"c"])
    writer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": f"{group}.writer"})
    writer.init_transactions(60)
    for value, commit in ((b"d", True), (b"aborted", False), (b"e", True)):
        writer.begin_transaction()
        writer.produce(topic, value, b"k", 0)
        writer.flush(60)
        if commit:
            writer.commit_transaction(60)
        else:
            writer.abort_transaction(60)
    app = FrameApp(kafka.bootstrap, group, [topic])
    async with running(app):
        await eventually_async(lambda: len(app.values()) >= 5)
        offsets = app.offsets(topic, 0)
        await eventually_async(lambda: committed(kafka.bootstrap, group, topic)[0] == offsets[-1] + 1)
    assert app.values() == [b"a", None, b"c", b"d", b"e"]
    assert offsets == [0, 1, 2, 3, 7]


async def test_members_come_and_go_and_partitions_that_stay_notice_nothing(
    kafka: Cluster, prefix: str, group: str
) -> None:
    names = [f"{prefix}one", f"{prefix}two"]
    create_topics(kafka.bootstrap, **dict.fromkeys(names, 4))
    for name in names:
        for partition in range(4):
            produce(kafka.bootstrap, name, [b"x"], partition)
    everything = {(name, partition) for name in names for partition in range(4)}
    given_up: list[set[tuple[str, int]]] = []

    async def on_revoke(partitions: list[tuple[str, int]]) -> None:
        # No more of them is taken, and what is under way may still be settled.
        assert all(first.ledgers[key].retiring and first.ledgers[key].live for key in partitions)
        given_up.append(set(partitions))

    first = FrameApp(kafka.bootstrap, group, names, settings=FrameSettings(ledger=new_ledger, on_revoke=on_revoke))
    second = FrameApp(kafka.bootstrap, group, names)
    async with running(first):
        await eventually_async(lambda: first.assigned == everything and len(first.ledgers) == 8)
        before = first.ledgers
        await eventually_async(lambda: len(first.values()) == 8)
        for key in everything:  # held when it is given up, a partition is not held when it comes back
            first.consumer.hold(*key)
        await second.start()
        await eventually_async(lambda: len(second.assigned) == 4 and len(first.assigned) == 4)
        assert first.assigned | second.assigned == everything
        # `range`: equal numbers of both topics are together.
        assert {p for name, p in first.assigned if name == names[0]} == {
            p for name, p in first.assigned if name == names[1]
        }
        kept = first.assigned
        for key in kept:
            first.consumer.release(*key)
        assert set.union(*given_up) == everything - kept
        assert all(first.ledgers[key] is before[key] and before[key].live for key in kept)
        assert not any(before[key].live for key in everything - kept)
        for name in names:
            for partition in range(4):
                produce(kafka.bootstrap, name, [b"y"], partition)
        await eventually_async(lambda: first.values().count(b"y") == 4 and second.values().count(b"y") == 4)
        assert b"x" not in second.values()
        taken = second.ledgers
        await second.stop()
        assert not any(ledger.live for ledger in taken.values())
        await eventually_async(lambda: first.assigned == everything)
        assert all(first.ledgers[key] is before[key] for key in kept)
        for name in names:
            for partition in range(4):
                produce(kafka.bootstrap, name, [b"z"], partition)
        await eventually_async(lambda: first.values().count(b"z") == 8)
    assert first.values().count(b"y") == 4


async def test_a_partition_that_stays_flows_on_while_what_moves_is_waited_for(
    kafka: Cluster, topic: str, group: str
) -> None:
    """As long as the wait takes: here it ends only when enough of the other partition was handed over."""
    moving: set[tuple[str, int]] = set()
    flowed = asyncio.Event()

    async def on_revoke(partitions: list[tuple[str, int]]) -> None:
        if first.app.should_stop:
            return
        moving.update(partitions)
        await flowed.wait()

    first = FrameApp(kafka.bootstrap, group, [topic], settings=FrameSettings(ledger=new_ledger, on_revoke=on_revoke))
    second = FrameApp(kafka.bootstrap, group, [topic])
    async with running(first):
        for partition in (0, 1):
            produce(kafka.bootstrap, topic, [b"before"], partition)
        await eventually_async(lambda: first.values().count(b"before") == 2)
        async with running(second):
            await eventually_async(lambda: moving)
            ((_, given_up),) = moving
            produce(kafka.bootstrap, topic, [b"not here"] * 20, given_up)
            for number in range(20):
                produce(kafka.bootstrap, topic, [b"here"], 1 - given_up)
                await eventually_async(lambda: first.values().count(b"here") == number + 1)  # noqa: B023 - awaited here
            assert not second.frames
            await eventually_async(  # the other one's offsets are committed meanwhile
                lambda: committed(kafka.bootstrap, group, topic, 1 - given_up)[0] == 21
            )
            flowed.set()
            await eventually_async(lambda: second.values().count(b"not here") == 20)
            assert b"not here" not in first.values()
            assert b"here" not in second.values()
            moving.clear()
        await eventually_async(lambda: len(first.assigned) == 2)
        produce(kafka.bootstrap, topic, [b"after"], given_up)
        await eventually_async(lambda: b"after" in first.values())
        assert not moving
    assert first.values().count(b"here") == 20


async def test_a_partition_that_stays_flows_on_while_the_offsets_of_another_are_unknown(
    kafka: Cluster, topic: str, group: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The last owner left a transaction open with offsets of the partition that comes: they are waited for."""
    first = FrameApp(kafka.bootstrap, group, [topic])
    second = FrameApp(kafka.bootstrap, group, [topic], settings=FrameSettings(ledger=new_ledger, commits=False))
    async with running(first):
        await second.start()
        await eventually_async(lambda: len(first.assigned) == len(second.assigned) == 1)
        ((_, stays),) = first.assigned
        ((_, comes),) = second.assigned
        produce(kafka.bootstrap, topic, [b"%d" % number for number in range(5)], comes)
        writer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": f"{group}.writer"})
        writer.init_transactions(60)
        writer.begin_transaction()
        metadata: Any = second.consumer.group_metadata()
        await asyncio.to_thread(writer.send_offsets_to_transaction, [TopicPartition(topic, comes, 3)], metadata, 60)
        await second.stop()
        await eventually_async(lambda: "no committed offsets yet" in caplog.text)
        for number in range(20):
            produce(kafka.bootstrap, topic, [b"here"], stays)
            await eventually_async(lambda: first.values().count(b"here") == number + 1)  # noqa: B023 - awaited here
        assert len(first.assigned) == 1
        await asyncio.to_thread(writer.commit_transaction, 60)
        await eventually_async(lambda: first.offsets(topic, comes) == [3, 4])


async def test_offsets_can_be_committed_without_waiting(kafka: Cluster, topic: str, group: str) -> None:
    """By one who writes outside of transactions: also while the group changes, and never of another's partition."""
    moving: list[tuple[str, int]] = []

    async def on_revoke(partitions: list[tuple[str, int]]) -> None:
        if moving:
            return
        moving.extend(partitions)
        for offset in range(51, 101):  # they are on the way when one partition moves
            first.consumer.commit_soon([(topic, 0, offset, ""), (topic, 1, offset, "")])
            await asyncio.sleep(0)

    settings = FrameSettings(ledger=new_ledger, commits=False)
    first = FrameApp(
        kafka.bootstrap,
        group,
        [topic],
        settings=FrameSettings(ledger=new_ledger, commits=False, on_revoke=on_revoke),
    )
    second = FrameApp(kafka.bootstrap, group, [topic], settings=settings)
    async with running(first):
        for partition in (0, 1):
            produce(kafka.bootstrap, topic, [b"x"] * 100, partition)
        await eventually_async(lambda: len(first.values()) == 200)
        for offset in range(1, 51):
            first.consumer.commit_soon([(topic, 0, offset, f"m{offset}"), (topic, 1, offset, "")])
        await eventually_async(lambda: committed(kafka.bootstrap, group, topic, 0) == (50, "m50"))
        await eventually_async(lambda: committed(kafka.bootstrap, group, topic, 1) == (50, ""))
        has = await first.consumer.committed([(topic, 0), (topic, 1)])
        assert has == {(topic, 0): (50, "m50"), (topic, 1): (50, "")}
        async with running(second):
            await eventually_async(lambda: len(first.assigned) == len(second.assigned) == 1)
            ((_, stays),) = first.assigned
            await eventually_async(lambda: committed(kafka.bootstrap, group, topic, stays) == (100, ""))
            assert committed(kafka.bootstrap, group, topic, 1 - stays) == (100, "")
            first.consumer.commit_soon([(topic, 1 - stays, 7, "not ours"), (topic, stays, 99, "ours")])
            await eventually_async(lambda: committed(kafka.bootstrap, group, topic, stays) == (99, "ours"))
            assert committed(kafka.bootstrap, group, topic, 1 - stays) == (100, "")
        await eventually_async(lambda: first.consumer.ledger(topic, 1 - stays))
        # What an earlier epoch had to say would take back what the other one did.
        first.consumer.commit_soon([(topic, 1 - stays, 98, "old"), (topic, stays, 98, "again")])
        await eventually_async(lambda: committed(kafka.bootstrap, group, topic, stays) == (98, "again"))
        assert committed(kafka.bootstrap, group, topic, 1 - stays) == (100, "")
        first.consumer.commit_soon([(topic, stays, 100, "last")])
    assert committed(kafka.bootstrap, group, topic, stays) == (100, "last")


async def test_a_held_partition_is_not_fetched_and_the_others_are(kafka: Cluster, topic: str, group: str) -> None:
    produce(kafka.bootstrap, topic, [b"a"], 0)
    app = FrameApp(kafka.bootstrap, group, [topic])
    async with running(app):
        await eventually_async(app.values)
        app.consumer.hold(topic, 0)
        assert app.consumer._fetcher is not None
        await asyncio.wrap_future(app.consumer._fetcher.call(lambda fetcher: None))  # calls are made in order
        produce(kafka.bootstrap, topic, [b"held"], 0)
        for number in range(3):
            produce(kafka.bootstrap, topic, [b"%d" % number], 1)
            await eventually_async(lambda: len(app.values()) == number + 2)  # noqa: B023 - awaited here
        assert app.values() == [b"a", b"0", b"1", b"2"]
        app.consumer.release(topic, 0)
        await eventually_async(lambda: b"held" in app.values())


async def test_an_agent_that_stalls_keeps_its_membership_and_its_records(
    kafka: Cluster, topic: str, group: str
) -> None:
    """Longer than the group would wait for a member that does not poll."""
    settings = FrameSettings(ledger=new_ledger, consumer={"max.poll.interval.ms": 3_000}, frame_records_max=10)
    app = FrameApp(kafka.bootstrap, group, [topic], settings=settings)
    async with running(app):
        produce(kafka.bootstrap, topic, [b"first"], 1)
        await eventually_async(app.values)
        app.gate.clear()
        produce(kafka.bootstrap, topic, [b"%d" % n for n in range(500)])
        await eventually_async(lambda: stalled(app))
        ledgers, rebalances = app.ledgers, app.consumer.rebalances
        passed = asyncio.Event()
        asyncio.get_running_loop().call_later(4.0, passed.set)  # more than the interval
        await passed.wait()
        assert stalled(app)
        assert len(app.values()) < 200  # and little is held in memory
        app.gate.set()
        await eventually_async(lambda: len(app.values()) == 501)
        assert app.offsets(topic, 0) == list(range(500))
        assert app.consumer.rebalances == rebalances
        assert all(app.ledgers[key] is ledger for key, ledger in ledgers.items())
        await eventually_async(lambda: committed(kafka.bootstrap, group, topic)[0] == 500)


async def test_a_hold_during_a_stall_outlives_it(kafka: Cluster, topic: str, group: str) -> None:
    settings = FrameSettings(ledger=new_ledger, frame_records_max=10)
    app = FrameApp(kafka.bootstrap, group, [topic], settings=settings)
    async with running(app):
        for partition in (0, 1):
            produce(kafka.bootstrap, topic, [b"first"], partition)
        await eventually_async(lambda: len(app.values()) == 2)
        app.gate.clear()
        produce(kafka.bootstrap, topic, [b"x"] * 200, 0)
        await eventually_async(lambda: stalled(app))
        app.consumer.hold(topic, 0)
        app.gate.set()
        await eventually_async(lambda: not stalled(app))
        produce(kafka.bootstrap, topic, [b"other"], 1)
        await eventually_async(lambda: b"other" in app.values())
        assert app.values().count(b"x") < 200
        app.consumer.release(topic, 0)
        await eventually_async(lambda: app.values().count(b"x") == 200)
    assert app.offsets(topic, 0) == list(range(201))


async def test_an_agent_can_send(kafka: Cluster, prefix: str, topic: str, group: str) -> None:
    create_topics(kafka.bootstrap, **{f"{prefix}out": 3})
    places: list[tuple[str, int]] = []

    async def handle(frame: Frame) -> None:
        for record in frame.records:
            sent = await app.app.topic(f"{prefix}out").send(
                key=record.key(), value=record.value(), partition=2, headers={"h": b"1"}
            )
            metadata = await sent
            places.append((metadata.topic, metadata.partition))

    app = FrameApp(kafka.bootstrap, group, [topic], handle)
    reader = FrameApp(kafka.bootstrap, f"{group}.reader", [f"{prefix}out"])
    async with running(app, reader):
        produce(kafka.bootstrap, topic, [b"a", b"b"])
        await eventually_async(lambda: len(reader.values()) == len(places) == 2)
    assert reader.values() == [b"a", b"b"]
    assert places == [(f"{prefix}out", 2)] * 2
    assert [record.headers() for frame in reader.frames for record in frame.records] == [[("h", b"1")]] * 2


async def test_a_stop_is_orderly_while_the_agent_is_stuck(kafka: Cluster, topic: str, group: str) -> None:
    app = FrameApp(kafka.bootstrap, group, [topic], settings=FrameSettings(ledger=new_ledger, frame_records_max=10))
    app.gate.clear()
    await app.start()
    produce(kafka.bootstrap, topic, [b"x"] * 300)
    await eventually_async(lambda: stalled(app))
    ledgers = app.ledgers
    await app.stop(within_s=45)
    assert not any(ledger.live for ledger in ledgers.values())
    assert committed(kafka.bootstrap, group, topic)[0] <= 0


async def test_a_topic_that_is_missing_is_said_and_served_once_it_is_there(
    kafka: Cluster, prefix: str, group: str, caplog: pytest.LogCaptureFixture
) -> None:
    late = f"{prefix}late"
    settings = FrameSettings(ledger=new_ledger, consumer={"topic.metadata.refresh.interval.ms": 200})
    app = FrameApp(kafka.bootstrap, group, [late], settings=settings)
    async with running(app):
        create_topics(kafka.bootstrap, **{late: 1})
        produce(kafka.bootstrap, late, [b"x"])
        await eventually_async(app.values)


async def test_tables_are_refused(kafka: Cluster, topic: str, group: str) -> None:
    app = FrameApp(kafka.bootstrap, group, [topic])
    app.app.Table("counts", default=int)
    with pytest.raises(ImproperlyConfigured, match="no table changelogs"):
        _ = app.consumer


async def test_settings_of_another_type_are_refused(kafka: Cluster, topic: str, group: str) -> None:
    app = FrameApp(kafka.bootstrap, group, [topic])
    app.app.frame_settings = {"ledger": new_ledger}
    with pytest.raises(ImproperlyConfigured, match="FrameSettings"):
        _ = app.consumer


async def test_the_broker_is_asked_for_its_group_protocol(kafka: Cluster) -> None:
    assert group_protocol({"bootstrap.servers": kafka.bootstrap}) == "consumer"


class Scripted:
    """Stands in for librdkafka's consumer where a real one cannot be timed: each call is the next step of a script."""

    def __init__(self, *steps: Any) -> None:
        self._steps = iter(steps)

    def consume(self, most: int, timeout: float) -> list[Any]:
        step = next(self._steps)
        return list(step() if callable(step) else step)

    def consumer_group_metadata(self) -> object:
        return object()

    def incremental_assign(self, partitions: object) -> None: ...

    def incremental_unassign(self, partitions: object) -> None: ...

    def resume(self, partitions: object) -> None: ...

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        answer = next(self.committed_answers, None)
        if isinstance(answer, int):
            raise KafkaException(KafkaError(answer))
        return partitions

    #: Error codes; none for an answer without offsets.
    committed_answers: Iterator[int] = iter(())


class ScriptedMessage(Consumed, frozen=True):
    """A record as librdkafka hands it over."""

    place: tuple[str, int] = ("t", 0)

    def topic(self) -> str:
        return self.place[0]

    def partition(self) -> int:
        return self.place[1]

    def error(self) -> None:
        return None


async def test_a_record_never_gets_a_ledger_of_another_epoch(kafka: Cluster, group: str) -> None:
    """A partition is taken away, and given back, while records of it are on their way from librdkafka. With a live
    ledger they would be processed and committed by one who does not own them, or ahead of what comes first."""
    app = FrameApp(kafka.bootstrap, group, ["t"], settings=FrameSettings(ledger=new_ledger, commits=False))
    consumer = app.consumer
    consumer._main_loop = asyncio.get_running_loop()
    partitions = [TopicPartition("t", 0), TopicPartition("t", 1)]

    def moved_meanwhile() -> list[Any]:
        consumer._on_revoke(scripted, partitions[:1])
        consumer._on_assign(scripted, partitions[:1])
        return [ScriptedMessage(7, b"kept", place=("t", 1)), ScriptedMessage(6, b"stale")]

    scripted: Any = Scripted([ScriptedMessage(5, b"lost")], moved_meanwhile, [ScriptedMessage(3, b"first")], [])
    member, fetcher = (ConsumerThread(name, scripted, print, print) for name in ("member", "fetcher"))
    consumer._member, consumer._fetcher = member, fetcher

    async def fetched() -> list[tuple[str, int, bytes | None, int]]:
        """Topic, partition, first value and where its ledger stands of the next frames."""
        await asyncio.to_thread(fetcher.serve)
        await asyncio.to_thread(consumer._fetch, scripted)
        frames = await asyncio.wait_for(consumer._batches.get(), 60)
        assert all(frame.ledger.live and not frame.ledger.retiring for frame in frames)
        return [
            (frame.topic, frame.partition, frame.records[0].value(), frame.ledger.progress()[0]) for frame in frames
        ]

    await asyncio.to_thread(consumer._on_assign, scripted, partitions)
    assert await fetched() == [("t", 1, b"kept", 7)]
    assert consumer.ledger("t", 0) is None
    assert await fetched() == [("t", 0, b"first", 3)]
    assert consumer.ledger("t", 0) is not None


@pytest.mark.parametrize(
    ("codes", "assigned"),
    [
        ([KafkaError._TIMED_OUT] * 4 + [KafkaError.COORDINATOR_LOAD_IN_PROGRESS], True),
        ([KafkaError._TIMED_OUT, KafkaError.UNKNOWN_MEMBER_ID], False),  # the group has gone on: that will be told
        ([KafkaError._TIMED_OUT, KafkaError.GROUP_AUTHORIZATION_FAILED], None),
    ],
)
async def test_committed_offsets_are_waited_for_where_that_makes_sense(
    kafka: Cluster, group: str, codes: list[int], assigned: bool | None, caplog: pytest.LogCaptureFixture
) -> None:
    app = FrameApp(kafka.bootstrap, group, ["t"], settings=FrameSettings(ledger=new_ledger, commits=False))
    consumer = app.consumer
    consumer._main_loop = asyncio.get_running_loop()
    scripted: Any = Scripted()
    scripted.committed_answers = iter(codes)
    consumer._member, consumer._fetcher = (ConsumerThread(name, scripted, print, print) for name in ("m", "f"))
    assigning = asyncio.to_thread(consumer._on_assign, scripted, [TopicPartition("t", 0)])
    if assigned is None:
        with pytest.raises(KafkaException, match="GROUP_AUTHORIZATION_FAILED"):
            await assigning
    else:
        await assigning
    assert app.assigned == ({("t", 0)} if assigned else set())
    assert ("no committed offsets yet" in caplog.text) is bool(assigned)  # asked for seconds
    assert list(scripted.committed_answers) == []


async def test_a_stop_ends_the_wait_for_committed_offsets(kafka: Cluster, group: str) -> None:
    app = FrameApp(kafka.bootstrap, group, ["t"], settings=FrameSettings(ledger=new_ledger, commits=False))
    consumer = app.consumer
    scripted: Any = Scripted()
    scripted.committed_answers = itertools.repeat(KafkaError._TIMED_OUT)
    consumer._member, consumer._fetcher = (ConsumerThread(name, scripted, print, print) for name in ("m", "f"))
    assigning = asyncio.ensure_future(asyncio.to_thread(consumer._on_assign, scripted, [TopicPartition("t", 0)]))
    done, _ = await asyncio.wait([assigning], timeout=0.1)
    assert not done
    consumer.close()
    await asyncio.wait_for(assigning, 60)
    assert app.assigned == set()


async def test_a_member_that_has_left_ends_its_epochs_in_order(kafka: Cluster, group: str) -> None:
    """librdkafka has no group metadata for it any more, inside the callback that leaves a classic group."""

    class Leaving(Scripted):
        left = False

        def consumer_group_metadata(self) -> object:
            if self.left:
                raise RuntimeError("Consumer group metadata not available")
            return "of the member"

        def assign(self, partitions: object) -> None: ...

        def unassign(self) -> None:
            self.left = True

    settings = FrameSettings(ledger=new_ledger, commits=False, group_protocol="classic")
    app = FrameApp(kafka.bootstrap, group, ["t"], settings=settings)
    consumer = app.consumer
    consumer._protocol = "classic"
    consumer._main_loop = asyncio.get_running_loop()
    scripted: Any = Leaving()
    consumer._member, consumer._fetcher = (ConsumerThread(name, scripted, print, print) for name in ("m", "f"))
    partitions = [TopicPartition("t", 0, 5)]
    await asyncio.to_thread(consumer._on_assign, scripted, partitions)
    ledger = consumer.ledger("t", 0)
    assert ledger is not None
    await asyncio.to_thread(consumer._on_revoke, scripted, partitions)
    assert not ledger.live
    assert app.assigned == set()
    assert consumer.group_metadata() == "of the member"


@pytest.fixture(scope="module")
def classic() -> Iterator[Cluster]:
    """A cluster that takes classic groups only."""
    with kafka_cluster(given=None, properties={"group.coordinator.rebalance.protocols": "classic"}) as cluster:
        yield cluster


async def test_classic_groups(classic: Cluster, prefix: str, group: str, caplog: pytest.LogCaptureFixture) -> None:
    """Where the brokers take no other: chosen by asking, with the `range` assignor, and nothing lost by a rebalance."""
    assert group_protocol({"bootstrap.servers": classic.bootstrap}) == "classic"
    names = [f"{prefix}one", f"{prefix}two"]
    create_topics(classic.bootstrap, **dict.fromkeys(names, 2))
    everything = {(name, partition) for name in names for partition in range(2)}

    async def feed(value: bytes) -> None:
        for name, partition in everything:
            produce(classic.bootstrap, name, [value], partition)

    fast = {"heartbeat.interval.ms": 200, "session.timeout.ms": 6_000}
    settings = FrameSettings(ledger=new_ledger, consumer=fast)
    first = FrameApp(classic.bootstrap, group, names, settings=settings)
    second = FrameApp(classic.bootstrap, group, names, settings=settings)
    async with running(first):
        await eventually_async(lambda: first.assigned == everything)
        await feed(b"x")
        await eventually_async(lambda: first.values().count(b"x") == 4)
        before = first.ledgers
        await second.start()
        await eventually_async(lambda: len(first.assigned) == len(second.assigned) == 2)
        assert first.assigned | second.assigned == everything
        assert len({partition for _, partition in first.assigned}) == 1
        assert not any(ledger.live for ledger in before.values())  # a classic rebalance takes all away first
        await feed(b"y")
        await eventually_async(lambda: first.values().count(b"y") == second.values().count(b"y") == 2)
        await second.stop()
        await eventually_async(lambda: first.assigned == everything)
        await feed(b"z")
        await eventually_async(lambda: first.values().count(b"z") == 4)
        assert b"x" not in second.values()
        await eventually_async(lambda: all(committed(classic.bootstrap, group, *key)[0] == 3 for key in everything))
    assert (first.values() + second.values()).count(b"y") == 4


async def test_a_classic_rebalance_does_not_wait_long_for_what_is_in_flight(
    classic: Cluster, prefix: str, group: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It takes away everything, so everything would stand still as long."""
    create_topics(classic.bootstrap, **{f"{prefix}in": 2})
    caplog.set_level("INFO", "connectors.frames")
    let_go = asyncio.Event()
    waits: list[str] = []

    async def on_revoke(partitions: list[tuple[str, int]]) -> None:
        waits.append("cut short")
        await let_go.wait()
        waits[-1] = "ended"

    fast = {"heartbeat.interval.ms": 200, "session.timeout.ms": 6_000}
    first = FrameApp(
        classic.bootstrap,
        group,
        [f"{prefix}in"],
        settings=FrameSettings(ledger=new_ledger, consumer=fast, on_revoke=on_revoke),
    )
    second = FrameApp(
        classic.bootstrap, group, [f"{prefix}in"], settings=FrameSettings(ledger=new_ledger, consumer=fast)
    )
    await first.start()
    await eventually_async(lambda: len(first.assigned) == 2)
    async with running(second):
        await eventually_async(lambda: len(first.assigned) == len(second.assigned) == 1)
        assert waits == ["cut short"]
        assert "is void and repeats" in caplog.text
        stopping = asyncio.ensure_future(first.stop())
        await eventually_async(lambda: len(waits) == 2)  # at a stop nothing stands still: it waits as long as it takes
        for partition in (0, 1):
            produce(classic.bootstrap, f"{prefix}in", [b"x"], partition)
        await eventually_async(second.values)
        assert not stopping.done()
        let_go.set()
        await stopping
        assert waits == ["cut short", "ended"]
        await eventually_async(lambda: len(second.values()) == 2)


async def test_a_cluster_without_the_new_protocol_is_named_when_it_was_asked_for(
    classic: Cluster, prefix: str, group: str, caplog: pytest.LogCaptureFixture
) -> None:
    create_topics(classic.bootstrap, **{f"{prefix}in": 1})
    settings = FrameSettings(ledger=new_ledger, group_protocol="consumer")
    app = FrameApp(classic.bootstrap, group, [f"{prefix}in"], settings=settings)
    async with running(app):
        await eventually_async(lambda: "set group_protocol to classic" in caplog.text)
        await eventually_async(lambda: app.app._crash_reason)


async def test_a_broker_that_does_not_answer_ends_the_start(group: str, caplog: pytest.LogCaptureFixture) -> None:
    app = FrameApp("127.0.0.1:1", group, ["t"])
    with pytest.raises(KafkaException):
        await asyncio.to_thread(group_protocol, {"bootstrap.servers": "127.0.0.1:1"}, 0.5)
    assert app.values() == []


async def test_an_app_subscribes_once_to_what_all_its_agents_listen_to(kafka: Cluster, group: str) -> None:
    names = [f"{group}.{number}" for number in range(3)]
    create_topics(kafka.bootstrap, **dict.fromkeys(names, 1))
    app = FrameApp(kafka.bootstrap, group, names[:1])
    heard: set[str] = set()

    async def listen(frames: Any) -> None:
        for _ in range(10):
            await drip()  # it has something else to do first
        async for frame in frames:
            heard.add(frame.topic)

    for name in names[1:]:
        app.app.agent(app.app.topic(name), name=name)(listen)
    begun: list[list[str]] = []
    app.app.on_partitions_assigned.connect(
        lambda _, tps, **__: begun.append(sorted(tp.topic for tp in tps)), weak=False
    )
    async with running(app):
        for name in names:
            produce(kafka.bootstrap, name, [b"x"])
        await eventually_async(lambda: heard == set(names[1:]) and app.values() == [b"x"])
    assert begun == [names], "the topics of all agents were in the first subscription"
