"""What the tests of the stages share: records to feed them, and the world of fakes that they run in."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from connectors.memory import ManualClock, MemoryKafka, MemoryMember, MemoryPublisher, MemoryTable, Stored
from schemas import codec
from schemas.delivery import Delivery, decode_delivery
from schemas.frame import Frame, Headers, OffsetLedger
from schemas.subscription import Subscription
from schemas.topics import Topics
from streams.core.ledger import Ledger
from streams.core.match import MatchIndex
from streams.counters import Counters
from streams.quarantine import DETAIL, REASON, SOURCE_OFFSET, SOURCE_PARTITION, SOURCE_TOPIC
from streams.settle import Settler

TOPICS = Topics(prefix="t.", partitions=4)
GROUP = "group"
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


class Consumed(msgspec.Struct, frozen=True):
    """A record as a consumer hands it over: the `Record` protocol."""

    offset_: int
    value_: bytes | None
    timestamp_ms: int = 0
    key_: bytes | None = b"key"
    headers_: Headers | None = None

    def value(self) -> bytes | None:
        return self.value_

    def key(self) -> bytes | None:
        return self.key_

    def offset(self) -> int:
        return self.offset_

    def timestamp(self) -> tuple[int, int]:
        return (1 if self.timestamp_ms else 0, self.timestamp_ms)

    def headers(self) -> Headers | None:
        return self.headers_


def subscription(subscription_id: str = "sub_1", **fields: Any) -> Subscription:
    values: dict[str, Any] = {
        "id": subscription_id,
        "url": f"https://{subscription_id.replace('_', '-')}.example/hook",
        "event_types": ("order.*",),
        "secrets": (SECRET,),
    }
    return Subscription(**(values | fields))


def as_it_is(subscription: Subscription) -> Subscription:
    """The `Opener` where nothing is sealed."""
    return subscription


#: Of the two sets of schema ids that the stages' tests use.
DELIVERY_V2_IDS = (16, 78)


class World:
    """Kafka, table, clock and settler, all in memory; the settler runs inside `running()`."""

    def __init__(self, **settler_options: int) -> None:
        self.clock = ManualClock()
        self.kafka = MemoryKafka({spec.name: spec.partitions for spec in TOPICS.specs()}, now_ms=self.clock.now_ms)
        self.member = MemoryMember(GROUP)
        self.publisher = MemoryPublisher(self.kafka, "tx", lambda: self.member)
        self.settler = Settler(self.publisher, **settler_options)
        self.table = MemoryTable(MatchIndex())
        self.counters = Counters()
        self._next: dict[tuple[str, int], int] = {}
        self._ledgers: dict[tuple[str, int], OffsetLedger] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.publisher.start()
        task = asyncio.create_task(self.settler.run())
        try:
            yield
            assert not task.done(), "the settler ended by itself"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # --- feeding -----------------------------------------------------------------------------------------------------

    def ledger(self, topic: str, partition: int = 0) -> OffsetLedger:
        return self._ledgers.setdefault((topic, partition), Ledger(0))

    def frame(
        self,
        topic: str,
        values: list[bytes | None],
        *,
        partition: int = 0,
        timestamp_ms: int | None = None,
        headers: Headers | None = None,
        ledger: OffsetLedger | None = None,
    ) -> Frame:
        """The next records of a partition, written now unless `timestamp_ms` says when."""
        start = self._next.get((topic, partition), 0)
        self._next[topic, partition] = start + len(values)
        at = self.clock.now_ms() if timestamp_ms is None else timestamp_ms
        records = [Consumed(start + i, value, at, b"key", headers) for i, value in enumerate(values)]
        return Frame(topic, partition, records, ledger or self.ledger(topic, partition))

    # --- looking -----------------------------------------------------------------------------------------------------

    def position(self, topic: str, partition: int = 0) -> int | None:
        """The committed offset."""
        committed = self.kafka.committed.get((GROUP, topic, partition))
        return committed[0] if committed else None

    def written(self, topic: str) -> list[Stored]:
        return self.kafka.records[topic]

    def deliveries(self, topic: str) -> list[Delivery]:
        return [delivery_of(stored.value or b"") for stored in self.written(topic)]


def delivery_of(value: bytes) -> Delivery:
    """By the schema ids of these tests."""
    return decode_delivery(value, 2 if codec.wire_schema_id(value) in DELIVERY_V2_IDS else 1)


def read(stored: Stored, schema: str) -> dict[str, Any]:
    """A stored record by fastavro."""
    assert stored.value is not None
    fields: dict[str, Any] = codec.decode(stored.value, codec.parse_schema(schema))
    return fields


def why_quarantined(stored: Stored) -> tuple[str, str, int, int, str]:
    """(reason, source topic, partition, offset, detail) of a quarantined record."""
    marks = {name: (raw or b"").decode(errors="replace") for name, raw in stored.headers or ()}
    return (marks[REASON], marks[SOURCE_TOPIC], int(marks[SOURCE_PARTITION]), int(marks[SOURCE_OFFSET]), marks[DETAIL])


async def turns(condition: Callable[[], object] = lambda: False, most: int = 200) -> bool:
    """Let the event loop turn until the condition holds; False when `most` turns were not enough.

    Fakes answer within a few turns, so this also shows that something does *not* happen, without waiting for time.
    """
    for _ in range(most):
        if condition():
            return True
        await asyncio.sleep(0)
    return bool(condition())
