"""What transactions say, read for the checkers: which records were written, and which inputs count as finished now.
Without transactions, each request says what it has.

Whether that is right is for the checkers to say. Records of `attempts` and `deliveries.dead` are decoded by fastavro,
not by the engine's own decoders.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from schemas import codec
from schemas.delivery import REPLAY_HEADER, Delivery, dead_letter_schema, replay_of
from schemas.endpoint import EndpointState, decode_state
from schemas.topics import Topics
from streams.core.ledger import decode_finished
from tests.simulation.endpoints import run_id
from tests.simulation.engine import delivery_in
from tests.simulation.kafka import Log, Partition, SimKafka, Stored, Transaction

ATTEMPT = codec.parse_schema(codec.own_schema("attempt.v1"))
DEAD_LETTER = codec.parse_schema(dead_letter_schema())

Kind = Literal["delivery", "attempt", "dead", "quarantine", "marker", "state", "other"]

#: The header of the record that finishes a parked one: its offset.
FINISHED = "distributary-finished"

#: What `attempts` says when nothing more will be tried.
ENDS = frozenset({"delivered", "rejected", "exhausted", "cancelled"})


class Written(msgspec.Struct, frozen=True):
    """A record of a transaction. `delivery_id` is that of a run (`run_id`), and empty where it is about none."""

    stored: Stored
    kind: Kind
    delivery_id: str = ""
    delivery: Delivery | None = None
    state: EndpointState | None = None
    fields: dict[str, Any] = {}

    @property
    def ends(self) -> bool:
        """Whether this record is a delivery's end."""
        return self.kind == "attempt" and self.fields["outcome"] in ENDS


class Commit(msgspec.Struct, frozen=True):
    """A committed transaction."""

    at_s: float
    worker: str
    group: str
    written: list[Written]
    #: Input records that count as finished from now on, and did not before.
    finished: list[Stored]
    #: Input records that count as unfinished again, as (partition, offset).
    unfinished: list[tuple[Partition, int]]
    #: Partitions whose offsets were sent by a member that did not own them.
    foreign: list[Partition]


class Books:
    """Reads every commit; knows which deliveries have no end yet."""

    def __init__(self, kafka: SimKafka, topics: Topics, *, at_least_once: bool = False) -> None:
        self.topics = topics
        self.at_least_once = at_least_once
        #: Where deliveries begin: from events, and again from replays.
        self.beginnings = frozenset((topics.deliveries, topics.replay))
        self.sources = frozenset((*self.beginnings, *topics.tiers.values(), topics.parked))
        #: Deliveries that were fanned out or replayed, by the id of their run, as they were then.
        self.deliveries: dict[str, Delivery] = {}
        #: Those without an end.
        self.pending: set[str] = set()
        #: Those that have one.
        self.ended: set[str] = set()
        #: By delivery id, its newest run: what its attempts belong to. A run begins when the one before has ended.
        self.run_of: dict[str, str] = {}
        self.events_finished = 0
        #: When each event was written, by number.
        self.event_s: dict[int, float] = {}
        self._kafka = kafka
        self._finished: dict[tuple[str, str, int], tuple[int, frozenset[int]]] = {}
        self._marked: dict[int, set[int]] = {}  # finished offsets of the log of parked deliveries, by partition

    def may_repeat(self, delivery_id: str) -> bool:
        """Whether this delivery may be under way twice, and its records stand there twice: without transactions, when
        something was lost (`SimKafka.lose`) since its event was written. A rebalance in order loses nothing."""
        return self.at_least_once and self._kafka.last_loss_s >= self.event_s[number_of(self.deliveries[delivery_id])]

    def read(self, transaction: Transaction) -> Commit:
        """What the transaction says; to be called once for each, in order."""
        written = [self._written(stored) for stored in transaction.records]
        finished: list[Stored] = []
        unfinished: list[tuple[Partition, int]] = []
        for one in written:
            if one.kind == "marker":
                self._mark(one.stored, finished)
        for partition, (position, metadata) in transaction.offsets.items():
            self._progress(transaction.group, partition, position, metadata, finished, unfinished)
        for one in written:
            if one.kind == "delivery" and one.stored.topic in self.beginnings:
                assert one.delivery is not None
                self.deliveries.setdefault(one.delivery_id, one.delivery)
                self.run_of[one.delivery.id] = one.delivery_id
                if one.delivery_id not in self.ended:
                    self.pending.add(one.delivery_id)
            elif one.ends:
                self.pending.discard(one.delivery_id)
                self.ended.add(one.delivery_id)
        self.events_finished += sum(stored.topic == self.topics.events for stored in finished)
        session = transaction.producer
        return Commit(
            self._kafka.scheduler.now,
            session.process,
            transaction.group,
            written,
            finished,
            unfinished,
            transaction.foreign,
        )

    def _written(self, stored: Stored) -> Written:
        topics, value = self.topics, stored.value()
        if stored.topic in self.sources:
            if value is None:
                marks = dict(stored.headers() or ())
                return Written(stored, "marker" if FINISHED in marks else "other")
            delivery = delivery_in(value)
            return Written(stored, "delivery", run_id(delivery.id, replay_of(delivery)), delivery)
        if stored.topic == topics.attempts:
            assert value is not None
            fields = codec.decode(value, ATTEMPT)
            return Written(stored, "attempt", self._run(fields["delivery_id"]), fields=fields)
        if stored.topic == topics.dead:
            assert value is not None
            fields = codec.decode(value, DEAD_LETTER)
            delivery_id = fields["delivery"]["id"]
            replay = fields["delivery"]["headers"].get(REPLAY_HEADER, "")
            return Written(stored, "dead", run_id(delivery_id, replay), fields=fields)
        if stored.topic == topics.endpoints_state:
            return Written(stored, "state", state=decode_state(value))
        return Written(stored, "quarantine" if stored.topic == topics.quarantine else "other")

    def _run(self, delivery_id: str) -> str:
        return self.run_of.get(delivery_id, delivery_id)

    def _progress(
        self,
        group: str,
        partition: Partition,
        position: int,
        metadata: str,
        finished: list[Stored],
        unfinished: list[tuple[Partition, int]],
    ) -> None:
        if partition[0] == self.topics.parked:
            # Markers say what is finished; what the position passes has to be.
            marked = self._marked.setdefault(partition[1], set())
            metadata = ""
        else:
            marked = set()
        key = (group, *partition)
        before, beyond = self._finished.get(key, (0, frozenset()))
        now_beyond = frozenset(decode_finished(position, metadata))
        self._finished[key] = (position, now_beyond)
        log = self._kafka.logs[partition]
        fresh = [offset for offset in range(before, position) if offset not in beyond and offset not in marked]
        fresh += sorted(now_beyond - beyond)
        finished += [entry for offset in fresh if (entry := _input(log, offset)) is not None]
        again = [*range(position, before), *(offset for offset in beyond if offset >= position)]
        unfinished += [
            (partition, offset)
            for offset in sorted(set(again) - now_beyond)
            if _input(log, offset) is not None and (offset < before or offset in beyond)
        ]

    def _mark(self, stored: Stored, finished: list[Stored]) -> None:
        """A record of the log of parked deliveries is finished."""
        offset = int((dict(stored.headers() or ())[FINISHED] or b"").decode())
        self._marked.setdefault(stored.partition, set()).add(offset)
        entry = _input(self._kafka.logs[stored.topic, stored.partition], offset)
        if entry is not None:
            finished.append(entry)


def number_of(delivery: Delivery) -> int:
    """The number of its event."""
    return int(delivery.body.split(b'"number":')[1].rstrip(b"}"))


def _input(log: Log, offset: int) -> Stored | None:
    """The committed record at an offset; None for a marker, an aborted record, or nothing."""
    entry = log.entries[offset] if offset < len(log.entries) else None
    return entry if entry is not None and entry.committed and (entry.value() is not None) else None
