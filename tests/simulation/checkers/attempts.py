"""Promise 2: `attempts` numbers the POSTs of a delivery 1, 2, 3, ... without a gap and without a double.

Without transactions, doubles are allowed where records may be repeated. A gap there is one for a while: the attempt
whose record a crash has swallowed is made again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from tests.simulation.books import Commit
from tests.simulation.checkers.base import Checker, ViolationError

if TYPE_CHECKING:
    from tests.simulation.world import World


class Attempts(Checker):
    """Every record of `attempts`; one that was made without a POST repeats the number so far."""

    def begin(self, world: World) -> None:
        self._books = world.books
        self._numbers: Counter[str] = Counter()
        self._ended: set[str] = set()
        #: Of deliveries that may have been under way twice: all numbers, and those of which one copy was not sent.
        self._repeated: defaultdict[str, set[int]] = defaultdict(set)
        self._given_up: set[str] = set()

    def on_commit(self, commit: Commit) -> None:
        for one in commit.written:
            if one.kind != "attempt":
                continue
            fields = one.fields
            posted = bool(fields["status"] or fields["cause"])
            expected = self._numbers[one.delivery_id] + posted
            if self._books.may_repeat(one.delivery_id):
                self._repeated[one.delivery_id].add(fields["attempt"])
                if not posted:
                    self._given_up.add(one.delivery_id)
            elif one.delivery_id in self._ended:
                raise ViolationError(f"{one.delivery_id}: an attempt after its end: {fields}")
            elif fields["attempt"] != expected:
                raise ViolationError(f"{one.delivery_id}: attempt {fields['attempt']} where {expected} is next")
            else:
                self._numbers[one.delivery_id] = expected
            if one.ends:
                self._ended.add(one.delivery_id)

    def at_end(self) -> None:
        for delivery_id, numbers in self._repeated.items():
            missing = set(range(self._numbers[delivery_id] + 1, max(numbers))) - numbers
            if missing and delivery_id not in self._given_up:
                raise ViolationError(f"{delivery_id}: attempts {sorted(numbers)}, and none of {sorted(missing)}")
