"""Lanes: what waits for one endpoint inside a worker, and which of it may be sent next.

A lane keeps first attempts and late deliveries (retries, and what was parked) in queues of their own, each with a share
of the endpoint's places, and what replays send again in a third, which goes when the others are empty, or now and then
where they never are. For an ordered subscription it has one queue for each ordering key. It knows how many POSTs the
endpoint may have at a time, and since when and until when it may have none at all: its health, its gate, its rate.

This file sends nothing, writes nothing and reads no clock; between lanes, `streams/core/fair.py` chooses.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Collection
from operator import attrgetter
from typing import NamedTuple

from schemas.delivery import Delivery
from schemas.frame import OffsetLedger, Record
from schemas.subscription import Subscription
from streams.core.health import Health
from streams.core.limits import GradientLimit, SlowStart, TokenBucket
from streams.core.parked import Order, ParkedLog
from streams.requests import Outgoing

#: What a delivery costs in the turn between lanes beside its body: its headers and its record, in bytes.
JOB_BYTES = 1_024
#: The part of a lane's places that late deliveries leave to first attempts: one in so many, and one at least.
FRESH_SHARE = 4
#: Of a lane that always has something live to send, what is replayed gets one turn in so many.
REPLAYED_TURN = 16
#: Parked deliveries of one ordering key that are read ahead.
KEY_AHEAD = 16
#: Before the ordering key of a replayed delivery: replays have a line of their own.
REPLAYED_KEY = "\0replay\0"

_OFFSET_BITS = 44
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1


class Intake:
    """The records of one partition, in one assignment epoch."""

    __slots__ = (
        "blocked", "hold_ms", "in_flight", "ledger", "log", "partition", "reading", "records", "replay", "timer",
        "topic",
    )  # fmt: skip

    def __init__(self, topic: str, partition: int, ledger: OffsetLedger, hold_ms: int, *, replay: bool = False) -> None:
        self.topic = topic
        self.partition = partition
        self.ledger = ledger
        self.log = ledger if isinstance(ledger, ParkedLog) else None  # where this is a partition of parked deliveries
        self.hold_ms = hold_ms
        self.replay = replay  # of the replay lane
        self.records: deque[Record] = deque()  # not admitted yet
        self.in_flight = 0
        self.blocked = False  # by its ledger or by a hold, not by the worker's load
        self.timer: asyncio.TimerHandle | None = None
        self.reading: asyncio.Task[None] | None = None


class Job(NamedTuple):
    """An admitted delivery. `order` is its place where the subscription is ordered."""

    delivery: Delivery
    intake: Intake
    offset: int
    order: Order | None = None

    @property
    def late(self) -> bool:
        """Not a first attempt that comes straight from fan-out."""
        return self.delivery.attempt > 0 or self.intake.log is not None or self.intake.replay


_number_of = attrgetter("order.number")


class KeyQueue:
    """What is known to be outstanding for one ordering key of one endpoint, each delivery in exactly one of four
    places. Only the one with the smallest number may be sent."""

    __slots__ = ("alarm_ms", "due_ms", "ending", "jobs", "pipe", "reading", "refs", "running")

    def __init__(self) -> None:
        self.jobs: list[Job] = []  # in memory, by number
        self.refs: list[int] = []  # in the log: number and offset in one integer, ascending
        self.pipe: set[int] = set()  # written to the log, or about to be, and not seen there yet
        self.running = -1  # the number of the one that is on its way to the endpoint, or next to go
        self.ending: set[int] = set()  # numbers of those that were given up, until that is durable
        self.reading: set[int] = set()  # offsets asked for
        self.due_ms: dict[int, int] = {}  # by number, of those in the log that were attempted
        self.alarm_ms = 0  # when somebody will look again

    @property
    def empty(self) -> bool:
        return not (self.busy or self.jobs or self.refs or self.pipe)

    @property
    def busy(self) -> bool:
        """Whether the next one has to wait for the end of others."""
        return self.running >= 0 or bool(self.ending)

    def add_job(self, job: Job) -> None:
        insort(self.jobs, job, key=_number_of)

    def add_ref(self, order: Order, offset: int) -> None:
        self.pipe.discard(order.number)
        self.reading.discard(offset)
        packed = order.number << _OFFSET_BITS | offset
        at = bisect_left(self.refs, packed)
        if self.refs[at : at + 1] != [packed]:  # what was read and put back is still there
            self.refs.insert(at, packed)
        if order.due_ms:
            self.due_ms[order.number] = order.due_ms

    def remove_ref(self, order: Order, offset: int) -> None:
        packed = order.number << _OFFSET_BITS | offset
        at = bisect_left(self.refs, packed)
        if at < len(self.refs) and self.refs[at] == packed:
            del self.refs[at]
        self.reading.discard(offset)

    def remove_offset(self, offset: int) -> None:
        """The same, where the number is not known."""
        self.refs = [packed for packed in self.refs if packed & _OFFSET_MASK != offset]
        self.reading.discard(offset)


class Step(NamedTuple):
    """What an ordering key needs: these offsets read, and to be looked at again when something is due."""

    read: list[int]
    due_ms: int = 0


_NO_STEP = Step([])


class Lane:
    """One endpoint's queues, places and limits. Its `tenant`, `deficit` and `head_cost` serve the fair queue."""

    __slots__ = (
        "barred", "booked_s", "bounded_until", "bucket", "circuit_timer", "closed_until", "deficit", "fresh",
        "gate_failures", "gradient", "health", "home", "in_flight", "keys", "large_bytes", "late", "late_in_flight",
        "late_max", "late_turn", "later", "limit", "outgoing", "parked", "partition", "passed", "probing",
        "queue_least", "queue_max", "rate_per_s", "ready", "replayed", "replays", "served", "shut", "slow_start",
        "subscription", "tenant", "timer", "told_ms", "waiting", "waiting_since",
    )  # fmt: skip

    def __init__(self, subscription: Subscription, outgoing: Outgoing, health: Health, now_ms: int) -> None:
        self.fresh: deque[Job] = deque()
        self.late: deque[Job] = deque()
        self.replays: deque[Job] = deque()  # straight from the replay lane; once parked or retried, they are late ones
        self.late_turn = False
        self.passed = 0  # turns that others had while something replayed waited
        self.booked_s = 0.0  # when it may have a token of its origin's rate, if it has booked one (monotonic seconds)
        self.in_flight = 0
        self.late_in_flight = 0
        self.large_bytes = 0  # of large bodies under way
        self.home = -1  # the partition that its deliveries came from
        self.partition = -1  # of an ordered subscription's deliveries
        self.keys: dict[str, KeyQueue] = {}
        self.later: dict[str, None] = {}  # keys that want something read, when less is being read
        self.waiting = 0  # jobs in `keys`
        self.parked = False  # the log may hold something for it
        self.ready = False  # it stands in the fair queue
        self.deficit = 0
        self.health = health
        self.told_ms = now_ms  # when its health was last read from the table, because others had written it
        self.closed_until = 0.0  # nothing is sent before (monotonic seconds): gate and rate
        self.gate_failures = 0  # answers that asked for patience, without one that did not
        self.timer: asyncio.TimerHandle | None = None
        self.circuit_timer: asyncio.TimerHandle | None = None
        self.waiting_since = 0.0  # when the first one of a batch came (monotonic seconds)
        self.slow_start: SlowStart | None = None
        self.served = 0  # answers since the worker ran out of room
        self.replayed = 0  # of these, of what came straight from the replay lane
        # Set by relief, as long as the lane does not keep up:
        self.queue_max: int | None = None
        self.queue_least = 0
        self.bounded_until = 0.0
        self.adopt(subscription, outgoing)

    def adopt(self, subscription: Subscription, outgoing: Outgoing) -> None:
        """Go on with a new version of the subscription."""
        self.subscription = subscription
        self.tenant = subscription.tenant
        self.outgoing = outgoing
        self.booked_s = 0.0  # at what may have been another origin
        #: Nothing may be sent to it, whatever its health: its URL is not verified, or its secrets do not open.
        self.barred = subscription.unverified or bool(outgoing.locked)
        self.bucket: TokenBucket | None = None
        self.rate_per_s = 0.0
        if subscription.rate_limit:
            self.allow_rate(subscription.rate_limit)
        self.gradient: GradientLimit | None = None
        if subscription.adaptive_in_flight:
            self.gradient = GradientLimit(subscription.max_in_flight)
        self.relimit()

    def allow_rate(self, rate_per_s: float) -> None:
        """Send no more than this, nor than the subscription's own limit."""
        own = self.subscription.rate_limit
        rate_per_s = min(rate_per_s, own) if own else rate_per_s
        if self.rate_per_s != rate_per_s:
            self.rate_per_s = rate_per_s
            self.bucket = TokenBucket(rate_per_s, max(1.0, rate_per_s / 10))

    def relimit(self) -> None:
        """Work out whether the endpoint may have POSTs, and how many at a time."""
        circuit = self.health.circuit.state
        limit = self.subscription.max_in_flight
        if self.gradient is not None:
            limit = min(limit, self.gradient.limit)
        if self.slow_start is not None:
            limit = min(limit, self.slow_start.limit)
        self.probing = circuit == "half_open"
        self.limit = 1 if self.probing else max(limit, 1)
        self.late_max = self.limit if self.limit < 2 else self.limit - max(1, self.limit // FRESH_SHARE)
        inactive = self.subscription.state != "active" or self.barred
        self.shut = circuit == "open" or self.health.disabled_ms > 0 or inactive

    @property
    def held(self) -> int:
        """Jobs in memory that are not on their way."""
        return len(self.fresh) + len(self.late) + len(self.replays) + self.waiting

    @property
    def held_live(self) -> int:
        """The same without what came straight from the replay lane, which has room of its own."""
        return self.held - len(self.replays)

    @property
    def held_bytes(self) -> int:
        """Their bodies and headers. Looks at all of them."""
        size = sum(len(job.delivery.body) for queue in (self.fresh, self.late, self.replays) for job in queue)
        size += sum(len(job.delivery.body) for queue in self.keys.values() for job in queue.jobs)
        return size + JOB_BYTES * self.held

    @property
    def late_bytes(self) -> int:
        """Of bodies of late deliveries, and large ones under way. Looks at all that wait."""
        return self.large_bytes + sum(len(job.delivery.body) for job in self.late)

    @property
    def low(self) -> bool:
        """Whether it is time to read on, of what is parked. A plain lane's first attempts do not count: late ones have
        a share of their own."""
        return (self.held if self.subscription.ordered else len(self.late)) <= self.limit

    @property
    def idle(self) -> bool:
        """Nothing would be lost with it, but for its health, which is stored."""
        return not (self.fresh or self.late or self.replays or self.in_flight or self.keys or self.parked)

    # --- plain queues -----------------------------------------------------------------------------

    def put(self, job: Job) -> None:
        """Behind what waits already."""
        self._queue_of(job).append(job)

    def _queue_of(self, job: Job) -> deque[Job]:
        if not job.late:
            return self.fresh
        return self.replays if job.intake.replay else self.late

    def turn(self) -> deque[Job] | None:
        """The queue whose head goes next, if any may go now."""
        fresh, late = self.fresh, self.late
        if self.passed >= REPLAYED_TURN - 1 and self.replays and self.late_in_flight < self.late_max:
            return self.replays
        if not late or self.late_in_flight >= self.late_max:
            if fresh:
                return fresh
            return self.replays if self.replays and self.late_in_flight < self.late_max else None
        if not fresh:
            return late
        return late if self.late_turn else fresh

    def head_cost(self) -> int:
        """What the next job costs, in bytes."""
        queue = self.turn()
        if not queue:
            return JOB_BYTES
        cost = JOB_BYTES + len(queue[0].delivery.body)
        most = self.subscription.batch_max
        return cost if most == 1 else cost * min(most, len(queue))

    def take(self) -> Job | None:
        """The next job."""
        queue = self.turn()
        if queue is None:
            return None
        if queue is self.replays:
            self.passed = 0
        else:
            self.late_turn = queue is self.fresh
            if self.replays:
                self.passed += 1
        return queue.popleft()

    def pass_replays(self) -> bool:
        """It is their turn, and they cannot have it: whether there is another one to take it."""
        self.passed = 0
        return self.turn() is not self.replays

    def put_back(self, job: Job) -> None:
        """It was taken, and could not go: it is still the next one."""
        queue = self._queue_of(job)
        queue.appendleft(job)
        if queue is self.replays:
            self.passed = REPLAYED_TURN
        else:
            self.late_turn = job.late
            if self.replays:
                self.passed -= 1

    # --- ordering keys ----------------------------------------------------------------------------

    def key_queue(self, key: str) -> KeyQueue:
        """Of this key, made when there is none."""
        queue = self.keys.get(key)
        if queue is None:
            queue = self.keys[key] = KeyQueue()
        return queue

    def behind(self, key: str) -> bool:
        """Whether something of the key is in the log, and a new delivery has to go there too."""
        queue = self.keys.get(key)
        return queue is not None and bool(queue.refs or queue.pipe)

    def put_ordered(self, job: Job, order: Order) -> None:
        """Wait for its turn; `advance` says when that is."""
        queue = self.key_queue(order.key)
        if job.intake.log is not None:
            queue.remove_ref(order, job.offset)
        queue.add_job(job)
        self.waiting += 1

    def in_turn(self, order: Order) -> bool:
        """Whether all that has to go before is in memory, or on its way to the endpoint."""
        queue = self.keys.get(order.key)
        if queue is None:
            return True
        if queue.refs and queue.refs[0] >> _OFFSET_BITS < order.number:
            return False
        return order.number <= min(queue.pipe, default=_OFFSET_MASK)

    def hold_key(self, order: Order) -> None:
        """Nothing of the key is sent until `ended` is told of this delivery."""
        self.key_queue(order.key).ending.add(order.number)

    def add_ref(self, order: Order, offset: int) -> None:
        """It was seen in the log, or put back there."""
        self.key_queue(order.key).add_ref(order, offset)

    def unref(self, order: Order, offset: int) -> None:
        """It is not in the log any more."""
        if (queue := self.keys.get(order.key)) is not None:
            queue.remove_ref(order, offset)

    def unref_offset(self, offset: int) -> None:
        """The same, where only the offset is known. Looks through all of them."""
        for queue in self.keys.values():
            queue.remove_offset(offset)

    def waiting_jobs(self, key: str) -> list[Job]:
        """Take out the jobs in memory that wait for their turn."""
        queue = self.keys.get(key)
        if queue is None:
            return []
        jobs, queue.jobs = queue.jobs, []
        self.waiting -= len(jobs)
        return jobs

    def advance(self, key: str, now_ms: int) -> Step:
        """Bring the first delivery of the key on its way, if it is known which it is and it is due."""
        queue = self.keys.get(key)
        if queue is None or queue.busy:
            return _NO_STEP
        if queue.empty:
            del self.keys[key]
            return _NO_STEP
        first_job = _number_of(queue.jobs[0]) if queue.jobs else _OFFSET_MASK
        first_sent = min(queue.pipe, default=_OFFSET_MASK)
        number = queue.refs[0] >> _OFFSET_BITS if queue.refs else _OFFSET_MASK
        if first_job <= min(number, first_sent):  # equal: a second copy of it, which is nothing to wait for
            job = queue.jobs.pop(0)
            self.waiting -= 1
            queue.running = first_job
            self.put(job)
            return _NO_STEP
        if first_sent < number:
            return _NO_STEP  # it will be seen in the log
        due_ms = queue.due_ms.get(number, 0)
        if due_ms > now_ms:
            if queue.alarm_ms == due_ms:
                return _NO_STEP
            queue.alarm_ms = due_ms
            return Step([], due_ms)
        until = min(first_job, first_sent)
        ahead = [packed & _OFFSET_MASK for packed in queue.refs[:KEY_AHEAD] if packed >> _OFFSET_BITS < until]
        wanted = [offset for offset in ahead if offset not in queue.reading]
        queue.reading.update(wanted)
        return Step(wanted)

    def rouse(self, key: str) -> None:
        """Somebody looks again, as `advance` has asked."""
        if (queue := self.keys.get(key)) is not None:
            queue.alarm_ms = 0

    def ended(self, order: Order, *, again: bool) -> None:
        """What became of a delivery of this key is known: it ended, or is to be seen `again` in the log."""
        queue = self.keys.get(order.key)
        if queue is None:
            return
        if queue.running == order.number:
            queue.running = -1
        queue.ending.discard(order.number)
        queue.due_ms.pop(order.number, None)
        if again:
            queue.pipe.add(order.number)

    # --- leaving ----------------------------------------------------------------------------------

    def flush(self, most: int = 0) -> list[Job]:
        """Take out the jobs that wait, but for so many of the oldest."""
        out: list[Job] = []
        if self.waiting:
            for queue in self.keys.values():
                out += queue.jobs
                queue.jobs = []
            self.waiting = 0
        while len(self.fresh) + len(self.late) + len(self.replays) > most:
            # A parked delivery costs nothing to put back, a first attempt one more record.
            job = (self.replays or self.late or self.fresh).pop()
            self._is_not_next(job)
            out.append(job)
        return out

    def flush_replays(self, most: int) -> list[Job]:
        """Take out what came straight from the replay lane and waits, but for so many of the oldest."""
        out: list[Job] = []
        for key, queue in self.keys.items() if self.waiting else ():
            if key.startswith(REPLAYED_KEY) and (gone := [job for job in queue.jobs if job.intake.replay]):
                queue.jobs = [job for job in queue.jobs if not job.intake.replay]
                self.waiting -= len(gone)
                out += gone
        while len(self.replays) > most:
            job = self.replays.pop()
            self._is_not_next(job)
            out.append(job)
        return out

    def _is_not_next(self, job: Job) -> None:
        if job.order is not None and (queue := self.keys.get(job.order.key)) is not None:
            queue.running = -1

    def forget(self, intakes: Collection[Intake]) -> list[Job]:
        """Take out the jobs of partitions that are not ours any more, and all that is known of their log."""
        out: list[Job] = []
        for waiting in (self.fresh, self.late, self.replays):
            gone = [job for job in waiting if job.intake in intakes]
            if gone:
                kept = [job for job in waiting if job.intake not in intakes]
                waiting.clear()
                waiting.extend(kept)
                for job in gone:
                    self._is_not_next(job)
                out += gone
        if self.keys and any(intake.partition == self.partition for intake in intakes):
            for key in list(self.keys):
                queue = self.keys[key]
                gone = [job for job in queue.jobs if job.intake in intakes]
                queue.jobs = [job for job in queue.jobs if job.intake not in intakes]
                self.waiting -= len(gone)
                out += gone
                if any(intake.log is not None for intake in intakes):
                    queue.refs, queue.reading, queue.due_ms = [], set(), {}
                queue.pipe = set()
                if queue.empty:
                    del self.keys[key]
            self.later.clear()
            if not self.keys:
                self.partition = -1
        return out

    def end(self) -> list[Job]:
        """Its subscription is gone: take out what waits. Who still has the lane, for an answer, brings nothing back."""
        self.cancel_timers()
        jobs = self.flush()
        self.keys.clear()
        self.later.clear()
        return jobs

    def cancel_timers(self) -> None:
        """Nothing is to happen any more."""
        for timer in (self.timer, self.circuit_timer):
            if timer is not None:
                timer.cancel()
        self.timer = self.circuit_timer = None
