"""Dispatch: from frames of deliveries to POSTs, and from their results to settlements.

Records wait in their partition's *intake* until they may be admitted: the ledger has room, the worker has room, and, in
a retry tier, the hold is over (the head is always the oldest, so waiting is pausing the partition). An admitted
delivery waits in its endpoint's *lane* for one of the lane's places and one of the worker's. Its result is judged, and
handed to the settler with the delivery's offset.

Everything happens on one event loop, in callbacks: no task and no future per delivery. This stage sees ports; it does
not speak HTTP or Kafka.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, assert_never

import msgspec

from schemas import codec
from schemas.delivery import (
    EXCERPT_BYTES_MAX,
    Attempt,
    Delivery,
    Try,
    decode_delivery,
    encode_attempt,
    encode_dead_letter,
    encode_delivery,
)
from schemas.errors import UndecodableError
from schemas.frame import Frame, OffsetLedger, Out, Record
from schemas.post import PostResult
from schemas.subscription import Subscription
from schemas.topics import Topics
from streams.core.retry import HOLD_MS_MIN, slack_ms, tier_hold_ms
from streams.core.signing import Signer
from streams.core.verdict import Dead, Interrupted, RetryAt, judge, succeeded
from streams.counters import Counters
from streams.ports import Clock, Route, Sender, SubscriptionTable
from streams.quarantine import quarantined
from streams.settle import Settler

logger = logging.getLogger(__name__)

PAUSED_WAIT_MS = 30_000  # how long a delivery of a paused subscription is put aside, again and again
PARKED_WAITS_MS = (5_000, 30_000)  # the same for a delivery that found its lane too long, by how long it is
ADMIT_CHUNK = 100  # records opened at a time, so that one partition does not take all the room at once


class DispatchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What bounds a worker.

    A worker that has had no room for `relief_after_s` puts aside what a lane holds beyond what it serves in `lane_s`
    seconds, and goes on doing so for as long: an endpoint that hangs or crawls fills its own lane, not the worker.
    """

    in_flight_max: int = 512
    admitted_max: int = 4_000
    lanes_max: int = 20_000
    relief_after_s: float = 1.0
    lane_s: float = 5.0


class DeliverySchemas(msgspec.Struct, frozen=True):
    """The registry's ids of our record schemas."""

    delivery: int
    attempt: int
    dead_letter: int
    endpoint_state: int = 0
    operation: int = 0


class Job(NamedTuple):
    """An admitted delivery."""

    delivery: Delivery
    intake: Intake
    offset: int


class Intake:
    """The records of one partition, in one assignment epoch, that are not admitted yet."""

    __slots__ = ("blocked", "hold_ms", "in_flight", "ledger", "partition", "records", "timer", "topic")

    def __init__(self, topic: str, partition: int, ledger: OffsetLedger, hold_ms: int) -> None:
        self.topic = topic
        self.partition = partition
        self.ledger = ledger
        self.hold_ms = hold_ms
        self.records: deque[Record] = deque()
        self.in_flight = 0
        self.blocked = False  # by its ledger or by a hold, not by the worker's load
        self.timer: asyncio.TimerHandle | None = None


class Lane:
    """One endpoint's queue and places."""

    __slots__ = (
        "bounded_until", "in_flight", "parked", "queue", "queue_max", "rate", "ready", "route", "served", "signer",
        "subscription",
    )  # fmt: skip

    def __init__(self, subscription: Subscription, route: Route) -> None:
        self.subscription = subscription
        self.route = route
        self.signer = Signer(subscription.secrets)
        self.queue: deque[Job] = deque()
        self.in_flight = 0
        self.ready = False  # it stands in the dispatcher's line of lanes that can start something
        self.served = 0  # answers since the worker ran out of room
        # Set by relief, for a time:
        self.queue_max: int | None = None
        self.bounded_until = 0.0  # monotonic seconds
        self.rate = 0.0  # answers a second
        self.parked = 0  # put aside since


class Dispatch:
    """The stage; one per worker. Call its methods on the event loop only."""

    def __init__(
        self,
        topics: Topics,
        table: SubscriptionTable,
        sender: Sender,
        settler: Settler,
        clock: Clock,
        counters: Counters,
        schema_ids: DeliverySchemas,
        *,
        hold: Callable[[str, int], None],
        release: Callable[[str, int], None],
        limits: DispatchLimits = DispatchLimits(),  # noqa: B008 - frozen
    ) -> None:
        """`hold` and `release` pause and resume the fetching of a partition."""
        self._topics = topics
        self._attempts_topic = topics.attempts
        self._tiers = topics.tiers
        self._holds = {name: hold_ms for hold_ms, name in self._tiers.items()}
        self._table = table
        self._sender = sender
        self._settler = settler
        self._clock = clock
        self._counters = counters
        self._schema_ids = schema_ids
        self._delivery_header = codec.wire_header(schema_ids.delivery)
        self._attempt_header = codec.wire_header(schema_ids.attempt)
        self._dead_header = codec.wire_header(schema_ids.dead_letter)
        self._hold = hold
        self._release = release
        self._limits = limits
        self._intakes: dict[tuple[str, int], Intake] = {}
        self._lanes: dict[str, Lane] = {}
        self._ready: deque[Lane] = deque()
        self._in_flight = 0
        self._admitted = 0  # opened and not yet handed to the settler
        # Admission goes on when a tenth of the room is free, not at every single place.
        self._admit_below = limits.admitted_max * 9 // 10
        self._changed = asyncio.Event()
        self._giving_up = 0
        self._filling = False  # a call of `_fill` is on its way
        self._relief: asyncio.TimerHandle | None = None
        self._relief_from = 0.0  # when the worker ran out of room (monotonic seconds)
        self._stopping = False
        settler.on_settled(self._on_settled)

    # --- admission --------------------------------------------------------------------------------

    async def admit(self, frame: Frame) -> None:
        """Take a frame; returns when the worker has room for another."""
        if not frame.ledger.live or frame.ledger.retiring or self._stopping:
            return
        key = (frame.topic, frame.partition)
        intake = self._intakes.get(key)
        if intake is None or intake.ledger is not frame.ledger:
            if intake is not None:
                self._forget(intake)
            intake = Intake(frame.topic, frame.partition, frame.ledger, self._holds.get(frame.topic, 0))
            self._intakes[key] = intake
        intake.records.extend(frame.records)
        self._pump(intake)
        while intake.records and not intake.blocked and intake.ledger.live and not self._stopping:
            self._changed.clear()  # the worker is at its bound: the frame's rest waits, and with it the stream
            await self._changed.wait()
            self._pump(intake)

    def _pump(self, intake: Intake) -> None:
        """Admit what may be admitted."""
        records, ledger, limits = intake.records, intake.ledger, self._limits
        intake.blocked = False
        now_ms = self._clock.now_ms()
        while records and ledger.live and not self._stopping:
            if intake.hold_ms:
                free_ms = records[0].timestamp()[1] + intake.hold_ms
                if free_ms > now_ms:
                    self._block(intake, (free_ms - now_ms) / 1000)
                    return
            if ledger.full:
                self._block(intake, None)
                self._relieve_later()
                return
            room = limits.admitted_max - self._admitted
            if room <= 0:
                self._relieve_later()
                return
            if self._settler.backlog > limits.admitted_max:
                return
            count = 1 if intake.hold_ms else min(room, ADMIT_CHUNK, len(records))
            chunk = [records.popleft() for _ in range(count)]
            already = ledger.open([record.offset() for record in chunk])
            for record in chunk:
                if record.offset() not in already:
                    self._admitted += 1
                    self._take(intake, record, now_ms)
            if already:  # their progress may be all there is to commit
                self._settler.settle(intake.topic, intake.partition, ledger, already, ())
            self._fill()
        self._release(intake.topic, intake.partition)

    def _block(self, intake: Intake, wait_s: float | None) -> None:
        """Stop fetching the partition until a time has passed, or until its ledger has room."""
        intake.blocked = True
        self._hold(intake.topic, intake.partition)
        if wait_s is not None and intake.timer is None:
            loop = asyncio.get_running_loop()
            intake.timer = loop.call_later(wait_s, self._unblock, intake)

    def _unblock(self, intake: Intake) -> None:
        intake.timer = None
        self._pump(intake)

    def _on_settled(self) -> None:
        for intake in self._intakes.values():
            if intake.records and intake.timer is None:
                self._pump(intake)
        self._changed.set()

    def _relieve_later(self) -> None:
        """There is no room: look in a moment at which lanes do not move."""
        if self._relief is None and not self._stopping:
            self._relief_from = self._clock.monotonic()
            for lane in self._lanes.values():
                lane.served = 0
            loop = asyncio.get_running_loop()
            self._relief = loop.call_later(self._limits.relief_after_s, self._relieve)

    def _relieve(self) -> None:
        """Bound the lanes that hold more than they serve, and put aside what is beyond, the last first."""
        self._relief = None
        full = any(intake.records and intake.ledger.full for intake in self._intakes.values())
        if self._admitted <= self._admit_below and not full:
            return
        now = self._clock.monotonic()
        elapsed_s = max(now - self._relief_from, self._limits.relief_after_s)
        for lane in self._lanes.values():
            rate = lane.served / elapsed_s
            queue_max = max(lane.subscription.max_in_flight, int(rate * self._limits.lane_s))
            if len(lane.queue) <= queue_max:
                continue  # not what fills the worker; it may have served little because little came
            lane.rate, lane.queue_max, lane.bounded_until = rate, queue_max, now + self._limits.lane_s
            while len(lane.queue) > lane.queue_max:
                self._park_in_turn(lane, lane.queue.pop())
        self._changed.set()

    def _park_in_turn(self, lane: Lane, job: Job) -> None:
        """Put aside for about as long as the lane takes to get there."""
        lane.parked += 1
        short, long = PARKED_WAITS_MS
        self._park(job, long if lane.parked * 1000 > lane.rate * long else short)

    # --- one delivery -----------------------------------------------------------------------------

    def _take(self, intake: Intake, record: Record, now_ms: int) -> None:
        """Route an admitted record: to its lane, to a tier, or to its end."""
        try:
            delivery = self._decode(record.value())
        except UndecodableError as error:
            self._quarantine(intake, record, error)
            return
        job = Job(delivery, intake, record.offset())
        subscription = self._table.get(delivery.subscription_id)
        if subscription is None or subscription.state != "active":
            self._divert(job, subscription, now_ms)
        elif delivery.due_ms - now_ms >= HOLD_MS_MIN:
            self._hop(job, delivery.due_ms - now_ms)
        elif delivery.due_ms > now_ms:  # less than any tier holds
            wait_s = (delivery.due_ms - now_ms) / 1000
            asyncio.get_running_loop().call_later(wait_s, self._enqueue_late, job)
        else:
            self._enqueue(job, subscription)

    def _divert(self, job: Job, subscription: Subscription | None, now_ms: int) -> None:
        """What becomes of a delivery whose subscription is gone or not active."""
        if subscription is None:
            self._cancel(job, now_ms)
        elif subscription.state == "disabled":
            self._bury(job, now_ms, "disabled", "the subscription is disabled")
        else:
            self._park(job, PAUSED_WAIT_MS)

    def _decode(self, value: bytes | None) -> Delivery:
        if value is None or not value.startswith(self._delivery_header):
            schema_id = codec.wire_schema_id(value)
            raise UndecodableError("unknown_schema", f"schema id {schema_id} is not that of a delivery")
        return decode_delivery(value)

    def _enqueue_late(self, job: Job) -> None:
        intake = job.intake
        if not intake.ledger.live or self._intakes.get((intake.topic, intake.partition)) is not intake:
            self._drop(job)  # the partition was lost, or is being given up
            return
        subscription = self._table.get(job.delivery.subscription_id)
        if subscription is None or subscription.state != "active":
            self._divert(job, subscription, self._clock.now_ms())
        else:
            self._enqueue(job, subscription)
            self._fill()

    def _enqueue(self, job: Job, subscription: Subscription) -> None:
        lane = self._lanes.get(subscription.id)
        if lane is None or lane.subscription is not subscription:
            try:
                lane = self._refreshed(lane, subscription)
            except ValueError as error:
                self._bury(job, self._clock.now_ms(), "invalid_endpoint", str(error))
                return
        if lane.queue_max is not None and len(lane.queue) >= lane.queue_max:
            if self._clock.monotonic() < lane.bounded_until:
                self._park_in_turn(lane, job)
                return
            lane.queue_max, lane.parked = None, 0
        lane.queue.append(job)
        self._offer(lane)

    def _refreshed(self, lane: Lane | None, subscription: Subscription) -> Lane:
        """The lane for a new or changed subscription, with its queue. ValueError when the sender refuses the
        endpoint."""
        route = self._sender.route(subscription.url, subscription.headers, subscription.timeout_ms / 1000)
        if lane is None:
            if len(self._lanes) >= self._limits.lanes_max:
                self._lanes = {id_: kept for id_, kept in self._lanes.items() if kept.queue or kept.in_flight}
            lane = self._lanes[subscription.id] = Lane(subscription, route)
        else:
            lane.subscription, lane.route, lane.signer = subscription, route, Signer(subscription.secrets)
        return lane

    def _offer(self, lane: Lane) -> None:
        if not lane.ready and lane.queue and lane.in_flight < lane.subscription.max_in_flight:
            lane.ready = True
            self._ready.append(lane)

    def _fill(self) -> None:
        """Start deliveries, one of each lane in turn, while the worker has places."""
        ready, limit = self._ready, self._limits.in_flight_max
        while ready and self._in_flight < limit and not self._stopping:
            lane = ready.popleft()
            lane.ready = False
            self._start(lane)
            self._offer(lane)

    def _start(self, lane: Lane) -> None:
        job = lane.queue.popleft()
        delivery = job.delivery
        if not job.intake.ledger.live:
            self._drop(job)
            return
        subscription = self._table.get(delivery.subscription_id)
        now_ms = self._clock.now_ms()
        if subscription is not lane.subscription:  # changed while it waited
            if subscription is None or subscription.state != "active":
                self._divert(job, subscription, now_ms)
                return
            try:
                self._refreshed(lane, subscription)
            except ValueError as error:
                self._bury(job, now_ms, "invalid_endpoint", str(error))
                return
        timestamp_s = now_ms // 1000
        headers = [
            ("content-type", delivery.content_type),
            ("webhook-id", delivery.id),
            ("webhook-timestamp", str(timestamp_s)),
            ("webhook-signature", lane.signer.sign(delivery.id, timestamp_s, delivery.body)),
        ]
        if delivery.traceparent is not None:
            headers.append(("traceparent", delivery.traceparent))
        lane.in_flight += 1
        job.intake.in_flight += 1
        self._in_flight += 1
        self._sender.post(lane.route, headers, delivery.body, partial(self._posted, lane, job, now_ms))

    def _posted(self, lane: Lane, job: Job, started_ms: int, result: PostResult) -> None:
        """The sender's answer."""
        lane.in_flight -= 1
        lane.served += 1
        job.intake.in_flight -= 1
        self._in_flight -= 1
        if not job.intake.ledger.live:
            self._drop(job)
        elif succeeded(result):
            self._counters["delivered"] += 1
            delivery = job.delivery
            self._finish(job, (self._attempt(delivery, delivery.attempt + 1, "delivered", started_ms, result),))
        else:
            self._judge(lane.subscription, job, started_ms, result)
        self._offer(lane)
        if not self._filling:
            # Once for all answers of this turn of the loop: requests leave in bursts, which wakes the receivers, and
            # us, less often. It saves a fifth of a delivery's cost.
            self._filling = True
            asyncio.get_running_loop().call_soon(self._fill_soon)
        if self._admitted <= self._admit_below or self._giving_up:
            self._changed.set()

    def _fill_soon(self) -> None:
        self._filling = False
        self._fill()

    def _judge(self, subscription: Subscription, job: Job, started_ms: int, result: PostResult) -> None:
        """Not delivered: again, or never, or not for us to say."""
        delivery = job.delivery
        number = delivery.attempt + 1
        verdict = judge(
            result,
            attempts=number,
            schedule_ms=subscription.retry_schedule_ms,
            reject_statuses=subscription.reject_statuses,
            now_ms=self._clock.now_ms(),
            jitter=self._clock.jitter(),
        )
        match verdict:
            case RetryAt(due_ms):
                self._counters["retried"] += 1
                later = _after(delivery, number, due_ms, started_ms, result)
                attempt = self._attempt(delivery, number, "retryable", started_ms, result, due_ms)
                wait_ms = due_ms - self._clock.now_ms()
                hold_ms = tier_hold_ms(wait_ms, slack_ms(wait_ms))
                self._finish(job, (attempt, self._to_tier(job, later, hold_ms)))
            case Dead(reason):
                self._counters[f"dead:{reason}"] += 1
                outcome = "exhausted" if reason == "exhausted" else "rejected"
                last = _after(delivery, number, 0, started_ms, result)
                letter = self._dead_letter(last, reason, result.detail or "", self._clock.now_ms())
                self._finish(job, (self._attempt(delivery, number, outcome, started_ms, result), letter))
            case Interrupted():
                self._drop(job)
            case _:
                assert_never(verdict)

    # --- ends -------------------------------------------------------------------------------------

    def _finish(self, job: Job, records: Sequence[Out]) -> None:
        self._admitted -= 1
        intake = job.intake
        self._settler.settle(intake.topic, intake.partition, intake.ledger, (job.offset,), records)

    def _drop(self, job: Job) -> None:
        """Leave it to whoever owns the partition next: its offset is not finished."""
        self._admitted -= 1

    def _cancel(self, job: Job, now_ms: int) -> None:
        """The subscription is gone."""
        self._counters["cancelled"] += 1
        attempt = Attempt(job.delivery.attempt, "cancelled", now_ms, detail="the subscription was deleted")
        self._finish(job, (self._attempt_record(job.delivery, attempt),))

    def _bury(self, job: Job, now_ms: int, reason: str, detail: str) -> None:
        """A dead letter without an attempt."""
        self._counters[f"dead:{reason}"] += 1
        attempt = Attempt(job.delivery.attempt, "rejected", now_ms, detail=detail)
        letter = self._dead_letter(job.delivery, reason, detail, now_ms)
        self._finish(job, (self._attempt_record(job.delivery, attempt), letter))

    def _park(self, job: Job, hold_ms: int) -> None:
        """Put aside for a tier's hold, without spending an attempt: due as before, so it does not hop on from there."""
        self._counters["parked"] += 1
        self._finish(job, (self._to_tier(job, job.delivery, hold_ms),))

    def _hop(self, job: Job, wait_ms: int) -> None:
        """Released by a tier, and not due yet: on to a shorter one."""
        self._counters["hops"] += 1
        delivery = job.delivery
        failed = delivery.tries[-1] if delivery.tries else None
        delay_ms = 0 if failed is None else delivery.due_ms - failed.started_ms - failed.duration_us // 1000
        self._finish(job, (self._to_tier(job, delivery, tier_hold_ms(wait_ms, slack_ms(delay_ms))),))

    def _quarantine(self, intake: Intake, record: Record, error: UndecodableError) -> None:
        out = quarantined(self._topics.quarantine, intake.topic, intake.partition, record, error, self._counters)
        self._admitted -= 1
        self._settler.settle(intake.topic, intake.partition, intake.ledger, (record.offset(),), (out,))

    # --- records ----------------------------------------------------------------------------------

    def _to_tier(self, job: Job, delivery: Delivery, hold_ms: int) -> Out:
        """To the same partition of the tier, whatever the key hashes to: it must stay with this endpoint's worker."""
        topic = self._tiers[hold_ms]
        key = delivery.subscription_id.encode()
        return (topic, key, encode_delivery(self._delivery_header, delivery), job.intake.partition, None)

    def _attempt(
        self, delivery: Delivery, number: int, outcome: str, started_ms: int, result: PostResult, due_ms: int = 0
    ) -> Out:
        attempt = Attempt(
            number,
            outcome,
            started_ms,
            result.duration_us,
            result.status,
            result.cause or "",
            result.detail or "",
            result.excerpt and result.excerpt[:EXCERPT_BYTES_MAX],
            due_ms,
        )
        return self._attempt_record(delivery, attempt)

    def _attempt_record(self, delivery: Delivery, attempt: Attempt) -> Out:
        value = encode_attempt(self._attempt_header, delivery, attempt)
        return (self._attempts_topic, delivery.subscription_id.encode(), value, -1, None)

    def _dead_letter(self, delivery: Delivery, reason: str, detail: str, now_ms: int) -> Out:
        value = encode_dead_letter(self._dead_header, delivery, reason, detail, now_ms)
        return (self._topics.dead, delivery.subscription_id.encode(), value, -1, None)

    # --- giving up partitions, and the end --------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """POSTs under way."""
        return self._in_flight

    async def give_up(self, partitions: Iterable[tuple[str, int]], deadline_s: float) -> None:
        """Wait for the POSTs under way of these partitions to end and be settled, up to a deadline; forget the rest.

        The caller retires the ledgers before, so that no more is admitted, and closes them afterwards; what is not
        settled by then counts for nobody here.
        """
        intakes = [self._intakes[key] for key in partitions if key in self._intakes]
        for intake in intakes:
            self._forget(intake)
        for lane in self._lanes.values():  # what has not started is the next owner's
            if lane.queue:
                gone = [job for job in lane.queue if job.intake in intakes]
                if gone:
                    lane.queue = deque(job for job in lane.queue if job.intake not in intakes)
                    self._admitted -= len(gone)
                    lane.ready = lane.ready and bool(lane.queue)
        self._ready = deque(lane for lane in self._ready if lane.ready)
        self._giving_up += 1
        self._changed.set()
        try:
            async with asyncio.timeout(deadline_s):
                while any(intake.in_flight for intake in intakes):
                    self._changed.clear()
                    await self._changed.wait()
                await self._settler.flush()
        except TimeoutError:
            left = sum(intake.in_flight for intake in intakes)
            logger.warning("%s POSTs did not end within %.1f s; they will be repeated", left, deadline_s)
        finally:
            self._giving_up -= 1

    async def stop(self, deadline_s: float) -> None:
        """Start nothing more, and give up everything."""
        self._stopping = True
        if self._relief is not None:
            self._relief.cancel()
        self._changed.set()
        await self.give_up(list(self._intakes), deadline_s)

    def _forget(self, intake: Intake) -> None:
        self._intakes.pop((intake.topic, intake.partition), None)
        intake.records.clear()
        if intake.timer is not None:
            intake.timer.cancel()
            intake.timer = None


def _after(delivery: Delivery, number: int, due_ms: int, started_ms: int, result: PostResult) -> Delivery:
    """The delivery with this attempt in its memory."""
    entry = Try(started_ms, result.duration_us, result.status, result.cause or "", result.excerpt[:EXCERPT_BYTES_MAX])
    return msgspec.structs.replace(
        delivery,
        attempt=number,
        due_ms=due_ms,
        first_attempt_ms=delivery.first_attempt_ms or started_ms,
        tries=(*delivery.tries, entry),
    )
