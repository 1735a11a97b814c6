"""Commits of a group member's offsets, merged: while one is on its way, later positions gather.

For those who commit outside of transactions, after the records are durable. A commit that fails for a reason that may
pass is tried again with what is newest; offsets of partitions that are not ours any more are dropped. This file does
not decide what may be committed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

logger = logging.getLogger(__name__)

Key = tuple[str, int]
Position = tuple[int, str]


class Commits:
    """Used on the consumer's thread alone."""

    def __init__(self, ours: Callable[[Key, int], bool], later: Callable[[], None]) -> None:
        """`ours(key, offset)` says whether the partition is ours, and the offset none of an earlier epoch that others
        have gone beyond; `later` has `send` called after a pause."""
        self._ours = ours
        self._later = later
        self._waiting: dict[Key, Position] = {}
        self._under_way: dict[Key, Position] = {}

    def add(self, offsets: Sequence[tuple[str, int, int, str]]) -> None:
        """Positions to be committed with the next `send`: (topic, partition, next offset, metadata)."""
        for topic, partition, offset, metadata in offsets:
            self._waiting[topic, partition] = (offset, metadata)

    def send(self, consumer: Consumer) -> None:
        """Commit what waits, unless a commit is under way."""
        if self._under_way:
            return
        self._under_way = self._take()
        if not self._under_way:
            return
        try:
            consumer.commit(offsets=_listed(self._under_way), asynchronous=True)
        except KafkaException as error:
            self._failed(dict.fromkeys(self._under_way, error.args[0]))

    def answered(self, consumer: Consumer, error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        """What librdkafka's callback says of a commit; those that were waited for on the thread are told here too."""
        answered = {(one.topic, one.partition): one.offset for one in partitions}
        if answered != {key: offset for key, (offset, _) in self._under_way.items()}:
            return
        failed = {(one.topic, one.partition): one.error or error for one in partitions if one.error or error}
        if failed:
            self._failed(failed)
        else:
            self._under_way = {}
            self.send(consumer)

    def _failed(self, errors: Mapping[Key, KafkaError | None]) -> None:
        for key in errors:
            position = self._under_way[key]
            if self._ours(key, position[0]):
                self._waiting.setdefault(key, position)  # what came meanwhile is newer
        self._under_way = {}
        if self._waiting:
            logger.info("a commit of offsets failed and is tried again: %s", next(iter(errors.values())))
            self._later()

    def flush(self, consumer: Consumer, keys: Sequence[Key]) -> None:
        """Commit now, before these partitions are given up, what waits or is under way for them."""
        last = {key: self._waiting.pop(key, None) or self._under_way.get(key) for key in keys}
        positions = {
            key: position for key, position in last.items() if position is not None and self._ours(key, position[0])
        }
        if not positions:
            return
        try:
            for committed in consumer.commit(offsets=_listed(positions), asynchronous=False):
                if committed.error is not None:
                    raise KafkaException(committed.error)
        except KafkaException as error:
            logger.warning("the last commit before giving up partitions failed, they will repeat: %s", error)

    def drop(self, keys: Sequence[Key]) -> None:
        """These partitions are not ours any more."""
        for key in keys:
            self._waiting.pop(key, None)

    def _take(self) -> dict[Key, Position]:
        taken = {key: position for key, position in self._waiting.items() if self._ours(key, position[0])}
        self._waiting.clear()
        return taken


def _listed(positions: dict[Key, Position]) -> list[TopicPartition]:
    return [TopicPartition(*key, *position) for key, position in positions.items()]
