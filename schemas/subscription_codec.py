"""The value of a record on the `subscriptions` topic: a framed Avro record of any version, a JSON object, or nothing.

Pure: whoever decodes fetches the writers' schemas and teaches them. This file does not validate fields
(`schemas/subscription.py`).
"""

from __future__ import annotations

import msgspec

from schemas import codec
from schemas.errors import InvalidSubscriptionError, UndecodableError
from schemas.redaction import redacted_fields
from schemas.subscription import Subscription, subscription_from_fields, subscription_from_json

#: Schemas that are kept parsed; a topic has a handful.
WRITERS_MAX = 100

#: Why a record is bad: a closed set, for counters and quarantine headers.
REASONS = frozenset(
    {
        "avro",  # the payload does not decode with its schema, or the schema does not resolve to ours
        "invalid",  # a rule of a subscription's fields
        "key_mismatch",  # the key is not the subscription's id
        "no_key",
        "schema",  # the registry's text is no Avro schema
        "truncated",
        "unknown_schema",  # the registry has none with this id
        "wrong_magic",  # neither in the wire format nor a JSON object
    }
)


class SubscriptionDecoder:
    """Records to subscriptions, with the writers' schemas that it was taught."""

    def __init__(self) -> None:
        own = [codec.own_schema(f"subscription.v{version}") for version in (1, 2, 3, 4)]
        self._own = {codec.canonical(text) for text in own}
        self._reader = codec.parse_schema(own[-1], logical_types=False)
        self._writers: dict[int, tuple[codec.Schema, codec.Schema | None]] = {}

    def wanted(self, value: bytes | None) -> int | None:
        """The id of the schema to `learn` before this value can be decoded; None when there is none to learn."""
        if value is None or _is_json(value):
            return None
        try:
            schema_id = codec.wire_schema_id(value)
        except UndecodableError:  # `decode` says so
            return None
        return None if schema_id in self._writers else schema_id

    def learn(self, schema_id: int, text: str) -> None:
        """Take a writer's schema. UndecodableError `schema` when it is not one."""
        try:
            writer = codec.parse_schema(text, logical_types=False)
            same = codec.canonical(text) in self._own
        except ValueError as error:
            raise UndecodableError("schema", f"the schema with the id {schema_id}: {error}") from None
        if len(self._writers) >= WRITERS_MAX:
            self._writers.clear()
        # Without resolution, decoding takes a third less; `Subscription` has the same defaults as the newest schema.
        self._writers[schema_id] = (writer, None if same else self._reader)

    def decode(self, key: bytes | None, value: bytes | None) -> Subscription | str:
        """The subscription, or the id to remove when there is no value. UndecodableError with one of `REASONS`.

        KeyError when the schema has not been learnt.
        """
        if key is None:
            raise UndecodableError("no_key", "the record has no key; it must be the subscription's id")
        if value is None:
            return key.decode("utf-8", "replace")
        try:
            subscription = self._decode(value)
        except InvalidSubscriptionError as error:
            raise UndecodableError("invalid", str(error)) from None
        if subscription.id.encode() != key:
            raise UndecodableError("key_mismatch", f"the key is not the subscription's id {subscription.id}")
        return subscription

    def without_secrets(self, value: bytes | None) -> bytes | None:
        """What may be kept of a bad value: the fields of one that can be read, as JSON, without what is secret. Of text
        that is no JSON nothing; of bytes that nobody can read yet all, since a schema that arrives may mend them."""
        if value is None:
            return None
        try:
            if _is_json(value):
                fields = msgspec.json.decode(value)
            else:
                writer, reader = self._writers[codec.wire_schema_id(value)]
                fields = codec.decode(value, writer, reader)
        except msgspec.DecodeError:
            return b"{}"
        except (KeyError, UndecodableError):
            return value
        return msgspec.json.encode(redacted_fields(fields))

    def _decode(self, value: bytes) -> Subscription:
        if _is_json(value):
            return subscription_from_json(value)
        writer, reader = self._writers[codec.wire_schema_id(value)]
        return subscription_from_fields(codec.decode(value, writer, reader))


_SCHEMA = codec.parse_schema(codec.own_schema("subscription.v4"))


def subscription_value(schema_id: int, subscription: Subscription) -> bytes:
    """The framed value of subscription.v4."""
    fields = {name: getattr(subscription, name) for name in subscription.__struct_fields__}
    return codec.encode(schema_id, _SCHEMA, fields)


def _is_json(value: bytes) -> bool:
    return value.lstrip()[:1] == b"{"
