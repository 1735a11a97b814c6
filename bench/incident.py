"""`incident_p99`: fifty endpoints, one of them down for the whole retry schedule of what it missed, and a replay that
brings it all, at a capped rate. Measured is what is live, from an event handed to its producer to the POST, while the
replay goes on, next to the same before.

Everybody gets every event, at an even rate, from the first second to the last; the schedule is short instead of three
days long. The circuit is switched off: with it, nearly everything would be parked, and come by itself. What is missing
is looked at in the dead letters, and replayed from there by command, as an operator would.

`Incident` is shared with `tests/integration/test_incident.py`, which judges what came; here it is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaError, TopicPartition

from bench import harness
from bench.sink import Posted, Sink, sink, wait_until
from bench.world import World, event, make_world, subscription
from schemas import codec
from schemas.dead_letter import decode_dead_letter
from schemas.ids import delivery_id

ENDPOINTS = 50
PATIENCE_S = 180.0
LETTERS_MAX = 100_000
READ_S = 20.0

#: The command line: JSON lines of what it prints.
Command = Callable[..., list[Any]]


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """Events a second, to each of the endpoints; how long is measured; what the one that is down misses at least, how
    long its deliveries are retried, and how fast they are replayed."""

    rate: float
    before_s: float
    missing: int
    schedule_ms: tuple[int, ...]
    replay_rate: float
    warm_s: float = 0.0


class Traffic:
    """Events at an even rate, in a thread, until `stop`."""

    def __init__(self, world: World, rate: float) -> None:
        self.sent: dict[str, float] = {}  # by event id, when it was handed over (CLOCK_MONOTONIC)
        self._world = world
        self._rate = rate
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        producer = harness.prompt(self._world.bootstrap)
        begun = time.monotonic()
        while not self._ended.wait(max(0.0, begun + len(self.sent) / self._rate - time.monotonic())):
            one = event(len(self.sent))
            self.sent[one.id] = time.monotonic()
            producer.produce(self._world.topics.events, self._world.event_value(one), one.id.encode())
            producer.poll(0)
        producer.flush()

    def stop(self) -> None:
        """No more; what was sent is in Kafka on return."""
        self._ended.set()
        self._thread.join()


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `sent` are events, by id; `missing` are ids of the deliveries that were given up; `letters` is
    what `dead list` shows of them then, and `letters_after` in the end; `replay` is what the command said of the
    replay, and `written_ms` are the times of what it wrote to its lane. `before` are the two times between which live
    events are measured before anything happens."""

    sent: dict[str, float]
    missing: set[str]
    letters: list[dict[str, Any]]
    letters_after: list[dict[str, Any]]
    replay: dict[str, Any]
    written_ms: list[int]
    posts: list[Posted]
    before: tuple[float, float]
    down: str
    others: list[str]

    @property
    def during(self) -> tuple[float, float]:
        """When the first and the last delivery of the replay came."""
        replayed = [post.at_s for post in self.posts if post.replay]
        return min(replayed), max(replayed)

    def live_ms(self, between: tuple[float, float]) -> list[float]:
        """Of each live delivery of the events that were sent then, to whomever."""
        since, until = between
        sent = {
            delivery_id(each, target): at
            for each, at in self.sent.items()
            if since <= at < until
            for target in (self.down, *self.others)
        }
        first: dict[str, float] = {}
        for post in self.posts:
            if not post.replay and post.id in sent:
                first.setdefault(post.id, post.at_s)
        return [(at - sent[name]) * 1_000 for name, at in first.items()]


class Incident:
    """A world with a worker and live traffic, in which one endpoint can go down."""

    def __init__(self, world: World, endpoints: Sink, size: Size, command: Command) -> None:
        self.world = world
        self.size = size
        self._endpoints = endpoints
        self._command = command
        self.down, self._others = world.wanted[0].id, [each.id for each in world.wanted[1:]]

    def play(self) -> Told:
        """From the first event to the last delivery."""
        size, endpoints = self.size, self._endpoints
        traffic = Traffic(self.world, size.rate)
        try:
            self._wait(lambda: len(traffic.sent) > size.warm_s * size.rate, "traffic has begun")
            before_s = time.monotonic()
            self._wait(lambda: time.monotonic() - before_s > size.before_s, "it was measured before")
            before = (before_s, time.monotonic())
            harness.note("one endpoint goes down")
            endpoints.turn(down=True)
            self._wait(lambda: len(self._given_up()) >= size.missing, "that many are given up")
            endpoints.turn(down=False)
            harness.note("it is well again")
            self._wait(self._nothing_is_open, "the rest comes by itself")
            letters, missing = self._listed(), self._given_up()
            replay = self._replayed()
            self._wait(lambda: missing <= self._accepted(), "what was missing has come")
        finally:
            traffic.stop()
        everything = len(traffic.sent) * len(self.world.wanted)
        self._wait(lambda: endpoints.count("/") >= everything, "everything has come")
        return Told(
            sent=traffic.sent,
            missing=missing,
            letters=letters,
            letters_after=self._listed(),
            replay=replay,
            written_ms=sorted(one.timestamp()[1] for one in self._read(self.world.topics.replay)),
            posts=endpoints.posts("/"),
            before=before,
            down=self.down,
            others=self._others,
        )

    def _wait(self, reached: Callable[[], bool], what: str) -> None:
        if not wait_until(reached, PATIENCE_S, every_s=0.5):
            raise RuntimeError(f"not within {PATIENCE_S:.0f} s: {what}")

    # --- the endpoint that is down ------------------------------------------------------------------------------------

    def _given_up(self) -> set[str]:
        """Deliveries that have a dead letter."""
        return {decode_dead_letter(one.value()).delivery.id for one in self._read(self.world.topics.dead)}

    def _nothing_is_open(self) -> bool:
        """Whether all that it refused has been taken since, or given up."""
        refused = {post.id for post in self._endpoints.posts("/down") if post.status != 204}
        return refused <= self._accepted() | self._given_up()

    def _accepted(self) -> set[str]:
        return {post.id for post in self._endpoints.posts("/down") if post.status == 204}

    def delivered(self) -> Counter[str]:
        """How often each delivery was settled as delivered, by its id: what Kafka's books say."""
        schema = codec.parse_schema(codec.own_schema("attempt.v1"))
        attempts = [codec.decode(one.value(), schema) for one in self._read(self.world.topics.attempts)]
        return Counter(one["delivery_id"] for one in attempts if one["outcome"] == "delivered")

    # --- as an operator does ------------------------------------------------------------------------------------------

    def _listed(self) -> list[dict[str, Any]]:
        return self._command("dead", "list", "--subscription", self.down, "--limit", str(LETTERS_MAX), "--json")

    def _replayed(self) -> dict[str, Any]:
        """By command, followed to its end."""
        options = ("--from", "dead", "--subscription", self.down, "--rate", f"{self.size.replay_rate:g}")
        (told,) = self._command("replay", "start", *options, "--yes", "--follow", "--json", "--why", "it is well again")
        return dict(told)

    # --- Kafka --------------------------------------------------------------------------------------------------------

    def _read(self, topic: str) -> list[Any]:
        """All committed records. A consumer that is not told of an end in time is made anew."""
        while (found := self._read_in_time(topic)) is None:
            harness.note(f"reading {topic} again")
        return found

    def _read_in_time(self, topic: str) -> list[Any] | None:
        consumer = Consumer(
            {
                "bootstrap.servers": self.world.bootstrap,
                "group.id": "incident",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 10,
            }
        )
        try:
            numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
            found: list[Any] = []
            ended: set[int | None] = set()
            deadline = time.monotonic() + READ_S
            while len(ended) < len(numbers):
                if time.monotonic() > deadline:
                    return None
                for message in consumer.consume(1_000, 0.05):
                    error = message.error()
                    if error is None:
                        found.append(message)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        ended.add(message.partition())
            return found
        finally:
            consumer.close()


@contextlib.contextmanager
def incident(bootstrap: str, size: Size, command: Callable[[World], Command]) -> Iterator[Incident]:
    """A world of fifty endpoints and a worker with all roles; `command` makes the command line of a world."""
    with sink(keep="posts") as endpoints:
        schedule: dict[str, Any] = {"retry_schedule_ms": size.schedule_ms}
        down = subscription(0, endpoints.url("/down"), **schedule)
        others = [subscription(number, endpoints.url(f"/ok/{number}")) for number in range(1, ENDPOINTS)]
        world = make_world(bootstrap, 4, [down, *others])
        roles = ["fan-out", "delivery", "replay"]
        with harness.role("bench.world:worker", part=roles, circuit_results_min=0, **world.arguments) as worker:
            worker.line()
            yield Incident(world, endpoints, size, command(world))


def _command_line(world: World) -> Command:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("DISTRIBUTARY_")},
        "DISTRIBUTARY_BOOTSTRAP": world.bootstrap,
        "DISTRIBUTARY_PREFIX": world.topics.prefix,
    }

    def lines(*arguments: str) -> list[Any]:
        command = [sys.executable, "-m", "streams.cli", *arguments]
        out = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
        return [json.loads(line) for line in out.splitlines()]

    return lines


def main(bootstrap: str) -> None:
    """One incident of two minutes; the replay takes as long as what it is compared with."""
    size = Size(rate=20, before_s=25.0, missing=750, schedule_ms=(1_000, 1_000, 2_000), replay_rate=30.0, warm_s=10.0)
    with incident(bootstrap, size, _command_line) as played:
        told = played.play()
    if told.replay["sent"] < size.missing:
        raise RuntimeError(f"the replay sent {told.replay['sent']} of {len(told.missing)}")
    before, during = (harness.quantile(told.live_ms(each), 0.99) for each in (told.before, told.during))
    harness.show("incident_p99", during, "ms", ratio=during / before, vs="before_the_incident")
