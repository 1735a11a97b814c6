"""Limits in the stage: gates, rates, places, shares, weights and the byte budget."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from email.utils import formatdate
from itertools import pairwise
from statistics import median
from typing import Any

import msgspec
import pytest

from schemas.post import PostResult
from streams.core.breaker import NEVER, BreakerPolicy
from tests.unit.dispatch_town import Post, Town, fresh, id_of, ok, status
from tests.unit.stages import subscription
from tests.unit.virtual import START_MS, passing, until, virtual

NO_CIRCUIT = BreakerPolicy(requests_min=NEVER)
LATER_MS = (3_600_000,) * 5


def first_is(answer: tuple[float, PostResult]) -> Town:
    return Town(lambda post: answer if post.number == 0 else ok(post))


# --- gates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "retry_after", "closed_s"),
    [
        (429, "30", 30),
        (503, "30", 30),
        (502, "7", 7),
        (504, "7", 7),
        (429, formatdate(START_MS / 1_000 + 20, usegmt=True), 20),
        (429, None, 1),
        (429, "soon", 1),
        (429, "2", 2),
    ],
)
def test_an_answer_that_asks_for_patience_closes_the_whole_lane(
    code: int, retry_after: str | None, closed_s: float
) -> None:
    @virtual
    async def run() -> None:
        town = first_is(status(code, retry_after=retry_after))
        town.table.put(subscription(max_in_flight=1, retry_schedule_ms=LATER_MS))
        town.table.put(subscription("other"))
        await town.worker([0], circuit=NO_CIRCUIT)
        town.send(*(fresh(number) for number in range(5)))
        await passing(0.2)
        town.send(fresh(5), fresh(1, "other"))
        await until(lambda: len(set(town.delivered()) - {id_of(1, "other")}) == 5, 60)
        mine = [post for post in town.posts if "sub-1" in post.url]
        assert closed_s - 0.1 <= mine[1].at_s <= closed_s + 1
        (other,) = (post for post in town.posts if "other" in post.url)
        assert other.at_s < 0.5

    run()


@virtual
async def test_patience_that_is_asked_for_again_grows() -> None:
    town = Town(lambda post: status(429))
    town.table.put(subscription(max_in_flight=1, retry_schedule_ms=LATER_MS))
    await town.worker([0])
    town.send(*(fresh(number) for number in range(10)))
    await passing(100)
    waits = [later.at_s - earlier.at_s for earlier, later in pairwise(town.posts)]
    assert [round(wait) for wait in waits[:5]] == [1, 2, 5, 15, 30]


@virtual
async def test_a_503_without_a_time_closes_nothing() -> None:
    town = first_is(status(503))
    town.table.put(subscription(max_in_flight=1, retry_schedule_ms=LATER_MS))
    await town.worker([0])
    town.send(fresh(0), fresh(1))
    await until(lambda: town.delivered()[id_of(1)] == 1, 1)


@virtual
async def test_a_gate_that_a_change_of_the_subscription_opened_does_not_hold_its_rate() -> None:
    """Nor does its timer, which would be an hour's."""
    town = first_is(status(429, retry_after="3600"))
    town.table.put(subscription(max_in_flight=1, retry_schedule_ms=LATER_MS))
    await town.worker([0])
    town.send(fresh(0))
    await until(lambda: 0 in town.answers)
    town.table.put(subscription(max_in_flight=1, retry_schedule_ms=LATER_MS, rate_limit=1.0))
    town.send(*(fresh(number) for number in range(1, 6)))
    await until(lambda: len(town.delivered()) == 5, 10)


@pytest.mark.parametrize("fields", [{}, {"ordered": True}, {"batch_max": 5}, {"adaptive_in_flight": True}], ids=str)
@pytest.mark.parametrize("after_s", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize(("code", "retry_after", "closed_s"), [(429, None, 1), (429, "1", 1), (503, "2", 2)])
def test_a_gate_that_closed_while_its_lane_was_empty_opens_by_itself(
    code: int, retry_after: str | None, closed_s: float, after_s: float, fields: dict[str, Any]
) -> None:
    """Nothing else happens in the worker that could wake anybody."""

    @virtual
    async def run() -> None:
        town = first_is(status(code, retry_after=retry_after))
        town.table.put(subscription(retry_schedule_ms=LATER_MS, **fields))
        await town.worker([0], circuit=NO_CIRCUIT)
        town.send(fresh(0, subject="a"))
        await until(lambda: 0 in town.answers)
        await passing(closed_s * after_s)
        town.send(fresh(1, subject="b"))
        await until(lambda: 1 in town.answers, 5)
        assert closed_s <= town.posts[1].at_s <= closed_s + 0.1

    run()


@virtual
async def test_nothing_that_had_its_turn_already_slips_through_a_gate() -> None:
    """Two answers in one turn of the loop: what the first one made room for has not left when the second closes."""
    town = Town(lambda post: None if post.number < 2 else ok(post))
    town.table.put(subscription(max_in_flight=2, retry_schedule_ms=LATER_MS))
    worker = await town.worker([0], circuit=NO_CIRCUIT)
    town.send(*(fresh(number) for number in range(6)))
    await until(lambda: len(town.posts) == 2)
    closed_s = asyncio.get_running_loop().time()
    worker.sender.answer(0, PostResult(204, 1))
    worker.sender.answer(1, PostResult(429, 1))
    await until(lambda: len(town.delivered()) == 5, 10)
    assert closed_s + 1 <= town.posts[2].at_s <= closed_s + 1.1


# --- rates ------------------------------------------------------------------------------------------------------------


def rate(posts: list[Post]) -> float:
    return (len(posts) - 1) / (posts[-1].at_s - posts[0].at_s)


@pytest.mark.parametrize("parked", [False, True])
def test_a_rate_limit_is_kept_and_used(parked: bool) -> None:
    @virtual
    async def run() -> None:
        town = Town()
        town.table.put(subscription(rate_limit=20.0, state="paused" if parked else "active"))
        town.table.put(subscription("other"))
        await town.worker([0])
        town.send(*(fresh(number) for number in range(200)), fresh(1, "other"))
        if parked:
            await until(lambda: len(town.parked()) == 200)
            town.table.put(subscription(rate_limit=20.0))
        await town.done(30)
        mine = [post for post in town.posts if "sub-1" in post.url]
        assert 17 <= rate(mine) <= 20.5
        assert next(post for post in town.posts if "other" in post.url).at_s < 0.5

    run()


@virtual
async def test_the_rate_that_an_endpoint_asks_for_is_kept() -> None:
    town = Town(lambda post: (0.01, PostResult(204, 1, allowed_rate="300")))
    town.table.put(subscription())
    await town.worker([0])
    town.send(*(fresh(number) for number in range(60)))
    await town.done(60)
    assert 4 <= rate(town.posts[10:]) <= 5.2


@virtual
async def test_an_origin_has_one_rate_for_all_its_endpoints() -> None:
    town = Town()
    for name in "abc":
        town.table.put(subscription(name, url=f"https://one.example/{name}"))
    town.table.put(subscription("d", url="https://one.example:8443/"))
    await town.worker([0], origin_rate_max=10.0)
    town.send(*(fresh(number, name) for number in range(30) for name in "abc"), *(fresh(n, "d") for n in range(30)))
    await town.done(60)
    one = [post for post in town.posts if "8443" not in post.url]
    assert 9 <= rate(one) <= 10.5
    assert set(Counter(post.url for post in one).values()) == {30}
    assert max(post.at_s for post in town.posts if "8443" in post.url) < 4


@virtual
async def test_endpoints_of_one_origin_have_equal_shares_of_its_rate() -> None:
    """However fast they answer, and however large their bodies are."""
    answer_s = {"a": 0.01, "b": 0.02, "c": 0.05, "d": 0.1, "e": 0.15}
    town = Town(lambda post: (answer_s[post.url[-1]], PostResult(204, 1)))
    for name in answer_s:
        town.table.put(subscription(name, url=f"https://one.example/{name}"))
    await town.worker([0], origin_rate_max=10.3)
    for number in range(60):
        town.send(*(fresh(number, name, body=b"x" * (5_000 if name == "e" else 10)) for name in answer_s))
    await passing(20)
    counts = Counter(post.url for post in town.posts)
    assert len(counts) == 5
    assert max(counts.values()) <= 1.2 * min(counts.values())
    assert 9.5 <= rate(town.posts) <= 10.8


@virtual
async def test_a_short_queue_does_not_wait_for_a_long_one_of_its_origin() -> None:
    town = Town()
    for name in ("long", "short"):
        town.table.put(subscription(name, url=f"https://one.example/{name}", max_in_flight=100))
    await town.worker([0], origin_rate_max=10.0)
    town.send(*(fresh(number, "long") for number in range(200)))
    await passing(5)
    town.send(*(fresh(number, "short") for number in range(10)))
    await passing(2.2)
    assert sum("short" in post.url for post in town.posts) == 10, "every second one"
    await passing(5)
    assert 9 <= rate(town.posts) <= 10.5


@virtual
async def test_tokens_that_were_booked_and_not_used_are_not_saved_up() -> None:
    """Many gates that close while each lane has booked one."""
    town = Town(lambda post: status(429, retry_after="20") if post.at_s < 1 else ok(post))
    names = [f"s{number}" for number in range(30)]
    for name in names:
        town.table.put(subscription(name, url=f"https://one.example/{name}", max_in_flight=1))
    await town.worker([0], origin_rate_max=30.0, circuit=NO_CIRCUIT)
    town.send(*(fresh(number, name) for number in range(3) for name in names))
    await town.done(120)
    times = [post.at_s for post in town.posts]
    assert max(sum(start <= at < start + 1 for at in times) for start in times) <= 2 * 30 + 3


# --- places -----------------------------------------------------------------------------------------------------------


@virtual
async def test_an_adaptive_limit_comes_to_rest_where_the_endpoint_is_busy() -> None:
    under_way = 0
    dice = random.Random("adaptive")

    def endpoint(post: Post) -> tuple[float, PostResult] | None:
        nonlocal under_way
        under_way = sum(one.number not in town.answers for one in town.posts[-200:])
        seconds = 0.05 * max(1.0, under_way / 8) * dice.uniform(0.9, 1.1)  # it serves eight at a time
        return seconds, PostResult(204, int(seconds * 1e6))

    town = Town(endpoint)
    town.table.put(subscription(max_in_flight=100, adaptive_in_flight=True))
    worker = await town.worker([0])
    town.send(*(fresh(number) for number in range(4_000)))
    limits: list[int] = []
    while not town.settled():
        await passing(0.1)
        limits.append(worker.stage._lanes["sub_1"].limit)
        assert asyncio.get_running_loop().time() < 120
    assert 4 <= median(limits) <= 24
    assert max(limits) < 60


@virtual
async def test_retries_leave_places_to_first_attempts() -> None:
    """A storm of retries of an endpoint that has become slow."""
    town = Town(lambda post: status(500) if post.at_s < 1 else (1.0, PostResult(204, 1)))
    town.table.put(subscription(max_in_flight=8))
    await town.worker([0], circuit=NO_CIRCUIT)
    town.send(*(fresh(number) for number in range(200)))
    await passing(6)
    town.send(*(fresh(number) for number in range(1_000, 1_010)))
    await until(lambda: sum(id_of(number) in town.delivered() for number in range(1_000, 1_010)) == 10, 10)
    assert len(town.delivered()) < 150


@virtual
async def test_tenants_share_a_busy_worker_by_weight() -> None:
    town = Town(lambda post: (0.05, PostResult(204, 1)))
    for tenant in ("acme", "other"):
        for number in range(4):
            town.table.put(subscription(f"{tenant}{number}", tenant=tenant, max_in_flight=50))
    await town.worker([0], in_flight_max=8, tenant_weights={"acme": 3.0})
    for number in range(150):
        town.send(*(fresh(number, f"{tenant}{n}", tenant=tenant) for n in range(4) for tenant in ("acme", "other")))
    await until(lambda: len(town.posts) >= 600, 60)
    counts = Counter("acme" if "acme" in post.url else "other" for post in town.posts[100:600])
    assert 2.3 <= counts["acme"] / counts["other"] <= 3.7


@virtual
async def test_a_worker_whose_last_places_are_kept_waits_for_them_without_being_busy() -> None:
    town = Town(lambda post: None)
    town.table.put(subscription(max_in_flight=50))
    worker = await town.worker([0], in_flight_max=16, circuit=NO_CIRCUIT)
    for number in range(40):
        town.send(fresh(number))
        await passing(0.002 * (number % 2))
    await passing(5)
    assert worker.stage.in_flight == 14
    worker.sender.answer(0, PostResult(204, 1))
    worker.sender.answer(1, PostResult(204, 1))
    town.send(fresh(50))  # it is admitted, and starts what may start, before those who wait have had their turn
    await passing(5)
    assert worker.stage.in_flight == 14


@virtual
async def test_a_budget_of_bytes_bounds_what_is_in_memory() -> None:
    town = Town(lambda post: (0.05, PostResult(204, 1)))
    for name in ("a", "b"):
        town.table.put(subscription(name, max_in_flight=2))
    worker = await town.worker([0], admitted_bytes_max=1_000_000, relief_after_s=60.0)
    body = b"x" * 100_000
    town.send(*(fresh(number, "ab"[number % 2], body=body) for number in range(100)))
    most = 0
    while not town.settled():
        most = max(most, worker.stage._admitted_bytes)
        await passing(0.01)
        assert asyncio.get_running_loop().time() < 60
    assert 500_000 < most <= 1_100_000


@virtual
async def test_what_a_hanging_lane_holds_is_parked_while_others_go_on() -> None:
    town = Town(lambda post: None if "hangs" in post.url and post.at_s < 40 else ok(post))
    town.table.put(subscription("hangs", max_in_flight=4, timeout_ms=10_000))
    town.table.put(subscription("well"))
    await town.worker([0], admitted_max=100, circuit=NO_CIRCUIT)
    town.send(*(fresh(number, "hangs") for number in range(500)))
    town.send(*(fresh(number, "well") for number in range(100)))
    await until(lambda: sum(id_of(number, "well") in town.delivered() for number in range(100)) == 100, 5)
    assert len(town.ever_parked()) >= 300
    await town.done(200)
    assert town.delivered() == Counter(
        [id_of(number, "hangs") for number in range(500)] + [id_of(number, "well") for number in range(100)]
    )


@virtual
async def test_large_bodies_that_hang_leave_bytes_to_the_others() -> None:
    """Several endpoints, each of which alone could take all of the budget with what is under way."""
    town = Town(lambda post: None if "hangs" in post.url and post.at_s < 12 else ok(post))
    for name in ("hangs1", "hangs2", "hangs3"):
        town.table.put(subscription(name, max_in_flight=100, timeout_ms=15_000))
    town.table.put(subscription("well"))
    town.table.put(subscription("large"))
    worker = await town.worker([0], admitted_bytes_max=2_000_000, circuit=NO_CIRCUIT)
    body = b"x" * 100_000
    town.send(*(fresh(number, f"hangs{1 + number % 3}", body=body) for number in range(200)))
    await passing(2)
    sent_s = {}
    for number in range(50):
        sent_s[id_of(number, "well")] = sent_s[id_of(number, "large")] = asyncio.get_running_loop().time()
        town.send(fresh(number, "well"), fresh(number, "large", body=body), fresh(1_000 + number, "hangs1", body=body))
        await passing(0.2)
        assert worker.stage._admitted_bytes + worker.stage._read_bytes <= 4_200_000
    await passing(2)
    waits = [post.at_s - sent_s[post.headers["webhook-id"]] for post in town.posts if "hangs" not in post.url]
    assert len(waits) == 100
    assert max(waits) < 0.5
    await town.done(100)
    assert len(town.delivered()) == 350


@virtual
async def test_parked_large_bodies_of_one_endpoint_leave_bytes_to_those_of_another() -> None:
    town = Town(lambda post: None if "hangs" in post.url and post.at_s < 20 else ok(post))
    paused = {name: subscription(name, max_in_flight=100, timeout_ms=30_000) for name in ("hangs1", "hangs2", "well")}
    for one in paused.values():
        town.table.put(msgspec.structs.replace(one, state="paused"))
    await town.worker([0], admitted_bytes_max=2_000_000, circuit=NO_CIRCUIT)
    body = b"x" * 100_000
    town.send(*(fresh(number, name, body=body) for number in range(40) for name in paused))
    await until(lambda: len(town.parked()) == 120)
    for one in paused.values():
        town.table.put(one)
        await passing(1)
    await until(lambda: len(town.delivered()) == 40, 10)
    assert all("well" in post.url for post in town.posts if post.number in town.answers)


@virtual
async def test_a_body_larger_than_any_share_goes_alone() -> None:
    under_way: list[int] = []

    def endpoint(post: Post) -> tuple[float, PostResult]:
        under_way.append(sum(one.number not in town.answers for one in town.posts if len(one.body) > 1_000))
        return 0.1, PostResult(204, 1)

    town = Town(endpoint)
    for name in ("a", "b"):
        town.table.put(subscription(name))
    await town.worker([0], admitted_bytes_max=2_000_000)
    town.send(*(fresh(number, name, body=b"x" * 1_500_000) for number in range(5) for name in "ab"))
    await town.done(20)
    assert len(town.delivered()) == 10
    assert set(under_way) == {1}


@virtual
async def test_endpoints_with_many_places_that_hang_leave_room_to_the_others() -> None:
    """What waits for them is bounded together, not only for each."""
    town = Town(lambda post: None if "hangs" in post.url else ok(post))
    names = [f"hangs{number}" for number in range(5)]
    for name in names:
        town.table.put(subscription(name, max_in_flight=100, timeout_ms=30_000))
    town.table.put(subscription("well"))
    await town.worker([0], admitted_max=200, in_flight_max=50, circuit=NO_CIRCUIT)
    town.send(*(fresh(number, name) for number in range(200) for name in names))
    await passing(2)
    town.send(*(fresh(number, "well") for number in range(300)))
    await until(lambda: len(town.delivered()) == 300, 3)
