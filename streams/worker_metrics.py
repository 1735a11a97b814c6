"""What a worker shows of itself: its numbers, whether it is ready, and whether it lives.

Everything is read when somebody asks, from what the stages hold anyway; only the ends of topics are asked of the
brokers now and again. A part of the composition root; it changes nothing.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

from connectors.consumer_thread import ConsumerThread
from connectors.end_offsets import EndOffsets, Place
from connectors.frames import FrameConsumer
from connectors.metrics_server import Shown, statuses
from schemas.delivery import received_ms, replay_of
from schemas.metrics import Sample
from schemas.topics import HOLDS_MS, Topics
from streams.counters import Counters
from streams.dispatch import Dispatch
from streams.fan_out import FanOut
from streams.lanes import Lane
from streams.meter import Meter
from streams.ports import Clock, SubscriptionTable
from streams.replay_role import ReplayRole
from streams.settings import Settings
from streams.settle import Settler

#: A thread that has taken no turn for so long has stopped: a callback that waits for a drain takes turns meanwhile.
STUCK_S = 60.0

_SIMPLE = {
    "events": "distributary_events_total",
    "unmatched": "distributary_events_unmatched_total",
    "deliveries": "distributary_deliveries_planned_total",
    "filtered": "distributary_deliveries_filtered_total",
    "parked": "distributary_parked_total",
    "hops": "distributary_retry_hops_total",
}
_OF_FAN_OUT = ("events", "unmatched", "deliveries", "filtered")
_OF_DELIVERY = ("parked", "hops")
_OUTCOMES = {"delivered": "delivered", "retried": "retryable", "cancelled": "cancelled"}
_CHANGES = {"circuit.opened": "opened", "circuit.closed": "closed", "endpoint.disabled": "disabled"}


class Part(Protocol):
    """What is looked at of a role."""

    group: str
    settler: Settler

    @property
    def consumer(self) -> FrameConsumer: ...


class Spans(Protocol):
    """What is looked at of a tracer."""

    @property
    def sent(self) -> int: ...

    @property
    def dropped(self) -> int: ...


class _Pulse:
    """Whether a thread still takes turns, as far as those who ask saw."""

    def __init__(self) -> None:
        self._turns = -1
        self._since = 0.0

    def silent_s(self, turns: int, now: float) -> float:
        if turns != self._turns:
            self._turns, self._since = turns, now
        return now - self._since


class WorkerMetrics:
    """Filled in by the worker as it starts."""

    def __init__(self, settings: Settings, counters: Counters, clock: Clock, *, stuck_s: float = STUCK_S) -> None:
        self.meter = Meter()
        self.table: SubscriptionTable | None = None  # once it has caught up
        self.table_trouble: Callable[[], str] = str
        self.parts: list[Part] = []
        self.roles: tuple[str, ...] = ()
        self.fan_out: FanOut | None = None
        self.dispatch: Dispatch | None = None
        self.replay: ReplayRole | None = None
        self.ends: EndOffsets | None = None
        self.tracer: Spans | None = None
        self.in_flight_max = settings.in_flight_max
        self._topics = settings.topics
        self._counters = counters
        self._clock = clock
        self.stuck_s = stuck_s
        self._subscriptions_max = settings.metrics_subscriptions_max
        self._pulses: dict[str, _Pulse] = {}

    def shown(self) -> Shown:
        """For the server."""
        return Shown(role="worker", samples=self.samples, unready=self.unready, dead=self.dead)

    # --- health -----------------------------------------------------------------------------------

    def unready(self) -> list[str]:
        """Why it cannot work now."""
        if self.table is None:
            return ["the subscriptions table has not caught up yet"]
        problems = [trouble] if (trouble := self.table_trouble()) else []
        if len(self.parts) + (self.replay is not None) < len(self.roles):
            problems.append("not all roles are running")
        idle = [part.group for part in self.parts if not part.consumer.assignment()]
        return problems + [f"no partitions of {group} are assigned to this worker" for group in idle]

    def dead(self) -> list[str]:
        """Why waiting will not help: a thread that polls Kafka has ended, or takes no turns."""
        now = self._clock.monotonic()
        threads = [thread for part in self.parts for thread in part.consumer.threads]
        if self.replay is not None and self.replay.standby.thread is not None:
            threads.append(self.replay.standby.thread)
        return [sentence for thread in threads for sentence in self._of(thread, now)]

    def _of(self, thread: ConsumerThread, now: float) -> list[str]:
        if not thread.alive:
            return [f"the thread {thread.name} has ended"]
        silent_s = self._pulses.setdefault(thread.name, _Pulse()).silent_s(thread.turns, now)
        return [f"the thread {thread.name} has not polled for {silent_s:.0f} s"] if silent_s >= self.stuck_s else []

    # --- numbers ----------------------------------------------------------------------------------

    def places(self) -> Collection[Place]:
        """The partitions that are this worker's, for who asks where they end."""
        return [(tp.topic, tp.partition) for part in self.parts for tp in part.consumer.assignment()]

    def samples(self) -> Iterator[Sample]:
        """All numbers of now."""
        counters = self._counters
        if self.table is not None:
            yield "distributary_subscriptions", (), float(len(self.table))
        if self.tracer is not None:
            yield "distributary_spans_total", ("sent",), float(self.tracer.sent)
            yield "distributary_spans_total", ("dropped",), float(self.tracer.dropped)
        for part in self.parts:
            yield from self._part(part)
        if self.fan_out is not None:
            yield from ((_SIMPLE[key], (), float(counters[key])) for key in _OF_FAN_OUT)
            yield "distributary_events_matched_total", (), float(self.fan_out.matched)
        for key, count in list(counters.items()):
            kind, _, reason = key.partition(":")
            if kind == "quarantined":
                yield "distributary_quarantined_total", (reason,), float(count)
            elif kind == "dead":
                yield "distributary_dead_letters_total", (reason,), float(count)
        if self.dispatch is not None:
            yield from self._delivery(self.dispatch)
        if self.replay is not None:
            yield from self.replay.samples()

    def _part(self, part: Part) -> Iterator[Sample]:
        group, settler, consumer = part.group, part.settler, part.consumer
        assigned = consumer.assignment()
        yield "distributary_assigned_partitions", (group,), float(len(assigned))
        yield "distributary_rebalances_total", (group,), float(consumer.rebalances)
        yield "distributary_transactions_total", (group, "written"), float(settler.written)
        yield "distributary_transactions_total", (group, "refused"), float(settler.refused)
        yield "distributary_transaction_seconds", (group,), settler.seconds
        yield "distributary_unsettled_records", (group,), float(settler.backlog)
        lags: Counter[str] = Counter()
        for tp in assigned:
            lags[tp.topic] += self._lag(consumer, tp.topic, tp.partition)
        for topic, lag in sorted(lags.items()):
            yield "distributary_consumer_lag_records", (group, topic), float(lag)
        for tier, topic in tiers(self._topics):
            if topic in lags:
                yield "distributary_retry_depth_records", (tier,), float(lags[topic])

    def _lag(self, consumer: FrameConsumer, topic: str, partition: int) -> int:
        end = None if self.ends is None else self.ends.get((topic, partition))
        ledger = consumer.ledger(topic, partition)
        # Without a ledger nothing was committed and nothing read: there is nothing, or it comes in a moment.
        return 0 if end is None or ledger is None else max(end - ledger.progress()[0], 0)

    def _delivery(self, dispatch: Dispatch) -> Iterator[Sample]:
        counters, meter = self._counters, self.meter
        yield from ((_SIMPLE[key], (), float(counters[key])) for key in _OF_DELIVERY)
        for key, outcome in _OUTCOMES.items():
            yield "distributary_deliveries_total", (outcome,), float(counters[key])
        dead = sum(count for key, count in list(counters.items()) if key.startswith("dead:"))
        exhausted = counters["dead:exhausted"]
        yield "distributary_deliveries_total", ("exhausted",), float(exhausted)
        yield "distributary_deliveries_total", ("rejected",), float(dead - exhausted)
        yield from statuses("distributary_attempts_total", meter.statuses)
        for cause, count in meter.causes.items():
            yield "distributary_attempt_failures_total", (cause,), float(count)
        yield "distributary_attempt_seconds", (), meter.attempt
        yield "distributary_first_attempt_seconds", (), meter.first_attempt
        yield "distributary_delivered_seconds", (), meter.delivered
        yield "distributary_in_flight", (), float(dispatch.in_flight)
        yield "distributary_in_flight_max", (), float(self.in_flight_max)
        for key, to in _CHANGES.items():
            yield "distributary_circuit_changes_total", (to,), float(counters[key])
        yield from self._tiers(dispatch)
        yield from self._lanes(dispatch)

    def _tiers(self, dispatch: Dispatch) -> Iterator[Sample]:
        now_ms = self._clock.now_ms()
        heads = {tier: now_ms for tier, _ in tiers(self._topics)}
        names = {topic: tier for tier, topic in tiers(self._topics)}
        for intake in dispatch.intakes:
            tier = names.get(intake.topic)
            if tier is not None and intake.records:
                heads[tier] = min(heads[tier], intake.records[0].timestamp()[1])
        for tier, head_ms in heads.items():
            yield "distributary_retry_oldest_seconds", (tier,), (now_ms - head_ms) / 1_000

    def _lanes(self, dispatch: Dispatch) -> Iterator[Sample]:
        fresh = late = ordered = replayed = deepest = disabled = 0
        circuits: Counter[str] = Counter()
        now_ms = self._clock.now_ms()
        oldest: dict[str, int] = {}
        held: dict[str, int] = {}

        def seen(subscription_id: str, at_ms: int) -> None:
            if at_ms < oldest.get(subscription_id, now_ms):
                oldest[subscription_id] = at_ms

        for lane in dispatch.lanes:
            name, depth = lane.subscription.id, lane.held
            if lane.health.disabled_ms:
                disabled += 1
            else:
                circuits[lane.health.circuit.state] += 1
            if depth:
                fresh += len(lane.fresh)
                late += len(lane.late)
                ordered += lane.waiting
                replayed += len(lane.replays)
                deepest = max(deepest, depth)
                held[name] = depth
                for at_ms in _waiting_since(lane):
                    seen(name, at_ms)
        for name, at_ms in self.meter.oldest_failed():
            seen(name, at_ms)
        for name, at_ms in dispatch.parked_since():
            seen(name, at_ms)
        for queue, count in (("fresh", fresh), ("late", late), ("ordered", ordered), ("replay", replayed)):
            yield "distributary_waiting_deliveries", (queue,), float(count)
        yield "distributary_lane_depth_max", (), float(deepest)
        for state in ("closed", "open", "half_open"):
            yield "distributary_circuits", (state,), float(circuits[state])
        yield "distributary_circuits", ("disabled",), float(disabled)
        for name, at_ms in heapq.nsmallest(self._subscriptions_max, oldest.items(), key=lambda item: item[1]):
            yield "distributary_oldest_undelivered_seconds", (name,), (now_ms - at_ms) / 1_000
            yield "distributary_subscription_waiting_deliveries", (name,), float(held.get(name, 0))


def tiers(topics: Topics) -> list[tuple[str, str]]:
    """(short name, topic) of each retry tier."""
    return [(suffix, topics.tiers[hold_ms]) for suffix, hold_ms in HOLDS_MS.items()]


def _waiting_since(lane: Lane) -> Iterator[int]:
    """When the events at the heads of the lane's queues were received; of what replays send again, nobody waits for the
    first time."""
    for queue in (lane.fresh, lane.late, *(key.jobs for key in lane.keys.values())):
        head = next((job.delivery for job in queue if not replay_of(job.delivery)), None)
        if head is not None:
            yield received_ms(head.facts)
