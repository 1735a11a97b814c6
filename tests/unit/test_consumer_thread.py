"""The one thread that calls a consumer: turns, calls in between, and the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from connectors.consumer_thread import ConsumerThread
from tests.helpers import eventually


class Consumer:
    """In place of confluent_kafka's: remembers who closed it."""

    def __init__(self) -> None:
        self.closed_by: threading.Thread | None = None
        self.close_error: Exception | None = None

    def close(self) -> None:
        self.closed_by = threading.current_thread()
        if self.close_error is not None:
            raise self.close_error


class Subject:
    def __init__(self) -> None:
        self.consumer = Consumer()
        self.turns = 0
        self.error: Exception | None = None
        self.failures: list[Exception] = []
        real: Any = self.consumer
        self.thread = ConsumerThread("subject", real, self._turn, self.failures.append)

    def _turn(self, consumer: object) -> None:
        assert consumer is self.consumer
        self.turns += 1
        if self.error is not None:
            raise self.error
        self.thread.halted.wait(0.001)


@pytest.fixture
def subject() -> Iterator[Subject]:
    made = Subject()
    yield made
    made.thread.halt()
    made.thread.join()


def test_turns_are_taken_until_it_is_halted(subject: Subject) -> None:
    subject.thread.start()
    eventually(lambda: subject.turns > 3)
    subject.thread.halt()
    subject.thread.join()
    assert subject.consumer.closed_by is not None
    assert subject.consumer.closed_by.name == "subject"
    assert subject.failures == []


def test_calls_are_made_on_the_thread_in_order_with_their_results(subject: Subject) -> None:
    subject.thread.start()
    made: list[int] = []

    def call(consumer: object, number: int) -> str:
        assert consumer is subject.consumer
        assert threading.current_thread().name == "subject"
        made.append(number)
        if number == 2:
            raise ValueError("two")
        return f"result {number}"

    futures = [subject.thread.call(call, number) for number in range(4)]
    assert futures[3].result(10) == "result 3"
    assert made == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="two"):
        futures[2].result(10)


def test_a_call_that_is_cancelled_before_its_turn_is_not_made_and_harms_no_other(subject: Subject) -> None:
    made: list[int] = []
    futures = [subject.thread.call(lambda _, number: made.append(number), number) for number in range(3)]
    assert futures[1].cancel()
    subject.thread.start()
    futures[2].result(10)
    late = subject.thread.call(lambda _: made.append(9))
    late.cancel()
    subject.thread.halt()
    subject.thread.join()
    assert made in ([0, 2], [0, 2, 9])  # the last one may have been faster
    assert subject.failures == []


def test_a_call_that_was_cancelled_does_not_keep_the_end_from_refusing_others(subject: Subject) -> None:
    first, second = subject.thread.call(lambda _: None), subject.thread.call(lambda _: None)
    first.cancel()
    subject.thread.halt()
    subject.thread.start()
    subject.thread.join()
    with pytest.raises(RuntimeError, match="closed"):
        second.result(10)


def test_what_a_turn_raises_ends_the_thread_and_is_told(subject: Subject) -> None:
    subject.error = OSError("broken")
    subject.thread.start()
    subject.thread.join()
    assert subject.failures == [subject.error]
    assert subject.consumer.closed_by is not None


def test_a_close_that_fails_is_said(subject: Subject, caplog: pytest.LogCaptureFixture) -> None:
    subject.consumer.close_error = OSError("broken")
    subject.thread.halt()
    subject.thread.start()
    subject.thread.join()
    assert "subject: closing the consumer failed: broken" in caplog.text
    assert subject.failures == []


def test_calls_after_the_end_are_refused(subject: Subject) -> None:
    waiting = subject.thread.call(lambda consumer: None)
    subject.thread.halt()
    subject.thread.join()  # never started: nothing to wait for
    subject.thread.start()
    subject.thread.join()
    for future in (waiting, subject.thread.call(lambda consumer: None)):
        with pytest.raises(RuntimeError, match="closed"):
            future.result(10)
