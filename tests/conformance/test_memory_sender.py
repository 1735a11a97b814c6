"""The sender's fake keeps the sender's promises: those of `test_senders.py` that need no network, on both."""

from __future__ import annotations

import asyncio

import pytest

from connectors.address_guard import AddressGuard
from connectors.http_sender import HttpSender
from connectors.memory import MemorySender, Posted
from schemas.endpoint_tls import EndpointTls
from schemas.post import PostResult
from streams.ports import Sender
from tests.conformance.sender_server import OK, Peer, answering, serving


@pytest.fixture(params=["memory", "http"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(kind: str, answer: PostResult | None = None) -> Sender:
    if kind == "memory":
        return MemorySender(lambda posted: answer)
    return HttpSender(AddressGuard(allow_private=True))


async def test_an_answer_comes_once_and_never_from_inside_post(kind: str) -> None:
    async with serving(answering(OK)) as server:
        sender = make(kind, PostResult(200, 1, excerpt=b"ok"))
        answers: list[PostResult] = []
        got = asyncio.Event()

        def done(result: PostResult) -> None:
            answers.append(result)
            got.set()

        sender.post(sender.route(server.url("/h"), {}, 5.0), [("webhook-id", "dlv_1")], b"{}", done)
        assert answers == []
        assert sender.in_flight == 1
        await asyncio.wait_for(got.wait(), 60)
        assert sender.in_flight == 0
        await sender.close()
    assert [(result.status, result.cause, result.excerpt) for result in answers] == [(200, None, b"ok")]


async def hanging(peer: Peer) -> None:
    await peer.request()
    await peer.gone()


async def test_close_answers_what_is_in_flight_and_what_comes_later(kind: str) -> None:
    async with serving(hanging) as server:
        sender = make(kind)
        answers: list[PostResult] = []
        route = sender.route(server.url("/h"), {}, 30.0)
        sender.post(route, [], b"{}", answers.append)
        await sender.close()
        assert [result.cause for result in answers] == ["shutdown"]
        sender.post(route, [], b"{}", answers.append)
        assert len(answers) == 1
        await asyncio.sleep(0)
        assert [result.cause for result in answers] == ["shutdown", "shutdown"]
        assert sender.in_flight == 0


async def test_a_header_that_could_inject_is_answered_without_a_post(kind: str) -> None:
    sender = make(kind, PostResult(200, 1))
    answers: list[PostResult] = []
    sender.post(sender.route("http://127.0.0.1:1/h", {}, 5.0), [("a", "b\r\nc: d")], b"{}", answers.append)
    assert answers == []
    await asyncio.sleep(0)
    assert [result.cause for result in answers] == ["invalid_request"]
    if isinstance(sender, MemorySender):
        assert sender.posted == []
    await sender.close()


@pytest.mark.parametrize(
    ("url", "headers", "timeout_s"),
    [
        ("ftp://example.com/h", {}, 1.0),
        ("http:///h", {}, 1.0),
        ("http://user:pass@example.com/h", {}, 1.0),
        ("http://example.com/h", {"webhook-id": "x"}, 1.0),
        ("http://example.com/h", {"x": "a\nb"}, 1.0),
        ("http://example.com/h", {}, 0.0),
    ],
)
async def test_a_route_that_must_not_be_used_is_refused(
    kind: str, url: str, headers: dict[str, str], timeout_s: float
) -> None:
    sender = make(kind)
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        sender.route(url, headers, timeout_s)
    await sender.close()


async def test_tls_of_an_endpoints_own_needs_https(kind: str) -> None:
    sender, tls = make(kind), EndpointTls(owner="sub_1", ca="any")
    with pytest.raises(ValueError, match="https"):
        sender.route("http://example.com/h", {}, 1.0, tls)
    sender.route("https://example.com/h", {}, 1.0, tls)
    await sender.close()


async def test_a_route_has_its_origin_and_belongs_to_its_sender(kind: str) -> None:
    sender, other = make(kind), make("http" if kind == "memory" else "memory")
    assert sender.route("https://example.com/h", {}, 1.0).origin == "https://example.com:443"
    with pytest.raises(TypeError):
        sender.post(other.route("https://example.com/h", {}, 1.0), [], b"{}", print)
    await sender.close()
    await other.close()


async def test_the_fake_shows_what_was_posted_and_answers_when_told_to() -> None:
    sender = MemorySender(lambda posted: None)
    answers: list[PostResult] = []
    route = sender.route("http://example.com/h?q=1", {"X-Team": "blue"}, 1.0)
    sender.post(route, [("webhook-id", "dlv_1")], b"body", answers.append)
    fields = {"X-Team": "blue", "user-agent": "Distributary", "accept-encoding": "identity", "webhook-id": "dlv_1"}
    assert sender.posted == [Posted(0, "http://example.com/h?q=1", fields, b"body")]
    result = PostResult(503, 9)
    sender.answer(0, result)
    sender.answer(0, PostResult(200, 9))  # too late
    assert answers == [result]
