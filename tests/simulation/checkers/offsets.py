"""Promise 1: a committed offset never passes a record that has no durable result.

With transactions the result is in the same one; without, it is there before.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from schemas.delivery import Delivery
from tests.simulation.books import Commit, Written
from tests.simulation.checkers.base import Checker, ViolationError
from tests.simulation.kafka import Stored

if TYPE_CHECKING:
    from tests.simulation.world import World


class Offsets(Checker):
    """What counts as finished has its result: an end, with its dead letter, or a record of the same delivery elsewhere
    that knows of all its tries."""

    def begin(self, world: World) -> None:
        self._at_least_once = world.books.at_least_once
        self._deliveries: dict[Stored, tuple[str, Delivery]] = {}
        #: All that was written about each delivery, and how much of it when each of its places was.
        self._written: defaultdict[str, list[Written]] = defaultdict(list)
        self._before: dict[Stored, int] = {}
        self._dead: set[str] = set()

    def on_commit(self, commit: Commit) -> None:
        if not self._at_least_once:
            self._written.clear()
            self._dead.clear()
        for one in commit.written:
            if one.kind in ("delivery", "attempt"):
                self._written[one.delivery_id].append(one)
            elif one.kind == "dead":
                self._dead.add(one.delivery_id)
            if one.delivery is not None:
                self._deliveries[one.stored] = one.delivery_id, one.delivery
                if self._at_least_once:
                    self._before[one.stored] = len(self._written[one.delivery_id])
        for stored in commit.finished:
            if stored in self._deliveries:
                delivery_id, delivery = self._deliveries[stored]
                later = self._written[delivery_id][self._before.get(stored, 0) :]
                if not any(self._is_result(one, delivery) for one in later):
                    raise ViolationError(f"{stored!r} ({delivery_id}) counts as finished and nothing became of it")

    def _is_result(self, one: Written, of: Delivery) -> bool:
        if one.delivery is not None:
            return one.delivery.attempt >= of.attempt and one.delivery.tries[: of.attempt] == of.tries
        given_up = one.fields["outcome"] in ("rejected", "exhausted")
        return one.ends and one.fields["attempt"] >= of.attempt and (not given_up or one.delivery_id in self._dead)
