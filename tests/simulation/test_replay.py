"""A seed is a world: the same on every run, machine and hash seed; and worlds are rich enough to be worth playing."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.checkers.base import ViolationError
from tests.simulation.checkers.budget import Budget
from tests.simulation.endpoints import AGAIN
from tests.simulation.mutants import ResettingSettler
from tests.simulation.plan import PROFILES, draw
from tests.simulation.seeds import FOUND, PARTS, parts
from tests.simulation.world import World, run_seed

ROOT = Path(__file__).parents[2]
DIGEST = """
from tests.simulation.test_replay import digest
print(digest(range(3)))
"""


def digest(seeds: range) -> str:
    """Of all that was written and sent in these worlds, and when."""
    state = hashlib.sha256()
    for seed in seeds:
        world = run_seed(seed)
        for key, log in world.kafka.logs.items():
            for entry in log.entries:
                if entry is not None:
                    state.update(repr((key, entry.key(), entry.value(), entry.timestamp(), entry.committed)).encode())
        state.update(repr(world.internet.received).encode())
        state.update(repr((world.scheduler.now, world.scheduler.steps)).encode())
    return state.hexdigest()


@pytest.mark.timeout(600)
def test_a_seed_is_the_same_world_whatever_the_hash_seed() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=250,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert digest(range(3)) in digests.pop()
    assert digest(range(3)) != digest(range(1, 4))


def test_a_failure_tells_its_story_and_how_to_play_it_again() -> None:
    found = {}
    for number in range(5):
        try:
            run_seed(number, ResettingSettler, [Budget()])
        except ViolationError as violation:
            found[number] = violation
    seed, caught = found.popitem()
    story = str(caught)
    assert f"SIMULATION_SEED={seed} pytest" in story
    assert f"seed {seed}: a " in story
    assert f"{draw(seed).profile} world" in story
    assert " post w" in story
    assert caught.checker == "Budget"


def test_the_environment_says_which_seeds_are_played() -> None:
    assert parts({"SIMULATION_SEED": "17", "SIMULATION_SEEDS": "9"}) == [range(17, 18)]
    found = [range(seed, seed + 1) for seed in FOUND]
    assert parts({"SIMULATION_SEEDS": "3"}) == [range(1), range(1, 2), range(2, 3), *found]
    assert len(parts({"SIMULATION_SEEDS": "50000"})) == PARTS
    for total in ({}, {"SIMULATION_SEEDS": "1000"}):
        shared = parts(total)
        assert shared[PARTS:] == found
        assert [seed for part in shared[:PARTS] for seed in part] == list(range(shared[PARTS - 1].stop))


def test_worlds_are_rich() -> None:
    """Everything that the checkers are there for happens, or their silence would say nothing."""
    seen: Counter[str] = Counter()
    for seed in range(200):
        world = play(seed)
        seen.update(world.counters)
        seen.update(f"fault:{fault.kind}" for fault in world.plan.faults)
        seen[f"profile:{world.plan.profile}"] += 1
        seen["aborted"] += sum(
            entry is not None and not entry.committed for log in world.kafka.logs.values() for entry in log.entries
        )
        seen["duplicates"] += len(world.internet.received) - len(
            {(received.webhook_id, received.worker) for received in world.internet.received}
        )
        seen["workers"] += len(world.workers) - world.plan.workers
        seen["at_least_once"] += world.plan.at_least_once
        seen["ordered"] += any(subscription.ordered for subscription in world.plan.subscriptions)
        seen["replayed"] += sum(AGAIN in run for run in world.books.ended)
        seen["batches"] += sum(received.webhook_id.startswith("bat_") for received in world.internet.received)
    wanted = {
        *("delivered", "retried", "parked", "hops", "cancelled", "quarantined:unknown_schema", "unmatched"),
        *("dead:exhausted", "dead:rejected", "dead:gone", "dead:disabled"),
        *("circuit.opened", "circuit.closed", "endpoint.disabled"),
        *("aborted", "duplicates", "workers", "ordered", "batches", "at_least_once", "replayed"),
        *(f"profile:{profile}" for profile in PROFILES),
        *(f"fault:{kind}" for kind in ("crash", "stop", "join", "freeze", "evict", "outage", "trouble")),
        *(f"fault:{kind}" for kind in ("pause", "resume", "delete", "move", "disable", "create")),
    }
    assert {name for name in wanted if not seen[name]} == set()


def play(seed: int) -> World:
    """A world whose outcome is not the matter here."""
    return run_seed(seed, checkers=[])
