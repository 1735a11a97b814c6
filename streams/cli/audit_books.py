"""Two sets of books on every delivery, kept apart: what Kafka has, and what the receivers wrote down.

Deliveries are numbers (`audit_plan.py`) and books are arrays: a million deliveries take 60 MB. Nothing is judged here
but what shows while reading: things that are there twice (`audit_judge.py` does the rest). No I/O.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any

from connectors.faulty_receiver import ACCEPTED, BROKEN, Posted
from streams.cli.audit_plan import Plan

#: How many examples are kept of each thing that must not be.
TOLD_MAX = 5

#: How a delivery ended, according to `attempts`.
OPEN, DELIVERED, DEAD, CANCELLED = 0, 1, 2, 3
_ENDS = {"delivered": DELIVERED, "rejected": DEAD, "exhausted": DEAD, "cancelled": CANCELLED}

#: Topic without prefix, partition, offset.
Place = tuple[str, int, int]

#: Attempt numbers are bits of a word; schedules end long before.
NUMBER_MAX = 63


class Problems:
    """Things that must not be, by name: how often, and a few examples."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, problem: str, example: str) -> None:
        self.counts[problem] += 1
        examples = self.examples.setdefault(problem, [])
        if len(examples) < TOLD_MAX:
            examples.append(example)


class KafkaBooks:
    """What Kafka has. Read `attempts` and `deliveries.dead` first, then what carries deliveries."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        count = plan.deliveries
        self.problems = Problems()
        self.ends = bytearray(count)
        #: Bit n: attempt n was settled.
        self.attempts = array("Q", bytes(8 * count))
        #: Bit n: a retry tier has it with n attempts made.
        self.retries = array("Q", bytes(8 * count))
        self.dead = bytearray(count)
        self.fanned = bytearray(count)
        self.records = 0
        #: Expected deliveries without an end.
        self.open = count
        #: Of deliveries without an end: where their next attempt is to come from.
        self.carried: dict[int, list[Place]] = {}
        self.parked: dict[tuple[int, int], int] = {}
        self.parkings = 0
        self.reasons: Counter[str] = Counter()

    def attempt(self, fields: Mapping[str, Any]) -> None:
        """A record of `attempts`."""
        self.records += 1
        delivery = self._named(fields["subscription_id"], fields["event_id"])
        if delivery is None:
            return
        number, outcome = min(fields["attempt"], NUMBER_MAX), fields["outcome"]
        # Without a POST, the number is that of the attempts made so far.
        if fields["status"] or fields["cause"]:
            if self.attempts[delivery] >> number & 1:
                self.problems.add("doubled attempts", f"attempt {number} of {self.name(delivery)}")
            self.attempts[delivery] |= 1 << number
        end = _ENDS.get(outcome, OPEN)
        if end:
            if self.ends[delivery]:
                self.problems.add("doubled ends", f"{outcome}, {self.name(delivery)}")
            else:
                self.open -= 1
            self.ends[delivery] = end

    def dead_letter(self, fields: Mapping[str, Any]) -> None:
        """A record of `deliveries.dead`."""
        self.reasons[fields["reason"]] += 1
        inner = fields["delivery"]
        delivery = self._named(inner["subscription_id"], inner["event_id"])
        if delivery is None:
            return
        if self.dead[delivery]:
            self.problems.add("doubled dead letters", self.name(delivery))
        self.dead[delivery] = 1

    def delivery(self, fields: Mapping[str, Any], place: Place) -> None:
        """A record of `deliveries`."""
        delivery = self._named(fields["subscription_id"], fields["event_id"])
        if delivery is None:
            return
        if self.fanned[delivery]:
            self.problems.add("doubled fan-outs", self.name(delivery))
        self.fanned[delivery] = 1
        self._carry(delivery, 0, place)

    def retry(self, fields: Mapping[str, Any], place: Place) -> None:
        """A record of a retry tier."""
        delivery = self._named(fields["subscription_id"], fields["event_id"])
        if delivery is None:
            return
        number = min(fields["attempt"], NUMBER_MAX)
        if self.retries[delivery] >> number & 1:
            self.problems.add("doubled retries", f"after attempt {number} of {self.name(delivery)}")
        self.retries[delivery] |= 1 << number
        self._carry(delivery, number, place)

    def park(self, fields: Mapping[str, Any], place: Place) -> None:
        """A delivery in `deliveries.parked`."""
        self.parkings += 1
        delivery = self._named(fields["subscription_id"], fields["event_id"])
        if delivery is not None:
            self.parked[place[1], place[2]] = delivery

    def unpark(self, partition: int, offset: int) -> None:
        """A finish marker for an offset of its partition."""
        if self.parked.pop((partition, offset), None) is None:
            self.problems.add("doubled finish markers", f"for offset {offset} of partition {partition}")

    def quarantined(self, example: str) -> None:
        """A record of `events.quarantine`: the audit writes nothing that belongs there."""
        self.problems.add("quarantined", example)

    def _carry(self, delivery: int, number: int, place: Place) -> None:
        """Remember where an open delivery waits for the attempt after `number`."""
        made = max(0, self.attempts[delivery].bit_length() - 1)
        if not self.ends[delivery] and number == made:
            self.carried.setdefault(delivery, []).append(place)

    def _named(self, subscription_id: str, event_id: str) -> int | None:
        delivery = self.plan.named(subscription_id, event_id)
        if delivery is None:
            self.problems.add("unexpected", f"{event_id} for {subscription_id}, in Kafka")
        return delivery

    def name(self, delivery: int) -> str:
        """For people."""
        n, target = self.plan.place(delivery)
        return f"{self.plan.targets[target].id} evt_{n:07d}"


class Again:
    """A delivery that was accepted more than once: when first, and when again."""

    __slots__ = ("delivery", "first_ms", "second_ms")

    def __init__(self, delivery: int, first_ms: int, second_ms: int) -> None:
        self.delivery = delivery
        self.first_ms = first_ms
        self.second_ms = second_ms


class ReceiverBooks:
    """What the receivers wrote down."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        count = plan.deliveries
        self.problems = Problems()
        self.posts = array("H", bytes(2 * count))
        self.accepted = bytearray(count)
        #: 2xx in an answer that lied: the engine may believe it or not.
        self.broken = bytearray(count)
        #: When the first POST arrived, and when the first was accepted; 0 for never.
        self.first_ms = array("Q", bytes(8 * count))
        self.accepted_ms = array("Q", bytes(8 * count))
        self._digests = array("Q", bytes(8 * count))
        self.again: list[Again] = []
        self._orders = _Orders(plan)

    def strange(self, strange: int, unsigned: int) -> None:
        """POSTs that the receivers refused for what they were."""
        self.problems.counts["POSTs that made no sense"] += strange
        self.problems.counts["POSTs badly signed"] += unsigned

    def take(self, posts: Iterable[Posted]) -> None:
        """All POSTs, in the order in which they were written down."""
        for post in posts:
            self._take(post)

    def _take(self, post: Posted) -> None:
        delivery = self.plan.delivery(post.endpoint, post.number)
        if delivery is None:
            name = self.plan.targets[post.endpoint].id
            self.problems.add("unexpected", f"evt_{post.number:07d} for {name}, at the receiver")
            return
        self.posts[delivery] = min(65_535, self.posts[delivery] + 1)
        if not self.first_ms[delivery]:
            self.first_ms[delivery] = post.arrived_ms
            self._digests[delivery] = post.digest
        elif self._digests[delivery] != post.digest:
            self.problems.add("changed webhook-ids", f"evt_{post.number:07d}")
        if not self._orders.fits(post):
            name = self.plan.targets[post.endpoint].id
            self.problems.add("out of order", f"evt_{post.number:07d} at {name}, before one that was due")
        if post.fate == BROKEN:
            self.broken[delivery] = 1
        elif post.fate == ACCEPTED:
            now_ms = post.arrived_ms + post.answered_after_ms
            if self.accepted[delivery]:
                self.again.append(Again(delivery, self.accepted_ms[delivery], now_ms))
            else:
                self.accepted_ms[delivery] = now_ms
            self.accepted[delivery] = min(255, self.accepted[delivery] + 1)


class _Orders:
    """Ordered endpoints: which event of each key is due.

    The rule: while an event of a key has not been answered with 2xx, no later event of that key is POSTed to that
    endpoint. Repeats of earlier ones are not out of order: they are duplicates, and counted as such.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        ordered = {each.number for each in plan.targets if each.kind == "ordered"}
        self._due: dict[tuple[int, int], deque[int]] = {}
        self._answered: set[tuple[int, int]] = set()  # before their turn
        for n, target in plan:
            if target in ordered:
                self._due.setdefault((target, plan.lane(n)), deque()).append(n)

    def fits(self, post: Posted) -> bool:
        """Whether this POST may be, given all before it."""
        due = self._due.get((post.endpoint, self._plan.lane(post.number)))
        if not due or post.number < due[0]:
            return True
        in_turn = post.number == due[0]
        if post.fate in (ACCEPTED, BROKEN):
            self._answered.add((post.endpoint, post.number))
            while due and (post.endpoint, due[0]) in self._answered:
                self._answered.discard((post.endpoint, due.popleft()))
        return in_turn
