"""Fan-out killed or frozen at each step of its transaction: every delivery record once, and none before its offset.

Between two looks nothing is assumed: what the dead worker says that it had written is compared with what is in Kafka,
and the deliveries that readers of committed records see are always exactly those of the events before the group's
committed offsets.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition

from connectors.local_kafka import Cluster
from schemas.delivery import decode_delivery
from schemas.ids import delivery_id
from tests.conftest import new_prefix
from tests.helpers import eventually
from tests.integration.dying_worker import STEPS
from tests.integration.workers import PARTITIONS, Site, WorkerProcess, until

SUBSCRIPTIONS = ("sub_0", "sub_1", "sub_2")
EVENTS = 2_400  # more deliveries than one transaction takes: 5,000 and those of a frame of 500 events
#: After how long brokers end a dead worker's transaction: here it is its successor who does.
LONGER_THAN_THE_TESTS_MS = 600_000
#: And here they do, before they wait for the member.
SHORT_MS = 5_000
#: Steps after which the transaction is there for good.
DURABLE = ("commit_asked", "committed")
#: Steps with records in the log by then.
IN_THE_LOG = ("part_written", "written", "offsets_sent", *DURABLE)


class Died(msgspec.Struct, frozen=True):
    """What a worker said of itself: where it stopped, the records of committed transactions and of the open one."""

    step: str
    committed: int
    queued: int


class Books:
    """What is in Kafka, next to what must be."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def visible(self) -> Counter[str]:
        """How often each delivery's id is there for readers of committed records."""
        return self._ids("read_committed")

    def in_the_log(self) -> int:
        """Delivery records, committed or not."""
        return self._ids("read_uncommitted").total()

    def committed(self) -> dict[int, int]:
        """The fan-out group's offset by partition of `events`, without what an open transaction holds."""
        topic = self.site.topics.events
        consumer = Consumer(
            {
                "bootstrap.servers": self.site.settings.bootstrap,
                "group.id": self.site.settings.group("fan-out"),
                "isolation.level": "read_uncommitted",  # or it would wait for that transaction's end
            }
        )
        try:
            places = [TopicPartition(topic, number) for number in range(PARTITIONS)]

            def ask() -> list[TopicPartition]:
                with contextlib.suppress(KafkaException):  # such as of a coordinator that is only coming
                    return consumer.committed(places, 60)
                return []

            found = eventually(ask, message="the group's offsets")
            return {place.partition: max(place.offset, 0) for place in found}
        finally:
            consumer.close()

    def expected(self) -> dict[str, int]:
        """The deliveries of all events before the group's offsets, once each."""
        offsets = self.committed()
        return {
            delivery_id(message.key().decode(), subscription): 1
            for message in self.site.read(self.site.topics.events)
            if message.offset() < offsets[message.partition()]
            for subscription in SUBSCRIPTIONS
        }

    def ends(self) -> dict[int, int]:
        """The end of each partition of `events`."""
        found = Counter[int](message.partition() for message in self.site.read(self.site.topics.events))
        return {number: found[number] for number in range(PARTITIONS)}

    def _ids(self, isolation: str) -> Counter[str]:
        # A dead worker's transaction stays open for longer than anybody would wait for it here.
        messages = self.site.read(self.site.topics.deliveries, isolation=isolation, patience_s=0.0)
        return Counter(decode_delivery(message.value()).id for message in messages)


def made(kafka: Cluster, prefix: str) -> Books:
    """Topics with subscriptions and events; nothing is fanned out."""
    site = asyncio.run(Site.made(kafka.bootstrap, prefix))
    for subscription in SUBSCRIPTIONS:
        site.subscribe(subscription, "http://127.0.0.1:1024/")
    site.send(f"evt_{n}" for n in range(EVENTS))
    return Books(site)


def dying(step: str, signal_name: str, timeout_ms: int) -> tuple[str, ...]:
    return ("tests.integration.dying_worker", step, signal_name, str(timeout_ms))


def stopped(worker: WorkerProcess) -> Died:
    """Where and with what it stopped, as it said; it may have said before that it is ready."""
    while (said := worker.says()) == "ready":
        pass
    step, committed, queued = said.split()
    return Died(step, int(committed), int(queued))


def everything_is_there(books: Books) -> bool:
    """Also as the group has it: what a frozen worker left in the log is not what its successor has done."""
    return books.committed() == books.ends() and books.visible().total() >= EVENTS * len(SUBSCRIPTIONS)


def holds_once(books: Books) -> None:
    """Every delivery of every event, once; and the group is at the end."""
    expected = books.expected()
    assert len(expected) == EVENTS * len(SUBSCRIPTIONS)
    assert books.visible() == expected
    assert books.committed() == books.ends()


pytestmark = pytest.mark.timeout(300)  # eight workers start at once


@pytest.fixture(scope="module")
def dead(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Books, Died]]:
    """Of each step a worker that was killed there, each with topics of its own. All at once: a group waits six seconds
    for a member that died."""
    log = tmp_path_factory.mktemp("dead") / "worker.log"
    found: dict[str, tuple[Books, Died]] = {}
    with contextlib.ExitStack() as stack:
        started = []
        for step in STEPS:
            books = made(kafka, new_prefix())
            program = dying(step, "SIGKILL", LONGER_THAN_THE_TESTS_MS)
            worker = books.site.worker_process("w1", ["fan-out"], log=log, program=program)
            started.append((step, books, stack.enter_context(worker)))
        for step, books, process in started:
            found[step] = (books, stopped(process))
            assert process.ends() == -signal.SIGKILL
    return found


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step(dead: dict[str, tuple[Books, Died]], tmp_path: Path, step: str) -> None:
    books, died = dead[step]
    assert died.step == step
    assert (died.committed > 0) == (step != "before_begin")
    durable = died.committed
    if step in DURABLE:
        durable += died.queued
    # What was asked for is on its way, to one partition after the other.
    until(lambda: books.visible().total() == len(books.expected()) == durable, "the commits are over")
    visible = books.visible()
    assert visible.total() == durable
    assert visible == books.expected()
    if step in IN_THE_LOG:
        assert books.in_the_log() == died.committed + died.queued > died.committed
    with books.site.worker_process("w1", ["fan-out"], log=tmp_path / "worker.log") as worker:
        worker.ready()  # or a SIGTERM would meet nobody, where nothing was left to be done
        until(lambda: everything_is_there(books), "all are written")
        assert worker.terminate() == 0
    holds_once(books)


@pytest.mark.parametrize(("step", "successor"), [("offsets_sent", "w1"), ("written", "w2"), ("begun", "w2")])
def test_frozen_at_a_step_until_another_has_done_its_work(
    kafka: Cluster, prefix: str, tmp_path: Path, step: str, successor: str
) -> None:
    """A worker of its id ends its transaction at once, one of another id when its time is over; what it does when it
    wakes up is void."""
    books = made(kafka, prefix)
    log = tmp_path / "worker.log"
    program = dying(step, "SIGSTOP", SHORT_MS)
    with books.site.worker_process("w1", ["fan-out"], log=log, program=program) as frozen:
        assert stopped(frozen).step == step
        with books.site.worker_process(successor, ["fan-out"], log=tmp_path / "successor.log") as worker:
            until(lambda: everything_is_there(books), "the successor has written all")
            frozen.signal(signal.SIGCONT)
            if successor == "w1":  # which fences it
                assert frozen.ends() != 0
            else:
                until(lambda: frozen.ended() or "lost" in log.read_text(), "it knows")
            assert worker.terminate() == 0
    holds_once(books)
