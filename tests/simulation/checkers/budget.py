"""Promise 6: attempt number, tries, first-tried and due time are the record's, and nothing resets them.

Without transactions, a delivery whose records may be repeated may be under way twice, each with a budget of its own.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from schemas.delivery import Delivery
from schemas.subscription import Subscription
from tests.simulation.books import Commit
from tests.simulation.checkers.base import Checker, ViolationError
from tests.simulation.endpoints import PostStarted
from tests.simulation.kafka import at_ms

if TYPE_CHECKING:
    from tests.simulation.world import World


class Budget(Checker):
    """Every copy of a delivery against the attempts that were logged before it."""

    def begin(self, world: World) -> None:
        self._world = world
        self._posts: Counter[str] = Counter()
        self._last: dict[str, Delivery] = {}
        self._retries_max: dict[str, int] = {}

    def on_subscription(self, at_s: float, subscription_id: str, subscription: Subscription | None) -> None:
        if subscription is not None:
            self._retries_max[subscription_id] = len(subscription.retry_schedule_ms)

    def on_commit(self, commit: Commit) -> None:
        for one in commit.written:
            if one.kind == "attempt" and (one.fields["status"] or one.fields["cause"]):
                if self._world.books.may_repeat(one.delivery_id):
                    continue
                self._posts[one.delivery_id] += 1
                if self._posts[one.delivery_id] > self._retries_max[one.fields["subscription_id"]] + 1:
                    raise ViolationError(f"{one.delivery_id} has had more attempts than its schedule grants")
        for one in commit.written:
            delivery = one.delivery
            if delivery is None:
                continue
            if delivery.attempt > self._retries_max[delivery.subscription_id]:
                raise ViolationError(f"{one.delivery_id} is to have more attempts than its schedule grants")
            if self._world.books.may_repeat(one.delivery_id):
                if len(delivery.tries) != delivery.attempt:
                    raise ViolationError(f"{one.delivery_id}: attempt {delivery.attempt}, {len(delivery.tries)} tries")
                continue
            before = self._last.get(one.delivery_id)
            self._last[one.delivery_id] = delivery
            ahead = delivery.attempt - self._posts[one.delivery_id]
            if self._world.books.at_least_once and ahead == 1:
                ahead = 0  # the record of the attempt itself is still on its way
            if ahead or len(delivery.tries) != delivery.attempt:
                raise ViolationError(
                    f"{one.delivery_id}: {one.stored!r} says attempt {delivery.attempt} with {len(delivery.tries)} "
                    f"tries after {self._posts[one.delivery_id]} attempts"
                )
            if before is None:
                continue
            if before.first_attempt_ms and delivery.first_attempt_ms != before.first_attempt_ms:
                raise ViolationError(f"{one.delivery_id}: its first attempt was at another time before")
            if delivery.attempt == before.attempt and delivery.due_ms != before.due_ms:
                raise ViolationError(f"{one.delivery_id}: due at another time without an attempt")
            if delivery.tries[: len(before.tries)] != before.tries or delivery.tail != before.tail:
                raise ViolationError(f"{one.delivery_id}: it is not what it was")

    def on_post(self, post: PostStarted) -> None:
        if self._world.given_up_on(post.worker):  # it may not know the newest record
            return
        now_ms = at_ms(post.at_s)
        for delivery_id in post.delivery_ids:
            delivery = self._last.get(delivery_id)
            if self._world.books.may_repeat(delivery_id):
                continue
            if delivery is not None and now_ms < delivery.due_ms:
                raise ViolationError(f"{delivery_id} is sent {delivery.due_ms - now_ms} ms before it is due")
