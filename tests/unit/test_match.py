"""Which subscriptions an event type finds, and when a result stays the same object."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.subscription import EVENT_TYPE_LENGTH_MAX, Subscription, checked
from streams.core.match import MatchIndex

SECRET = "whsec_" + "A" * 32


def sub(subscription_id: str, *event_types: str, **other: Any) -> Subscription:
    return checked(
        Subscription(id=subscription_id, url="https://a.b", event_types=event_types, secrets=(SECRET,), **other)
    )


def index(*subscriptions: Subscription, remembered_max: int = 1000) -> MatchIndex:
    made = MatchIndex(remembered_max)
    for subscription in subscriptions:
        made.put(subscription)
    return made


def ids(made: MatchIndex, event_type: str, tenant: str = "default") -> str:
    return " ".join(subscription.id for subscription in made.match(tenant, event_type))


@pytest.mark.parametrize(
    ("event_type", "found"),
    [
        ("order.created", "all created deep order"),
        ("order.item.added", "all item order"),
        ("order.item.added.twice", "all item order"),
        ("order.item", "all order"),
        ("order", "all"),
        ("orders.created", "all"),
        ("invoice.paid", "all paid"),
        ("", "all"),
        ("order.*", "all order"),
        ("*", "all"),
    ],
)
def test_exact_types_prefixes_and_the_star(event_type: str, found: str) -> None:
    made = index(
        sub("all", "*"),
        sub("created", "order.created"),
        sub("deep", "order.created", "order.created.*"),
        sub("item", "order.item.*"),
        sub("order", "order.*"),
        sub("paid", "invoice.paid"),
    )
    assert ids(made, event_type) == found


def test_a_subscription_with_several_matching_patterns_is_found_once() -> None:
    made = index(sub("a", "order.created", "order.*", "*", "order.created"))
    assert ids(made, "order.created") == "a"
    assert made.remove("a") is not None
    assert ids(made, "order.created") == ""


def test_tenants_do_not_see_each_other() -> None:
    made = index(sub("a", "*", tenant="acme"), sub("b", "*", tenant="globex"))
    assert (ids(made, "x", "acme"), ids(made, "x", "globex"), ids(made, "x", "initech")) == ("a", "b", "")


def test_every_state_is_found() -> None:
    made = index(sub("a", "x"), sub("b", "x", state="paused"), sub("c", "x", state="disabled"))
    assert ids(made, "x") == "a b c"


def test_put_returns_what_it_replaces_and_moves_it() -> None:
    made = index(old := sub("a", "x", "y", tenant="acme"))
    new = sub("a", "y", "z", tenant="globex")
    assert made.put(new) is old
    assert ids(made, "y", "acme") == ""
    assert [ids(made, event_type, "globex") for event_type in "xyz"] == ["", "a", "a"]
    assert (len(made), list(made), made.get("a"), made.get("b")) == (1, [new], new, None)


def test_remove_returns_what_it_takes_out() -> None:
    made = index(a := sub("a", "x"), sub("b", "x"), sub("c", "x"))
    assert made.remove("a") is a
    assert made.remove("a") is None
    assert ids(made, "x") == "b c"


def test_a_result_is_the_same_object_until_something_that_could_change_it_changes() -> None:
    made = index(sub("a", "order.*"), sub("b", "order.created"), sub("c", "invoice.*"), sub("d", "*", tenant="t"))
    before = made.match("default", "order.created")
    made.put(sub("c", "invoice.paid"))
    made.put(sub("e", "order.updated"))
    made.remove("d")
    made.put(sub("b", "order.created"))  # as it was
    assert made.match("default", "order.created") is before
    made.put(sub("b", "order.created", state="paused"))
    assert made.match("default", "order.created") == (made.get("a"), made.get("b"))


@pytest.mark.parametrize("pattern", ["order.created", "order.*", "*"])
def test_a_result_changes_with_each_kind_of_pattern(pattern: str) -> None:
    made = index(sub("a", "order.*", "*"), sub("b", "order.created"))
    for event_type in ("order.created", "order.updated", "invoice.paid"):
        made.match("default", event_type)
    made.put(sub("c", pattern))
    assert ids(made, "order.created") == "a b c"
    made.remove("c")
    assert ids(made, "order.created") == "a b"


def test_event_types_that_hit_the_same_patterns_share_a_result() -> None:
    made = index(sub("a", "order.*"))
    assert made.match("default", "order.x") is made.match("default", "order.y.z")


def test_the_memory_for_results_is_bounded() -> None:
    made = index(*(sub(f"s{n}", f"t{n}", "*") for n in range(20)), remembered_max=50)
    for _ in range(2):
        for n in range(20):
            assert len(made.match("default", f"t{n}")) == 20
    assert made._remembered <= 50
    assert sum(len(result) for result in made._tenants["default"].results.values()) == made._remembered


def test_a_result_larger_than_the_bound_is_still_remembered() -> None:
    made = index(*(sub(f"s{n}", "*") for n in range(20)), remembered_max=5)
    assert made.match("default", "x") is made.match("default", "x")


def test_a_longest_pattern_is_found_and_a_longer_type_costs_no_more() -> None:
    longest = "a" * EVENT_TYPE_LENGTH_MAX
    made = index(sub("a", longest), sub("b", longest + ".*"))
    assert ids(made, longest) == "a"
    assert ids(made, longest + "." + "x" * 1000) == "b"
    # Half a million dots: looked at one by one, with a copy for each, this would take minutes.
    assert ids(made, "x." * 500_000) == ""


def test_nothing_is_left_of_what_is_gone() -> None:
    made = index(*(sub(f"s{n}", f"t{n}", "order.*", tenant=f"tenant{n % 3}") for n in range(9)))
    for n in range(9):
        made.match(f"tenant{n % 3}", f"t{n}")
    for n in range(9):
        made.remove(f"s{n}")
    assert (len(made), made._tenants, made._remembered) == (0, {}, 0)
