"""Promise 1: a committed offset never passes a record that has no durable result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.delivery import Delivery
from tests.simulation.books import Commit
from tests.simulation.checkers.base import Checker, ViolationError
from tests.simulation.kafka import Stored

if TYPE_CHECKING:
    from tests.simulation.world import World


class Offsets(Checker):
    """What counts as finished has its result in the same transaction."""

    def begin(self, world: World) -> None:
        self._deliveries: dict[Stored, Delivery] = {}

    def on_commit(self, commit: Commit) -> None:
        results = {one.delivery_id for one in commit.written if one.kind in ("delivery", "attempt")}
        for one in commit.written:
            if one.delivery is not None:
                self._deliveries[one.stored] = one.delivery
        for stored in commit.finished:
            delivery = self._deliveries.get(stored)
            if delivery is not None and delivery.id not in results:
                raise ViolationError(f"{stored!r} ({delivery.id}) counts as finished and nothing became of it")
