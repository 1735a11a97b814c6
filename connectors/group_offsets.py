"""The offsets of a consumer group: what it has committed, where a reset would put it, and the reset.

This is how a replay works: the group is told to start again from an earlier place. This file reads no records, does
not ask whether it is wise, and resets nothing while the group has members, who would go on from where they are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, assert_never

import msgspec
from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ListOffsetsResultInfo, OffsetSpec

from connectors.admin import REQUEST_SECONDS, answer, connected, translated

#: How long a coordinator may take to load its groups: so many tries, so far apart.
COORDINATOR_TRIES, COORDINATOR_SECONDS = 50, 0.2
#: The same of a partition's leader.
LEADER_TRIES = 25
_MOVING = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
_LOADING = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
)


class ReplayError(Exception):
    """The reset cannot be made; one sentence with the next step."""


class ToEarliest(msgspec.Struct, frozen=True):
    """The first record that is still there."""


class ToTime(msgspec.Struct, frozen=True):
    """The first record with this Kafka timestamp or a later one; the end when there is none."""

    ms: int


class ToOffset(msgspec.Struct, frozen=True):
    """This offset, where it lies between the first record and the end."""

    offset: int


Target = ToEarliest | ToTime | ToOffset


class Move(msgspec.Struct, frozen=True):
    """What a reset does to one partition. `committed` is None where the group has no offset yet."""

    topic: str
    partition: int
    committed: int | None
    target: int
    end: int

    @property
    def records_max(self) -> int:
        """How many records are read again, at most: compaction and transactions leave offsets without a record."""
        return self.end - self.target


async def plan_reset(
    config: Mapping[str, Any], group: str, topics: Sequence[str], target: Target, *, partition: int | None = None
) -> list[Move]:
    """Where the group would stand, by partition; nothing is changed. `partition` restricts it to one of each topic.

    ReplayError for a topic or partition that is not there and an offset out of range; ClusterError.
    """
    return await asyncio.to_thread(_plan, config, group, topics, target, partition)


async def reset(config: Mapping[str, Any], group: str, moves: Sequence[Move]) -> None:
    """Put the group there. What its commits said about single finished records is forgotten with them.

    ReplayError while the group has members or when the group refuses; ClusterError.
    """
    await asyncio.to_thread(_reset, config, group, moves)


async def running_members(config: Mapping[str, Any], group: str) -> list[str]:
    """The group's members, as `client at /host`; empty for a group that is not there. ClusterError."""
    return await asyncio.to_thread(lambda: _members(config, connected(config), group))


async def delete_groups(config: Mapping[str, Any], groups: Sequence[str]) -> None:
    """Remove groups that have no members; one that is not there is no error. ClusterError."""
    await asyncio.to_thread(_delete, config, groups)


# --- in a thread ----------------------------------------------------------------------------------------------------


def _plan(
    config: Mapping[str, Any], group: str, topics: Sequence[str], target: Target, partition: int | None
) -> list[Move]:
    admin = connected(config)
    with translated(config):
        places = [place for topic in topics for place in _partitions(admin, topic, partition)]
        first = _offsets(admin, places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        end = _offsets(admin, places, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        match target:
            case ToEarliest():
                wanted = first
            case ToTime(ms):
                later = _offsets(admin, places, OffsetSpec.for_timestamp(ms))
                wanted = {place: offset if offset >= 0 else end[place] for place, offset in later.items()}
            case ToOffset(offset):
                wanted = dict.fromkeys(places, offset)
            case _:
                assert_never(target)
        committed = _committed(config, group, places)
    for place, offset in wanted.items():
        if not first[place] <= offset <= end[place]:
            topic, number = place
            raise ReplayError(
                f"the offset {offset} is not in {topic}[{number}], which goes from {first[place]} to {end[place]};"
                " choose one in between"
            )
    return [Move(*place, committed.get(place), wanted[place], end[place]) for place in places]


def _partitions(admin: AdminClient, topic: str, only: int | None) -> list[tuple[str, int]]:
    found = admin.list_topics(timeout=REQUEST_SECONDS).topics.get(topic)
    if found is None:
        raise ReplayError(f"the topic {topic} does not exist; check the name and the prefix")
    numbers = sorted(found.partitions)
    if only is None:
        return [(topic, number) for number in numbers]
    if only not in found.partitions:
        raise ReplayError(f"the topic {topic} has no partition {only}; it has 0 to {numbers[-1]}")
    return [(topic, only)]


def _offsets(admin: AdminClient, places: Sequence[tuple[str, int]], spec: OffsetSpec) -> dict[tuple[str, int], int]:
    return {place: found.offset for place, found in listed_offsets(admin, places, spec).items()}


def listed_offsets(
    admin: AdminClient, places: Sequence[tuple[str, int]], spec: OffsetSpec
) -> dict[tuple[str, int], ListOffsetsResultInfo]:
    """Of committed records only: what an open transaction wrote cannot be read yet. It blocks, and asks again while
    leaders move. KafkaException."""
    asked = {TopicPartition(*place): spec for place in places}
    for left in reversed(range(LEADER_TRIES)):
        futures = admin.list_offsets(
            asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=REQUEST_SECONDS
        )
        try:
            return {(place.topic, place.partition): answer(future) for place, future in futures.items()}
        except KafkaException as error:
            if left == 0 or error.args[0].code() not in _MOVING:
                raise
            time.sleep(COORDINATOR_SECONDS)
    raise AssertionError("the last try returns or raises")


def _committed(config: Mapping[str, Any], group: str, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """What the group has committed.

    Asked by a consumer that never joins, not by the admin client: where a coordinator is just loading its groups, as on
    a new cluster, that one ends the process (librdkafka 2.16, `rd_kafka_cgrp_op` without a group).
    """
    consumer = Consumer({**config, "group.id": group, "enable.auto.commit": False})
    try:
        for left in reversed(range(COORDINATOR_TRIES)):
            try:
                found = consumer.committed([TopicPartition(*place) for place in places], REQUEST_SECONDS)
                break
            except KafkaException as error:
                if left == 0 or error.args[0].code() not in _LOADING:
                    raise
                time.sleep(COORDINATOR_SECONDS)
    finally:
        consumer.close()
    for each in found:
        if each.error is not None:
            raise KafkaException(each.error)
    return {(each.topic, each.partition): each.offset for each in found if each.offset >= 0}


def _members(config: Mapping[str, Any], admin: AdminClient, group: str) -> list[str]:
    with translated(config):
        found = answer(admin.describe_consumer_groups([group], request_timeout=REQUEST_SECONDS)[group])
    if found.state in (ConsumerGroupState.DEAD, ConsumerGroupState.EMPTY):
        return []
    return [f"{member.client_id} at {member.host}" for member in found.members] or ["one that is just joining"]


def _reset(config: Mapping[str, Any], group: str, moves: Sequence[Move]) -> None:
    admin = connected(config)
    if members := _members(config, admin, group):
        raise ReplayError(_running(group, members))
    positions = [TopicPartition(move.topic, move.partition, move.target) for move in moves]
    request = [ConsumerGroupTopicPartitions(group, positions)]
    with translated(config):
        try:
            done = answer(admin.alter_consumer_group_offsets(request, request_timeout=REQUEST_SECONDS)[group])
        except KafkaException as error:
            raise _refused(group, error.args[0]) from None
    for position in done.topic_partitions or ():
        if position.error is not None:
            raise _refused(group, position.error)


def _refused(group: str, error: KafkaError) -> ReplayError:
    if error.code() in (KafkaError.UNKNOWN_MEMBER_ID, KafkaError.NON_EMPTY_GROUP, KafkaError.STALE_MEMBER_EPOCH):
        return ReplayError(_running(group, ["one that has just joined"]))
    return ReplayError(
        f"the group {group} refuses the offsets ({error.str()}); nothing may have been changed, ask again"
    )


def _running(group: str, members: Sequence[str]) -> str:
    shown = ", ".join(members[:3]) + (f" and {len(members) - 3} more" if len(members) > 3 else "")
    return f"the group {group} is running ({shown}); stop its workers first, then replay, then start them again"


def _delete(config: Mapping[str, Any], groups: Sequence[str]) -> None:
    admin = connected(config)
    with translated(config):
        for future in admin.delete_consumer_groups(list(groups), request_timeout=REQUEST_SECONDS).values():
            try:
                answer(future)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                    raise
