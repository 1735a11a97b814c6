"""What a seed stands for: a small world and what goes wrong in it, drawn before it begins.

A plan is data. It says nothing of how the world reacts, and reads no clock.
"""

from __future__ import annotations

import base64
import random
from typing import Literal

import msgspec

from schemas.subscription import STANDARD_RETRY_SCHEDULE_MS, Subscription
from streams.core.breaker import NEVER
from tests.simulation.endpoints import MOODS, Endpoint, Mood
from tests.simulation.engine import Bounds

Profile = Literal["calm", "neighbours", "workers", "brokers", "owners", "storm"]
#: How often each kind of world is drawn.
PROFILES: dict[Profile, int] = {"calm": 1, "neighbours": 3, "workers": 6, "brokers": 3, "owners": 3, "storm": 6}

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
EVENT_TYPES = ("order.created", "order.paid", "user.created")
PATTERNS = (("*",), ("order.*",), ("order.created", "user.created"))
SCHEDULES_MS: tuple[tuple[int, ...], ...] = (
    (500, 2_000, 5_000),
    (1_000, 1_000, 30_000, 60_000),
    (5_000, 30_000, 300_000),
    (0, 0, 10_000),
    (1_500,),
    (),
    STANDARD_RETRY_SCHEDULE_MS,
)
#: Moods from which an endpoint's deliveries come back with a retry; the others end them.
PASSING: tuple[Mood, ...] = tuple(mood for mood in MOODS if mood not in ("gone", "rejecting"))

#: Kinds of faults, and what a plan may say of them.
FaultKind = Literal[
    "crash", "stop", "join", "freeze", "evict", "outage", "trouble",
    "pause", "resume", "delete", "move", "disable", "create",
]  # fmt: skip


class Fault(msgspec.Struct, frozen=True):
    """Something that happens at a virtual second; whom it strikes is counted round by the world."""

    at_s: float
    kind: FaultKind
    target: int
    #: For how long, where it ends: an outage, a freeze, how long until a crashed or stopped worker is replaced.
    seconds: float = 0.0
    #: For `crash` and `freeze`: how many callbacks later it strikes, in the middle of something.
    steps: int = 0


class PlannedEvent(msgspec.Struct, frozen=True):
    """An application event."""

    at_s: float
    number: int
    type: str
    subject: str | None
    #: Not an event at all: for quarantine.
    broken: bool = False


class PlannedReplay(msgspec.Struct, frozen=True):
    """At this time, so large a part of all deliveries that have ended is sent again, and with them `old` ones:
    of events of before, which nobody else sends, to one subscription."""

    at_s: float
    id: str
    part: float
    old: list[PlannedEvent]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A whole world."""

    seed: int
    profile: Profile
    partitions: int
    workers: int
    stable_ids: bool
    #: Without transactions.
    at_least_once: bool
    subscriptions: list[Subscription]
    endpoints: list[Endpoint]
    events: list[PlannedEvent]
    faults: list[Fault]
    replays: list[PlannedReplay]
    bounds: Bounds
    drain_s: float
    session_s: float
    heartbeat_s: tuple[float, float]
    fetch_s: tuple[float, float]
    table_lag_s: float
    #: When everything that is broken is mended.
    heal_s: float
    #: Whether all workers are replaced at the end, when nothing is left to do.
    encore: bool

    def describe(self) -> str:
        """For a failure's report."""
        kind = "at-least-once " * self.at_least_once + self.profile
        what = f"{self.workers} workers, {self.partitions} partitions, {len(self.events)} events"
        lines = [f"seed {self.seed}: a {kind} world of {what}, healed at {self.heal_s:.1f} s; {self.bounds}"]
        for subscription, endpoint in zip(self.subscriptions, self.endpoints, strict=False):
            lines.append(
                f"  {subscription.id} {subscription.event_types} schedule {subscription.retry_schedule_ms} "
                f"timeout {subscription.timeout_ms} in flight {subscription.max_in_flight} ordered "
                f"{subscription.ordered and subscription.ordering_key} batch {subscription.batch_max}, "
                f"{subscription.batch_wait_ms} ms, rate {subscription.rate_limit}: {endpoint.script}"
            )
        lines += [
            f"  {each.at_s:8.3f} s replay {each.id} of {each.part:.0%} and {len(each.old)} old ones"
            for each in self.replays
        ]
        lines += [
            f"  {fault.at_s:8.3f} s {fault.kind} {fault.target} ({fault.seconds:.2f} s, +{fault.steps} steps)"
            for fault in self.faults
        ]
        return "\n".join(lines)


def draw(seed: int) -> Plan:
    """The plan of a seed: the same on every machine."""
    dice = random.Random(f"plan {seed}")
    profile = dice.choices(list(PROFILES), list(PROFILES.values()))[0]
    heal_s = dice.uniform(20, 90)
    subscriptions, endpoints = _endpoints(dice, profile, heal_s)
    workers = dice.choice((1, 1, 2)) if profile in ("calm", "neighbours", "owners") else dice.choice((1, 2, 2, 3))
    plan = Plan(
        seed=seed,
        profile=profile,
        partitions=dice.choice((1, 2, 2, 3, 4)),
        workers=workers,
        stable_ids=dice.random() < 0.5,
        at_least_once=dice.random() < 1 / 3,
        subscriptions=subscriptions,
        endpoints=endpoints,
        events=_events(dice, heal_s),
        faults=_faults(dice, profile, heal_s),
        replays=[],
        bounds=_bounds(dice, profile),
        drain_s=dice.choice((0.5, 5.0, 20.0)),
        session_s=dice.choice((6.0, 45.0)),
        heartbeat_s=dice.choice(((0.01, 0.2), (0.1, 3.0))),
        fetch_s=dice.choice(((0.001, 0.01), (0.001, 0.3))),
        table_lag_s=dice.choice((0.05, 1.0)),
        heal_s=heal_s,
        encore=dice.random() < 0.4,
    )
    replays = [] if plan.at_least_once else _replays(seed, profile, heal_s, plan.events)
    replayed_max = random.Random(f"bounds {seed}").choice((1, 3, 10, 100))
    bounds = msgspec.structs.replace(plan.bounds, replayed_max=replayed_max)
    return msgspec.structs.replace(plan, replays=replays, bounds=bounds)


def _replays(seed: int, profile: Profile, heal_s: float, events: list[PlannedEvent]) -> list[PlannedReplay]:
    """Dice of their own: worlds without a replay are what they were before there were any. Without transactions there
    is none: which run a repeated attempt belongs to would not be known."""
    dice = random.Random(f"replays {seed}")
    if dice.random() < 0.5:
        return []
    replays = []
    first = 100_000
    for number in range(dice.choice((1, 1, 2))):
        at_s, count = dice.uniform(0, 1.3 * heal_s), dice.choice((0, 0, 5))
        if profile in ("calm", "neighbours"):  # nothing else goes wrong: enough of them to be in the way
            at_s, count = max(15.0, dice.choice(events).at_s - dice.random()), dice.choice((0, 30, 100))
        old = [
            PlannedEvent(at_s, first + each, dice.choice(EVENT_TYPES), dice.choice((None, "a", "b")))
            for each in range(count)
        ]
        first += count
        replays.append(PlannedReplay(at_s, f"rpl_{number}", dice.choice((0.3, 1.0)), old))
    return sorted(replays, key=lambda each: each.at_s)


def _endpoints(dice: random.Random, profile: Profile, heal_s: float) -> tuple[list[Subscription], list[Endpoint]]:
    subscriptions, endpoints = [], []
    trouble = {"calm": 0.0, "neighbours": 0.5, "workers": 0.3, "brokers": 0.2, "owners": 0.3, "storm": 0.6}[profile]
    for number in range(dice.randint(2, 4)):
        url = f"https://e{number}.example/hook"
        script: list[tuple[float, Mood]] = []
        if dice.random() < trouble:
            if profile == "neighbours":
                script = [(heal_s, dice.choice(("hanging", "dead", "slow", "late", "limited")))]
            else:
                moods = MOODS if dice.random() < 0.5 else PASSING
                cuts = sorted(dice.uniform(0, heal_s) for _ in range(dice.randint(0, 2)))
                script = [(cut, dice.choice(moods)) for cut in [*cuts, heal_s]]
        endpoints.append(Endpoint(url, script, dice.choice((0.002, 0.02, 0.2))))
        standard = dice.random() < 0.1
        kind = dice.choices(("plain", "ordered", "batched"), (5, 5, 2))[0]
        subscriptions.append(
            Subscription(
                id=f"sub_{number}",
                url=url,
                event_types=dice.choice(PATTERNS),
                secrets=(SECRET,),
                retry_schedule_ms=SCHEDULES_MS[-1] if standard else dice.choice(SCHEDULES_MS[:-1]),
                reject_statuses=dice.choice(((), (400,))),
                timeout_ms=dice.choice((1_000, 5_000, 15_000)),
                max_in_flight=dice.randint(1, 4),
                ordered=kind == "ordered",
                ordering_key=dice.choice(("subject", "type", "endpoint")),
                batch_max=dice.choice((2, 5)) if kind == "batched" else 1,
                batch_wait_ms=dice.choice((0, 50, 2_000)) if kind == "batched" else 0,
                rate_limit=dice.choice((0.0, 0.0, 0.0, 0.5, 5.0)) if profile != "neighbours" else 0.0,
                adaptive_in_flight=dice.random() < 0.2,
                disable_after_ms=dice.choice((432_000_000, 432_000_000, 20_000)),
            )
        )
    return subscriptions, endpoints


def _events(dice: random.Random, heal_s: float) -> list[PlannedEvent]:
    events: list[PlannedEvent] = []
    at = 0.0
    total = dice.randint(3, 16)
    while len(events) < total:
        at += dice.uniform(0, 2 * heal_s / total)
        for _ in range(dice.choice((1, 1, 1, 4))):
            subject = dice.choice((None, "a", "b"))
            broken = dice.random() < 0.02
            events.append(PlannedEvent(at, len(events), dice.choice(EVENT_TYPES), subject, broken))
    return events


def _bounds(dice: random.Random, profile: Profile) -> Bounds:
    circuit_results_min = dice.choice((1, 3, 5, NEVER))
    origin_rate_max = dice.choice((0.0, 0.0, 3.0)) if profile != "neighbours" else 0.0
    if dice.random() < 0.5:
        return Bounds(
            frame_records_max=dice.choice((1, 5, 20)),
            circuit_results_min=circuit_results_min,
            origin_rate_max=origin_rate_max,
        )
    return Bounds(
        circuit_results_min=circuit_results_min,
        origin_rate_max=origin_rate_max,
        read_records_max=dice.choice((2, 10, 500)),
        in_flight_max=64 if profile == "neighbours" else dice.choice((1, 3, 8)),
        admitted_max=200 if profile == "neighbours" else dice.choice((2, 5, 20)),
        group_records_max=dice.choice((1, 4, 5_000)),
        group_entries_max=dice.choice((1, 3, 2_000)),
        backlog_records_max=dice.choice((5, 20_000)),
        frame_records_max=dice.choice((1, 3, 8)),
        pending_max=700 if profile == "neighbours" else dice.choice((10, 700)),
        span_max=dice.choice((16, 24_000)),
    )


_OF_WORKERS: tuple[FaultKind, ...] = ("crash", "crash", "stop", "join", "freeze", "evict")
_OF_BROKERS: tuple[FaultKind, ...] = ("outage", "trouble")
_OF_OWNERS: tuple[FaultKind, ...] = ("pause", "pause", "resume", "delete", "move", "disable", "create")
_KINDS: dict[Profile, tuple[FaultKind, ...]] = {
    "calm": (),
    "neighbours": (),
    "workers": _OF_WORKERS,
    "brokers": (*_OF_BROKERS, *_OF_BROKERS, "crash", "evict"),
    "owners": _OF_OWNERS,
    "storm": (*_OF_WORKERS, *_OF_BROKERS, *_OF_OWNERS),
}


def _faults(dice: random.Random, profile: Profile, heal_s: float) -> list[Fault]:
    kinds = _KINDS[profile]
    if not kinds:
        return []
    faults = []
    for _ in range(dice.randint(1, 6)):
        kind = dice.choice(kinds)
        seconds = {
            "crash": dice.uniform(0, 20),
            "stop": dice.uniform(0, 5),
            "freeze": dice.choice((dice.uniform(0.1, 5), dice.uniform(5, 70))),
            "outage": dice.choice((dice.uniform(0.1, 3), dice.uniform(3, 25))),
            "trouble": dice.uniform(1, 20),
        }.get(kind, 0.0)
        steps = dice.randint(0, 300) if kind in ("crash", "freeze") else 0
        faults.append(Fault(dice.uniform(0.5, heal_s), kind, dice.randint(0, 9), seconds, steps))
    return sorted(faults, key=lambda fault: fault.at_s)
