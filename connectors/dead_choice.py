"""Which dead letters a retry is about, found by reading them: what was retried or discarded already is left out.

Up to a thousand are named one by one in the order, so exactly those are sent. Of more, the order has the filter, and
then none that fits may be discarded: what was retried is left out by whoever runs it (`streams/replay.py`). This file
orders nothing (`connectors/replay_desk.py` does).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import aclosing

import msgspec

from connectors.dead_documents import Judge, Tally, wanted, within
from connectors.dead_letters import DeadLetters
from schemas.dead_letter import DeadState, Filed, state_of
from schemas.delivery import replay_of
from schemas.replay import PLACES_MAX, Place, Selection


class ChoiceError(Exception):
    """What fits cannot be retried like this; one sentence with the next step."""


class Choice(msgspec.Struct):
    """What fits, counted. `open`: where those stand that can be retried, one more than an order can name at most.

    `replayed`: how many are left out because a replay had sent them; `missing`: places where there is none. `ends` are
    one past the last offset of each partition. `complete`: all were looked at.
    """

    tally: Tally
    ends: Mapping[int, int]
    open: list[Place]
    missing: list[Place]
    replayed: int = 0
    unreadable: int = 0
    complete: bool = True

    @property
    def closed(self) -> int:
        """How many were retried or discarded already."""
        return self.tally.states["retried"] + self.tally.states["discarded"]


async def choose(
    letters: DeadLetters,
    judge: Judge,
    selection: Selection,
    state: DeadState | None,
    go_on: Callable[[int, int], bool],
) -> Choice:
    """Those that are selected, in this state (None: any). Reads for as long as `go_on(read, total)`. ClusterError."""
    choice = Choice(Tally(), await letters.ends(), [], [])
    wants = wanted(judge, selection, state)

    def make(filed: Filed) -> Filed | None:
        acts = wants(filed)
        if acts is None:
            return None
        if replay_of(filed.letter.delivery) and not selection.replayed:
            choice.replayed += 1
            return None
        choice.tally.add(judge, filed, acts)
        if state_of(acts) == "open" and len(choice.open) <= PLACES_MAX:
            choice.open.append(Place(filed.partition, filed.offset))
        return None

    if selection.places:
        found = await letters.get([(place.partition, place.offset) for place in selection.places])
        for place in selection.places:
            filed = found.get((place.partition, place.offset))
            if filed is None:
                choice.missing.append(place)
            else:
                make(filed)
        return choice
    async with aclosing(letters.stream(make, within(selection))) as batches:
        async for batch in batches:
            choice.unreadable = batch.unreadable
            if not go_on(batch.read, batch.total) and batch.read < batch.total:
                choice.complete = False
                break
    return choice


def to_send(selection: Selection, choice: Choice, *, again: bool) -> Selection:
    """What to order. ChoiceError when nothing is open."""
    if again or not choice.complete:
        return selection
    if not choice.open:
        said = f"; retried or discarded already: {choice.closed:,}" if choice.closed else ""
        said += f"; sent by a replay before, and retried with replayed: {choice.replayed:,}" * (choice.replayed > 0)
        raise ChoiceError(f"no open dead letter fits{said}")
    if len(choice.open) <= PLACES_MAX:
        return msgspec.structs.replace(selection, places=tuple(choice.open))
    if discarded := choice.tally.states["discarded"]:
        raise ChoiceError(
            f"more than {PLACES_MAX:,} are open, and of those that fit, some are discarded ({discarded:,}): choose "
            "fewer, for example by time, or say again to send all of them"
        )
    return selection
