"""Which seeds a run plays: `SIMULATION_SEED=n` that one alone, `SIMULATION_SEEDS=n` so many from 0 on."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

#: What a run plays that says nothing else.
SEEDS = 2_000
#: Tests that they are shared out between.
PARTS = 16


def parts(environment: Mapping[str, str]) -> list[range]:
    """The seeds of each test."""
    one = environment.get("SIMULATION_SEED")
    if one:
        return [range(int(one), int(one) + 1)]
    total = int(environment.get("SIMULATION_SEEDS") or SEEDS)
    bounds = [total * part // PARTS for part in range(PARTS + 1)]
    return [range(first, last) for first, last in pairwise(bounds) if first < last]
