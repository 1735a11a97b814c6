"""`distributary send`."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import orjson
import typer

from connectors.admin import require_topics
from connectors.clock import SystemClock
from connectors.feed import Writer
from schemas.errors import UndecodableError
from schemas.event import DEFAULT_TENANT, Event, checked, encode_event
from schemas.topics import EVENT_BYTES_MAX
from streams.cli.options import AsJson, Bootstrap, Prefix, RegistryUrl, load_settings, open_registry
from streams.cli.output import emit, note, say, steps
from streams.cli.running import CommandError, run
from streams.settings import Settings
from streams.wiring import client_config, register_own_schemas

#: Ids are printed once their events are acknowledged, in groups of at most so many.
GROUP_MAX = 1_000


def send(
    type_: Annotated[str, typer.Option("--type", help="The event's type, such as order.created")],
    data: Annotated[str, typer.Option(help="One JSON value; @FILE reads a file, - stdin")] = "{}",
    tenant: Annotated[str, typer.Option(help="Whose event it is")] = DEFAULT_TENANT,
    subject: Annotated[str | None, typer.Option(help="What it is about; also the record's key")] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Where it happened: CloudEvents' source, a URI", show_default="/distributary/ and the tenant"
        ),
    ] = None,
    id_: Annotated[str | None, typer.Option("--id", help="Its id", show_default="a random one")] = None,
    count: Annotated[int, typer.Option(min=1, max=10_000_000, help="How many; each has an id of its own")] = 1,
    rate: Annotated[
        float | None,
        typer.Option(min=0.01, max=1_000_000, help="Events a second", show_default="as fast as it goes"),
    ] = None,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Write events to the events topic and print their ids once Kafka has acknowledged them.

    An event is written as Avro (event.v3), keyed by its subject or else its id. With --count, ids end in -1, -2, ...

    Example: distributary send --type order.created --subject o-17 --data '{"total": 12.5}'
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    body = read_data(data)
    if len(body) > EVENT_BYTES_MAX:
        note(f"warning: the data has {len(body)} bytes; events of more than {EVENT_BYTES_MAX} are put into quarantine")
    base = id_ or f"evt_{secrets.token_hex(12)}"
    template = Event(base, type_, tenant, SystemClock().now_ms(), body, subject, source=source)
    try:
        checked(template)
    except UndecodableError as error:
        raise CommandError(f"the event would not be accepted: {error}; correct it") from None

    async def main(_: asyncio.Event) -> None:
        with steps("sending", count) as progress:
            sent = 0
            async for ids in _sent(settings, template, count, rate):
                sent += len(ids)
                progress.at(sent)
                for each in ids:
                    if as_json:
                        emit({"id": each, "type": type_, "tenant": tenant, "subject": subject})
                    else:
                        say(each)

    run(main)


async def _sent(settings: Settings, template: Event, count: int, rate: float | None) -> AsyncIterator[list[str]]:
    config, topic = client_config(settings), settings.topics.events
    await require_topics(config, [topic])
    async with open_registry(settings) as registry:
        schema_id = (await register_own_schemas(registry, settings.topics)).event
    clock = SystemClock()
    start = clock.monotonic()
    group = GROUP_MAX if rate is None else max(1, min(GROUP_MAX, int(rate)))
    async with Writer(config) as writer:
        ids: list[str] = []
        for n in range(count):
            if rate is not None and (early := start + n / rate - clock.monotonic()) > 0:
                await asyncio.sleep(early)
            event_id = template.id if count == 1 else f"{template.id}-{n + 1}"
            event = Event(event_id, template.type, template.tenant, clock.now_ms(), template.data, template.subject)
            key = (template.subject or event_id).encode()
            await writer.write(topic, key, encode_event(schema_id, event))
            ids.append(event_id)
            if len(ids) == group or n + 1 == count:
                await writer.flush()
                yield ids
                ids = []


def read_data(argument: str) -> bytes:
    """The JSON that the option means. CommandError when it is none."""
    if argument == "-":
        text = sys.stdin.buffer.read()
    elif argument.startswith("@"):
        text = Path(argument[1:]).read_bytes()
    else:
        text = argument.encode()
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise CommandError(f"--data is not JSON: {error}; quote it for the shell, as --data '{{\"a\": 1}}'") from None
    return text
