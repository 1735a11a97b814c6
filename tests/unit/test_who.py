"""Who calls: keys and links become principals, everything else the same refusal, and guessing is slowed down."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from connectors.api.key_check import WAITING_MAX, KeyCheck
from connectors.api.limits import Policy
from connectors.api.problems import ProblemError
from connectors.api.who import Who, neighbourhood
from schemas.access import Principal
from schemas.api_key import ApiKey, new_key, revoked
from schemas.portal import PortalSigner

NOW = 1_790_000_000_000
HERE, ELSEWHERE = "192.0.2.1", "192.0.2.2"


class Hall:
    """Keys in a dictionary, clocks that stand, and the one who knows."""

    def __init__(self) -> None:
        self.keys: dict[str, ApiKey] = {}
        self.now_ms = NOW
        self.monotonic = 100.0
        self.numbers = itertools.count(1)
        self.portal = PortalSigner([b"s" * 32], "here")
        self.check = KeyCheck(self.keys.get, lambda: self.now_ms)
        self.who = self.made(self.portal)

    def made(self, portal: PortalSigner | None) -> Who:
        clocks: dict[str, Any] = {"now_ms": lambda: self.now_ms, "monotonic": lambda: self.monotonic}
        return Who(self.keys.get, self.check, portal, failures=Policy(rate=0.5, burst=3), **clocks)

    def new(self, tenant: str | None = "acme", *scopes: str, **fields: Any) -> tuple[ApiKey, str]:
        key, text = new_key(
            lambda length: next(self.numbers).to_bytes(length, "big"),
            tenant=tenant,
            scopes=scopes or ("events:write", "subscriptions:read"),
            name="",
            created_ms=NOW,
            created_by="",
            **fields,
        )
        self.keys[key.id] = key
        return key, text

    def link(self, key: ApiKey, tenant: str = "acme", *scopes: str) -> str:
        given = scopes or ("subscriptions:read",)
        return self.portal.issue("l1", tenant=tenant, scopes=given, key=key.id, now_ms=NOW, life_ms=1_000)[1]

    async def refused(self, token: str, remote: str = HERE) -> ProblemError:
        with pytest.raises(ProblemError) as refusal:
            await self.who.principal(token, remote)
        return refusal.value


@pytest.fixture
async def hall() -> AsyncIterator[Hall]:
    found = Hall()
    yield found
    await found.check.close()


async def test_a_key_is_its_principal(hall: Hall) -> None:
    key, text = hall.new(rate=5.0)
    scopes = frozenset({"events:write", "subscriptions:read"})
    expected = Principal(actor=f"key:{key.id}", tenant="acme", scopes=scopes, key_id=key.id, rate=5.0)
    assert [await hall.who.principal(text, HERE) for _ in range(2)] == [expected] * 2
    _, text = hall.new(None)
    assert (await hall.who.principal(text, HERE)).tenant is None


async def test_every_token_that_is_not_valid_gets_the_same_answer(hall: Hall) -> None:
    ended, expired = hall.new(expires_ms=NOW + 1)
    gone, gone_text = hall.new()
    hall.keys[gone.id] = revoked(gone, NOW)
    hall.now_ms = NOW + 1
    answers = []
    for token in [expired, gone_text, f"dsk_{'f' * 16}_{'A' * 43}", "nonsense", "dsp_1.2.3", hall.link(ended)]:
        hall.monotonic += 100
        error = await hall.refused(token)
        answers.append((error.status, error.detail, error.headers))
    assert answers == [answers[0]] * len(answers)
    status, detail, headers = answers[0]
    assert (status, headers) == (401, {"WWW-Authenticate": 'Bearer realm="distributary", error="invalid_token"'})
    assert not any(key_id in detail for key_id in hall.keys)


async def test_a_link_can_do_what_it_was_given_as_long_as_its_key_can(hall: Hall) -> None:
    key, _ = hall.new(rate=7.0)
    token = hall.link(key)
    expected = Principal(
        actor="link:l1", tenant="acme", scopes=frozenset({"subscriptions:read"}), key_id=key.id, rate=7.0
    )
    assert await hall.who.principal(token, HERE) == expected
    hall.keys[key.id] = msgspec.structs.replace(key, scopes=("events:write",))
    assert (await hall.who.principal(token, HERE)).scopes == frozenset()
    hall.keys[key.id] = revoked(key, NOW)
    assert (await hall.refused(token)).status == 401
    del hall.keys[key.id]
    assert (await hall.refused(token)).status == 401


async def test_a_link_of_an_operator_is_of_its_tenant_and_one_of_a_tenant_of_no_other(hall: Hall) -> None:
    operator, _ = hall.new(None)
    assert (await hall.who.principal(hall.link(operator), HERE)).tenant == "acme"
    other, _ = hall.new("other")
    assert (await hall.refused(hall.link(other))).status == 401


async def test_without_a_secret_there_are_no_links(hall: Hall) -> None:
    key, _ = hall.new()
    hall.who = hall.made(None)
    assert (await hall.refused(hall.link(key))).status == 401


async def test_who_guesses_is_slowed_down_and_nothing_is_computed_for_them(hall: Hall) -> None:
    _, known = hall.new()
    await hall.who.principal(known, HERE)
    guesses = (f"dsk_{number:016x}_{'A' * 43}" for number in itertools.count(1_000))
    for _ in range(3):
        assert (await hall.refused(next(guesses))).status == 401
    computed = hall.check.hashes
    for _ in range(2):
        error = await hall.refused(next(guesses))
        assert (error.status, error.headers["Retry-After"]) == (429, "2")
    _, unseen = hall.new()
    assert (await hall.refused(unseen)).status == 429
    assert (await hall.refused("dsp_1.2.3")).status == 429
    assert hall.check.hashes == computed
    await hall.who.principal(known, HERE)  # who is known is not held up by neighbours
    await hall.who.principal(unseen, ELSEWHERE)  # nor is another address
    hall.monotonic += 2
    assert (await hall.refused(next(guesses))).status == 401
    assert (await hall.refused(next(guesses))).status == 429


async def test_a_key_that_is_guessed_at_from_many_addresses_is_slowed_down_too(hall: Hall) -> None:
    key, text = hall.new()
    _, seen = hall.new()
    await hall.who.principal(seen, HERE)
    for number, id_ in enumerate((key.id, "f" * 16, seen.split("_")[1])):  # one that there is not is no different
        for address in range(3):
            wrong = f"dsk_{id_}_{'A' * 43}"
            assert (await hall.refused(wrong, f"198.51.{number}.{address}")).status == 401
        computed = hall.check.hashes
        error = await hall.refused(wrong, f"198.51.{number}.9")
        assert (error.status, error.detail) == (429, "too many tries of this key were not valid; try again in 2 s")
        assert hall.check.hashes == computed
    assert (await hall.refused(text)).status == 429
    await hall.who.principal(seen, ELSEWHERE)  # whose key was seen to be right is not held up
    await hall.who.principal(hall.new()[1], ELSEWHERE)
    hall.monotonic += 2
    await hall.who.principal(text, ELSEWHERE)


async def test_right_keys_count_for_nothing(hall: Hall) -> None:
    for _ in range(10):
        await hall.who.principal(hall.new()[1], HERE)


async def test_when_too_many_are_checked_who_comes_is_told_to_come_again(hall: Hall) -> None:
    guesses = [hall.check.check(f"dsk_{number:016x}_{'A' * 43}") for number in range(WAITING_MAX)]
    waiting = [asyncio.create_task(guess) for guess in guesses]
    await asyncio.sleep(0)
    error = await hall.refused(hall.new()[1])
    assert (error.status, error.headers) == (429, {"Retry-After": "1"})
    assert not any(await asyncio.gather(*waiting))


@pytest.mark.parametrize(
    ("remote", "place"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_the_neighbourhood_of_an_address(remote: str, place: str) -> None:
    assert neighbourhood(remote) == place
