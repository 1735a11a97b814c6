"""Ordered subscriptions: what has the same key arrives in order, through failures, crashes and rebalances; nothing is
ever stuck, and no key waits for another."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from schemas.endpoint import EndpointState
from schemas.post import PostResult
from schemas.subscription import Subscription
from streams.core.parked import Order
from tests.unit.dispatch_town import Post, Town, fresh, id_of, ok, status
from tests.unit.stages import TOPICS, subscription
from tests.unit.virtual import passing, until, virtual

REFUSED = PostResult(0, 1, "connect_failed")
SCHEDULE_MS = (1_000, 2_000, 4_000, 4_000, 4_000, 4_000, 4_000, 4_000, 4_000, 4_000, 4_000, 4_000)


def check_order(town: Town, keys: dict[str, str]) -> None:
    """Per key: no delivery is POSTed before the one before it was taken, or has ended; each is taken once."""
    place = {identifier: number for number, identifier in enumerate(keys)}
    taken: defaultdict[str, int] = defaultdict(lambda: -1)  # by key, the last that was taken
    before: defaultdict[str, list[int]] = defaultdict(list)
    for identifier, key in keys.items():
        before[key].append(place[identifier])
    for post in town.posts:
        identifier = post.headers["webhook-id"]
        key, number = keys[identifier], place[identifier]
        earlier = [one for one in before[key] if taken[key] < one < number]
        assert not earlier, f"{identifier} ({number}) of key {key!r} was sent at {post.at_s} before {earlier}"
        answer = town.answers.get(post.number)
        if answer is not None and 200 <= answer.status <= 299:
            taken[key] = max(taken[key], number)


@pytest.mark.parametrize("seed", range(40))
def test_the_order_of_each_key_survives_everything(seed: int) -> None:
    @virtual
    async def run() -> None:
        dice = random.Random(f"order {seed}")
        fails = dice.choice((0.1, 0.3, 0.6))

        def endpoint(post: Post) -> tuple[float, PostResult] | None:
            if dice.random() < fails:
                what = dice.choice((500, 500, 503, 429, 404, 0))
                return status(what, retry_after=dice.choice((None, "1", "3"))) if what else None
            return dice.uniform(0.001, 0.2), PostResult(200, 1_000)

        town = Town(endpoint)
        town.lag_s = lambda topic: dice.choice((0.0, 0.05, dice.uniform(0, 1)))
        fields: dict[str, Any] = {"ordered": True, "max_in_flight": dice.randint(1, 8), "timeout_ms": 3_000}
        town.table.put(subscription(retry_schedule_ms=SCHEDULE_MS * 4, **fields))
        town.table.put(subscription("plain"))
        bounds: dict[str, Any] = {
            "admitted_max": dice.choice((10, 4_000)),
            "relief_after_s": 0.1,
            "read_max": dice.choice((5, 1_000)),
        }
        worker = await town.worker(**bounds)
        keys: dict[str, str] = {}
        for _ in range(dice.randint(5, 20)):
            for _ in range(dice.randint(1, 30)):
                number = len(keys) + 1
                key = dice.choice("abcdefgh"[: dice.choice((1, 3, 8))])
                keys[id_of(number)] = key
                town.send(fresh(number, subject=key))
            town.send(fresh(9_999, "plain"))
            await passing(dice.uniform(0, 3))
            match dice.choice(("nothing", "nothing", "kill", "give up", "lose", "pause", "touch")):
                case "kill":
                    worker.kill()
                    await passing(dice.uniform(0, 2))
                    worker = await town.worker(**bounds)
                case "give up":
                    await worker.give_up([0, 1, 2, 3], dice.choice((0.01, 1, 5)))
                    await passing(dice.uniform(0, 2))
                    worker.assign([0, 1, 2, 3])
                case "lose":
                    worker.lose([0, 1, 2, 3])
                    await passing(dice.uniform(0, 2))
                    worker.assign([0, 1, 2, 3])
                case "pause":
                    town.table.put(subscription(retry_schedule_ms=SCHEDULE_MS * 4, state="paused", **fields))
                    await passing(dice.uniform(0, 5))
                    town.table.put(subscription(retry_schedule_ms=SCHEDULE_MS * 4, **fields))
                case "touch":
                    town.table.put(
                        subscription(retry_schedule_ms=SCHEDULE_MS * 4, description=str(dice.random()), **fields)
                    )
                case _:
                    pass
        fails = 0.0
        await town.done()
        assert set(keys) <= set(town.delivered())
        town.posts = [post for post in town.posts if post.headers["webhook-id"] in keys]
        check_order(town, keys)
        assert all(
            count == 1
            for (event, outcome), count in town.outcomes().items()
            if outcome == "delivered" and event != "evt_9999"
        )

    run()


def ordered(**fields: Any) -> Subscription:
    values: dict[str, Any] = {"ordered": True, "max_in_flight": 4, "retry_schedule_ms": SCHEDULE_MS}
    return subscription(**(values | fields))


def fails(*numbers: int, until_s: float = 1e9) -> Callable[[Post], tuple[float, PostResult] | None]:
    """An endpoint that refuses these deliveries until a time."""
    bodies = {b"%d" % number for number in numbers}

    def endpoint(post: Post) -> tuple[float, PostResult] | None:
        return status(400) if post.body in bodies and post.at_s < until_s else ok(post)

    return endpoint


def taken(town: Town) -> list[int]:
    """The numbers that were taken, in their order."""
    return [int(post.body) for post in town.posts if town.answers.get(post.number, REFUSED).status == 204]


# --- keys do not wait for each other ----------------------------------------------------------------------------------


@virtual
async def test_thousands_behind_a_failing_one_hold_neither_other_keys_nor_their_partition() -> None:
    town = Town(fails(0, until_s=300))
    town.table.put(ordered(retry_schedule_ms=(10_000,) * 50))
    worker = await town.worker([0])
    town.send(fresh(0, subject="a"))
    for start in range(1, 3_001, 100):
        town.send(*(fresh(number, subject="a") for number in range(start, start + 100)))
        town.send(fresh(10_000 + start, subject="b"))
        await passing(0.5)
    await until(lambda: len(taken(town)) == 30, 10, "the other key flows")
    assert town.waiting() == 0
    assert worker.stage._admitted + worker.stage._read == 0
    assert len(worker.stage._dues) <= 2
    assert len(town.parked()) == 3_001
    await town.done(900)
    assert [number for number in taken(town) if number < 10_000] == list(range(3_001))
    assert set(town.delivered().values()) == {1}
    # Each was written to the log once, but for the first: that, once an attempt.
    assert len(town.ever_parked()) <= 3_001 + len(town.posted()[id_of(0)])


@virtual
async def test_more_keys_than_are_read_at_a_time_all_get_their_turn() -> None:
    """All fail at first, so that hundreds of keys wait in the log for the same moment."""
    down = True

    def endpoint(post: Post) -> tuple[float, PostResult] | None:
        return status(400) if down else ok(post)

    town = Town(endpoint)
    town.table.put(ordered(retry_schedule_ms=(60_000, 60_000, 60_000), max_in_flight=2))
    worker = await town.worker([0])
    for number in range(1_500):
        town.send(fresh(number, subject=str(number % 500)))
    await until(lambda: len(town.posts) == 500 and len(town.parked()) == 1_500 and not town.waiting(), 30)
    down = False
    most = 0
    while not town.settled():
        await passing(0.25)
        most = max(most, worker.stage._read)
        assert asyncio.get_running_loop().time() < 200
    assert most <= 400
    assert sorted(taken(town), key=lambda number: number % 500) == [
        key + times * 500 for key in range(500) for times in range(3)
    ]


@virtual
async def test_what_relief_has_put_back_comes_again() -> None:
    """Retries of many keys are in memory when a worker runs out of room, and are put back into the log."""
    slow = False

    def endpoint(post: Post) -> tuple[float, PostResult] | None:
        if not slow:
            return status(400)
        return (2.0, PostResult(204, 1)) if "sub-1" in post.url else None

    town = Town(endpoint)
    town.table.put(ordered(retry_schedule_ms=(5_000,) * 10, max_in_flight=1))
    town.table.put(subscription("full", max_in_flight=1, timeout_ms=60_000))
    worker = await town.worker(admitted_max=20, relief_after_s=0.1)
    town.send(*(fresh(number, subject=str(number)) for number in range(60)))
    await until(lambda: len(town.parked()) == 60, 10)
    slow = True
    await passing(5)
    assert worker.stage._read > 10
    town.send(*(fresh(1_000 + number, "full") for number in range(100)))
    await until(lambda: len(taken(town)) == 60, 300)
    assert worker.counters["parked"] >= 50  # there was relief


# --- rebalances -------------------------------------------------------------------------------------------------------


@virtual
async def test_a_failure_that_ends_while_its_partition_is_given_up_blocks_nothing_when_it_returns() -> None:
    town = Town(lambda post: (1.0, PostResult(400, 1)) if post.at_s < 2 else ok(post))
    town.table.put(ordered())
    first = await town.worker([0])
    town.send(fresh(1, subject="a"))
    await until(lambda: town.posts)
    await first.give_up([0], 5)
    second = await town.worker([0])
    await until(lambda: town.delivered()[id_of(1)] == 1)
    await second.give_up([0], 5)
    await first.publisher.start()
    first.assign([0])
    town.send(fresh(2, subject="a"))
    await until(lambda: town.delivered()[id_of(2)] == 1)


@virtual
async def test_a_post_of_a_lost_epoch_holds_its_key_until_it_ends() -> None:
    town = Town(lambda post: (5.0, PostResult(204, 1)) if post.number == 0 else ok(post))
    town.table.put(ordered())
    worker = await town.worker([0])
    town.send(fresh(1, subject="a"), fresh(2, subject="a"), fresh(3, subject="b"))
    await until(lambda: town.posts)
    worker.lose([0])
    worker.assign([0])
    await until(lambda: town.delivered()[id_of(3)] == 1, 3)
    assert town.delivered()[id_of(2)] == 0
    await town.done(20)
    assert [int(post.body) for post in town.posts if post.body != b"3"] == [1, 1, 2]


@virtual
async def test_a_partition_that_comes_back_before_its_fence_did_is_not_waited_for_for_ever() -> None:
    town = Town()
    town.table.put(ordered())
    first = await town.worker([0])
    town.kafka.answers.clear()
    town.send(fresh(1, subject="a"))
    await passing(0.1)
    first.lose([0])
    town.kafka.answers.set()
    await passing(0.1)
    first.assign([0])
    await town.done(20)
    assert taken(town) == [1]


@virtual
async def test_what_another_worker_has_parked_goes_first() -> None:
    town = Town(fails(1, until_s=30))
    town.table.put(ordered())
    first = await town.worker([0])
    town.send(fresh(1, subject="a"), fresh(2, subject="a"))
    await until(lambda: len(town.parked()) == 2)
    first.kill()
    town.lag_s = lambda topic: 3.0 if topic == TOPICS.parked else 0.0
    await town.worker([0])
    town.send(fresh(3, subject="a"))
    await town.done(100)
    assert taken(town) == [1, 2, 3]


@virtual
async def test_nothing_is_sent_while_any_of_those_given_up_before_it_could_come_back() -> None:
    """Two are given up in two transactions: the first one's being durable does not let the third one go."""
    town = Town()
    town.table.put(ordered())
    await town.worker([0])
    town.send(fresh(0, subject="a"))
    await until(lambda: taken(town) == [0])
    await passing(1)
    town.endpoints.put(EndpointState(subscription_id="sub_1", disabled_ms=1, disabled_reason="gone", writer="w9"))
    town.kafka.answers.clear()
    town.send(fresh(1, subject="a"))
    await passing(0.1)
    town.send(fresh(2, subject="a"))
    await passing(0.1)
    town.endpoints.put(EndpointState(subscription_id="sub_1", writer=""))
    town.send(fresh(3, subject="a"))
    dead_by_then: list[int] = []

    def endpoint(post: Post) -> tuple[float, PostResult]:
        dead_by_then.append(len(town.dead()))
        return ok(post)

    town.endpoint = endpoint
    await passing(0.1)
    assert not dead_by_then
    town.kafka.answers.set()
    await town.done(10)
    assert taken(town) == [0, 3]
    assert dead_by_then == [2]


# --- what is not in the log as it should be ---------------------------------------------------------------------------


@virtual
async def test_a_record_that_cannot_be_decoded_holds_back_nothing_of_its_key() -> None:
    town = Town(fails(1, until_s=3))
    town.table.put(ordered())
    order = Order("a", 0).header()
    town.write(TOPICS.parked, b"sub_1", b"not a delivery", [order])
    town.write(TOPICS.parked, b"sub_1", fresh(7, "sub_2"), [Order("a", 1).header()])
    await town.worker([0])
    town.send(*(fresh(number, subject="a") for number in (1, 2, 3)))
    await town.done(60)
    assert taken(town) == [1, 2, 3]
    assert len(town.kafka.records[TOPICS.quarantine]) == 2


@virtual
async def test_ordered_records_lost_to_retention_are_counted_and_hold_back_nothing() -> None:
    town = Town()
    town.table.put(ordered(state="paused"))
    worker = await town.worker([0])
    town.send(*(fresh(number, subject="a") for number in (1, 2, 3)))
    await until(lambda: len(town.parked()) == 3)
    town.kafka.remove(TOPICS.parked, 0, max(stored.offset for stored in town.parked()))
    town.table.put(ordered())
    await until(lambda: taken(town) == [3], 60)
    await until(lambda: not town.parked())
    assert worker.counters["parked_missing"] == 2
    lot = worker.stage._parking.intake(0)
    assert lot is not None
    assert lot.log is not None
    assert lot.log.lots == {}


# --- changes of the subscription --------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (None, "cancelled"),
        ({"url": "http://1.2.3/"}, "rejected"),
        ({"ordered": False}, "delivered"),
        ({"url": "https://moved.example/"}, "delivered"),
    ],
)
def test_what_is_parked_in_order_heeds_what_became_of_its_subscription(
    restart: bool, change: dict[str, Any] | None, outcome: str
) -> None:
    @virtual
    async def run() -> None:
        town = Town(lambda post: status(400) if "sub-1" in post.url and post.at_s < 30 else ok(post))
        town.table.put(ordered(retry_schedule_ms=(20_000,) * 5))
        worker = await town.worker([0])
        town.send(*(fresh(number, subject="ab"[number % 2]) for number in range(600)))
        await until(lambda: len(town.parked()) == 600 and not town.waiting())
        if restart:
            worker.kill()
        if change is None:
            town.table.delete("sub_1")
        else:
            town.table.put(ordered(retry_schedule_ms=(20_000,) * 5, **change))
        if restart:
            await town.worker([0])
        await town.done(120)
        ends = Counter(what for _, what in town.outcomes().elements() if what != "retryable")
        assert ends == {outcome: 600}

    run()


@virtual
async def test_a_subscription_that_was_deleted_and_made_again_leaves_nothing_behind() -> None:
    town = Town(lambda post: status(400) if post.at_s < 30 else ok(post))
    town.table.put(ordered(retry_schedule_ms=(20_000,) * 5))
    worker = await town.worker([0])
    town.send(*(fresh(number, subject="ab"[number % 2]) for number in range(1_000)))
    await until(lambda: len(town.parked()) == 1_000 and not town.waiting())
    town.table.delete("sub_1")
    town.table.put(ordered(retry_schedule_ms=(20_000,) * 5))
    town.send(*(fresh(number, subject="ab"[number % 2]) for number in range(1_000, 1_010)))
    await town.done(200)
    assert len(set(town.outcomes()) - {("evt_0", "retryable"), ("evt_1", "retryable")}) >= 1_010
    assert {count for (_, outcome), count in town.outcomes().items() if outcome == "delivered"} <= {1}
    assert all(lane.keys == {} for lane in worker.stage._lanes.values())


@virtual
async def test_an_answer_that_comes_after_its_subscription_was_deleted_brings_nothing_back() -> None:
    """More keys are due than are read at a time, so that some wait for their turn to be read."""
    town = Town(lambda post: status(400) if post.at_s < 10 else (3.0, PostResult(204, 1)))
    town.table.put(ordered(retry_schedule_ms=(20_000,), max_in_flight=1))
    worker = await town.worker([0])
    town.send(*(fresh(number, subject=str(number)) for number in range(600)))
    await until(lambda: len(town.parked()) == 600 and not town.waiting())
    await until(lambda: worker.stage.in_flight, 60)
    town.table.delete("sub_1")
    await town.done(60)
    assert set(town.outcomes().values()) == {1}


@virtual
async def test_ordered_deliveries_parked_for_too_long_are_given_up_and_the_others_are_not() -> None:
    town = Town()
    town.table.put(ordered(state="paused"))
    worker = await town.worker([0])
    town.send(*(fresh(number, subject=str(number % 3)) for number in range(600)))
    await until(lambda: len(town.parked()) == 600)
    await passing(7 * 24 * 3600)
    town.send(*(fresh(number, subject=str(number % 3)) for number in range(600, 605)))
    await passing(7 * 24 * 3600 + 300)
    assert worker.counters["dead:expired"] == 600
    assert len(town.parked()) == 5
    town.table.put(ordered())
    await town.done(60)
    assert sorted(taken(town)) == [600, 601, 602, 603, 604]
