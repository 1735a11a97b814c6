"""Promise 3: the `webhook-id` is the same over every attempt and every replay, and what is sent under it is the same
too."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from schemas.subscription import Subscription
from tests.simulation.checkers.base import Checker, ViolationError
from tests.simulation.endpoints import AGAIN, PostStarted

if TYPE_CHECKING:
    from tests.simulation.world import World


class Identity(Checker):
    """Ids as the documentation says they are made, and one body for each."""

    def begin(self, world: World) -> None:
        old = [event for replay in world.plan.replays for event in replay.old]
        self._events = {f"evt_{event.number}": event.number for event in (*world.plan.events, *old)}
        self._replays = {"", *(replay.id for replay in world.plan.replays)}
        self._ids: dict[str, int] = {}
        self._bodies: dict[str, bytes] = {}

    def on_subscription(self, at_s: float, subscription_id: str, subscription: Subscription | None) -> None:
        for event_id, number in self._events.items():
            digest = blake2b(f"{event_id}\0{subscription_id}".encode(), digest_size=15)
            self._ids["dlv_" + digest.hexdigest()] = number

    def on_post(self, post: PostStarted) -> None:
        for run in post.delivery_ids:
            delivery_id, _, replay = run.partition(AGAIN)
            if replay not in self._replays:
                raise ViolationError(f"{delivery_id} is sent by {replay!r}, which is no replay")
            number = self._ids.get(delivery_id)
            if number is None:
                raise ViolationError(f"the id {delivery_id!r} is of no event and subscription")
            if b'"number":%d}' % number not in post.body:
                raise ViolationError(f"{delivery_id} is of event {number}, and is sent {post.body!r}")
        if self._bodies.setdefault(post.webhook_id, post.body) != post.body:
            raise ViolationError(f"{post.webhook_id} had another body before")
