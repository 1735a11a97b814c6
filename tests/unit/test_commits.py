"""Commits of a member's offsets: merged, tried again, dropped where the partition is not ours any more."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from connectors.commits import Commits

A, B = ("t", 0), ("t", 1)


class Broker:
    """In place of the consumer: takes commits, and answers when told to, as librdkafka's callback does."""

    def __init__(self) -> None:
        self.ours = {A: 0, B: 0}  # from which offset on
        self.asked_later = 0
        self.sent: list[dict[tuple[str, int], tuple[int, str]]] = []
        self.waited_for: list[dict[tuple[str, int], tuple[int, str]]] = []
        self.refuses: KafkaError | None = None
        self._last: list[TopicPartition] = []
        self.commits = Commits(lambda key, offset: offset >= self.ours.get(key, 1 << 62), self._later)

    def _later(self) -> None:
        self.asked_later += 1

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition]:
        positions = {(one.topic, one.partition): (one.offset, one.metadata or "") for one in offsets}
        if self.refuses is not None:
            raise KafkaException(self.refuses)
        (self.sent if asynchronous else self.waited_for).append(positions)
        if asynchronous:
            self._last = offsets
        return offsets

    def add(self, key: tuple[str, int], offset: int, metadata: str = "") -> None:
        self.commits.add([(*key, offset, metadata)])

    def send(self) -> None:
        self.commits.send(consumer(self))

    def answer(self, error: KafkaError | None = None) -> None:
        self.commits.answered(consumer(self), error, self._last)


def consumer(broker: Broker) -> Any:
    return broker


@pytest.fixture
def broker() -> Broker:
    return Broker()


def test_nothing_to_commit(broker: Broker) -> None:
    broker.send()
    broker.commits.flush(consumer(broker), [A])
    assert broker.sent == broker.waited_for == []


def test_what_comes_while_one_is_on_its_way_is_merged(broker: Broker) -> None:
    broker.add(A, 1, "m")
    broker.send()
    for offset in (2, 3):
        broker.add(A, offset)
        broker.add(B, offset * 10)
        broker.send()
    assert broker.sent == [{A: (1, "m")}]
    broker.answer()
    assert broker.sent[1:] == [{A: (3, ""), B: (30, "")}]
    broker.answer()
    assert len(broker.sent) == 2


def test_a_failed_commit_is_tried_again_with_what_is_newest(broker: Broker) -> None:
    broker.add(A, 1)
    broker.add(B, 1)
    broker.send()
    broker.add(A, 2)
    broker.answer(KafkaError(KafkaError.STALE_MEMBER_EPOCH))
    assert broker.asked_later == 1
    broker.send()
    assert broker.sent[-1] == {A: (2, ""), B: (1, "")}
    broker.answer()
    assert broker.asked_later == 1


def test_a_commit_that_cannot_even_be_sent_is_tried_again(broker: Broker) -> None:
    broker.refuses = KafkaError(KafkaError._TRANSPORT)
    broker.add(A, 1)
    broker.send()
    assert (broker.sent, broker.asked_later) == ([], 1)
    broker.refuses = None
    broker.send()
    assert broker.sent == [{A: (1, "")}]


@pytest.mark.parametrize("comes_back", [False, True])
@pytest.mark.parametrize("when", ["before it is sent", "while it is on its way"])
def test_offsets_of_an_epoch_that_ended_are_dropped(broker: Broker, when: str, comes_back: bool) -> None:
    def lose() -> None:
        del broker.ours[A]
        if comes_back:
            broker.ours[A] = 100  # another one went so far meanwhile

    broker.add(A, 1)
    if when == "before it is sent":
        lose()
        broker.send()
        assert broker.sent == []
        return
    broker.send()
    lose()
    broker.answer(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))
    assert broker.asked_later == 0
    broker.send()
    assert len(broker.sent) == 1


def test_a_partition_that_is_given_up_is_committed_first(broker: Broker) -> None:
    broker.add(A, 1)
    broker.send()
    broker.add(A, 2, "m")
    broker.add(B, 5)
    broker.commits.flush(consumer(broker), [A])
    assert broker.waited_for == [{A: (2, "m")}]
    broker.commits.drop([A])
    broker.answer()
    assert broker.sent[1:] == [{B: (5, "")}]


def test_what_is_on_its_way_is_waited_for_when_the_partition_is_given_up(broker: Broker) -> None:
    broker.add(A, 1)
    broker.send()
    broker.commits.flush(consumer(broker), [A, B])
    assert broker.waited_for == [{A: (1, "")}]


def test_a_last_commit_that_fails_is_said(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    broker.add(A, 1)
    broker.refuses = KafkaError(KafkaError._TRANSPORT)
    broker.commits.flush(consumer(broker), [A])
    assert "they will repeat" in caplog.text


def test_answers_to_other_commits_are_not_taken_for_ours(broker: Broker) -> None:
    broker.add(A, 1)
    broker.send()
    broker.add(A, 2)
    broker.commits.answered(consumer(broker), None, [TopicPartition(*A, 7)])
    assert len(broker.sent) == 1
    broker.answer()
    assert len(broker.sent) == 2
