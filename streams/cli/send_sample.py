"""`send --sample`: an event as its type's schema says that it looks.

The sample itself is made in `schemas/samples.py`. This file writes nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from connectors.event_types import EventTypeTable
from connectors.registry_client import ConfluentRegistry
from connectors.registry_folder import FolderRegistry
from schemas.errors import UnknownSchemaError
from schemas.event import Event
from schemas.event_type import EventType
from schemas.samples import sample_record
from schemas.subjects import LATEST
from streams.cli.running import CommandError
from streams.cli.values import iso
from streams.settings import Settings
from streams.wiring import client_config

AVRO = "application/avro"


class Sample(NamedTuple):
    """JSON data for an envelope, or else a framed Avro record to be sent as it is."""

    data: bytes = b"{}"
    record: bytes = b""


async def sample_of(
    settings: Settings, registry: FolderRegistry | ConfluentRegistry, event_type: str, subject: str | None
) -> Sample:
    """A sample of the type: of the given subject's schema, else of what the type itself names; else its example.

    CommandError when nothing says how such an event looks.
    """
    described = None if subject else await _described(settings, event_type)
    subject = subject or (described.schema if described else "")
    if subject:
        try:
            version = await registry.version(subject, LATEST)
            return Sample(record=sample_record(version.text, version.id))
        except (UnknownSchemaError, ValueError) as error:
            raise CommandError(f"no sample can be made of the subject {subject}: {error}") from None
    if described is not None and described.example:
        return Sample(described.example.encode())
    raise CommandError(
        f"nothing says how an event of {event_type} looks: name its schema's subject with --schema, or describe the "
        "type over the HTTP API (/v1/event-types)"
    )


async def _described(settings: Settings, event_type: str) -> EventType | None:
    table = EventTypeTable(client_config(settings), settings.topics.event_types)
    await table.start()
    await table.stop()
    return table.get(event_type)


def cloud_event_headers(event: Event) -> list[tuple[str, str | bytes | None]]:
    """Of CloudEvents' Kafka binding 1.0.2, section 3.2."""
    attributes = {
        "content-type": AVRO,
        "ce_specversion": "1.0",
        "ce_id": event.id,
        "ce_type": event.type,
        "ce_source": event.source or f"/distributary/{event.tenant}",
        "ce_time": iso(event.time_ms),
        "ce_tenant": event.tenant,
    }
    if event.subject is not None:
        attributes["ce_subject"] = event.subject
    return [(name, text.encode()) for name, text in attributes.items()]
