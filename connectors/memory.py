"""Fakes of the ports, for tests, the simulation and people who build on the stages.

Each passes the conformance suite of its port (tests/conformance). They keep everything in memory, talk to
nothing, and fail only when told to.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections.abc import Callable, Mapping, Sequence

import msgspec

from connectors.endpoints import EndpointChanged
from connectors.http_target import AnyRoute, FieldNames, Target, parse_target, render_fields, static_headers
from connectors.log_reader import RECORDS_MAX
from connectors.subscriptions import Index, SubscriptionChanged
from schemas import codec
from schemas.endpoint import EndpointState
from schemas.endpoint_tls import EndpointTls
from schemas.errors import (
    FencedError,
    RecordTooLargeError,
    RegistryUnavailableError,
    StaleGroupError,
    UnknownSchemaError,
)
from schemas.frame import Headers, Out, Record
from schemas.partitions import partition_of
from schemas.post import PostDone, PostResult
from schemas.subjects import LATEST, Version, no_version
from schemas.subscription import Subscription
from schemas.trace_context import Attributes, Kind, parse_traceparent


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now_ms: int = 1_760_000_000_000, jitter: float = 0.0) -> None:
        self._start_ms = now_ms
        self._passed_ms = 0
        self.next_jitter = jitter

    def advance_ms(self, ms: int) -> None:
        """Let time pass. ValueError for going back: `monotonic` never does."""
        if ms < 0:
            raise ValueError("time does not go back")
        self._passed_ms += ms

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return self._start_ms + self._passed_ms

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._passed_ms / 1000

    def jitter(self) -> float:
        """`next_jitter`, in [0, 1)."""
        return self.next_jitter


class MemoryRegistry:
    """Schemas with ids 1, 2, ... in the order of registration, as a registry by URL gives them.

    While `available` is False, everything raises RegistryUnavailableError.
    """

    def __init__(self) -> None:
        self.available = True
        self._texts: list[str] = []
        self._ids: dict[bytes, int] = {}
        self._subjects: dict[str, list[int]] = {}  # the ids of its versions, in order

    async def schema(self, schema_id: int) -> str:
        """The text of the schema; see the port."""
        self._check_available()
        if not 1 <= schema_id <= len(self._texts):
            raise UnknownSchemaError(f"no schema with the id {schema_id} is known")
        return self._texts[schema_id - 1]

    async def register(self, subject: str, schema: str) -> int:
        """The id, the same under every subject. ValueError when it is not a schema."""
        self._check_available()
        codec.parse_schema(schema)
        canonical = codec.canonical(schema)
        if canonical not in self._ids:
            self._texts.append(schema)
            self._ids[canonical] = len(self._texts)
        schema_id = self._ids[canonical]
        held = self._subjects.setdefault(subject, [])
        if schema_id not in held:
            held.append(schema_id)
        return schema_id

    async def versions_of(self, schema_id: int) -> Sequence[tuple[str, int]]:
        """See the port."""
        self._check_available()
        return sorted((name, ids.index(schema_id) + 1) for name, ids in self._subjects.items() if schema_id in ids)

    async def version(self, subject: str, number: int) -> Version:
        """See the port."""
        self._check_available()
        ids = self._subjects.get(subject, [])
        wanted = len(ids) if number == LATEST else number
        if not 1 <= wanted <= len(ids):
            raise UnknownSchemaError(no_version(subject, number))
        return Version(ids[wanted - 1], wanted, self._texts[ids[wanted - 1] - 1])

    async def subjects(self) -> Sequence[str]:
        """See the port."""
        self._check_available()
        return sorted(self._subjects)

    async def versions(self, subject: str) -> Sequence[int]:
        """See the port."""
        self._check_available()
        return list(range(1, len(self._subjects.get(subject, [])) + 1))

    async def level(self, subject: str) -> str:
        """See the port; it checks nothing."""
        self._check_available()
        return "NONE"

    def _check_available(self) -> None:
        if not self.available:
            raise RegistryUnavailableError("the registry was told to be out of reach")


class MemoryTable:
    """A subscriptions table that is written to directly; `index` as in `SubscriptionsTable`."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._callbacks: list[SubscriptionChanged] = []

    def put(self, subscription: Subscription) -> None:
        """Add or replace."""
        old = self._index.put(subscription)
        self._tell(old, subscription)

    def delete(self, subscription_id: str) -> None:
        """Take out; nothing happens when there is none."""
        self._tell(self._index.remove(subscription_id), None)

    def get(self, subscription_id: str) -> Subscription | None:
        """The subscription of this id."""
        return self._index.get(subscription_id)

    def match(self, tenant: str, event_type: str) -> Sequence[Subscription]:
        """See the port."""
        return self._index.match(tenant, event_type)

    def on_change(self, callback: SubscriptionChanged) -> None:
        """See the port."""
        self._callbacks.append(callback)

    def __len__(self) -> int:
        return len(self._index)

    def _tell(self, old: Subscription | None, new: Subscription | None) -> None:
        if old != new:
            for callback in self._callbacks:
                callback(old, new)


class MemoryEndpointTable:
    """A table of endpoints' health that is written to directly."""

    def __init__(self) -> None:
        self._states: dict[str, EndpointState] = {}
        self._callbacks: list[EndpointChanged] = []

    def put(self, state: EndpointState) -> None:
        """Add or replace."""
        old = self.get(state.subscription_id)
        self._states[state.subscription_id] = state
        self._tell(old, state)

    def delete(self, subscription_id: str) -> None:
        """Take out; nothing happens when there is none."""
        self._tell(self._states.pop(subscription_id, None), None)

    def get(self, subscription_id: str) -> EndpointState | None:
        """The state of this subscription's endpoint."""
        return self._states.get(subscription_id)

    def on_change(self, callback: EndpointChanged) -> None:
        """See the port."""
        self._callbacks.append(callback)

    def _tell(self, old: EndpointState | None, new: EndpointState | None) -> None:
        if old != new:
            for callback in self._callbacks:
                callback(old, new)


# --- Kafka, as far as a publisher sees it -------------------------------------------------------------------


class Stored(msgspec.Struct, frozen=True):
    """A committed record, as a consumer of committed records would read it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers | None
    timestamp_ms: int = 0  # 0: none


class MemoryRecord(msgspec.Struct, frozen=True):
    """A stored record as a consumer hands it over: `schemas.frame.Record`."""

    stored: Stored

    def value(self) -> bytes | None:
        """The value; None for a tombstone."""
        return self.stored.value

    def key(self) -> bytes | None:
        """The key."""
        return self.stored.key

    def offset(self) -> int:
        """Where it stands in its partition."""
        return self.stored.offset

    def timestamp(self) -> tuple[int, int]:
        """(kind, milliseconds since the epoch); kind 0 means that there is none."""
        return (1 if self.stored.timestamp_ms else 0, self.stored.timestamp_ms)

    def headers(self) -> Headers | None:
        """As written; None for none."""
        return self.stored.headers


class MemoryMember:
    """A member of a consumer group: what `group_metadata()` stands for. Not `live` once the group gave up on it."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.live = True


class MemoryKafka:
    """Topics with their partitions, and what transactions have committed to them and to consumer groups."""

    def __init__(
        self,
        partitions: Mapping[str, int],
        record_bytes_max: Mapping[str, int] | None = None,
        now_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        """Partition counts by topic, and where there is one, the largest value that a topic takes; `now_ms` gives
        records their timestamps."""
        #: Committed records by topic, in the order of their transactions.
        self.records: dict[str, list[Stored]] = {topic: [] for topic in partitions}
        #: (offset, metadata) by (group, topic, partition).
        self.committed: dict[tuple[str, str, int], tuple[int, str]] = {}
        #: Cleared while no broker answers: publishers wait.
        self.answers = asyncio.Event()
        self.answers.set()
        self.owners: dict[str, object] = {}
        self._partitions = partitions
        self._bytes_max = record_bytes_max or {}
        self._now_ms = now_ms
        self._ends: dict[tuple[str, int], int] = {}
        self._logs: dict[tuple[str, int], list[Stored]] = {}
        self._keyless = itertools.count()

    def check(self, records: Sequence[Out]) -> None:
        """RecordTooLargeError when a record does not fit its topic; KeyError for a topic that does not exist."""
        for topic, _, value, _, _ in records:
            if topic not in self._partitions:
                raise KeyError(f"there is no topic {topic}")
            if len(value or b"") > self._bytes_max.get(topic, 1 << 62):
                raise RecordTooLargeError(topic, len(value or b""))

    def write(self, records: Sequence[Out]) -> None:
        """Append checked records."""
        for topic, key, value, wanted, headers in records:
            partition = wanted if wanted >= 0 else self._partition_of(topic, key)
            offset = self.skip(topic, partition)
            stored = Stored(topic, partition, offset, key, value, headers, self._now_ms())
            self.records[topic].append(stored)
            self._logs.setdefault((topic, partition), []).append(stored)

    def skip(self, topic: str, partition: int, count: int = 1) -> int:
        """Use up offsets, as aborted records and transaction markers do; the first of them."""
        first = self._ends.get((topic, partition), 0)
        self._ends[topic, partition] = first + count
        return first

    def read(self, topic: str, partition: int, offset: int, most: int) -> list[Stored]:
        """Committed records at or after the offset."""
        log = self._logs.get((topic, partition), [])
        start = bisect.bisect_left(log, offset, key=lambda stored: stored.offset)
        return log[start : start + most]

    def partitions(self, topic: str) -> int:
        """How many the topic has."""
        return self._partitions[topic]

    def end(self, topic: str, partition: int) -> int:
        """One past the last offset in use."""
        return self._ends.get((topic, partition), 0)

    def remove(self, topic: str, partition: int, before: int) -> None:
        """Take away a partition's records below an offset, as retention does."""
        self._logs[topic, partition] = self.read(topic, partition, before, 1 << 62)
        self.records[topic] = [
            stored for stored in self.records[topic] if stored.partition != partition or stored.offset >= before
        ]

    def _partition_of(self, topic: str, key: bytes | None) -> int:
        count = self._partitions[topic]
        return next(self._keyless) % count if key is None else partition_of(key, count)


class MemoryPublisher:
    """The `Publisher` port on a `MemoryKafka`. A second one with the same transactional id fences the first."""

    def __init__(self, kafka: MemoryKafka, transactional_id: str, group: Callable[[], MemoryMember]) -> None:
        self._kafka = kafka
        self._id = transactional_id
        self._group = group
        self.transactions = 0

    async def start(self) -> None:
        """Take the transactional id over."""
        self._kafka.owners[self._id] = self

    async def publish(
        self,
        records: Sequence[Out],
        offsets: Sequence[tuple[str, int, int, str]],
        still_ours: Callable[[], bool] | None = None,
        *,
        decisive: bool = False,
    ) -> None:
        """See the port."""
        await asyncio.sleep(0)  # never done within the call, as no real one is
        await self._kafka.answers.wait()
        if self._kafka.owners.get(self._id) is not self:
            raise FencedError(f"another worker uses the transactional id {self._id!r}")
        self._kafka.check(records)
        member = self._group()
        if offsets and not member.live:
            raise StaleGroupError("the group does not know this member any more")
        if offsets and still_ours is not None and not still_ours():
            raise StaleGroupError("partitions were given up while their transaction was on its way")
        self._kafka.write(records)
        for topic, partition, offset, metadata in offsets:
            self._kafka.committed[member.group, topic, partition] = (offset, metadata)
        self.transactions += 1

    async def close(self) -> None:
        """Nothing to let go of."""


class MemoryLogReader:
    """The ports `LogReader` and `SpanReader` on a `MemoryKafka`."""

    def __init__(self, kafka: MemoryKafka, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._closed = asyncio.Event()
        self._reached: dict[int, int] = {}

    async def read(self, partition: int, offset: int) -> Sequence[Record]:
        """See the port."""
        await asyncio.sleep(0)  # never done within the call, as no real one is
        if not self._kafka.answers.is_set():
            waits = [asyncio.ensure_future(event.wait()) for event in (self._kafka.answers, self._closed)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        if self._closed.is_set():
            raise RuntimeError("the log reader is closed")
        found = self._kafka.read(self._topic, partition, offset, RECORDS_MAX)
        self._reached[partition] = found[-1].offset + 1 if found else self._kafka.end(self._topic, partition)
        return [MemoryRecord(stored) for stored in found]

    def reached(self, partition: int) -> int:
        """See the port."""
        return self._reached.get(partition, 0)

    async def close(self) -> None:
        """See the port."""
        self._closed.set()


class MemoryExtents:
    """The `Extents` port on a `MemoryKafka`."""

    def __init__(self, kafka: MemoryKafka) -> None:
        self._kafka = kafka

    async def __call__(self, topic: str, since_ms: int | None, until_ms: int | None) -> Sequence[tuple[int, int, int]]:
        """See the port."""
        await asyncio.sleep(0)  # never done within the call, as no real one is
        found = []
        for partition in range(self._kafka.partitions(topic)):
            end = self._kafka.end(topic, partition)
            start = self._first(topic, partition, since_ms or 0, end)
            stop = end if until_ms is None else self._first(topic, partition, until_ms, end)
            found.append((partition, start, max(start, stop)))
        return found

    def _first(self, topic: str, partition: int, time_ms: int, end: int) -> int:
        records = self._kafka.read(topic, partition, 0, 1 << 62)
        return next((record.offset for record in records if record.timestamp_ms >= time_ms), end)


# --- a sender -----------------------------------------------------------------------------------------------


class MemoryRoute(msgspec.Struct, frozen=True):
    """Where a `MemorySender` pretends to post to."""

    target: Target
    url: str
    headers: tuple[tuple[str, str], ...]
    timeout_s: float
    tls: EndpointTls | None = None
    method: str = "POST"

    @property
    def origin(self) -> str:
        """As in `Target.origin`."""
        return self.target.origin

    @property
    def uri(self) -> str:
        """As in `Target.uri`."""
        return self.target.uri


class Posted(msgspec.Struct, frozen=True):
    """One POST as the endpoint would see it; `number` counts from 0."""

    number: int
    url: str
    headers: dict[str, str]
    body: bytes
    tls: EndpointTls | None = None
    method: str = "POST"


#: The endpoint: what it answers, or None to leave the POST in flight until `MemorySender.answer`.
Endpoint = Callable[[Posted], PostResult | None]


class MemorySender:
    """The `Sender` port without a network. What was posted is in `posted`; time-outs do not happen by themselves."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.posted: list[Posted] = []
        self._endpoint = endpoint
        self._names = FieldNames()
        self._numbers = itertools.count()
        self._waiting: dict[int, PostDone] = {}
        self._closed = False

    def route(
        self,
        url: str,
        headers: Mapping[str, str],
        timeout_s: float,
        tls: EndpointTls | None = None,
        *,
        method: str = "POST",
    ) -> MemoryRoute:
        """See the port: the same URLs and headers are refused as by the senders that do post."""
        if not timeout_s > 0:
            raise ValueError("The time-out must be greater than 0 seconds.")
        target = parse_target(url)
        if tls is not None and not target.tls:
            raise ValueError("A client certificate or a CA needs a URL that begins with https://.")
        return MemoryRoute(target, url, tuple(static_headers(headers, self._names)), timeout_s, tls, method)

    def post(self, route: AnyRoute, headers: Sequence[tuple[str, str]], body: bytes, done: PostDone) -> None:
        """See the port. TypeError for another sender's route."""
        if not isinstance(route, MemoryRoute):
            raise TypeError("post() needs a route made by this sender's route().")
        loop = asyncio.get_running_loop()
        if self._closed:
            loop.call_soon(done, PostResult(0, 0, "shutdown", "The sender is closed."))
            return
        number = next(self._numbers)
        self._waiting[number] = done
        try:
            render_fields(headers, self._names)
        except ValueError as error:
            loop.call_soon(self.answer, number, PostResult(0, 0, "invalid_request", str(error)))
            return
        posted = Posted(number, route.url, dict([*route.headers, *headers]), body, route.tls, method=route.method)
        self.posted.append(posted)
        result = self._endpoint(posted)
        if result is not None:
            loop.call_soon(self.answer, number, result)

    def answer(self, number: int, result: PostResult) -> None:
        """Answer the POST of this number, unless it was answered."""
        done = self._waiting.pop(number, None)
        if done is not None:
            done(result)

    @property
    def in_flight(self) -> int:
        """POSTs without an answer."""
        return len(self._waiting)

    async def close(self) -> None:
        """See the port."""
        self._closed = True
        for number in list(self._waiting):
            self.answer(number, PostResult(0, 0, "shutdown", "The sender was closed while the request was in flight."))


class MemorySpan:
    """A span, and what was said of it. One that is not recorded keeps nothing."""

    def __init__(self, name: str, kind: Kind, parent: str | None, traceparent: str, recorded: bool) -> None:
        self.name = name
        self.kind = kind
        self.parent = parent
        self.traceparent = traceparent
        self.recorded = recorded
        self.tracestate: str | None = None
        self.links: tuple[str, ...] = ()
        self.attributes: dict[str, str | int | bool] = {}
        self.error = ""
        self.ended = False

    def set(self, attributes: Attributes) -> None:
        """See the port."""
        if self.recorded:
            self.attributes |= attributes

    def end(self, error: str = "") -> None:
        """See the port."""
        if self.ended:
            raise RuntimeError(f"the span {self.name!r} has ended already")
        self.error, self.ended = error, True


class MemoryTracer:
    """Keeps the recorded spans that were started, in their order. New traces are recorded while `sample` is True."""

    def __init__(self, *, sample: bool = True) -> None:
        self.sample = sample
        self.spans: list[MemorySpan] = []
        self._numbers = itertools.count(1)

    def start(
        self,
        name: str,
        kind: Kind,
        parent: str | None,
        attributes: Attributes,
        *,
        tracestate: str | None = None,
        links: Sequence[str] = (),
    ) -> MemorySpan:
        """See the port."""
        known = parse_traceparent(parent)
        number = next(self._numbers)
        recorded = self.sample if known is None else known.sampled
        traceparent = f"00-{number:032x}-{number:016x}-{recorded:02x}"
        if known is not None:
            assert parent is not None
            traceparent = f"00-{known.trace_id}-{number:016x}-01" if recorded else parent
        span = MemorySpan(name, kind, None if known is None else parent, traceparent, recorded)
        if recorded:
            span.tracestate = tracestate
            span.links = tuple(each for each in links if parse_traceparent(each) is not None)
            span.set(attributes)
            self.spans.append(span)
        return span
