"""What is parked: when, for how long, and how it comes back; each once, whatever happens to the worker meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial

from schemas.endpoint import EndpointState, url_hash
from schemas.post import PostResult
from schemas.subscription import Subscription
from tests.unit.dispatch_town import Town, fresh, id_of, ok
from tests.unit.stages import TOPICS, subscription, why_quarantined
from tests.unit.virtual import passing, until, virtual

DAY_S = 24 * 3600.0


def paused() -> Subscription:
    return subscription(state="paused")


# --- paused, resumed, deleted, expired --------------------------------------------------------------------------------


@virtual
async def test_what_is_parked_while_paused_arrives_once_and_was_written_once() -> None:
    town = Town()
    town.table.put(paused())
    await town.worker([0])
    town.send(*(fresh(number) for number in range(2_000)))
    await until(lambda: len(town.parked()) == 2_000)
    assert town.posts == []
    assert town.waiting() == 0
    await passing(3_600)
    assert len(town.ever_parked()) == 2_000
    town.table.put(subscription())
    await town.done(60)
    assert town.delivered() == Counter(id_of(number) for number in range(2_000))
    assert len(town.ever_parked()) == 2_000


@virtual
async def test_deleting_a_subscription_cancels_what_is_parked_for_it() -> None:
    town = Town()
    town.table.put(paused())
    town.table.put(subscription("sub_2", state="paused"))
    await town.worker([0])
    town.send(*(fresh(number) for number in range(1_500)), fresh(1, "sub_2"))
    await until(lambda: len(town.parked()) == 1_501)
    town.table.delete("sub_1")
    await until(lambda: len(town.parked()) == 1, 60)
    assert Counter(outcome for _, outcome in town.outcomes().elements()) == {"cancelled": 1_500}
    assert town.posts == []


@virtual
async def test_what_was_one_tenant_s_is_never_sent_to_another_that_takes_its_id_over() -> None:
    await taken_over(ordered=False)


@virtual
async def test_nor_is_what_was_ordered() -> None:
    await taken_over(ordered=True)


async def taken_over(*, ordered: bool) -> None:
    town = Town()
    town.table.put(subscription(state="paused", ordered=ordered))
    await town.worker([0])
    town.send(*(fresh(number, subject="o/1") for number in range(20)))
    await until(lambda: len(town.parked()) == 20)
    town.table.delete("sub_1")
    town.table.put(subscription(tenant="other", ordered=ordered))
    town.send(*(fresh(number, subject="o/1") for number in range(20, 30)))
    await until(lambda: sum(town.outcomes().values()) == 30, 60)
    assert town.posts == []
    assert {outcome for _, outcome in town.outcomes()} == {"cancelled"}
    assert town.parked() == []


@virtual
async def test_parked_for_more_than_14_days_is_given_up_and_nothing_else_is() -> None:
    town = Town()
    town.table.put(paused())
    await town.worker([0])
    town.send(*(fresh(number) for number in range(10)))
    await passing(7 * DAY_S)
    town.send(*(fresh(number) for number in range(10, 20)))
    await passing(7 * DAY_S - 120)
    assert town.dead() == []
    await passing(240)
    assert sorted(letter["delivery"]["event_id"] for letter in town.dead()) == [f"evt_{n}" for n in range(10)]
    assert {letter["reason"] for letter in town.dead()} == {"expired"}
    assert len(town.parked()) == 10
    town.table.put(subscription())
    await town.done(60)
    assert sorted(town.delivered()) == sorted(id_of(number) for number in range(10, 20))


@virtual
async def test_what_was_read_and_put_back_expires_in_its_time_too() -> None:
    """A probe takes it and it is put back; what comes days later must not make it look young."""
    town = Town()
    town.table.put(paused())
    await town.worker([0])
    town.send(fresh(1))
    await until(lambda: len(town.parked()) == 1)
    hang = asyncio.Event()
    town.endpoint = lambda post: None if not hang.is_set() else ok(post)
    town.table.put(subscription(max_in_flight=1, timeout_ms=1_000))
    town.table.put(paused())
    await passing(3 * DAY_S)
    town.send(fresh(2))
    await passing(11 * DAY_S + 300)
    ended = {letter["delivery"]["event_id"] for letter in town.dead()} | {post.body for post in town.posts}
    assert "evt_1" in ended or b"1" in ended
    assert "evt_2" not in ended


# --- the worker -------------------------------------------------------------------------------------------------------


@virtual
async def test_a_worker_killed_while_it_drains_the_log_loses_nothing_and_settles_nothing_twice() -> None:
    town = Town()
    town.table.put(paused())
    town.table.put(subscription("never", state="paused"))  # holds the position where it is
    worker = await town.worker([0])
    town.send(fresh(0, "never"), *(fresh(number) for number in range(1_000)))
    await until(lambda: len(town.parked()) == 1_001)
    town.table.put(subscription())
    for goal in (200, 500, 800):
        await until(partial(lambda least: len(town.delivered()) >= least, goal), 60)
        settled = {event for event, outcome in town.outcomes() if outcome == "delivered"}
        before = len(town.posts)
        worker.kill()
        worker = await town.worker([0])
        await passing(0.2)
        again = {f"evt_{int(post.body)}" for post in town.posts[before:]}
        assert again.isdisjoint(settled), "what was settled before the kill was sent again"
    await until(lambda: len(town.parked()) == 1, 60)
    assert town.outcomes() == {(f"evt_{number}", "delivered"): 1 for number in range(1_000)}
    town.table.put(subscription("never"))
    await town.done(60)


@virtual
async def test_a_partition_given_up_while_it_drains_goes_on_with_the_next_worker() -> None:
    town = Town(lambda post: (0.5, PostResult(204, 1)))
    town.table.put(paused())
    first = await town.worker([0])
    town.send(*(fresh(number) for number in range(200)))
    await until(lambda: len(town.parked()) == 200)
    town.table.put(subscription(max_in_flight=20))
    await until(lambda: len(town.delivered()) >= 40)
    await first.give_up([0], 5)
    posts = len(town.posts)
    await passing(5)
    assert len(town.posts) == posts
    await town.worker([0])
    await town.done(60)
    assert town.delivered() == Counter(id_of(number) for number in range(200))
    assert town.outcomes() == {(f"evt_{number}", "delivered"): 1 for number in range(200)}


@virtual
async def test_a_lost_partition_writes_nothing_of_its_epoch_and_the_next_one_gets_all() -> None:
    town = Town(lambda post: (2.0, PostResult(204, 1)))
    town.table.put(paused())
    worker = await town.worker([0])
    town.send(*(fresh(number) for number in range(50)))
    await until(lambda: len(town.parked()) == 50)
    town.table.put(subscription(max_in_flight=10))
    await until(lambda: len(town.posts) == 8)
    worker.lose([0])
    await passing(10)
    assert town.attempts() == []
    assert len(town.parked()) == 50
    worker.assign([0])
    await town.done(120)
    assert town.outcomes() == {(f"evt_{number}", "delivered"): 1 for number in range(50)}


@virtual
async def test_a_frame_of_a_lost_epoch_that_waits_for_room_is_not_waited_for() -> None:
    """Its stream carries the frames of all partitions."""
    town = Town(lambda post: None)
    town.table.put(subscription(max_in_flight=1, rate_limit=0.5, timeout_ms=1_000))
    worker = await town.worker([0], admitted_max=2, relief_after_s=0.1)
    town.send(*(fresh(number) for number in range(30)))
    await passing(0.05)
    waiting = [task for task in worker.tasks if not task.done()]
    worker.lose([0])
    await passing(10)
    consumers = [task for task in waiting if task is not worker.tasks[0]]
    assert all(task.done() for task in consumers)
    town.endpoint = ok
    worker.assign([0])
    await town.done(300)


# --- foreign records --------------------------------------------------------------------------------------------------


@virtual
async def test_foreign_records_in_the_log_are_quarantined_once_and_stop_nobody() -> None:
    town = Town()
    town.table.put(paused())
    for key, value in ((None, b"x"), (b"\xff\xfe", b"x"), (b"sub_1", b"x"), (b"sub_1", fresh(7, "sub_2"))):
        town.write(TOPICS.parked, key, value)
    town.write(TOPICS.parked, b"sub_1", None)
    town.write(TOPICS.parked, b"\xff", None, [("distributary-finished", b"0"), ("distributary-floor", b"x")])
    town.write(TOPICS.parked, None, None, [("distributary-fence", b"\xff")])
    worker = await town.worker([0])
    town.send(fresh(1))
    await until(lambda: len(town.parked()) >= 1)
    town.table.put(subscription())
    await town.done(30)
    assert town.delivered() == {id_of(1): 1}
    reasons = Counter(why_quarantined(stored)[0] for stored in town.kafka.records[TOPICS.quarantine])
    assert reasons == {"wrong_magic": 3, "key_mismatch": 1} or sum(reasons.values()) == 4
    worker.kill()
    await town.worker([0])
    town.send(fresh(2))
    await town.done(30)
    assert len(town.kafka.records[TOPICS.quarantine]) == 4


# --- shares -----------------------------------------------------------------------------------------------------------


@virtual
async def test_parked_deliveries_get_their_share_while_first_attempts_keep_coming() -> None:
    """And first attempts get theirs while a backlog is drained."""
    town = Town(lambda post: (0.1, PostResult(204, 1)))
    town.table.put(subscription(state="paused", max_in_flight=4))
    await town.worker([0])
    town.send(*(fresh(number) for number in range(400)))
    await until(lambda: len(town.parked()) == 400)
    town.table.put(subscription(max_in_flight=4))
    sent = 1_000
    for _ in range(20):  # 60 a second, of the 40 that the endpoint serves
        town.send(*(fresh(number) for number in range(sent, sent + 30)))
        sent += 30
        await passing(0.5)
    numbers = [int(post.body) for post in town.posts]
    parked, first = sum(number < 400 for number in numbers), sum(number >= 1_000 for number in numbers)
    assert parked >= 80
    assert first >= 80


@virtual
async def test_slow_endpoints_do_not_take_all_the_room_for_what_is_read() -> None:
    town = Town(lambda post: (20.0, PostResult(204, 1)) if "slow" in post.url else ok(post))
    names = [f"slow{n}" for n in range(6)]
    for name in [*names, "well"]:
        town.table.put(subscription(name, state="paused", max_in_flight=200, timeout_ms=60_000))
    await town.worker([0])
    for name in names:
        for start in range(0, 600, 100):
            town.send(*(fresh(number, name) for number in range(start, start + 100)))
    town.send(*(fresh(number, "well") for number in range(300)))
    await until(lambda: len(town.parked()) == 3_900)
    for name in names:
        town.table.put(subscription(name, max_in_flight=200, timeout_ms=60_000))
    await passing(1)
    town.table.put(subscription("well", max_in_flight=200))
    await until(lambda: sum(id_of(n, "well") in town.delivered() for n in range(300)) == 300, 15)


# --- health that could not be written ---------------------------------------------------------------------------------


@virtual
async def test_an_endpoint_disabled_in_an_epoch_that_was_lost_is_not_disabled() -> None:
    town = Town(lambda post: (1.0, PostResult(410, 1)) if post.number == 0 else ok(post))
    town.table.put(subscription())
    worker = await town.worker([0])
    town.send(fresh(1))
    await until(lambda: town.posts)
    worker.lose([0])
    await passing(3)
    worker.assign([0])
    town.send(fresh(2))
    await town.done(30)
    assert town.states() == []
    assert sorted(town.delivered()) == sorted((id_of(1), id_of(2)))


@virtual
async def test_a_state_of_another_url_is_void() -> None:
    town = Town()
    state = EndpointState(
        subscription_id="sub_1", disabled_ms=1, disabled_reason="gone", url_hash=url_hash("https://x/")
    )
    town.endpoints.put(state)
    town.table.put(subscription())
    await town.worker([0])
    town.send(fresh(1))
    await town.done(10)
    assert town.delivered() == {id_of(1): 1}
