"""The catalog as an AsyncAPI 3.0 document: what comes on the events topic, and what endpoints are sent.

Every version of every subject is two messages: the Avro record on Kafka, and the webhook with its JSON. Which event
types (`order.created`) there are is not in a registry: those that are described (`event.types`) are handed in. This
file reads no registry and no topic, and writes no file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from schemas.event import ENVELOPE_NAME
from schemas.event_type import EventType
from schemas.json_schema import json_schema
from schemas.operation_types import RECORD_NAME, operation_types
from schemas.samples import sample

ASYNCAPI = "3.0.0"
_AVRO = "application/vnd.apache.avro+json;version=1.9.0"
_TIME = "2026-01-01T12:00:00.000Z"

_TEXT: dict[str, Any] = {"type": "string"}
#: Of a webhook (Standard Webhooks 1.0), and of an event that is a record of its own (CloudEvents' Kafka binding).
WEBHOOK_HEADERS: dict[str, str] = {
    "webhook-id": "The delivery's id, the same for every attempt.",
    "webhook-timestamp": "Seconds since 1970, of this attempt.",
    "webhook-signature": "One or more signatures, separated by spaces.",
}
EVENT_HEADERS: dict[str, str] = {
    "ce_id": "The event's id.",
    "ce_type": "The event's type, such as order.created.",
    "ce_source": "Who wrote it.",
    "ce_time": "When it happened, RFC 3339.",
    "ce_subject": "What it is about.",
    "ce_tenant": "Whose event it is.",
}


class Schema(msgspec.Struct, frozen=True):
    """One version of one subject, as a registry lists it: `text` is its Avro schema, `name` the record's full name."""

    subject: str
    version: int
    id: int
    name: str
    text: str


class Described(msgspec.Struct, frozen=True):
    """What the catalog says of a schema. `slug` is unique; `example` is None when none can be made."""

    schema: Schema
    slug: str
    doc: str
    avro: Any
    json_schema: dict[str, Any]
    example: Any


def is_event(schema: Schema, *, operations: bool = False) -> bool:
    """Whether events may be written with it: a record, not of a key, and none of ours but the envelope; with
    `operations`, also what operators are told of."""
    known = (ENVELOPE_NAME, RECORD_NAME) if operations else (ENVELOPE_NAME,)
    ours = schema.name.startswith("distributary.") and schema.name not in known
    return bool(schema.name) and not ours and not schema.subject.endswith("-key")


def describe(schemas: list[Schema], *, operations: bool = False) -> list[Described]:
    """Those of events, by subject and version. ValueError for a text that is no valid Avro schema."""
    chosen = [each for each in schemas if is_event(each, operations=operations)]
    chosen.sort(key=lambda each: (each.subject, each.version))
    found: list[Described] = []
    slugs: set[str] = set()
    for schema in chosen:
        slug = re.sub(r"[^A-Za-z0-9._-]", "_", f"{schema.subject}.v{schema.version}")
        if slug in slugs:
            slug = f"{slug}.{schema.id}"
        slugs.add(slug)
        avro = orjson.loads(schema.text)
        doc = avro.get("doc") if isinstance(avro, dict) else None
        try:
            example = sample(schema.text)
        except ValueError:
            example = None
        found.append(
            Described(schema, slug, doc if isinstance(doc, str) else "", avro, json_schema(schema.text), example)
        )
    return found


def asyncapi(
    described: list[Described],
    *,
    title: str,
    version: str,
    events_topic: str,
    event_types: Sequence[EventType] = (),
) -> dict[str, Any]:
    """The document, as JSON's own types. Event types are its extension `x-event-types`."""
    messages: dict[str, Any] = {}
    components: dict[str, Any] = {}
    for each in described:
        if each.schema.name != RECORD_NAME:  # operations are written by nobody else
            messages[f"{each.slug}.avro"] = _record(each)
        messages[f"{each.slug}.webhook"] = _webhook(each, components)
    avro = [name for name in messages if name.endswith(".avro")]
    webhooks = [name for name in messages if name.endswith(".webhook")]
    types = {"x-event-types": [_type(each) for each in event_types]} if event_types else {}
    return types | {
        "asyncapi": ASYNCAPI,
        "info": {
            "title": title,
            "version": version,
            "description": "Events on Kafka, and the webhooks that endpoints are sent for them.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "events": {
                "address": events_topic,
                "description": "The Kafka topic that applications write events to, in Confluent's wire format.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in avro},
            },
            "webhooks": {
                "address": None,
                "description": "A POST to the URL of each subscription, here in the format `standard`.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in webhooks},
            },
        },
        "operations": {
            "receiveEvents": {"action": "receive", "channel": {"$ref": "#/channels/events"}},
            "sendWebhooks": {"action": "send", "channel": {"$ref": "#/channels/webhooks"}},
        },
        "components": {"messages": messages, "schemas": components},
    }


def _type(each: EventType) -> dict[str, Any]:
    said: dict[str, Any] = {"name": each.name, "description": each.description, "group": each.group}
    said |= {"schema": each.schema, "deprecated": each.deprecated}
    return said | ({"example": orjson.loads(each.example)} if each.example else {})


def _named(each: Described, kind: str) -> dict[str, Any]:
    schema = each.schema
    named = {"name": schema.name, "title": f"{schema.name} v{schema.version} ({kind})"}
    summary = {"summary": each.doc} if each.doc else {}
    return named | summary | {"x-schema": {"subject": schema.subject, "version": schema.version, "id": schema.id}}


def _record(each: Described) -> dict[str, Any]:
    message = _named(each, "Avro") | {"contentType": "application/avro"}
    if each.schema.name != ENVELOPE_NAME:
        message["headers"] = _headers(EVENT_HEADERS, required=["ce_id", "ce_type"])
    return message | {"payload": {"schemaFormat": _AVRO, "schema": each.avro}}


def _webhook(each: Described, components: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    example = each.example
    if each.schema.name == ENVELOPE_NAME:  # its data is any JSON
        example = {}
    else:
        data = _into(components, each)
    payload = {
        "type": "object",
        "properties": {"type": _TEXT, "timestamp": _TEXT | {"format": "date-time"}, "data": data},
        "required": ["type", "timestamp", "data"],
    }
    message = _named(each, "webhook") | {
        "contentType": "application/json",
        "headers": _headers(WEBHOOK_HEADERS, required=list(WEBHOOK_HEADERS)),
        "payload": payload,
    }
    if each.schema.name == RECORD_NAME:
        message["examples"] = [_operation(kind, each) for kind in operation_types()]
    elif example is not None:
        message["examples"] = [{"payload": {"type": "order.created", "timestamp": _TIME, "data": example}}]
    return message


def _operation(each: EventType, described: Described) -> dict[str, Any]:
    """One that any of its versions has the fields of."""
    fields = {field["name"] for field in described.avro["fields"]}
    data = {name: value for name, value in orjson.loads(each.example).items() if name in fields}
    return {"name": each.name, "payload": {"type": each.name, "timestamp": _TIME, "data": data}}


def _headers(known: dict[str, str], *, required: list[str]) -> dict[str, Any]:
    properties = {name: _TEXT | {"description": said} for name, said in known.items()}
    return {"type": "object", "properties": properties, "required": required}


def _into(components: dict[str, Any], each: Described) -> dict[str, Any]:
    """The payload's schema; its definitions go to the components, as references of a document count from its root."""

    def moved(node: Any) -> Any:
        if isinstance(node, list):
            return [moved(item) for item in node]
        if not isinstance(node, dict):
            return node
        if isinstance(node.get("$ref"), str):
            name = node["$ref"].removeprefix("#/$defs/")
            return {key: moved(value) for key, value in node.items()} | {
                "$ref": f"#/components/schemas/{each.slug}.{name}"
            }
        return {key: moved(value) for key, value in node.items()}

    schema = {key: value for key, value in each.json_schema.items() if key not in ("$schema", "$defs")}
    for name, definition in each.json_schema.get("$defs", {}).items():
        components[f"{each.slug}.{name}"] = moved(definition)
    found: dict[str, Any] = moved(schema)
    return found
