"""`start_at`: a new subscription that gets what came before it too, by a replay that is ordered with it.

Both are written in one transaction, so there is never one without the other. How replays are ordered is in
`connectors/replay_desk.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from connectors.api.control import Control
from connectors.api.deliveries import Moment, to_ms
from connectors.api.principal import challenge
from connectors.api.problems import ProblemError, invalid
from connectors.api.routes import Call
from connectors.api.subscription_documents import StartOffsets
from connectors.replay_desk import ReplayConflictError, ReplayDesk, Since, start_of, wrong_start
from schemas.frame import Out
from schemas.replay import Place
from schemas.subscription import Subscription

EARLIEST = "earliest"
SCOPE = "replays:write"


class EventExtents:
    """A service: the topic `events`, and where its records stand."""

    def __init__(self, topic: str, extents: Callable[[str], Awaitable[Sequence[tuple[int, int, int]]]]) -> None:
        """`extents` gives (partition, first offset, end) of all partitions of a topic."""
        self.topic = topic
        self._extents = extents

    async def check(self, starts: Sequence[Place]) -> None:
        """Problem 422 where a new subscription cannot start there."""
        wrong = wrong_start(self.topic, starts, await self._extents(self.topic))
        if wrong is not None:
            raise invalid(f"start_at: {wrong}", "/start_at")


class Start(msgspec.Struct, frozen=True):
    """From where on a new subscription gets events, and the id of its replay."""

    since: Since
    replay_id: str

    def records(self, call: Call, subscription: Subscription) -> list[Out]:
        """To be written with the subscription. ProblemError 409 when its tenant has too many replays already."""
        order = start_of(call.get(Control).asked(call), self.replay_id, subscription, self.since)
        try:
            return call.get(ReplayDesk).added(call.get(Control).asked(call), order)
        except ReplayConflictError as error:
            raise ProblemError(409, str(error)) from None


async def start_asked(call: Call) -> Start | None:
    """Where the body's subscription is to start; None: now. ProblemError 403, 422."""
    said = call.body.start_at
    if said is msgspec.UNSET:
        return None
    if not call.principal.may(SCOPE):
        lacking = f"start_at needs the scope {SCOPE}, which this key lacks; use one that has it"
        raise ProblemError(403, lacking, headers=challenge("insufficient_scope", SCOPE))
    return Start(await _since(call, said), call.get(ReplayDesk).new_id())


async def _since(call: Call, said: str | StartOffsets) -> Since:
    if isinstance(said, str):
        return Since() if said == EARLIEST else Since(_past_ms(call, said))
    starts = tuple(Place(int(partition), offset) for partition, offset in said.offsets.items())
    await call.get(EventExtents).check(starts)
    return Since(starts=starts)


def _past_ms(call: Call, text: str) -> int:
    try:
        since_ms = to_ms(msgspec.convert(text, Moment))
    except (msgspec.ValidationError, OverflowError):
        since_ms = None
    if since_ms is None:
        raise invalid(
            "start_at: neither earliest, nor a time and its zone as 2026-08-01T12:00:00Z, nor offsets", "/start_at"
        )
    if not 0 <= since_ms <= call.get(Control).now_ms():
        raise invalid("start_at: not in the past; leave it out to start now", "/start_at")
    return since_ms
