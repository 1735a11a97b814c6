"""`quarantine resend`: which records are resent and which are not, and writing them, each with its marker. And the
markers of those that `quarantine discard` is about.

Nothing is resent twice by accident: a record and the marker that says that it was resent are written in one
transaction, by a producer that ends what an earlier command left open, and markers are read after that. This file asks
nobody and prints nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, NamedTuple

import msgspec

from connectors.feed import partitions, wait_for_open_transactions
from connectors.plain_publisher import PlainPublisher
from connectors.publisher import TransactionalPublisher
from schemas.audit import Asked, audit_out, audit_record
from schemas.errors import FencedError, UndecodableError
from schemas.frame import Out
from streams import quarantine
from streams.quarantine_check import Judge
from streams.quarantine_log import Discarded, Filter, Place, Quarantined, QuarantineError, Resent, entries, not_there
from streams.settings import Settings
from streams.wiring import client_config

#: Why a record is not resent: it was already, or discarded; it would come back; a newer subscription would be undone;
#: where it came from is not known or not there.
Skip = Literal["already_resent", "discarded", "undecodable", "superseded", "no_source"]
#: Of one transaction.
GROUP_RECORDS = 500
GROUP_BYTES = 4 << 20


class Selection(msgspec.Struct, frozen=True):
    """What is asked for: the places, or else what the filter matches; `value` stands in for that of the one place."""

    places: frozenset[Place] = frozenset()
    filter: Filter = Filter()
    again: bool = False
    force: bool = False
    value: bytes | None = None

    def wants(self, record: Quarantined) -> bool:
        """Whether the record is meant."""
        return record.place in self.places if self.places else self.filter.matches(record)


class Audit(NamedTuple):
    """Where the records of the audit trail go, and what stands before them (`schemas.codec.wire_header`)."""

    topic: str
    header: bytes


class Verdict(msgspec.Struct, frozen=True):
    """What is done about one record: `skip` is None when it is resent, else why not, with a sentence in `detail`."""

    place: Place
    source: Place | None
    skip: Skip | None = None
    detail: str = ""


async def plan(settings: Settings, judge: Judge, selection: Selection) -> list[Verdict]:
    """What becomes of each selected record, by place. QuarantineError for a place where there is none."""
    config, topic = client_config(settings), settings.topics.quarantine
    await wait_for_open_transactions(config, topic)
    sizes = await partitions(config)
    found: dict[Place, Verdict] = {}
    resent: set[Place] = set()
    discarded: dict[Place, Discarded] = {}
    async for each in entries(config, topic):
        if isinstance(each, Resent):
            resent.add(each.place)
        elif isinstance(each, Discarded):
            discarded[each.place] = each
        elif selection.wants(each):
            found[each.place] = await _verdict(judge, selection, each, sizes)
    if missing := selection.places - found.keys():
        raise not_there(min(missing))
    if not selection.again:
        for place in resent & found.keys():
            found[place] = Verdict(place, found[place].source, "already_resent", "it was resent already")
        for place in discarded.keys() & found.keys() - resent:
            detail = f"it was discarded by {discarded[place].by}: {discarded[place].why}"
            found[place] = Verdict(place, found[place].source, "discarded", detail)
    return [verdict for _, verdict in sorted(found.items())]


async def left(settings: Settings, selection: Selection) -> set[Place]:
    """Of the selected records, those that were neither resent nor discarded. QuarantineError for a place where there is
    none."""
    config, topic = client_config(settings), settings.topics.quarantine
    await wait_for_open_transactions(config, topic)
    found: set[Place] = set()
    over: set[Place] = set()
    async for each in entries(config, topic):
        if not isinstance(each, Quarantined):
            over.add(each.place)
        elif selection.wants(each):
            found.add(each.place)
    if missing := selection.places - found:
        raise not_there(min(missing))
    return found - over


async def _verdict(judge: Judge, selection: Selection, record: Quarantined, sizes: Mapping[str, int]) -> Verdict:
    if record.source is None:
        return Verdict(record.place, None, "no_source", "its headers do not say where it came from")
    if record.source.partition >= sizes.get(record.source.topic, 0):
        detail = f"there is no {record.source.topic}[{record.source.partition}] any more"
        return Verdict(record.place, record.source, "no_source", detail)
    verdict = Verdict(record.place, record.source)
    if selection.force:
        return verdict
    if await judge.superseded(record.source, record.key):
        return Verdict(record.place, record.source, "superseded", "a newer record of this subscription exists")
    value = record.value if selection.value is None else selection.value
    try:
        await judge.judge(record.source.topic, record.key, value, record.headers, record.time_ms)
    except UndecodableError as error:
        return Verdict(record.place, record.source, "undecodable", f"{error.reason}: {error.detail}")
    return verdict


class Resender:
    """Writes records to where they came from."""

    def __init__(self, settings: Settings, publisher: TransactionalPublisher | PlainPublisher) -> None:
        self._settings = settings
        self._publisher = publisher

    async def resend(
        self,
        verdicts: Sequence[Verdict],
        value: bytes | None,
        on_done: Callable[[int], None],
        told: tuple[Asked, Audit] | None = None,
    ) -> int:
        """Resend what has no `skip`; how many there were. `on_done` is told how many are durable so far, and the audit
        trail, in the same transactions, who `told` us to.

        QuarantineError when another resend was started meanwhile; RecordTooLargeError, ClusterError.
        """
        chosen = {verdict.place for verdict in verdicts if verdict.skip is None}
        done, outs, size = 0, list[Out](), 0
        waiting: list[Place] = []

        async def write() -> None:
            nonlocal done, outs, size
            if told is not None:
                outs.append(_record(*told, "resent", waiting))
            await self._write(outs)
            done += len(waiting)
            outs, size = [], 0
            waiting.clear()
            on_done(done)

        if chosen:
            async for each in entries(client_config(self._settings), self._settings.topics.quarantine):
                if isinstance(each, Quarantined) and each.place in chosen:
                    outs += _outs(each, value)
                    waiting.append(each.place)
                    size += len(outs[-2][2] or b"")
                    if len(waiting) >= GROUP_RECORDS or size >= GROUP_BYTES:
                        await write()
        if outs:
            await write()
        return done

    async def discard(self, places: Collection[Place], asked: Asked, why: str, audit: Audit) -> int:
        """Mark what stands at these places, with who and why; how many there were. A group of them and its record in
        the audit trail are one transaction. Raises as `resend` does."""
        waiting: list[Quarantined] = []
        done = 0

        async def write() -> None:
            nonlocal done
            record = _record(asked, audit, "discarded", [each.place for each in waiting], why)
            by = asked.principal.actor
            marks = [quarantine.discarded(_tuple(each.place), each.key, by, why) for each in waiting]
            await self._write([*marks, record])
            done += len(waiting)
            waiting.clear()

        async for each in entries(client_config(self._settings), self._settings.topics.quarantine):
            if isinstance(each, Quarantined) and each.place in places:
                waiting.append(each)
                if len(waiting) >= GROUP_RECORDS:
                    await write()
        if waiting:
            await write()
        return done

    async def _write(self, outs: Sequence[Out]) -> None:
        try:
            await self._publisher.publish(outs, [])
        except FencedError:
            raise QuarantineError(
                "another `distributary quarantine resend` or `discard` was started meanwhile and goes on; this one has"
                " stopped, and nothing is resent twice"
            ) from None


def _record(asked: Asked, audit: Audit, action: str, places: Sequence[Place], why: str = "") -> Out:
    after = {"why": why, "places": [str(place) for place in places]}
    record = audit_record(asked, action, "quarantine", str(places[0]), None, None, after)
    return audit_out(audit.topic, audit.header, record)


def _outs(record: Quarantined, value: bytes | None) -> list[Out]:
    assert record.source is not None  # or it would have been skipped
    place, source = (record.place, record.source)
    value = record.value if value is None else value
    return quarantine.resent(_tuple(place), _tuple(source), record.key, value, record.headers)


def _tuple(place: Place) -> tuple[str, int, int]:
    return place.topic, place.partition, place.offset


@asynccontextmanager
async def resender(settings: Settings) -> AsyncIterator[Resender]:
    """Ends what an earlier resend left open, and keeps it from going on. KafkaException when the cluster refuses."""
    config: Mapping[str, Any] = client_config(settings)
    publisher: TransactionalPublisher | PlainPublisher
    if settings.guarantee == "at_least_once":
        publisher = PlainPublisher(config, lambda _: None)
    else:
        publisher = TransactionalPublisher(config, f"{settings.prefix}distributary.quarantine", lambda: None)
    try:
        await publisher.start()
        yield Resender(settings, publisher)
    finally:
        await publisher.close()
