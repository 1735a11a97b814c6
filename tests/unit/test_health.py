"""What answers do to an endpoint's health, and what of it is worth a record."""

from __future__ import annotations

import msgspec
import pytest

from schemas.endpoint import EndpointState
from schemas.post import CAUSES
from streams.core.breaker import BreakerPolicy
from streams.core.health import FAILING_PERSISTED_AFTER_MS, NEUTRAL_CAUSES, UNCHANGED, Change, Health

NOW = 1_800_000_000_000
HOUR_MS = 3_600_000


def observe(
    health: Health,
    status: int,
    now_ms: int = NOW,
    *,
    cause: str | None = None,
    disable_after_ms: int = 0,
    started_ms: int | None = None,
) -> Change:
    return health.observe(status, cause, now_ms, 0.0, disable_after_ms, started_ms)


def opened() -> Health:
    health = Health()
    changes = [observe(health, 500) for _ in range(5)]
    assert changes == [UNCHANGED] * 4 + [Change(circuit="opened", persist=True)]
    return health


@pytest.mark.parametrize("status", [200, 204, 299])
def test_a_success_of_a_healthy_endpoint_is_nothing_new(status: int) -> None:
    health = Health()
    change = observe(health, status)
    assert change is UNCHANGED
    assert not change.any


def test_successes_count_against_failures() -> None:
    health = Health()
    for _ in range(10):
        observe(health, 200)
    assert [observe(health, 500).circuit for _ in range(10)] == [None] * 9 + ["opened"]


@pytest.mark.parametrize("status", [500, 502, 503, 599])
def test_failing_servers_open_the_circuit(status: int) -> None:
    health = Health()
    assert [observe(health, status).circuit for _ in range(5)] == [None] * 4 + ["opened"]


@pytest.mark.parametrize("cause", sorted(CAUSES - NEUTRAL_CAUSES))
def test_no_response_opens_the_circuit(cause: str) -> None:
    health = Health()
    assert [observe(health, 0, cause=cause).circuit for _ in range(5)] == [None] * 4 + ["opened"]
    assert health.failing_since_ms == NOW


@pytest.mark.parametrize("cause", sorted(NEUTRAL_CAUSES))
def test_what_is_not_of_the_endpoint_says_nothing_about_it(cause: str) -> None:
    health = Health()
    assert {observe(health, 0, NOW + step * HOUR_MS, cause=cause, disable_after_ms=1) for step in range(9)} == {
        UNCHANGED
    }
    assert health.failing_since_ms == 0
    assert health.circuit.state == "closed"


@pytest.mark.parametrize("status", [301, 400, 404, 429])
def test_whoever_answers_is_alive_for_the_circuit(status: int) -> None:
    health = Health()
    assert {observe(health, status) for _ in range(50)} == {UNCHANGED}
    probed = opened()
    probed.circuit.tick(NOW + HOUR_MS)
    assert observe(probed, status, NOW + HOUR_MS).circuit == "closed"


def test_a_probe_closes_or_opens_again() -> None:
    health = opened()
    at = health.circuit.until_ms
    health.circuit.tick(at)
    assert observe(health, 500, at) == Change(circuit="opened", again=True, persist=True)
    at = health.circuit.until_ms
    health.circuit.tick(at)
    assert observe(health, 200, at) == Change(circuit="closed", persist=True)
    assert observe(health, 200, at) is UNCHANGED


def test_a_time_out_from_before_does_not_fail_the_probe() -> None:
    health = opened()
    at = health.circuit.until_ms
    health.circuit.tick(at)
    assert observe(health, 0, at + 1, cause="timeout", started_ms=NOW - 10_000) is UNCHANGED
    assert health.circuit.state == "half_open"
    assert observe(health, 200, at + 2, started_ms=NOW - 10_000) == Change(persist=True), "it is not failing any more"
    assert health.circuit.state == "half_open"
    assert observe(health, 200, at + 3, started_ms=at).circuit == "closed"


def test_results_while_it_is_open_are_nothing_new() -> None:
    health = opened()
    assert observe(health, 500, NOW + 1) is UNCHANGED
    assert observe(health, 0, NOW + 1, cause="reset") is UNCHANGED


def test_gone_disables_at_once() -> None:
    health = Health()
    assert observe(health, 410) == Change(disabled=True, persist=True)
    assert (health.disabled_ms, health.disabled_reason) == (NOW, "gone")
    assert observe(health, 410, NOW + 1) is UNCHANGED
    assert health.disabled_ms == NOW


@pytest.mark.parametrize(("status", "cause"), [(500, None), (404, None), (300, None), (199, None), (0, "timeout")])
def test_nothing_but_failures_for_too_long_disables(status: int, cause: str | None) -> None:
    health = Health()
    observe(health, status, NOW, cause=cause, disable_after_ms=HOUR_MS)
    assert not observe(health, status, NOW + HOUR_MS - 1, cause=cause, disable_after_ms=HOUR_MS).disabled
    change = observe(health, status, NOW + HOUR_MS, cause=cause, disable_after_ms=HOUR_MS)
    assert change.disabled
    assert change.persist
    assert (health.disabled_ms, health.disabled_reason) == (NOW + HOUR_MS, "failing")
    assert not observe(health, status, NOW + 2 * HOUR_MS, cause=cause, disable_after_ms=HOUR_MS).disabled


def test_a_success_in_between_begins_anew() -> None:
    health = Health()
    for status, at in ((500, 0), (200, HOUR_MS - 1), (500, HOUR_MS), (500, 2 * HOUR_MS - 1)):
        assert not observe(health, status, NOW + at, disable_after_ms=HOUR_MS).disabled
    assert observe(health, 500, NOW + 2 * HOUR_MS, disable_after_ms=HOUR_MS).disabled


def test_too_many_requests_is_neither_a_failure_nor_a_success() -> None:
    health = Health()
    assert observe(health, 429, NOW, disable_after_ms=1) is UNCHANGED
    assert health.failing_since_ms == 0
    observe(health, 500, NOW)
    observe(health, 429, NOW + HOUR_MS, disable_after_ms=HOUR_MS)
    assert (health.failing_since_ms, health.disabled_ms) == (NOW, 0)
    assert observe(health, 500, NOW + HOUR_MS, disable_after_ms=HOUR_MS).disabled


def test_zero_never_disables() -> None:
    health = Health()
    for day in range(1_000):
        observe(health, 404, NOW + day * 24 * HOUR_MS, disable_after_ms=0)
    assert health.disabled_ms == 0


def test_failing_is_persisted_once_and_only_when_it_lasts() -> None:
    health = Health()
    assert observe(health, 404, NOW) is UNCHANGED
    assert observe(health, 404, NOW + FAILING_PERSISTED_AFTER_MS - 1) is UNCHANGED
    assert observe(health, 404, NOW + FAILING_PERSISTED_AFTER_MS) == Change(persist=True)
    assert observe(health, 404, NOW + FAILING_PERSISTED_AFTER_MS + 1) is UNCHANGED
    assert health.fields()["failing_since_ms"] == NOW
    assert observe(health, 200, NOW + HOUR_MS) == Change(persist=True)
    assert health.fields()["failing_since_ms"] == 0
    assert observe(health, 200, NOW + HOUR_MS) is UNCHANGED
    observe(health, 404, NOW)
    assert observe(health, 404, NOW + HOUR_MS) == Change(persist=True), "another time"


def test_whether_it_was_persisted_is_known_after_a_restart() -> None:
    fields = Health().fields() | {"failing_since_ms": NOW}
    assert observe(Health.restored(**fields), 404, NOW + HOUR_MS) is UNCHANGED
    assert observe(Health.restored(**fields), 200, NOW + HOUR_MS) == Change(persist=True)
    fields["failing_since_ms"] = 0
    health = Health.restored(**fields)
    observe(health, 404, NOW)
    assert observe(health, 404, NOW + HOUR_MS) == Change(persist=True)


def test_what_was_never_persisted_is_cleared_without_a_record() -> None:
    health = Health()
    observe(health, 404, NOW)
    assert observe(health, 200, NOW + 1) is UNCHANGED
    assert health.failing_since_ms == 0


def test_a_circuit_s_record_holds_the_failing_as_well() -> None:
    health = opened()
    assert health.fields()["failing_since_ms"] == NOW
    assert observe(health, 500, NOW + HOUR_MS) is UNCHANGED, "it is written already"
    assert observe(health, 200, NOW + HOUR_MS) == Change(persist=True)


def test_a_healthy_endpoint_has_the_defaults_of_the_record() -> None:
    healthy = EndpointState(subscription_id="s")
    assert EndpointState(subscription_id="s", **Health().fields()) == healthy
    health = opened()
    health.circuit.tick(health.circuit.until_ms)
    observe(health, 200, health.circuit.until_ms)
    assert EndpointState(subscription_id="s", **health.fields()) == healthy


def test_half_open_is_persisted_as_open_and_probed_at_once() -> None:
    health = opened()
    until_ms = health.circuit.until_ms
    health.circuit.tick(until_ms)
    fields = health.fields()
    assert fields["circuit"] == "open"
    again = Health.restored(**fields)
    assert again.circuit.tick(until_ms)
    assert observe(again, 500, until_ms) == Change(circuit="opened", again=True, persist=True)
    assert again.circuit.openings == 2


def test_the_policy_is_taken() -> None:
    policy = BreakerPolicy(requests_min=1, open_ms_min=7, open_ms_max=7)
    health = Health(policy)
    assert observe(health, 500).circuit == "opened"
    assert Health.restored(**health.fields(), policy=policy).circuit.policy is policy
    assert health.circuit.until_ms == NOW + 7


def test_every_field_is_in_the_record() -> None:
    names = {field.name for field in msgspec.structs.fields(EndpointState)}
    assert names == {*Health().fields(), "subscription_id", "url_hash", "changed_ms", "writer"}
