"""What the audit sets up and what must come of it, all drawn from a seed: endpoints, events, expected deliveries.

Which subscription an event is for is worked out here with three lines of its own, not with the engine's matching, so
that a wrong match shows. Deliveries have numbers without gaps, so that the books are arrays. No I/O; which faults are
made, and when, is `audit_faults.py`.
"""

from __future__ import annotations

import base64
import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from connectors.faulty_receiver import Behaviour, FaultyEndpoint
from schemas.event import Event
from schemas.subscription import Subscription

T = TypeVar("T")

#: `steady`, `tried`: answer well; troubles come to `tried` only, and latency is measured at `steady`. `ordered`,
#: `batched`, `limited`: subscriptions with that field; troubles come to them too. `slow` and `flaky` behave so all the
#: time. `failing` answers 500 for ever, `rejecting` a status that ends a delivery at once; `disabled` is the
#: subscription's state.
Kind = Literal[
    "steady", "tried", "ordered", "batched", "limited", "slow", "flaky", "failing", "rejecting", "disabled"
]  # fmt: skip

COUNTS: dict[Kind, int] = {
    "steady": 12,
    "tried": 20,
    "ordered": 6,
    "batched": 5,
    "limited": 4,
    "slow": 4,
    "flaky": 4,
    "failing": 2,
    "rejecting": 2,
    "disabled": 1,
}
SUFFERING = frozenset({"tried", "ordered", "batched", "limited"})
DYING = frozenset({"failing", "rejecting", "disabled"})

TYPES = (
    *("order.created", "order.paid", "order.shipped", "order.returned", "invoice.created", "invoice.paid"),
    *("customer.created", "customer.left", "stock.low", "stock.out"),
)
#: Rare: what always fails costs a circuit's pause for each attempt.
RARE_TYPE = "alarm.raised"
RARE_EVENTS = 6
PATTERNS: tuple[tuple[str, ...], ...] = (
    *((each,) for each in TYPES),
    *(("order.*",), ("invoice.*",), ("customer.*",), ("stock.*",)),
    *(("order.created", "invoice.*"), ("customer.created", "stock.out", "order.paid"), ("*",)),
)
#: The first has three quarters of the endpoints, and of the events.
TENANTS = ("north", "south")
SUBJECTS = 40  # of each tenant

#: Delays are holds of tiers: with what jitter adds, the rest is less than any tier holds, so a retry is one record.
SCHEDULE_MS = (1_000, 1_000, 1_000, 5_000, 5_000, 5_000) + (1_000, 5_000) * 17
FAILING_SCHEDULE_MS = (1_000,)
REJECTED_STATUS = 422
TIMEOUT_MS = 3_000
SLOW_MS = 250
BATCH_MAX = 10
BATCH_WAIT_MS = 200
#: A limited endpoint may have so many times what it is sent on average, so that it catches up.
RATE_ROOM = 3.0
PAD = "x" * 150


class Dice:
    """Numbers that depend on a seed and a name only, the same on every machine and in every version of Python."""

    def __init__(self, seed: int, name: str) -> None:
        self._key = f"{seed}/{name}".encode()
        self._drawn = 0

    def bits(self) -> int:
        """64 of them."""
        self._drawn += 1
        return int.from_bytes(hashlib.blake2b(b"%b/%d" % (self._key, self._drawn), digest_size=8).digest())

    def between(self, low: float, high: float) -> float:
        """At least `low`, less than `high`."""
        return low + (high - low) * (self.bits() / 2**64)

    def below(self, bound: int) -> int:
        """0 to `bound` - 1."""
        return self.bits() % bound

    def choose(self, things: Sequence[T]) -> T:
        """One of them."""
        return things[self.below(len(things))]

    def shuffled(self, things: Sequence[T]) -> list[T]:
        """All of them."""
        return [each for _, each in sorted(((self.bits(), each) for each in things), key=lambda pair: pair[0])]


class Target(msgspec.Struct, frozen=True):
    """One subscription with its endpoint."""

    number: int
    kind: Kind
    tenant: str
    event_types: tuple[str, ...]
    secret: str

    @property
    def id(self) -> str:
        """Of the subscription."""
        return f"e{self.number:03d}-{self.kind}"

    @property
    def ends(self) -> Literal["delivered", "dead"]:
        """What each of its deliveries comes to."""
        return "dead" if self.kind in DYING else "delivered"

    def asks_for(self, event_type: str) -> bool:
        """Whether one of its patterns is the type, a beginning of it up to a dot, or everything."""
        return any(
            each in ("*", event_type) or (each.endswith(".*") and event_type.startswith(each[:-1]))
            for each in self.event_types
        )

    def endpoint(self) -> FaultyEndpoint:
        """How it behaves."""
        behaviours: Mapping[Kind, Behaviour] = {
            "slow": "slow",
            "flaky": "flaky",
            "failing": "failing",
            "rejecting": "rejecting",
        }
        return FaultyEndpoint(self.secret, behaviours.get(self.kind, "ok"), SLOW_MS)

    def subscription(self, port: int, now_ms: int, rate: float) -> Subscription:
        """What is written for it. `rate` is what it is sent, in deliveries a second."""
        more: dict[Kind, dict[str, Any]] = {
            "ordered": {"ordered": True},
            "batched": {"batch_max": BATCH_MAX, "batch_wait_ms": BATCH_WAIT_MS},
            "limited": {"rate_limit": max(5.0, round(rate * RATE_ROOM, 1))},
            "slow": {"max_in_flight": max(8, int(rate * SLOW_MS / 1000 * 4))},
            "failing": {"retry_schedule_ms": FAILING_SCHEDULE_MS},
            "rejecting": {"reject_statuses": (REJECTED_STATUS,)},
            "disabled": {"state": "disabled"},
        }
        fields: dict[str, Any] = {"retry_schedule_ms": SCHEDULE_MS, "timeout_ms": TIMEOUT_MS} | more.get(self.kind, {})
        return Subscription(
            id=self.id,
            tenant=self.tenant,
            url=f"http://127.0.0.1:{port}/{self.id}",
            event_types=self.event_types,
            secrets=(self.secret,),
            created_ms=now_ms,
            updated_ms=now_ms,
            **fields,
        )


class Plan:
    """Targets, events by number, and the deliveries that must be made: those of event 0 first, by ascending target."""

    def __init__(self, seed: int, deliveries: int) -> None:
        """Events are drawn until they make so many deliveries."""
        self.seed = seed
        self.targets = _targets(Dice(seed, "targets"))
        self._types = (*TYPES, RARE_TYPE)
        self._matches = {
            (tenant, kind): [
                each.number for each in self.targets if each.tenant == of and each.asks_for(self._types[kind])
            ]
            for tenant, of in enumerate(TENANTS)
            for kind in range(len(self._types))
        }
        self._ranks = {key: {number: rank for rank, number in enumerate(all_)} for key, all_ in self._matches.items()}
        self._kinds = bytearray()
        self._tenants = bytearray()
        self._subjects = array("H")
        #: The number of the first delivery of each event, and at the end how many there are.
        self._firsts = array("Q", [0])
        self._draw_events(Dice(seed, "events"), deliveries)

    def _draw_events(self, dice: Dice, deliveries: int) -> None:
        mean = self._mean()
        rare_every = max(2, int(deliveries / mean / RARE_EVENTS))
        while self._firsts[-1] < deliveries:
            n = len(self._kinds)
            rare = n % rare_every == rare_every // 2
            kind = len(TYPES) if rare else dice.below(len(TYPES))
            tenant = n // rare_every % 2 if rare else 0 if dice.below(4) else 1
            self._kinds.append(kind)
            self._tenants.append(tenant)
            self._subjects.append(dice.below(SUBJECTS))
            self._firsts.append(self._firsts[-1] + len(self._matches[tenant, kind]))

    def _mean(self) -> float:
        """Deliveries of an event, on average."""
        weights = (0.75, 0.25)
        return sum(
            weights[tenant] * len(self._matches[tenant, kind]) / len(TYPES)
            for tenant in range(len(TENANTS))
            for kind in range(len(TYPES))
        )

    @property
    def events(self) -> int:
        """How many."""
        return len(self._kinds)

    @property
    def deliveries(self) -> int:
        """How many are expected."""
        return self._firsts[-1]

    def event(self, n: int, time_ms: int) -> Event:
        """The event of this number."""
        return Event(
            f"evt_{n:07d}",
            self._types[self._kinds[n]],
            TENANTS[self._tenants[n]],
            time_ms,
            f'{{"n":{n},"pad":"{PAD}"}}'.encode(),
            subject=f"s{self._subjects[n]:02d}",
        )

    def lane(self, n: int) -> int:
        """Stands for tenant and subject of an event: what must arrive in order at an ordered endpoint."""
        return self._tenants[n] * SUBJECTS + self._subjects[n]

    def receivers(self, n: int) -> list[int]:
        """The targets of an event."""
        return self._matches[self._tenants[n], self._kinds[n]]

    def delivery(self, target: int, n: int) -> int | None:
        """The number of the delivery of an event to a target; None when there must be none."""
        if not 0 <= n < len(self._kinds):
            return None
        rank = self._ranks[self._tenants[n], self._kinds[n]].get(target)
        return None if rank is None else self._firsts[n] + rank

    def place(self, delivery: int) -> tuple[int, int]:
        """(event, target) of a delivery."""
        n = bisect_right(self._firsts, delivery) - 1
        return n, self.receivers(n)[delivery - self._firsts[n]]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(event, target) of every delivery, in the order of their numbers."""
        for n in range(len(self._kinds)):
            for target in self.receivers(n):
                yield n, target

    def rates(self, seconds: float) -> list[float]:
        """Deliveries a second by target, when all events are sent in that time."""
        counts = [0] * len(self.targets)
        for _, target in self:
            counts[target] += 1
        return [count / seconds for count in counts]

    def named(self, subscription_id: str, event_id: str) -> int | None:
        """The number of a delivery as records of the engine name it; None when there must be none."""
        try:
            target, n = int(subscription_id[1:4]), int(event_id.removeprefix("evt_"))
        except ValueError:
            return None
        if not 0 <= target < len(self.targets) or self.targets[target].id != subscription_id:
            return None
        return self.delivery(target, n)


def number_in(event: bytes) -> int:
    """The event's number, from its encoded value."""
    at = event.index(b'"n":') + 4
    return int(event[at : event.index(b",", at)])


def _targets(dice: Dice) -> list[Target]:
    kinds = dice.shuffled([kind for kind, count in COUNTS.items() for _ in range(count)])
    draw: Callable[[], tuple[str, ...]] = lambda: dice.choose(PATTERNS)  # noqa: E731
    return [
        Target(
            number,
            kind,
            TENANTS[0 if number % 4 else 1],
            (RARE_TYPE,) if kind == "failing" else draw(),
            "whsec_" + base64.b64encode(b"".join(dice.bits().to_bytes(8) for _ in range(3))).decode(),
        )
        for number, kind in enumerate(kinds)
    ]
