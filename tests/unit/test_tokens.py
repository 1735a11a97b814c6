"""OAuth2 tokens of lanes, in virtual time: who waits for what, when a token is asked for, and how often at most."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from connectors.memory import MemorySender, Posted
from schemas.credentials import OAuth2
from schemas.post import PostResult
from streams.tokens import RENEWAL_EVERY_S, TokenPosts, Tokens
from tests.unit.virtual import LoopClock, passing, virtual

HOOK = "https://hook.example/x"
CLIENT = OAuth2(token_url="https://idp.example/token", client_id="us", client_secret="hush-hush")
LIFE_S = 100


def granted(token: str, life_s: float = LIFE_S) -> PostResult:
    body = {"access_token": token, "token_type": "Bearer", "expires_in": life_s}
    return PostResult(200, 1, excerpt=json.dumps(body).encode())


class Town:
    """A token endpoint that numbers its tokens, an endpoint that takes those it is told to, and lanes."""

    def __init__(self) -> None:
        #: What the token endpoint answers; None: nothing.
        self.answer: Callable[[], PostResult | None] = lambda: granted(f"t-{self.asked}")
        self.taken: Callable[[str], int] = lambda token: 200
        self.idp = MemorySender(lambda posted: self.answer())
        self.hook = MemorySender(self._take)
        self.tokens = Tokens(self.idp, LoopClock(jitter=0.5))
        self.results: list[PostResult] = []

    @property
    def asked(self) -> int:
        """Token requests so far."""
        return len(self.idp.posted)

    @property
    def carried(self) -> list[str]:
        """The tokens that POSTs came with."""
        return [self._token(posted) for posted in self.hook.posted]

    def _token(self, posted: Posted) -> str:
        return posted.headers["authorization"].removeprefix("Bearer ")

    def _take(self, posted: Posted) -> PostResult:
        return PostResult(self.taken(self._token(posted)), 5)

    def lane(self, client: OAuth2 = CLIENT, url: str = HOOK, headers: Mapping[str, str] | None = None) -> TokenPosts:
        return TokenPosts(self.tokens, client, self.hook, url, headers or {}, 15.0, None)

    def start(self, lane: TokenPosts, body: bytes = b"{}") -> None:
        before = len(self.results)
        lane.post(self.hook.route(HOOK, {}, 15.0), [("webhook-id", "dlv_1")], body, self.results.append)
        assert len(self.results) == before, "done was called from inside post()"

    async def post(self, lane: TokenPosts) -> PostResult:
        self.start(lane)
        await passing(0.001)
        return self.results[-1]


@virtual
async def test_a_token_is_asked_for_once_and_carried_by_every_post() -> None:
    town = Town()
    lane, other = town.lane(), town.lane(headers={"team": "blue"})
    for _ in range(5):
        assert (await town.post(lane)).status == 200
        assert (await town.post(other)).status == 200
    assert town.asked == 1
    assert town.carried == ["t-1"] * 10
    assert town.hook.posted[1].headers["team"] == "blue"
    assert town.hook.posted[0].headers["webhook-id"] == "dlv_1"


@virtual
async def test_nothing_is_asked_before_it_is_needed() -> None:
    town = Town()
    lane = town.lane()
    await passing(1_000)
    assert town.asked == 0
    await town.post(lane)
    await passing(10_000)  # far beyond its life
    assert town.asked == 1


@virtual
async def test_all_who_wait_wait_for_one_request() -> None:
    town = Town()
    town.answer = lambda: None
    lanes = [town.lane() for _ in range(10)]
    for lane in lanes:
        town.start(lane)
        town.start(lane)
    await passing(5)
    assert (town.asked, town.results) == (1, [])
    town.idp.answer(0, granted("late"))
    await passing(0.001)
    assert [result.status for result in town.results] == [200] * 20
    assert (town.asked, set(town.carried)) == (1, {"late"})


@virtual
async def test_a_token_is_renewed_behind_the_back_of_the_deliveries() -> None:
    town = Town()
    lane = town.lane()
    await town.post(lane)
    await passing(LIFE_S * 0.8)
    assert (await town.post(lane), town.asked) == (PostResult(200, 5), 1)
    await passing(LIFE_S * 0.05)
    town.answer = lambda: None
    for _ in range(3):
        assert (await town.post(lane)).status == 200
    assert (town.carried, town.asked) == (["t-1"] * 5, 2)  # sent with the old one, without waiting
    town.idp.answer(1, granted("t-2"))
    await town.post(lane)
    assert town.carried[-1] == "t-2"


@virtual
async def test_a_token_whose_life_is_over_is_not_sent() -> None:
    town = Town()
    lane = town.lane()
    await town.post(lane)
    await passing(LIFE_S - 9.9)
    await town.post(lane)
    assert (town.carried, town.asked) == (["t-1", "t-2"], 2)


@virtual
async def test_a_renewal_that_fails_hurts_nobody_while_the_token_lives() -> None:
    town = Town()
    lane = town.lane()
    await town.post(lane)
    await passing(LIFE_S * 0.85)
    town.answer = lambda: PostResult(503, 1)
    for _ in range(5):
        assert (await town.post(lane)).status == 200
    assert town.asked == 2  # not for each POST
    await passing(1.1)
    town.answer = lambda: granted("new")
    assert (await town.post(lane)).status == 200
    await town.post(lane)
    assert (town.carried[-1], town.asked) == ("new", 3)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (PostResult(401, 1, excerpt=b'{"error":"invalid_client"}'), "401 (invalid_client)"),
        (PostResult(200, 1, excerpt=b"hush-hush"), "access_token"),
        (PostResult(0, 1, "timeout", "Too late."), "Too late."),
        (PostResult(0, 1, "address_refused", "10.0.0.1 is a private address."), "private"),
    ],
)
def test_without_a_token_there_is_a_result_that_says_why(answer: PostResult, said: str) -> None:
    @virtual
    async def run() -> None:
        town = Town()
        town.answer = lambda: answer
        lane = town.lane()
        town.start(lane)
        town.start(lane)
        await passing(0.001)
        await town.post(lane)  # at once, and without a request
        assert [result.cause for result in town.results] == ["token_failed"] * 3
        for result in town.results:
            assert said in (result.detail or "")
            assert "hush" not in (result.detail or "")
            assert result.excerpt == b""
        assert (town.asked, town.carried) == (1, [])
        await passing(1.1)
        town.answer = lambda: granted("t")
        assert (await town.post(lane)).status == 200

    run()


@virtual
async def test_a_token_endpoint_that_fails_is_left_alone_for_longer_and_longer() -> None:
    town = Town()
    town.answer = lambda: PostResult(500, 1)
    lane = town.lane()
    times = []
    while (now := asyncio.get_running_loop().time()) < 600:
        before = town.asked
        await town.post(lane)
        if town.asked > before:
            times.append(round(now))
        await passing(0.1)
    assert times[:6] == [0, 1, 3, 8, 24, 56]
    assert len(times) < 18
    town.answer = lambda: PostResult(429, 1, retry_after="500")
    await passing(100)
    await town.post(lane)
    asked = town.asked
    await passing(490)
    await town.post(lane)
    assert town.asked == asked


@virtual
async def test_a_token_that_is_not_taken_is_renewed_within_the_post() -> None:
    town = Town()
    lane = town.lane()
    await town.post(lane)
    town.taken = lambda token: 200 if token == "t-2" else 401
    assert (await town.post(lane)).status == 200
    assert town.carried == ["t-1", "t-1", "t-2"]
    assert [result.status for result in town.results] == [200, 200]  # the 401 was for nobody else
    assert (await town.post(lane), town.asked) == (PostResult(200, 5), 2)


@virtual
async def test_lanes_whose_token_is_not_taken_renew_it_together() -> None:
    town = Town()
    lanes = [town.lane() for _ in range(5)]
    for lane in lanes:
        await town.post(lane)
    town.taken = lambda token: 200 if token == "t-2" else 401
    for lane in lanes:
        town.start(lane)
        town.start(lane)
    await passing(1)
    assert [result.status for result in town.results] == [200] * 15
    assert town.asked == 2


@virtual
async def test_an_endpoint_that_takes_no_token_does_not_have_one_asked_for_each_time() -> None:
    town = Town()
    lane, good = town.lane(), town.lane(url="https://good.example/")
    town.taken = lambda token: 401
    assert (await town.post(lane)).status == 401
    assert (town.asked, town.carried) == (2, ["t-1", "t-2"])
    for _ in range(20):
        assert (await town.post(lane)).status == 401
    assert town.asked == 2
    assert town.carried[2:] == ["t-2"] * 20  # once each
    town.taken = lambda token: 200 if token == "t-3" else 401
    assert (await town.post(good)).status == 200  # another lane may
    assert town.asked == 3
    await passing(RENEWAL_EVERY_S)
    town.taken = lambda token: 200 if token == "t-4" else 401
    assert (await town.post(lane)).status == 200


@virtual
async def test_when_the_client_was_revoked_the_result_says_so() -> None:
    town = Town()
    lane = town.lane()
    await town.post(lane)
    town.taken = lambda token: 401
    town.answer = lambda: PostResult(401, 1, excerpt=b'{"error":"invalid_client"}')
    result = await town.post(lane)
    assert (result.cause, "invalid_client" in (result.detail or "")) == ("token_failed", True)
    assert town.carried == ["t-1", "t-1"]


@virtual
async def test_other_answers_are_handed_over() -> None:
    town = Town()
    lane = town.lane()
    for status in (403, 407, 500, 204):
        town.taken = lambda token, status=status: status  # type: ignore[misc]
        assert (await town.post(lane)).status == status
    assert (town.asked, len(town.carried)) == (1, 4)


@pytest.mark.parametrize(
    "other",
    [
        {"client_secret": "another"},
        {"client_id": "them"},
        {"scope": "more"},
        {"audience": "https://b"},
        {"token_url": "https://idp.example/other"},
    ],
)
def test_a_token_is_shared_with_nobody_else(other: dict[str, Any]) -> None:
    """Above all not with who knows a client's id, and not its secret."""
    fields = {"token_url": CLIENT.token_url, "client_id": "us", "client_secret": "hush-hush"} | other

    @virtual
    async def run() -> None:
        town = Town()
        lanes = town.lane(), town.lane(OAuth2(**fields))
        for lane in (*lanes, *lanes):
            await town.post(lane)
        assert town.carried == ["t-1", "t-2", "t-1", "t-2"]

    run()


@virtual
async def test_a_token_lives_as_long_as_a_lane_that_uses_it() -> None:
    town = Town()
    await town.post(town.lane())
    await town.post(town.lane())
    assert town.asked == 2  # nobody was left who had it
    lane = town.lane()
    await town.post(lane)
    await town.post(town.lane(headers={"team": "blue"}))  # as of the subscription's next version
    assert town.asked == 3


@virtual
async def test_a_worker_that_stops_says_nothing_about_the_token() -> None:
    town = Town()
    town.answer = lambda: None
    lane = town.lane()
    town.start(lane)
    await town.idp.close()
    await passing(0.001)
    assert [result.cause for result in town.results] == ["shutdown"]


@virtual
async def test_a_token_that_does_not_fit_is_a_result() -> None:
    town = Town()
    town.answer = lambda: granted("x" * 8_000)
    lane = town.lane(headers={f"x-{number}": "y" * 4_000 for number in range(3)})
    result = await town.post(lane)
    assert (result.cause, "larger than" in (result.detail or "")) == ("token_failed", True)
    assert town.carried == []


@virtual
async def test_a_token_endpoint_that_must_not_be_used_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"auth\.token_url: "):
        Town().lane(OAuth2(token_url="ftp://idp.example/", client_id="us", client_secret="hush"))
