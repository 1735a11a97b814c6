"""From one event and the subscriptions that match it to delivery records.

What is sent is rendered, and the part of the record that all its deliveries share is encoded, once for each *variant*:
the schema version, payload format, transform and content type that subscriptions have in common. Subscriptions that ask
for nothing but a format take a shorter way. This file does not match (`streams/core/match.py`), does not render
(`streams/core/formats.py`) and does not write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import NamedTuple

from schemas.codec import put_long, put_string
from schemas.delivery import FRESH, Pairs, Wire, encode_tail
from schemas.errors import TransformFailedError, UnresolvableError
from schemas.event import Event
from schemas.frame import Out
from schemas.ids import DELIVERY_PREFIX
from schemas.subscription import PayloadFormat, Subscription
from schemas.transform import compile_transform
from streams.core.filter_index import FilterIndex
from streams.core.filters import parse_filter
from streams.core.formats import render, rfc3339, source_of
from streams.core.views import View

# A delivery id has always the same length, so its length field is a constant.
_ID_FIELD_START = put_long(len(DELIVERY_PREFIX) + 30) + DELIVERY_PREFIX.encode()

#: (record key, what the id's hash takes after the event id, encoded fields after the id)
Entry = tuple[bytes, bytes, bytes]


class Variant(NamedTuple):
    """What subscriptions of one schema version may have in common."""

    format: PayloadFormat
    transform: str
    content_type: str


class Failure(NamedTuple):
    """Why a subscription gets a dead letter in place of a delivery."""

    reason: str
    detail: str


class Plan(NamedTuple):
    """What becomes of one event."""

    records: list[Out]
    failed: list[tuple[str, Failure]] = []  # by subscription id  # noqa: RUF012 - never written to
    filtered: int = 0


class Part:
    """The subscriptions of one schema version, of those that ask for more than a format."""

    __slots__ = ("entries", "index", "variant_of", "variants")

    def __init__(self, subscriptions: Sequence[Subscription], before: Part | None) -> None:
        self.entries = [_entry(each) for each in subscriptions]
        numbers: dict[Variant, int] = {}
        #: By position, as all lists here.
        self.variant_of = [
            numbers.setdefault(Variant(each.format, each.transform, each.content_type), len(numbers))
            for each in subscriptions
        ]
        self.variants = list(numbers)
        filters = [parse_filter(each.filter) if each.filter else None for each in subscriptions]
        self.index: FilterIndex = FilterIndex() if before is None else before.index
        self.index.replace(filters)


class Targets:
    """The matching subscriptions of one tenant and event type, prepared for encoding. Made once per change of the
    table."""

    __slots__ = ("by_format", "count", "parts", "subscriptions")

    def __init__(
        self,
        subscriptions: Sequence[Subscription],
        before: Targets | None = None,
        keep: Callable[[Subscription], bool] | None = None,
    ) -> None:
        """`before` are those of the same tenant and event type before the change: not to be used any more. With `keep`,
        only those of which it says so are meant."""
        self.subscriptions = subscriptions  # as the table has them; its identity says whether it changed
        entitled = [each for each in subscriptions if not each.never_verified and (keep is None or keep(each))]
        self.count = len(entitled)
        self.by_format: dict[PayloadFormat, list[Entry]] = {}
        special: dict[int, list[Subscription]] = {}
        for each in entitled:
            if each.filter or each.transform or each.schema_version or each.content_type:
                special.setdefault(each.schema_version, []).append(each)
            else:
                self.by_format.setdefault(each.format, []).append(_entry(each))
        known: dict[int, Part] = {} if before is None else before.parts
        #: Schema version (0 as written) -> what is planned for those that ask for it.
        self.parts: dict[int, Part] = {version: Part(some, known.get(version)) for version, some in special.items()}


def _entry(subscription: Subscription) -> Entry:
    key = subscription.id.encode()
    return key, b"\0" + key, put_string(subscription.id) + FRESH


def deliveries(
    topic: str,
    wire: Wire,
    event: Event,
    received_ms: int,
    targets: Targets,
    written: View,
    view: Callable[[int], View],
    headers: Pairs = (),
) -> Plan:
    """One record per target that the event is for; ids as `schemas.ids.delivery_id` makes them.

    `written` is the event as it was written, `view` gives it as of a schema version, or raises UnresolvableError. The
    headers are put on every delivery, behind its own.
    """
    records: list[Out] = []
    append = records.append
    event_id = event.id.encode()
    for payload_format, entries in targets.by_format.items():
        start, tail = _shared(wire, event, received_ms, Variant(payload_format, "", ""), written, event.data, headers)
        for key, hashed, fields in entries:
            digest = blake2b(event_id + hashed, digest_size=15).hexdigest()
            append((topic, key, start + digest.encode() + fields + tail, -1, None))
    if not targets.parts:
        return Plan(records)
    failed: list[tuple[str, Failure]] = []
    filtered = 0
    for version, part in targets.parts.items():
        chosen, failure = _chosen(part, version, event, view)
        filtered += len(part.entries) - len(chosen)
        made: dict[int, tuple[bytes, bytes] | Failure] = {}
        for at in chosen:
            key, hashed, fields = part.entries[at]
            number = part.variant_of[at]
            shared = failure or made.get(number)
            if shared is None:
                variant = part.variants[number]
                shared = made[number] = _variant(wire, event, received_ms, variant, version, view, headers)
            if isinstance(shared, Failure):
                failed.append((key.decode(), shared))
                continue
            start, tail = shared
            digest = blake2b(event_id + hashed, digest_size=15).hexdigest()
            append((topic, key, start + digest.encode() + fields + tail, -1, None))
    return Plan(records, failed, filtered)


def _chosen(
    part: Part, version: int, event: Event, view: Callable[[int], View]
) -> tuple[Sequence[int], Failure | None]:
    """The positions of those whose filter matches. With a failure, of all: it cannot be said of whom."""
    everyone = range(len(part.entries))
    if not part.index.reads_document:
        return everyone, None
    document = {
        "id": event.id,
        "type": event.type,
        "tenant": event.tenant,
        "time": rfc3339(event.time_ms),
        "source": source_of(event),
    }
    if event.subject is not None:
        document["subject"] = event.subject
    try:
        if part.index.reads_data:
            document["data"] = view(version).document
    except ValueError as error:
        return everyone, Failure("unresolvable", f"the filter cannot be applied: {error}")
    return part.index.select(document), None


def _variant(
    wire: Wire,
    event: Event,
    received_ms: int,
    variant: Variant,
    version: int,
    view: Callable[[int], View],
    headers: Pairs,
) -> tuple[bytes, bytes] | Failure:
    try:
        if variant.format == "thin":  # has no data, so nothing to resolve
            return _shared(wire, event, received_ms, variant, None, b"", headers)
        seen = view(version)
        if variant.transform:
            data = compile_transform(variant.transform).apply(seen.decoded)
        else:
            data = b"" if variant.format == "avro" else seen.data
        return _shared(wire, event, received_ms, variant, seen, data, headers)
    except UnresolvableError as error:
        return Failure("unresolvable", str(error))
    except TransformFailedError as error:
        return Failure("transform_failed", str(error))


def _shared(
    wire: Wire, event: Event, received_ms: int, variant: Variant, view: View | None, data: bytes, headers: Pairs
) -> tuple[bytes, bytes]:
    """What all deliveries of a variant begin and end with."""
    value = view.value if view is not None and variant.format == "avro" else b""
    version = 0 if view is None else view.version
    sent = render(event, variant.format, data, value, version, variant.content_type)
    all_headers = (*sent.headers, *headers)
    header = wire.v2 if all_headers else wire.v1
    return header + _ID_FIELD_START, encode_tail(event, received_ms, sent.content_type, sent.body, all_headers)
