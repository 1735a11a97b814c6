"""Ordered subscriptions: what has the same key arrives in order, through failures, crashes and rebalances; nothing is
ever stuck, and no key waits for another."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from schemas.post import PostResult
from tests.unit.dispatch_town import Post, Town, fresh, id_of, ok, status
from tests.unit.stages import TOPICS, subscription
from tests.unit.virtual import passing, until, virtual

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
        fields = {"ordered": True, "max_in_flight": dice.randint(1, 8), "timeout_ms": 3_000}
        town.table.put(subscription(retry_schedule_ms=SCHEDULE_MS * 4, **fields))
        town.table.put(subscription("plain"))
        bounds = {"admitted_max": dice.choice((10, 4_000)), "relief_after_s": 0.1, "read_max": dice.choice((5, 1_000))}
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
        del town.posts[:0]
        town.posts = [post for post in town.posts if post.headers["webhook-id"] in keys]
        check_order(town, keys)
        assert all(
            count == 1
            for (event, outcome), count in town.outcomes().items()
            if outcome == "delivered" and event != "evt_9999"
        )

    run()
