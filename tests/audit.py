"""Books of an audit in which everything went well, for tests that then change one thing."""

from __future__ import annotations

from typing import Any

from connectors.faulty_receiver import ACCEPTED, REFUSED, Posted
from streams.cli.audit_books import KafkaBooks, ReceiverBooks
from streams.cli.audit_faults import Fault, FaultKind, Made
from streams.cli.audit_judge import EventPlaces, Verdict, combined, judge
from streams.cli.audit_plan import Kind, Plan

START_MS = 1_000_000


class Books:
    """Every delivery as it must end, at its number's millisecond; change what is recorded, then ask for the verdict."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.attempts: list[dict[str, Any]] = []
        self.dead: list[dict[str, Any]] = []
        self.deliveries: list[dict[str, Any]] = []
        self.retries: list[dict[str, Any]] = []
        self.parked: list[tuple[dict[str, Any], int]] = []
        self.finished: list[int] = []
        self.quarantined: list[str] = []
        self.posts: list[Posted] = []
        self.stats = (0, 0)
        self.committed: dict[tuple[str, int], int] = {}
        self.made: list[Made] = []
        for delivery, (n, target) in enumerate(plan):
            kind = plan.targets[target].kind
            self.deliveries.append(self.fields(delivery))
            at_ms = START_MS + delivery
            if kind == "failing":
                self.refuse(delivery, 1, "retryable", at_ms)
                self.retries.append(self.fields(delivery, attempt=1))
                self.refuse(delivery, 2, "exhausted", at_ms)
            elif kind == "rejecting":
                self.refuse(delivery, 1, "rejected", at_ms)
            elif kind == "disabled":
                self.attempts.append(self.fields(delivery, attempt=0, outcome="rejected", status=0, cause=""))
            else:
                self.attempts.append(self.fields(delivery, attempt=1, outcome="delivered", status=204, cause=""))
                self.posts.append(Posted(target, ACCEPTED, n, at_ms, n, 1))
            if plan.targets[target].ends == "dead":
                self.dead.append({"reason": "exhausted", "delivery": self.fields(delivery)})

    def refuse(self, delivery: int, attempt: int, outcome: str, at_ms: int) -> None:
        n, target = self.plan.place(delivery)
        self.attempts.append(self.fields(delivery, attempt=attempt, outcome=outcome, status=500, cause=""))
        self.posts.append(Posted(target, REFUSED, n, at_ms, n, 0))

    def fields(self, delivery: int, **more: Any) -> dict[str, Any]:
        n, target = self.plan.place(delivery)
        return {"subscription_id": self.plan.targets[target].id, "event_id": f"evt_{n:07d}", **more}

    def of(self, kind: Kind, place: int = 0) -> int:
        """The number of a delivery to an endpoint of this kind."""
        found = [number for number, (_, target) in enumerate(self.plan) if self.plan.targets[target].kind == kind]
        return found[place]

    def without(self, records: list[dict[str, Any]], delivery: int) -> None:
        """Remove what is recorded there of a delivery."""
        fields = self.fields(delivery)
        records[:] = [each for each in records if not fields.items() <= each.get("delivery", each).items()]

    def post_of(self, delivery: int) -> Posted:
        """Its first POST."""
        n, target = self.plan.place(delivery)
        return next(post for post in self.posts if (post.endpoint, post.number) == (target, n))

    def fault(self, kind: FaultKind, start_ms: int, end_ms: int, endpoint: int = -1) -> None:
        self.made.append(Made(Fault(0.0, kind, 0.0, 0), "x", start_ms, end_ms, "", endpoint))

    def verdict(self) -> Verdict:
        kafka, receivers = KafkaBooks(self.plan), ReceiverBooks(self.plan)
        for fields in self.attempts:
            kafka.attempt(fields)
        for fields in self.dead:
            kafka.dead_letter(fields)
        for offset, fields in enumerate(self.deliveries):
            kafka.delivery(fields, ("deliveries", 0, offset))
        for offset, fields in enumerate(self.retries):
            kafka.retry(fields, ("deliveries.retry.1s", 0, offset))
        for fields, offset in self.parked:
            kafka.park(fields, ("deliveries.parked", 0, offset))
        for offset in self.finished:
            kafka.unpark(0, offset)
        for example in self.quarantined:
            kafka.quarantined(example)
        receivers.strange(*self.stats)
        receivers.take(self.posts)
        everything = {("deliveries", 0): len(self.deliveries), ("deliveries.retry.1s", 0): len(self.retries)}
        events = EventPlaces(self.plan.events)
        for n in range(self.plan.events):
            events.times_ms[n], events.partitions[n], events.offsets[n] = START_MS - 10, 0, n
        everything["events", 0] = self.plan.events
        offsets = everything | self.committed
        return combined([judge(self.plan, kafka, receivers, offsets, events, self.made, "Kafka")])
