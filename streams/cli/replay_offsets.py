"""`distributary replay offsets`: a consumer group starts again from an earlier place."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any

import typer

from connectors.group_offsets import Move, Target, ToEarliest, ToOffset, ToTime, plan_reset, reset, running_members
from streams.cli.options import AsJson, Bootstrap, Prefix, load_settings, time_option_ms
from streams.cli.output import emit, many, note, say
from streams.cli.running import CommandError, run
from streams.settings import Settings
from streams.wiring import Role, client_config


def offsets(
    group: Annotated[str, typer.Option(help="fan-out, delivery, or a group's full name")],
    to_time: Annotated[
        str | None, typer.Option(help="Records from this time on, such as 2026-08-01T12:00:00Z", metavar="ISO")
    ] = None,
    to_offset: Annotated[
        int | None, typer.Option(min=0, help="Records from this offset on, of one --partition")
    ] = None,
    to_earliest: Annotated[bool, typer.Option("--to-earliest", help="Everything that is still there")] = False,
    topic: Annotated[
        str | None,
        typer.Option(help="The topic's full name", show_default="events, deliveries"),
    ] = None,
    partition: Annotated[int | None, typer.Option(min=0, help="Only this partition")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many records it covers")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Make a group start again from an earlier place, by resetting its offsets. Its workers must be stopped.

    The group fan-out reads events again and writes their deliveries anew, for the subscriptions of now; the group
    delivery sends deliveries again, without their retries. Receivers see the webhook-ids that they saw before. The
    number of records is an upper bound: compaction and transactions leave offsets without a record.

    Example: distributary replay offsets --group fan-out --to-time 2026-08-01T12:00:00Z --dry-run
    """
    target = _target(to_time, to_offset, to_earliest, partition)
    settings = load_settings(bootstrap=bootstrap, prefix=prefix)
    config = client_config(settings)
    name, topics = _group(settings, group, topic)

    async def plan(_: asyncio.Event) -> tuple[list[Move], list[str]]:
        return await plan_reset(config, name, topics, target, partition=partition), await running_members(config, name)

    moves, members = run(plan)
    if not as_json:
        _show(name, moves)
    if dry_run:
        if as_json:
            _emit(name, moves, done=False)
        if members:
            note(f"the group {name} is running ({', '.join(members[:3])}); stop its workers before the replay")
        return
    if not members and not yes:  # with members the reset refuses, and there is nothing to ask
        _confirm()
    run(lambda _: reset(config, name, moves))
    if as_json:
        _emit(name, moves, done=True)
    else:
        say(f"reset {many(len(moves), 'partition')} of {name}; start its workers again")


def _target(to_time: str | None, to_offset: int | None, to_earliest: bool, partition: int | None) -> Target:
    if (to_time is not None) + (to_offset is not None) + to_earliest != 1:
        raise typer.BadParameter("give one of --to-time, --to-offset and --to-earliest")
    if to_time is not None:
        return ToTime(time_option_ms(to_time, "--to-time"))
    if to_offset is not None:
        if partition is None:
            raise typer.BadParameter("an offset belongs to one partition; add --partition", param_hint="--to-offset")
        return ToOffset(to_offset)
    return ToEarliest()


def _group(settings: Settings, group: str, topic: str | None) -> tuple[str, list[str]]:
    """(full name, topics to reset). Not the retry tiers, which hold later attempts of the same deliveries."""
    first: dict[Role, str] = {"fan-out": settings.topics.events, "delivery": settings.topics.deliveries}
    for role, source in first.items():
        if group in (role, settings.group(role)):
            return settings.group(role), [topic or source]
    if topic is None:
        raise typer.BadParameter(f"{group!r} is neither fan-out nor delivery; add --topic", param_hint="--group")
    return group, [topic]


def _show(group: str, moves: list[Move]) -> None:
    for move in moves:
        now = "nothing committed" if move.committed is None else f"now at {move.committed}"
        most = many(move.records_max, "record")
        say(f"{move.topic}[{move.partition}]  {now} → {move.target} of {move.end}: at most {most}")
    say(f"{group}: at most {many(sum(move.records_max for move in moves), 'record')} in all", "bold")


def _emit(group: str, moves: list[Move], *, done: bool) -> None:
    for move in moves:
        fields: dict[str, Any] = {name: getattr(move, name) for name in move.__struct_fields__}
        emit({"group": group, **fields, "records_max": move.records_max, "done": done})


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise CommandError("this resets offsets, and there is no terminal to ask on; add --yes, or --dry-run to look")
    if not typer.confirm("Reset these offsets?", err=True):
        raise CommandError("nothing was changed")
