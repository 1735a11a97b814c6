"""Dispatch: from frames of deliveries to POSTs, and from their results to settlements.

Records wait in their partition's *intake* until they may be admitted: the ledger has room, the worker has room, and, in
a retry tier, the hold is over (the head is always the oldest, so waiting is pausing the partition). An admitted
delivery waits in its endpoint's *lane*, or is *parked* in the log when the endpoint may not be sent anything, or does
not keep up while others need the room. What replays send again has room of its own, and when that is taken, its
partitions wait and nothing else does. The fair queue says whose turn it is. A result is judged, and handed to the
settler with the delivery's offset.

Everything happens on one event loop, in callbacks: no task and no future per delivery. This stage sees ports; it does
not speak HTTP or Kafka.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import assert_never

import msgspec

from schemas import codec
from schemas.delivery import Delivery, decode_delivery, ordering_key
from schemas.endpoint import EndpointState, Kind, Operation, url_hash
from schemas.errors import UndecodableError
from schemas.frame import Frame, OffsetLedger, Out, Record
from schemas.post import PostResult
from schemas.subscription import Subscription
from schemas.topics import Topics
from streams.core.batch import BATCH_BYTES_MAX, batch_body, batch_id, batchable, together
from streams.core.breaker import BreakerPolicy
from streams.core.fair import FairQueue
from streams.core.health import DEFAULT_POLICY, UNCHANGED, Change, Health
from streams.core.limits import SlowStart, TokenBucket, parse_allowed_rate
from streams.core.parked import Lot, Order
from streams.core.retry import HOLD_MS_MIN, parse_retry_after_ms, slack_ms, tier_hold_ms
from streams.core.verdict import Dead, Interrupted, RetryAt, judge, succeeded
from streams.counters import Counters
from streams.lanes import REPLAYED_KEY, Intake, Job, Lane
from streams.meter import Meter
from streams.parking import Parking
from streams.ports import Clock, EndpointTable, LogReader, Opener, Sender, SubscriptionTable
from streams.quarantine import quarantined
from streams.records import DeliverySchemas, Records, after
from streams.requests import Outgoing
from streams.settle import Settler
from streams.tokens import Tokens

logger = logging.getLogger(__name__)

#: What a lane may send in one turn: two small deliveries, or a part of a large one.
TURN_BYTES = 2_048
ADMIT_CHUNK = 100  # records opened at a time, so that one partition does not take all the room at once
#: A gate that is closed for longer is not waited for in memory.
GATE_PARK_S = 2.0
#: Who has waited for as long as told does not wait for a rounding error.
ROUNDING_S = 1e-6
#: A token of an origin's rate that a lane has booked is void so long after its time.
BOOKING_S = 1.0
#: How long a 429 without Retry-After closes the gate, by how many of them came in a row.
PATIENCE_S = (1.0, 2.0, 5.0, 15.0, 30.0)
#: Parked for longer, a delivery is given up.
PARKED_MS_MAX = 14 * 24 * 3600 * 1000
EXPIRY_EVERY_S = 60.0
#: Of the last eighth of a worker's places, a lane has no more than a quarter of what is free (a dynamic threshold,
#: after Choudhury and Hahne): however many endpoints hang, there is a place for one more.
RESERVE, FREE_SHARE = 8, 4
#: Of the budget of bytes, large bodies under way have no more than a half, and what waits for endpoints that do not
#: keep up a quarter. So whatever hangs, a quarter is left.
UNDER_WAY_PART, SLOW_PART = 2, 4
#: Bodies of which all places may be full and take no more than this part of the budget are not large.
SMALL_PART = 8
#: Of a worker's places, what comes straight from the replay lane has no more than one part in so many.
REPLAYED_PLACES_PART = 4
#: Jobs that a lane takes from the log ahead of sending them.
AHEAD_MIN, AHEAD_MAX = 32, 512
#: Jobs of an ordered lane in memory, of all its keys.
ORDERED_HELD_MAX = 128
#: Of these, what comes straight from the replay lane has no more than one part in so many.
REPLAYED_PART = 2
#: Records of an ordered lane that are asked for at a time.
WANTED_MAX = 256


class DispatchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What bounds a worker.

    A worker that has had no room for `relief_after_s` parks what a lane holds beyond what it serves in `lane_s`
    seconds, and goes on doing so for as long as the lane does not keep up: an endpoint that hangs or crawls fills its
    own lane, not the worker. `admitted_max` deliveries and `read_max` parked ones are in memory at a time, with
    `admitted_bytes_max` of bodies each, of which a lane may have as much under way as it leaves to others; and
    `replayed_max` straight from the replay lane, with `replayed_bytes_max`. Nothing is POSTed while `unsettled_max`
    records wait to be durable, or for longer than `settle_s`.
    `origin_rate_max` is POSTs a second to each scheme, host and port, 0 for none.
    """

    in_flight_max: int = 1_024
    admitted_max: int = 4_000
    admitted_bytes_max: int = 64 << 20
    read_max: int = 1_000
    replayed_max: int = 1_000
    replayed_bytes_max: int = 16 << 20
    unsettled_max: int = 1_000
    settle_s: float = 0.25
    lanes_max: int = 20_000
    relief_after_s: float = 0.5
    lane_s: float = 5.0
    origin_rate_max: float = 0.0
    tenant_weights: Mapping[str, float] = {}
    circuit: BreakerPolicy = DEFAULT_POLICY


class Dispatch:
    """The stage; one per worker. Call its methods on the event loop only."""

    def __init__(
        self,
        topics: Topics,
        table: SubscriptionTable,
        endpoints: EndpointTable,
        sender: Sender,
        reader: LogReader,
        settler: Settler,
        clock: Clock,
        counters: Counters,
        schema_ids: DeliverySchemas,
        *,
        hold: Callable[[str, int], None],
        release: Callable[[str, int], None],
        ledger: Callable[[str, int], OffsetLedger | None],
        opener: Opener,
        token_sender: Sender | None = None,
        worker: str = "worker",
        limits: DispatchLimits = DispatchLimits(),  # noqa: B008 - frozen
        meter: Meter | None = None,
        records: Records | None = None,
        outgoing: Callable[[Subscription, Sender, Opener, Tokens], Outgoing] = Outgoing,
    ) -> None:
        """`hold` and `release` pause and resume the fetching of a partition, `ledger` is that of its present epoch,
        and `opener` opens the secrets of a subscription when its lane adopts it. `token_sender` POSTs to OAuth2 token
        endpoints, and hands over more of an answer (`streams/core/oauth2.py`); default: `sender`. `meter` measures what
        is sent; None costs nothing. `records` makes what is written, and `outgoing` what is sent, where that is to be
        told elsewhere too (`streams/attempt_log.py`, `streams/tracing.py`)."""
        self._topics = topics
        self._holds = {name: hold_ms for hold_ms, name in topics.tiers.items()}
        self._table = table
        self._endpoints = endpoints
        self._sender = sender
        self._tokens = Tokens(token_sender or sender, clock)
        self._settler = settler
        self._clock = clock
        self._counters = counters
        self._records = records or Records(topics, schema_ids)
        self._make_outgoing = outgoing
        self._hold = hold
        self._release = release
        self._ledger = ledger
        self._opener = opener
        self._locked: set[str] = set()  # subscriptions whose secrets do not open, of which the log has told
        self._worker = worker
        self._limits = limits
        self._meter = meter
        self._parking = Parking(
            reader, counters, appetite=self._appetite, taken=self._taken, seen=self._seen, gone=self._gone
        )
        self._intakes: dict[tuple[str, int], Intake] = {}
        self._lanes: dict[str, Lane] = {}
        self._fair: FairQueue[Lane] = FairQueue(limits.tenant_weights, quantum=TURN_BYTES)
        self._choked: list[Lane] = []  # had their turn while the worker had no places to spare
        self._heavy: list[Lane] = []  # the same, for a body that was too large for now
        self._oversized: Lane | None = None  # has a body under way that is larger than its share
        self._origins: dict[str, TokenBucket] = {}
        self._in_flight = 0
        self._admitted = 0  # opened and not yet handed to the settler
        self._read = 0  # the same of what was read from the log, which has room of its own
        self._admitted_bytes = 0
        self._read_bytes = 0
        self._replayed = 0  # the same of what came straight from the replay lane
        self._replayed_bytes = 0
        self._replaying = 0  # of these, POSTs under way
        self._replaying_max = max(1, limits.in_flight_max // REPLAYED_PLACES_PART)
        self._replays_wait: dict[Lane, None] = {}  # had their turn while replays had no places to spare
        self._large_bytes = 0  # of large bodies under way, from wherever they came
        self._large_bytes_max = limits.admitted_bytes_max // UNDER_WAY_PART
        self._small_bytes = limits.admitted_bytes_max // SMALL_PART // limits.in_flight_max
        # Admission goes on when a tenth of the room is free, not at every single place.
        self._admit_below = limits.admitted_max * 9 // 10
        self._bytes_below = limits.admitted_bytes_max * 9 // 10
        self._replayed_below = limits.replayed_max * 9 // 10
        self._replayed_bytes_below = limits.replayed_bytes_max * 9 // 10
        self._looking = False  # a call of `_look_around` is on its way
        self._starved = False  # somebody could not read on for want of room
        self._changed = asyncio.Event()
        self._giving_up = 0
        self._filling = False  # a call of `_fill` is on its way
        self._relief: asyncio.TimerHandle | None = None
        self._relief_from = 0.0  # when the worker ran out of room (monotonic seconds)
        self._replays_relief: asyncio.TimerHandle | None = None
        self._replays_relief_from = 0.0
        self._dues: list[tuple[int, str, str]] = []  # (due, subscription id, ordering key)
        self._due_timer: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._ends: deque[tuple[int, Lane, Order]] = deque()  # ordered ones given up, until that is durable
        self._order_waits: dict[int, set[str]] = {}  # by partition: lanes whose order is not known yet
        self._stopping = False
        settler.on_settled(self._on_settled)
        if meter is not None:
            settler.on_settled(meter.settled)
        table.on_change(self._on_subscription)
        endpoints.on_change(self._on_endpoint)

    # --- admission --------------------------------------------------------------------------------

    async def admit(self, frame: Frame) -> None:
        """Take a frame; returns when the worker has room for another."""
        if not frame.ledger.live or frame.ledger.retiring or self._stopping:
            return
        key = (frame.topic, frame.partition)
        intake = self._intakes.get(key)
        if intake is None or intake.ledger is not frame.ledger:
            # An epoch that was lost, not given up, ends here for all topics of the partition: what is known of its log
            # must not mix with what the new one tells.
            old = [one for one in self._intakes.values() if one.partition == key[1] and not one.ledger.live]
            if intake is not None and intake not in old:
                old.append(intake)
            if old:
                self._forget(old)
            replay = frame.topic == self._topics.replay
            intake = Intake(*key, frame.ledger, self._holds.get(frame.topic, 0), replay=replay)
            self._intakes[key] = intake
        if intake.log is not None:
            self._follow(intake, frame.records)
            return
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
            room, bytes_left = self._room_for(intake)
            if ledger.full or room <= 0 or bytes_left <= 0:
                if ledger.full or intake.replay:  # nobody waits for a replay
                    self._block(intake, None)
                if intake.replay:
                    self._relieve_of_replays_later()
                else:
                    self._relieve_later()
                return
            settler = self._settler
            if settler.backlog > limits.admitted_max or settler.backlog_bytes > limits.admitted_bytes_max:
                if intake.replay:
                    self._block(intake, None)
                return
            count = 1 if intake.hold_ms else min(room, ADMIT_CHUNK, len(records))
            chunk: list[Record] = []
            while len(chunk) < count and bytes_left > 0:  # so that no more than one is beyond the bound
                chunk.append(records.popleft())
                bytes_left -= len(chunk[-1].value() or b"")
            already = ledger.open([record.offset() for record in chunk])
            for record in chunk:
                if record.offset() not in already:
                    self._take(intake, record, now_ms)
            if already:  # their progress may be all there is to commit
                self._settler.settle(intake.topic, intake.partition, ledger, already, ())
            self._fill()
        if self._order_waits:
            self._look_at_order(intake.partition)
        self._release(intake.topic, intake.partition)

    def _room_for(self, intake: Intake) -> tuple[int, int]:
        """How many deliveries of this partition may be admitted, and bytes of bodies."""
        limits = self._limits
        if intake.replay:
            return limits.replayed_max - self._replayed, limits.replayed_bytes_max - self._replayed_bytes
        return limits.admitted_max - self._admitted, limits.admitted_bytes_max - self._admitted_bytes

    def _enter(self, intake: Intake, count: int, body_bytes: int) -> None:
        """So many deliveries, or fewer than none, and bytes of bodies are in memory now."""
        if intake.log is not None:
            self._read += count
            self._read_bytes += body_bytes
        elif intake.replay:
            self._replayed += count
            self._replayed_bytes += body_bytes
        else:
            self._admitted += count
            self._admitted_bytes += body_bytes

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
        while self._ends and self._ends[0][0] <= self._settler.settled:
            _, lane, order = self._ends.popleft()
            lane.ended(order, again=False)
            self._advance(lane, order.key)
            self._draw_later(lane)
        if self._starved:
            self._starved = False
            self._parking.wake_all()
        if self._fair:
            self._fill_later()
        self._changed.set()

    def _look_around_soon(self) -> None:
        """Room came back without a transaction, which would have said so."""
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_soon(self._look_around)

    def _look_around(self) -> None:
        self._looking = False
        self._on_settled()

    # --- relief -----------------------------------------------------------------------------------

    def _relieve_later(self) -> None:
        """There is no room: look in a moment at which lanes do not move."""
        if self._relief is None and not self._stopping:
            self._relief_from = self._clock.monotonic()
            for lane in self._lanes.values():
                lane.served = 0
            loop = asyncio.get_running_loop()
            self._relief = loop.call_later(self._limits.relief_after_s, self._relieve)

    def _relieve(self) -> None:
        """Bound the lanes that hold more than they serve, and park what is beyond."""
        self._relief = None
        self._forget_lost()
        full = any(intake.records and intake.ledger.full and not intake.replay for intake in self._intakes.values())
        if self._admitted <= self._admit_below and self._admitted_bytes <= self._bytes_below and not full:
            return
        now = self._clock.monotonic()
        elapsed_s = max(now - self._relief_from, self._limits.relief_after_s, ROUNDING_S)
        slow = [lane for lane in self._lanes.values() if lane.held_live > self._serves(lane, elapsed_s)]
        for lane in slow:
            # A round of its places may wait, as far as all that are slow have a part of the worker's room together.
            jobs = self._limits.admitted_max // SLOW_PART // len(slow)
            jobs_of_bytes = self._limits.admitted_bytes_max // SLOW_PART // len(slow) * lane.held // lane.held_bytes
            lane.queue_least = min(lane.subscription.max_in_flight, jobs, jobs_of_bytes)
            queue_max = max(lane.queue_least, self._serves(lane, elapsed_s))
            if lane.held_live <= queue_max:
                continue  # not what fills the worker; it may have served little because little came
            self._bound(lane, queue_max, now)
            for job in lane.flush(queue_max):
                self._park(job, lane)
            if not (lane.held or lane.in_flight):  # then no answer will make it read on
                self._draw(lane)
        self._changed.set()

    def _forget_lost(self) -> None:
        """Epochs that ended without being given up: their jobs are void, and hold room."""
        if lost := [intake for intake in self._intakes.values() if not intake.ledger.live]:
            self._forget(lost)

    def _relieve_of_replays_later(self) -> None:
        """The same for the room of what is replayed, which is no matter of anybody else's."""
        if self._replays_relief is None and not self._stopping:
            self._replays_relief_from = self._clock.monotonic()
            for lane in self._lanes.values():
                lane.replayed = 0
            loop = asyncio.get_running_loop()
            self._replays_relief = loop.call_later(self._limits.relief_after_s, self._relieve_of_replays)

    def _relieve_of_replays(self) -> None:
        """Park what was replayed and lanes do not serve: by how many of these they served, since live deliveries go
        first. It bounds nobody."""
        self._replays_relief = None
        self._forget_lost()
        full = any(intake.records and intake.ledger.full and intake.replay for intake in self._intakes.values())
        if self._replayed <= self._replayed_below and self._replayed_bytes <= self._replayed_bytes_below and not full:
            return
        elapsed_s = self._clock.monotonic() - self._replays_relief_from
        elapsed_s = max(elapsed_s, self._limits.relief_after_s, ROUNDING_S)
        serves = {name: int(lane.replayed / elapsed_s * self._limits.lane_s) for name, lane in self._lanes.items()}
        slow = [lane for name, lane in self._lanes.items() if lane.held > serves[name]]
        for lane in slow:
            least = min(lane.subscription.max_in_flight, self._limits.replayed_max // SLOW_PART // len(slow))
            for job in lane.flush_replays(0 if full else max(least, serves[lane.subscription.id])):
                self._park(job, lane)
            if not (lane.held or lane.in_flight):
                self._draw(lane)

    def _serves(self, lane: Lane, elapsed_s: float) -> int:
        """What the lane serves in `lane_s`, at the rate of late."""
        return int(lane.served / elapsed_s * self._limits.lane_s)

    def _bound(self, lane: Lane, queue_max: int, now: float) -> None:
        lane.queue_max, lane.bounded_until, lane.served = queue_max, now + self._limits.lane_s, 0

    def _has_room(self, lane: Lane, job: Job) -> bool:
        """Whether a bounded lane may hold one more; of what is replayed, none. Once it keeps up again, it is not
        bounded any more."""
        assert lane.queue_max is not None
        now = self._clock.monotonic()
        if now >= lane.bounded_until:
            served = self._serves(lane, self._limits.lane_s + now - lane.bounded_until)
            queue_max = max(lane.queue_least, served)
            if lane.held_live * 2 < queue_max:
                lane.queue_max = None
                return True
            self._bound(lane, queue_max, now)
        return lane.held_live < lane.queue_max and not job.intake.replay

    # --- one delivery -----------------------------------------------------------------------------

    def _take(self, intake: Intake, record: Record, now_ms: int) -> None:
        """Route an admitted record: to its lane, to a tier, or to its end."""
        try:
            delivery = self._decode(record.value())
        except UndecodableError as error:
            self._enter(intake, 1, 0)
            self._quarantine(intake, record, error)
            return
        self._enter(intake, 1, len(delivery.body))
        subscription = self._table.get(delivery.subscription_id)
        job = Job(delivery, intake, record.offset())
        if delivery.attempt and self._meter is not None:  # another worker, or a life before, may have seen it fail
            self._meter.failed(delivery, intake.partition)
        if subscription is None:
            self._cancel(job, now_ms)
        elif subscription.state == "disabled":
            self._bury(job, now_ms, "disabled", "the subscription is disabled")
        elif delivery.due_ms > now_ms and subscription.state == "active":
            self._wait(job, delivery.due_ms - now_ms)
        else:
            self._enqueue(job, subscription)

    def _wait(self, job: Job, wait_ms: int) -> None:
        """Not due yet: on to a shorter tier, or for less than any tier holds, in memory."""
        if wait_ms >= HOLD_MS_MIN:
            self._hop(job, wait_ms)
        else:
            asyncio.get_running_loop().call_later(wait_ms / 1000, self._enqueue_late, job)

    def _decode(self, value: bytes | None) -> Delivery:
        wire = self._records.wire
        if value is not None and value.startswith(wire.v1):
            return decode_delivery(value)
        if value is not None and value.startswith(wire.v2):
            return decode_delivery(value, 2)
        schema_id = codec.wire_schema_id(value)
        raise UndecodableError("unknown_schema", f"schema id {schema_id} is not that of a delivery")

    def _enqueue_late(self, job: Job) -> None:
        intake = job.intake
        if not intake.ledger.live or self._intakes.get((intake.topic, intake.partition)) is not intake:
            self._drop(job)  # the partition was lost, or is being given up
            return
        subscription = self._table.get(job.delivery.subscription_id)
        if subscription is None:
            self._cancel(job, self._clock.now_ms())
        elif subscription.state == "disabled":
            self._bury(job, self._clock.now_ms(), "disabled", "the subscription is disabled")
        else:
            self._enqueue(job, subscription)

    def _enqueue(self, job: Job, subscription: Subscription) -> None:
        """Into its lane, or into the log."""
        lane = self._lanes.get(subscription.id)
        if lane is None:
            try:
                lane = self._new_lane(subscription)
            except ValueError as error:
                self._bury(job, self._clock.now_ms(), "invalid_endpoint", str(error))
                return
        lane.home = job.intake.partition
        if subscription.ordered:
            job = self._placed(job, lane)
        if lane.shut or lane.probing or lane.closed_until or lane.queue_max is not None:
            if lane.health.disabled_ms:
                self._bury(job, self._clock.now_ms(), "disabled", _why_disabled(lane.health))
                return
            if not self._takes(lane, job):
                self._park(job, lane)
                return
        if job.order is None:
            if not (lane.fresh or lane.late or lane.replays):
                lane.waiting_since = self._clock.monotonic() if subscription.batch_max > 1 else 0.0
            lane.put(job)
            self._offer(lane)
        elif (
            lane.held >= (ORDERED_HELD_MAX // REPLAYED_PART if job.intake.replay else ORDERED_HELD_MAX)
            or lane.behind(job.order.key)
            or not self._order_known(lane, job.order.key)
        ):
            self._park(job, lane)
        else:
            lane.put_ordered(job, job.order)
            self._advance(lane, job.order.key)

    def _takes(self, lane: Lane, job: Job) -> bool:
        """Whether a lane that is not simply open takes one more."""
        if lane.shut:
            return False
        if lane.probing and (lane.held or lane.in_flight):
            return False
        if lane.closed_until - self._clock.monotonic() > GATE_PARK_S:
            return False
        return lane.queue_max is None or self._has_room(lane, job)

    def _new_lane(self, subscription: Subscription) -> Lane:
        """ValueError when the sender refuses the endpoint."""
        outgoing = self._outgoing(subscription)
        if len(self._lanes) >= self._limits.lanes_max:
            for id_ in [id_ for id_, lane in self._lanes.items() if lane.idle]:
                self._lanes.pop(id_).cancel_timers()
        lane = Lane(subscription, outgoing, self._health_of(subscription), self._clock.now_ms())
        self._lanes[subscription.id] = lane
        lane.parked = bool(self._parking.holders(subscription.id))
        self._watch_circuit(lane)
        return lane

    def _outgoing(self, subscription: Subscription) -> Outgoing:
        """What its lane sends; ValueError when the sender refuses the endpoint. The log is told once of secrets that do
        not open, and of those that open again."""
        outgoing = self._make_outgoing(subscription, self._sender, self._opener, self._tokens)
        if outgoing.locked:
            if len(self._locked) >= self._limits.lanes_max:
                self._locked.clear()
            if subscription.id not in self._locked:
                self._locked.add(subscription.id)
                logger.error("%s: nothing is sent, its deliveries are parked: %s", subscription.id, outgoing.locked)
        elif subscription.id in self._locked:
            self._locked.discard(subscription.id)
            logger.warning("%s: its secrets open again", subscription.id)
        return outgoing

    def keys_changed(self) -> None:
        """Secrets that did not open may open now."""
        for lane in [lane for lane in self._lanes.values() if lane.outgoing.locked]:
            self._change_lane(lane, lane.subscription)

    # --- turns ------------------------------------------------------------------------------------

    def _offer(self, lane: Lane) -> None:
        """Into the line of lanes that can start something, unless it cannot. Whoever stands there is served soon."""
        if lane.ready or lane.shut or lane.in_flight >= lane.limit or not (lane.fresh or lane.late or lane.replays):
            return
        if lane.bucket is not None or lane.closed_until or lane.booked_s:
            now = self._clock.monotonic()
            wait_s = max(lane.closed_until, lane.booked_s) - now
            if lane.bucket is not None:
                wait_s = max(wait_s, lane.bucket.wait_s(now))
            if wait_s > ROUNDING_S:
                self._offer_later(lane, wait_s)
                return
            lane.closed_until = 0.0
        batch_max = lane.subscription.batch_max
        if batch_max > 1 and max(len(lane.fresh) + len(lane.late), len(lane.replays)) < batch_max:
            wait_s = lane.waiting_since + lane.subscription.batch_wait_ms / 1000 - self._clock.monotonic()
            if wait_s > 0:
                self._offer_later(lane, wait_s)
                return
        if lane.turn() is not None:
            lane.ready = True
            self._fair.offer(lane)
            self._fill_later()

    def _offer_later(self, lane: Lane, wait_s: float) -> None:
        if lane.timer is None:
            lane.timer = asyncio.get_running_loop().call_later(wait_s, self._offer_now, lane)

    def _offer_now(self, lane: Lane) -> None:
        lane.timer = None
        wait_s = lane.closed_until - self._clock.monotonic()
        if wait_s > ROUNDING_S:
            self._offer_later(lane, wait_s)
            return
        self._offer(lane)
        if lane.parked:
            self._draw(lane)

    def _fill(self) -> None:
        """Start deliveries, lanes in their turns, while the worker has places."""
        fair, limit = self._fair, self._limits.in_flight_max
        self._filling = True  # whoever is offered meanwhile has his turn here
        try:
            if self._settler.busy_s > self._limits.settle_s:
                return  # Kafka does not answer, and what a crash now repeats is what was POSTed since
            while self._in_flight < limit and not self._stopping:
                if self._settler.backlog >= self._limits.unsettled_max:
                    return  # until that is durable
                lane = fair.take()
                if lane is None:
                    return
                lane.ready = False
                if lane.closed_until:  # by an answer that came after its offer
                    self._offer(lane)
                    continue
                free = limit - self._in_flight
                if free <= limit // RESERVE and lane.in_flight and lane.in_flight >= free // FREE_SHARE:
                    self._choked.append(lane)
                    continue
                if lane.replays and self._replaying >= self._replaying_max and lane.turn() is lane.replays:
                    self._replays_wait[lane] = None
                    continue
                if self._start(lane):
                    self._offer(lane)
        finally:
            self._filling = False

    def _fill_later(self) -> None:
        """Once for all that comes in this turn of the loop: requests leave in bursts, which wakes the receivers, and
        us, less often. It saves a fifth of a delivery's cost."""
        if not self._filling:
            self._filling = True
            asyncio.get_running_loop().call_soon(self._fill_soon)

    def _fill_soon(self) -> None:
        self._filling = True  # somebody may have filled meanwhile: who is offered now must not call this again for ever
        if self._choked:
            choked, self._choked = self._choked, []
            for lane in choked:
                self._offer(lane)
        self._fill()

    def _start(self, lane: Lane) -> bool:
        """Start the lane's next delivery; False when it has to wait for others' bodies, and is not to be offered."""
        job = lane.take()
        if job is None:
            return True
        if not job.intake.ledger.live:
            self._drop(job)
            if job.order is not None:
                self._advance(lane, job.order.key)
            return True
        body_bytes = len(job.delivery.body)
        if body_bytes > self._small_bytes and not self._fits(lane, body_bytes):
            lane.put_back(job)
            self._heavy.append(lane)
            return False
        if self._limits.origin_rate_max or lane.bucket is not None:
            now = self._clock.monotonic()
            if self._limits.origin_rate_max and not self._origin_lets(lane, job, now):
                return True
            if lane.bucket is not None:
                lane.bucket.take(now)
        late = job.late
        lane.in_flight += 1
        lane.late_in_flight += late
        self._in_flight += 1
        job.intake.in_flight += 1
        self._replaying += job.intake.replay
        delivery = job.delivery
        if lane.subscription.batch_max > 1 and batchable(delivery):
            self._start_batch(lane, job, late)
            return True
        body_bytes = self._weigh(lane, body_bytes)
        now_ms = self._clock.now_ms()
        done = partial(self._posted, lane, (job,), body_bytes, now_ms, late)
        lane.outgoing.post(delivery.id, delivery, delivery.body, now_ms, done)
        return True

    def _fits(self, lane: Lane, body_bytes: int) -> bool:
        """Whether a large body may go out now: its lane has no more under way than it leaves free (a dynamic
        threshold); or no other, and nor has the worker another one that is larger than that."""
        if lane is self._oversized:
            return False
        if body_bytes <= self._share(lane):
            return True
        if lane.large_bytes or self._oversized is not None:
            return False
        self._oversized = lane
        return True

    def _share(self, lane: Lane) -> int:
        return (self._large_bytes_max - self._large_bytes - lane.large_bytes) // 2

    def _weigh(self, lane: Lane, body_bytes: int) -> int:
        """Count what goes out; 0 for a body that is not large, and is not counted."""
        if body_bytes <= self._small_bytes:
            return 0
        lane.large_bytes += body_bytes
        self._large_bytes += body_bytes
        return body_bytes

    def _lighten(self, lane: Lane, body_bytes: int) -> None:
        """It was answered."""
        lane.large_bytes -= body_bytes
        self._large_bytes -= body_bytes
        if lane is self._oversized:
            self._oversized = None
        self._choked += self._heavy
        self._heavy.clear()

    def _start_batch(self, lane: Lane, first: Job, late: bool) -> None:
        """The first job, with what else waits, in one POST."""
        jobs, size = [first], len(first.delivery.body)
        most = lane.subscription.batch_max
        bytes_max = min(BATCH_BYTES_MAX, max(self._share(lane), self._small_bytes))
        for queue in _batch_queues(lane, first, late):
            while queue and len(jobs) < most and size + len(queue[0].delivery.body) <= bytes_max:
                if not together(first.delivery, queue[0].delivery):
                    break
                job = queue.popleft()
                if not job.intake.ledger.live:
                    self._drop(job)
                    continue
                job.intake.in_flight += 1
                size += len(job.delivery.body)
                jobs.append(job)
        now_ms = self._clock.now_ms()
        lane.waiting_since = self._clock.monotonic()
        identifier = batch_id([job.delivery.id for job in jobs])
        deliveries = [job.delivery for job in jobs]
        body = batch_body(identifier, deliveries, lane.subscription.format)
        done = partial(self._posted, lane, tuple(jobs), self._weigh(lane, size), now_ms, late)
        lane.outgoing.post_batch(identifier, deliveries, body, now_ms, done)

    def _origin_lets(self, lane: Lane, job: Job, now: float) -> bool:
        """Whether the origin may have one more now. If not, the lane books the origin's next token, and the job goes
        back to the head of its queue. Each lane has no more than one booked, so they take turns."""
        if lane.booked_s:
            booked_s, lane.booked_s = lane.booked_s, 0.0
            if now - booked_s < BOOKING_S:
                return True  # or too many could come together, each late
        origin = lane.outgoing.origin
        bucket = self._origins.get(origin)
        if bucket is None:
            if len(self._origins) >= self._limits.lanes_max:
                self._origins.clear()
            rate = self._limits.origin_rate_max
            bucket = self._origins[origin] = TokenBucket(rate, max(1.0, rate / 10))
        wait_s = bucket.wait_s(now)
        bucket.take(now)
        if wait_s > 0:
            lane.put_back(job)
            lane.booked_s = now + wait_s
            return False
        return True

    # --- results ----------------------------------------------------------------------------------

    def _posted(
        self, lane: Lane, jobs: tuple[Job, ...], large_bytes: int, started_ms: int, late: bool, result: PostResult
    ) -> None:
        """The sender's answer."""
        if large_bytes:
            self._lighten(lane, large_bytes)
        lane.in_flight -= 1
        lane.late_in_flight -= late
        lane.served += len(jobs)
        self._in_flight -= 1
        if jobs[0].intake.replay:  # and so are all of a batch
            self._replaying -= 1
            lane.replayed += len(jobs)
            self._choked += self._replays_wait
            self._replays_wait.clear()
        # Of an epoch that was lost, nothing can be written, and so nothing is learnt: what only this worker knew, as
        # that an endpoint is disabled, its owner could not undo.
        notes = self._observe(lane, started_ms, result) if any(job.intake.ledger.live for job in jobs) else ()
        ok = succeeded(result)
        meter = self._meter
        if meter is not None:
            meter.answered(result)
            for job in jobs:
                if job.intake.ledger.live:
                    meter.attempted(job.delivery, job.intake.partition, started_ms, result, ok)
        for job in jobs:
            job.intake.in_flight -= 1
            if not job.intake.ledger.live:
                self._drop(job)
                if job.order is not None:  # the next epoch may have waited for it
                    self._advance(lane, job.order.key)
            elif ok:
                self._counters["delivered"] += 1
                delivery = job.delivery
                attempt = self._records.attempt(delivery, delivery.attempt + 1, "delivered", started_ms, result)
                self._finish(job, (attempt, *notes), delivered=True)
                notes = ()
            else:
                self._judge(lane, job, started_ms, result, notes)
                notes = ()
        self._offer(lane)
        if lane.parked and lane.low:
            self._draw(lane)
        self._fill_later()
        if self._admitted <= self._admit_below or self._giving_up:
            self._changed.set()

    def _judge(self, lane: Lane, job: Job, started_ms: int, result: PostResult, notes: Sequence[Out]) -> None:
        """Not delivered: again, or never, or not for us to say."""
        delivery, subscription, records = job.delivery, lane.subscription, self._records
        number = delivery.attempt + 1
        now_ms = self._clock.now_ms()
        verdict = judge(
            result,
            attempts=number,
            schedule_ms=subscription.retry_schedule_ms,
            reject_statuses=subscription.reject_statuses,
            now_ms=now_ms,
            jitter=self._clock.jitter(),
        )
        match verdict:
            case RetryAt(due_ms):
                self._counters["retried"] += 1
                later = after(delivery, number, due_ms, started_ms, result)
                attempt = records.attempt(delivery, number, "retryable", started_ms, result, due_ms)
                self._finish(job, (attempt, self._again(lane, job, later, now_ms), *notes), again=True)
            case Dead(reason):
                self._counters[f"dead:{reason}"] += 1
                if self._meter is not None:
                    self._meter.over(delivery)
                outcome = "exhausted" if reason == "exhausted" else "rejected"
                last = after(delivery, number, 0, started_ms, result)
                letter = records.dead_letter(last, reason, result.detail or "", now_ms)
                attempt = records.attempt(delivery, number, outcome, started_ms, result)
                self._finish(job, (attempt, letter, *notes))
            case Interrupted():
                self._drop(job)
            case _:
                assert_never(verdict)

    def _again(self, lane: Lane, job: Job, later: Delivery, now_ms: int) -> Out:
        """The record of the next attempt: in a tier, or in the log where the order is to be kept."""
        partition = job.intake.partition
        if job.order is None:
            wait_ms = later.due_ms - now_ms
            return self._records.to_tier(later, tier_hold_ms(wait_ms, slack_ms(wait_ms)), partition)
        lane.parked = True
        return self._records.parked(later, partition, job.order._replace(due_ms=later.due_ms))

    # --- health -----------------------------------------------------------------------------------

    def _health_of(self, subscription: Subscription) -> Health:
        """As it is stored, unless the endpoint is another one by now."""
        state = self._endpoints.get(subscription.id)
        if state is None or (state.url_hash and state.url_hash != url_hash(subscription.url)):
            return Health(self._limits.circuit)
        return Health.restored(
            circuit=state.circuit,
            opened_ms=state.opened_ms,
            until_ms=state.until_ms,
            openings=state.openings,
            failing_since_ms=state.failing_since_ms,
            disabled_ms=state.disabled_ms,
            disabled_reason=state.disabled_reason,
            policy=self._limits.circuit,
        )

    def _observe(self, lane: Lane, started_ms: int, result: PostResult) -> tuple[Out, ...]:
        """Let the endpoint's limits learn from an answer; the records of what changed."""
        if result.cause == "shutdown":
            return ()
        status = result.status
        ok = 200 <= status <= 299
        if lane.gradient is not None:
            answered = 0 < status < 500 and status != 429  # a refusal says nothing of the load
            lane.gradient.observe(result.duration_us, lane.in_flight + 1, answered)
            lane.relimit()
        if lane.slow_start is not None and ok:
            lane.slow_start.succeeded()
            if lane.slow_start.limit >= lane.subscription.max_in_flight:
                lane.slow_start = None
            lane.relimit()
        if result.allowed_rate is not None and (rate := parse_allowed_rate(result.allowed_rate)) is not None:
            lane.allow_rate(rate)
        if not ok and status in (429, 502, 503, 504):
            self._slow_down(lane, result)
        elif lane.gate_failures:
            lane.gate_failures = 0
        now_ms = self._clock.now_ms()
        change = lane.health.observe(
            status,
            result.cause,
            now_ms,
            jitter=self._clock.jitter() if not ok else 0.0,
            disable_after_ms=lane.subscription.disable_after_ms,
            started_ms=started_ms,
        )
        return () if change is UNCHANGED else self._adopt_change(lane, change, now_ms)

    def _slow_down(self, lane: Lane, result: PostResult) -> None:
        """The endpoint asks for patience: nothing is sent for a while, not just not this delivery."""
        wait_ms = parse_retry_after_ms(result.retry_after, self._clock.now_ms())
        if wait_ms is None:
            if result.status != 429:
                return
            wait_s = PATIENCE_S[min(lane.gate_failures, len(PATIENCE_S) - 1)]
            lane.gate_failures += 1
        else:
            wait_s = wait_ms / 1000
        lane.closed_until = max(lane.closed_until, self._clock.monotonic() + wait_s)
        if wait_s > GATE_PARK_S:
            self._clear(lane)
        self._offer_later(lane, wait_s)  # also where nothing waits here: something may be parked

    def _adopt_change(self, lane: Lane, change: Change, now_ms: int) -> tuple[Out, ...]:
        """Act on what changed in an endpoint's health, and make its records."""
        subscription, health = lane.subscription, lane.health
        out: list[Out] = []
        if change.circuit is not None or change.disabled:
            lane.relimit()
            if change.disabled or not change.again:  # a probe that fails may be the last one
                kind: Kind = (
                    "endpoint.disabled"
                    if change.disabled
                    else "circuit.opened"
                    if change.circuit == "opened"
                    else "circuit.closed"
                )
                out.append(self._operation(kind, subscription, now_ms, health.disabled_reason))
            if lane.shut:
                self._clear(lane)
                self._watch_circuit(lane)
            else:
                lane.slow_start = SlowStart(subscription.max_in_flight)
                lane.relimit()
                self._resume(lane)
        if change.persist:
            state = EndpointState(
                subscription_id=subscription.id,
                **health.fields(),
                url_hash=url_hash(subscription.url),
                changed_ms=now_ms,
                writer=self._worker,
            )
            out.append(self._records.state(state))
        return tuple(out)

    def _operation(self, kind: Kind, subscription: Subscription, now_ms: int, reason: str) -> Out:
        self._counters[kind] += 1
        logger.warning("%s: %s %s", subscription.id, kind, reason)
        operation = Operation(
            kind=kind, subscription_id=subscription.id, tenant=subscription.tenant, at_ms=now_ms, reason=reason
        )
        return self._records.operation(operation)

    def _watch_circuit(self, lane: Lane) -> None:
        """Let a probe through when the circuit was open for long enough."""
        circuit = lane.health.circuit
        if circuit.state != "open" or lane.circuit_timer is not None or lane.health.disabled_ms:
            return
        wait_s = max(0.0, (circuit.until_ms - self._clock.now_ms()) / 1000)
        loop = asyncio.get_running_loop()
        lane.circuit_timer = loop.call_later(wait_s, self._half_open, lane)

    def _half_open(self, lane: Lane) -> None:
        lane.circuit_timer = None
        if self._lanes.get(lane.subscription.id) is not lane or self._stopping:
            return
        if not lane.health.circuit.tick(self._clock.now_ms()):
            self._watch_circuit(lane)
            return
        lane.relimit()
        self._resume(lane)

    def _resume(self, lane: Lane) -> None:
        """A lane that was shut is not any more."""
        for key in list(lane.keys):
            self._advance(lane, key)
        self._offer(lane)
        self._draw(lane)

    def _clear(self, lane: Lane) -> None:
        """Nothing of a lane waits in memory any more."""
        for job in lane.flush():
            if lane.health.disabled_ms and job.intake.log is None:
                self._bury(job, self._clock.now_ms(), "disabled", _why_disabled(lane.health))
            else:
                self._park(job, lane)

    def _on_endpoint(self, old: EndpointState | None, new: EndpointState | None) -> None:
        """The health table changed. What this worker wrote is no news; what the owner did, or a worker that had the
        partition meanwhile, counts. So does what this worker had decided before it heard of that, and wrote after it:
        the last record is what the next worker will believe."""
        state = new or old
        assert state is not None
        lane = self._lanes.get(state.subscription_id)
        own = new is not None and new.writer == self._worker
        if own and (lane is None or state.changed_ms >= lane.told_ms):
            return
        if lane is None:
            for intake in self._parking.holders(state.subscription_id):
                self._parking.wake(intake)
            return
        if not own:
            lane.told_ms = self._clock.now_ms()
        lane.health = self._health_of(lane.subscription)
        self._reopen(lane)

    def _on_subscription(self, old: Subscription | None, new: Subscription | None) -> None:
        """The subscriptions table changed."""
        subscription = new or old
        assert subscription is not None
        lane = self._lanes.get(subscription.id)
        if new is None:
            if lane is not None:
                self._end_lane(lane)
        elif lane is not None:
            self._change_lane(lane, new)
        for intake in self._parking.holders(subscription.id):
            self._parking.wake(intake)

    def _end_lane(self, lane: Lane) -> None:
        """The subscription is gone, and so is what waits for it."""
        del self._lanes[lane.subscription.id]
        self._locked.discard(lane.subscription.id)
        now_ms = self._clock.now_ms()
        for job in lane.end():
            self._cancel(job, now_ms)
        self._loosen(lane.subscription.id)

    def _change_lane(self, lane: Lane, new: Subscription) -> None:
        old = lane.subscription
        try:
            outgoing = self._outgoing(new)
        except ValueError as error:
            now_ms = self._clock.now_ms()
            del self._lanes[new.id]
            for job in lane.end():
                self._bury(job, now_ms, "invalid_endpoint", str(error))
            self._loosen(new.id)
            return
        lane.adopt(new, outgoing)
        if new.url != old.url:
            lane.health = Health(self._limits.circuit)
        if old.ordered and not new.ordered:
            jobs = lane.flush()
            lane.keys.clear()
            for job in jobs:
                self._park(job._replace(order=None), lane)
            self._loosen(new.id)
        self._reopen(lane)

    def _reopen(self, lane: Lane) -> None:
        """The subscription or its health is another one: wait or go on."""
        lane.relimit()
        lane.closed_until = 0.0
        lane.cancel_timers()
        self._watch_circuit(lane)
        if lane.shut:
            disabled = lane.subscription.state == "disabled"
            for job in lane.flush():
                if disabled and job.intake.log is None:
                    self._bury(job, self._clock.now_ms(), "disabled", "the subscription is disabled")
                else:
                    self._park(job, lane)
            return
        self._resume(lane)

    # --- parked deliveries ------------------------------------------------------------------------

    def _follow(self, intake: Intake, records: Iterable[Record]) -> None:
        """The log goes on."""
        for name in self._parking.follow(intake, records):
            lane = self._lane(name)
            if lane is not None:
                lane.parked = True  # shut, too: it is not idle, its circuit's time would end with nobody to notice
            if lane is None or not lane.shut:
                self._parking.wake(intake)
        self._log_known(intake.partition)
        if self._order_waits:
            self._look_at_order(intake.partition)
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(EXPIRY_EVERY_S, self._look_for_expired)

    def _lane(self, subscription_id: str) -> Lane | None:
        """The lane of a subscription; None when it is gone, or cannot be sent to."""
        lane = self._lanes.get(subscription_id)
        if lane is None and (subscription := self._table.get(subscription_id)) is not None:
            try:
                lane = self._new_lane(subscription)
            except ValueError:
                return None
        return lane

    def _draw(self, lane: Lane) -> None:
        """Read on for this lane, if anything of it is parked."""
        while lane.later and self._few_wanted(lane):
            key = next(iter(lane.later))
            del lane.later[key]
            self._advance(lane, key)
        holders = self._parking.holders(lane.subscription.id)
        lane.parked = bool(holders)
        for intake in holders:
            self._parking.wake(intake)

    def _appetite(self, subscription_id: str, lot: Lot) -> int:
        """How many parked deliveries of a subscription may be taken into memory now."""
        room = self._limits.read_max - self._read
        if room <= 0 or self._read_bytes >= self._limits.admitted_bytes_max or self._stopping:
            self._starved = True
            return 0
        lane = self._lane(subscription_id)
        if lane is None:
            return room  # to be cancelled
        if lot.since_ms and lot.since_ms < self._clock.now_ms() - PARKED_MS_MAX:
            return room
        if lane.shut:
            return 0
        if lane.probing:
            return 0 if lane.held or lane.in_flight else 1
        if lane.closed_until - self._clock.monotonic() > GATE_PARK_S / 2:
            return 0
        if lane.subscription.ordered:
            most, has = ORDERED_HELD_MAX, lane.held
        else:
            most, has = min(max(4 * lane.limit, 2 * lane.subscription.batch_max, AHEAD_MIN), AHEAD_MAX), len(lane.late)
        # Nobody takes all of the room, with what is under way: there is some for one more, as of a worker's places.
        if self._read_bytes > self._limits.admitted_bytes_max // RESERVE:  # or there is no need to look
            bytes_left = self._limits.admitted_bytes_max - self._read_bytes
            if lane.late_bytes > bytes_left // FREE_SHARE:
                return 0
        return min(most - has, max(room // FREE_SHARE, 1) - has - lane.late_in_flight)

    def _taken(self, intake: Intake, record: Record, subscription_id: str, order: Order | None) -> None:
        """A parked record was read."""
        self._enter(intake, 1, 0)
        now_ms = self._clock.now_ms()
        try:
            delivery = self._decode(record.value())
            if delivery.subscription_id != subscription_id:
                raise UndecodableError("key_mismatch", f"the key is not that of {delivery.subscription_id}")
        except UndecodableError as error:
            self._quarantine(intake, record, error, subscription_id, order)
            if order is not None:
                self._gone(intake, subscription_id, record.offset(), order)
            return
        self._enter(intake, 0, len(delivery.body))
        subscription = self._table.get(subscription_id)
        lane = self._lane(subscription_id)
        if lane is not None:
            lane.home = intake.partition
        assert intake.log is not None
        lot = intake.log.lots[subscription_id]
        expired = 0 < record.timestamp()[1] < now_ms - PARKED_MS_MAX
        if order is not None and (lot.loose or expired):
            self._gone(intake, subscription_id, record.offset(), order)
        if subscription is None or not subscription.ordered or lot.loose:
            order = None
        job = Job(delivery, intake, record.offset(), order)
        if subscription is None:
            self._cancel(job, now_ms)
        elif expired:
            if not lot.wanted:
                lot.want_first()
            self._bury(job, now_ms, "expired", f"parked for more than {PARKED_MS_MAX // 86_400_000} days")
        elif lane is None:
            self._bury(job, now_ms, "invalid_endpoint", "the endpoint's URL or headers cannot be used")
        elif lane.shut or (lane.probing and (lane.held or lane.in_flight)):
            self._park(job, lane)
        elif order is None:
            if delivery.due_ms > now_ms:
                self._wait(job, delivery.due_ms - now_ms)
                return
            lane.put(job)
            self._offer(lane)
        elif delivery.due_ms > now_ms:
            self._park(job, lane)
            self._advance(lane, order.key)  # somebody has to look when it is due
        elif not lane.in_turn(order):  # it would take the room of what comes before it
            self._park(job, lane)
        else:
            lane.put_ordered(job, order)
            self._advance(lane, order.key)

    def _park(self, job: Job, lane: Lane) -> None:
        """Into the log, without spending an attempt; what came from there stays where it is."""
        log, order = job.intake.log, job.order
        if not job.intake.ledger.live:
            self._drop(job)
            return
        if log is not None:
            self._leave(job)
            self._look_around_soon()
            log.put_back(job.offset, wanted=order is None)
            if order is not None:
                lane.add_ref(order._replace(due_ms=job.delivery.due_ms), job.offset)
                lane.later[order.key] = None  # it was its turn, or nearly
            return
        self._counters["parked"] += 1
        if order is not None:
            lane.key_queue(order.key).pipe.add(order.number)
        lane.parked = True
        self._settle(job, (self._records.parked(job.delivery, job.intake.partition, order),))

    def _look_for_expired(self) -> None:
        """Wake those whose oldest records may have waited for too long."""
        self._expiry = None
        if self._stopping:
            return
        for intake, lot in self._parking.expired(self._clock.now_ms() - PARKED_MS_MAX):
            lot.want_first()
            self._parking.wake(intake)
        self._expiry = asyncio.get_running_loop().call_later(EXPIRY_EVERY_S, self._look_for_expired)

    def _loosen(self, subscription_id: str) -> None:
        """Ordered records are to be read without regard to their order: it counts no more."""
        for intake in self._parking.holders(subscription_id):
            assert intake.log is not None
            lot = intake.log.lots[subscription_id]
            lot.loose = lot.ordered is not None

    # --- order ------------------------------------------------------------------------------------

    def _placed(self, job: Job, lane: Lane) -> Job:
        """The job with its place among those with its key. Only what comes from fan-out or a replay, and from the log,
        has one. Replays have lines of their own: a live delivery never waits for one, nor the other way round."""
        intake = job.intake
        if job.order is not None or not (intake.replay or intake.topic == self._topics.deliveries):
            return job
        if lane.partition < 0:
            lane.partition = intake.partition
        if lane.partition != intake.partition:  # two partitions have no order between them
            return job
        key = ordering_key(job.delivery, lane.subscription.ordering_key)
        if intake.replay:
            key = REPLAYED_KEY + key
        return job._replace(order=Order(key, job.offset))

    def _seen(self, intake: Intake, subscription_id: str, offset: int, order: Order) -> None:
        """An ordered record was seen in the log."""
        lane = self._lane(subscription_id)
        if lane is None or not lane.subscription.ordered or lane.partition not in (-1, intake.partition):
            assert intake.log is not None
            intake.log.lots[subscription_id].loose = True  # nor have two partitions any order between them
            return
        lane.partition = intake.partition
        lane.add_ref(order, offset)
        self._advance(lane, order.key)

    def _gone(self, intake: Intake, subscription_id: str, offset: int, order: Order | None) -> None:
        """An ordered record was finished in another epoch, or (None) was lost: it holds back nothing any more."""
        lane = self._lanes.get(subscription_id)
        if lane is None or lane.partition != intake.partition:
            return
        if order is not None:
            lane.unref(order, offset)
            self._advance(lane, order.key)
            return
        lane.unref_offset(offset)
        for key in list(lane.keys):
            self._advance(lane, key)

    def _advance(self, lane: Lane, key: str) -> None:
        """Bring the next delivery of an ordering key on its way."""
        if lane.shut:
            return
        if not self._order_known(lane, key):
            return
        step = lane.advance(key, self._clock.now_ms())
        if step.due_ms:
            heapq.heappush(self._dues, (step.due_ms, lane.subscription.id, key))
            self._wake_for_dues()
        if step.read and (intake := self._parking.intake(lane.partition)) is not None:
            assert intake.log is not None
            lot = intake.log.lots.get(lane.subscription.id)
            if lot is None or len(lot.wanted) >= WANTED_MAX:
                lane.key_queue(key).reading.difference_update(step.read)
                lane.later[key] = None
            else:
                lot.wanted.update(step.read)
                self._parking.wake(intake)
        self._offer(lane)

    def _draw_later(self, lane: Lane) -> None:
        """Keys may have waited for others of their lane, which ended without an answer that would look at them."""
        if lane.later and lane.low:
            self._draw(lane)

    def _few_wanted(self, lane: Lane) -> bool:
        intake = self._parking.intake(lane.partition)
        if intake is None or intake.log is None:
            return False
        lot = intake.log.lots.get(lane.subscription.id)
        return lot is not None and len(lot.wanted) < WANTED_MAX

    def _order_known(self, lane: Lane, key: str) -> bool:
        """Whether all that may stand before a delivery of this key has been seen: the log as it was when this epoch
        began, and the deliveries that were finished out of order before it."""
        partition, topics = lane.partition, self._topics
        ledger = self._ledger(topics.replay if key.startswith(REPLAYED_KEY) else topics.deliveries, partition)
        if self._log_known(partition) and (ledger is None or not ledger.restoring):
            return True
        self._order_waits.setdefault(partition, set()).add(lane.subscription.id)
        return False

    def _log_known(self, partition: int) -> bool:
        """Whether the log of parked deliveries was seen as it was when this epoch began. A fence tells."""
        if self._parking.restored(partition):
            return True
        if not self._parking.fenced(partition):
            for intake in (self._intakes.get((self._topics.deliveries, partition)), self._parking.intake(partition)):
                if intake is not None and intake.ledger.live:
                    token = f"{self._worker} {self._clock.now_ms()} {self._clock.jitter()}"
                    self._parking.fence(partition, token, intake.ledger)
                    fence = self._records.fence(partition, token)
                    self._settler.settle(intake.topic, partition, intake.ledger, (), (fence,))
                    break
        return False

    def _look_at_order(self, partition: int) -> None:
        waiting = self._order_waits.pop(partition, None)
        for subscription_id in waiting or ():
            lane = self._lanes.get(subscription_id)
            for key in list(lane.keys) if lane is not None else ():
                assert lane is not None
                self._advance(lane, key)

    def _wake_for_dues(self) -> None:
        if self._due_timer is not None:
            self._due_timer.cancel()
        if self._dues and not self._stopping:
            wait_s = max(0.0, (self._dues[0][0] - self._clock.now_ms()) / 1000)
            self._due_timer = asyncio.get_running_loop().call_later(wait_s, self._on_due)

    def _on_due(self) -> None:
        self._due_timer = None
        now_ms = self._clock.now_ms()
        while self._dues and self._dues[0][0] <= now_ms:
            _, subscription_id, key = heapq.heappop(self._dues)
            if (lane := self._lanes.get(subscription_id)) is not None:
                lane.rouse(key)
                self._advance(lane, key)
        self._wake_for_dues()

    # --- ends -------------------------------------------------------------------------------------

    def _finish(self, job: Job, records: Sequence[Out], *, again: bool = False, delivered: bool = False) -> None:
        """Hand over what became of a delivery; `again` when it is to be seen in the log once more."""
        order = job.order
        self._settle(job, records)
        if order is None or (lane := self._lanes.get(job.delivery.subscription_id)) is None:
            return
        if delivered or again:
            # Given up meanwhile, it will be seen in the log by another epoch, not by this one.
            lane.ended(order, again=again and self._intakes.get((job.intake.topic, job.intake.partition)) is job.intake)
            if again:  # the others would wait in memory for long, and hold up their partition
                for waiting in lane.waiting_jobs(order.key):
                    self._park(waiting, lane)
            self._advance(lane, order.key)
            self._draw_later(lane)
        else:
            # Were the next one sent now and this end lost in a crash, this one would be sent again, and might succeed.
            lane.hold_key(order)
            self._ends.append((self._settler.ticket(), lane, order))

    def _settle(self, job: Job, records: Sequence[Out]) -> None:
        self._leave(job)
        intake = job.intake
        if intake.log is not None:
            records = (*records, self._marker(intake, job.delivery.subscription_id, job.offset, job.order))
        self._settler.settle(intake.topic, intake.partition, intake.ledger, (job.offset,), records)

    def _marker(self, intake: Intake, subscription_id: str, offset: int, order: Order | None) -> Out:
        assert intake.log is not None
        floor = intake.log.floor_without(offset)
        return self._records.finished(subscription_id, intake.partition, offset, floor, order)

    def _drop(self, job: Job) -> None:
        """Leave it to whoever owns the partition next: its offset is not finished."""
        self._leave(job)
        self._look_around_soon()
        if job.order is not None and (lane := self._lanes.get(job.delivery.subscription_id)) is not None:
            lane.ended(job.order, again=False)

    def _leave(self, job: Job) -> None:
        """It is not in memory any more."""
        self._enter(job.intake, -1, -len(job.delivery.body))

    def _cancel(self, job: Job, now_ms: int) -> None:
        """The subscription is gone."""
        self._counters["cancelled"] += 1
        if self._meter is not None:
            self._meter.over(job.delivery)
        end = self._records.end(job.delivery, "cancelled", now_ms, "the subscription was deleted")
        self._finish(job, (end,))

    def _bury(self, job: Job, now_ms: int, reason: str, detail: str) -> None:
        """A dead letter without an attempt."""
        self._counters[f"dead:{reason}"] += 1
        if self._meter is not None:
            self._meter.over(job.delivery)
        end = self._records.end(job.delivery, "rejected", now_ms, detail)
        self._finish(job, (end, self._records.dead_letter(job.delivery, reason, detail, now_ms)))

    def _hop(self, job: Job, wait_ms: int) -> None:
        """Released by a tier, and not due yet: on to a shorter one."""
        self._counters["hops"] += 1
        delivery = job.delivery
        failed = delivery.tries[-1] if delivery.tries else None
        delay_ms = 0 if failed is None else delivery.due_ms - failed.started_ms - failed.duration_us // 1000
        hold_ms = tier_hold_ms(wait_ms, slack_ms(delay_ms))
        self._finish(job, (self._records.to_tier(delivery, hold_ms, job.intake.partition),))

    def _quarantine(
        self,
        intake: Intake,
        record: Record,
        error: UndecodableError,
        subscription_id: str | None = None,
        order: Order | None = None,
    ) -> None:
        out = [quarantined(self._topics.quarantine, intake.topic, intake.partition, record, error, self._counters)]
        self._enter(intake, -1, 0)
        if subscription_id is not None:
            out.append(self._marker(intake, subscription_id, record.offset(), order))
        self._settler.settle(intake.topic, intake.partition, intake.ledger, (record.offset(),), out)

    # --- giving up partitions, and the end --------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """POSTs under way."""
        return self._in_flight

    @property
    def lanes(self) -> Collection[Lane]:
        """Of the endpoints in use, for who measures them."""
        return self._lanes.values()

    @property
    def intakes(self) -> Collection[Intake]:
        """Of the partitions that are this worker's, for who measures them."""
        return self._intakes.values()

    def parked_since(self) -> Iterable[tuple[str, int]]:
        """(subscription id, milliseconds since the epoch) at or before which the oldest of what is parked was parked,
        for who measures it."""
        return self._parking.waiting()

    async def give_up(self, partitions: Iterable[tuple[str, int]], deadline_s: float) -> None:
        """Wait for the POSTs under way of these partitions to end and be settled, up to a deadline; forget the rest.

        The caller retires the ledgers before, so that no more is admitted, and closes them afterwards; what is not
        settled by then counts for nobody here.
        """
        intakes = [self._intakes[key] for key in partitions if key in self._intakes]
        self._forget(intakes)
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
        for timer in (self._relief, self._replays_relief, self._due_timer, self._expiry):
            if timer is not None:
                timer.cancel()
        self._changed.set()
        await self.give_up(list(self._intakes), deadline_s)
        for lane in self._lanes.values():
            lane.cancel_timers()

    def _forget(self, intakes: Sequence[Intake]) -> None:
        """What has not started is the next owner's."""
        for intake in intakes:
            self._intakes.pop((intake.topic, intake.partition), None)
            intake.records.clear()
            if intake.timer is not None:
                intake.timer.cancel()
                intake.timer = None
            if intake.log is not None:
                self._parking.forget(intake)
            self._order_waits.pop(intake.partition, None)
        for lane in self._lanes.values():
            if lane.held or lane.keys:
                for job in lane.forget(intakes):
                    self._drop(job)
        self._fair.keep(lambda lane: bool(lane.fresh or lane.late or lane.replays) or self._not_ready(lane))
        partitions = {intake.partition for intake in intakes}
        if self._meter is not None:
            self._meter.forget(partitions)
        for name, lane in list(self._lanes.items()):  # should they come back, their stored health counts
            if not (lane.held or lane.keys or lane.in_flight or self._parking.holders(name)):
                self._lanes.pop(name).cancel_timers()
            elif lane.home in partitions:
                lane.health = self._health_of(lane.subscription)
                lane.relimit()
                if lane.circuit_timer is not None:
                    lane.circuit_timer.cancel()
                    lane.circuit_timer = None
                self._watch_circuit(lane)
                self._offer(lane)

    def _not_ready(self, lane: Lane) -> bool:
        lane.ready = False
        return False


def _batch_queues(lane: Lane, first: Job, late: bool) -> tuple[deque[Job], ...]:
    """Where others for the same POST are looked for."""
    if first.intake.replay:
        return (lane.replays,)
    return (lane.late, lane.fresh) if late else (lane.fresh, lane.late)


def _why_disabled(health: Health) -> str:
    return f"the endpoint is disabled ({health.disabled_reason})"
