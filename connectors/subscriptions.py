"""The subscriptions table: every subscription of the compacted topic in memory, as of now.

How the topic is followed is in `connectors/compacted.py`. This file does not match (the index does, which is passed
in), and does not quarantine what is bad (`streams/subscription_check.py` does): it logs and counts it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from connectors.compacted import Follower, OnProgress
from schemas.subscription import Subscription
from schemas.subscription_codec import SubscriptionDecoder

SubscriptionChanged = Callable[[Subscription | None, Subscription | None], None]


class Index(Protocol):
    """What holds and matches the subscriptions (`streams/core/match.py`)."""

    def put(self, subscription: Subscription) -> Subscription | None:
        """Add or replace; the one replaced."""

    def remove(self, subscription_id: str) -> Subscription | None:
        """Take out; the one taken out."""

    def get(self, subscription_id: str) -> Subscription | None: ...

    def match(self, tenant: str, event_type: str) -> Sequence[Subscription]: ...

    def __len__(self) -> int: ...


class Schemas(Protocol):
    """The half of the `Registry` port that reads."""

    async def schema(self, schema_id: int) -> str: ...


#: More new ids than that are sorted in at once.
_INSERTED_MAX = 64


class ById:
    """The index of a table that is read and listed, not matched: by id, and in the order of tenant and id."""

    def __init__(self) -> None:
        self._by_id: dict[str, Subscription] = {}
        self._order: list[tuple[str, str]] = []
        self._fresh: list[tuple[str, str]] = []

    def put(self, subscription: Subscription) -> Subscription | None:
        """See `Index`."""
        old = self._by_id.get(subscription.id)
        if old is None or old.tenant != subscription.tenant:
            self._forget(old)
            self._fresh.append((subscription.tenant, subscription.id))
        self._by_id[subscription.id] = subscription
        return old

    def remove(self, subscription_id: str) -> Subscription | None:
        """See `Index`."""
        old = self._by_id.pop(subscription_id, None)
        self._forget(old)
        return old

    def get(self, subscription_id: str) -> Subscription | None:
        """The subscription of this id."""
        return self._by_id.get(subscription_id)

    def match(self, tenant: str, event_type: str) -> Sequence[Subscription]:
        """Nobody asks that of this index."""
        raise NotImplementedError("this table is read and listed, not matched")

    def __len__(self) -> int:
        return len(self._by_id)

    def after(self, tenant: str | None, last: tuple[str, str] | None = None) -> Iterator[Subscription]:
        """Those behind the (tenant, id), in order, of one tenant or of all. Not to be changed meanwhile."""
        order = self._sorted()
        start = bisect_right(order, last) if last is not None else 0
        if tenant is not None:
            start = max(start, bisect_left(order, (tenant, "")))
        for position in range(start, len(order)):
            owner, subscription_id = order[position]
            if tenant is not None and owner != tenant:
                return
            yield self._by_id[subscription_id]

    def _sorted(self) -> list[tuple[str, str]]:
        fresh, self._fresh = self._fresh, []
        if len(fresh) > _INSERTED_MAX:
            self._order.extend(fresh)
            self._order.sort()
        else:
            for key in fresh:
                insort(self._order, key)
        return self._order

    def _forget(self, old: Subscription | None) -> None:
        if old is not None:
            order, key = self._sorted(), (old.tenant, old.id)
            del order[bisect_left(order, key)]


class SubscriptionsTable(Follower[Subscription]):
    """The `SubscriptionTable` port on a Kafka topic. For one event loop; `start` once, then `stop`.

    The value of a record is a framed Avro record, resolved to our newest `Subscription` schema, or a JSON object;
    null deletes. A record that is bad leaves what was in force in force.
    """

    def __init__(
        self,
        conf: Mapping[str, Any],
        topic: str,
        *,
        index: Index,
        schemas: Schemas,
        on_progress: OnProgress | None = None,
        keep_offsets: bool = False,
    ) -> None:
        super().__init__(
            conf,
            topic,
            what="subscription",
            decode=self._decoded,
            apply=self._put_or_remove,
            on_progress=on_progress,
            keep_offsets=keep_offsets,
        )
        self._index = index
        self._schemas = schemas
        self._decoder = SubscriptionDecoder()

    def get(self, subscription_id: str) -> Subscription | None:
        """The subscription of this id."""
        return self._index.get(subscription_id)

    def match(self, tenant: str, event_type: str) -> Sequence[Subscription]:
        """See the port."""
        return self._index.match(tenant, event_type)

    def __len__(self) -> int:
        return len(self._index)

    def _decoded(self, key: bytes | None, value: bytes | None) -> Subscription | str:
        """On the thread."""
        wanted = self._decoder.wanted(value)
        if wanted is not None:
            schemas = self._schemas
            self._decoder.learn(wanted, self.ask_loop(lambda: schemas.schema(wanted)))
        return self._decoder.decode(key, value)

    def _put_or_remove(self, change: Subscription | str) -> Subscription | None:
        return self._index.remove(change) if isinstance(change, str) else self._index.put(change)
