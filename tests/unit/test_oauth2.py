"""The client credentials grant: what is asked, what an answer means, and that no sentence holds a secret."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qsl

import pytest

from schemas.credentials import OAuth2
from schemas.post import PostResult
from streams.core.oauth2 import (
    LIFE_S_DEFAULT,
    LIFE_S_MAX,
    Granted,
    Refused,
    judge_answer,
    pause_s,
    renew_after_s,
    token_request,
    usable_s,
)

URL = "https://idp.example/token"
CLIENT = OAuth2(token_url=URL, client_id="us", client_secret="hush-hush", scope="hooks:write all", audience="https://a")


def answer(status: int = 200, body: object = None, **fields: Any) -> PostResult:
    whole = {"access_token": "t-1", "token_type": "Bearer", "expires_in": 60} | fields
    return PostResult(status, 1, excerpt=json.dumps(whole if body is None else body).encode())


def test_a_client_authenticates_in_a_header() -> None:
    asked = token_request(CLIENT)
    headers = dict(asked.headers)
    assert headers["content-type"] == "application/x-www-form-urlencoded"
    assert base64.b64decode(headers["authorization"].removeprefix("Basic ")) == b"us:hush-hush"
    assert dict(parse_qsl(asked.body.decode())) == {
        "grant_type": "client_credentials",
        "scope": "hooks:write all",
        "audience": "https://a",
    }


def test_what_is_in_the_header_is_encoded_first() -> None:
    """RFC 6749, 2.3.1: or an id with a colon would end early."""
    asked = token_request(OAuth2(token_url=URL, client_id="a:b c", client_secret="ü/%+"))
    pair = base64.b64decode(dict(asked.headers)["authorization"].removeprefix("Basic "))
    assert pair == b"a%3Ab+c:%C3%BC%2F%25%2B"
    assert asked.body == b"grant_type=client_credentials"


def test_a_client_authenticates_in_the_body() -> None:
    asked = token_request(OAuth2(token_url=URL, client_id="a&b", client_secret="c=d", client_auth="post"))
    assert "authorization" not in dict(asked.headers)
    assert dict(parse_qsl(asked.body.decode())) == {
        "grant_type": "client_credentials",
        "client_id": "a&b",
        "client_secret": "c=d",
    }


@pytest.mark.parametrize(
    ("fields", "life_s"),
    [
        ({}, 60.0),
        ({"token_type": "bearer", "expires_in": "3600", "scope": "less"}, 3600.0),
        ({"expires_in": None}, LIFE_S_DEFAULT),
        ({"expires_in": 1.5}, 1.5),
        ({"expires_in": 10**9}, LIFE_S_MAX),
        ({"expires_in": 1e300}, LIFE_S_MAX),
    ],
)
def test_a_token_is_granted(fields: dict[str, Any], life_s: float) -> None:
    assert judge_answer(CLIENT, answer(**fields)) == Granted("t-1", life_s)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (answer(access_token=""), "access_token"),
        (answer(access_token="two words"), "access_token"),
        (answer(access_token="a\r\nx: y"), "access_token"),
        (answer(access_token="x" * 8_193), "access_token"),
        (answer(access_token=7), "access_token"),
        (answer(token_type="mac"), "not Bearer"),
        (answer(token_type=None), "not Bearer"),
        (answer(expires_in=0), "expires_in"),
        (answer(expires_in=-5), "expires_in"),
        (answer(expires_in=True), "expires_in"),
        (answer(expires_in="soon"), "expires_in"),
        (answer(body=["t-1"]), "JSON object"),
        (PostResult(200, 1, excerpt=b"<html>hush-hush</html>"), "JSON object"),
        (PostResult(200, 1, excerpt=b'{"a":' * 5_000), "JSON object"),
        (PostResult(200, 1), "JSON object"),
        (answer(400, {"error": "invalid_scope"}), "answered 400 (invalid_scope)."),
        (answer(401, {"error": "invalid_client"}), "answered 401 (invalid_client); check the client's id"),
        (answer(401, {"error": "hush-hush", "error_description": "hush-hush is wrong"}), "answered 401; check"),
        (answer(400, {"error": {"hush-hush": 1}}), "answered 400."),
        (PostResult(302, 1), "answered 302."),
        (PostResult(500, 1, excerpt=b"hush-hush"), "answered 500."),
        (PostResult(0, 1, "timeout", "There was no complete response within the time-out."), "time-out"),
        (PostResult(0, 1, "address_refused", "10.0.0.1 is a private address."), "private address"),
        (PostResult(0, 1, "malformed_response", "Bad status line 'hush-hush'."), "not HTTP/1.1"),
    ],
)
def test_without_a_token_it_is_said_why_and_nothing_is_quoted(result: PostResult, said: str) -> None:
    judged = judge_answer(CLIENT, result)
    assert isinstance(judged, Refused)
    assert judged.detail.startswith("No token from idp.example: ")
    assert judged.detail.endswith(".")
    assert said in judged.detail
    assert "hush" not in judged.detail
    assert "t-1" not in judged.detail


def test_no_repr_holds_a_secret() -> None:
    for value in (token_request(CLIENT), judge_answer(CLIENT, answer()), CLIENT):
        assert "hush" not in repr(value)
        assert "t-1" not in repr(value)


@pytest.mark.parametrize("life_s", [1.0, 10.0, 300.0, 3_600.0, LIFE_S_MAX])
def test_a_token_is_asked_for_again_before_it_is_not_used_any_more(life_s: float) -> None:
    early, late = renew_after_s(life_s, 0.0), renew_after_s(life_s, 0.999)
    assert 0.7 * life_s < early < late <= usable_s(life_s) < life_s


def test_pauses_grow_and_a_server_may_ask_for_longer_ones() -> None:
    assert [pause_s(failures, None, 0.0) for failures in range(1, 9)] == [1, 2, 5, 15, 30, 60, 60, 60]
    assert pause_s(1, None, 0.5) == pytest.approx(1.05)
    assert pause_s(1, 20_000, 0.0) == 20
    assert pause_s(1, 10**9, 0.0) == 600
