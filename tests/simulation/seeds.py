"""Which seeds a run plays: `SIMULATION_SEED=n` that one alone, `SIMULATION_SEEDS=n` so many from 0 on, and those beyond
that once found something."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

#: What a run plays that says nothing else.
SEEDS = 2_000
#: Tests that they are shared out between.
PARTS = 16
#: What they found is mended: order while given-up deliveries were not durable, a record of one's own after another's.
#: And in the checkers: partitions that move while no broker answers, without transactions; fewer places than endpoints.
FOUND = (13236, 21230, 13466, 36180, 17930, 28156)


def parts(environment: Mapping[str, str]) -> list[range]:
    """The seeds of each test."""
    one = environment.get("SIMULATION_SEED")
    if one:
        return [range(int(one), int(one) + 1)]
    total = int(environment.get("SIMULATION_SEEDS") or SEEDS)
    bounds = [total * part // PARTS for part in range(PARTS + 1)]
    found = [range(seed, seed + 1) for seed in FOUND if seed >= total]
    return [range(first, last) for first, last in pairwise(bounds) if first < last] + found
