"""A delivery worker as a whole, in virtual time: the stage with everything around it that is not under test.

Records are consumed from a `MemoryKafka` as a worker would, from what is committed on; retries come back through their
tiers and parked deliveries through their log; endpoints are functions. A worker may crash, give its partitions up in
order or lose them, and the next one goes on. Run tests in `tests.unit.virtual.virtual`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from connectors.memory import (
    MemoryEndpointTable,
    MemoryKafka,
    MemoryLogReader,
    MemoryMember,
    MemoryPublisher,
    MemoryRecord,
    MemoryRoute,
    MemorySender,
    MemoryTable,
    Stored,
)
from schemas import codec
from schemas.codec import put_string
from schemas.delivery import (
    FRESH,
    REPLAY_HEADER,
    Delivery,
    dead_letter_schema,
    decode_delivery,
    encode_fresh,
    encode_tail,
)
from schemas.endpoint import EndpointState, Operation, decode_operation, decode_state
from schemas.endpoint_tls import EndpointTls
from schemas.event import Event
from schemas.frame import Frame, Headers, OffsetLedger
from schemas.ids import delivery_id
from schemas.post import PostDone, PostResult
from streams.core.ledger import Ledger
from streams.core.match import MatchIndex
from streams.core.parked import ParkedLog, finished_by
from streams.counters import Counters
from streams.dispatch import Dispatch
from streams.dispatch_state import DispatchLimits
from streams.ports import Route
from streams.records import DeliverySchemas
from streams.settle import Settler
from tests.unit.stages import GROUP, TOPICS, as_it_is, read
from tests.unit.virtual import LoopClock, passing, until

SCHEMAS = DeliverySchemas(delivery_v1=11, delivery=16, attempt=12, dead_letter=13, endpoint_state=14, operation=15)
FIRST = TOPICS.deliveries
CONSUMED = (FIRST, TOPICS.replay, *TOPICS.tiers.values(), TOPICS.parked)
FRAME_RECORDS_MAX = 50


class Post(NamedTuple):
    """One POST: when it began, to whom, and what; `answered` is its result once there is one."""

    at_s: float
    url: str
    headers: dict[str, str]
    body: bytes
    number: int


#: What an endpoint does: (seconds, result), or None for never.
Endpoint = Callable[[Post], tuple[float, PostResult] | None]


def ok(post: Post) -> tuple[float, PostResult]:
    return 0.01, PostResult(204, 10_000)


def status(number: int, **fields: Any) -> tuple[float, PostResult]:
    return 0.01, PostResult(number, 10_000, **fields)


class TownSender:
    """The `Sender` port; what a hanging endpoint leaves unanswered times out."""

    def __init__(self, town: Town) -> None:
        self._town = town
        self._routes = MemorySender(lambda posted: None)
        self._waiting: dict[int, tuple[PostDone, asyncio.TimerHandle]] = {}
        self.dead = False  # its process is: nothing leaves it, and nobody is told anything

    def route(
        self,
        url: str,
        headers: Mapping[str, str],
        timeout_s: float,
        tls: EndpointTls | None = None,
        *,
        method: str = "POST",
    ) -> MemoryRoute:
        return self._routes.route(url, headers, timeout_s, tls, method=method)

    def post(self, route: Route, headers: Sequence[tuple[str, str]], body: bytes, done: PostDone) -> None:
        if self.dead:
            return
        assert isinstance(route, MemoryRoute)
        loop = asyncio.get_running_loop()
        post = Post(loop.time(), route.url, dict([*route.headers, *headers]), body, len(self._town.posts))
        self._town.posts.append(post)
        answer = self._town.endpoint(post)
        seconds, result = answer or (route.timeout_s, PostResult(0, int(route.timeout_s * 1e6), "timeout", "Too late."))
        timer = loop.call_later(seconds, self.answer, post.number, result)
        self._waiting[post.number] = (done, timer)

    def answer(self, number: int, result: PostResult) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None and not self.dead:
            done, timer = waiting
            timer.cancel()
            self._town.answers[number] = result
            done(result)

    @property
    def in_flight(self) -> int:
        return len(self._waiting)

    async def close(self) -> None:
        for number in list(self._waiting):
            self.answer(number, PostResult(0, 0, "shutdown", "The sender was closed."))


class Worker:
    """One life of a worker, with all partitions."""

    def __init__(self, town: Town, name: str, limits: DispatchLimits) -> None:
        self.town = town
        self.name = name
        self.member = MemoryMember(GROUP)
        self.publisher = MemoryPublisher(town.kafka, "tx", lambda: self.member)
        self.settler = Settler(self.publisher)
        self.sender = TownSender(town)
        self.counters = Counters()
        self.ledgers: dict[tuple[str, int], OffsetLedger] = {}
        self.held: set[tuple[str, int]] = set()
        self.news: dict[tuple[str, int], asyncio.Event] = {}  # wakes a partition's consumer
        self.positions: dict[tuple[str, int], int] = {}  # of its consumers
        self.tasks: list[asyncio.Task[None]] = []
        self.stage = Dispatch(
            TOPICS,
            town.table,
            town.endpoints,
            self.sender,
            MemoryLogReader(town.kafka, TOPICS.parked),
            self.settler,
            town.clock,
            self.counters,
            SCHEMAS,
            hold=lambda topic, partition: self.held.add((topic, partition)),
            release=self._release,
            ledger=lambda topic, partition: self.ledgers.get((topic, partition)),
            opener=as_it_is,
            worker=name,
            limits=limits,
        )

    async def start(self, partitions: Sequence[int]) -> None:
        await self.publisher.start()
        self.tasks.append(asyncio.create_task(self.settler.run()))
        self.assign(partitions)

    def assign(self, partitions: Sequence[int]) -> None:
        """A new epoch of these partitions."""
        for topic in CONSUMED:
            for partition in partitions:
                position, metadata = self.town.kafka.committed.get((GROUP, topic, partition), (0, ""))
                ledger = ParkedLog(position) if topic == TOPICS.parked else Ledger(position, metadata)
                self.ledgers[topic, partition] = ledger
                self.tasks.append(asyncio.create_task(self._consume(topic, partition, ledger, position)))

    def _release(self, topic: str, partition: int) -> None:
        self.held.discard((topic, partition))
        self.wake()

    def wake(self) -> None:
        """There may be something new."""
        for key, event in self.news.items():
            if not event.is_set() and self.town.kafka.read(*key, self.positions[key], 1):
                event.set()

    async def _consume(self, topic: str, partition: int, ledger: OffsetLedger, position: int) -> None:
        news = self.news[topic, partition] = asyncio.Event()
        self.positions[topic, partition] = position
        await passing(self.town.lag_s(topic))
        while ledger.live:
            stored = self.town.kafka.read(topic, partition, position, FRAME_RECORDS_MAX)
            if not stored or (topic, partition) in self.held or ledger.retiring:
                news.clear()
                await news.wait()
                await passing(0.001)  # what is there is fetched
                continue
            position = self.positions[topic, partition] = stored[-1].offset + 1
            await self.stage.admit(Frame(topic, partition, [MemoryRecord(one) for one in stored], ledger))

    async def give_up(self, partitions: Sequence[int], deadline_s: float) -> None:
        """In order, as before a rebalance."""
        keys = [key for key in self.ledgers if key[1] in partitions]
        for key in keys:
            self.ledgers[key].retire()
        await self.stage.give_up(keys, deadline_s)
        self.lose(partitions)

    def lose(self, partitions: Sequence[int]) -> None:
        """The group has gone on without this worker."""
        for key in [key for key in self.ledgers if key[1] in partitions]:
            self.ledgers.pop(key).close()
            self.held.discard(key)
            self.news.pop(key).set()

    def kill(self) -> None:
        """Nothing of it happens any more."""
        self.sender.dead = True
        self.lose(range(TOPICS.partitions))
        for task in self.tasks:
            task.cancel()

    async def stop(self, deadline_s: float = 5.0) -> None:
        await self.stage.stop(deadline_s)
        await self.settler.flush()
        self.kill()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    @property
    def failures(self) -> list[BaseException]:
        return [error for task in self.tasks if task.done() and not task.cancelled() and (error := task.exception())]


class ParkedRecords:
    """What of the log of parked deliveries is not finished; each record is looked at once."""

    def __init__(self) -> None:
        self._written: list[Stored] = []
        self._read = 0
        self._open: dict[tuple[int, int], Stored] = {}  # by partition and offset

    def open(self, written: list[Stored]) -> Collection[Stored]:
        if written is not self._written:  # some of it was taken away
            self._written, self._read, self._open = written, 0, {}
        for one in written[self._read :]:
            if one.value is not None:
                self._open[one.partition, one.offset] = one
            elif (mark := finished_by(one.headers)) is not None:
                self._open.pop((one.partition, mark[0]), None)
        self._read = len(written)
        return self._open.values()


class Town:
    """Kafka, the tables, the endpoints, and what was posted to them."""

    def __init__(self, endpoint: Endpoint = ok) -> None:
        self.clock = LoopClock()
        self.kafka = MemoryKafka({spec.name: spec.partitions for spec in TOPICS.specs()}, now_ms=self.clock.now_ms)
        self.table = MemoryTable(MatchIndex())
        self.endpoints = MemoryEndpointTable()
        self.endpoint = endpoint
        self.posts: list[Post] = []
        self.answers: dict[int, PostResult] = {}
        self.workers: list[Worker] = []
        #: How long it takes until the first records of a topic come, after an assignment.
        self.lag_s: Callable[[str], float] = lambda topic: 0.0
        self._states = 0
        self._log = ParkedRecords()

    async def worker(self, partitions: Sequence[int] = range(TOPICS.partitions), **limits: Any) -> Worker:
        """The next life of the worker, once nothing of the last one is left."""
        worker = Worker(self, f"w{len(self.workers)}", DispatchLimits(**limits))
        worker.settler.on_settled(self._settled)
        self.workers.append(worker)
        await worker.start(partitions)
        return worker

    def _settled(self) -> None:
        """Consumers get what was written, and the table of endpoints what was written to its topic."""
        self._wake()
        stored = self.kafka.records[TOPICS.endpoints_state]
        new, self._states = stored[self._states :], len(stored)
        for one in new:
            self.endpoints.put(decode_state(one.value))

    def _wake(self) -> None:
        for worker in self.workers:
            worker.wake()

    def send(self, *values: bytes, partition: int = 0) -> None:
        """What fan-out writes."""
        self.kafka.write([(FIRST, b"key", value, partition, None) for value in values])
        self._wake()

    def replay(self, *values: bytes, partition: int = 0) -> None:
        """What a replay writes."""
        self.kafka.write([(TOPICS.replay, b"key", value, partition, None) for value in values])
        self._wake()

    def write(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers | None = None, partition: int = 0
    ) -> None:
        """What anybody writes."""
        self.kafka.write([(topic, key, value, partition, headers)])
        self._wake()

    # --- looking ------------------------------------------------------------------------------------------------------

    def attempts(self) -> list[dict[str, Any]]:
        schema = codec.own_schema("attempt.v1")
        return [read(stored, schema) for stored in self.kafka.records[TOPICS.attempts]]

    def outcomes(self) -> Counter[tuple[str, str]]:
        """How often each (event id, outcome) is in `attempts`."""
        return Counter((one["event_id"], one["outcome"]) for one in self.attempts())

    def dead(self) -> list[dict[str, Any]]:
        return [read(stored, dead_letter_schema()) for stored in self.kafka.records[TOPICS.dead]]

    def states(self) -> list[EndpointState]:
        return [decode_state(stored.value) for stored in self.kafka.records[TOPICS.endpoints_state]]

    def operations(self) -> list[Operation]:
        return [decode_operation(stored.value) for stored in self.kafka.records[TOPICS.operations]]

    def parked(self) -> list[Stored]:
        """Parked deliveries that are not finished."""
        return list(self._log.open(self.kafka.records[TOPICS.parked]))

    def ever_parked(self) -> list[Delivery]:
        return [decode_delivery(one.value or b"") for one in self.kafka.records[TOPICS.parked] if one.value is not None]

    def waiting(self) -> int:
        """Records that the group has not committed yet, of all topics but the log."""
        return sum(
            len(
                self.kafka.read(
                    topic, partition, self.kafka.committed.get((GROUP, topic, partition), (0, ""))[0], 1 << 62
                )
            )
            for topic in CONSUMED[:-1]
            for partition in range(TOPICS.partitions)
        )

    def settled(self) -> bool:
        """Whether nothing is left to do."""
        return not self._log.open(self.kafka.records[TOPICS.parked]) and not self.waiting()

    async def done(self, seconds: float = 600.0) -> None:
        """Until nothing is left to do."""
        await until(self.settled, seconds, "everything is settled")
        for worker in self.workers:
            assert worker.failures == []

    def delivered(self) -> Counter[str]:
        """How often each event came to its endpoint and was taken."""
        return Counter(
            post.headers["webhook-id"]
            for post in self.posts
            if 200 <= self.answers.get(post.number, PostResult(0, 0)).status <= 299
        )

    def posted(self) -> defaultdict[str, list[Post]]:
        """By webhook-id."""
        posts: defaultdict[str, list[Post]] = defaultdict(list)
        for post in self.posts:
            posts[post.headers["webhook-id"]].append(post)
        return posts


def fresh(
    number: int = 1,
    subscription_id: str = "sub_1",
    *,
    tenant: str = "default",
    body: bytes | None = None,
    replay: str = "",
    **event: Any,
) -> bytes:
    """A delivery as fan-out writes it, or as this replay does; its body is its number."""
    made = Event(f"evt_{number}", "order.created", tenant, 1_700_000_000_000, b'{"n":1}', **event)
    headers = ((REPLAY_HEADER, replay),) if replay else ()
    content = b"%d" % number if body is None else body
    tail = encode_tail(made, 1_759_999_999_000, "application/json", content, headers)
    schema_id = SCHEMAS.delivery if replay else SCHEMAS.delivery_v1
    identifier = delivery_id(made.id, subscription_id)
    return encode_fresh(codec.wire_header(schema_id), identifier, put_string(subscription_id) + FRESH, tail)


def id_of(number: int, subscription_id: str = "sub_1") -> str:
    """The webhook-id."""
    return delivery_id(f"evt_{number}", subscription_id)
