"""What a checker is: it is told what happens, and raises when a promise is broken.

Each promise has a checker in a file of its own. Checkers do not know each other and nothing of the engine's inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from schemas.post import PostResult
from schemas.subscription import Subscription
from tests.simulation.books import Commit
from tests.simulation.endpoints import PostStarted
from tests.simulation.kafka import Stored
from tests.simulation.plan import PlannedEvent

if TYPE_CHECKING:
    from tests.simulation.world import World


class ViolationError(AssertionError):
    """A promise is broken; `checker` is the name of the one who says so."""

    checker = ""


class Checker:
    """Override what matters for the promise."""

    def begin(self, world: World) -> None:
        """Before anything happens."""

    def on_event(self, event: PlannedEvent, stored: Stored) -> None:
        """An application wrote an event."""

    def on_subscription(self, at_s: float, subscription_id: str, subscription: Subscription | None) -> None:
        """An owner changed a subscription, or deleted it (None)."""

    def on_commit(self, commit: Commit) -> None:
        """A transaction was committed."""

    def on_post(self, post: PostStarted) -> None:
        """A worker started a POST."""

    def on_answer(self, post: PostStarted, result: PostResult) -> None:
        """A worker was told what became of a POST."""

    def at_end(self) -> None:
        """Everything is mended, and nothing more will happen."""


Checkers = Sequence[Checker]
