"""Which faults the audit makes, and when: drawn from the seed before anything starts.

Faults of workers come one after another, and so do those of the cluster; those of endpoints overlap with everything.
What is drawn is what is asked for; when each was really made, and what it met, is written down by who makes it
(`audit_inject.py`). No I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import msgspec

from streams.cli.audit_plan import SUFFERING, Dice, Target

WorkerFault = Literal["worker_kill", "worker_freeze", "worker_freeze_long", "worker_join", "worker_leave"]
ClusterFault = Literal["broker_restart", "broker_kill", "leader_move", "cut_brokers"]
EndpointFault = Literal[
    "cut_receiver",
    "endpoint_hang",
    "endpoint_reset",
    "endpoint_slow",
    "endpoint_lie",
    "endpoint_flap",
    "endpoint_away",
]
FaultKind = WorkerFault | ClusterFault | EndpointFault
WORKER_FAULTS: tuple[WorkerFault, ...] = get_args(WorkerFault)
CLUSTER_FAULTS: tuple[ClusterFault, ...] = get_args(ClusterFault)
ENDPOINT_FAULTS: tuple[EndpointFault, ...] = get_args(EndpointFault)
BROKER_FAULTS = frozenset({"broker_restart", "broker_kill"})

#: Seconds: of a worker's absence after a kill, of standing still (the session ends after 9), of a broker's absence (it
#: is given up after 5), of a cut that lasts, of an endpoint's trouble.
SECONDS: dict[FaultKind, tuple[float, float]] = {
    "worker_kill": (0.0, 6.0),
    "worker_freeze": (0.5, 4.0),
    "worker_freeze_long": (11.0, 16.0),
    "worker_join": (0.0, 0.0),
    "worker_leave": (0.0, 0.0),
    "broker_restart": (0.0, 2.0),
    "broker_kill": (0.0, 7.0),
    "leader_move": (0.0, 0.0),
    "cut_brokers": (0.3, 3.0),
    "cut_receiver": (0.0, 0.0),
    "endpoint_hang": (3.0, 8.0),
    "endpoint_reset": (3.0, 8.0),
    "endpoint_slow": (3.0, 8.0),
    "endpoint_lie": (3.0, 8.0),
    "endpoint_flap": (3.0, 8.0),
    "endpoint_away": (3.0, 8.0),
}
CUTS = ("cut", "refuse", "stall")
LIES = ("lie_long", "lie_short", "lie_garbage")
#: Nothing happens in the first and last parts of the time: there is something to compare with, and everything is back
#: before the end.
FIRST_PART, LAST_PART = 0.04, 0.06
WORKERS_MORE_MAX = 2
REPLICATED_FROM = 3


class Fault(msgspec.Struct, frozen=True):
    """One fault: its number in the order of `at_s` (seconds after the first event), how long, and of what.

    `target` is a number for who makes it to choose with: which of the workers that run, which broker (-1: all), which
    endpoint. `variant` is one of `CUTS` or `LIES`, or empty.
    """

    at_s: float
    kind: FaultKind
    for_s: float
    target: int
    variant: str = ""


class Made(msgspec.Struct, frozen=True):
    """A fault as it was made. `target` is an id, a broker's number or `all`; `endpoint` is -1 where it is none's."""

    fault: Fault
    target: str
    start_ms: int
    end_ms: int
    met: str
    endpoint: int = -1


def kinds_for(brokers: int) -> tuple[FaultKind, ...]:
    """The kinds for so many brokers. From three on there are replicas in sync to go on with while one is away: faults
    of the cluster. Those of workers and endpoints need none, and three JVMs would take the machine from them."""
    if brokers >= REPLICATED_FROM:
        return CLUSTER_FAULTS
    return (*WORKER_FAULTS, "cut_brokers", *ENDPOINT_FAULTS)


def schedule(seed: int, faults: int, seconds: float, workers: int, brokers: int, targets: list[Target]) -> list[Fault]:
    """So many faults within `seconds`, every kind as often as any other, give or take one; ascending by time."""
    dice = Dice(seed, "faults")
    kinds = kinds_for(brokers)
    drawn = [*kinds * (faults // len(kinds)), *dice.shuffled(kinds)[: faults % len(kinds)]]
    of_workers = _balanced(dice.shuffled([kind for kind in drawn if kind in WORKER_FAULTS]), workers)
    of_cluster = _led(dice, dice.shuffled([kind for kind in drawn if kind in CLUSTER_FAULTS]))
    of_endpoints = dice.shuffled([kind for kind in drawn if kind in ENDPOINT_FAULTS])
    suffering = dice.shuffled([each.number for each in targets if each.kind in SUFFERING])
    made = [
        *_spread(dice, of_workers, seconds, None, brokers),
        *_spread(dice, of_cluster, seconds, None, brokers),
        *_spread(dice, of_endpoints, seconds, suffering, brokers),
    ]
    return sorted(made, key=lambda fault: fault.at_s)


def _balanced(kinds: Sequence[FaultKind], workers: int) -> list[FaultKind]:
    """Put off what would leave too few workers, or make too many; kill one instead where that does not help."""
    running, waiting = workers, list(kinds)
    order: list[FaultKind] = []
    fewest = max(1, workers - 1)
    while waiting:
        fits = next(
            (
                kind
                for kind in waiting
                if not (kind == "worker_leave" and running <= fewest)
                and not (kind == "worker_join" and running >= workers + WORKERS_MORE_MAX)
            ),
            None,
        )
        waiting.remove(fits or waiting[0])
        order.append(fits or "worker_kill")
        running += (fits == "worker_join") - (fits == "worker_leave")
    return order


def _led(dice: Dice, kinds: Sequence[FaultKind]) -> list[FaultKind]:
    """Leaders have somewhere to move back from after a broker was away: one move after each of some of those."""
    order: list[FaultKind] = [kind for kind in kinds if kind != "leader_move"]
    moves = len(kinds) - len(order)
    away = dice.shuffled([place for place, kind in enumerate(order) if kind in BROKER_FAULTS])[:moves]
    for place in sorted(away, reverse=True):
        order.insert(place + 1, "leader_move")
    order += ["leader_move"] * (moves - len(away))
    return order


def _spread(
    dice: Dice, kinds: Sequence[FaultKind], seconds: float, suffering: list[int] | None, brokers: int
) -> list[Fault]:
    """One in each of equal parts of the time; endpoints one after another, so that none has two troubles at once."""
    start, length = seconds * FIRST_PART, seconds * (1 - FIRST_PART - LAST_PART)
    variants = {"cut_brokers": list(CUTS), "endpoint_lie": list(LIES)}
    made = []
    for place, kind in enumerate(kinds):
        at_s = start + length * (place + dice.between(0.0, 0.5)) / len(kinds)
        low, high = SECONDS[kind]
        if suffering is not None:
            target = suffering[place % len(suffering)]
        elif kind == "cut_brokers":
            target = dice.below(brokers + 1) - 1
        else:
            target = dice.below(1 << 16)
        variant = ""
        if kind in variants:
            variant = variants[kind].pop(0)
            variants[kind].append(variant)  # in turn, so that each occurs
        made.append(Fault(round(at_s, 3), kind, round(dice.between(low, high), 3), target, variant))
    return made
