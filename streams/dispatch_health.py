"""The health of lanes: circuits, gates and disabled endpoints, and what their owners change.

An answer is observed by the lane's `Health`, a change of which is recorded, told to operators and acted upon; and so
are changes of subscriptions and of endpoints' states that others made. The rules are `streams/core/health.py`'s.
"""

from __future__ import annotations

import asyncio
import logging

from schemas.endpoint import EndpointState, Kind, Operation, url_hash
from schemas.frame import Out
from schemas.post import PostResult
from schemas.subscription import Subscription
from streams.core.health import UNCHANGED, Change, Health
from streams.core.limits import SlowStart, parse_allowed_rate
from streams.core.retry import parse_retry_after_ms
from streams.dispatch_order import GATE_PARK_S, DispatchOrder
from streams.lanes import Lane

logger = logging.getLogger(__name__)

#: How long a 429 without Retry-After closes the gate, by how many of them came in a row.
PATIENCE_S = (1.0, 2.0, 5.0, 15.0, 30.0)


class DispatchHealth(DispatchOrder):
    """What endpoints' answers and owners' changes do to lanes."""

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
                self._bury(job, self._clock.now_ms(), "disabled", why_disabled(lane.health))
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


def why_disabled(health: Health) -> str:
    return f"the endpoint is disabled ({health.disabled_reason})"
