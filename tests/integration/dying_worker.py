"""A worker as a process that stops at a step of a transaction: `dying_worker STEP SIGNAL TIMEOUT_MS ROLE...`.

The worker is the product's own, and so is its publisher; only librdkafka's client is replaced, by a subclass that sends
this process a signal (SIGKILL, SIGSTOP) before, between or after the real calls. What it does by then is real, so what
another process finds in Kafka is what a crash there leaves. Just before, it prints what it had written by then: the
records of committed transactions, and those of the open one, which the broker ends after TIMEOUT_MS.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import uvloop
from confluent_kafka import Producer

from connectors import publisher
from tests.integration.worker_process import main

#: The steps, in their order. All but the first are of the second transaction that holds records.
STEPS = (
    "before_begin",  # before the first transaction: nothing was ever written
    "begun",
    "queued",  # some records are queued, which may or may not have left
    "part_written",  # and some are in the log
    "written",  # all records are in the log, the offsets are not
    "offsets_sent",
    "commit_asked",  # the request to commit has left; its answer was not read
    "committed",  # before the worker knows it, and before the next one is begun
)
#: Records queued by then: in the middle of the three deliveries of an event.
PART_RECORDS = 2


class DyingProducer(Producer):
    """Ends, or freezes, at the step. A worker has two that take turns, and transactions are counted over both."""

    step: str
    signal: signal.Signals
    timeout_ms: int
    full = 0  # transactions committed that held records
    records = 0  # theirs
    over = False
    commits_asked = commits_sent = 0
    committing: DyingProducer

    def __init__(self, config: dict[str, Any], **_: Any) -> None:
        more: dict[str, Any] = {"transaction.timeout.ms": self.timeout_ms}
        if self.step == "commit_asked":  # without a logger, librdkafka says it on stderr as it sends
            more["debug"] = "protocol"
        super().__init__(config | more)
        self._queued = 0  # records of the open one

    def begin_transaction(self, *args: Any) -> None:
        self._at("before_begin", True)
        super().begin_transaction(*args)
        self._at("begun", self.full == 1)

    def produce(self, *args: Any, **kwargs: Any) -> None:
        super().produce(*args, **kwargs)
        self._queued += 1
        if self.full == 1 and self._queued == PART_RECORDS:
            self._at("queued", True)
            if self.step == "part_written":
                self.flush()
                self._at("part_written", True)

    def send_offsets_to_transaction(self, *args: Any) -> None:
        if self.step == "written" and self._in_second():
            self.flush()
            self._at("written", True)
        super().send_offsets_to_transaction(*args)
        if self.step == "offsets_sent":
            self.flush()
        self._at("offsets_sent", self._in_second())

    def commit_transaction(self, *args: Any) -> None:
        DyingProducer.committing = self
        DyingProducer.commits_asked += 1
        super().commit_transaction(*args)
        self._at("committed", self._in_second())
        DyingProducer.full += bool(self._queued)
        DyingProducer.records += self._queued
        self._queued = 0

    @classmethod
    def commit_was_sent(cls) -> None:
        """Called for each request that ends a transaction."""
        cls.commits_sent += 1
        cls.committing._at("commit_asked", cls.committing._in_second() and cls.commits_sent == cls.commits_asked)

    def _in_second(self) -> bool:
        return self.full == 1 and self._queued > 0

    def _at(self, step: str, here: bool) -> None:
        if step == self.step and here and not self.over:
            DyingProducer.over = True
            os.write(1, f"{step} {self.records} {self._queued}\n".encode())
            # To this thread: sent to the process, SIGSTOP lets it run on for some microseconds.
            signal.pthread_kill(threading.get_ident(), self.signal)


def _watch_stderr(words: bytes, then: Callable[[], None]) -> None:
    """Call it for each line of this process's stderr that holds the words; all are passed on."""
    passed_on = os.dup(2)
    lines, stderr = os.pipe()
    os.dup2(stderr, 2)

    def watch() -> None:
        with os.fdopen(lines, "rb") as said:
            for line in said:
                if words in line:
                    then()
                os.write(passed_on, line)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    DyingProducer.step, DyingProducer.signal = sys.argv[1], signal.Signals[sys.argv[2]]
    DyingProducer.timeout_ms = int(sys.argv[3])
    vars(publisher)["Producer"] = DyingProducer
    if DyingProducer.step == "commit_asked":
        _watch_stderr(b"Sent EndTxnRequest", DyingProducer.commit_was_sent)
    uvloop.run(main())
