"""Each checker, alone, against engines that break its promise: it objects within so many seeds."""

from __future__ import annotations

import pytest

from tests.simulation.checkers.all import CHECKERS
from tests.simulation.checkers.base import Checker, ViolationError
from tests.simulation.engine import Engine
from tests.simulation.mutants import MUTANTS
from tests.simulation.world import run_seed

#: (checker, mutant, seeds within which it must be caught: so many from 0 on, or where a rare one was found)
CAUGHT: list[tuple[str, str, int | range]] = [
    ("NothingLost", "LosingFanOut", 20),
    ("NothingLost", "QuietFanOut", 200),
    ("NothingLost", "StuckTiers", 20),
    ("ExactlyOnce", "DoublingSettler", 20),
    ("ExactlyOnce", "OffsetsFirst", 20),
    ("ExactlyOnce", "HeedlessPublisher", range(2_710, 2_760)),
    ("Attempts", "ForgetfulSettler", 20),
    ("Attempts", "ResettingSettler", 20),
    ("Budget", "ResettingSettler", 20),
    ("Budget", "FastClock", 50),
    ("Identity", "FreshIds", 20),
    ("Epochs", "HeedlessPublisher", range(1_240, 1_290)),
    ("Epochs", "LedgerWithoutMemory", 200),
    ("Offsets", "OffsetsFirst", 20),
    ("Offsets", "MarksAtOnce", 100),
    ("Offsets", "LedgerPastHoles", 20),
    ("Settled", "LedgerWithoutMemory", 200),
    ("Settled", "LedgerForEver", 200),
    ("Memory", "Unbounded", 50),
    ("Isolation", "OneAtATime", 200),
    ("Isolation", "ReplaysInLine", 20),
    ("Isolation", "PatientReplays", range(240, 320)),
    ("Order", "Unordered", 50),
]


@pytest.mark.parametrize(("checker", "mutant", "seeds"), CAUGHT, ids=str)
@pytest.mark.timeout(300)
def test_the_checker_objects(checker: str, mutant: str, seeds: int | range) -> None:
    make = next(one for one in CHECKERS if one.__name__ == checker)
    with pytest.raises(ViolationError) as caught:
        play(range(seeds) if isinstance(seeds, int) else seeds, MUTANTS[mutant], make)
    assert caught.value.checker == checker


def play(seeds: range, engine: type[Engine], checker: type[Checker]) -> None:
    for seed in seeds:
        run_seed(seed, engine, [checker()])


def test_every_checker_and_every_mutant_is_here() -> None:
    assert {checker for checker, _, _ in CAUGHT} == {checker.__name__ for checker in CHECKERS}
    assert {mutant for _, mutant, _ in CAUGHT} == set(MUTANTS)
