"""A worker whose lanes need tokens, in virtual time: a token endpoint's troubles are those of its own lanes."""

from __future__ import annotations

import json
from collections import Counter
from urllib.parse import urlsplit

import pytest

from schemas.post import PostResult
from tests.unit.dispatch_town import Post, Town, fresh
from tests.unit.stages import subscription
from tests.unit.virtual import passing, until, virtual

SECRET = "hush-hush"
GRANTED = PostResult(200, 1, excerpt=b'{"access_token":"t-1","token_type":"Bearer","expires_in":3600}')
DELIVERIES = 40


def auth(host: str) -> str:
    fields = {"type": "oauth2", "token_url": f"https://{host}/token", "client_id": "us", "client_secret": SECRET}
    return json.dumps(fields)


class Idp:
    """What token endpoints answer, by host; endpoints take what has a token."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[float, PostResult] | None] = {}
        self.asked: Counter[str] = Counter()

    def __call__(self, post: Post) -> tuple[float, PostResult] | None:
        parts = urlsplit(post.url)
        host = parts.hostname or ""
        if parts.path == "/token":
            self.asked[host] += 1
            return self.answers.get(host, (0.05, GRANTED))
        known = host == "plain.example" or post.headers.get("authorization") == "Bearer t-1"
        return 0.01, PostResult(204 if known else 401, 10_000)


@pytest.mark.parametrize("answer", [None, (0.05, PostResult(500, 1)), (0.05, PostResult(200, 1, excerpt=b"nonsense"))])
def test_a_token_endpoint_in_trouble_holds_up_its_own_lanes_only(answer: tuple[float, PostResult] | None) -> None:
    @virtual
    async def run() -> None:
        idp = Idp()
        town = Town(idp)
        for name in ("good", "bad", "plain"):
            more = {} if name == "plain" else {"auth": auth(f"{name}-idp.example")}
            town.table.put(subscription(name, retry_schedule_ms=(1_000,) * 30, max_in_flight=4, **more))
        idp.answers["bad-idp.example"] = answer
        worker = await town.worker(in_flight_max=16)
        for number in range(DELIVERIES):
            town.send(*[fresh(number, name) for name in ("bad", "good", "plain")])
        ends = town.outcomes
        await until(lambda: ends_of(town, "good", "plain") == 2 * DELIVERIES, 5.0)
        assert "delivered" not in {one["outcome"] for one in town.attempts() if one["subscription_id"] == "bad"}
        await passing(60)
        asked = idp.asked["bad-idp.example"]
        assert idp.asked["good-idp.example"] == 1
        assert 2 <= asked <= 30  # and not for each delivery
        causes = {one["cause"] for one in town.attempts() if one["subscription_id"] == "bad"}
        assert causes == {"token_failed"}
        assert SECRET not in str(town.attempts())
        del idp.answers["bad-idp.example"]
        await town.done()
        delivered = sum(count for (_, outcome), count in ends().items() if outcome == "delivered")
        assert delivered == 3 * DELIVERIES
        await worker.stop()

    run()


def ends_of(town: Town, *names: str) -> int:
    return sum(one["outcome"] == "delivered" and one["subscription_id"] in names for one in town.attempts())


@virtual
async def test_a_worker_that_stops_while_a_token_is_waited_for_spends_no_attempt() -> None:
    idp = Idp()
    town = Town(idp)
    idp.answers["slow.example"] = None
    town.table.put(subscription("sub_1", auth=auth("slow.example")))
    worker = await town.worker()
    town.send(fresh(1))
    await until(lambda: idp.asked["slow.example"] == 1)
    await worker.stop(1.0)
    assert town.attempts() == []
    del idp.answers["slow.example"]
    await town.worker()
    await town.done()
    assert [(one["attempt"], one["outcome"]) for one in town.attempts()] == [(1, "delivered")]


@virtual
async def test_a_subscription_may_change_how_it_authenticates() -> None:
    idp = Idp()
    town = Town(idp)
    town.table.put(subscription("sub_1", auth=json.dumps({"type": "bearer", "token": "wrong"})))
    worker = await town.worker()
    town.send(fresh(1))
    await until(lambda: len(town.attempts()) == 1)
    town.table.put(subscription("sub_1", auth=auth("idp.example")))
    town.send(fresh(2))
    await town.done()
    outcomes = [(one["event_id"], one["outcome"], one["status"]) for one in town.attempts()]
    assert outcomes == [("evt_1", "retryable", 401), ("evt_2", "delivered", 204), ("evt_1", "delivered", 204)]
    await worker.stop()
