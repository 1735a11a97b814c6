"""What an endpoint sends back of the credentials that it was sent is not kept."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.memory import ManualClock, MemorySender, Posted
from schemas.delivery import decode_delivery
from schemas.post import PostResult
from streams.core.masking import LENGTH_MIN, Mask
from streams.requests import Outgoing
from streams.tokens import Tokens
from tests.helpers import eventually_async
from tests.unit.dispatch_town import fresh
from tests.unit.stages import as_it_is, subscription


@pytest.mark.parametrize(
    ("excerpt", "kept"),
    [
        (b"you sent Bearer hunter2-hunter2!", b"you sent Bearer ***!"),
        (b"hunter2-hunter2hunter2-hunter2", b"******"),
        (b"cut off: hunter2-hunt", b"cut off: ***"),
        (b"hunter2", b"hunter2"),  # as much as anybody could guess
        (b"abc", b"abc"),
        (b"", b""),
    ],
)
def test_what_is_struck_out(excerpt: bytes, kept: bytes) -> None:
    assert Mask(["hunter2-hunter2", "abc"]).apply(excerpt) == kept


def test_short_values_are_words() -> None:
    assert not Mask(["x" * (LENGTH_MIN - 1)])
    assert Mask(["x" * LENGTH_MIN])


@given(st.binary(max_size=60), st.text("ab", min_size=LENGTH_MIN, max_size=12), st.binary(max_size=60))
def test_no_value_is_left_whole(before: bytes, value: str, after: bytes) -> None:
    assert value.encode() not in Mask([value]).apply(before + value.encode() + after)


@pytest.mark.parametrize(
    "fields",
    [
        {"headers": {"x-key": "hunter2-hunter2"}},
        {"auth": '{"type":"bearer","token":"hunter2-hunter2"}'},
        {"auth": '{"type":"basic","username":"u","password":"hunter2-hunter2"}'},
    ],
)
async def test_an_answer_that_echoes_the_request_is_kept_without_its_credentials(fields: dict[str, Any]) -> None:
    def echo(posted: object) -> PostResult:
        headers = getattr(posted, "headers")  # noqa: B009
        return PostResult(500, 1, excerpt=f"{headers} hunter2-hunter2".encode())

    sender, clock = MemorySender(echo), ManualClock()
    results: list[PostResult] = []
    outgoing = Outgoing(subscription(**fields), sender, as_it_is, Tokens(sender, clock))
    outgoing.post("dlv_1", decode_delivery(fresh()), b"{}", clock.now_ms(), results.append)
    await eventually_async(lambda: results)
    (result,) = results
    assert b"hunter2" not in result.excerpt
    assert b"dTpodW50" not in result.excerpt  # base64 of u:hunter2…
    assert b"***" in result.excerpt


async def test_a_token_that_is_sent_back_is_struck_out_too() -> None:
    def endpoint(posted: Posted) -> PostResult:
        if posted.url.endswith("/token"):
            return PostResult(
                200, 1, excerpt=b'{"access_token":"issued-token-77","token_type":"Bearer","expires_in":60}'
            )
        return PostResult(500, 1, excerpt=b"you sent Bearer issued-token-77")

    auth = '{"type":"oauth2","token_url":"https://a.example/token","client_id":"c","client_secret":"s"}'
    sender, clock = MemorySender(endpoint), ManualClock()
    results: list[PostResult] = []
    outgoing = Outgoing(subscription(auth=auth), sender, as_it_is, Tokens(sender, clock))
    for _ in range(2):
        outgoing.post("dlv_1", decode_delivery(fresh()), b"{}", clock.now_ms(), results.append)
    await eventually_async(lambda: len(results) == 2)
    assert [result.excerpt for result in results] == [b"you sent Bearer ***"] * 2
