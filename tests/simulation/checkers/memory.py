"""Promise 8: bounded memory: POSTs under way, of a worker and of a subscription, and deliveries admitted."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from schemas.post import PostResult
from schemas.subscription import Subscription
from tests.simulation.checkers.base import Checker, ViolationError
from tests.simulation.endpoints import PostStarted
from tests.simulation.worker import DELIVERY

if TYPE_CHECKING:
    from tests.simulation.world import World


class Memory(Checker):
    """Counted at every POST."""

    def begin(self, world: World) -> None:
        self._world = world
        self._bounds = world.plan.bounds
        self._under_way: dict[str, str] = {}
        self._by_lane: Counter[tuple[str, str]] = Counter()
        self._lane_max: dict[str, int] = {}

    def on_subscription(self, at_s: float, subscription_id: str, subscription: Subscription | None) -> None:
        if subscription is not None:
            self._lane_max[subscription_id] = subscription.max_in_flight

    def on_post(self, post: PostStarted) -> None:
        bounds = self._bounds
        worker = next(one for one in self._world.workers if one.name == post.worker)
        if worker.sender.in_flight > bounds.in_flight_max:
            raise ViolationError(f"{post.worker} has {worker.sender.in_flight} POSTs under way")
        subscription_id = self._world.books.deliveries[post.delivery_ids[0]].subscription_id
        lane = (post.worker, subscription_id)
        self._by_lane[lane] += 1
        if self._by_lane[lane] > self._lane_max[subscription_id]:
            raise ViolationError(f"{post.worker} has {self._by_lane[lane]} POSTs to {subscription_id} under way")
        for part in worker.parts:
            if part.group == DELIVERY:
                pending = sum(ledger.pending for ledger in part.consumer.ledgers.values())
                # Admitted, and as many again (and their records) with the settler.
                if pending > 4 * (bounds.admitted_max + bounds.read_max + bounds.replayed_max) + 1:
                    raise ViolationError(f"{post.worker} has {pending} deliveries in memory")

    def on_answer(self, post: PostStarted, result: PostResult) -> None:
        subscription_id = self._world.books.deliveries[post.delivery_ids[0]].subscription_id
        self._by_lane[post.worker, subscription_id] -= 1
