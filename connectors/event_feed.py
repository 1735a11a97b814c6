"""Events as they come, for somebody who listens: one tenant's, of some types, from now on or from a place on.

Each listener reads the events topic for itself, without a group, so it may be slow or go away without anybody noticing;
that is for people who try things, and no way to deliver. What cannot be decoded is passed over: it is in quarantine.
This file renders nothing and sends nothing.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol, cast

import msgspec
from confluent_kafka import Message

from connectors.feed import Reader
from schemas import codec
from schemas.errors import UndecodableError, UnknownSchemaError
from schemas.event import Event, EventDecoder, event_decoder
from schemas.frame import Headers

DECODERS_MAX = 1_000
#: Offsets of all partitions: what a cursor is made of.
_CURSOR = re.compile(r"[0-9]{1,19}(\.[0-9]{1,19}){0,9999}")


class InvalidCursorError(ValueError):
    """A place that is none of ours; one sentence."""


class Schemas(Protocol):
    """What is needed of a registry."""

    async def schema(self, schema_id: int) -> str: ...


class Wanted(msgspec.Struct, frozen=True):
    """Whose events (None: all tenants'), and of which types: exact names, `order.*`, `*`; none is all of them."""

    tenant: str | None = None
    types: tuple[str, ...] = ()

    def fits(self, event: Event) -> bool:
        """Whether the event is one of them. The patterns are those of subscriptions."""
        if self.tenant is not None and event.tenant != self.tenant:
            return False
        return not self.types or any(
            pattern in ("*", event.type) or (pattern.endswith(".*") and event.type.startswith(pattern[:-1]))
            for pattern in self.types
        )


class Heard(NamedTuple):
    """An event and the place after it. Without an event: the place that all was passed over up to."""

    cursor: str
    event: Event | None = None


class EventFeed:
    """The events topic, for any number of listeners, one after another or at once."""

    def __init__(self, config: Mapping[str, Any], topic: str, schemas: Schemas) -> None:
        self._config = config
        self._topic = topic
        self._schemas = schemas
        self._decoders: dict[int, EventDecoder | None] = {}

    async def follow(self, wanted: Wanted, cursor: str | None = None) -> AsyncGenerator[Heard, None]:
        """What fits, from the cursor on, or else from now on; the first item says where that is.

        While nothing comes, an item without an event every 0.1 s. InvalidCursorError; ClusterError when the cluster
        does not answer or has no such topic; RegistryUnavailableError.
        """
        start = None if cursor is None else _offsets(cursor)
        async with Reader(self._config, [self._topic], from_beginning=False, start=start) as reader:
            places = [offset for _, offset in sorted(reader.began.items())]
            yield Heard(_cursor(places))
            async with aclosing(reader.batches(follow=True, idle=True)) as batches:
                async for batch in batches:
                    for message in batch:
                        partition, offset = message.partition(), message.offset()
                        assert partition is not None  # read records have both
                        assert offset is not None
                        places[partition] = offset + 1
                        event = await self._event(message)
                        if event is not None and wanted.fits(event):
                            yield Heard(_cursor(places), event)
                    yield Heard(_cursor(places))

    async def _event(self, message: Message) -> Event | None:
        value = message.value()
        try:
            schema_id = codec.wire_schema_id(value)
            assert value is not None  # or there would be no schema id
            if schema_id not in self._decoders:
                await self._learn(schema_id)
            decoder = self._decoders[schema_id]
            _, timestamp_ms = message.timestamp()
            headers = cast(Headers | None, message.headers())  # of what was read, they are a list of bytes
            return None if decoder is None else decoder.decode(value, headers, max(0, timestamp_ms))
        except UndecodableError:
            return None

    async def _learn(self, schema_id: int) -> None:
        try:
            decoder = event_decoder(await self._schemas.schema(schema_id))
        except (UnknownSchemaError, ValueError):
            decoder = None
        if len(self._decoders) >= DECODERS_MAX:
            self._decoders.clear()
        self._decoders[schema_id] = decoder


def check_cursor(cursor: str) -> None:
    """InvalidCursorError for a text that is none."""
    _offsets(cursor)


def _cursor(places: list[int]) -> str:
    return ".".join(map(str, places))


def _offsets(cursor: str) -> list[int]:
    if not _CURSOR.fullmatch(cursor):
        raise InvalidCursorError("the place to go on from is none of ours; leave it out to begin now")
    offsets = [int(each) for each in cursor.split(".")]
    if max(offsets) >= 1 << 63:
        raise InvalidCursorError("the place to go on from is none of ours; leave it out to begin now")
    return offsets
