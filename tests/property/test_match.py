"""The index against a search through all subscriptions, over any sequence of changes."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from schemas.subscription import Subscription
from streams.core.match import MatchIndex

SEGMENT = st.sampled_from(["a", "b", "ab"])
EVENT_TYPE = st.lists(SEGMENT, min_size=1, max_size=4).map(".".join)
PATTERN = st.one_of(EVENT_TYPE, EVENT_TYPE.map(lambda prefix: prefix + ".*"), st.just("*"))
TENANT = st.sampled_from(["t", "u"])
ID = st.sampled_from(["1", "2", "3", "4", "5"])


def asks(subscription: Subscription, tenant: str, event_type: str) -> bool:
    """The definition: what `*` and `order.*` mean."""
    return subscription.tenant == tenant and any(
        event_type.startswith(pattern[:-1]) if pattern.endswith("*") else pattern == event_type
        for pattern in subscription.event_types
    )


class Matching(RuleBasedStateMachine):
    """Changes and matches in any order, with room to remember only a few results."""

    def __init__(self) -> None:
        super().__init__()
        self.index = MatchIndex(remembered_max=12)
        self.model: dict[str, Subscription] = {}

    @rule(
        subscription_id=ID,
        tenant=TENANT,
        event_types=st.lists(PATTERN, min_size=1, max_size=4),
        state=st.sampled_from(["active", "paused"]),
    )
    def put(self, subscription_id: str, tenant: str, event_types: list[str], state: str) -> None:
        new = Subscription(
            id=subscription_id,
            tenant=tenant,
            url="",
            event_types=tuple(event_types),
            state="active" if state == "active" else "paused",
        )
        assert self.index.put(new) == self.model.get(subscription_id)
        self.model[subscription_id] = new

    @rule(subscription_id=ID)
    def remove(self, subscription_id: str) -> None:
        assert self.index.remove(subscription_id) == self.model.pop(subscription_id, None)

    @rule(tenant=TENANT, event_type=EVENT_TYPE)
    def match(self, tenant: str, event_type: str) -> None:
        found = self.index.match(tenant, event_type)
        expected = [s for _, s in sorted(self.model.items()) if asks(s, tenant, event_type)]
        assert list(found) == expected
        assert self.index.match(tenant, event_type) is found

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert len(self.index) == len(self.model)
        assert {s.id: s for s in self.index} == self.model
        remembered = [len(r) for t in self.index._tenants.values() for r in t.results.values()]
        assert sum(remembered) == self.index._remembered <= 12


TestMatching = Matching.TestCase
