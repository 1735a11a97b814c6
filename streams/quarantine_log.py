"""`quarantine`: the records of the quarantine topic, where each came from, and which were resent or discarded.

This file reads the topic from its start to its end; it decodes no values (`quarantine_check.py`) and writes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec
from confluent_kafka import Message

from connectors.feed import Reader
from schemas.frame import Headers
from streams import quarantine


class QuarantineError(Exception):
    """What is asked of quarantined records cannot be done; one sentence with the next step."""


class NotQuarantinedError(QuarantineError):
    """There is none at the place."""


class Place(msgspec.Struct, frozen=True, order=True):
    """Where a record stands."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


class Quarantined(msgspec.Struct, frozen=True):
    """One quarantined record.

    `headers` are all of its headers; `source` is where it stood, None when the headers do not say so; `original` is
    where it stood before it was resent for the first time. `time_ms` is the quarantine record's Kafka timestamp.
    """

    place: Place
    time_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    reason: str
    detail: str
    source: Place | None
    original: Place | None


class Resent(msgspec.Struct, frozen=True):
    """Says that the record at the place was resent."""

    place: Place


class Discarded(msgspec.Struct, frozen=True):
    """Says who discarded the record at the place, when, and why."""

    place: Place
    time_ms: int
    by: str
    why: str


class Filter(msgspec.Struct, frozen=True):
    """Which records are meant; None does not restrict. Times are inclusive from, exclusive to."""

    reason: str | None = None
    topic: str | None = None
    partition: int | None = None
    from_ms: int | None = None
    to_ms: int | None = None

    def matches(self, record: Quarantined) -> bool:
        """Topic and partition are those of the source."""
        source = record.source
        return (
            (self.reason is None or record.reason == self.reason)
            and (self.topic is None or (source is not None and source.topic == self.topic))
            and (self.partition is None or (source is not None and source.partition == self.partition))
            and (self.from_ms is None or record.time_ms >= self.from_ms)
            and (self.to_ms is None or record.time_ms < self.to_ms)
        )


Entry = Quarantined | Resent | Discarded


async def entries(config: Mapping[str, Any], topic: str) -> AsyncIterator[Entry]:
    """All committed records up to the end as of now, ascending by offset within a partition. ClusterError."""
    async with (
        Reader(config, [topic], from_beginning=True) as reader,
        aclosing(reader.batches(follow=False)) as batches,
    ):
        async for batch in batches:
            for message in batch:
                yield entry(message)


def entry(message: Message) -> Entry:
    """What a record of the quarantine topic is."""
    headers: Headers = [(each[0], _raw(each[1])) for each in message.headers() or ()]
    place = Place(message.topic() or "", message.partition() or 0, message.offset() or 0)
    # Marks come last; whatever a producer put there under the same name does not count.
    marks = {name: (value or b"").decode("utf-8", "replace") for name, value in headers}
    kind, time_ms = message.timestamp()
    if message.value() is None and quarantine.REASON not in marks:
        if marks.get(quarantine.RESENT, "").isdecimal():
            return Resent(Place(place.topic, place.partition, int(marks[quarantine.RESENT])))
        if marks.get(quarantine.DISCARDED, "").isdecimal():
            about = Place(place.topic, place.partition, int(marks[quarantine.DISCARDED]))
            return Discarded(about, time_ms if kind else 0, marks.get(quarantine.BY, ""), marks.get(quarantine.WHY, ""))
    source = _place(marks, quarantine.SOURCE_TOPIC, quarantine.SOURCE_PARTITION, quarantine.SOURCE_OFFSET)
    original = _place(marks, quarantine.ORIGINAL_TOPIC, quarantine.ORIGINAL_PARTITION, quarantine.ORIGINAL_OFFSET)
    return Quarantined(
        place=place,
        time_ms=time_ms if kind else 0,
        key=_raw(message.key()),
        value=_raw(message.value()),
        headers=headers,
        reason=marks.get(quarantine.REASON, ""),
        detail=marks.get(quarantine.DETAIL, ""),
        source=source,
        original=original or source,
    )


def parse_place(text: str, topic: str, prefix: str) -> Place:
    """The place that `events.quarantine/0/17` means: the topic with or without its prefix, or only `0/17`.

    QuarantineError for anything else.
    """
    match text.split("/"):
        case [partition, offset]:
            named = topic
        case [named, partition, offset]:
            pass
        case _:
            named = partition = offset = ""
    if named not in (topic, topic.removeprefix(prefix)) or not (partition.isdecimal() and offset.isdecimal()):
        raise QuarantineError(
            f"{text!r} is no place in the quarantine; give it as {topic}/PARTITION/OFFSET, as"
            " `distributary quarantine list` prints it"
        )
    return Place(topic, int(partition), int(offset))


def not_there(place: Place) -> NotQuarantinedError:
    """Of a place at which there is none."""
    return NotQuarantinedError(
        f"there is no quarantined record at {place}, or no longer; `distributary quarantine list` shows what there is"
    )


def _place(marks: Mapping[str, str], topic: str, partition: str, offset: str) -> Place | None:
    number, at = marks.get(partition, ""), marks.get(offset, "")
    if not marks.get(topic) or not (number.isdecimal() and at.isdecimal()):
        return None
    return Place(marks[topic], int(number), int(at))


def _raw(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
