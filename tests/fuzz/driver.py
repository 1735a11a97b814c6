"""Running a fuzz target: so many examples from a seed, or one input from a file."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.targets import Target

CASES = Path(__file__).parent / "cases"


class Failed(AssertionError):
    """A target failed; `value` is the smallest input found that makes it."""

    def __init__(self, value: Any) -> None:
        super().__init__(f"fails on {value!r}")
        self.value = value


def run(target: Target, examples: int, number: int) -> int:
    """Check this many inputs, drawn from the seed `number`; how many were checked. `Failed` from what the check raised.

    No deadline: what must not be slow is held to a number of steps by its check.
    """
    checked = 0
    last: Any = None

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(target.inputs)
    def check(value: Any) -> None:
        nonlocal checked, last
        checked += 1
        last = value
        target.check(value)

    try:
        check()
    except Exception as error:
        raise Failed(last) from error  # the last that Hypothesis runs is the smallest
    return checked


def save(folder: Path, name: str, value: Any) -> Path:
    """Keep an input that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while (file := folder / f"{name}-{number}.txt").exists():
        number += 1
    file.write_text(ascii(value) + "\n")
    return file


def load(file: Path) -> tuple[str, Any]:
    """(target, input) of a file that `save` wrote."""
    return file.stem.rpartition("-")[0], ast.literal_eval(file.read_text())
