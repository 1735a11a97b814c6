"""Promises 4 and 7: what is settled is not sent again, and what was given up is not sent by who gave it up.

A worker that the group has given up on does not know it yet: what it sends until then is the duplicate that the promise
allows. So is what it repeats of POSTs under way when a worker died.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.books import Commit
from tests.simulation.checkers.base import Checker, ViolationError
from tests.simulation.endpoints import PostStarted
from tests.simulation.kafka import Partition
from tests.simulation.worker import DELIVERY

if TYPE_CHECKING:
    from tests.simulation.world import World


class Settled(Checker):
    """Every POST against what was committed before it began."""

    def begin(self, world: World) -> None:
        self._world = world
        self._places: dict[str, Partition] = {}
        self._ended: dict[str, float] = {}

    def on_commit(self, commit: Commit) -> None:
        for one in commit.written:
            if one.kind == "delivery":
                self._places[one.delivery_id] = (one.stored.topic, one.stored.partition)
            elif one.ends:
                self._ended[one.delivery_id] = commit.at_s

    def on_post(self, post: PostStarted) -> None:
        if self._world.given_up_on(post.worker):
            return
        # Partitions of equal number move together, but not at one moment: any of this number will do.
        owned = {number for _, number in self._world.kafka.groups[DELIVERY].members[post.worker].owned}
        for delivery_id in post.delivery_ids:
            if delivery_id in self._ended and not self._world.books.may_repeat(delivery_id):
                raise ViolationError(
                    f"{delivery_id} is sent by {post.worker}, and its end was written at "
                    f"{self._ended[delivery_id]:.3f} s"
                )
            place = self._places.get(delivery_id)
            if place is None:
                raise ViolationError(f"{delivery_id} is sent, and was never written")
            if place[1] not in owned:
                raise ViolationError(f"{delivery_id} of {place} is sent by {post.worker}, which gave that partition up")
