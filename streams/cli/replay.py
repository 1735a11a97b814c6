"""`distributary replay plan | start | list | show | pause | resume | cancel`, and `offsets` (`replay_offsets.py`).

Orders go through the pen, as those of the HTTP API do, and into the audit trail; a worker with the role replay does
what they say. What is printed of one is in `replay_view.py`, waiting for one in `replay_watch.py`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from connectors.api.replay_documents import ReplayView
from connectors.replay_desk import Wish
from schemas.replay import RATE_DEFAULT, RATE_MAX, Selection, Source
from streams.cli.options import AsJson, Bootstrap, Prefix, RegistryUrl, load_settings, time_option_ms
from streams.cli.output import emit, note, say
from streams.cli.replay_offsets import offsets
from streams.cli.replay_view import document, in_full, line, plan_in_words, state, style, what
from streams.cli.replay_watch import (
    Ordered,
    change,
    counted,
    followed,
    nobody,
    open_desk,
    ordered,
    read_all,
    taken_up,
    view_of,
    wished,
)
from streams.cli.running import CommandError, run
from streams.settings import Settings

app = typer.Typer(help="Send again what was sent before: count it first, watch it, pause it.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="The replay's id", metavar="ID")]
From = Annotated[
    Source, typer.Option("--from", help="events: matched again; deliveries: as they were; dead: dead letters")
]
Tenant = Annotated[str | None, typer.Option(help="Of this tenant only", show_default="all")]
Subscription = Annotated[list[str] | None, typer.Option(help="For this subscription only; may be repeated")]
EventType = Annotated[list[str] | None, typer.Option(help="Of this type only: order.created, order.*; may be repeated")]
Event = Annotated[list[str] | None, typer.Option(help="Of the event with this id only; may be repeated")]
Since = Annotated[str | None, typer.Option(help="What came to Kafka then or later, such as 2026-08-01T12:00:00Z")]
Until = Annotated[str | None, typer.Option(help="What came to Kafka before")]
Reason = Annotated[
    list[str] | None, typer.Option(help="dead only: given up as exhausted, rejected, ...; may be repeated")
]
ErrorClass = Annotated[
    list[str] | None, typer.Option(help="dead only: last failed as 5xx, 4xx, timeout, ...; may be repeated")
]
Replayed = Annotated[bool, typer.Option("--replayed", help="Also what a replay has sent before")]
Rate = Annotated[float, typer.Option(min=0, max=RATE_MAX, help="Deliveries a second; 0 for no limit")]
Why = Annotated[str, typer.Option(help="For people, and the audit trail")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Watch it to its end; Ctrl-C leaves it running")]
Again = Annotated[bool, typer.Option("--again", help="Although a replay of the same exists")]


@app.command("plan")
def plan(
    source: From = "events",
    tenant: Tenant = None,
    subscription: Subscription = None,
    event_type: EventType = None,
    event: Event = None,
    since: Since = None,
    until: Until = None,
    reason: Reason = None,
    error_class: ErrorClass = None,
    replayed: Replayed = False,
    rate: Rate = RATE_DEFAULT,
    why: Why = "",
    again: Again = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Count what a replay would send, exactly, and what it would take. Nothing is sent; `replay start ID` starts it.

    Example: distributary replay plan --subscription acme --since 2026-08-01T12:00:00Z
    """
    selection = selected(
        source, tenant, subscription, event_type, event, since, until, reason, error_class, replayed=replayed
    )
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    view = run(lambda _: counted(settings, Ordered(selection, rate, why, again)))
    if as_json:
        emit(document(view))
    else:
        say(f"{view.id}  {what(view.selection)}: {plan_in_words(view)}", "bold")
        note(f"nothing was sent; `distributary replay start {view.id}` sends it")


@app.command("start")
def start(
    id_: Annotated[str | None, typer.Argument(help="A plan's id, in place of all that says what", metavar="ID")] = None,
    source: From = "events",
    tenant: Tenant = None,
    subscription: Subscription = None,
    event_type: EventType = None,
    event: Event = None,
    since: Since = None,
    until: Until = None,
    reason: Reason = None,
    error_class: ErrorClass = None,
    replayed: Replayed = False,
    rate: Rate = RATE_DEFAULT,
    why: Why = "",
    again: Again = False,
    follow: Follow = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Send again what was sent before: one that was planned, or what the options say, counted first.

    Live deliveries are not held up by it. Receivers see the webhook-ids that they saw before, with the header
    webhook-replay; URL, secrets and limits are those of now.

    Example: distributary replay start --from dead --subscription acme --error-class 5xx --rate 50 --follow
    """
    selection = selected(
        source, tenant, subscription, event_type, event, since, until, reason, error_class, replayed=replayed
    )
    if id_ is not None and selection != Selection(source="events"):
        raise typer.BadParameter("a plan says itself what it sends; leave the other options out", param_hint="ID")
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    wanted = Ordered(selection, rate, why, again)
    if id_ is None and not yes:
        id_ = _asked_for(settings, wanted)
    planned_id = id_

    async def main(_: asyncio.Event) -> ReplayView:
        async with open_desk(settings) as (desk, asked):
            if planned_id is None:
                order = await ordered(settings, desk, asked, wanted, "running")
            else:
                order = await wished(desk, asked, planned_id, "running")
            if not await taken_up(desk, asked, order.id):
                note(nobody(order.id))
            return await followed(desk, asked, order.id) if follow else view_of(desk, asked, order.id)

    _end(run(main), follow=follow, as_json=as_json)


@app.command("list")
def list_(
    tenant: Tenant = None,
    source: Annotated[Source | None, typer.Option("--from", help="From this source only")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many")] = 50,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """List replays and how far they are, the newest first.

    Example: distributary replay list --tenant acme
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    views = [view for view in run(lambda _: read_all(settings, tenant)) if source in (None, view.selection.source)]
    for view in views[:limit]:
        if as_json:
            emit(document(view))
        else:
            say(*line(view))
    if not views:
        note("there are no replays" + (f" of the tenant {tenant}" if tenant else ""))


@app.command("show")
def show(
    id_: Id,
    follow: Follow = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show one replay: what it sends, who ordered it and why, and how far it is.

    Example: distributary replay show rpl_0123456789abcdef --follow
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)

    async def main(_: asyncio.Event) -> ReplayView:
        async with open_desk(settings) as (desk, asked):
            return await followed(desk, asked, id_) if follow else view_of(desk, asked, id_)

    view = run(main)
    if not as_json:
        for text in in_full(view):
            say(text)
    _end(view, follow=follow, as_json=as_json, silent=not as_json)


@app.command("pause")
def pause(
    id_: Id,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Pause a replay; `resume` goes on where it was.

    Example: distributary replay pause rpl_0123456789abcdef
    """
    _change(
        load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url), id_, "paused", as_json=as_json
    )


@app.command("resume")
def resume(
    id_: Id,
    rate: Annotated[float | None, typer.Option(min=0, max=RATE_MAX, help="From now on; 0 for no limit")] = None,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Let a paused replay go on, or have one that runs go on at another rate.

    Example: distributary replay resume rpl_0123456789abcdef --rate 20
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    _change(settings, id_, "running", rate, as_json=as_json)


@app.command("cancel")
def cancel(
    id_: Id,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """End a replay. What it has sent stays sent.

    Example: distributary replay cancel rpl_0123456789abcdef
    """
    _change(
        load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url), id_, "cancelled", as_json=as_json
    )


app.command("offsets")(offsets)


def selected(
    source: Source,
    tenant: str | None,
    subscriptions: list[str] | None,
    event_types: list[str] | None,
    events: list[str] | None,
    since: str | None,
    until: str | None,
    reasons: list[str] | None,
    error_classes: list[str] | None,
    *,
    replayed: bool,
) -> Selection:
    """What the options say. BadParameter."""
    return Selection(
        source=source,
        tenant=tenant,
        subscriptions=tuple(subscriptions or ()),
        event_types=tuple(event_types or ()),
        event_ids=tuple(events or ()),
        since_ms=time_option_ms(since, "--since") if since else None,
        until_ms=time_option_ms(until, "--until") if until else None,
        reasons=tuple(reasons or ()),
        error_classes=tuple(error_classes or ()),
        replayed=replayed,
    )


def _asked_for(settings: Settings, wanted: Ordered) -> str:
    """The id of its plan, when whoever sits there wants it sent. CommandError otherwise."""
    if not sys.stdin.isatty():
        raise CommandError(
            "this sends webhooks again, and there is no terminal to ask on; add --yes, or `distributary replay plan` it"
        )
    view = run(lambda _: counted(settings, wanted))
    say(plan_in_words(view), "bold")
    if typer.confirm("Send them?", err=True):
        return view.id
    run(lambda _: change(settings, view.id, "cancelled"))
    raise CommandError("nothing was sent")


def _change(settings: Settings, replay_id: str, wish: Wish, rate: float | None = None, *, as_json: bool) -> None:
    """Wait until a worker has done so, and say it."""
    _end(run(lambda _: change(settings, replay_id, wish, rate)), follow=False, as_json=as_json)


def _end(view: ReplayView, *, follow: bool, as_json: bool, silent: bool = False) -> None:
    """Print it; CommandError for one that was followed to a bad end."""
    if as_json:
        emit(document(view))
    elif not silent:
        say(f"{view.id}  {state(view)}", style(view))
    if follow and view.state in ("failed", "cancelled"):
        raise CommandError(f"the replay {view.id} is {view.state}; `distributary replay show {view.id}` says more")
