"""Fakes of the ports, for tests, the simulation and people who build on the stages.

Each passes the conformance suite of its port (tests/conformance). They keep everything in memory, talk to
nothing, and fail only when told to.
"""

from __future__ import annotations

from collections.abc import Sequence

from connectors.subscriptions import Index, SubscriptionChanged
from schemas import codec
from schemas.errors import RegistryUnavailableError, UnknownSchemaError
from schemas.subscription import Subscription


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
        return self._ids[canonical]

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
