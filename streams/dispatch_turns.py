"""Turns and results: which lane starts what, and what its answer comes to.

Lanes that can start something stand in the fair queue; each turn sends a little, within the worker's places, bytes and
rates. An answer is judged (`streams/core/verdict.py`), and its delivery ends, or goes on later. This file does not let
deliveries in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import assert_never

from schemas.delivery import Delivery
from schemas.frame import Out
from schemas.post import PostResult
from streams.core.batch import BATCH_BYTES_MAX, batch_body, batch_id, batchable, together
from streams.core.limits import TokenBucket
from streams.core.retry import slack_ms, tier_hold_ms
from streams.core.verdict import Dead, Interrupted, RetryAt, judge, succeeded
from streams.dispatch_health import DispatchHealth
from streams.dispatch_order import FREE_SHARE, RESERVE
from streams.lanes import Job, Lane
from streams.records import after

#: Who has waited for as long as told does not wait for a rounding error.
ROUNDING_S = 1e-6
#: A token of an origin's rate that a lane has booked is void so long after its time.
BOOKING_S = 1.0


class DispatchTurns(DispatchHealth):
    """Who is next, and what became of it."""

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
                none_left = lane.replays and self._replaying >= self._replaying_max
                if none_left and lane.turn() is lane.replays and not lane.pass_replays():
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


def _batch_queues(lane: Lane, first: Job, late: bool) -> tuple[deque[Job], ...]:
    """Where others for the same POST are looked for."""
    if first.intake.replay:
        return (lane.replays,)
    return (lane.late, lane.fresh) if late else (lane.fresh, lane.late)
