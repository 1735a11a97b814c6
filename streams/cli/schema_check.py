"""`distributary schemas check`: what it reads, and how it says what breaks.

This file decides nothing (`streams/core/schema_check.py` does).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec

from connectors.admin import require_topics
from connectors.feed import Reader
from schemas import codec
from schemas.compatibility import Level
from schemas.errors import UndecodableError
from schemas.subjects import LATEST
from schemas.subscription import Subscription
from streams.cli.options import open_registry
from streams.cli.output import note
from streams.cli.running import CommandError
from streams.cli.subscriptions import read_all
from streams.core.schema_check import Report, check
from streams.ports import SubjectRegistry
from streams.settings import Settings
from streams.wiring import client_config

#: How many of the newest events of each partition are looked at for their types.
EVENTS_MAX = 1_000


def schema_file(file: Path) -> str:
    """The text of an Avro schema. CommandError when it is none."""
    try:
        text = file.read_text("utf-8")
        codec.parse_schema(text)
    except UnicodeDecodeError:
        raise CommandError(f"{file} is not UTF-8 text; name an Avro schema file") from None
    except ValueError as error:
        raise CommandError(f"{file} is {error}; correct it") from None
    return text


async def looked_at(
    settings: Settings, file: Path, proposed: str, subject: str, event_types: Sequence[str] | None
) -> Report:
    """What the proposed schema would break, with the subscriptions and events of now."""
    async with open_registry(settings) as registry:
        versions = {number: await registry.version(subject, number) for number in await registry.versions(subject)}
        level = await _level(registry, subject)
    if not versions:
        note(f"the subject {subject} has no versions yet: nothing can break")
    subscriptions: Sequence[Subscription] = ()
    types: Sequence[str] = event_types or ()
    if settings.bootstrap is None:
        note("no cluster is named, so subscriptions were not looked at; set DISTRIBUTARY_BOOTSTRAP=host:9092")
    elif versions:
        subscriptions = list((await read_all(settings)).values())
        types = types or await _types_seen(settings, {version.id for version in versions.values()})
        if not types:
            note(f"no event of {subject} is on {settings.topics.events}; name its types with --type")
    texts = {number: version.text for number, version in versions.items()}
    try:
        return check(proposed, texts, level, types, subscriptions)
    except ValueError as error:
        raise CommandError(f"{file} cannot be compared with the versions of {subject}: {error}") from None


async def _level(registry: SubjectRegistry, subject: str) -> Level:
    level = await registry.level(subject)
    try:
        return Level(level)
    except ValueError:
        raise CommandError(f"the subject {subject} has the level {level}, which is not known here; update") from None


async def _types_seen(settings: Settings, schema_ids: set[int]) -> list[str]:
    """The types of the newest events that were written with one of the schemas."""
    config = client_config(settings)
    topic = settings.topics.events
    await require_topics(config, [topic])
    seen: set[str] = set()
    async with (
        Reader(config, [topic], from_beginning=True, last=EVENTS_MAX) as reader,
        aclosing(reader.batches(follow=False)) as batches,
    ):
        async for batch in batches:
            for message in batch:
                try:
                    written = codec.wire_schema_id(message.value())
                except UndecodableError:
                    continue
                headers: Any = message.headers() or ()  # confluent-kafka's annotation allows a mapping too
                for name, value in headers:
                    if written in schema_ids and name == "ce_type" and isinstance(value, bytes):
                        seen.add(value.decode(errors="replace"))
    return sorted(seen)


def as_document(report: Report, subject: str) -> dict[str, Any]:
    """The report as one JSON object."""
    fields: dict[str, Any] = msgspec.to_builtins(report)
    for broken in fields["broken"]:
        if broken["schema_version"] == LATEST:
            broken["schema_version"] = "latest"
    return {"subject": subject, "fine": report.fine, **fields, "broken_types": list(report.broken_types)}


def in_words(report: Report, subject: str) -> Iterator[str]:
    """The report for people, a line for each thing that breaks."""
    for reason in report.level_reasons:
        yield f"the registry refuses it ({report.level}): version {reason.version}: {reason.path}: {reason.sentence}"
    for one in report.broken:
        pin = "latest" if one.schema_version == LATEST else f"version {one.schema_version}"
        for reason in one.reasons:
            yield (
                f"breaks {one.id} of {one.tenant} ({', '.join(one.event_types)}), pinned to {pin}: "
                f"version {reason.version}: {reason.path}: {reason.sentence}"
            )
    if report.broken:
        yield f"event types that break: {', '.join(report.broken_types)}"
    if report.fine:
        yield (
            f"nothing breaks: {report.level} of {subject} is kept, and {report.pinned} of {report.pinned} pinned "
            f"subscriptions can be sent what it writes; {report.as_written} get events as written"
        )
