"""What the stages need from the world, as Protocols: each has a real form and a fake in `connectors`.

One conformance suite per port (tests/conformance) runs on both. This file holds no behaviour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from schemas.endpoint import EndpointState
from schemas.endpoint_tls import EndpointTls
from schemas.frame import Out, Record
from schemas.post import PostDone
from schemas.replay import Progress, Replay
from schemas.subjects import Version
from schemas.subscription import Subscription
from schemas.trace_context import Attributes, Kind


class Clock(Protocol):
    """Time and randomness. Nothing below the composition root reads them in any other way."""

    def now_ms(self) -> int:
        """Wall-clock milliseconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def jitter(self) -> float:
        """Uniform in [0, 1)."""


class Route(Protocol):
    """Where a sender posts to: parsed and validated once per version of a subscription."""

    @property
    def origin(self) -> str: ...

    @property
    def uri(self) -> str:
        """The URL as it is requested, which a receiver can reconstruct (RFC 9110, section 7.1)."""


class Sender(Protocol):
    """The delivery client."""

    def route(
        self,
        url: str,
        headers: Mapping[str, str],
        timeout_s: float,
        tls: EndpointTls | None = None,
        *,
        method: str = "POST",
    ) -> Route:
        """Parse and validate once; ValueError with a sentence for a URL or header that must not be used, or for `tls`
        with a URL that has none. What is wrong with a certificate is the answer of each POST (`tls_failed`). Another
        `method` is for what is asked besides deliveries."""

    def post(self, route: Route, headers: Sequence[tuple[str, str]], body: bytes, done: PostDone) -> None:
        """POST; `done` is called exactly once, later, on the loop's thread. Raises nothing for endpoint reasons."""

    @property
    def in_flight(self) -> int: ...

    async def close(self) -> None:
        """Answer everything in flight with the cause `shutdown` and let go of all connections."""


#: Gives a subscription with nothing sealed in it; UnsealableError when it cannot.
Opener = Callable[[Subscription], Subscription]

#: Called with (old, new) after the table took a change; None stands for absent.
SubscriptionChanged = Callable[[Subscription | None, Subscription | None], None]


class SubscriptionTable(Protocol):
    """All subscriptions, as of now."""

    def get(self, subscription_id: str) -> Subscription | None: ...

    def match(self, tenant: str, event_type: str) -> Sequence[Subscription]:
        """Every subscription, active or paused or disabled, of this tenant that asks for this event type, once each.

        The same object is returned until a subscription of the tenant changes, so that callers may key on its identity.
        """

    def on_change(self, callback: SubscriptionChanged) -> None: ...

    def __len__(self) -> int: ...


#: Called with (old, new) after the table took a change; None stands for absent.
EndpointChanged = Callable[[EndpointState | None, EndpointState | None], None]


class EndpointTable(Protocol):
    """The health of all endpoints, as it was last written; an endpoint that never failed has none."""

    def get(self, subscription_id: str) -> EndpointState | None: ...

    def on_change(self, callback: EndpointChanged) -> None: ...


class Registry(Protocol):
    """Schemas by id, and versions of subjects. An id or numbered version, once known, means the same for ever.

    Each raises RegistryUnavailableError while the registry is out of reach and the answer is not known already.
    """

    async def schema(self, schema_id: int) -> str:
        """The schema's JSON text, with what it refers to written out. UnknownSchemaError when there is none."""

    async def register(self, subject: str, schema: str) -> int:
        """The id of the schema under the subject, new or existing. ValueError when it is refused as incompatible."""

    async def versions_of(self, schema_id: int) -> Sequence[tuple[str, int]]:
        """Every (subject, version) that holds this schema, by name and number; none for an unknown id.

        Versions that are only softly deleted count, as they do for `version`: events written with them are still there.
        May be some seconds old, and older while the registry is out of reach.
        """

    async def version(self, subject: str, number: int) -> Version:
        """Version `number` of the subject, or its newest for `LATEST`; (id, version, text) as in `schema`.

        The newest may be some seconds old, and older while the registry is out of reach. UnknownSchemaError when there
        is no such subject or version.
        """


class SubjectRegistry(Registry, Protocol):
    """What tools need besides; RegistryUnavailableError as there."""

    async def subjects(self) -> Sequence[str]:
        """The subjects that have a version that is not deleted, in order."""

    async def versions(self, subject: str) -> Sequence[int]:
        """The numbers of its versions that are not deleted, ascending; empty when the subject is not known."""

    async def level(self, subject: str) -> str:
        """The compatibility level in force, such as BACKWARD; NONE where nothing is checked."""


class Publisher(Protocol):
    """Writes groups of records and the offsets that they settle, all or nothing."""

    async def publish(
        self,
        records: Sequence[Out],
        offsets: Sequence[tuple[str, int, int, str]],
        still_ours: Callable[[], bool] | None = None,
        *,
        decisive: bool = False,
    ) -> None:
        """One Kafka transaction: the records, and offsets as (topic, partition, next offset, metadata). Without
        transactions: the records with a value, then those without (they say that something is over), then the offsets.

        `still_ours` says whether the offsets' partitions are those of the epoch in which the offsets were computed. It
        is asked, on any thread, each time after the group's metadata was read: the group knows members, not whose
        offsets they send, and would take from a member that has joined again what an earlier epoch of it had to say.

        `decisive` says that some of the offsets are news to the group: once it has them all, this transaction was
        committed. So a publisher that was refused while it committed can find out. (Without records it does no harm to
        take it for committed.)

        Raises StaleGroupError when the group refuses the offsets or they are not ours any more (the transaction is
        aborted; try again without what was lost), FencedError when this producer was replaced, RecordTooLargeError when
        a record can never be written. Other broker errors are retried inside.
        """


class LogReader(Protocol):
    """Reads one topic again, by partition and offset; it is no member of a group and commits nothing."""

    async def read(self, partition: int, offset: int) -> Sequence[Record]:
        """Committed records at or after the offset, ascending, at most 500; none at the end of the log.

        Everything committed before the call is seen. An open transaction is the end. Below the log's start (retention),
        what is left is read. Broker errors are waited out. RuntimeError once the reader is closed.
        """

    async def close(self) -> None:
        """End what is being read, and let go."""


class Span(Protocol):
    """A step of a trace, until it has ended."""

    @property
    def recorded(self) -> bool:
        """Whether somebody will see it; where not, `set` and `end` do nothing."""

    @property
    def traceparent(self) -> str:
        """What others are told, whose spans are to follow on this one: its own; where it is not recorded and has a
        valid parent, the parent's as it came."""

    def set(self, attributes: Attributes) -> None:
        """More that is said of it."""

    def end(self, error: str = "") -> None:
        """It ends now, once. `error` is its `error.type`, of a small set of words; empty when it went well."""


class Tracer(Protocol):
    """Makes spans, of which it keeps or sends what is recorded. Never waits, and raises nothing."""

    def start(
        self,
        name: str,
        kind: Kind,
        parent: str | None,
        attributes: Attributes,
        *,
        tracestate: str | None = None,
        links: Sequence[str] = (),
    ) -> Span:
        """A span that begins now, under the span that `parent` names (a `traceparent`): it is recorded when that one
        is. Without a parent that is valid a new trace begins, recorded as the sampling says. `links` name other spans
        that it has to do with."""


class SpanReader(LogReader, Protocol):
    """A log reader that says how far it has seen."""

    def reached(self, partition: int) -> int:
        """Up to which offset the last read of the partition has seen the log: what it was asked for and stands below
        was returned."""


class Extents(Protocol):
    """Where the records of a topic stand."""

    async def __call__(self, topic: str, since_ms: int | None, until_ms: int | None) -> Sequence[tuple[int, int, int]]:
        """(partition, start, end) of each partition as of now: from its first record at or after the one time to its
        first record at or after the other, to the end of what is committed where there is none, or None is said.

        Times are Kafka's of the records. Broker errors are waited out.
        """


class ReplayTable(Protocol):
    """All orders to replay, as of now."""

    def __iter__(self) -> Iterator[Replay]: ...


class ProgressTable(Protocol):
    """How far each replay has come, as it was last written."""

    def get(self, replay_id: str) -> Progress | None: ...
