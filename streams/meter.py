"""What the delivery stage measures: cheap counts at each answer, and which deliveries failed and are not over.

One for each worker that shows metrics; a worker that does not has none and pays a look at None. Counts are integers in
slots: no names and no labels are looked up for a delivery. What a replay sends again is counted, but its age is not: it
is that of an event which was on time once, or failed and told so. This file publishes nothing and reads no clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator

from schemas.delivery import Delivery, received_ms, replay_of
from schemas.metrics import AGE_MS, REQUEST_US, Histogram
from schemas.post import PostResult

#: Ages measured between two transactions. A busy worker has more answers then, and reading an event's age is most of
#: what measuring costs: some tell as much as all.
AGES_MAX = 32
#: Failed deliveries that are remembered for each subscription, the oldest known; and for how many subscriptions.
FAILED_MAX = 64
SUBSCRIPTIONS_MAX = 5_000


class Meter:
    """Call its methods on the event loop only."""

    __slots__ = ("_ages_left", "_failed", "attempt", "causes", "delivered", "first_attempt", "statuses")

    def __init__(self) -> None:
        self.statuses = [0] * 10  # by the first digit; the first is of those without an answer
        self.causes: dict[str, int] = {}
        self.attempt = Histogram(REQUEST_US, 1_000_000)
        self.first_attempt = Histogram(AGE_MS, 1_000)
        self.delivered = Histogram(AGE_MS, 1_000)
        self._ages_left = AGES_MAX
        # By subscription, then by delivery id: (when the event was received, the partition).
        self._failed: dict[str, dict[str, tuple[int, int]]] = {}

    def answered(self, result: PostResult) -> None:
        """A POST ended."""
        self.statuses[result.status // 100] += 1
        attempt, duration_us = self.attempt, result.duration_us
        attempt.counts[bisect_left(REQUEST_US, duration_us)] += 1
        attempt.sum += duration_us
        if result.cause is not None:
            self.causes[result.cause] = self.causes.get(result.cause, 0) + 1

    def attempted(self, delivery: Delivery, partition: int, started_ms: int, result: PostResult, ok: bool) -> None:
        """What that says of one delivery: accepted or not."""
        if self._ages_left and not (delivery.headers and replay_of(delivery)):
            self._ages_left -= 1
            age_ms = started_ms - received_ms(delivery.facts)
            if delivery.attempt == 0:
                self.first_attempt.observe(max(age_ms, 0))
            if ok:
                self.delivered.observe(max(age_ms + result.duration_us // 1_000, 0))
        if not ok:
            self.failed(delivery, partition)
        elif delivery.attempt:
            self.over(delivery)

    def settled(self) -> None:
        """A transaction was written: ages may be measured again."""
        self._ages_left = AGES_MAX

    def failed(self, delivery: Delivery, partition: int) -> None:
        """It was attempted, and is not over. The first ones are kept, which are the oldest but for what comes back
        after a restart."""
        if delivery.headers and replay_of(delivery):
            return
        of = self._failed.get(delivery.subscription_id)
        if of is None:
            if len(self._failed) >= SUBSCRIPTIONS_MAX:
                return
            of = self._failed[delivery.subscription_id] = {}
        if len(of) < FAILED_MAX and delivery.id not in of:
            of[delivery.id] = received_ms(delivery.facts), partition

    def over(self, delivery: Delivery) -> None:
        """It will not be attempted again."""
        of = self._failed.get(delivery.subscription_id)
        if of is not None and of.pop(delivery.id, None) is not None and not of:
            del self._failed[delivery.subscription_id]

    def forget(self, partitions: Collection[int]) -> None:
        """They are another worker's now."""
        for subscription_id, of in list(self._failed.items()):
            kept = {id_: known for id_, known in of.items() if known[1] not in partitions}
            if kept:
                self._failed[subscription_id] = kept
            else:
                del self._failed[subscription_id]

    def oldest_failed(self) -> Iterator[tuple[str, int]]:
        """(subscription id, when the oldest event that it failed to take was received)."""
        for subscription_id, of in self._failed.items():
            yield subscription_id, min(received for received, _ in of.values())
