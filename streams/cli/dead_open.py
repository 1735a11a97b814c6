"""`dead`: where dead letters are read, and what is known of them; retrying and discarding.

This file prints no answers.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import msgspec

from connectors.admin import require_topics
from connectors.api.replay_documents import ReplayView, replay_view
from connectors.clock import SystemClock
from connectors.dead_choice import Choice, choose
from connectors.dead_documents import (
    DeadDocument,
    DeadView,
    dead_document,
    dead_view,
    parse_id,
    wanted,
    within,
)
from connectors.dead_letters import DeadLetters
from connectors.dead_marks import DeadDesk, DeadMarksTable
from connectors.replay_desk import new_order
from connectors.replays import ProgressTable, ReplaysTable
from schemas.dead_letter import DeadState, Filed
from schemas.dead_mark import DeadMark
from schemas.replay import Place, Progress, Replay, Selection
from streams.cli.output import note
from streams.cli.replay_watch import followed, nobody, open_desk, taken_up
from streams.cli.running import CommandError
from streams.cli.writing import open_table
from streams.dead_judge import DeadJudge, mark_topics
from streams.settings import Settings
from streams.wiring import client_config

PAGE = 200


class Retry(msgspec.Struct, frozen=True):
    """A retry as it is asked for."""

    selection: Selection
    rate: float
    why: str
    again: bool
    follow: bool


class Opened:
    """Dead letters, and what became of them."""

    def __init__(self, letters: DeadLetters, judge: DeadJudge) -> None:
        self.letters = letters
        self.judge = judge

    def document(self, filed: Filed, bytes_max: int | None) -> DeadDocument:
        """All about one."""
        return dead_document(self.judge, filed, self.judge.acts()(filed), bytes_max=bytes_max)

    async def newest(self, selection: Selection, state: DeadState | None, limit: int) -> AsyncIterator[DeadView]:
        """At most `limit` of those that fit."""
        wants = wanted(self.judge, selection, state)

        def make(filed: Filed) -> DeadView | None:
            acts = wants(filed)
            return None if acts is None else dead_view(self.judge, filed, acts)

        before: Mapping[int, int] | None = None
        while limit:
            page = await self.letters.page(make, within(selection), limit=min(PAGE, limit), before=before)
            for view in page.items:
                yield view
            limit -= len(page.items)
            before = page.next
            if before is None:
                return

    async def lines(
        self, selection: Selection, state: DeadState | None
    ) -> AsyncIterator[tuple[Sequence[bytes], int, int]]:
        """(lines of JSON, how many records were read, of how many)."""
        wants = wanted(self.judge, selection, state)

        def make(filed: Filed) -> bytes | None:
            acts = wants(filed)
            return None if acts is None else msgspec.json.encode(dead_document(self.judge, filed, acts)) + b"\n"

        async with aclosing(self.letters.stream(make, within(selection))) as batches:
            async for batch in batches:
                yield batch.items, batch.read, batch.total

    async def count(self, selection: Selection, state: DeadState | None, on_read: Callable[[int, int], None]) -> Choice:
        """Those that fit. CommandError for a place where there is none."""

        def go_on(read: int, total: int) -> bool:
            on_read(read, total)
            return True

        choice = await choose(self.letters, self.judge, selection, state, go_on)
        if choice.missing:
            raise not_there(choice.missing[0])
        return choice

    async def one(self, place: Place) -> Filed:
        """The one that stands there. CommandError."""
        filed = (await self.letters.get([(place.partition, place.offset)])).get((place.partition, place.offset))
        if filed is None:
            raise not_there(place)
        return filed


@asynccontextmanager
async def open_letters(settings: Settings) -> AsyncIterator[Opened]:
    """With the orders, their progress, and the marks as they are now. ClusterError."""
    config, topics = client_config(settings), settings.topics
    await require_topics(config, [topics.dead, topics.replays, topics.replays_progress, topics.dead_marks])
    orders = ReplaysTable(config, topics.replays)
    progresses = ProgressTable(config, topics.replays_progress)
    marks = DeadMarksTable(config, topics.dead_marks)
    letters = DeadLetters(config, topics.dead, SystemClock().monotonic)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(letters.close)
        for table in (orders, progresses, marks):
            stack.push_async_callback(table.stop)
        await asyncio.gather(orders.start(), progresses.start(), marks.start())

        def replays() -> list[tuple[Replay, Progress | None]]:
            return [(order, progresses.get(order.id)) for order in orders]

        yield Opened(letters, DeadJudge(topics.dead, replays, marks.marks))


async def retrying(settings: Settings, retry: Retry) -> ReplayView:
    """The replay, once it is ordered; at its end when it is followed. ReplayConflictError."""
    async with open_desk(settings) as (desk, asked):
        order = new_order(
            asked,
            desk.new_id(),
            retry.selection,
            why=retry.why,
            rate_max=retry.rate,
            wanted="running",
            again=retry.again,
        )
        await desk.create(asked, order)
        if not await taken_up(desk, asked, order.id):
            note(nobody(order.id))
        elif retry.follow:
            return await followed(desk, asked, order.id)
        return replay_view(*desk.find(asked, order.id), asked.at_ms)


async def discarding(settings: Settings, selection: Selection, why: str, ends: Mapping[int, int]) -> DeadMark:
    """The mark, once it is written. InvalidMarkError."""
    topics = settings.topics
    async with open_table(settings, topics.dead_marks, DeadMarksTable) as (table, own, pen, asked):
        desk = DeadDesk(pen, mark_topics(topics, own), table.marks, lambda: secrets.token_hex(8))
        return await desk.discard(asked, selection, why, ends)


def place_of(id_: str) -> Place:
    """The place that an id names. CommandError."""
    try:
        return parse_id(id_)
    except ValueError as error:
        raise CommandError(f"{error}; `distributary dead list` prints them") from None


def not_there(place: Place) -> CommandError:
    """Of a place at which there is none."""
    name = f"{place.partition}-{place.offset}"
    return CommandError(f"there is no dead letter {name}, or no longer; `distributary dead list` shows what there is")
