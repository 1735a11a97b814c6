"""All checkers, in the order in which they are told."""

from __future__ import annotations

from tests.simulation.checkers.attempts import Attempts
from tests.simulation.checkers.base import Checker
from tests.simulation.checkers.budget import Budget
from tests.simulation.checkers.epochs import Epochs
from tests.simulation.checkers.exactly_once import ExactlyOnce
from tests.simulation.checkers.identity import Identity
from tests.simulation.checkers.isolation import Isolation
from tests.simulation.checkers.memory import Memory
from tests.simulation.checkers.nothing_lost import NothingLost
from tests.simulation.checkers.offsets import Offsets
from tests.simulation.checkers.order import Order
from tests.simulation.checkers.settled import Settled

CHECKERS: tuple[type[Checker], ...] = (
    Epochs,
    Offsets,
    ExactlyOnce,
    Attempts,
    Budget,
    Identity,
    Settled,
    Memory,
    Isolation,
    Order,
    NothingLost,
)


def all_checkers() -> list[Checker]:
    """A fresh one of each."""
    return [checker() for checker in CHECKERS]
