"""Promise 2: `attempts` numbers the POSTs of a delivery 1, 2, 3, ... without a gap and without a double."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.simulation.books import Commit
from tests.simulation.checkers.base import Checker, ViolationError

if TYPE_CHECKING:
    from tests.simulation.world import World


class Attempts(Checker):
    """Every record of `attempts`; one that was made without a POST repeats the number so far."""

    def begin(self, world: World) -> None:
        self._numbers: Counter[str] = Counter()
        self._ended: set[str] = set()

    def on_commit(self, commit: Commit) -> None:
        for one in commit.written:
            if one.kind != "attempt":
                continue
            fields = one.fields
            if one.delivery_id in self._ended:
                raise ViolationError(f"{one.delivery_id}: an attempt after its end: {fields}")
            expected = self._numbers[one.delivery_id]
            if fields["status"] or fields["cause"]:  # a POST
                expected += 1
            if fields["attempt"] != expected:
                raise ViolationError(f"{one.delivery_id}: attempt {fields['attempt']} where {expected} is next")
            self._numbers[one.delivery_id] = expected
            if one.ends:
                self._ended.add(one.delivery_id)
