"""`distributary schemas register | list`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from connectors.registry_state import Entry
from schemas import codec
from streams.cli.options import AsJson, RegistryUrl, load_settings, open_registry
from streams.cli.output import emit, say
from streams.cli.running import CommandError, run

app = typer.Typer(help="Register schemas and list them.", no_args_is_help=True)


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
    try:
        text = file.read_text("utf-8")
        codec.parse_schema(text)
    except UnicodeDecodeError:
        raise CommandError(f"{file} is not UTF-8 text; name an Avro schema file") from None
    except ValueError as error:
        raise CommandError(f"{file} is {error}; correct it") from None

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
