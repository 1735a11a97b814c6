"""What became of dead letters: open, retried or discarded. Nothing is written at a dead letter itself.

A replay has retried those that it selects and has read past, but for those that it says it has not sent; while it is
under way, also those that it will send. A mark has discarded those that it selects below its ends. So one record says
it of any number of them. What was done last counts. Pure: this file reads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

import msgspec

from schemas.dead_letter import Act, Filed
from schemas.dead_mark import DeadMark
from schemas.delivery import replay_of
from schemas.replay import ENDED, Place, Progress, Replay
from streams.core.replay import Candidate, error_class, selects, skips

#: Of replays that have not begun to send: what they have read, they have only counted.
_COUNTING = frozenset({"waiting", "counting", "planned"})
#: An offset that no record has.
_BEYOND = 1 << 63
#: Why a letter was skipped.
SKIPPED = "its subscription is gone, or takes it no more"

Orders = Iterable[tuple[Replay, Progress | None]]

#: By partition: from this offset to below that one.
_Ranges = dict[int, tuple[int, int]]
#: What was done about a dead letter, the latest first; nothing for an open one.
Acts = Callable[[Filed], tuple[Act, ...]]


def candidate(filed: Filed) -> Candidate:
    """A dead letter, as selections are asked about it."""
    letter = filed.letter
    facts = letter.facts
    return Candidate(
        timestamp_ms=filed.time_ms,
        tenant=facts.tenant,
        event_type=facts.event_type,
        event_id=facts.event_id,
        subscription_id=letter.delivery.subscription_id,
        reason=letter.reason,
        error_class=error_class(letter.last),
        place=Place(filed.partition, filed.offset),
        replayed=bool(replay_of(letter.delivery)),
    )


def acts(dead_topic: str, replays: Orders, marks: Iterable[DeadMark]) -> Acts:
    """Prepared for many of them."""
    made: list[tuple[Act, str | None, _Reach]] = []
    for replay, progress in replays:
        reach = _reach(dead_topic, replay, progress)
        if reach is not None:
            act = Act("retried", replay.id, replay.created_ms, replay.by, replay.why)
            made.append((act, replay.selection.tenant, reach))
    for mark in marks:
        ends = {end.partition: (0, end.offset) for end in mark.ends}
        act = Act("discarded", mark.id, mark.at_ms, mark.by, mark.why)
        made.append((act, mark.selection.tenant, _Reach(ends, ends, selects(mark.selection), {})))
    made.sort(key=lambda each: (each[0].at_ms, each[0].id), reverse=True)

    @cache
    def about(tenant: str) -> list[tuple[Act, _Reach]]:
        """What other tenants did costs a letter of this one nothing."""
        return [(act, reach) for act, of_it, reach in made if of_it in (None, tenant)]

    def of(filed: Filed) -> tuple[Act, ...]:
        found: list[Act] = []
        asked: Candidate | None = None
        for act, reach in about(filed.letter.facts.tenant):
            low, high = reach.claims.get(filed.partition, reach.others)
            if low <= filed.offset < high:
                if asked is None:
                    asked = candidate(filed)
                if reach.selected(asked):
                    skipped = reach.skipped(asked)
                    found.append(msgspec.structs.replace(act, state="skipped", why=SKIPPED) if skipped else act)
        return tuple(found)

    return of


def already_sent(dead_topic: str, replays: Orders) -> Callable[[Candidate], bool]:
    """Whether one of these replays has sent the dead letter again, prepared for many of them. What is only claimed by
    one that has not come to it yet does not count."""
    made = [
        (each[0].selection.tenant, reach)
        for each in replays
        if (reach := _reach(dead_topic, *each)) is not None and reach.sent
    ]

    @cache
    def about(tenant: str) -> list[_Reach]:
        return [reach for of_it, reach in made if of_it in (None, tenant)]

    def of(it: Candidate) -> bool:
        partition, offset = it.place.partition, it.place.offset
        for reach in about(it.tenant):
            low, high = reach.sent.get(partition, (0, 0))
            if low <= offset < high and reach.selected(it) and not reach.skipped(it):
                return True
        return False

    return of


class _Reach(NamedTuple):
    """How far one has come: by partition, the offsets [from, to) that it has `sent` of those `selected`, and those
    that it `claims`: these, and what it is still to send. `others`: the claim to partitions that are not named."""

    sent: _Ranges
    claims: _Ranges
    selected: Callable[[Candidate], bool]
    unsent: dict[tuple[str, int], list[tuple[int, int]]]
    others: tuple[int, int] = (0, 0)

    def skipped(self, it: Candidate) -> bool:
        """Whether it was left out, since nobody was there to get it."""
        runs = self.unsent.get((it.subscription_id or "", it.place.partition), ())
        return any(start <= it.place.offset < end for start, end in runs)


def _reach(dead_topic: str, replay: Replay, progress: Progress | None) -> _Reach | None:
    """Of a replay of dead letters; None where it has sent none, and is to send none."""
    if replay.selection.source != "dead":
        return None
    spans = [] if progress is None else [span for span in progress.spans if span.topic == dead_topic]
    begun = progress is not None and progress.state not in _COUNTING
    sent = {each.partition: (each.start, each.position) for each in spans} if begun else {}
    claims, others = sent, (0, 0)
    if replay.wanted in ("running", "paused") and (progress is None or progress.state not in ENDED):
        claims = {each.partition: (each.start, each.end) for each in spans}
        others = (0, 0) if spans else (0, _BEYOND)
    elif progress is None or not (progress.sent or progress.unsent):
        return None
    unsent: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for run in () if progress is None else progress.unsent:
        unsent.setdefault((run.subscription_id, run.partition), []).append((run.start, run.end))
    selected, selection = selects(replay.selection), replay.selection
    return _Reach(sent, claims, lambda it: selected(it) and not skips(selection, it), unsent, others)
