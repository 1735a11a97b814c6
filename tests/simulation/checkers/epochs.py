"""Promise 7: a partition given up never commits: nothing of an old epoch is written."""

from __future__ import annotations

from tests.simulation.books import Commit
from tests.simulation.checkers.base import Checker, ViolationError


class Epochs(Checker):
    """Offsets come from the partition's owner, and progress is never taken back."""

    def on_commit(self, commit: Commit) -> None:
        if commit.foreign:
            raise ViolationError(f"{commit.worker} committed offsets of {commit.foreign}, which were not its own")
        if commit.unfinished:
            raise ViolationError(f"{commit.worker} took finished offsets back: {commit.unfinished}")
