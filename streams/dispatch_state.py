"""What the rooms of the delivery stage share: its bounds, what it was given, and what it remembers.

The stage is one class, in rooms of a file each, every one built on those below: `dispatch_order.py`,
`dispatch_health.py`, `dispatch_turns.py`, and `dispatch.py` on top. What a room asks of one above it is declared here.
This file decides nothing.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping

import msgspec

from schemas.delivery import Delivery, is_of_tenant
from schemas.endpoint import EndpointState
from schemas.frame import OffsetLedger, Record
from schemas.subscription import Subscription
from schemas.topics import Topics
from streams.core.breaker import BreakerPolicy
from streams.core.fair import FairQueue
from streams.core.health import DEFAULT_POLICY
from streams.core.limits import TokenBucket
from streams.core.parked import Lot, Order
from streams.counters import Counters
from streams.lanes import Intake, Job, Lane
from streams.meter import Meter
from streams.parking import Parking
from streams.ports import Clock, EndpointTable, LogReader, Opener, Sender, SubscriptionTable
from streams.records import DeliverySchemas, Records
from streams.requests import Outgoing
from streams.settle import Settler
from streams.tokens import Tokens

#: What a lane may send in one turn: two small deliveries, or a part of a large one.
TURN_BYTES = 2_048
#: Of the budget of bytes, large bodies under way have no more than a half, and what waits for endpoints that do not
#: keep up a quarter. So whatever hangs, a quarter is left.
UNDER_WAY_PART, SLOW_PART = 2, 4
#: Bodies of which all places may be full and take no more than this part of the budget are not large.
SMALL_PART = 8
#: Of a worker's places, what comes straight from the replay lane has no more than one part in so many.
REPLAYED_PLACES_PART = 4


class DispatchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What bounds a worker.

    A worker that has had no room for `relief_after_s` parks what a lane holds beyond what it serves in `lane_s`
    seconds, and goes on doing so for as long as the lane does not keep up: an endpoint that hangs or crawls fills its
    own lane, not the worker. `admitted_max` deliveries and `read_max` parked ones are in memory at a time, with
    `admitted_bytes_max` of bodies each, of which a lane may have as much under way as it leaves to others; and
    `replayed_max` straight from the replay lane, with `replayed_bytes_max`. Nothing is POSTed while `unsettled_max`
    records wait to be durable, or for longer than `settle_s`.
    `origin_rate_max` is POSTs a second to each scheme, host and port, 0 for none.
    """

    in_flight_max: int = 1_024
    admitted_max: int = 4_000
    admitted_bytes_max: int = 64 << 20
    read_max: int = 1_000
    replayed_max: int = 1_000
    replayed_bytes_max: int = 16 << 20
    unsettled_max: int = 1_000
    settle_s: float = 0.25
    lanes_max: int = 20_000
    relief_after_s: float = 0.5
    lane_s: float = 5.0
    origin_rate_max: float = 0.0
    tenant_weights: Mapping[str, float] = {}
    circuit: BreakerPolicy = DEFAULT_POLICY


class DispatchState(ABC):
    """What a stage holds."""

    def __init__(
        self,
        topics: Topics,
        table: SubscriptionTable,
        endpoints: EndpointTable,
        sender: Sender,
        reader: LogReader,
        settler: Settler,
        clock: Clock,
        counters: Counters,
        schema_ids: DeliverySchemas,
        *,
        hold: Callable[[str, int], None],
        release: Callable[[str, int], None],
        ledger: Callable[[str, int], OffsetLedger | None],
        opener: Opener,
        token_sender: Sender | None = None,
        worker: str = "worker",
        limits: DispatchLimits = DispatchLimits(),  # noqa: B008 - frozen
        meter: Meter | None = None,
        records: Records | None = None,
        outgoing: Callable[[Subscription, Sender, Opener, Tokens], Outgoing] = Outgoing,
    ) -> None:
        """`hold` and `release` pause and resume the fetching of a partition, `ledger` is that of its present epoch,
        and `opener` opens the secrets of a subscription when its lane adopts it. `token_sender` POSTs to OAuth2 token
        endpoints, and hands over more of an answer (`streams/core/oauth2.py`); default: `sender`. `meter` measures what
        is sent; None costs nothing. `records` makes what is written, and `outgoing` what is sent, where that is to be
        told elsewhere too (`streams/attempt_log.py`, `streams/tracing.py`)."""
        self._topics = topics
        self._holds = {name: hold_ms for hold_ms, name in topics.tiers.items()}
        self._table = table
        self._endpoints = endpoints
        self._sender = sender
        self._tokens = Tokens(token_sender or sender, clock)
        self._settler = settler
        self._clock = clock
        self._counters = counters
        self._records = records or Records(topics, schema_ids)
        self._make_outgoing = outgoing
        self._hold = hold
        self._release = release
        self._ledger = ledger
        self._opener = opener
        self._locked: set[str] = set()  # subscriptions whose secrets do not open, of which the log has told
        self._worker = worker
        self._limits = limits
        self._meter = meter
        self._parking = Parking(
            reader, counters, appetite=self._appetite, taken=self._taken, seen=self._seen, gone=self._gone
        )
        self._intakes: dict[tuple[str, int], Intake] = {}
        self._lanes: dict[str, Lane] = {}
        self._fair: FairQueue[Lane] = FairQueue(limits.tenant_weights, quantum=TURN_BYTES)
        self._choked: list[Lane] = []  # had their turn while the worker had no places to spare
        self._heavy: list[Lane] = []  # the same, for a body that was too large for now
        self._oversized: Lane | None = None  # has a body under way that is larger than its share
        self._origins: dict[str, TokenBucket] = {}
        self._in_flight = 0
        self._admitted = 0  # opened and not yet handed to the settler
        self._read = 0  # the same of what was read from the log, which has room of its own
        self._admitted_bytes = 0
        self._read_bytes = 0
        self._replayed = 0  # the same of what came straight from the replay lane
        self._replayed_bytes = 0
        self._replaying = 0  # of these, POSTs under way
        self._replaying_max = max(1, limits.in_flight_max // REPLAYED_PLACES_PART)
        self._replays_wait: dict[Lane, None] = {}  # had their turn while replays had no places to spare
        self._large_bytes = 0  # of large bodies under way, from wherever they came
        self._large_bytes_max = limits.admitted_bytes_max // UNDER_WAY_PART
        self._small_bytes = limits.admitted_bytes_max // SMALL_PART // limits.in_flight_max
        # Admission goes on when a tenth of the room is free, not at every single place.
        self._admit_below = limits.admitted_max * 9 // 10
        self._bytes_below = limits.admitted_bytes_max * 9 // 10
        self._replayed_below = limits.replayed_max * 9 // 10
        self._replayed_bytes_below = limits.replayed_bytes_max * 9 // 10
        self._looking = False  # a call of `_look_around` is on its way
        self._starved = False  # somebody could not read on for want of room
        self._changed = asyncio.Event()
        self._giving_up = 0
        self._filling = False  # a call of `_fill` is on its way
        self._relief: asyncio.TimerHandle | None = None
        self._relief_from = 0.0  # when the worker ran out of room (monotonic seconds)
        self._replays_relief: asyncio.TimerHandle | None = None
        self._replays_relief_from = 0.0
        self._dues: list[tuple[int, str, str]] = []  # (due, subscription id, ordering key)
        self._due_timer: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._ends: deque[tuple[int, Lane, Order]] = deque()  # ordered ones given up, until that is durable
        self._order_waits: dict[int, set[str]] = {}  # by partition: lanes whose order is not known yet
        self._stopping = False
        settler.on_settled(self._on_settled)
        if meter is not None:
            settler.on_settled(meter.settled)
        table.on_change(self._on_subscription)
        endpoints.on_change(self._on_endpoint)

    # --- what the rooms ask of each other -----------------------------------------------------------

    @abstractmethod
    def _enter(self, intake: Intake, count: int, body_bytes: int) -> None:
        """So many deliveries, or fewer than none, and bytes of bodies are in memory now."""

    @abstractmethod
    def _look_around_soon(self) -> None:
        """Room came back without a transaction, which would have said so."""

    def _subscription_of(self, delivery: Delivery) -> Subscription | None:
        """That of now; None where it is gone, also when its id is another tenant's by now: what was one's is never sent
        to another."""
        subscription = self._table.get(delivery.subscription_id)
        if subscription is None or not is_of_tenant(delivery.facts, subscription.tenant):
            return None
        return subscription

    @abstractmethod
    def _decode(self, value: bytes | None) -> Delivery:
        """The delivery of a record. UndecodableError."""

    @abstractmethod
    def _new_lane(self, subscription: Subscription) -> Lane:
        """ValueError when the sender refuses the endpoint."""

    @abstractmethod
    def _wait(self, job: Job, wait_ms: int) -> None:
        """Not due yet: on to a shorter tier, or for less than any tier holds, in memory."""

    @abstractmethod
    def _offer(self, lane: Lane) -> None:
        """Into the line of lanes that can start something, unless it cannot."""

    @abstractmethod
    def _offer_later(self, lane: Lane, wait_s: float) -> None:
        """The same after so long."""

    @abstractmethod
    def _outgoing(self, subscription: Subscription) -> Outgoing:
        """What its lane sends; ValueError when the sender refuses the endpoint."""

    @abstractmethod
    def _on_settled(self) -> None:
        """A transaction is durable."""

    @abstractmethod
    def _on_endpoint(self, old: EndpointState | None, new: EndpointState | None) -> None:
        """The health table changed."""

    @abstractmethod
    def _on_subscription(self, old: Subscription | None, new: Subscription | None) -> None:
        """The subscriptions table changed."""

    @abstractmethod
    def _gone(self, intake: Intake, subscription_id: str, offset: int, order: Order | None) -> None:
        """An ordered record holds back nothing any more."""

    @abstractmethod
    def _seen(self, intake: Intake, subscription_id: str, offset: int, order: Order) -> None:
        """An ordered record was seen in the log."""

    @abstractmethod
    def _appetite(self, subscription_id: str, lot: Lot) -> int:
        """How many parked deliveries of a subscription may be taken into memory now."""

    @abstractmethod
    def _taken(self, intake: Intake, record: Record, subscription_id: str, order: Order | None) -> None:
        """A parked record was read."""
