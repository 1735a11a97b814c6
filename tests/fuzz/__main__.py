"""`python -m tests.fuzz [--minutes N] [--seed N] [TARGET ...]`, or `python -m tests.fuzz FILE` to run one input again.

Goes round the targets until the time is over. An input that fails is kept in a file, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz import driver
from tests.fuzz.targets import TARGETS

EXAMPLES = 500  # of one target, before it is another's turn
REPORT_S = 30.0
FOUND = Path("fuzz-found")


def say(text: str) -> None:
    """One line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def replay(file: Path) -> int:
    """One input, with the traceback of what it does; the exit code."""
    name, value = driver.load(file)
    say(f"{name}: {value!r}")
    TARGETS[name].check(value)
    say("passes")
    return 0


def fuzz(names: list[str], minutes: float, number: int, found: Path) -> int:
    """The exit code."""
    started = reported = time.monotonic()
    checked = dict.fromkeys(names, 0)
    took_s = dict.fromkeys(names, 0.0)
    failed: set[str] = set()

    def report() -> None:
        shown = ", ".join(f"{name} {checked[name]:,} ({checked[name] / (took_s[name] or 1):,.0f}/s)" for name in names)
        say(f"{time.monotonic() - started:5.0f} s  seed {number}  {shown}")

    while time.monotonic() - started < minutes * 60 and failed != set(names):
        for name in names:
            if name in failed:
                continue
            before = time.monotonic()
            try:
                checked[name] += driver.run(TARGETS[name], EXAMPLES, number)
            except driver.Failed as failure:
                failed.add(name)
                traceback.print_exception(failure.__cause__)
                file = driver.save(found, name, failure.value)
                say(f"{name} {failure}")
                say(f"run it again: python -m tests.fuzz {file}")
                say("make it a test: move the file into tests/fuzz/cases")
            took_s[name] += time.monotonic() - before
        number += 1
        if time.monotonic() - reported > REPORT_S:
            reported = time.monotonic()
            report()
    report()
    say(f"{sum(checked.values()):,} inputs, {len(failed)} targets failed")
    return 1 if failed else 0


def main(arguments: list[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz what reads bytes from outside.")
    parser.add_argument("what", nargs="*", help=f"targets ({', '.join(TARGETS)}), or one file to run again")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, help="the first; default: from the clock, so that no two runs are the same")
    parser.add_argument("--found", type=Path, default=FOUND, help="where inputs that fail are kept")
    options = parser.parse_args(arguments)
    if len(options.what) == 1 and options.what[0] not in TARGETS:
        return replay(Path(options.what[0]))
    number = options.seed if options.seed is not None else time.time_ns() // 1_000_000_000 * 1_000
    return fuzz(options.what or list(TARGETS), options.minutes, number, options.found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
