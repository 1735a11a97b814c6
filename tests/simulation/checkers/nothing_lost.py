"""Promise 1: every event reaches every matching subscription's deliveries, and every delivery comes to an end, and
so does what is replayed.

A subscription that was created, changed or deleted while the event was on its way may be matched or not.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from schemas.subscription import Subscription
from tests.simulation.books import Commit, number_of
from tests.simulation.checkers.base import Checker, ViolationError
from tests.simulation.kafka import Stored
from tests.simulation.plan import PlannedEvent

if TYPE_CHECKING:
    from tests.simulation.world import World


class NothingLost(Checker):
    """Events to deliveries in the transaction that finishes the event; deliveries to ends by the end of the run."""

    def begin(self, world: World) -> None:
        self._lag_s = world.plan.table_lag_s
        self._deliveries = world.topics.deliveries
        self._events: dict[Stored, tuple[float, PlannedEvent]] = {}
        self._world = world
        #: (since when, as what) of each subscription, in the order of time.
        self._history: dict[str, list[tuple[float, Subscription | None]]] = defaultdict(list)
        self._open: set[str] = set()
        self._ended: set[str] = set()
        self._fanned: dict[int, set[str]] = defaultdict(set)
        self._quarantined = 0
        self._finished_events: set[Stored] = set()

    def on_event(self, event: PlannedEvent, stored: Stored) -> None:
        self._events[stored] = (self._world.scheduler.now, event)

    def on_subscription(self, at_s: float, subscription_id: str, subscription: Subscription | None) -> None:
        self._history[subscription_id].append((at_s, subscription))

    def on_commit(self, commit: Commit) -> None:
        if not self._world.books.at_least_once:  # all of it is in the transaction
            self._fanned.clear()
            self._quarantined = 0
        fanned = self._fanned
        for one in commit.written:
            if one.kind == "delivery" and one.stored.topic in self._world.books.beginnings:
                assert one.delivery is not None
                if one.stored.topic == self._deliveries:
                    fanned[number_of(one.delivery)].add(one.delivery.subscription_id)
                if one.delivery_id not in self._ended:
                    self._open.add(one.delivery_id)
            elif one.kind == "quarantine":
                self._quarantined += 1
            elif one.ends:
                self._open.discard(one.delivery_id)
                self._ended.add(one.delivery_id)
        for stored in commit.finished:
            if stored in self._events:
                self._finished_events.add(stored)
                written_s, event = self._events[stored]
                if event.broken:
                    self._quarantined -= 1
                else:
                    self._check_matches(event, fanned.pop(event.number, set()), written_s, commit.at_s)
        if fanned and not self._world.books.at_least_once:
            raise ViolationError(f"deliveries of events {sorted(fanned)} that this transaction does not finish")
        if self._quarantined < 0:
            raise ViolationError("a broken event is finished and not in quarantine")

    def _check_matches(self, event: PlannedEvent, fanned: set[str], written_s: float, now_s: float) -> None:
        for subscription_id, history in self._history.items():
            before = [one for at_s, one in history if at_s <= written_s - self._lag_s]
            meanwhile = [one for at_s, one in history if written_s - self._lag_s < at_s <= now_s]
            candidates = [before[-1] if before else None, *meanwhile]
            wanted = [_wants(one, event) for one in candidates]
            if all(wanted) and subscription_id not in fanned:
                raise ViolationError(f"event {event.number} is finished without a delivery for {subscription_id}")
            if not any(wanted) and subscription_id in fanned:
                raise ViolationError(f"event {event.number} has a delivery for {subscription_id}, which asks for none")

    def at_end(self) -> None:
        if self._open:
            of = self._world.books.deliveries
            waiting = sorted((of[delivery_id].subscription_id, delivery_id) for delivery_id in self._open)
            raise ViolationError(
                f"{len(waiting)} deliveries have no end at {self._world.scheduler.now:.0f} s, in a world that was "
                f"healed at {self._world.plan.heal_s:.0f} s: {waiting[:5]}"
            )
        lost = [event.number for stored, (_, event) in self._events.items() if stored not in self._finished_events]
        if lost:
            raise ViolationError(f"events that were never finished: {lost}")


def _wants(subscription: Subscription | None, event: PlannedEvent) -> bool:
    return subscription is not None and any(
        pattern in ("*", event.type) or (pattern.endswith(".*") and event.type.startswith(pattern[:-1]))
        for pattern in subscription.event_types
    )
