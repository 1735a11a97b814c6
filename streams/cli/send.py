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
from msgspec.structs import replace

from connectors.admin import require_topics
from connectors.clock import SystemClock
from connectors.feed import Writer
from schemas.errors import UndecodableError
from schemas.event import DEFAULT_TENANT, Event, checked, encode_event
from schemas.topics import EVENT_BYTES_MAX
from streams.cli.options import AsJson, Bootstrap, Prefix, RegistryUrl, load_settings, open_registry
from streams.cli.output import emit, note, say, steps
from streams.cli.running import CommandError, run
from streams.cli.send_sample import Sample, cloud_event_headers, sample_of
from streams.settings import Settings
from streams.wiring import client_config, register_own_schemas

#: Ids are printed once their events are acknowledged, in groups of at most so many.
GROUP_MAX = 1_000


def send(
    type_: Annotated[str | None, typer.Option("--type", help="The event's type, such as order.created")] = None,
    data: Annotated[
        str | None, typer.Option(help="One JSON value; @FILE reads a file, - stdin", show_default="{}")
    ] = None,
    sample: Annotated[
        str | None, typer.Option(help="Send a sample of this type, made from its schema", metavar="TYPE")
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(help="The subject of the sample's schema", metavar="SUBJECT", show_default="what the type says"),
    ] = None,
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

    An event is written as Avro (event.v3), keyed by its subject or else its id. With --count, ids end in -1, -2, ... A
    sample is a record of the newest version of its type's schema, with the headers of CloudEvents; where the type has
    no schema, its example.

    Example: distributary send --type order.created --subject o-17 --data '{"total": 12.5}'

    Example: distributary send --sample order.created
    """
    if (type_ is None) == (sample is None):
        raise typer.BadParameter("one of --type and --sample is needed", param_hint="--type")
    if (sample is None and schema is not None) or (sample is not None and data is not None):
        raise typer.BadParameter("--schema is for samples, and --data for the others", param_hint="--sample")
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    body = read_data("{}" if data is None else data)
    if len(body) > EVENT_BYTES_MAX:
        note(f"warning: the data has {len(body)} bytes; events of more than {EVENT_BYTES_MAX} are put into quarantine")
    base = id_ or f"evt_{secrets.token_hex(12)}"
    kind = type_ or sample or ""
    template = Event(base, kind, tenant, SystemClock().now_ms(), body, subject, source=source)
    try:
        checked(template)
    except UndecodableError as error:
        raise CommandError(f"the event would not be accepted: {error}; correct it") from None

    async def main(_: asyncio.Event) -> None:
        with steps("sending", count) as progress:
            sent = 0
            async for ids in _sent(settings, template, count, rate, schema, sampled=sample is not None):
                sent += len(ids)
                progress.at(sent)
                for each in ids:
                    if as_json:
                        emit({"id": each, "type": kind, "tenant": tenant, "subject": subject})
                    else:
                        say(each)

    run(main)


async def _sent(
    settings: Settings, template: Event, count: int, rate: float | None, schema: str | None, *, sampled: bool
) -> AsyncIterator[list[str]]:
    config, topic = client_config(settings), settings.topics.events
    await require_topics(config, [topic])
    async with open_registry(settings) as registry:
        schema_id = (await register_own_schemas(registry, settings.topics)).event
        made = await sample_of(settings, registry, template.type, schema) if sampled else Sample(template.data)
    clock = SystemClock()
    start = clock.monotonic()
    group = GROUP_MAX if rate is None else max(1, min(GROUP_MAX, int(rate)))
    async with Writer(config) as writer:
        ids: list[str] = []
        for n in range(count):
            if rate is not None and (early := start + n / rate - clock.monotonic()) > 0:
                await asyncio.sleep(early)
            event_id = template.id if count == 1 else f"{template.id}-{n + 1}"
            event = replace(template, id=event_id, time_ms=clock.now_ms(), data=made.data)
            key = (template.subject or event_id).encode()
            if made.record:
                await writer.write(topic, key, made.record, cloud_event_headers(event))
            else:
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
