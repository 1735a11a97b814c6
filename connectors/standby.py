"""One process of many is the active one: the member of a consumer group that has the only partition of a topic.

The group's coordinator notices members that die, and gives the partition to another one. That is a hint, not a lock: a
member that stands still may believe for a while that it is active. What it does then must be fenced by other means (a
transactional id). Nothing is consumed and nothing committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from connectors.consumer_thread import ConsumerThread
from connectors.frames import GroupProtocol, consumer_config, group_protocol
from connectors.kafka_rights import DENIED, denied

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1


class Standby:
    """For one event loop; `start` once, then `stop`."""

    def __init__(
        self, config: Mapping[str, Any], group: str, topic: str, protocol: GroupProtocol | None = None
    ) -> None:
        """`config` needs `bootstrap.servers`; `protocol` None asks the brokers. The topic has one partition."""
        self._config = dict(config)
        self._group = group
        self._topic = topic
        self._protocol = protocol
        self._thread: ConsumerThread | None = None
        #: Set while this is the active one, and while it is not.
        self.active, self.idle = asyncio.Event(), asyncio.Event()
        self.idle.set()

    async def start(self) -> None:
        """Join the group. KafkaException when no broker answers."""
        self._loop = asyncio.get_running_loop()
        self._failed: asyncio.Future[None] = self._loop.create_future()
        asked = None if self._protocol else await asyncio.to_thread(group_protocol, self._config)
        protocol: GroupProtocol = self._protocol or asked or "consumer"
        self._incremental = protocol == "consumer"
        own = consumer_config(str(self._config["bootstrap.servers"]), self._group, protocol, self._config)
        consumer = Consumer(own, logger=log)
        consumer.subscribe([self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke)
        self._thread = ConsumerThread(f"standby-{self._group}", consumer, self._turn, self._fail)
        self._thread.start()

    async def stop(self) -> None:
        """Leave the group, so that another one is active at once."""
        if self._thread is not None:
            self._thread.halt()
            await asyncio.to_thread(self._thread.join)

    async def wait(self) -> None:
        """Raises what ended it: ClusterError for a missing right, KafkaException."""
        await asyncio.shield(self._failed)

    @property
    def thread(self) -> ConsumerThread | None:
        """Who polls."""
        return self._thread

    # --- on the thread ------------------------------------------------------------------------------------------------

    def _turn(self, consumer: Consumer) -> None:
        message = consumer.poll(POLL_SECONDS)
        error = None if message is None else message.error()
        if error is None:
            return
        if error.code() in DENIED:
            raise denied(error, "READ", topic=self._topic, group=self._group)
        if error.fatal():
            raise KafkaException(error)
        log.warning("group %s: %s", self._group, error.str())

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # None of them is fetched: to have it is all.
        (consumer.incremental_assign if self._incremental else consumer.assign)([])
        if partitions:
            self._tell(active=True)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._tell(active=False)
        if self._incremental:
            consumer.incremental_unassign([])
        else:
            consumer.unassign()

    def _fail(self, error: Exception) -> None:
        self._tell(active=False)
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end, error)

    def _tell(self, *, active: bool) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(self._set, active)

    # --- on the loop --------------------------------------------------------------------------------------------------

    def _set(self, active: bool) -> None:
        (self.active.set if active else self.active.clear)()
        (self.idle.clear if active else self.idle.set)()

    def _end(self, error: Exception) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)
