"""`distributary quarantine list | show | resend | discard`: options, and what is printed.

Which records there are is `quarantine_log.py`'s, what they would be now `quarantine_check.py`'s, and which are resent
`quarantine_resend.py`'s.
"""

from __future__ import annotations

import asyncio
import heapq
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from connectors.admin import require_topics
from schemas.codec import wire_header
from schemas.replay import WHY_CHARACTERS_MAX
from streams.cli.options import AsJson, Bootstrap, Prefix, RegistryUrl, load_settings, open_registry, time_option_ms
from streams.cli.output import emit, many, note, say, steps
from streams.cli.quarantine_view import lines, one_line
from streams.cli.running import CommandError, run
from streams.cli.writing import asking
from streams.quarantine_check import Judge
from streams.quarantine_log import (
    Discarded,
    Filter,
    Place,
    Quarantined,
    Resent,
    entries,
    not_there,
    parse_place,
)
from streams.quarantine_page import described, hidden, page, told
from streams.quarantine_resend import Audit, Selection, Verdict, left, plan, resender
from streams.settings import Settings
from streams.wiring import client_config, register_own_schemas

app = typer.Typer(help="Look at quarantined records, resend what is mended, discard others.", no_args_is_help=True)

Reason = Annotated[str | None, typer.Option(help="Only records with this reason")]
Topic = Annotated[str | None, typer.Option(help="Only records from this topic, such as events")]
Partition = Annotated[int | None, typer.Option(min=0, help="Only records from this partition of their topic")]
Since = Annotated[
    str | None, typer.Option(help="Only records quarantined since, such as 2026-08-01T12:00:00Z", metavar="ISO")
]
Until = Annotated[str | None, typer.Option(help="Only records quarantined before", metavar="ISO")]

#: What is said of records that were skipped, for people, and how many of them.
_SKIPPED_LINES_MAX = 20
_ALL_THE_SAME = {
    "already_resent": "add --again to resend it once more",
    "discarded": "add --again to resend it all the same",
    "undecodable": "mend the cause first, or add --force",
    "superseded": "add --force to go back to it all the same",
    "no_source": "read the topic with a consumer to save its value",
}


@app.command("list")
def list_(
    reason: Reason = None,
    topic: Topic = None,
    partition: Partition = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Only the newest so many")] = 100,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """List quarantined records, the oldest first: where each stands, when it came, why, and from where.

    Example: distributary quarantine list --reason unknown_schema --topic events
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix)
    wanted = _filter(settings, reason, topic, partition, since, until)

    async def main(_: asyncio.Event) -> None:
        newest: list[tuple[int, Place, dict[str, Any]]] = []
        resent: set[Place] = set()
        discarded: dict[Place, Discarded] = {}
        count = 0
        async for each in entries(client_config(settings), settings.topics.quarantine):
            if isinstance(each, Resent):
                resent.add(each.place)
            elif isinstance(each, Discarded):
                discarded[each.place] = each
            elif wanted.matches(each):
                count += 1
                item = (each.time_ms, each.place, described(each))
                heapq.heappush(newest, item) if len(newest) < limit else heapq.heappushpop(newest, item)
        for _time_ms, place, document in sorted(newest):
            document["resent"], document["discarded"] = place in resent, told(discarded.get(place))
            emit(document) if as_json else say(*one_line(document))
        if count > len(newest):
            note(f"the newest {len(newest)} of {count}; raise --limit for more")

    run(main)


@app.command("show")
def show(
    place: Annotated[str, typer.Argument(help="Where it stands, as list prints it", metavar="PLACE")],
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Also the value of a subscription, with its secrets")
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Only its value, byte by byte")] = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show a quarantined record, decoded as far as possible, and what would become of it now.

    Example: distributary quarantine show events.quarantine/0/17
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    where = parse_place(place, settings.topics.quarantine, settings.prefix)

    async def main(_: asyncio.Event) -> tuple[Quarantined, dict[str, Any]]:
        record, resent, discarded = await _find(settings, where)
        async with open_registry(settings) as registry:
            document = await page(record, registry, Judge(settings, registry))
        return record, document | {"resent": resent, "discarded": told(discarded)}

    record, document = run(main)
    secret = record.source is not None and record.source.topic == settings.topics.subscriptions and not reveal
    if raw and secret:
        raise CommandError(f"the record at {where} may hold a subscription's secrets; add --reveal to print it")
    if raw:
        sys.stdout.buffer.write(record.value or b"")
        sys.stdout.buffer.flush()
        return
    if secret:
        document = hidden(document)
    if as_json:
        emit(document)
        return
    for line in lines(document, None if secret else record.value):
        sys.stdout.write(f"{line}\n")


async def _find(settings: Settings, place: Place) -> tuple[Quarantined, bool, Discarded | None]:
    """The record, whether it was resent, and who discarded it. CommandError."""
    record: Quarantined | None = None
    discarded: Discarded | None = None
    resent = False
    async for each in entries(client_config(settings), settings.topics.quarantine):
        if each.place == place:
            if isinstance(each, Resent):
                resent = True
            elif isinstance(each, Discarded):
                discarded = each
            else:
                record = each
    if record is None:
        raise not_there(place)
    return record, resent, discarded


@app.command("resend")
def resend(
    places: Annotated[
        list[str] | None, typer.Argument(help="Where they stand, as list prints it", metavar="[PLACE]...")
    ] = None,
    reason: Reason = None,
    topic: Topic = None,
    partition: Partition = None,
    since: Since = None,
    until: Until = None,
    all_: Annotated[bool, typer.Option("--all", help="All of them")] = False,
    value_file: Annotated[
        Path | None, typer.Option(help="Of one record: send the bytes of this file in place of its value")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also what was resent already")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also what would come back")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be resent")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Write quarantined records to the topics and partitions they came from, once their cause is mended.

    Only what would be accepted now is resent, and nothing twice. With PLACE, all of the named records or none; else
    those that match, or --all.

    Example: distributary quarantine resend --reason unknown_schema --dry-run

    Example: distributary quarantine resend events.quarantine/0/17 --value-file fixed.bin
    """
    filters = (reason, topic, partition, since, until)
    if bool(places) + any(each is not None for each in filters) + all_ != 1:
        raise typer.BadParameter("name records by their PLACE, or filter them, or add --all")
    if value_file is not None and len(places or ()) != 1:
        raise typer.BadParameter("a value belongs to one record; name its PLACE", param_hint="--value-file")
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    selection = Selection(
        places=frozenset(parse_place(each, settings.topics.quarantine, settings.prefix) for each in places or ()),
        filter=_filter(settings, *filters),
        again=again,
        force=force,
        value=None if value_file is None else value_file.read_bytes(),
    )
    verdicts = run(lambda _: _planned(settings, selection))
    count = sum(verdict.skip is None for verdict in verdicts)
    if selection.places:
        _refuse_skipped(verdicts)
    if not dry_run and count:
        if not selection.places and not yes:
            _confirm(count, "resend")
        # Asked anew: what was resent meanwhile is not resent again.
        verdicts = run(lambda _: _resent(settings, selection))
    _report(verdicts, "would_resend" if dry_run else "resent", as_json)


@app.command("discard")
def discard(
    places: Annotated[
        list[str] | None, typer.Argument(help="Where they stand, as list prints it", metavar="[PLACE]...")
    ] = None,
    reason: Reason = None,
    topic: Topic = None,
    partition: Partition = None,
    since: Since = None,
    until: Until = None,
    all_: Annotated[bool, typer.Option("--all", help="All of them")] = False,
    why: Annotated[str, typer.Option(help="Why, for those who look for it later")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many there are")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
) -> None:
    """Mark quarantined records as discarded, with who and why. They stay where they are, and can still be resent.

    What was resent or discarded already is left out.

    Example: distributary quarantine discard --reason wrong_magic --why "a test that wrote JSON"
    """
    filters = (reason, topic, partition, since, until)
    if bool(places) + any(each is not None for each in filters) + all_ != 1:
        raise typer.BadParameter("name records by their PLACE, or filter them, or add --all")
    if not dry_run and not 0 < len(why.strip()) <= WHY_CHARACTERS_MAX:
        raise typer.BadParameter(f"say why, in up to {WHY_CHARACTERS_MAX:,} characters", param_hint="--why")
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    selection = Selection(
        places=frozenset(parse_place(each, settings.topics.quarantine, settings.prefix) for each in places or ()),
        filter=_filter(settings, *filters),
    )
    count = len(run(lambda _: left(settings, selection)))
    if not dry_run and count:
        if not places and not yes:
            _confirm(count, "discard")
        count = run(lambda _: _discarded(settings, selection, why.strip()))
    say(f"{'would discard' if dry_run else 'discarded'}: {count}", "bold")


async def _discarded(settings: Settings, selection: Selection, why: str) -> int:
    audit = await _audit(settings)
    async with resender(settings) as writing:
        # Asked anew: what was resent meanwhile is not discarded.
        places = await left(settings, selection)
        return await writing.discard(places, asking(), why, audit)


async def _audit(settings: Settings) -> Audit:
    await require_topics(client_config(settings), [settings.topics.audit])
    async with open_registry(settings) as registry:
        own = await register_own_schemas(registry, settings.topics)
    return Audit(settings.topics.audit, wire_header(own.audit_record))


async def _planned(settings: Settings, selection: Selection) -> list[Verdict]:
    async with open_registry(settings) as registry:
        return await plan(settings, Judge(settings, registry), selection)


async def _resent(settings: Settings, selection: Selection) -> list[Verdict]:
    audit = await _audit(settings)
    async with resender(settings) as writing:
        verdicts = await _planned(settings, selection)
        with steps("resending", sum(verdict.skip is None for verdict in verdicts)) as progress:
            await writing.resend(verdicts, selection.value, progress.at, (asking(), audit))
    return verdicts


def _refuse_skipped(verdicts: list[Verdict]) -> None:
    for verdict in verdicts:
        if verdict.skip is not None:
            raise CommandError(f"nothing was resent: {verdict.place}: {verdict.detail}; {_ALL_THE_SAME[verdict.skip]}")


def _confirm(count: int, what: str) -> None:
    if not sys.stdin.isatty():
        raise CommandError(
            f"this {what}s {many(count, 'record')}, and there is no terminal to ask on; add --yes, or --dry-run to look"
        )
    if not typer.confirm(f"{what.capitalize()} {many(count, 'record')}?", err=True):
        raise CommandError("nothing was done")


def _report(verdicts: list[Verdict], done: str, as_json: bool) -> None:
    if as_json:
        for verdict in verdicts:
            source = None if verdict.source is None else str(verdict.source)
            action = verdict.skip or done
            emit({"place": str(verdict.place), "source": source, "action": action, "detail": verdict.detail})
        return
    skipped = [verdict for verdict in verdicts if verdict.skip is not None]
    for verdict in skipped[:_SKIPPED_LINES_MAX]:
        say(f"skipped {verdict.place}: {verdict.detail}", "yellow")
    if len(skipped) > _SKIPPED_LINES_MAX:
        say(f"skipped {len(skipped) - _SKIPPED_LINES_MAX} more (--json names them)", "yellow")
    why = Counter(str(verdict.skip) for verdict in skipped)
    said = ", ".join(f"{count} {skip}" for skip, count in sorted(why.items()))
    say(f"{done.replace('_', ' ')}: {len(verdicts) - len(skipped)}, skipped: {said or 0}", "bold")


def _filter(
    settings: Settings,
    reason: str | None,
    topic: str | None,
    partition: int | None,
    since: str | None,
    until: str | None,
) -> Filter:
    """A topic is meant with or without its prefix."""
    if topic is not None and not topic.startswith(settings.prefix):
        topic = settings.prefix + topic
    from_ms = None if since is None else time_option_ms(since, "--since")
    to_ms = None if until is None else time_option_ms(until, "--until")
    return Filter(reason, topic, partition, from_ms, to_ms)
