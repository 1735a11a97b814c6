"""`start_at`: a new subscription that gets what came before it too, by a replay that is ordered with it.

Both are written in one transaction, so there is never one without the other. How replays are ordered is in
`connectors/replay_desk.py`.
"""

from __future__ import annotations

import msgspec

from connectors.api.control import Control
from connectors.api.deliveries import Moment, to_ms
from connectors.api.principal import challenge
from connectors.api.problems import ProblemError, invalid
from connectors.api.routes import Call
from connectors.replay_desk import ReplayConflictError, ReplayDesk, start_of
from schemas.frame import Out
from schemas.subscription import Subscription

EARLIEST = "earliest"
SCOPE = "replays:write"


class Start(msgspec.Struct, frozen=True):
    """From where on a new subscription gets events (None: all that are still there), and the id of its replay."""

    since_ms: int | None
    replay_id: str

    def records(self, call: Call, subscription: Subscription) -> list[Out]:
        """To be written with the subscription. ProblemError 409 when its tenant has too many replays already."""
        order = start_of(call.get(Control).asked(call), self.replay_id, subscription, self.since_ms)
        try:
            return call.get(ReplayDesk).added(call.get(Control).asked(call), order)
        except ReplayConflictError as error:
            raise ProblemError(409, str(error)) from None


def start_asked(call: Call) -> Start | None:
    """Where the body's subscription is to start; None: now. ProblemError 403, 422."""
    text = call.body.start_at
    if text is msgspec.UNSET:
        return None
    if not call.principal.may(SCOPE):
        lacking = f"start_at needs the scope {SCOPE}, which this key lacks; use one that has it"
        raise ProblemError(403, lacking, headers=challenge("insufficient_scope", SCOPE))
    return Start(None if text == EARLIEST else _past_ms(call, text), call.get(ReplayDesk).new_id())


def _past_ms(call: Call, text: str) -> int:
    try:
        since_ms = to_ms(msgspec.convert(text, Moment))
    except (msgspec.ValidationError, OverflowError):
        since_ms = None
    if since_ms is None:
        raise invalid("start_at: neither earliest nor a time and its zone, as 2026-08-01T12:00:00Z", "/start_at")
    if not 0 <= since_ms <= call.get(Control).now_ms():
        raise invalid("start_at: not in the past; leave it out to start now", "/start_at")
    return since_ms
