"""Whether a schema may follow another, before any record is written: the compatibility levels of Confluent's registry.

A reader's schema reads a writer's when every record of it can be resolved. What could go wrong is found by planning the
resolution (`schemas/plan.py`), so the verdict is that of the code that will read the records. This file fetches no
schemas and knows no subjects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from schemas import codec
from schemas.plan import Plan, Problem


class Level(StrEnum):
    """What a new version must keep; Confluent's names and meanings."""

    NONE = "NONE"
    BACKWARD = "BACKWARD"  # it reads what the last version wrote: consumers go first
    BACKWARD_TRANSITIVE = "BACKWARD_TRANSITIVE"  # ... what any version wrote
    FORWARD = "FORWARD"  # the last version reads what it writes: producers go first
    FORWARD_TRANSITIVE = "FORWARD_TRANSITIVE"
    FULL = "FULL"  # both
    FULL_TRANSITIVE = "FULL_TRANSITIVE"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a version must not be. `against` is the position of the earlier version in what was given.

    `backward`: the new schema cannot read what the earlier wrote; otherwise the earlier cannot read the new one's.
    The path is in the fields of whichever reads.
    """

    against: int
    backward: bool
    problem: Problem


def unreadable(reader: str, writer: str) -> list[Problem]:
    """What keeps some record written with one schema from being read with the other; empty when every one can be.

    ValueError when one is not a valid Avro schema.
    """
    return Plan(codec.parse_schema(writer), codec.parse_schema(reader)).problems


def incompatibilities(level: Level, proposed: str, earlier: Sequence[str]) -> list[Reason]:
    """Why the proposed schema may not follow the earlier ones, oldest first; empty when it may.

    Without _TRANSITIVE only the last of them counts. ValueError when one is not a valid Avro schema.
    """
    transitive = level.endswith("_TRANSITIVE")
    first = 0 if transitive else max(0, len(earlier) - 1)
    rule = level.removesuffix("_TRANSITIVE")
    reasons: list[Reason] = []
    for position in range(first, len(earlier)):
        if rule in ("BACKWARD", "FULL"):
            reasons += [Reason(position, True, problem) for problem in unreadable(proposed, earlier[position])]
        if rule in ("FORWARD", "FULL"):
            reasons += [Reason(position, False, problem) for problem in unreadable(earlier[position], proposed)]
    return reasons
