"""`distributary dead list | show | retry | discard | export`: options, and what is printed.

Where dead letters are read and what is known of them is in `dead_open.py`, how they are shown in `dead_view.py`.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import typer

from connectors.dead_choice import Choice, ChoiceError, to_send
from connectors.dead_documents import PAYLOAD_BYTES_MAX, DeadDocument, mark_view
from schemas.dead_letter import DeadState
from schemas.replay import PLACES_MAX, RATE_DEFAULT, RATE_MAX, InvalidReplayError, Selection, checked_selection
from streams.cli.dead_open import Retry, discarding, open_letters, place_of, retrying
from streams.cli.dead_view import counts, document, one_line, page
from streams.cli.options import AsJson, Bootstrap, Prefix, RegistryUrl, load_settings, time_option_ms
from streams.cli.output import emit, many, note, say, steps
from streams.cli.running import CommandError, run
from streams.settings import Settings

app = typer.Typer(help="Look at dead letters, send them again, or discard them.", no_args_is_help=True)

Ids = Annotated[list[str] | None, typer.Argument(help="Their ids, as list prints them", metavar="[ID]...")]
Tenant = Annotated[str | None, typer.Option(help="Of this tenant only", show_default="all")]
Subscription = Annotated[list[str] | None, typer.Option(help="Of this subscription only; may be repeated")]
EventType = Annotated[list[str] | None, typer.Option(help="Of this type only: order.created, order.*; may be repeated")]
Event = Annotated[list[str] | None, typer.Option(help="Of the event with this id only; may be repeated")]
Reason = Annotated[list[str] | None, typer.Option(help="Given up as exhausted, rejected, …; may be repeated")]
ErrorClass = Annotated[
    list[str] | None, typer.Option(help="Whose last attempt failed as 5xx, 4xx, timeout, …; may be repeated")
]
Since = Annotated[str | None, typer.Option(help="Not before this time: 2026-08-01T12:00:00Z")]
Until = Annotated[str | None, typer.Option(help="Before this time")]
State = Annotated[DeadState | None, typer.Option(help="Only those in this state", show_default="any")]
All = Annotated[bool, typer.Option("--all", help="All of them")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count them")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")]


@app.command("list")
def list_(
    tenant: Tenant = None,
    subscription: Subscription = None,
    event_type: EventType = None,
    event: Event = None,
    reason: Reason = None,
    error_class: ErrorClass = None,
    since: Since = None,
    until: Until = None,
    state: State = None,
    count: Annotated[bool, typer.Option("--count", help="Count them, by reason and subscription")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Only the newest so many")] = 50,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the newest first.

    Example: distributary dead list --subscription acme --state open

    Example: distributary dead list --count --since 2026-08-01T12:00:00Z
    """
    selection = _selection(tenant, subscription, event_type, event, reason, error_class, since, until)
    settings = load_settings(bootstrap=bootstrap, prefix=prefix)

    async def listed(_: asyncio.Event) -> int:
        shown = 0
        async with open_letters(settings) as opened:
            async for view in opened.newest(selection, state, limit):
                emit(msgspec.to_builtins(view)) if as_json else say(*one_line(view))
                shown += 1
        return shown

    if count:
        everything = msgspec.structs.replace(selection, replayed=True)
        _show(run(lambda _: _counted(settings, everything, state)), as_json)
    elif not run(listed):
        note("no dead letter fits")


@app.command("show")
def show(
    id_: Annotated[str, typer.Argument(help="Its id, as list prints it", metavar="ID")],
    raw: Annotated[bool, typer.Option("--raw", help="Only its payload, byte by byte")] = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Show a dead letter: its payload, every attempt, what to look at, and who did what about it.

    Example: distributary dead show 3-1207
    """
    place = place_of(id_)
    settings = load_settings(bootstrap=bootstrap, prefix=prefix)

    async def main(_: asyncio.Event) -> tuple[DeadDocument, bytes]:
        async with open_letters(settings) as opened:
            filed = await opened.one(place)
            return opened.document(filed, None if as_json else PAYLOAD_BYTES_MAX), filed.letter.delivery.body

    it, body = run(main)
    if raw:
        sys.stdout.buffer.write(body)
        sys.stdout.buffer.flush()
    elif as_json:
        sys.stdout.write(msgspec.json.encode(it).decode() + "\n")
    else:
        for line in page(it):
            sys.stdout.write(f"{line}\n")


@app.command("retry")
def retry(
    ids: Ids = None,
    tenant: Tenant = None,
    subscription: Subscription = None,
    event_type: EventType = None,
    event: Event = None,
    reason: Reason = None,
    error_class: ErrorClass = None,
    since: Since = None,
    until: Until = None,
    all_: All = False,
    replayed: Annotated[bool, typer.Option("--replayed", help="Also what a replay had sent, and failed again")] = False,
    again: Annotated[bool, typer.Option("--again", help="Also what was retried or discarded already")] = False,
    rate: Annotated[float, typer.Option(min=0, max=RATE_MAX, help="Deliveries a second; 0 for no limit")] = (
        RATE_DEFAULT
    ),
    why: Annotated[str, typer.Option(help="For people, and the audit trail")] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Watch it to its end; Ctrl-C leaves it running")
    ] = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Send dead letters again, with a replay: to the URL and with the secrets of now, and all their retries.

    Those that are open, of those that fit; they are counted first. A worker with the role replay sends them.

    Example: distributary dead retry --subscription acme --error-class 5xx --dry-run

    Example: distributary dead retry 3-1207
    """
    selection = _selection(tenant, subscription, event_type, event, reason, error_class, since, until)
    selection = _meant(ids, selection, all_, replayed=replayed)
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    asked = Retry(selection, rate, why, again, follow)
    counted = run(lambda _: _counted(settings, selection, None))
    try:
        order = to_send(selection, counted, again=again)
    except ChoiceError as error:
        if not dry_run:
            raise CommandError(str(error)) from None
        order = selection
    closed = counted.closed
    if ids and closed and not again:
        raise CommandError(
            f"{closed:,} of {len(ids):,}: retried or discarded already; add --again to send them once more"
        )
    number = counted.tally.count if again else counted.tally.states["open"]
    if dry_run:
        _show(counted, as_json)
        note(f"{number:,} would be sent, in {number / rate:,.0f} s at {rate:g} a second" if rate else f"{number:,}")
        return
    _ask(f"Send {many(number, 'dead letter')} again", number, ids=bool(ids), yes=yes)
    view = run(lambda _: retrying(settings, msgspec.structs.replace(asked, selection=order)))
    if as_json:
        emit(msgspec.to_builtins(view))
    else:
        say(
            f"{view.id}: {many(number, 'dead letter')}, {view.state}; `distributary replay show {view.id}` tells more",
            "bold",
        )


@app.command("discard")
def discard(
    ids: Ids = None,
    tenant: Tenant = None,
    subscription: Subscription = None,
    event_type: EventType = None,
    event: Event = None,
    reason: Reason = None,
    error_class: ErrorClass = None,
    since: Since = None,
    until: Until = None,
    all_: All = False,
    why: Annotated[str, typer.Option(help="Why, for those who look for it later")] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Discard dead letters with a mark that says who and why. They stay where they are, and can still be retried.

    Example: distributary dead discard --subscription acme --reason gone --why "the customer has left"
    """
    if not dry_run and not why.strip():
        raise typer.BadParameter("say why; it is kept with the mark", param_hint="--why")
    selection = _selection(tenant, subscription, event_type, event, reason, error_class, since, until)
    selection = _meant(ids, selection, all_, replayed=True)
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    counted = run(lambda _: _counted(settings, selection, None))
    number = counted.tally.count
    if dry_run:
        _show(counted, as_json)
        return
    if not number:
        raise CommandError("no dead letter fits")
    _ask(f"Discard {many(number, 'dead letter')}", number, ids=bool(ids), yes=yes)
    mark = run(lambda _: discarding(settings, selection, why, counted.ends))
    emit(msgspec.to_builtins(mark_view(mark))) if as_json else say(
        f"{mark.id}: {many(number, 'dead letter')} discarded", "bold"
    )


@app.command("export")
def export(
    tenant: Tenant = None,
    subscription: Subscription = None,
    event_type: EventType = None,
    event: Event = None,
    reason: Reason = None,
    error_class: ErrorClass = None,
    since: Since = None,
    until: Until = None,
    state: State = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file", show_default="stdout")] = None,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
) -> None:
    """Write dead letters with their whole payloads, a line of JSON each, in the order of each partition.

    Example: distributary dead export --subscription acme -o acme.ndjson
    """
    selection = _selection(tenant, subscription, event_type, event, reason, error_class, since, until)
    settings = load_settings(bootstrap=bootstrap, prefix=prefix)

    async def main(_: asyncio.Event) -> int:
        written = 0
        with ExitStack() as stack:
            sink: BinaryIO = sys.stdout.buffer if output is None else stack.enter_context(output.open("wb"))
            progress = stack.enter_context(steps("exporting"))
            async with open_letters(settings) as opened:
                async for lines, read, total in opened.lines(selection, state):
                    sink.writelines(lines)
                    written += len(lines)
                    progress.at(read, total)
            sink.flush()
        return written

    count = run(main)
    note(f"{many(count, 'dead letter')} written")


async def _counted(settings: Settings, selection: Selection, state: DeadState | None) -> Choice:
    with steps("counting") as progress:
        async with open_letters(settings) as opened:
            return await opened.count(selection, state, progress.at)


def _show(counted: Choice, as_json: bool) -> None:
    tally = counted.tally
    if as_json:
        emit(document(tally, counted.unreadable))
        return
    for line in counts(tally, counted.unreadable):
        say(line)
    if counted.replayed:
        say(f"besides, {counted.replayed:,} that a replay had sent, and that failed again (--replayed)")


def _meant(ids: list[str] | None, selection: Selection, all_: bool, *, replayed: bool) -> Selection:
    filters = selection != Selection(source="dead")
    if bool(ids) + filters + all_ != 1:
        raise typer.BadParameter("name dead letters by their ID, or filter them, or add --all")
    places = tuple(sorted({place_of(each) for each in ids or ()}))
    if len(places) > PLACES_MAX:
        raise typer.BadParameter(f"name at most {PLACES_MAX:,} of them, or filter them")
    return msgspec.structs.replace(selection, places=places, replayed=replayed or bool(ids))


def _ask(question: str, number: int, *, ids: bool, yes: bool) -> None:
    """CommandError where the answer is no. What is named one by one is meant."""
    if ids or yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(
            f"this is about {many(number, 'dead letter')}, and nobody is there to ask; add --yes, or --dry-run to look"
        )
    if not typer.confirm(f"{question}?", err=True):
        raise CommandError("nothing was done")


def _selection(
    tenant: str | None,
    subscriptions: list[str] | None,
    event_types: list[str] | None,
    events: list[str] | None,
    reasons: list[str] | None,
    error_classes: list[str] | None,
    since: str | None,
    until: str | None,
) -> Selection:
    """CommandError where a rule is broken."""
    try:
        return checked_selection(
            Selection(
                source="dead",
                tenant=tenant,
                subscriptions=tuple(subscriptions or ()),
                event_types=tuple(event_types or ()),
                event_ids=tuple(events or ()),
                reasons=tuple(reasons or ()),
                error_classes=tuple(error_classes or ()),
                since_ms=None if since is None else time_option_ms(since, "--since"),
                until_ms=None if until is None else time_option_ms(until, "--until"),
            )
        )
    except InvalidReplayError as error:
        raise CommandError(f"{error}; correct it") from None
