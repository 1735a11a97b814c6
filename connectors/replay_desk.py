"""Ordering replays, and pausing, resuming and cancelling them: what the HTTP API and the command line have in common.

Each change goes through the pen, with its audit record in the same transaction. What is ordered is done by a worker
with the role replay, which tells its progress on a topic of its own. This file does nothing of that, and knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple, Protocol

import msgspec

from connectors.pen import Pen
from schemas.audit import Asked, audit_out, audit_record
from schemas.frame import Out
from schemas.replay import (
    ENDED,
    RATE_DEFAULT,
    InvalidReplayError,
    Place,
    Progress,
    Replay,
    Selection,
    Wanted,
    checked_replay,
    encode_replay,
)
from schemas.subscription import Subscription

KIND = "replay"
#: Replays that are not at their end, of one tenant and of the operators.
OPEN_MAX = 100
#: Orders that are remembered; one more removes the oldest that ended. Kafka removes them after 60 days.
REPLAYS_MAX = 10_000
#: Records that one change removes.
REMOVED_MAX = 100

Wish = Literal["running", "paused", "cancelled"]
_ACTIONS: dict[str, str] = {"running": "resumed", "paused": "paused", "cancelled": "cancelled"}


class Rules(NamedTuple):
    """What may be asked (`streams/core/replay.py`). `doubled` is another one that sends some of the same already;
    `may_want` whether the order may be changed to this."""

    doubled: Callable[[Replay, Iterable[tuple[Replay, Progress | None]]], Replay | None]
    may_want: Callable[[Replay, Progress | None, Wanted], bool]


class UnknownReplayError(Exception):
    """There is no such replay, for whoever asks."""


class ReplayConflictError(Exception):
    """The change cannot be made as things are; one sentence with the next step."""


class ReplayTopics(NamedTuple):
    """Where the records go, and what stands before them (`schemas.codec.wire_header`)."""

    replays: str
    replays_header: bytes
    audit: str
    audit_header: bytes


class Orders(Protocol):
    """The table of orders, which the pen's changes are decided on."""

    def get(self, id_: str) -> Replay | None: ...
    def __iter__(self) -> Iterator[Replay]: ...


class Progresses(Protocol):
    """What workers told of them."""

    def get(self, id_: str) -> Progress | None: ...


class ReplayDesk:
    """Every method takes the change as it was asked for: by whom, and when. The errors of `Pen.change` pass through."""

    def __init__(
        self,
        orders: Orders,
        progresses: Progresses,
        pen: Pen,
        topics: ReplayTopics,
        new_id: Callable[[], str],
        rules: Rules,
        *,
        tenant_rate_max: float,
    ) -> None:
        """`new_id` makes an id that nobody has, for callers. `tenant_rate_max` deliveries a second are the most that a
        tenant may ask for."""
        self._orders = orders
        self._progresses = progresses
        self._pen = pen
        self._topics = topics
        self.new_id = new_id
        self._rules = rules
        self._tenant_rate_max = tenant_rate_max

    def find(self, asked: Asked, replay_id: str) -> tuple[Replay, Progress | None]:
        """The order, and what is told of it. UnknownReplayError, also where it is another tenant's."""
        order = self._orders.get(replay_id)
        if order is None or not asked.principal.sees(order.selection.tenant):
            raise UnknownReplayError(f"there is no replay {replay_id}")
        return order, self._progresses.get(replay_id)

    def every(self, tenant: str | None = None) -> list[tuple[Replay, Progress | None]]:
        """Those of a tenant, None for all; the newest first."""
        found = [each for each in self._orders if tenant in (None, each.selection.tenant)]
        found.sort(key=lambda each: (each.created_ms, each.id), reverse=True)
        return [(each, self._progresses.get(each.id)) for each in found]

    async def create(self, asked: Asked, order: Replay) -> Replay:
        """Write it. ReplayConflictError when some of it is sent by another (unless it says `again`), or too much is;
        InvalidReplayError when a tenant may not have it so fast."""
        self._check_rate(asked, order.rate_max)

        def decide() -> list[Out]:
            self._check_doubled(order)
            return [*self.added(asked, order), *self._removed()]

        await self._pen.change(decide)
        return order

    async def change(
        self, asked: Asked, replay_id: str, wish: Wish | None = None, rate_max: float | None = None
    ) -> Replay:
        """The order with this wish, and at this rate; None: as it is. UnknownReplayError; ReplayConflictError where it
        comes too late; InvalidReplayError."""

        def decide() -> list[Out]:
            before, progress = self.find(asked, replay_id)
            wanted = wish or before.wanted
            if not self._rules.may_want(before, progress, wanted):
                state = progress.state if progress is not None and progress.state in ENDED else before.wanted
                raise ReplayConflictError(f"the replay {replay_id} is {state}; order another one")
            rate = before.rate_max if rate_max is None else rate_max
            if rate != before.rate_max:  # or a tenant could not resume what an operator has ordered
                self._check_rate(asked, rate)
            after = checked_replay(msgspec.structs.replace(before, wanted=wanted, rate_max=rate))
            if after == before:
                return []
            if (before.wanted, wanted) == ("planned", "running"):  # what is only planned may stand beside another
                self._check_doubled(after)
            return order_records(self._topics, asked, before, after)

        await self._pen.change(decide)
        return self.find(asked, replay_id)[0]

    def _check_rate(self, asked: Asked, rate_max: float) -> None:
        """`rate_max` 0 is no limit at all."""
        most = self._tenant_rate_max
        if asked.principal.tenant is not None and not 0 < rate_max <= most:
            raise InvalidReplayError(
                f"rate_max: ask for {most:,g} deliveries a second at most; an operator may exceed it"
            )

    def _check_doubled(self, order: Replay) -> None:
        other = self._rules.doubled(order, self.every())
        if other is not None:
            raise ReplayConflictError(
                f"the replay {other.id} sends some of the same, or has sent it; order it with `again` if that is meant"
            )

    def added(self, asked: Asked, order: Replay) -> list[Out]:
        """The records of a new order, for a transaction with others. ReplayConflictError when there are too many."""
        tenant = order.selection.tenant
        same = [each for each in self.every(tenant) if each[0].selection.tenant == tenant]
        if sum(not ended(*each) for each in same) >= OPEN_MAX:
            raise ReplayConflictError(f"{OPEN_MAX} replays are under way already; wait, or cancel some")
        return order_records(self._topics, asked, None, order)

    def _removed(self) -> list[Out]:
        """Of the oldest orders that ended, where there are too many."""
        every = self.every()
        over = [order.id for order, progress in reversed(every) if ended(order, progress)]
        surplus = min(max(0, len(every) + 1 - REPLAYS_MAX), REMOVED_MAX)
        return [(self._topics.replays, replay_id.encode(), None, -1, None) for replay_id in over[:surplus]]


def new_order(
    asked: Asked,
    replay_id: str,
    selection: Selection,
    *,
    why: str = "",
    rate_max: float = RATE_DEFAULT,
    wanted: Literal["planned", "running"] = "running",
    again: bool = False,
) -> Replay:
    """An order, not written yet. InvalidReplayError."""
    return checked_replay(
        Replay(
            id=replay_id,
            created_ms=asked.at_ms,
            by=asked.principal.actor,
            why=why,
            selection=selection,
            rate_max=rate_max,
            wanted=wanted,
            again=again,
        )
    )


class Since(NamedTuple):
    """From where on a new subscription gets events: a time, offsets of partitions, or (neither) all that is there."""

    ms: int | None = None
    starts: tuple[Place, ...] = ()


def start_of(asked: Asked, replay_id: str, subscription: Subscription, since: Since) -> Replay:
    """The order of a new subscription that gets what came before it. InvalidReplayError."""
    selection = Selection(
        source="events", tenant=subscription.tenant, subscriptions=(subscription.id,), since_ms=since.ms
    )
    order = new_order(asked, replay_id, selection, why=f"the start of the subscription {subscription.id}")
    return checked_replay(msgspec.structs.replace(order, starts=since.starts))


def wrong_start(topic: str, starts: Iterable[Place], extents: Iterable[tuple[int, int, int]]) -> str | None:
    """Why nobody can start there, where `extents` are (partition, first offset, end) of all that the topic has; None
    where one can. An offset that is there no more is one in the past."""
    ends = {partition: end for partition, _, end in extents}
    for partition, offset in sorted((place.partition, place.offset) for place in starts):
        end = ends.get(partition)
        if end is None:
            return f"{topic} has no partition {partition}, but 0 to {max(ends, default=0)}"
        if offset > end:
            return f"partition {partition} of {topic} ends at {end}, before {offset}; leave it out to start there now"
    return None


def order_records(topics: ReplayTopics, asked: Asked, before: Replay | None, after: Replay) -> list[Out]:
    """What is written of a new order, or of a change."""
    if before is None:
        action = "created"
    elif before.wanted == after.wanted:
        action = "changed"
    elif (before.wanted, after.wanted) == ("planned", "running"):
        action = "started"
    else:
        action = _ACTIONS[after.wanted]
    record = audit_record(asked, action, KIND, after.id, after.selection.tenant, before, after)
    return [
        (topics.replays, after.id.encode(), encode_replay(topics.replays_header, after), -1, None),
        audit_out(topics.audit, topics.audit_header, record),
    ]


def ended(order: Replay, progress: Progress | None) -> bool:
    """Whether nothing will be sent for it any more; also of one that was cancelled before a worker had seen it."""
    return order.wanted == "cancelled" if progress is None else progress.state in ENDED
