"""What answers say about the health of one endpoint: its circuit, since when it only fails, and whether it is disabled.

Two questions that are not the same. Whether it can answer at all, the circuit asks: no response, or a status of 500 and
above, is a failure. Whether anything is delivered there, auto-disable asks: only a 2xx is a success, and 429, which is
a matter of pace, says neither.

This file says what changed; records of it are written elsewhere (`streams/dispatch_health.py`), and so is what becomes
of deliveries.
"""

from __future__ import annotations

from typing import Final, Literal, TypedDict

import msgspec

from schemas.endpoint import Circuit
from streams.core.breaker import Breaker, BreakerPolicy

#: An endpoint that fails for shorter has nothing persisted for it, but for its circuit.
FAILING_PERSISTED_AFTER_MS = 60_000
#: Causes that say nothing about the endpoint: we stop, or the request must not be sent.
NEUTRAL_CAUSES = frozenset({"invalid_request", "shutdown"})

GONE = "gone"
FAILING = "failing"

DEFAULT_POLICY = BreakerPolicy()


class Change(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an answer changed. `circuit`: it opened or closed; `again`: it opened because a probe failed, so it was not
    closed in between. `disabled`: the endpoint is disabled from now on. `persist`: `Health.fields` should be
    written."""

    circuit: Literal["opened", "closed"] | None = None
    again: bool = False
    disabled: bool = False
    persist: bool = False

    @property
    def any(self) -> bool:
        """Whether there is anything to do."""
        return self is not UNCHANGED


#: The one answer of `observe` when nothing changed.
UNCHANGED: Final = Change()
_PERSIST: Final = Change(persist=True)


class HealthFields(TypedDict):
    """The part of `schemas.endpoint.EndpointState` that is decided here. Times are milliseconds since the epoch, 0 for
    none."""

    circuit: Circuit
    opened_ms: int
    until_ms: int
    openings: int
    failing_since_ms: int
    disabled_ms: int
    disabled_reason: str


class Health:
    """The health of one endpoint. Times are milliseconds since the epoch, 0 for none.

    `failing_since_ms` is the first failure since the last success. `disabled_reason` is `gone` (410), `failing`
    (nothing but failures for too long) or what was restored.
    """

    __slots__ = ("_failing_persisted", "circuit", "disabled_ms", "disabled_reason", "failing_since_ms")

    def __init__(self, policy: BreakerPolicy = DEFAULT_POLICY) -> None:
        self.circuit = Breaker(policy)
        self.failing_since_ms = 0
        self.disabled_ms = 0
        self.disabled_reason = ""
        self._failing_persisted = False

    @classmethod
    def restored(
        cls,
        *,
        circuit: Circuit,
        opened_ms: int,
        until_ms: int,
        openings: int,
        failing_since_ms: int,
        disabled_ms: int,
        disabled_reason: str,
        policy: BreakerPolicy = DEFAULT_POLICY,
    ) -> Health:
        """As `fields` gave it. What a half-open circuit was about to learn is learnt anew: it is open, and its time is
        over."""
        health = cls(policy)
        if circuit == "open":
            health.circuit = Breaker.restored(policy, opened_ms, until_ms, openings)
        health.failing_since_ms = failing_since_ms
        health.disabled_ms = disabled_ms
        health.disabled_reason = disabled_reason
        health._failing_persisted = failing_since_ms > 0
        return health

    def fields(self) -> HealthFields:
        """What is to be persisted."""
        circuit = self.circuit
        closed = circuit.state == "closed"
        return {
            "circuit": "closed" if closed else "open",
            "opened_ms": 0 if closed else circuit.opened_ms,
            "until_ms": 0 if closed else circuit.until_ms,
            "openings": circuit.openings,
            "failing_since_ms": self.failing_since_ms,
            "disabled_ms": self.disabled_ms,
            "disabled_reason": self.disabled_reason,
        }

    def observe(
        self,
        status: int,
        cause: str | None,
        now_ms: int,
        jitter: float,
        disable_after_ms: int,
        started_ms: int | None = None,
    ) -> Change:
        """What one POST came to: its status, or 0 and a cause of `schemas.post.CAUSES`.

        `jitter` in [0, 1). `disable_after_ms`: for how long nothing but failures disables, 0 for ever. `started_ms`:
        when the POST began; without, it counts for the circuit even when it began before that opened.
        """
        circuit = self.circuit
        if 200 <= status <= 299:
            if circuit.state == "closed" and not self.failing_since_ms:  # the hot path
                circuit.succeeded(now_ms)
                return UNCHANGED
            persist = self._failing_persisted
            self.failing_since_ms = 0
            self._failing_persisted = False
            return self._told_circuit(True, now_ms, jitter, started_ms, False, persist)
        if cause in NEUTRAL_CAUSES:
            return UNCHANGED
        disabled = persist = False
        if status != 429:
            if not self.failing_since_ms:
                self.failing_since_ms = now_ms
            failing_ms = now_ms - self.failing_since_ms
            persist = not self._failing_persisted and failing_ms >= FAILING_PERSISTED_AFTER_MS
            if not self.disabled_ms and (status == 410 or 0 < disable_after_ms <= failing_ms):
                # 410, Standard Webhooks: the consumer asks for no more; RFC 9110, 15.5.11
                self.disabled_ms = now_ms
                self.disabled_reason = GONE if status == 410 else FAILING
                disabled = True
        return self._told_circuit(0 < status < 500, now_ms, jitter, started_ms, disabled, persist)

    def _told_circuit(
        self, answered: bool, now_ms: int, jitter: float, started_ms: int | None, disabled: bool, persist: bool
    ) -> Change:
        """Tell the circuit, and say what changed in all."""
        circuit = self.circuit
        before = circuit.state
        if started_ms is not None and circuit.stale(started_ms, now_ms):
            changed = False
        else:
            changed = circuit.succeeded(now_ms) if answered else circuit.failed(now_ms, jitter)
        if not (changed or disabled):
            if not persist:
                return UNCHANGED
            self._failing_persisted = self.failing_since_ms > 0
            return _PERSIST
        self._failing_persisted = self.failing_since_ms > 0
        return Change(
            circuit=None if not changed else "closed" if circuit.state == "closed" else "opened",
            again=changed and before == "half_open" and circuit.state == "open",
            disabled=disabled,
            persist=True,
        )
