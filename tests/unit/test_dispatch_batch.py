"""Batches in the stage: how many and when, one signature, every delivery with its own attempts and budget."""

from __future__ import annotations

import datetime
from collections import Counter
from typing import Any

import orjson
import standardwebhooks

from schemas.post import PostResult
from tests.unit.dispatch_town import Post, Town, fresh, id_of, status
from tests.unit.stages import SECRET, subscription
from tests.unit.virtual import passing, until, virtual

BODY = b'{"type":"order.created","timestamp":"2023-11-14T22:13:20.000Z","data":{"n":%d}}'


def event(number: int, subscription_id: str = "sub_1") -> bytes:
    return fresh(number, subscription_id, body=BODY % number)


def ids(post: Post) -> list[str]:
    return [one["id"] for one in orjson.loads(post.body)["events"]]


def batched(**fields: Any) -> Any:
    return subscription(**{"batch_max": 5, "batch_wait_ms": 2_000} | fields)


def accepted(post: Post) -> tuple[float, PostResult]:
    return 0.01, PostResult(204, 10_000)


@virtual
async def test_full_batches_leave_at_once_and_the_rest_when_its_time_has_come() -> None:
    town = Town(accepted)
    town.table.put(batched())
    await town.worker([0])
    town.send(*(event(number) for number in range(12)))
    await town.done(10)
    assert [len(ids(post)) for post in town.posts] == [5, 5, 2]
    assert town.posts[1].at_s < 0.2
    assert 2.0 <= town.posts[2].at_s < 2.2
    assert sorted(one for post in town.posts for one in ids(post)) == sorted(id_of(number) for number in range(12))


@virtual
async def test_a_batch_is_signed_as_one_and_its_attempts_are_logged_each() -> None:
    town = Town(accepted)
    town.table.put(batched())
    await town.worker([0])
    town.send(*(event(number) for number in range(5)))
    await town.done(10)
    (post,) = town.posts
    body = orjson.loads(post.body)
    assert post.headers["webhook-id"] == body["batch_id"]
    assert post.headers["content-type"] == "application/json"
    assert body["event_count"] == 5
    signature = post.headers["webhook-signature"].removeprefix("v1,")
    hook = standardwebhooks.Webhook(SECRET)
    moment = datetime.datetime.fromtimestamp(int(post.headers["webhook-timestamp"]), tz=datetime.UTC)
    assert hook.sign(body["batch_id"], moment, post.body.decode()) == f"v1,{signature}"
    assert town.outcomes() == {(f"evt_{number}", "delivered"): 1 for number in range(5)}
    assert {one["attempt"] for one in town.attempts()} == {1}


@virtual
async def test_a_failed_batch_is_retried_with_the_budget_of_each() -> None:
    town = Town(lambda post: status(500) if post.at_s < 5 else accepted(post))
    town.table.put(batched(retry_schedule_ms=(1_000, 1_000, 10_000), batch_wait_ms=100))
    await town.worker([0])
    town.send(*(event(number) for number in range(5)))
    await passing(1.5)
    town.send(*(event(number) for number in range(5, 7)))
    await town.done(60)
    numbers: dict[str, list[int]] = {}
    for one in town.attempts():
        numbers.setdefault(one["event_id"], []).append(one["attempt"])
    assert {event_id: len(found) for event_id, found in numbers.items()} == {
        f"evt_{number}": 4 if number < 5 else 3 for number in range(7)
    }
    assert all(found == list(range(1, len(found) + 1)) for found in numbers.values())
    assert Counter(outcome for _, outcome in town.outcomes().elements()) == {"retryable": 19, "delivered": 7}


@virtual
async def test_a_batch_that_exhausts_some_gives_up_only_those() -> None:
    town = Town(lambda post: status(500))
    town.table.put(batched(retry_schedule_ms=(1_000,), batch_wait_ms=1_500, max_in_flight=1))
    await town.worker([0])
    town.send(event(0), event(1))
    await passing(2)
    town.send(event(2))
    await until(lambda: len(town.dead()) == 2)
    assert {letter["delivery"]["event_id"] for letter in town.dead()} == {"evt_0", "evt_1"}
    assert town.outcomes()["evt_2", "exhausted"] == 0
    await town.done(60)
    assert town.outcomes()["evt_2", "exhausted"] == 1


@virtual
async def test_a_batch_is_not_larger_than_its_bound_of_bytes() -> None:
    town = Town(accepted)
    town.table.put(batched(batch_max=100, batch_wait_ms=0))
    await town.worker([0])
    large = b'{"type":"a","data":"' + b"x" * 400_000 + b'"}'
    town.send(*(fresh(number, body=large) for number in range(7)))
    await town.done(30)
    assert max(len(post.body) for post in town.posts) < 1_100_000
    assert Counter(one for post in town.posts for one in ids(post)) == Counter(id_of(n) for n in range(7))


@virtual
async def test_parked_deliveries_are_batched_too() -> None:
    town = Town(accepted)
    town.table.put(batched(state="paused", batch_max=50))
    await town.worker([0])
    town.send(*(event(number) for number in range(500)))
    await until(lambda: len(town.parked()) == 500)
    town.table.put(batched(batch_max=50))
    await town.done(60)
    assert Counter(one for post in town.posts for one in ids(post)) == Counter(id_of(n) for n in range(500))
    assert len(town.posts) <= 20


@virtual
async def test_gone_ends_a_whole_batch_and_is_said_once() -> None:
    town = Town(lambda post: status(410))
    town.table.put(batched())
    await town.worker([0])
    town.send(*(event(number) for number in range(5)))
    await town.done(10)
    assert Counter(letter["reason"] for letter in town.dead()) == {"gone": 5}
    assert [operation.kind for operation in town.operations()] == ["endpoint.disabled"]
    assert len(town.states()) == 1
