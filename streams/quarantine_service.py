"""Quarantined records for the HTTP API, as a part of the composition root.

Pages are read from the end of the topic backwards, one at a time; what is resent or discarded, one order at a time, is
chosen from all of it. This file decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from confluent_kafka import KafkaException, Message

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
from connectors.topic_pages import Page, TopicPages, Where
from schemas.audit import Asked
from schemas.codec import wire_header
from schemas.errors import RecordTooLargeError
from streams.ports import Registry
from streams.quarantine_check import Judge
from streams.quarantine_log import (
    Filter,
    NotQuarantinedError,
    Place,
    Quarantined,
    QuarantineError,
    entry,
    not_there,
)
from streams.quarantine_marks import Marks, Met, met
from streams.quarantine_page import described, hidden, page
from streams.quarantine_resend import Audit, Selection, left, plan, resender
from streams.settings import Settings
from streams.wiring import OwnSchemas

BUSY_SECONDS = 10.0

_Item = QuarantinedView | Met


class QuarantineService:
    """Implements `connectors.api.quarantine.Store`. For one event loop."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        own: OwnSchemas,
        pages: TopicPages,
        monotonic: Callable[[], float],
    ) -> None:
        """`pages` are of the quarantine topic, and not closed by this."""
        self._settings = settings
        self._registry = registry
        self._audit = Audit(settings.topics.audit, wire_header(own.audit_record))
        self._pages = pages
        self._marks = Marks(pages, monotonic)
        self._looking = asyncio.Lock()
        self._writing = asyncio.Lock()

    async def newest(
        self, which: Narrowed, state: State | None, limit: int, before: Mapping[int, int] | None
    ) -> tuple[list[QuarantinedView], Mapping[int, int] | None, bool]:
        """See the protocol."""
        wanted, marks = self._filter(which), self._marks

        def make(message: Message) -> _Item | None:
            found = met(message)
            if isinstance(found.entry, Quarantined):
                return _view(found.entry) if wanted.matches(found.entry) else None
            return found

        def keep(item: _Item) -> bool:
            if isinstance(item, Met):
                marks.meet(item)
                return False
            self._tell(item)
            return state in (None, item.state)

        async with _alone(self._looking):
            if before is None:
                before = await marks.begin()
            else:
                await marks.know(before)
            where = Where(since_ms=which.since_ms or 0)
            found: Page[_Item] = await self._pages.page(make, where, limit=limit, before=before, keep=keep)
        return [item for item in found.items if isinstance(item, QuarantinedView)], found.next, found.partial

    async def get(self, place: At) -> QuarantinedDocument:
        """See the protocol."""
        where = Place(self._settings.topics.quarantine, *place)
        async with _alone(self._looking):
            record = (await self._pages.get([place], entry)).get(place)
            if not isinstance(record, Quarantined):
                raise NotQuarantinedError(str(not_there(where)))
            await self._marks.know({where.partition: where.offset + 1})
            view = self._tell(_view(record))
            content = await page(record, self._registry, Judge(self._settings, self._registry))
        if record.source is not None and record.source.topic == self._settings.topics.subscriptions:
            content = hidden(content)
        fields = {name: getattr(view, name) for name in QuarantinedView.__struct_fields__}
        more = {name: value for name, value in content.items() if name not in described(record)}
        return QuarantinedDocument(**fields, content=more)

    async def resend(self, which: Narrowed, asked: Asked, *, again: bool, force: bool, dry_run: bool) -> Resent:
        """See the protocol."""
        selection = self._selection(which, again=again, force=force)
        judge = Judge(self._settings, self._registry)
        async with _alone(self._writing):
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
        async with _alone(self._writing), resender(self._settings) as writing:
            places = await left(self._settings, self._selection(which))
            return await writing.discard(places, asked, why, self._audit)

    def _tell(self, view: QuarantinedView) -> QuarantinedView:
        """What became of it, as far as that is known."""
        partition, _, offset = view.id.partition("-")
        view.state, mark = self._marks.of(Place(self._settings.topics.quarantine, int(partition), int(offset)))
        view.discarded = None if mark is None else DiscardView(at_ms=mark.time_ms, by=mark.by, why=mark.why)
        return view

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
async def _alone(lock: asyncio.Lock) -> AsyncIterator[None]:
    """One at a time, and errors as problems."""
    try:
        async with asyncio.timeout(BUSY_SECONDS):
            await lock.acquire()
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
        lock.release()


def _id(place: Place) -> str:
    return f"{place.partition}-{place.offset}"


def _view(record: Quarantined) -> QuarantinedView:
    """As if nothing was done about it yet."""
    short = described(record)
    return QuarantinedView(
        id=_id(record.place),
        time_ms=record.time_ms,
        state="open",
        reason=record.reason,
        detail=record.detail,
        key=short["key"],
        source=short["source"],
        original=short["original"],
        size_bytes=short["size_bytes"],
        discarded=None,
    )
