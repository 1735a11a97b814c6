"""What a record of a replay's source becomes: nothing, or deliveries made again, marked as this replay's.

Events are matched with the subscriptions of now; deliveries and dead letters become what they were, never tried. This
file reads no topic, writes nothing, and counts nothing beyond one record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from schemas.codec import wire_schema_id
from schemas.dead_letter import DeadLetter, decode_dead_letter
from schemas.delivery import REPLAY_HEADER, Delivery, decode_delivery, encode_delivery, facts_of, replay_of
from schemas.errors import UndecodableError
from schemas.frame import Headers, Out, Record
from schemas.replay import Place, Replay, Selection, Unsent
from schemas.topics import Topics
from streams.core.fanout import Plan
from streams.core.formats import rfc3339
from streams.core.replay import Candidate, error_class, selects, skips
from streams.planning import DETAIL_LENGTH_MAX, Planner, Read, Recipients, unmade
from streams.ports import Clock, SubscriptionTable
from streams.records import Records

#: Reasons of dead letters that hold the event as it came, since no delivery could be made of it.
UNMADE = frozenset({"transform_failed", "unresolvable"})


class Made(NamedTuple):
    """What a record became. `deliveries` of the records are deliveries, of `size` bytes; others tell why there is none.
    `skipped` of what is selected are not made again; `unsent` is of a dead letter that nobody is there to get, together
    with those before it of which the same was said."""

    records: list[Out] = []  # noqa: RUF012 - never written to
    deliveries: int = 0
    size: int = 0
    skipped: int = 0
    unsent: Unsent | None = None


NOTHING = Made()
SKIPPED = Made(skipped=1)


class Again(Protocol):
    """Makes them of one record of the partition."""

    async def __call__(self, record: Record, partition: int) -> Made: ...


class Maker:
    """What all sources need; gives each order its own."""

    def __init__(
        self, topics: Topics, table: SubscriptionTable, planner: Planner, records: Records, clock: Clock
    ) -> None:
        self.topics = topics
        self.table = table
        self.planner = planner
        self.records = records
        self.clock = clock

    def topic(self, selection: Selection) -> str:
        """Where its source stands."""
        topics = self.topics
        return {"events": topics.events, "deliveries": topics.deliveries, "dead": topics.dead}[selection.source]

    def again(self, order: Replay, sent: Callable[[Candidate], bool] = lambda _: False) -> Again:
        """For one order. `sent` says whether another replay has sent a dead letter, which then is left out."""
        match order.selection.source:
            case "events":
                return _Events(self, order)
            case "deliveries":
                return _Deliveries(self, order)
            case "dead":
                return _DeadLetters(self, order, sent)

    def recipients(self, order: Replay, chosen: frozenset[str]) -> Recipients:
        """Of the subscriptions of now the chosen ones, or all."""
        return Recipients(
            self.table,
            self.topics.replay,
            self.records.wire,
            keep=(lambda subscription: subscription.id in chosen) if chosen else None,
            headers=((REPLAY_HEADER, order.id),),
        )

    def planned(self, read: Read, plan: Plan, recipients: Recipients) -> Made:
        """Deliveries, and dead letters of those that cannot be made."""
        count, size = len(plan.records), sum(len(out[2] or b"") for out in plan.records)
        outs = plan.records
        now_ms = self.clock.now_ms() if plan.failed else 0
        for subscription_id, failure in plan.failed:
            delivery, detail = unmade(read, subscription_id, recipients), failure.detail[:DETAIL_LENGTH_MAX]
            outs.append(self.records.end(delivery, "rejected", now_ms, detail))
            outs.append(self.records.dead_letter(delivery, failure.reason, detail, now_ms))
        return Made(outs, count, size, len(plan.failed))


class _Events:
    """Events, matched again."""

    def __init__(self, maker: Maker, order: Replay) -> None:
        self._maker = maker
        self._selected = selects(order.selection)
        self._recipients = maker.recipients(order, frozenset(order.selection.subscriptions))

    async def __call__(self, record: Record, partition: int) -> Made:
        planner = self._maker.planner
        try:
            read = await planner.read(record)
        except UndecodableError:  # it is in quarantine
            return NOTHING
        event = read.event
        it = Candidate(
            timestamp_ms=record.timestamp()[1], tenant=event.tenant, event_type=event.type, event_id=event.id
        )
        if not self._selected(it):
            return NOTHING
        plan = await planner.plan(read, self._recipients)
        return NOTHING if plan is None else self._maker.planned(read, plan, self._recipients)


class _Deliveries:
    """Deliveries as they were made."""

    def __init__(self, maker: Maker, order: Replay) -> None:
        self._maker = maker
        self._order = order
        self._selected = selects(order.selection)
        wire = maker.records.wire
        self._versions = {wire_schema_id(wire.v1): 1, wire_schema_id(wire.v2): 2}

    async def __call__(self, record: Record, partition: int) -> Made:
        value = record.value()
        try:
            version = self._versions.get(wire_schema_id(value))
            if version is None:
                return NOTHING
            delivery = decode_delivery(value or b"", version)
        except UndecodableError:
            return NOTHING
        it = _candidate(delivery, record)
        return self._made(delivery, it, partition) if self._selected(it) else NOTHING

    def _made(self, delivery: Delivery, it: Candidate, partition: int) -> Made:
        """To this partition, -1 for the one of its key."""
        subscription = self._maker.table.get(delivery.subscription_id)
        if skips(self._order.selection, it) or subscription is None or subscription.tenant != it.tenant:
            return SKIPPED
        value = encode_delivery(self._maker.records.wire, marked(delivery, self._order.id))
        out: Out = (self._maker.topics.replay, delivery.subscription_id.encode(), value, partition, None)
        return Made([out], 1, len(value))


class _DeadLetters(_Deliveries):
    """Deliveries that were given up."""

    def __init__(self, maker: Maker, order: Replay, sent: Callable[[Candidate], bool]) -> None:
        super().__init__(maker, order)
        self._sent = sent
        self._unsent: dict[tuple[str, int], int] = {}  # of a subscription and partition: since which offset on

    async def __call__(self, record: Record, partition: int) -> Made:
        try:
            letter = decode_dead_letter(record.value())
        except UndecodableError:
            return NOTHING
        it = dead_candidate(letter, record, partition)
        if not self._selected(it):
            return NOTHING
        if skips(self._order.selection, it) or self._sent(it):
            return SKIPPED
        made = await self._planned(letter) if letter.reason in UNMADE else self._made(letter.delivery, it, -1)
        run = (letter.delivery.subscription_id, partition)
        if made.records:
            self._unsent.pop(run, None)
            return made
        start = self._unsent.setdefault(run, record.offset())
        return Made(skipped=1, unsent=Unsent(*run, start, record.offset() + 1))

    async def _planned(self, letter: DeadLetter) -> Made:
        """Of one that could not be made then: what is made of its event now."""
        maker, facts = self._maker, letter.facts
        recipients = maker.recipients(self._order, frozenset({letter.delivery.subscription_id}))
        try:
            read = await maker.planner.read_value(letter.delivery.body, _headers(letter), facts.received_ms)
        except UndecodableError:
            return SKIPPED
        plan = await maker.planner.plan(read, recipients)
        return SKIPPED if plan is None else maker.planned(read, plan, recipients)


def _candidate(delivery: Delivery, record: Record) -> Candidate:
    facts = facts_of(delivery)
    return Candidate(
        timestamp_ms=record.timestamp()[1],
        tenant=facts.tenant,
        event_type=facts.event_type,
        event_id=facts.event_id,
        subscription_id=delivery.subscription_id,
        replayed=bool(replay_of(delivery)),
    )


def dead_candidate(letter: DeadLetter, record: Record, partition: int) -> Candidate:
    """What a selection is asked about a dead letter in this record."""
    return msgspec.structs.replace(
        _candidate(letter.delivery, record),
        reason=letter.reason,
        error_class=error_class(letter.last),
        place=Place(partition, record.offset()),
    )


def marked(delivery: Delivery, replay_id: str) -> Delivery:
    """The same, never tried, and this replay's."""
    headers = tuple(header for header in delivery.headers if header[0] != REPLAY_HEADER)
    return msgspec.structs.replace(
        delivery, attempt=0, due_ms=0, first_attempt_ms=0, tries=(), headers=(*headers, (REPLAY_HEADER, replay_id))
    )


def _headers(letter: DeadLetter) -> Headers:
    """Those of the event's record, as far as the dead letter knows them: CloudEvents', which an envelope does not need.
    Its source is not among them."""
    facts, traceparent = letter.facts, letter.delivery.traceparent
    said = {
        "ce_id": facts.event_id,
        "ce_type": facts.event_type,
        "ce_tenant": facts.tenant,
        "ce_time": rfc3339(facts.time_ms),
        "ce_subject": facts.subject,
        "traceparent": traceparent,
    }
    return [(name, text.encode()) for name, text in said.items() if text is not None]
