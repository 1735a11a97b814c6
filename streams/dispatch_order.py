"""Parked deliveries, ordered ones, and the ends of all.

What may not be sent is parked in the log and drawn from there when it may; an ordered delivery goes when it is known
that nothing of its key is before it, here, in the log or with another worker; and whatever becomes of a delivery is
handed to the settler with its offset. This file does not decide whose turn it is, nor what an answer means.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable, Sequence

from schemas.delivery import ordering_key
from schemas.errors import UndecodableError
from schemas.frame import Out, Record
from streams.core.parked import Lot, Order
from streams.core.retry import slack_ms, tier_hold_ms
from streams.dispatch_state import DispatchState
from streams.lanes import REPLAYED_KEY, Intake, Job, Lane
from streams.quarantine import quarantined

#: A gate that is closed for longer is not waited for in memory.
GATE_PARK_S = 2.0
#: Parked for longer, a delivery is given up.
PARKED_MS_MAX = 14 * 24 * 3600 * 1000
EXPIRY_EVERY_S = 60.0
#: Of the last eighth of a worker's places, a lane has no more than a quarter of what is free (a dynamic threshold,
#: after Choudhury and Hahne): however many endpoints hang, there is a place for one more.
RESERVE, FREE_SHARE = 8, 4
#: Jobs that a lane takes from the log ahead of sending them.
AHEAD_MIN, AHEAD_MAX = 32, 512
#: Jobs of an ordered lane in memory, of all its keys.
ORDERED_HELD_MAX = 128
#: Records of an ordered lane that are asked for at a time.
WANTED_MAX = 256


class DispatchOrder(DispatchState):
    """The log, the order, and the ends."""

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
        subscription = self._subscription_of(delivery)
        lane = self._lane(subscription_id)
        if lane is not None:
            lane.home = intake.partition
        assert intake.log is not None
        lot = intake.log.lots[subscription_id]
        expired = 0 < record.timestamp()[1] < now_ms - PARKED_MS_MAX
        if order is not None and (lot.loose or expired or subscription is None):
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
