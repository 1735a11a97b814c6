"""`distributary schemas register | check | list`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from connectors.registry_state import Entry
from streams.cli.options import AsJson, Bootstrap, Prefix, RegistryUrl, load_settings, open_registry
from streams.cli.output import emit, say
from streams.cli.running import CommandError, run
from streams.cli.schema_check import as_document, in_words, looked_at, schema_file

app = typer.Typer(help="Register schemas, check proposed ones, and list them.", no_args_is_help=True)


@app.command("register")
def register(
    file: Annotated[Path, typer.Argument(help="An Avro schema (.avsc)", metavar="FILE")],
    subject: Annotated[str, typer.Option(help="The subject, such as events-value")],
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Register a schema under a subject and print its id. An equal schema keeps the id that it has.

    Example: distributary schemas register --subject orders-value order.avsc
    """
    settings = load_settings(registry_url=registry_url)
    text = schema_file(file)

    async def main(_: asyncio.Event) -> int:
        async with open_registry(settings) as registry:
            try:
                return await registry.register(subject, text)
            except ValueError as error:
                raise CommandError(f"{file} was not registered: {error}") from None

    schema_id = run(main)
    if as_json:
        emit({"subject": subject, "id": schema_id})
    else:
        say(str(schema_id))


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="The proposed Avro schema (.avsc)", metavar="FILE")],
    subject: Annotated[str, typer.Option(help="The subject that it would be the next version of")],
    event_types: Annotated[
        list[str] | None,
        typer.Option(
            "--type", help="An event type written with the subject; repeat it", show_default="those on the events topic"
        ),
    ] = None,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Say what a proposed schema would break: the subject's level, and subscriptions pinned to a version.

    Registers nothing. The exit code is 1 when something would break. Which event types are written with the subject is
    read from the newest events; name them with --type where there are none yet. Without a cluster, only the level is
    checked.

    Example: distributary schemas check order.avsc --subject shop.Order --type order.created
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    text = schema_file(file)
    report = run(lambda _: looked_at(settings, file, text, subject, event_types))
    if as_json:
        emit(as_document(report, subject))
    else:
        for line in in_words(report, subject):
            say(line)
    if not report.fine:
        raise typer.Exit(1)


@app.command("list")
def list_(registry_url: RegistryUrl = None, as_json: AsJson = False) -> None:
    """List every version of every subject with its id.

    Example: distributary schemas list --registry-url http://localhost:8081
    """
    settings = load_settings(registry_url=registry_url)

    async def main(_: asyncio.Event) -> list[Entry]:
        async with open_registry(settings) as registry:
            return await registry.list_entries()

    for entry in run(main):
        if as_json:
            emit({"subject": entry.subject, "version": entry.version, "id": entry.id, "name": entry.name})
        else:
            say(f"{entry.id:>10}  {entry.subject} v{entry.version}  {entry.name}")
