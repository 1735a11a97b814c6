"""What follows from an order to deliver again: what it selects, its next state, whether it doubles another.

Pure rules: this file reads nothing, and does not know how deliveries are made (`streams/replay.py` does that).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from schemas.delivery import Try
from schemas.replay import ENDED, ERROR_CLASS_OF_CAUSE, Place, Progress, Replay, Selection, State, Wanted

#: Records of a topic may stand this far out of the order of their times: so much further is read for `until_ms`.
DISORDER_MS = 600_000


class Candidate(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a selection is asked about: an event, a delivery or a dead letter.

    `timestamp_ms` is Kafka's time of the record. An event has no `subscription_id` (None): it may have many. `reason`
    and `error_class` are of dead letters, and so is what `place` is good for. `replayed`: it carries a replay's marker.
    """

    timestamp_ms: int
    tenant: str
    event_type: str
    event_id: str
    subscription_id: str | None = None
    reason: str = ""
    error_class: str = "none"
    place: Place = Place(-1, -1)
    replayed: bool = False


Selects = Callable[[Candidate], bool]


def selects(selection: Selection) -> Selects:
    """Whether it selects a record of its source, prepared for many of them.

    The marker is no part of it: one that is selected and carries one is skipped and counted (`skips`). An event is
    selected whatever the subscriptions: of them, the chosen ones get it.
    """
    subscriptions, types = frozenset(selection.subscriptions), frozenset(selection.event_types)
    prefixes = tuple(pattern[:-1] for pattern in types if pattern.endswith("*"))  # "order." of "order.*", "" of "*"
    ids, reasons = frozenset(selection.event_ids), frozenset(selection.reasons)
    classes, places = frozenset(selection.error_classes), frozenset(selection.places)
    since_ms, until_ms, tenant = selection.since_ms, selection.until_ms, selection.tenant

    def selected(it: Candidate) -> bool:
        return (
            (since_ms is None or it.timestamp_ms >= since_ms)
            and (until_ms is None or it.timestamp_ms < until_ms)
            and (tenant is None or it.tenant == tenant)
            and (not subscriptions or it.subscription_id is None or it.subscription_id in subscriptions)
            and (not types or it.event_type in types or it.event_type.startswith(prefixes))
            and (not ids or it.event_id in ids)
            and (not reasons or it.reason in reasons)
            and (not classes or it.error_class in classes)
            and (not places or it.place in places)
        )

    return selected


def skips(selection: Selection, it: Candidate) -> bool:
    """Whether what it selects is left out all the same: a replay has delivered it already."""
    return it.replayed and not selection.replayed


def error_class(last: Try | None) -> str:
    """One of `schemas.replay.ERROR_CLASSES`: what the last attempt came to; None when there was none."""
    if last is None:
        return "none"
    if last.status:
        return f"{last.status // 100}xx"
    return ERROR_CLASS_OF_CAUSE.get(last.cause, "connection")


# --- states -----------------------------------------------------------------------------------------------------------

#: What may be asked of a replay that is wanted so.
CHANGES: dict[Wanted, frozenset[Wanted]] = {
    "planned": frozenset({"running", "paused", "cancelled"}),
    "running": frozenset({"paused", "cancelled"}),
    "paused": frozenset({"running", "cancelled"}),
    "cancelled": frozenset(),
}


def may_want(order: Replay, progress: Progress | None, wanted: Wanted) -> bool:
    """Whether the order may be changed to want this. What it wants already changes nothing, and may."""
    if progress is not None and progress.state in ENDED:
        return False
    return wanted == order.wanted or wanted in CHANGES[order.wanted]


def next_state(wanted: Wanted, state: State | None, *, pending: bool = False, finished: bool = False) -> State:
    """The state to be in now. `state` None: nobody has looked at the order yet. `pending`: its only subscription may
    not be sent anything yet. `finished`: the spans have been read to their ends, for the count or the run."""
    if state is not None and state in ENDED:
        return state
    if wanted == "cancelled":
        return "cancelled"
    match state:
        case None | "waiting":
            return "waiting" if pending else "counting"
        case "counting":
            return wanted if finished else "counting"
        case "running":
            return "done" if finished else "paused" if wanted == "paused" else "running"
        case _:  # planned, paused
            return "running" if wanted == "running" else "paused" if wanted == "paused" else state


# --- the guard --------------------------------------------------------------------------------------------------------


def doubled(order: Replay, others: Iterable[tuple[Replay, Progress | None]]) -> Replay | None:
    """Another one that delivers, or has delivered, some of what this one would, by an equal selection whose times
    overlap; None when there is none, or `again` is said.

    What is only planned delivers nothing, and neither does what has failed or was cancelled: those are not counted. Nor
    is what is done, of dead letters: whatever is ordered, each of them is sent by one replay only.
    """
    if order.again:
        return None
    mine = _chosen(order.selection)
    uncounted = ENDED if order.selection.source == "dead" else ENDED - {"done"}
    for other, progress in others:
        idle = other.wanted == "planned" or other.wanted == "cancelled"
        over = progress is not None and progress.state in uncounted
        if other.id == order.id or idle or over or _chosen(other.selection) != mine:
            continue
        (since, until), (other_since, other_until) = _times(order), _times(other)
        if since < other_until and other_since < until:
            return other
    return None


def _chosen(selection: Selection) -> tuple[object, ...]:
    """What is selected, times and order apart."""
    s = selection
    lists = (s.subscriptions, s.event_types, s.event_ids, s.reasons, s.error_classes, s.places)
    return (s.source, s.tenant, *(frozenset(each) for each in lists))


def _times(order: Replay) -> tuple[int, int]:
    """[from, to) in milliseconds; what has no end was ordered when it was, and reads nothing of after."""
    until_ms = order.selection.until_ms
    return order.selection.since_ms or 0, order.created_ms + 1 if until_ms is None else until_ms
