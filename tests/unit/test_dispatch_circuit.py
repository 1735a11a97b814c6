"""Circuits and disabling, in the stage: what is spared, what is written with which attempt, and how all comes back."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from schemas.endpoint import EndpointState, url_hash
from schemas.post import PostResult
from streams.core.breaker import BreakerPolicy
from tests.unit.dispatch_town import FIRST, Post, Town, fresh, id_of, ok, status
from tests.unit.stages import GROUP, TOPICS, subscription
from tests.unit.virtual import START_MS, passing, until, virtual

POLICY = BreakerPolicy(requests_min=4, open_ms_min=5_000, open_ms_max=20_000)
HOUR_MS = 3_600_000
URL_HASH = url_hash(subscription().url)


def down_until(at_s: float) -> Town:
    return Town(lambda post: status(500) if post.at_s < at_s else ok(post))


@virtual
async def test_an_open_circuit_parks_and_everything_parked_is_delivered_once_when_it_closes() -> None:
    town = down_until(3)
    town.table.put(subscription(max_in_flight=2))
    worker = await town.worker([0], circuit=POLICY)
    town.send(*(fresh(number) for number in range(100)))
    await until(town.operations)
    await passing(0.1)
    posted = len(town.posts)
    assert 4 <= posted <= 6
    town.send(*(fresh(number) for number in range(100, 150)))
    await passing(2)
    assert len(town.posts) == posted
    assert town.waiting() == posted  # the failed ones, in their tier
    assert len(town.parked()) == 150 - posted
    await town.done(60)
    assert [operation.kind for operation in town.operations()] == ["circuit.opened", "circuit.closed"]
    assert [state.circuit for state in town.states()] == ["open", "closed"]
    assert town.delivered() == Counter(id_of(number) for number in range(150))
    assert len(town.ever_parked()) <= 150  # retries that came meanwhile are parked too
    assert worker.counters["delivered"] == 150


@virtual
async def test_half_open_lets_one_probe_through_and_a_failed_one_opens_again() -> None:
    town = Town(lambda post: (1.0, PostResult(500, 1)))
    town.table.put(subscription(max_in_flight=8, retry_schedule_ms=(10 * HOUR_MS,)))
    await town.worker([0], circuit=POLICY)
    town.send(*(fresh(number) for number in range(50)))
    await until(town.states)
    await passing(3)  # those that were under way have ended
    before = len(town.posts)
    await passing(56)
    probes = town.posts[before:]
    assert 3 <= len(probes) <= 6
    assert all(later.at_s - earlier.at_s > 5 for earlier, later in pairwise(probes))
    assert [operation.kind for operation in town.operations()] == ["circuit.opened"]  # said once
    assert [state.openings for state in town.states()] == list(range(1, len(town.states()) + 1))


@virtual
async def test_an_endpoint_that_is_back_gets_more_with_each_success() -> None:

    seen: list[int] = []

    def endpoint(post: Post) -> tuple[float, PostResult] | None:
        if post.at_s < 2:
            return status(500)
        now = [one for one in town.posts if one.number not in town.answers]
        seen.append(len(now))
        return 0.1, PostResult(204, 1)

    town = Town(endpoint)
    town.table.put(subscription(max_in_flight=16, retry_schedule_ms=(10 * HOUR_MS,)))
    await town.worker([0], circuit=POLICY)
    town.send(*(fresh(number) for number in range(200)))
    await until(lambda: not town.parked() and town.posts, 60)
    assert seen[0] == 1
    assert all(count <= 1 + number for number, count in enumerate(seen))
    assert max(seen) >= 8


@virtual
async def test_what_changes_is_written_with_the_attempt_that_changed_it() -> None:
    town = Town(lambda post: (0.5 if post.number == 3 else 0.01, PostResult(500, 1)))
    town.table.put(subscription(max_in_flight=1))
    worker = await town.worker([0], circuit=POLICY)
    town.send(*(fresh(number) for number in range(4)))
    await until(lambda: len(town.posts) == 4 and len(town.attempts()) == 3)
    town.kafka.answers.clear()
    await passing(1)
    assert len(town.posts) == 4
    assert (len(town.attempts()), town.states(), town.operations()) == (3, [], [])
    town.kafka.answers.set()
    await until(lambda: len(town.attempts()) == 4)
    assert (len(town.states()), len(town.operations())) == (1, 1)
    assert town.kafka.committed[GROUP, FIRST, 0][0] == 4
    (state,) = town.states()
    assert (state.subscription_id, state.circuit, state.openings, state.url_hash) == ("sub_1", "open", 1, URL_HASH)
    assert state.writer == worker.name


@virtual
async def test_an_open_circuit_survives_a_restart() -> None:
    town = Town()
    town.table.put(subscription())
    town.endpoints.put(
        EndpointState(
            subscription_id="sub_1",
            circuit="open",
            opened_ms=START_MS - 1_000,
            until_ms=START_MS + 8_000,
            openings=2,
            url_hash=URL_HASH,
        )
    )
    await town.worker([0], circuit=POLICY)
    town.send(*(fresh(number) for number in range(10)))
    await passing(7.5)
    assert town.posts == []
    await town.done(20)
    assert town.delivered() == Counter(id_of(number) for number in range(10))


@virtual
async def test_another_url_is_another_endpoint() -> None:
    town = Town(lambda post: status(500) if "sub-1" in post.url else ok(post))
    town.table.put(subscription())
    await town.worker([0], circuit=POLICY)
    town.send(*(fresh(number) for number in range(20)))
    await until(town.states)
    town.table.put(subscription(url="https://moved.example/"))
    await until(lambda: not town.parked(), 2)
    assert len(town.delivered()) >= 10


# --- disabled ---------------------------------------------------------------------------------------------------------


@virtual
async def test_gone_disables_at_once_and_the_owner_brings_it_back() -> None:
    town = Town()
    town.table.put(subscription(state="paused", max_in_flight=1))
    await town.worker([0])
    town.send(*(fresh(number) for number in range(20)))
    await until(lambda: len(town.parked()) == 20)
    town.endpoint = lambda post: status(410)
    town.table.put(subscription(max_in_flight=1))
    await until(town.states)
    town.send(fresh(100))
    await until(lambda: len(town.dead()) == 2)
    assert len(town.posts) == 1
    assert sorted(letter["reason"] for letter in town.dead()) == ["disabled", "gone"]
    assert [operation.kind for operation in town.operations()] == ["endpoint.disabled"]
    assert (town.states()[0].disabled_reason, town.operations()[0].reason) == ("gone", "gone")
    await passing(HOUR_MS / 1_000)
    assert len(town.posts) == 1
    assert len(town.parked()) == 19
    town.endpoint = ok
    town.endpoints.put(EndpointState(subscription_id="sub_1", url_hash=URL_HASH, changed_ms=1))
    await town.done(10)
    assert town.delivered() == Counter(id_of(number) for number in range(1, 20))
    town.send(fresh(101))
    await town.done(10)
    assert town.delivered()[id_of(101)] == 1


@virtual
async def test_nothing_but_failures_for_long_enough_disables() -> None:
    town = Town(lambda post: status(404))
    town.table.put(subscription(disable_after_ms=60_000, retry_schedule_ms=(5_000,) * 50))
    await town.worker([0])
    for number in range(70):
        town.send(fresh(number))
        await passing(1)
    assert [operation.kind for operation in town.operations()] == ["endpoint.disabled"]
    assert town.states()[-1].disabled_reason == "failing"
    assert min(post.at_s for post in town.posts) < 1
    assert 58 < max(post.at_s for post in town.posts) < 63
    await town.done(60)
    assert {letter["reason"] for letter in town.dead()} == {"disabled"}


@virtual
async def test_a_probe_that_fails_may_disable() -> None:
    town = Town(lambda post: status(500))
    town.table.put(subscription(disable_after_ms=20_000, retry_schedule_ms=(5_000,) * 50))
    await town.worker([0], circuit=POLICY)
    town.send(*(fresh(number) for number in range(10)))
    await passing(60)
    assert [operation.kind for operation in town.operations()] == ["circuit.opened", "endpoint.disabled"]


@virtual
async def test_one_success_in_between_and_it_is_not_disabled() -> None:
    town = Town(lambda post: ok(post) if 30 < post.at_s < 31 else status(404))
    town.table.put(subscription(disable_after_ms=60_000, retry_schedule_ms=()))
    await town.worker([0])
    for number in range(80):
        town.send(fresh(number))
        await passing(1)
    assert town.operations() == []
    assert len(town.posts) == 80


@virtual
async def test_disabled_by_another_worker_counts_here_too() -> None:
    town = Town()
    town.table.put(subscription())
    await town.worker([0])
    town.send(fresh(1))
    await until(town.delivered)
    state = EndpointState(
        subscription_id="sub_1", disabled_ms=1, disabled_reason="gone", url_hash=URL_HASH, writer="w9"
    )
    town.endpoints.put(state)
    town.send(fresh(2))
    await town.done(10)
    assert [letter["reason"] for letter in town.dead()] == ["disabled"]
    assert len(town.posts) == 1


@virtual
async def test_what_it_wrote_itself_counts_when_it_was_decided_before_it_heard_of_another() -> None:
    """The log's last record is what every other worker believes: this one must not go on with the one before it."""
    town = Town()
    town.table.put(subscription())
    worker = await town.worker([0])
    town.send(fresh(1))
    await until(town.delivered)
    decided_ms = town.clock.now_ms()
    await passing(1)
    others = EndpointState(
        subscription_id="sub_1", disabled_ms=1, disabled_reason="gone", url_hash=URL_HASH, writer="w9"
    )
    town.endpoints.put(others)
    own = EndpointState(subscription_id="sub_1", url_hash=URL_HASH, changed_ms=decided_ms, writer=worker.name)
    town.endpoints.put(own)
    town.send(fresh(2))
    await until(lambda: len(town.posts) == 2)
    town.endpoints.put(others)
    await passing(1)
    later = EndpointState(
        subscription_id="sub_1", url_hash=URL_HASH, changed_ms=town.clock.now_ms(), writer=worker.name
    )
    town.endpoints.put(later)  # decided after it had heard: it knows better than its record by now
    town.send(fresh(3))
    await town.done(10)
    assert [letter["reason"] for letter in town.dead()] == ["disabled"]


@virtual
async def test_a_probe_that_asks_for_patience_leaves_nothing_behind() -> None:
    """It closes the circuit and the gate in one: what is parked must still be looked at again."""
    town = Town()

    def endpoint(post: Post) -> tuple[float, PostResult] | None:
        if post.at_s < 3:
            return status(500)
        first = not any(number > 0 and result.status == 429 for number, result in town.answers.items())
        return status(429, retry_after="2") if first else ok(post)

    town.endpoint = endpoint
    town.table.put(subscription(max_in_flight=1, retry_schedule_ms=(10 * HOUR_MS,)))
    await town.worker([0], circuit=POLICY)
    town.send(*(fresh(number) for number in range(20)))
    await until(lambda: len(town.parked()) == 16)
    await until(lambda: not town.parked(), 60, "what was parked arrives")
    assert len(town.delivered()) == 15
    assert len(town.kafka.records[TOPICS.parked]) < 60
