"""What became of dead letters: open, retried or discarded. Nothing is written at a dead letter itself.

A replay has retried those that it selects and has read past; a mark has discarded those that it selects below its ends.
So one record says it of any number of them. What was done last counts. Pure: this file reads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

from schemas.dead_letter import Act, Filed
from schemas.dead_mark import DeadMark
from schemas.delivery import replay_of
from schemas.replay import Place, Progress, Replay
from streams.core.replay import Candidate, error_class, selects, skips

#: Of replays that have not begun to send: what they have read, they have only counted.
_COUNTING = frozenset({"waiting", "counting", "planned"})


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


def acts(dead_topic: str, replays: Iterable[tuple[Replay, Progress | None]], marks: Iterable[DeadMark]) -> Acts:
    """Prepared for many of them."""
    made: list[tuple[Act, str | None, _Ranges, Callable[[Candidate], bool]]] = []
    for replay, progress in replays:
        if replay.selection.source != "dead" or progress is None or progress.state in _COUNTING or not progress.sent:
            continue
        spans = {span.partition: (span.start, span.position) for span in progress.spans if span.topic == dead_topic}
        act = Act("retried", replay.id, replay.created_ms, replay.by, replay.why)
        made.append((act, replay.selection.tenant, spans, _sent_by(replay)))
    for mark in marks:
        ends = {end.partition: (0, end.offset) for end in mark.ends}
        act = Act("discarded", mark.id, mark.at_ms, mark.by, mark.why)
        made.append((act, mark.selection.tenant, ends, selects(mark.selection)))
    made.sort(key=lambda each: (each[0].at_ms, each[0].id), reverse=True)

    @cache
    def about(tenant: str) -> list[tuple[Act, _Ranges, Callable[[Candidate], bool]]]:
        """What other tenants did costs a letter of this one nothing."""
        return [(act, ranges, selected) for act, of_it, ranges, selected in made if of_it in (None, tenant)]

    def of(filed: Filed) -> tuple[Act, ...]:
        found: list[Act] = []
        asked: Candidate | None = None
        for act, ranges, selected in about(filed.letter.facts.tenant):
            low, high = ranges.get(filed.partition, (0, 0))
            if low <= filed.offset < high:
                if asked is None:
                    asked = candidate(filed)
                if selected(asked):
                    found.append(act)
        return tuple(found)

    return of


def _sent_by(replay: Replay) -> Callable[[Candidate], bool]:
    selected, selection = selects(replay.selection), replay.selection
    return lambda it: selected(it) and not skips(selection, it)
