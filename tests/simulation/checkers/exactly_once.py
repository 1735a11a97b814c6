"""Promise 2: inside Kafka, a delivery is in one place at a time, and moves in the transaction that finishes the former.

A place is a record of `deliveries` or of the replay lane, of a retry tier or of the log of parked deliveries. An end is
the last record of `attempts`, with a dead letter beside it when the delivery was given up. Without transactions the
parts of a move are there one after the other, so nothing is said of places; a delivery is fanned out once and ends
once, unless its records may be repeated.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.simulation.books import Commit
from tests.simulation.checkers.base import Checker, ViolationError
from tests.simulation.kafka import Stored

if TYPE_CHECKING:
    from tests.simulation.world import World


class ExactlyOnce(Checker):
    """Places and ends, transaction by transaction."""

    def begin(self, world: World) -> None:
        self._books = world.books
        self._sources = world.books.beginnings
        self._places: dict[str, Stored] = {}
        self._ended: set[str] = set()
        self._known: dict[Stored, str] = {}
        self._told: set[tuple[str, bool]] = set()

    def on_commit(self, commit: Commit) -> None:
        if self._books.at_least_once:
            self._look_for_doubles(commit)
        else:
            self._look_at_places(commit)

    def _look_for_doubles(self, commit: Commit) -> None:
        for one in commit.written:
            fanned_out = one.kind == "delivery" and one.stored.topic in self._sources
            if not (fanned_out or one.ends):
                continue
            if (one.delivery_id, fanned_out) in self._told and not self._books.may_repeat(one.delivery_id):
                raise ViolationError(f"{one.delivery_id} {'was fanned out' if fanned_out else 'ended'} twice")
            self._told.add((one.delivery_id, fanned_out))

    def _look_at_places(self, commit: Commit) -> None:
        moved: Counter[str] = Counter()
        ended: Counter[str] = Counter()
        dead: Counter[str] = Counter()
        fresh: dict[str, Stored] = {}
        for one in commit.written:
            if one.kind == "delivery":
                if one.stored.topic in self._sources:
                    if one.delivery_id in self._places or one.delivery_id in self._ended:
                        raise ViolationError(f"{one.delivery_id} was fanned out twice")
                    self._places[one.delivery_id] = one.stored
                else:
                    moved[one.delivery_id] += 1
                    fresh[one.delivery_id] = one.stored
                self._known[one.stored] = one.delivery_id
            elif one.ends:
                ended[one.delivery_id] += 1
                if one.fields["outcome"] in ("rejected", "exhausted"):
                    dead[one.delivery_id] += 1
            elif one.kind == "dead":
                dead[one.delivery_id] -= 1
        finished = Counter(self._known[stored] for stored in commit.finished if stored in self._known)
        for stored in commit.finished:
            delivery_id = self._known.get(stored)
            if delivery_id is not None and self._places.pop(delivery_id, None) is not stored:
                raise ViolationError(f"{delivery_id} is finished at {stored!r}, which is not where it is")
        for delivery_id in sorted({*moved, *ended, *finished}):
            results = moved[delivery_id] + ended[delivery_id]
            if results != finished[delivery_id]:
                raise ViolationError(
                    f"{delivery_id}: {finished[delivery_id]} records finished, {moved[delivery_id]} moved on, "
                    f"{ended[delivery_id]} ended in one transaction"
                )
        for delivery_id, count in dead.items():
            if count:
                raise ViolationError(f"{delivery_id}: its dead letter and its last attempt do not agree")
        self._places.update(fresh)
        self._ended.update(ended)
