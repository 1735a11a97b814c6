"""Which subscriptions ask for an event: an index by tenant and event type.

Holds every subscription in every state; what becomes of a paused or disabled one is decided elsewhere. This
file does not filter by content (`streams/core/filters.py`), and does not know where subscriptions come from
(`connectors/subscriptions.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from schemas.subscription import EVENT_TYPE_LENGTH_MAX, Subscription

#: How many references to subscriptions the remembered results hold in all: 8 MiB.
REMEMBERED_MAX = 1 << 20

#: The subscriptions of one pattern. Most patterns of most tenants have one subscription, and a dictionary for
#: each would cost more than the subscription.
_Bucket = Subscription | dict[str, Subscription]

_id_of = attrgetter("id")


class _Tenant:
    """The patterns of one tenant, and results by the most specific pattern that an event type hits.

    That pattern decides the result: all others that hit are its prefixes. So there are never more results
    than patterns, however many event types go by.
    """

    __slots__ = ("buckets", "results")

    def __init__(self) -> None:
        self.buckets: dict[str, _Bucket] = {}
        self.results: dict[str, tuple[Subscription, ...]] = {}


class MatchIndex:
    """Subscriptions by id, and by what they match. Not thread-safe.

    The cost of a match grows with the subscriptions that match and with the dots of the event type, not with
    the subscriptions of the tenant or in all.
    """

    def __init__(self, remembered_max: int = REMEMBERED_MAX) -> None:
        self._by_id: dict[str, Subscription] = {}
        self._tenants: dict[str, _Tenant] = {}
        self._remembered_max = remembered_max
        self._remembered = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._by_id.values())

    def get(self, subscription_id: str) -> Subscription | None:
        """The subscription of this id."""
        return self._by_id.get(subscription_id)

    def put(self, subscription: Subscription) -> Subscription | None:
        """Add or replace by id; the one replaced. An equal one changes nothing, and results stay the same."""
        old = self._by_id.get(subscription.id)
        if old == subscription:
            return old
        if old is not None:
            self._forget(old)
        self._by_id[subscription.id] = subscription
        tenant = self._tenants.get(subscription.tenant)
        if tenant is None:
            tenant = self._tenants[subscription.tenant] = _Tenant()
        for pattern in dict.fromkeys(subscription.event_types):
            self._invalidate(tenant, pattern)
            bucket = tenant.buckets.get(pattern)
            if bucket is None:
                tenant.buckets[pattern] = subscription
            elif isinstance(bucket, dict):
                bucket[subscription.id] = subscription
            else:
                tenant.buckets[pattern] = {bucket.id: bucket, subscription.id: subscription}
        return old

    def remove(self, subscription_id: str) -> Subscription | None:
        """Take out; the one taken out."""
        old = self._by_id.pop(subscription_id, None)
        if old is not None:
            self._forget(old)
        return old

    def match(self, tenant: str, event_type: str) -> tuple[Subscription, ...]:
        """Every subscription of the tenant that asks for this event type, once, ascending by id.

        The same tuple until a subscription that belongs or belonged to it changes, or the bound on remembered
        results is reached: callers may key on its identity as long as they hold it.
        """
        known = self._tenants.get(tenant)
        if known is None:
            return ()
        result = known.results.get(event_type)
        if result is not None:  # an exact pattern, as most are
            return result
        patterns = _patterns_of(event_type, known.buckets)
        if not patterns:
            return ()
        result = known.results.get(patterns[0])
        if result is None:
            result = _collect(known.buckets, patterns)
            self._remember(known, patterns[0], result)
        return result

    def _remember(self, tenant: _Tenant, pattern: str, result: tuple[Subscription, ...]) -> None:
        self._remembered += len(result)
        if self._remembered > self._remembered_max:
            # Rare, and each result is made again in time that its deliveries outweigh: no order of use is
            # kept.
            for other in self._tenants.values():
                other.results.clear()
            self._remembered = len(result)
        tenant.results[pattern] = result

    def _forget(self, subscription: Subscription) -> None:
        tenant = self._tenants[subscription.tenant]
        for pattern in dict.fromkeys(subscription.event_types):
            self._invalidate(tenant, pattern)
            bucket = tenant.buckets[pattern]
            if isinstance(bucket, dict):
                del bucket[subscription.id]
            if not isinstance(bucket, dict) or not bucket:
                del tenant.buckets[pattern]
        if not tenant.buckets:
            del self._tenants[subscription.tenant]

    def _invalidate(self, tenant: _Tenant, pattern: str) -> None:
        """Drop the results that a subscription with this pattern is, was or will be part of."""
        if not tenant.results:
            return
        stale = [pattern]
        if pattern.endswith("*"):
            stale = [key for key in tenant.results if key.startswith(pattern[:-1])]
        for key in stale:
            self._remembered -= len(tenant.results.pop(key, ()))


def _patterns_of(event_type: str, buckets: dict[str, _Bucket]) -> list[str]:
    """The patterns in `buckets` that the event type hits, most specific first."""
    patterns = [event_type] if event_type in buckets and not event_type.endswith("*") else []
    # No pattern is longer than this, and an event type of any length must not cost more than one of this
    # length.
    dot = event_type.rfind(".", 0, EVENT_TYPE_LENGTH_MAX + 1)
    while dot >= 0:
        prefix = event_type[: dot + 1] + "*"
        if prefix in buckets:
            patterns.append(prefix)
        dot = event_type.rfind(".", 0, dot)
    if "*" in buckets:
        patterns.append("*")
    return patterns


def _collect(buckets: dict[str, _Bucket], patterns: list[str]) -> tuple[Subscription, ...]:
    found: dict[str, Subscription] = {}
    for pattern in patterns:
        bucket = buckets[pattern]
        if isinstance(bucket, dict):
            found.update(bucket)
        else:
            found[bucket.id] = bucket
    return tuple(sorted(found.values(), key=_id_of))
