"""Whoever waits is woken: by the one event that ends his waiting, though nothing else happens in the worker."""

from __future__ import annotations

import msgspec
import pytest

from schemas import codec
from schemas.delivery import Wire, decode_delivery, encode_delivery
from schemas.post import PostResult
from schemas.subscription import Subscription
from streams.core.breaker import BreakerPolicy
from streams.core.parked import Order
from tests.unit.dispatch_town import SCHEMAS, Post, Town, fresh, id_of, ok, status
from tests.unit.stages import TOPICS, subscription
from tests.unit.virtual import passing, until, virtual

A, B = subscription("a"), subscription("b")
ORDERED = subscription("a", ordered=True)


@virtual
async def test_the_next_of_its_key_goes_when_a_dead_letter_is_durable() -> None:
    def endpoint(post: Post) -> tuple[float, PostResult] | None:
        return ok(post) if post.headers["webhook-id"] == id_of(1) else status(400)

    town = Town(endpoint)
    town.table.put(subscription(ordered=True, retry_schedule_ms=()))
    await town.worker()
    town.send(fresh(1))
    await town.done()
    town.send(fresh(2), fresh(3))  # the order is known by now: both wait in memory
    await town.done(10)
    assert [post.headers["webhook-id"] for post in town.posts] == [id_of(1), id_of(2), id_of(3)]
    assert [letter["reason"] for letter in town.dead()] == ["exhausted", "exhausted"]


@virtual
async def test_room_of_what_is_put_back_is_used_at_once() -> None:
    town = Town()
    slow = msgspec.structs.replace(A, rate_limit=0.001)
    for one in (slow, B):
        town.table.put(msgspec.structs.replace(one, state="paused"))
    worker = await town.worker(read_max=1)
    town.send(fresh(1, "a"), fresh(2, "a"))
    town.send(fresh(1, "b"), partition=1)
    await until(lambda: len(town.parked()) == 3)
    town.table.put(slow)
    await until(lambda: len(town.posts) == 1 and worker.stage._read == 1)  # the second one waits for the rate
    town.table.put(B)
    await passing(1)
    assert [post.url for post in town.posts] == [A.url]  # for want of room
    town.table.put(msgspec.structs.replace(slow, state="paused"))  # which settles nothing
    await until(lambda: [post.url for post in town.posts] == [A.url, B.url], 1)


@pytest.mark.parametrize("one", [A, ORDERED], ids=["plain", "ordered"])
def test_who_lost_to_relief_all_that_it_had_read_reads_on(one: Subscription) -> None:
    """It stood in line with what it had read, and nothing else would make it look again."""

    @virtual
    async def run() -> None:
        town = Town(lambda post: ok(post) if post.url == A.url else (3.0, PostResult(200, 3_000_000)))
        town.table.put(msgspec.structs.replace(one, state="paused"))
        town.table.put(B)
        worker = await town.worker(in_flight_max=1, admitted_max=2)
        town.send(fresh(1, "a"))
        await until(lambda: len(town.parked()) == 1)
        town.send(*(fresh(number, "b") for number in range(3)), partition=1)  # more than there is room for
        await until(lambda: len(town.posts) == 1)
        town.table.put(one)
        await until(lambda: worker.stage._lanes["a"].ready)
        await town.done(60)
        assert town.delivered() == {id_of(1, "a"): 1, **{id_of(number, "b"): 1 for number in range(3)}}

    run()


@virtual
async def test_room_of_a_lost_partition_is_used_at_once() -> None:
    town = Town()
    town.table.put(msgspec.structs.replace(A, rate_limit=0.001, max_in_flight=2))
    town.table.put(B)
    worker = await town.worker(admitted_max=2, relief_after_s=3.0)
    town.send(*(fresh(number, "a") for number in range(3)))
    await until(lambda: len(town.posts) == 1 and worker.stage._admitted == 2)  # two wait for their endpoint's rate
    town.send(fresh(1, "b"), partition=1)
    await passing(2)
    assert len(town.posts) == 1
    worker.lose([0])  # which nobody tells the stage
    await until(lambda: [post.url for post in town.posts] == [A.url, B.url], 2)


@virtual
async def test_what_is_parked_when_a_lane_seems_idle_is_found_again() -> None:
    """Its last record is seen in the log after its circuit has opened, and its lane makes room for another."""

    def endpoint(post: Post) -> tuple[float, PostResult] | None:
        if post.url == B.url or post.at_s > 8:
            return ok(post)
        if post.headers["webhook-id"] == id_of(1, "a"):
            return 5.0, PostResult(500, 5_000_000)
        return 1.0, PostResult(429, 1_000_000, retry_after="30")

    town = Town(endpoint)
    town.lag_s = lambda topic: 7.0 if topic == TOPICS.parked else 0.0
    once = msgspec.structs.replace(A, retry_schedule_ms=(), max_in_flight=2)
    town.table.put(once)
    town.table.put(B)
    worker = await town.worker(lanes_max=1, circuit=BreakerPolicy(requests_min=1))
    town.send(fresh(1, "a"), fresh(2, "a"))
    await until(lambda: town.outcomes()["evt_2", "exhausted"])
    town.send(fresh(3, "a"))  # parked, as the endpoint asks for patience
    await until(lambda: len(town.parked()) == 1)
    town.table.put(msgspec.structs.replace(once, description="its owner is impatient"))
    await until(lambda: town.outcomes()["evt_1", "exhausted"])
    assert worker.stage._lanes["a"].shut
    await until(lambda: worker.stage._parking.holders("a"))
    town.send(fresh(1, "b"))
    await until(lambda: town.outcomes()["evt_1", "delivered"])
    await town.done(60)
    assert town.outcomes()["evt_3", "delivered"] == 1


@virtual
async def test_what_is_parked_and_not_due_has_somebody_who_looks_when_it_is() -> None:
    town = Town()
    town.table.put(ORDERED)
    due_ms = town.clock.now_ms() + 60_000
    delivery = msgspec.structs.replace(decode_delivery(fresh(1, "a")), due_ms=due_ms)
    value = encode_delivery(Wire(codec.wire_header(SCHEMAS.delivery_v1), b""), delivery)
    town.write(TOPICS.parked, b"a", value, [Order("", 0).header()])  # by a worker that knew no due time
    await town.worker()
    await town.done(70)
    assert [post.at_s for post in town.posts] == [pytest.approx(60, abs=1)]


@virtual
async def test_who_waits_behind_one_that_is_tried_each_day_expires_in_his_time() -> None:
    day_s = 86_400
    town = Town(lambda post: status(400))
    town.table.put(msgspec.structs.replace(ORDERED, retry_schedule_ms=(day_s * 1_000,) * 20))
    await town.worker()
    town.send(fresh(1, "a"), fresh(2, "a"))
    await passing(13.9 * day_s)
    assert town.dead() == []
    await passing(0.2 * day_s)
    assert [(letter["delivery"]["id"], letter["reason"]) for letter in town.dead()] == [(id_of(2, "a"), "expired")]


@virtual
async def test_a_second_partition_s_ordered_deliveries_are_read_where_they_are() -> None:
    """As after a topic was made larger: there is no order between partitions, and nothing to wait for."""
    town = Town()
    town.table.put(msgspec.structs.replace(ORDERED, state="paused"))
    await town.worker()
    town.send(fresh(1, "a"), fresh(2, "a"))
    town.send(fresh(3, "a"), partition=1)
    value = fresh(4, "a")
    town.write(TOPICS.parked, b"a", value, [Order("", 7).header()], partition=1)
    await until(lambda: len(town.parked()) == 4)
    town.table.put(ORDERED)
    await town.done(10)
    assert len(town.posts) == 4


@virtual
async def test_two_copies_of_one_in_the_log_do_not_wait_for_each_other() -> None:
    """As they may stand there after a crash, where nothing is written in transactions."""
    town = Town()
    town.table.put(msgspec.structs.replace(ORDERED, max_in_flight=3))
    for number in (1, 1, 2, 2, 3):
        town.write(TOPICS.parked, b"a", fresh(number, "a"), [Order("", number).header()])
    await town.worker(read_max=1)  # one is in memory, and the other is not read before it is gone
    await town.done(10)
    first_posts = dict.fromkeys(post.headers["webhook-id"] for post in town.posts)
    assert list(first_posts) == [id_of(number, "a") for number in (1, 2, 3)]
