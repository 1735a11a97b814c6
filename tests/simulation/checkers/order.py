"""Ordered subscriptions: deliveries with the same ordering key are first sent, and first succeed, in order.

The order is that of the records in a partition of `deliveries`; what is replayed has one of its own, that of the replay
lane. A later one may be sent when each earlier one has succeeded or come to its end. What was sent once may be repeated
at any time.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from typing import TYPE_CHECKING

from schemas.post import PostResult
from schemas.subscription import Subscription
from tests.simulation.books import Commit, number_of
from tests.simulation.checkers.base import Checker, ViolationError
from tests.simulation.endpoints import PostStarted
from tests.simulation.plan import PlannedEvent

if TYPE_CHECKING:
    from tests.simulation.world import World

#: (subscription, topic, partition, ordering key)
Queue = tuple[str, str, int, str]


class Order(Checker):
    """Queues of what must end or succeed before the next may be sent."""

    def begin(self, world: World) -> None:
        self._world = world
        old = [event for replay in world.plan.replays for event in replay.old]
        self._events = {event.number: event for event in (*world.plan.events, *old)}
        self._ordered: dict[str, Subscription] = {}
        #: Deliveries by place in line, ascending by offset, without those that are through.
        self._lines: dict[Queue, list[tuple[int, str]]] = defaultdict(list)
        self._seen: set[str] = set()  # a second copy of a delivery is none to wait for
        self._line_of: dict[str, tuple[Queue, tuple[int, str]]] = {}

    def on_subscription(self, at_s: float, subscription_id: str, subscription: Subscription | None) -> None:
        if subscription is not None and subscription.ordered:
            self._ordered[subscription_id] = subscription

    def on_commit(self, commit: Commit) -> None:
        for one in commit.written:
            if one.delivery is not None and one.stored.topic in self._world.books.beginnings:
                subscription = self._ordered.get(one.delivery.subscription_id)
                if subscription is not None and one.delivery_id not in self._seen:
                    self._seen.add(one.delivery_id)
                    number = number_of(one.delivery)
                    key = _key(subscription, self._events[number])
                    line = (subscription.id, one.stored.topic, one.stored.partition, key)
                    place = (one.stored.offset(), one.delivery_id)
                    insort(self._lines[line], place)  # a transaction that began earlier may be committed later
                    self._line_of[one.delivery_id] = (line, place)
            elif one.ends:
                self._through(one.delivery_id)

    def on_post(self, post: PostStarted) -> None:
        for delivery_id in post.delivery_ids:
            if delivery_id in self._line_of:
                line, place = self._line_of[delivery_id]
                waiting = self._lines[line]
                if place in waiting and waiting[0] != place:
                    raise ViolationError(
                        f"{delivery_id} is sent before {waiting[0][1]} of the same key has succeeded or ended ({line})"
                    )

    def on_answer(self, post: PostStarted, result: PostResult) -> None:
        if 200 <= result.status <= 299:
            for delivery_id in post.delivery_ids:
                self._through(delivery_id)

    def _through(self, delivery_id: str) -> None:
        if delivery_id in self._line_of:
            line, place = self._line_of.pop(delivery_id)
            self._lines[line].remove(place)


def _key(subscription: Subscription, event: PlannedEvent) -> str:
    match subscription.ordering_key:
        case "subject":
            return event.subject or ""  # those without one share a key
        case "type":
            return event.type
        case _:
            return ""
