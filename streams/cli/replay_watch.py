"""Where replays are ordered by the command line, and how one is waited for: until it is counted, or at its end.

A worker with the role replay does what is ordered; here its progress is read from its topic. This file prints for
people who watch, and no answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal, NamedTuple

from connectors.api.replay_documents import ANSWER_MS, ReplayView, replay_view
from connectors.clock import SystemClock
from connectors.replay_desk import ReplayDesk, UnknownReplayError, Wish, ended, new_order
from connectors.replays import ProgressTable, ReplaysTable
from schemas.audit import Asked
from schemas.replay import ENDED, Replay, Selection
from streams.cli.output import note, steps, watching
from streams.cli.replay_view import state
from streams.cli.running import CommandError
from streams.cli.subscriptions import read_all as read_subscriptions
from streams.cli.subscriptions import unknown as unknown_subscription
from streams.cli.writing import open_table
from streams.replay_wiring import replay_desk
from streams.settings import Settings
from streams.wiring import client_config

LOOK_SECONDS = 0.1
#: A worker that is there takes an order up within a second or two.
ANSWER_SECONDS = ANSWER_MS / 1000
#: A worker that does something else tells of that this often at least.
BUSY_MS = 15_000

#: Where there is no terminal, a line is printed for each state and each of so many per cent.
EVERY_PERCENT = 10


@asynccontextmanager
async def open_desk(settings: Settings) -> AsyncIterator[tuple[ReplayDesk, Asked]]:
    """Where replays are ordered, and this command as who asks."""
    topics = settings.topics
    async with open_table(settings, topics.replays, ReplaysTable) as (orders, own, pen, asked):
        progresses = ProgressTable(client_config(settings), topics.replays_progress)
        await progresses.start()
        try:
            yield replay_desk(settings, own, pen, orders, progresses), asked
        finally:
            await progresses.stop()


def view_of(desk: ReplayDesk, asked: Asked, replay_id: str) -> ReplayView:
    """As it is now. CommandError when there is none."""
    try:
        return replay_view(*desk.find(asked, replay_id), SystemClock().now_ms())
    except UnknownReplayError:
        raise unknown(replay_id) from None


def unknown(replay_id: str) -> CommandError:
    """There is no replay of this id."""
    return CommandError(f"there is no replay {replay_id!r}; see `distributary replay list`")


async def taken_up(desk: ReplayDesk, asked: Asked, replay_id: str) -> bool:
    """Whether a worker has seen the order, or is busy with another one; waits for a while, if it is new."""
    clock = SystemClock()
    since_ms = clock.now_ms() - desk.find(asked, replay_id)[0].created_ms
    deadline = clock.monotonic() + max(LOOK_SECONDS, ANSWER_SECONDS - since_ms / 1000)
    while desk.find(asked, replay_id)[1] is None:
        if clock.monotonic() > deadline:
            return any(
                progress is not None and progress.state not in ENDED and clock.now_ms() - progress.updated_ms < BUSY_MS
                for _, progress in desk.every()
            )
        await asyncio.sleep(LOOK_SECONDS)
    return True


def nobody(replay_id: str) -> str:
    """The sentence for an order that no worker takes up."""
    return (
        f"no worker with the role replay answers; start one with `distributary worker --role replay`: {replay_id} "
        "waits for it"
    )


async def watched(desk: ReplayDesk, asked: Asked, replay_id: str, until: Callable[[ReplayView], bool]) -> ReplayView:
    """The replay when it is as `until` asks for; shows how far it is meanwhile. Ctrl-C leaves it alone, and says so."""
    view = view_of(desk, asked, replay_id)
    told = ""
    with steps(replay_id, 100) as progress:
        while not until(view):
            progress.at(round(view.percent), 100, f"{replay_id} {state(view)}")
            step = f"{view.state} {view.percent // EVERY_PERCENT:.0f}"
            if told != step and not watching.is_terminal:
                note(f"{replay_id}  {state(view)}")
            told = step
            try:
                await asyncio.sleep(LOOK_SECONDS)
            except asyncio.CancelledError:
                note(f"{replay_id} goes on; `distributary replay show {replay_id}` looks, `pause` and `cancel` stop it")
                raise
            view = view_of(desk, asked, replay_id)
    return view


async def followed(desk: ReplayDesk, asked: Asked, replay_id: str) -> ReplayView:
    """The replay at its end."""
    return await watched(desk, asked, replay_id, lambda view: view.state in ENDED)


class Ordered(NamedTuple):
    """What is asked for."""

    selection: Selection
    rate_max: float
    why: str
    again: bool


async def ordered(
    settings: Settings, desk: ReplayDesk, asked: Asked, wanted: Ordered, state: Literal["planned", "running"]
) -> Replay:
    """The order, written. CommandError for a subscription that there is not, or not of the tenant."""
    selection = wanted.selection
    if selection.subscriptions:
        known = await read_subscriptions(settings)
        for id_ in selection.subscriptions:
            if id_ not in known or selection.tenant not in (None, known[id_].tenant):
                raise unknown_subscription(id_)
    order = new_order(
        asked,
        desk.new_id(),
        selection,
        why=wanted.why,
        rate_max=wanted.rate_max,
        wanted=state,
        again=wanted.again,
    )
    return await desk.create(asked, order)


async def counted(settings: Settings, wanted: Ordered) -> ReplayView:
    """A plan of it, counted. CommandError when no worker answers, or when it cannot be counted."""
    async with open_desk(settings) as (desk, asked):
        order = await ordered(settings, desk, asked, wanted, "planned")
        if not await taken_up(desk, asked, order.id):
            raise CommandError(nobody(order.id))
        view = await watched(desk, asked, order.id, lambda view: view.state == "planned" or view.state in ENDED)
    if view.state != "planned":
        raise CommandError(f"the plan {view.id} is {view.state}: {view.detail or 'somebody ended it'}")
    return view


async def wished(desk: ReplayDesk, asked: Asked, replay_id: str, wish: Wish, rate_max: float | None = None) -> Replay:
    """The order with this wish. CommandError when there is none."""
    try:
        return await desk.change(asked, replay_id, wish, rate_max)
    except UnknownReplayError:
        raise unknown(replay_id) from None


async def change(settings: Settings, replay_id: str, wish: Wish, rate_max: float | None = None) -> ReplayView:
    """The replay with this wish, once a worker has seen it; as it is where none does."""
    async with open_desk(settings) as (desk, asked):
        if ended(await wished(desk, asked, replay_id, wish, rate_max), desk.find(asked, replay_id)[1]):
            return view_of(desk, asked, replay_id)
        if not await taken_up(desk, asked, replay_id):
            note(nobody(replay_id))
            return view_of(desk, asked, replay_id)
        clock = SystemClock()
        deadline = clock.monotonic() + ANSWER_SECONDS

        def seen(view: ReplayView) -> bool:
            return view.state == wish or view.state in ENDED or clock.monotonic() > deadline

        return await watched(desk, asked, replay_id, seen)


async def read_all(settings: Settings, tenant: str | None) -> list[ReplayView]:
    """Those of a tenant, None for all; the newest first."""
    async with open_desk(settings) as (desk, _):
        now_ms = SystemClock().now_ms()
        return [replay_view(*each, now_ms) for each in desk.every(tenant)]
