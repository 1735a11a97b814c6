"""Reading everything that an audit's Kafka has into its books. By assignment, committed records only; no group.

This file decodes with fastavro and our published schemas, not with the engine's hand-written decoders.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from connectors.admin import REQUEST_SECONDS, connected, silent_logger, unavailable
from connectors.feed import Reader
from schemas import codec
from schemas.delivery import dead_letter_schema
from schemas.topics import Topics
from streams.cli.audit_books import KafkaBooks
from streams.cli.running import CommandError
from streams.settings import Settings

FINISHED_HEADER = "distributary-finished"

Take = Callable[[Message], None]


def _parsed(schema: str) -> Callable[[Message], dict[str, Any]]:
    parsed = codec.parse_schema(schema)

    def decoded(message: Message) -> dict[str, Any]:
        value = message.value()
        assert isinstance(value, bytes)
        fields: dict[str, Any] = codec.decode(value, parsed)
        return fields

    return decoded


_attempt = _parsed(codec.own_schema("attempt.v1"))
_delivery = _parsed(codec.own_schema("delivery.v1"))
_dead_letter = _parsed(dead_letter_schema())


def ends(topics: Topics, books: KafkaBooks) -> dict[str, Take]:
    """What says how deliveries ended, by topic: how a record goes into the books."""
    return {
        topics.attempts: lambda message: books.attempt(_attempt(message)),
        topics.dead: lambda message: books.dead_letter(_dead_letter(message)),
    }


def carriers(topics: Topics, books: KafkaBooks) -> dict[str, Take]:
    """What carries deliveries to their next attempt, and the quarantine."""

    def place(message: Message) -> tuple[str, int, int]:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None
        assert partition is not None
        assert offset is not None
        return topic.removeprefix(topics.prefix), partition, offset

    def parked(message: Message) -> None:
        if message.value() is None:  # a finish marker, or a fence, which is about no delivery
            finished = dict(message.headers() or []).get(FINISHED_HEADER)
            if finished is not None:
                books.unpark(place(message)[1], int(finished))
        else:
            books.park(_delivery(message), place(message))

    def retry(message: Message) -> None:
        books.retry(_delivery(message), place(message))

    return {
        topics.deliveries: lambda message: books.delivery(_delivery(message), place(message)),
        topics.parked: parked,
        topics.quarantine: lambda message: books.quarantined(f"{dict(message.headers() or [])}"),
        **dict.fromkeys(topics.tiers.values(), retry),
    }


async def read(config: dict[str, Any], takes: dict[str, Take], *, follow: bool) -> AsyncIterator[None]:
    """Read the topics of `takes` from their beginnings, and yield after each batch."""
    async with (
        Reader(config, list(takes), from_beginning=True) as reader,
        aclosing(reader.batches(follow=follow)) as batches,
    ):
        async for batch in batches:
            for message in batch:
                topic = message.topic()
                assert topic is not None
                takes[topic](message)
            yield


async def committed(config: dict[str, Any], settings: Settings) -> dict[tuple[str, int], int]:
    """The offsets of both groups, by topic without prefix and partition."""
    topics = settings.topics
    followed = {
        settings.group("fan-out"): [topics.events],
        settings.group("delivery"): [topics.deliveries, topics.parked, topics.replay, *topics.tiers.values()],
    }
    found: dict[tuple[str, int], int] = {}
    for group, names in followed.items():
        places = [TopicPartition(name, number) for name in names for number in range(topics.partitions)]
        for each in await asyncio.to_thread(_committed, config, group, places):
            found[each.topic[len(topics.prefix) :], each.partition] = each.offset
    return found


def _committed(config: dict[str, Any], group: str, places: list[TopicPartition]) -> list[TopicPartition]:
    consumer = Consumer({**config, "group.id": group}, logger=silent_logger())
    try:
        found = consumer.committed(places, REQUEST_SECONDS)
    except KafkaException as error:
        raise unavailable(config, error.args[0]) from None
    finally:
        consumer.close()
    for each in found:
        if each.error is not None:
            raise CommandError(f"Kafka does not say where {group} is in {each.topic}: {each.error.str()}")
    return [each for each in found if each.offset >= 0]


async def group_states(config: dict[str, Any], groups: Sequence[str]) -> list[str]:
    """Who has which partitions, a line for each member: for those who must find out why nothing moves."""
    return await asyncio.to_thread(_group_states, config, groups)


def _group_states(config: dict[str, Any], groups: Sequence[str]) -> list[str]:
    admin = connected(config)
    lines = []
    for group, future in admin.describe_consumer_groups(list(groups), request_timeout=REQUEST_SECONDS).items():
        try:
            found = future.result()
        except KafkaException as error:
            lines.append(f"{group}: {error.args[0].str()}")
            continue
        lines.append(f"{group}: {found.state.name}, coordinator {found.coordinator}")
        for member in found.members:
            places = member.assignment.topic_partitions if member.assignment else []
            wanted = member.target_assignment.topic_partitions if member.target_assignment else []
            lines.append(f"  {member.member_id} {member.client_id} {_places(places)}; is to have {_places(wanted)}")
    return lines


def _places(places: Sequence[TopicPartition]) -> str:
    return " ".join(sorted(f"{each.topic}[{each.partition}]" for each in places)) or "nothing"
