"""Dispatch: from frames of deliveries to POSTs, and from their results to settlements.

Records wait in their partition's *intake* until they may be admitted: the ledger has room, the worker has room, and, in
a retry tier, the hold is over (the head is always the oldest, so waiting is pausing the partition). An admitted
delivery waits in its endpoint's *lane*, or is *parked* in the log when the endpoint may not be sent anything, or does
not keep up while others need the room. What replays send again has room of its own, and when that is taken, its
partitions wait and nothing else does. The fair queue says whose turn it is. A result is judged, and handed to the
settler with the delivery's offset.

This file is the way in, and out when partitions are given up; the stage's other rooms are named in `dispatch_state.py`.
Everything happens on one event loop, in callbacks: no task and no future per delivery. The stage sees ports; it does
not speak HTTP or Kafka.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence

from schemas import codec
from schemas.delivery import Delivery, decode_delivery
from schemas.errors import UndecodableError
from schemas.frame import Frame, Record
from schemas.subscription import Subscription
from streams.core.retry import HOLD_MS_MIN
from streams.dispatch_health import why_disabled
from streams.dispatch_order import GATE_PARK_S, ORDERED_HELD_MAX
from streams.dispatch_state import SLOW_PART
from streams.dispatch_turns import ROUNDING_S, DispatchTurns
from streams.lanes import Intake, Job, Lane
from streams.requests import Outgoing

logger = logging.getLogger(__name__)

ADMIT_CHUNK = 100  # records opened at a time, so that one partition does not take all the room at once
#: Of the jobs of an ordered lane in memory, what comes straight from the replay lane has no more than one part in so
#: many.
REPLAYED_PART = 2


class Dispatch(DispatchTurns):
    """The stage; one per worker. Call its methods on the event loop only."""

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
        subscription = self._subscription_of(delivery)
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
        subscription = self._subscription_of(job.delivery)
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
                self._bury(job, self._clock.now_ms(), "disabled", why_disabled(lane.health))
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
