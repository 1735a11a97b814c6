"""Whose turn it is: deficit round robin over lanes, by tenant and within a tenant.

Two levels of the same thing (Shreedhar and Varghese, 1995): tenants take turns and get `quantum` × weight bytes in
each, the flows of a tenant take turns and get `quantum` bytes in each; what an item costs is taken from both, and a
turn ends when what is left does not pay for the next one. So whoever sends large items gets as many bytes as whoever
sends small ones, not as many items.

The common case is one flow in each tenant, or one tenant: the level that has nothing to choose is skipped. This file
does not know what flows serve, nor how many items may be under way.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

WEIGHT_MIN = 0.001
WEIGHT_MAX = 1_000.0
#: Tenants without work that are kept, so that one that comes and goes costs nothing to set up: 3 MiB.
TENANTS_KEPT_MAX = 4_096


class Flow(Protocol):
    """What is queued: one lane. Compared by identity."""

    #: What is left of its turn: the queue's own note.
    deficit: int

    @property
    def tenant(self) -> str:
        """Never changes while the flow is in the queue."""

    def head_cost(self) -> int:
        """What its next item costs, in bytes or the like, at least 1. Asked only while the flow is in the queue."""


F = TypeVar("F", bound=Flow)


class _Tenant(Generic[F]):
    """The flows of one tenant that have something to serve, the one whose turn it is first."""

    __slots__ = ("deficit", "flows", "name", "quantum", "queued")

    def __init__(self, name: str, quantum: float) -> None:
        self.name = name
        self.quantum = quantum
        self.deficit = 0.0
        self.flows: deque[F] = deque()
        self.queued = False  # it stands in the ring of tenants


class FairQueue(Generic[F]):
    """Flows that have something to serve.

    A flow that is offered again right after it was taken keeps its turn for as long as its deficit lasts. One that is
    offered again only after another was taken has ended its turn: what was left of it is dropped, it comes back with a
    new quantum behind the others. So nobody saves up while he has nothing to serve.

    Between tenants that always have something to serve, and between such flows of one tenant, bytes divided by weight
    differ by less than two quanta and one item, however long it goes on. `take` goes round at most twice, whatever
    items cost; while they cost less than a quantum, it looks at one or two flows.
    """

    __slots__ = ("_count", "_last", "_quantum", "_ring", "_tenants", "_weights")

    def __init__(self, weights: Mapping[str, float], quantum: int = 16_384) -> None:
        """Weights by tenant, 1 for those not named; ValueError outside of `WEIGHT_MIN` to `WEIGHT_MAX`. `quantum` is
        what a flow may serve in a row, in the unit of costs."""
        if quantum < 1:
            raise ValueError("quantum must be at least 1")
        for tenant, weight in weights.items():
            if not WEIGHT_MIN <= weight <= WEIGHT_MAX:
                raise ValueError(f"the weight of tenant {tenant!r} must be {WEIGHT_MIN} to {WEIGHT_MAX}, not {weight}")
        self._weights = dict(weights)
        self._quantum = quantum
        self._tenants: dict[str, _Tenant[F]] = {}
        self._ring: deque[_Tenant[F]] = deque()  # the tenant whose turn it is first; some may have become empty
        self._count = 0
        self._last: F | None = None  # taken last and not offered since

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return self._count > 0

    def offer(self, flow: F) -> None:
        """Queue a flow that has something to serve and is not queued."""
        name = flow.tenant
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = _Tenant(name, self._quantum * self._weights.get(name, 1.0))
        if not tenant.queued:
            tenant.queued = True
            tenant.deficit = tenant.quantum
            self._ring.append(tenant)
        self._count += 1
        flows = tenant.flows
        if flow is not self._last:
            flow.deficit = self._quantum
            flows.append(flow)
            return
        self._last = None
        if not flows or flow.deficit >= flow.head_cost():
            flows.appendleft(flow)
        else:
            flow.deficit += self._quantum
            flows.append(flow)

    def take(self) -> F | None:
        """The next flow that may serve one item, its cost being paid; it is not queued any more. None when there is
        none at all."""
        ring = self._ring
        skipped = 0
        while ring:
            tenant = ring[0]
            flows = tenant.flows
            if not flows:
                self._leave(tenant)
                continue
            flow = flows[0]
            cost = flow.head_cost()
            if len(flows) > 1:
                if flow.deficit < cost:
                    flow = self._next_of(flows)
                    cost = flow.head_cost()
                if len(ring) == 1:
                    flow.deficit -= cost
                elif tenant.deficit >= cost:
                    flow.deficit -= cost
                    tenant.deficit -= cost
                else:
                    skipped = self._skip(tenant, skipped)
                    continue
            elif len(ring) > 1:
                if tenant.deficit < cost:
                    skipped = self._skip(tenant, skipped)
                    continue
                tenant.deficit -= cost
            flows.popleft()
            self._count -= 1
            self._last = flow
            return flow
        return None

    def discard(self, flow: F) -> None:
        """Take a flow out of the queue that has nothing to serve any more; one that is not queued is let be. Looks at
        the flows of its tenant one by one: `keep` is for many."""
        tenant = self._tenants.get(flow.tenant)
        if tenant is not None and flow in tenant.flows:
            tenant.flows.remove(flow)
            self._count -= 1
        if flow is self._last:
            self._last = None

    def keep(self, wanted: Callable[[F], bool]) -> None:
        """Take out every flow that is not wanted; the others keep their turns."""
        count = 0
        for tenant in self._ring:
            tenant.flows = deque(flow for flow in tenant.flows if wanted(flow))
            count += len(tenant.flows)
        self._count = count

    def _leave(self, tenant: _Tenant[F]) -> None:
        """The first tenant has nothing more to serve."""
        self._ring.popleft()
        tenant.queued = False
        if len(self._tenants) > TENANTS_KEPT_MAX:
            del self._tenants[tenant.name]

    def _skip(self, tenant: _Tenant[F], skipped: int) -> int:
        """End the first tenant's turn, and give it what it has in the next one. Returns how many were skipped in a row;
        when that was all of them, rounds in which nobody could pay are gone through at once."""
        ring = self._ring
        tenant.deficit += tenant.quantum
        ring.rotate(-1)
        if skipped + 1 < len(ring):
            return skipped + 1
        rounds = min(math.ceil((each.flows[0].head_cost() - each.deficit) / each.quantum) for each in ring)
        if rounds > 0:
            for each in ring:
                each.deficit += rounds * each.quantum
        return 0

    def _next_of(self, flows: deque[F]) -> F:
        """The next flow of a tenant that can pay, made the first; as `_skip`, one level below."""
        quantum = self._quantum
        for _ in range(len(flows)):
            flow = flows[0]
            if flow.deficit >= flow.head_cost():
                return flow
            flow.deficit += quantum
            flows.rotate(-1)
        rounds = min(-((each.deficit - each.head_cost()) // quantum) for each in flows)
        if rounds > 0:
            for each in flows:
                each.deficit += rounds * quantum
        while flows[0].deficit < flows[0].head_cost():
            flows[0].deficit += quantum
            flows.rotate(-1)
        return flows[0]
