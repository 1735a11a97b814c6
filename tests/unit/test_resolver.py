"""Names to addresses: merged look-ups, bounded memory, failures in words."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from connectors import resolver as module
from connectors.resolver import ADDRESSES_MAX, NameNotResolvedError, Resolver, system_lookup
from tests.helpers import eventually_async

if TYPE_CHECKING:
    from collections.abc import Sequence


class Lookup:
    """Counts what it is asked; answers when it may."""

    def __init__(self, *answers: Sequence[str] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        await self.may_answer.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_an_answer_is_kept() -> None:
    lookup = Lookup(["192.0.2.1"], ["192.0.2.2"])
    resolver = Resolver(lookup)
    assert [await resolver.addresses("a.test") for _ in range(3)] == [("192.0.2.1",)] * 3
    assert lookup.asked == ["a.test"]


async def test_an_old_answer_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH_S", 0.0)
    resolver = Resolver(Lookup(["192.0.2.1"], ["192.0.2.2"]))
    assert await resolver.addresses("a.test") == ("192.0.2.1",)
    assert await resolver.addresses("a.test") == ("192.0.2.2",)


async def test_a_failure_is_kept_for_less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lookup = Lookup(socket.gaierror(socket.EAI_NONAME, "Name or service not known"), ["192.0.2.1"])
    resolver = Resolver(lookup)
    for _ in range(2):
        with pytest.raises(NameNotResolvedError, match=r"^The name a\.test did not resolve: Name or .*\.$"):
            await resolver.addresses("a.test")
    assert lookup.asked == ["a.test"]
    monkeypatch.setattr(module, "FAILURE_FRESH_S", 0.0)
    other = Resolver(Lookup(OSError("odd"), ["192.0.2.1"]))
    with pytest.raises(NameNotResolvedError, match="odd"):
        await other.addresses("a.test")
    assert await other.addresses("a.test") == ("192.0.2.1",)


@pytest.mark.parametrize("answer", [[], RuntimeError(), UnicodeError("label too long")])
async def test_everything_but_an_address_is_a_failure(answer: list[str] | Exception) -> None:
    with pytest.raises(NameNotResolvedError):
        await Resolver(Lookup(answer)).addresses("a.test")


async def test_concurrent_questions_are_one_look_up() -> None:
    lookup = Lookup(["192.0.2.1"])
    lookup.may_answer.clear()
    resolver = Resolver(lookup)
    asking = [asyncio.ensure_future(resolver.addresses("a.test")) for _ in range(5)]
    await asyncio.sleep(0)
    asking[0].cancel()  # who gives up does not spoil it for the others
    lookup.may_answer.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [("192.0.2.1",)] * 4
    assert lookup.asked == ["a.test"]


async def test_the_oldest_name_goes_first() -> None:
    lookup = Lookup(["192.0.2.1"])
    resolver = Resolver(lookup, names_max=2)
    for host in ("a", "b", "c", "c", "b", "a"):
        await resolver.addresses(host)
    assert lookup.asked == ["a", "b", "c", "a"]


async def test_the_addresses_of_a_name_are_bounded_and_distinct() -> None:
    many = [f"192.0.2.{n // 2}" for n in range(100)]
    assert await Resolver(Lookup(many)).addresses("a.test") == tuple(f"192.0.2.{n}" for n in range(ADDRESSES_MAX))


async def test_closing_ends_the_look_ups() -> None:
    lookup = Lookup(["192.0.2.1"])
    lookup.may_answer.clear()
    resolver = Resolver(lookup)
    asking = asyncio.ensure_future(resolver.addresses("a.test"))
    await eventually_async(lambda: lookup.asked)
    await resolver.close()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_the_system_knows_localhost() -> None:
    assert set(await system_lookup("localhost")) <= {"127.0.0.1", "::1"}
    assert await system_lookup("127.0.0.1") == ["127.0.0.1"]
