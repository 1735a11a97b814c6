"""The audit's verdict: what was expected, held against both sets of books. No I/O.

What each word means is in docs/how-to/audit.md; change both together.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

import msgspec

from streams.cli.audit_books import CANCELLED, DEAD, DELIVERED, OPEN, Again, KafkaBooks, Place, Problems, ReceiverBooks
from streams.cli.audit_faults import FaultKind, Made
from streams.cli.audit_plan import Kind, Plan
from streams.cli.demo_audit import percentile

#: Of the deliveries that were accepted, so many may be accepted again; judged where there are enough for one fault not
#: to decide it.
DUPLICATE_RATE_MAX = 0.001
JUDGED_FROM = 100_000
#: A fault is still at work so long after it was made: sessions end, POSTs are waited for.
AFTERMATH_MS = 2_000

#: Faults that may leave a POST without its settlement, the most violent first. A worker that comes or goes in order
#: must not; an endpoint's own trouble may, at that endpoint.
EXPLAINING: tuple[FaultKind, ...] = (
    "worker_kill",
    "worker_freeze_long",
    "worker_freeze",
    "cut_receiver",
    "cut_brokers",
    "broker_kill",
    "broker_restart",
    "leader_move",
)


_UNREAD = (1 << 64) - 1


class EventPlaces:
    """Where each event lies, by number: Kafka's timestamp (milliseconds), partition and offset. 0 until it is known."""

    def __init__(self, events: int) -> None:
        self.times_ms = array("Q", bytes(8 * events))
        self.partitions = array("H", bytes(2 * events))
        self.offsets = array("Q", bytes(8 * events))

    def put(self, n: int, partition: int | None, offset: int | None) -> None:
        """Where event `n` lies. A broker that answers a repeated record does not say where: it counts as not read."""
        self.partitions[n] = partition or 0
        self.offsets[n] = _UNREAD if offset is None else offset


class Row(msgspec.Struct):
    """Sums over deliveries."""

    endpoints: int = 0
    expected: int = 0
    delivered: int = 0
    dead: int = 0
    pending: int = 0
    lost: int = 0
    duplicates: int = 0
    posts: int = 0
    attempts: int = 0


#: What differs between runs; the endpoints are the same ones.
_SUMMED = tuple(name for name in Row.__struct_fields__ if name != "endpoints")


class Result(msgspec.Struct, frozen=True):
    """The last line of an audit. Times: from an event's Kafka timestamp to its first POST at a steady endpoint."""

    expected: int
    delivered: int
    dead: int
    pending: int
    lost: int
    duplicates: int
    duplicate_rate: float
    faults: int
    p50_ms: int | None
    p99_ms: int | None
    doubled: int
    out_of_order: int
    unexpected: int
    unexplained: int
    attempts: int
    posts: int
    seed: int
    kinds: dict[str, int]
    broker: str


class Verdict(msgspec.Struct, frozen=True):
    """All that is shown."""

    result: Result
    by_kind: dict[Kind, Row]
    #: Duplicates by the fault that explains them; `endpoint_*` and "" (none) too.
    by_fault: Counter[str]
    #: Sentences; empty when all is well.
    problems: list[str]
    #: Milliseconds from event to first POST, ascending.
    latencies: list[int]


def judge(
    plan: Plan,
    kafka: KafkaBooks,
    receivers: ReceiverBooks,
    committed: Mapping[tuple[str, int], int],
    events: EventPlaces,
    made: Sequence[Made],
    broker: str,
) -> Verdict:
    """The verdict. `committed`: offsets of both groups by topic without prefix and partition."""
    rows: dict[Kind, Row] = {}
    for target in plan.targets:
        rows.setdefault(target.kind, Row()).endpoints += 1
    problems = Problems()
    latencies = array("q")
    waiting = set(kafka.parked.values())
    for delivery, (n, number) in enumerate(plan):
        target = plan.targets[number]
        row = rows[target.kind]
        row.expected += 1
        row.posts += receivers.posts[delivery]
        row.attempts += (kafka.attempts[delivery] & ~1).bit_count()
        accepted = receivers.accepted[delivery]
        row.duplicates += max(0, accepted - 1)
        seen = accepted or receivers.broken[delivery]
        match kafka.ends[delivery]:
            case end if end == DELIVERED and seen and not kafka.dead[delivery]:
                row.delivered += 1
                if target.ends != "delivered":
                    problems.add("ended otherwise", f"{kafka.name(delivery)} was delivered, and must not be")
            case end if end == DEAD and kafka.dead[delivery]:
                row.dead += 1
                if target.ends != "dead":
                    problems.add("ended otherwise", f"{kafka.name(delivery)} is a dead letter, and should be delivered")
            case end if (
                end == OPEN and not kafka.dead[delivery] and _waits(kafka, delivery, n, waiting, committed, events)
            ):
                row.pending += 1
                problems.add("pending", kafka.name(delivery))
            case end:
                row.lost += 1
                problems.add("lost", f"{kafka.name(delivery)}: {_why_lost(end, bool(seen), kafka.dead[delivery])}")
        if not kafka.fanned[delivery]:
            problems.add("not fanned out", kafka.name(delivery))
        if target.kind == "steady" and receivers.first_ms[delivery]:
            latencies.append(max(0, receivers.first_ms[delivery] - events.times_ms[n]))
    for delivery in waiting:
        if kafka.ends[delivery]:
            problems.add("parked though ended", kafka.name(delivery))
    by_fault: Counter[str] = Counter()
    for again in receivers.again:
        cause = _cause(again, plan.place(again.delivery)[1], made)
        by_fault[cause] += 1
        if not cause:
            problems.add("unexplained duplicates", kafka.name(again.delivery))
    for found in (kafka.problems, receivers.problems):
        for problem, count in found.counts.items():
            problems.counts[problem] += count
            problems.examples.setdefault(problem, []).extend(found.examples.get(problem, []))
    ascending = sorted(latencies)
    delivered = sum(row.delivered for row in rows.values())
    duplicates = sum(row.duplicates for row in rows.values())
    result = Result(
        expected=plan.deliveries,
        delivered=delivered,
        dead=sum(row.dead for row in rows.values()),
        pending=problems.counts["pending"],
        lost=problems.counts["lost"],
        duplicates=duplicates,
        duplicate_rate=_rate(duplicates, delivered),
        faults=len(made),
        p50_ms=percentile(ascending, 0.50),
        p99_ms=percentile(ascending, 0.99),
        doubled=sum(count for problem, count in problems.counts.items() if problem.startswith("doubled")),
        out_of_order=problems.counts["out of order"],
        unexpected=problems.counts["unexpected"],
        unexplained=by_fault[""],
        attempts=kafka.records,
        posts=sum(receivers.posts),
        seed=plan.seed,
        kinds=dict(sorted(Counter(each.fault.kind for each in made).items())),
        broker=broker,
    )
    return Verdict(result, rows, by_fault, _sentences(problems), ascending)


def combined(verdicts: Sequence[Verdict]) -> Verdict:
    """Of several runs one verdict: sums, all sentences, percentiles over all. Here it is judged whether duplicates are
    too many."""
    rows: dict[Kind, Row] = {}
    by_fault: Counter[str] = Counter()
    problems: list[str] = []
    kinds: Counter[str] = Counter()
    for verdict in verdicts:
        by_fault += verdict.by_fault
        problems += verdict.problems
        kinds.update(verdict.result.kinds)
        for kind, row in verdict.by_kind.items():
            sums = rows.setdefault(kind, Row(endpoints=row.endpoints))
            for name in _SUMMED:
                setattr(sums, name, getattr(sums, name) + getattr(row, name))
    ascending = sorted(chain.from_iterable(verdict.latencies for verdict in verdicts))
    results = [verdict.result for verdict in verdicts]
    total = {
        name: sum(getattr(each, name) for each in results)
        for name in Result.__struct_fields__
        if isinstance(getattr(results[0], name), int) and name != "seed"
    }
    total |= {
        "duplicate_rate": _rate(total["duplicates"], total["delivered"]),
        "p50_ms": percentile(ascending, 0.50),
        "p99_ms": percentile(ascending, 0.99),
        "kinds": dict(sorted(kinds.items())),
        "broker": ", then ".join(each.broker for each in results),
    }
    result = msgspec.structs.replace(results[0], **total)
    if result.duplicate_rate > DUPLICATE_RATE_MAX and result.delivered >= JUDGED_FROM:
        problems.append(f"{result.duplicates} duplicates are more than {DUPLICATE_RATE_MAX:.1%} of what was delivered")
    return Verdict(result, rows, by_fault, problems, ascending)


def _rate(duplicates: int, delivered: int) -> float:
    return round(duplicates / max(1, delivered), 6)


def _waits(
    kafka: KafkaBooks,
    delivery: int,
    n: int,
    parked: set[int],
    committed: Mapping[tuple[str, int], int],
    events: EventPlaces,
) -> bool:
    """Whether something in Kafka still leads to its next attempt."""
    if delivery in parked:
        return True
    places: list[Place] = kafka.carried.get(delivery, [])
    if not kafka.fanned[delivery]:
        places = [("events", events.partitions[n], events.offsets[n])]
    return any(offset >= committed.get((topic, partition), 0) for topic, partition, offset in places)


def _why_lost(end: int, seen: bool, dead: int) -> str:
    if end == DELIVERED:
        what = "a dead letter as well" if dead else "no receiver accepted it"
        return f"delivered according to its attempts, and {what}"
    if end == DEAD:
        return "given up according to its attempts, and no dead letter"
    if end == CANCELLED:
        return "cancelled, and nobody asked for that"
    if dead:
        return "a dead letter without its last attempt"
    return "accepted by its receiver, and not settled" if seen else "nothing leads to its next attempt"


def _cause(again: Again, target: int, made: Sequence[Made]) -> str:
    """The most violent fault that was at work between both acceptances, or just before the first; "" for none."""
    found = [each for each in made if each.start_ms <= again.second_ms and again.first_ms <= each.end_ms + AFTERMATH_MS]
    for kind in EXPLAINING:
        if any(each.fault.kind == kind for each in found):
            return kind
    return next((each.fault.kind for each in found if each.endpoint == target), "")


def _sentences(problems: Problems) -> list[str]:
    return [
        f"{count} {problem}" + "".join(f"; {example}" for example in problems.examples.get(problem, [])[:2])
        for problem, count in sorted(problems.counts.items())
        if count
    ]
