"""`distributary catalog`: all that the registry knows of events, for programs and for people."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import orjson
import typer

from connectors.admin import require_topics
from connectors.event_types import EventTypeTable
from schemas.event_type import EventType
from schemas.operation_types import RECORD_NAME, operation_types
from schemas.subjects import subject_of
from streams.cli.options import AsJson, Bootstrap, Prefix, RegistryUrl, load_settings, open_registry
from streams.cli.output import emit, say
from streams.cli.running import CommandError, run
from streams.core.catalog import Schema, asyncapi, describe
from streams.core.catalog_page import html
from streams.settings import Settings
from streams.wiring import client_config


def catalog(
    out: Annotated[Path, typer.Option(help="The folder to write to; it is created", metavar="DIR")],
    title: Annotated[str, typer.Option(help="The catalog's title")] = "Events",
    version: Annotated[str, typer.Option(help="The catalog's own version")] = "1.0.0",
    operations: Annotated[
        bool, typer.Option("--operations", help="Also what operators are told of: operation.circuit.opened, ...")
    ] = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Write asyncapi.json (AsyncAPI 3.0) and index.html: every version of every schema of events, with an example.

    Where a cluster is named, the event types that are described there are in it too.

    Example: distributary catalog --out site
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)

    async def main(_: asyncio.Event) -> tuple[list[Schema], list[EventType]]:
        async with open_registry(settings) as registry:
            found = await registry.list_entries()
        types = [] if settings.bootstrap is None else await _event_types(settings)
        if operations:
            places = [(each.subject, each.version) for each in found if each.name == RECORD_NAME]
            place = subject_of(places, RECORD_NAME, settings.topics.events)
            types += operation_types(place[0] if place else "")
        return [Schema(each.subject, each.version, each.id, each.name, each.schema) for each in found], types

    schemas, types = run(main)
    try:
        described = describe(schemas, operations=operations)
    except ValueError as error:
        raise CommandError(f"a schema of the registry cannot be described: {error}; correct it there") from None
    topic = settings.topics.events
    document = asyncapi(described, title=title, version=version, events_topic=topic, event_types=types)
    page = html(described, title=title, version=version, events_topic=topic, event_types=types)
    out.mkdir(parents=True, exist_ok=True)
    files = {"asyncapi.json": orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n", "index.html": page.encode()}
    for name, content in files.items():
        (out / name).write_bytes(content)
        if as_json:
            emit({"file": str(out / name), "schemas": len(described)})
        else:
            say(f"{out / name}: {len(described)} schemas")


async def _event_types(settings: Settings) -> list[EventType]:
    config, topic = client_config(settings), settings.topics.event_types
    await require_topics(config, [topic])
    table = EventTypeTable(config, topic)
    await table.start()
    await table.stop()
    return list(table.after(None))
