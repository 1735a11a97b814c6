"""The whole engine in seeded worlds: whatever goes wrong, the checkers have nothing to object to.

A failure names its seed; `SIMULATION_SEED=n pytest tests/simulation` plays exactly that world again, with
`SIMULATION_TRACE=10000` for all that happened in it. `SIMULATION_SEEDS=n` plays more or fewer worlds.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.seeds import parts
from tests.simulation.world import run_seed


@pytest.mark.parametrize("seeds", parts(os.environ), ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
@pytest.mark.timeout(600)
def test_the_promises_hold(seeds: range) -> None:
    for seed in seeds:
        run_seed(seed)
