"""The simulated Kafka does what the engine's promises rest on, or the simulation would prove them of another system."""

from __future__ import annotations

import contextlib
import random

import pytest

from schemas.errors import FencedError, StaleGroupError
from tests.simulation.kafka import KafkaSettings, Partition, SimKafka, at_ms
from tests.simulation.loop import Scheduler, StuckError, VirtualLoop

OUT = "out"
GROUP = "group"


class Member:
    """A consumer that does as it is told at once, when it lets go of partitions at all."""

    def __init__(self, kafka: SimKafka, name: str, *, lets_go: bool = True) -> None:
        self.loop = VirtualLoop(kafka.scheduler)
        self.name = name
        self.epoch = 0
        self.owned: set[Partition] = set()
        self.told: list[str] = []
        self.data: list[Partition] = []
        self.lets_go = lets_go
        self._kafka = kafka
        kafka.join(GROUP, name, self)

    def told_to_revoke(self, partitions: list[Partition]) -> None:
        self.told.append("revoke")
        if self.lets_go:
            self.owned -= set(partitions)
            self._kafka.let_go(GROUP, self.name, partitions)

    def told_assigned(self, epoch: int, partitions: list[Partition]) -> None:
        self.epoch = epoch
        self.owned |= set(partitions)

    def told_lost(self) -> None:
        self.told.append("lost")
        self.owned.clear()

    def told_data(self, partition: Partition) -> None:
        self.data.append(partition)


@pytest.fixture
def kafka() -> SimKafka:
    kafka = SimKafka(Scheduler(), random.Random(1), KafkaSettings(partitions={OUT: 3, "a": 3, "b": 3}))
    kafka.group(GROUP, ["a", "b"])
    return kafka


def later(kafka: SimKafka, seconds: float = 5.0) -> None:
    with contextlib.suppress(StuckError):
        kafka.scheduler.run(lambda: False, seconds_max=kafka.scheduler.now + seconds)


def values(kafka: SimKafka, partition: int = 0, position: int = 0) -> list[bytes | None]:
    return [record.value() for record in kafka.read((OUT, partition), position, 100)[0]]


def record(value: bytes, partition: int = 0) -> tuple[str, bytes | None, bytes | None, int, None]:
    return (OUT, b"key", value, partition, None)


def test_readers_stop_at_the_first_open_transaction_and_pass_over_aborted_records(kafka: SimKafka) -> None:
    first, second = kafka.init_producer("one", "p1"), kafka.init_producer("two", "p2")
    kafka.produce(first, [record(b"1")])
    kafka.produce(second, [record(b"2")])
    kafka.end(second, True)
    assert values(kafka) == []
    kafka.end(first, False)
    assert values(kafka) == [b"2"]
    records, position = kafka.read((OUT, 0), 0, 100)
    assert [one.offset() for one in records] == [1]  # after the aborted one; markers follow
    assert position == 4


def test_a_second_producer_fences_the_first_and_aborts_what_it_left_open(kafka: SimKafka) -> None:
    first = kafka.init_producer("id", "p1")
    kafka.produce(first, [record(b"never")])
    second = kafka.init_producer("id", "p2")
    with pytest.raises(FencedError):
        kafka.produce(first, [record(b"x")])
    with pytest.raises(FencedError):
        kafka.end(first, True)
    kafka.produce(second, [record(b"1")])
    kafka.end(second, True)
    assert values(kafka) == [b"1"]


def test_a_transaction_that_takes_too_long_is_aborted_and_its_producer_fenced(kafka: SimKafka) -> None:
    producer = kafka.init_producer("id", "p1")
    kafka.produce(producer, [record(b"never")])
    later(kafka, 14.9)
    kafka.produce(producer, [record(b"never either")])
    later(kafka, 1)
    with pytest.raises(FencedError):
        kafka.end(producer, True)
    assert values(kafka) == []
    assert kafka.read((OUT, 0), 0, 10)[1] == 3  # nothing holds readers back


def test_offsets_are_refused_from_strangers_and_old_epochs_and_ownership_is_written_down(kafka: SimKafka) -> None:
    producer = kafka.init_producer("id", "p1")
    with pytest.raises(StaleGroupError, match="UNKNOWN_MEMBER_ID"):
        kafka.add_offsets(producer, GROUP, "nobody", 1, [("a", 0, 1, "")])
    kafka.end(producer, False)
    member = Member(kafka, "m1")
    later(kafka)
    with pytest.raises(StaleGroupError, match="STALE_MEMBER_EPOCH"):
        kafka.add_offsets(producer, GROUP, "m1", member.epoch - 1, [("a", 0, 1, "")])
    kafka.end(producer, False)
    seen = []
    kafka.on_commit.append(lambda transaction: seen.append((transaction.offsets, transaction.foreign)))
    kafka.add_offsets(producer, GROUP, "m1", member.epoch, [("a", 0, 7, "m"), ("c", 0, 1, "")])
    assert kafka.fetch_offsets(GROUP, [("a", 1)]) == {}
    assert kafka.fetch_offsets(GROUP, [("a", 0)]) is None  # not stable yet
    kafka.end(producer, True)
    assert kafka.fetch_offsets(GROUP, [("a", 0)]) == {("a", 0): (7, "m")}
    assert seen == [({("a", 0): (7, "m"), ("c", 0): (1, "")}, [("c", 0)])]


def test_range_gives_equal_partitions_to_the_same_member(kafka: SimKafka) -> None:
    first, second = Member(kafka, "m1"), Member(kafka, "m2")
    later(kafka)
    assert first.owned == {(topic, number) for topic in "ab" for number in (0, 1)}
    assert second.owned == {("a", 2), ("b", 2)}
    assert first.epoch == second.epoch == 2


def test_a_partition_moves_when_its_owner_has_let_go_and_not_before(kafka: SimKafka) -> None:
    first = Member(kafka, "m1", lets_go=False)
    later(kafka)
    epoch = first.epoch
    second = Member(kafka, "m2")
    later(kafka)
    assert first.told == ["revoke"]
    assert second.owned == set()
    assert kafka.groups[GROUP].members["m1"].epoch == epoch  # it may still commit what it settles
    kafka.let_go(GROUP, "m1", [("a", 2), ("b", 2)])
    later(kafka)
    assert second.owned == {("a", 2), ("b", 2)}
    assert kafka.groups[GROUP].members["m1"].epoch > epoch


def test_who_has_let_go_is_of_the_new_epoch_before_anything_sent_earlier_arrives(kafka: SimKafka) -> None:
    first = Member(kafka, "m1", lets_go=False)
    later(kafka)
    epoch = first.epoch
    Member(kafka, "m2")
    later(kafka)
    producer = kafka.init_producer("id", "p1")
    kafka.let_go(GROUP, "m1", [("a", 2), ("b", 2)])
    with pytest.raises(StaleGroupError, match="STALE_MEMBER_EPOCH"):
        kafka.add_offsets(producer, GROUP, "m1", epoch, [("a", 2, 1, "")])
    later(kafka)
    assert first.epoch == kafka.groups[GROUP].epoch > epoch


def test_a_member_given_up_on_is_told_and_its_partitions_go_to_others(kafka: SimKafka) -> None:
    first, second = Member(kafka, "m1"), Member(kafka, "m2")
    later(kafka)
    kafka.expire(GROUP, "m1", first)
    later(kafka)
    assert first.told == ["lost"]
    assert len(second.owned) == 6


def test_a_frozen_member_is_told_when_it_is_thawed(kafka: SimKafka) -> None:
    first = Member(kafka, "m1")
    later(kafka)
    first.loop.freeze()
    kafka.expire(GROUP, "m1", first)
    later(kafka, 30)
    assert first.told == []
    first.loop.thaw()
    later(kafka)
    assert first.told == ["lost"]


def test_requests_wait_while_no_broker_answers(kafka: SimKafka) -> None:
    member = Member(kafka, "m1")
    kafka.follow(member, (OUT, 0))
    kafka.go_down()
    answer = kafka.call(member.loop, kafka.init_producer, "id", "p1")
    kafka.append(OUT, 0, None, b"1")
    later(kafka, 20)
    assert not answer.done()
    assert values(kafka) == []
    assert member.data == []
    kafka.come_up()
    later(kafka)
    assert answer.result().epoch == 0
    assert values(kafka) == [b"1"]
    assert member.data == [(OUT, 0)]


def test_errors_reach_the_caller_and_the_dead_are_not_answered(kafka: SimKafka) -> None:
    loop, dead = VirtualLoop(kafka.scheduler), VirtualLoop(kafka.scheduler)
    producer = kafka.init_producer("id", "p1")
    kafka.init_producer("id", "p2")
    refused = kafka.call(loop, kafka.end, producer, True)
    unheard = kafka.call(dead, kafka.init_producer, "id", "p3")
    dead.kill()
    later(kafka)
    assert isinstance(refused.exception(), FencedError)
    assert not unheard.done()


def test_records_carry_virtual_time(kafka: SimKafka) -> None:
    later(kafka, 0)
    kafka.scheduler.after(12.345, kafka.append, OUT, 0, None, b"1")
    later(kafka, 20)
    (stored,) = kafka.read((OUT, 0), 0, 1)[0]
    assert stored.timestamp() == (1, at_ms(12.345))
