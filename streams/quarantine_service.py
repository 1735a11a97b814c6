"""Quarantined records for the HTTP API, as a part of the composition root.

The topic is read from its start for each question, one question at a time: what was resent or discarded is said by
markers behind the records. This file decides nothing.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from confluent_kafka import KafkaException

from connectors.admin import ClusterError
from connectors.api.problems import ProblemError, not_found
from connectors.api.quarantine import (
    SKIPPED_MAX,
    At,
    DiscardView,
    Narrowed,
    QuarantinedDocument,
    QuarantinedView,
    Resent,
    Skipped,
    State,
)
from schemas.audit import Asked
from schemas.codec import wire_header
from schemas.errors import RecordTooLargeError
from streams.ports import Registry
from streams.quarantine_check import Judge
from streams.quarantine_log import (
    Discarded,
    Entry,
    Filter,
    NotQuarantinedError,
    Place,
    Quarantined,
    QuarantineError,
    entries,
    not_there,
)
from streams.quarantine_page import described, hidden, page
from streams.quarantine_resend import Audit, Selection, left, plan, resender
from streams.settings import Settings
from streams.wiring import OwnSchemas, client_config

BUSY_SECONDS = 10.0


class QuarantineService:
    """Implements `connectors.api.quarantine.Store`. For one event loop."""

    def __init__(self, settings: Settings, registry: Registry, own: OwnSchemas) -> None:
        self._settings = settings
        self._registry = registry
        self._audit = Audit(settings.topics.audit, wire_header(own.audit_record))
        self._lock = asyncio.Lock()

    async def newest(
        self, which: Narrowed, state: State | None, limit: int, before: tuple[int, int, int] | None
    ) -> tuple[list[QuarantinedView], bool]:
        """See the protocol."""
        wanted = self._filter(which)
        async with self._alone():
            states, marks = await self._marks()
            found: list[tuple[tuple[int, int, int], QuarantinedView]] = []
            async for each in self._entries():
                if not isinstance(each, Quarantined) or not wanted.matches(each):
                    continue
                at = (each.time_ms, each.place.partition, each.place.offset)
                if (before is not None and at >= before) or state not in (None, states.get(each.place, "open")):
                    continue
                item = (at, _view(each, states, marks))
                heapq.heappush(found, item) if len(found) <= limit else heapq.heappushpop(found, item)
        views = [view for _, view in sorted(found, key=lambda each: each[0], reverse=True)]
        return views[:limit], len(views) > limit

    async def get(self, place: At) -> QuarantinedDocument:
        """See the protocol."""
        where = Place(self._settings.topics.quarantine, *place)
        record: Quarantined | None = None
        async with self._alone():
            states, marks = await self._marks()
            async for each in self._entries():
                if isinstance(each, Quarantined) and each.place == where:
                    record = each
            if record is None:
                raise NotQuarantinedError(str(not_there(where)))
            content = await page(record, self._registry, Judge(self._settings, self._registry))
        if record.source is not None and record.source.topic == self._settings.topics.subscriptions:
            content = hidden(content)
        view = _view(record, states, marks)
        fields = {name: getattr(view, name) for name in QuarantinedView.__struct_fields__}
        more = {name: value for name, value in content.items() if name not in described(record)}
        return QuarantinedDocument(**fields, content=more)

    async def resend(self, which: Narrowed, asked: Asked, *, again: bool, force: bool, dry_run: bool) -> Resent:
        """See the protocol."""
        selection = self._selection(which, again=again, force=force)
        judge = Judge(self._settings, self._registry)
        async with self._alone():
            if dry_run:
                verdicts = await plan(self._settings, judge, selection)
            else:
                async with resender(self._settings) as writing:
                    verdicts = await plan(self._settings, judge, selection)
                    await writing.resend(verdicts, None, lambda _: None, (asked, self._audit))
        skipped = [verdict for verdict in verdicts if verdict.skip is not None]
        examples = [
            Skipped(id=_id(each.place), reason=str(each.skip), detail=each.detail) for each in skipped[:SKIPPED_MAX]
        ]
        return Resent(resent=len(verdicts) - len(skipped), skipped=len(skipped), examples=examples)

    async def discard(self, which: Narrowed, asked: Asked, why: str) -> int:
        """See the protocol."""
        async with self._alone(), resender(self._settings) as writing:
            places = await left(self._settings, self._selection(which))
            return await writing.discard(places, asked, why, self._audit)

    async def _marks(self) -> tuple[dict[Place, State], dict[Place, Discarded]]:
        states: dict[Place, State] = {}
        marks: dict[Place, Discarded] = {}
        async for each in self._entries():
            if isinstance(each, Discarded):
                marks[each.place] = each
                states.setdefault(each.place, "discarded")
            elif not isinstance(each, Quarantined):
                states[each.place] = "resent"
        return states, marks

    def _entries(self) -> AsyncIterator[Entry]:
        return entries(client_config(self._settings), self._settings.topics.quarantine)

    def _filter(self, which: Narrowed) -> Filter:
        topic = which.topic
        if topic is not None and not topic.startswith(self._settings.prefix):
            topic = self._settings.prefix + topic
        return Filter(which.reason, topic, which.partition, which.since_ms, which.until_ms)

    def _selection(self, which: Narrowed, *, again: bool = False, force: bool = False) -> Selection:
        topic = self._settings.topics.quarantine
        places = frozenset(Place(topic, *place) for place in which.places)
        return Selection(places=places, filter=self._filter(which), again=again, force=force)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """One at a time, and errors as problems."""
        try:
            async with asyncio.timeout(BUSY_SECONDS):
                await self._lock.acquire()
        except TimeoutError:
            detail = "others look at the quarantine; try again"
            raise ProblemError(503, detail, headers={"Retry-After": "1"}) from None
        try:
            yield
        except NotQuarantinedError as error:
            raise not_found(str(error).partition(";")[0].removeprefix("there is no ")) from None
        except QuarantineError as error:
            raise ProblemError(409, str(error)) from None
        except RecordTooLargeError as error:
            raise ProblemError(409, str(error)) from None
        except (ClusterError, KafkaException) as error:
            detail = str(error) if isinstance(error, ClusterError) else f"Kafka refuses: {error.args[0].str()}"
            raise ProblemError(503, detail, headers={"Retry-After": "1"}) from None
        finally:
            self._lock.release()


def _id(place: Place) -> str:
    return f"{place.partition}-{place.offset}"


def _view(record: Quarantined, states: dict[Place, State], marks: dict[Place, Discarded]) -> QuarantinedView:
    short, mark = described(record), marks.get(record.place)
    return QuarantinedView(
        id=_id(record.place),
        time_ms=record.time_ms,
        state=states.get(record.place, "open"),
        reason=record.reason,
        detail=record.detail,
        key=short["key"],
        source=short["source"],
        original=short["original"],
        size_bytes=short["size_bytes"],
        discarded=None if mark is None else DiscardView(at_ms=mark.time_ms, by=mark.by, why=mark.why),
    )
