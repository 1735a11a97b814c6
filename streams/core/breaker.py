"""The circuit breaker of one endpoint: when it is spared POSTs, and for how long.

Rule: what is in `TRANSITIONS` can happen, nothing else can, and only `Breaker._on` changes a state.

Closed, every POST may go. Open, none; half open, single probes: whoever starts POSTs keeps to that, and asks `tick`
whether the time has come. This file does not say which results are failures (`streams/core/health.py`), sends nothing
and reads no clock.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

State = Literal["closed", "open", "half_open"]
#: `tripped`: a failure too many in the window. `elapsed`: `until_ms` was reached.
Event = Literal["succeeded", "failed", "tripped", "elapsed"]

TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    ("closed", "succeeded"): "closed",
    ("closed", "failed"): "closed",
    ("closed", "tripped"): "open",
    ("open", "succeeded"): "open",  # results of POSTs that were under way: the state is known already
    ("open", "failed"): "open",
    ("open", "elapsed"): "half_open",
    ("half_open", "succeeded"): "closed",
    ("half_open", "failed"): "open",
}

#: The window moves on in steps of a tenth.
BUCKETS = 10
#: At most this part is added to the time that a circuit stays open, so that endpoints that failed together are not
#: probed together.
JITTER_MAX = 0.1
_DOUBLINGS_MAX = 32  # beyond any `open_ms_max`; a larger shift would only make large numbers


#: As `requests_min`: no circuit ever opens.
NEVER = 1 << 62


class IllegalTransitionError(Exception):
    """An event that cannot happen in the state."""


def after(state: State, event: Event) -> State:
    """The state after an event; IllegalTransitionError where the table has none."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransitionError(f"a circuit that is {state} cannot meet {event!r}") from None


class BreakerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a circuit opens, and for how long.

    It opens when at least `failure_ratio` of at least `requests_min` results within the last `window_ms` (nine tenths
    of it at least) are failures. It stays open for `open_ms_min`, twice as long after each failed probe, `open_ms_max`
    at most, and up to a tenth more by jitter. ValueError for values that make no sense.
    """

    window_ms: int = 30_000
    requests_min: int = 5
    failure_ratio: float = 0.5
    open_ms_min: int = 5_000
    open_ms_max: int = 30_000  # an endpoint that recovered is noticed within half a minute

    def __post_init__(self) -> None:
        if self.window_ms < BUCKETS:
            raise ValueError(f"window_ms must be at least {BUCKETS}")
        if self.requests_min < 1:
            raise ValueError("requests_min must be at least 1")
        if not 0 < self.failure_ratio <= 1:
            raise ValueError("failure_ratio must be above 0 and at most 1")
        if not 0 < self.open_ms_min <= self.open_ms_max:
            raise ValueError("open_ms_min must be above 0, and open_ms_max at least as much")


class Breaker:
    """The circuit of one endpoint. Times are milliseconds of one clock, the wall's: they are persisted.

    `opened_ms` is when it opened last (0: never), `until_ms` when that ends, `openings` how often it opened since it
    was closed. A clock that is set back cannot keep it open for longer than the policy allows.
    """

    __slots__ = (
        "_failures", "_failures_before", "_failures_marks", "_requests", "_requests_before", "_requests_marks",
        "_turn_ms", "opened_ms", "openings", "policy", "state", "until_ms",
    )  # fmt: skip

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.state: State = "closed"
        self.opened_ms = 0
        self.until_ms = 0
        self.openings = 0
        # The window: results counted since it was cleared, what the counts were when each bucket began (the bucket
        # number k at k modulo BUCKETS), and what they were when the oldest one began. So a success adds 1, and that is
        # all.
        self._requests = 0
        self._failures = 0
        self._requests_marks = [0] * BUCKETS
        self._failures_marks = [0] * BUCKETS
        self._requests_before = 0
        self._failures_before = 0
        self._turn_ms = 0  # when the current bucket ends

    @classmethod
    def restored(cls, policy: BreakerPolicy, opened_ms: int, until_ms: int, openings: int) -> Breaker:
        """An open circuit, as it was persisted."""
        breaker = cls(policy)
        breaker.state = "open"
        breaker.opened_ms = opened_ms
        breaker.until_ms = until_ms
        breaker.openings = max(openings, 1)
        return breaker

    def succeeded(self, now_ms: int) -> bool:
        """The endpoint answered. True when that closed the circuit."""
        if self.state == "closed":
            if now_ms >= self._turn_ms:
                self._turn(now_ms)
            self._requests += 1
            return False
        return self._on("succeeded", now_ms, 0.0)

    def failed(self, now_ms: int, jitter: float) -> bool:
        """It did not. True when that opened the circuit. `jitter` in [0, 1)."""
        if self.state != "closed":
            return self._on("failed", now_ms, jitter)
        policy = self.policy
        if not self._turn_ms - policy.window_ms // BUCKETS <= now_ms < self._turn_ms:
            self._turn(now_ms)
        self._requests += 1
        self._failures += 1
        requests = self._requests - self._requests_before
        failures = self._failures - self._failures_before
        if requests < policy.requests_min or failures < policy.failure_ratio * requests:
            return False
        return self._on("tripped", now_ms, jitter)

    def tick(self, now_ms: int) -> bool:
        """Half open, when it was open for long enough. True when that happened now."""
        if self.state != "open":
            return False
        # A wait that no opening would choose: the clock was set back, or is not the one of the worker that opened it.
        if now_ms < self.until_ms <= now_ms + int(self.policy.open_ms_max * (1 + JITTER_MAX)):
            return False
        return self._on("elapsed", now_ms, 0.0)

    def stale(self, started_ms: int, now_ms: int) -> bool:
        """Whether a POST started then belongs to the time before the circuit opened, so that its result, which comes
        now, says nothing of how the endpoint is since: time-outs from before must not fail the probe."""
        return started_ms <= self.opened_ms <= now_ms

    def _on(self, event: Event, now_ms: int, jitter: float) -> bool:
        before = self.state
        self.state = state = after(before, event)
        if state == before:
            return False
        if state == "open":
            policy = self.policy
            wait_ms = min(policy.open_ms_min << min(self.openings, _DOUBLINGS_MAX), policy.open_ms_max)
            self.opened_ms = now_ms
            self.until_ms = now_ms + wait_ms + int(wait_ms * JITTER_MAX * jitter)
            self.openings += 1
        elif state == "closed":
            self.openings = 0
            self._clear()  # what opened it must not open it again
        return True

    def _turn(self, now_ms: int) -> None:
        """Make the bucket of now the current one."""
        bucket_ms = self.policy.window_ms // BUCKETS
        bucket = now_ms // bucket_ms
        turns = bucket + 1 - self._turn_ms // bucket_ms
        if 0 < turns < BUCKETS:
            for each in range(bucket - turns + 1, bucket + 1):
                self._requests_marks[each % BUCKETS] = self._requests
                self._failures_marks[each % BUCKETS] = self._failures
            oldest = (bucket + 1) % BUCKETS
            self._requests_before = self._requests_marks[oldest]
            self._failures_before = self._failures_marks[oldest]
        else:  # all of it is too old, or the clock was set back
            self._clear()
        self._turn_ms = (bucket + 1) * bucket_ms

    def _clear(self) -> None:
        self._requests = self._failures = self._requests_before = self._failures_before = 0
        for each in range(BUCKETS):
            self._requests_marks[each] = self._failures_marks[each] = 0
