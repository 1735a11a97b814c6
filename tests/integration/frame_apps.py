"""Faust apps on frames for the tests: started, watched and stopped; and records to feed them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from connectors.frames import FrameApp as AppOnFrames
from connectors.frames import FrameConsumer, FrameSettings, urls
from schemas.frame import Frame, OffsetLedger
from streams.core.ledger import Ledger
from tests import topics


def new_ledger(topic: str, partition: int, position: int, metadata: str | None) -> OffsetLedger:
    return Ledger(position, metadata)


Handle = Callable[[Frame], Awaitable[None]]


def create_topics(bootstrap: str, **partitions: int) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    topics.create_topics(admin, *(NewTopic(name, count, 1) for name, count in partitions.items()))


def produce(bootstrap: str, topic: str, values: Sequence[bytes | None], partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
    for number, value in enumerate(values):
        producer.produce(topic, value, b"k%d" % number, partition)
    assert producer.flush(60) == 0


def committed(bootstrap: str, group: str, topic: str, partition: int = 0) -> tuple[int, str]:
    """(offset, metadata); the offset is negative where there is none."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    (answer,) = consumer.committed([TopicPartition(topic, partition)], 60)
    consumer.close()
    return answer.offset, answer.metadata or ""


class FrameApp:
    """A Faust app whose one agent passes frames to `handle` and remembers them."""

    def __init__(
        self,
        bootstrap: str,
        group: str,
        topics: Sequence[str],
        handle: Handle | None = None,
        *,
        settings: FrameSettings | None = FrameSettings(ledger=new_ledger),  # noqa: B008 - frozen
        **options: Any,
    ) -> None:
        self.frames: list[Frame] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.app: Any = AppOnFrames(
            group,
            broker=urls(bootstrap),
            key_serializer="raw",
            value_serializer="raw",
            topic_disable_leader=True,
            topic_allow_declare=False,
            web_enabled=False,
            stream_wait_empty=False,
            stream_buffer_maxsize=2,
            autodiscover=False,
            **({"broker_commit_interval": 0.1} | options),
        )
        if settings is not None:
            self.app.frame_settings = settings

        async def agent(frames: Any) -> None:
            async for frame in frames:
                self.frames.append(frame)
                await self.gate.wait()
                if handle is not None:
                    await handle(frame)

        self.agent = self.app.agent(self.app.topic(*topics), name="agent")(agent)

    @property
    def consumer(self) -> FrameConsumer:
        consumer: FrameConsumer = self.app.consumer
        return consumer

    @property
    def assigned(self) -> set[tuple[str, int]]:
        return {(tp.topic, tp.partition) for tp in self.consumer.assignment()}

    @property
    def ledgers(self) -> dict[tuple[str, int], OffsetLedger]:
        """Of the present epochs, where they have begun."""
        assignment = {(tp.topic, tp.partition): self.consumer.ledger(*tp) for tp in self.consumer.assignment()}
        return {key: ledger for key, ledger in assignment.items() if ledger is not None}

    def values(self, topic: str | None = None) -> list[bytes | None]:
        return [record.value() for frame in self.frames if topic in (None, frame.topic) for record in frame.records]

    def offsets(self, topic: str, partition: int) -> list[int]:
        return [
            record.offset()
            for frame in self.frames
            if (frame.topic, frame.partition) == (topic, partition)
            for record in frame.records
        ]

    async def start(self) -> None:
        await asyncio.wait_for(self.app.start(), 60)

    async def stop(self, within_s: float = 60.0) -> None:
        await asyncio.wait_for(self.app.stop(), within_s)


@contextlib.asynccontextmanager
async def running(*apps: FrameApp) -> AsyncIterator[None]:
    """Start in order, stop in the opposite one."""
    async with contextlib.AsyncExitStack() as stack:
        for app in apps:
            stack.push_async_callback(app.stop)
            await app.start()
        yield
