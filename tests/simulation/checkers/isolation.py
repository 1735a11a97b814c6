"""Promise 5: an endpoint that hangs, fails or crawls does not delay the deliveries of one that is well.

Nor does a replay, however large, delay what is live, of its own endpoint or of others.

Looked at in worlds where nothing but endpoints goes wrong, and only where the worker's places suffice for what the bad
ones may hold: with fewer places than endpoints, one that sends in its own time, by its rate or in batches, holds some
that another one needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.subscription import Subscription
from tests.simulation.books import number_of
from tests.simulation.checkers.base import Checker, ViolationError
from tests.simulation.endpoints import AGAIN, WELL, PostStarted
from tests.simulation.kafka import Stored
from tests.simulation.plan import PlannedEvent

if TYPE_CHECKING:
    from tests.simulation.world import World

#: From the event's record to the first POST, in virtual seconds, once somebody works.
DELAY_MAX_S = 3.0
#: When workers have started and shared the partitions between them.
SETTLED_S = 25.0


class Isolation(Checker):
    """The first POST of every delivery to an endpoint that was always well."""

    def begin(self, world: World) -> None:
        self.delays_s: list[float] = []
        self._world = world
        plan = world.plan
        places = plan.bounds.admitted_max >= len(plan.subscriptions)
        self._looking = plan.profile in ("calm", "neighbours") and places
        self._written: dict[int, float] = {}
        self._sent: set[str] = set()
        self._well: set[str] = set()

    def on_subscription(self, at_s: float, subscription_id: str, subscription: Subscription | None) -> None:
        if subscription is not None:
            script = self._world.internet.endpoints[subscription.url].script
            # What it asks for itself, a rate or batches, is no delay by others.
            own = subscription.rate_limit or subscription.batch_wait_ms or self._world.plan.bounds.origin_rate_max
            if not own and all(mood in WELL for _, mood in script):
                self._well.add(subscription_id)

    def on_event(self, event: PlannedEvent, stored: Stored) -> None:
        self._written[event.number] = self._world.scheduler.now

    def on_post(self, post: PostStarted) -> None:
        if self._looking:
            for delivery_id in post.delivery_ids:
                if delivery_id not in self._sent and AGAIN not in delivery_id:
                    self._sent.add(delivery_id)
                    self._check(post, delivery_id)

    def _check(self, post: PostStarted, delivery_id: str) -> None:
        delivery = self._world.books.deliveries[delivery_id]
        number = number_of(delivery)
        written_s = self._written[number]
        if delivery.subscription_id not in self._well or written_s < SETTLED_S:
            return
        self.delays_s.append(post.at_s - written_s)
        if post.at_s - written_s > DELAY_MAX_S:
            raise ViolationError(
                f"event {number} reached {delivery.subscription_id}, which is well, after {post.at_s - written_s:.3f} s"
            )
