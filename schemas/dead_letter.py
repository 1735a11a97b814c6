"""Dead letters as they are read: which event, for whom, every attempt, and why it was given up.

They are written by `schemas/delivery.py`'s `encode_dead_letter`. What is given here serves people and programs that
look, not the path of deliveries. This file does not say whether one was retried or discarded (`streams/core/dead.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from schemas import codec
from schemas.codec import get_long, get_string
from schemas.delivery import Delivery, Facts, Try, facts_of, read_delivery

DeadState = Literal["open", "retried", "discarded"]
#: Skipped is what a replay was to send, and did not: that changes no state.
ActState = Literal["retried", "discarded", "skipped"]


class DeadLetter(msgspec.Struct, frozen=True, gc=False):
    """A delivery given up, with all its attempts; `dead_ms` is when, `detail` a sentence about the end."""

    reason: str
    detail: str
    dead_ms: int
    delivery: Delivery

    @property
    def facts(self) -> Facts:
        """Of its event."""
        return facts_of(self.delivery)

    @property
    def last(self) -> Try | None:
        """The last attempt; None when none was made."""
        return self.delivery.tries[-1] if self.delivery.tries else None


class Filed(msgspec.Struct, frozen=True, gc=False):
    """A dead letter and where it stands in `deliveries.dead`; `time_ms` is Kafka's time of its record."""

    partition: int
    offset: int
    time_ms: int
    letter: DeadLetter


class Act(msgspec.Struct, frozen=True, gc=False):
    """What somebody did about a dead letter: `id` is that of the replay that retried or skipped it, or of the mark."""

    state: ActState
    id: str
    at_ms: int
    by: str
    why: str


def closing(acts: Sequence[Act]) -> Act | None:
    """What closed a dead letter about which this was done, the latest first: that counts. None while it is open."""
    return next((act for act in acts if act.state != "skipped"), None)


def state_of(acts: Sequence[Act]) -> DeadState:
    """The state of a dead letter about which this was done, the latest first."""
    return next((act.state for act in acts if act.state != "skipped"), "open")


def decode_dead_letter(value: bytes | None) -> DeadLetter:
    """The dead letter in a framed value of any version of ours. UndecodableError when it is none.

    Version 2 ends with a map of headers, which takes at least a byte, and version 1 without: so what is there tells
    which it is, and no registry is asked.
    """
    return codec.decode_whole(value, _read, "dead letter")


def _read(value: bytes, at: int) -> tuple[DeadLetter, int]:
    reason, at = get_string(value, at)
    detail, at = get_string(value, at)
    dead_ms, start = get_long(value, at)
    delivery, at = read_delivery(value, start, 1)
    if at < len(value):
        delivery, at = read_delivery(value, start, 2)
    letter = DeadLetter(reason, detail, dead_ms, delivery)
    _ = letter.facts  # or a later question would find out
    return letter, at
