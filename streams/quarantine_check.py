"""`quarantine`: what would become of a quarantined record now, had it just come from its topic.

Asks the same decoders as the stages do. This file reads nothing but schemas and, for subscriptions, which records are
newer; it decides nothing about resending.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from connectors.feed import Reader
from schemas import codec
from schemas.delivery import decode_delivery
from schemas.errors import UndecodableError, UnknownSchemaError, UnresolvableError
from schemas.event import event_decoder
from schemas.frame import Headers
from schemas.resolution import Resolver
from schemas.subscription_codec import SubscriptionDecoder
from schemas.topics import DATA_BYTES_MAX, EVENT_BYTES_MAX
from streams.ports import Registry
from streams.quarantine_log import Place
from streams.settings import Settings
from streams.values import iso, readable
from streams.wiring import client_config, register_own_schemas

#: No reason that a record is quarantined for: those have been read.
_UNREAD = "unknown_topic"


class Judge:
    """Says what records would be decoded to now; each with the schemas that the registry has now."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings = settings
        self._topics = settings.topics
        self._registry = registry
        self._subscriptions = SubscriptionDecoder()
        names = self._topics
        self._deliveries = {names.deliveries, *names.tiers.values(), names.parked, names.replay}
        self._delivery_ids: tuple[int, int] | None = None  # of version 1 and 2
        self._newest: dict[bytes, int] | None = None

    async def judge(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, time_ms: int
    ) -> dict[str, Any]:
        """What it would be, as JSON has it. UndecodableError when it would come back; RegistryUnavailableError."""
        try:
            if topic == self._topics.events:
                return await self._event(value, headers, time_ms)
            if topic == self._topics.subscriptions:
                return await self._subscription(key, value)
            if topic in self._deliveries:
                return await self._delivery(value)
            if topic == self._topics.operations:
                return await self._operation(value)
        except UnknownSchemaError as error:
            raise UndecodableError("unknown_schema", str(error)) from None
        raise UndecodableError(_UNREAD, f"{topic} is no topic that workers read with these settings")

    async def superseded(self, source: Place, key: bytes | None) -> bool:
        """Whether it is a subscription of which a newer record exists, which a resend would undo. ClusterError."""
        if source.topic != self._topics.subscriptions or key is None:
            return False
        if self._newest is None:
            self._newest = await self._newest_by_key()
        return self._newest.get(key, -1) > source.offset

    async def _event(self, value: bytes | None, headers: Headers, time_ms: int) -> dict[str, Any]:
        text = await self._registry.schema(codec.wire_schema_id(value))
        assert value is not None  # or there would be no schema id
        if len(value) > EVENT_BYTES_MAX:
            raise UndecodableError("too_large", f"{len(value)} bytes are more than an event may have")
        try:
            decoder = event_decoder(text)
        except ValueError as error:
            raise UndecodableError("bad_schema", str(error)) from None
        event = decoder.decode(value, headers, time_ms)
        if len(event.data) > DATA_BYTES_MAX:
            raise UndecodableError("too_large", f"its JSON of {len(event.data)} bytes is more than {DATA_BYTES_MAX}")
        fields = {"id": event.id, "type": event.type, "tenant": event.tenant, "time": iso(event.time_ms)}
        return fields | {"subject": event.subject, "data": readable(event.data)}

    async def _subscription(self, key: bytes | None, value: bytes | None) -> dict[str, Any]:
        wanted = self._subscriptions.wanted(value)
        if wanted is not None:
            self._subscriptions.learn(wanted, await self._registry.schema(wanted))
        found = self._subscriptions.decode(key, value)
        if isinstance(found, str):
            return {"id": found, "deleted": True}
        return {name: readable(getattr(found, name)) for name in found.__struct_fields__}

    async def _delivery(self, value: bytes | None) -> dict[str, Any]:
        schema_id = codec.wire_schema_id(value)
        assert value is not None
        if self._delivery_ids is None:
            ids = await register_own_schemas(self._registry, self._topics)
            self._delivery_ids = (ids.delivery_v1, ids.delivery)
        if schema_id not in self._delivery_ids:
            raise UndecodableError("unknown_schema", f"schema id {schema_id} is not that of a delivery")
        delivery = decode_delivery(value, 1 + self._delivery_ids.index(schema_id))
        return {
            "id": delivery.id,
            "subscription_id": delivery.subscription_id,
            "attempt": delivery.attempt,
            "body": readable(delivery.body),
        }

    async def _operation(self, value: bytes | None) -> dict[str, Any]:
        text = await self._registry.schema(codec.wire_schema_id(value))
        assert value is not None
        try:
            document = Resolver(text).record(value)
        except UnresolvableError as error:
            raise UndecodableError("bad_data", str(error)) from None
        except ValueError as error:
            raise UndecodableError("bad_schema", str(error)) from None
        if not isinstance(document, dict) or "kind" not in document:
            raise UndecodableError("not_an_operation", "the record is no distributary.Operation")
        return document

    async def _newest_by_key(self) -> dict[bytes, int]:
        newest: dict[bytes, int] = {}
        async with (
            Reader(client_config(self._settings), [self._topics.subscriptions], from_beginning=True) as reader,
            aclosing(reader.batches(follow=False)) as batches,
        ):
            async for batch in batches:
                for message in batch:
                    key = message.key()
                    newest[key if isinstance(key, bytes) else str(key).encode()] = message.offset() or 0
        return newest
