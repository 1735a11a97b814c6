"""Whoever waits is woken: by the one event that ends his waiting, though nothing else happens in the worker."""

from __future__ import annotations

from schemas.post import PostResult
from tests.unit.dispatch_town import Post, Town, fresh, id_of, ok, status
from tests.unit.stages import subscription
from tests.unit.virtual import virtual


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
