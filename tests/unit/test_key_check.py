"""Checking presented keys: right ones once, wrong ones at the same price, never many at a time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import msgspec
import pytest

from connectors.api import key_check
from connectors.api.key_check import BusyError, KeyCheck
from schemas.api_key import ApiKey, new_key, revoked, rotated

NOW = 1_790_000_000_000


class Desk:
    """A table of keys that is a dictionary, a clock that stands, and the check."""

    def __init__(self) -> None:
        self.keys: dict[str, ApiKey] = {}
        self.now_ms = NOW
        self.numbers = itertools.count(1)
        self.check = KeyCheck(self.keys.get, lambda: self.now_ms)

    def draw(self, length: int) -> bytes:
        return next(self.numbers).to_bytes(length, "big")

    def new(self, expires_ms: int = 0) -> tuple[ApiKey, str]:
        key, text = new_key(
            self.draw,
            tenant="acme",
            scopes=("events:write",),
            name="",
            created_ms=NOW,
            created_by="",
            expires_ms=expires_ms,
        )
        return self.put(key), text

    def put(self, key: ApiKey) -> ApiKey:
        self.keys[key.id] = key
        return key


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    found = Desk()
    yield found
    await found.check.close()


async def test_a_right_key_is_hashed_once(desk: Desk) -> None:
    key, text = desk.new()
    assert desk.check.known(text) is None
    assert [await desk.check.check(text) for _ in range(3)] == [key] * 3
    assert desk.check.known(text) is key
    assert desk.check.hashes == 1


async def test_a_wrong_secret_and_an_unknown_id_cost_the_same_and_are_never_remembered(desk: Desk) -> None:
    key, text = desk.new()
    _, other = desk.new()
    swapped = f"dsk_{key.id}_{other[21:]}"
    unknown = f"dsk_{'f' * 16}_{text[21:]}"
    for count, wrong in enumerate([swapped, unknown, swapped, unknown], 1):
        assert await desk.check.check(wrong) is None
        assert desk.check.hashes == count


async def test_what_has_no_form_costs_nothing(desk: Desk) -> None:
    for text in ["", "dsk_", "nothing", "dsp_x.y.z", "\udcff"]:
        assert await desk.check.check(text) is None
    assert desk.check.hashes == 0


async def test_a_change_of_the_record_counts_at_once(desk: Desk) -> None:
    key, text = desk.new()
    assert await desk.check.check(text) is key
    fewer = desk.put(msgspec.structs.replace(key, scopes=("keys:read",)))
    assert desk.check.known(text) is None
    assert await desk.check.check(text) is fewer
    desk.put(revoked(fewer, NOW))
    assert (desk.check.known(text), await desk.check.check(text)) == (None, None)
    del desk.keys[key.id]
    assert await desk.check.check(text) is None


async def test_a_key_that_changes_while_it_is_checked_is_not_taken(desk: Desk) -> None:
    key, text = desk.new()
    checking = asyncio.create_task(desk.check.check(text))
    for _ in range(2):
        await asyncio.sleep(0)
    assert desk.check.hashes == 1
    desk.put(revoked(key, NOW))
    assert await checking is None


async def test_a_remembered_key_ends_with_its_time(desk: Desk) -> None:
    key, text = desk.new(expires_ms=NOW + 10)
    assert await desk.check.check(text) is key
    desk.now_ms = NOW + 9
    assert desk.check.known(text) is key
    desk.now_ms = NOW + 10
    assert (desk.check.known(text), await desk.check.check(text)) == (None, None)


async def test_the_secret_before_a_rotation_ends_with_the_overlap(desk: Desk) -> None:
    key, before = desk.new()
    new, after = rotated(key, desk.draw, NOW, 10)
    desk.put(new)
    assert [await desk.check.check(text) for text in (before, after)] == [new, new]
    desk.now_ms = NOW + 10
    assert [await desk.check.check(text) for text in (before, after)] == [None, new]


async def test_the_same_new_key_from_many_is_hashed_once(desk: Desk) -> None:
    key, text = desk.new()
    answers = await asyncio.gather(*(desk.check.check(text) for _ in range(key_check.WAITING_MAX + 5)))
    assert answers == [key] * len(answers)
    assert desk.check.hashes == 1


async def test_who_gives_up_takes_the_answer_from_nobody(desk: Desk) -> None:
    key, text = desk.new()
    first, second = (asyncio.create_task(desk.check.check(text)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is key


async def test_guessing_cannot_fill_the_queue_without_bound(desk: Desk) -> None:
    guesses = [f"dsk_{number:016x}_{'A' * 43}" for number in range(key_check.WAITING_MAX)]
    waiting = [asyncio.create_task(desk.check.check(guess)) for guess in guesses]
    await asyncio.sleep(0)
    key, text = desk.new()
    with pytest.raises(BusyError):
        await desk.check.check(text)
    assert not any(await asyncio.gather(*waiting))
    assert await desk.check.check(text) is key


async def test_known_keys_are_served_while_others_guess(desk: Desk) -> None:
    key, text = desk.new()
    await desk.check.check(text)
    waiting = [asyncio.create_task(desk.check.check(f"dsk_{n:016x}_{'A' * 43}")) for n in range(key_check.WAITING_MAX)]
    await asyncio.sleep(0)
    assert await desk.check.check(text) is key
    assert not all(task.done() for task in waiting)


async def test_what_is_remembered_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_check, "REMEMBERED_MAX", 2)
    texts = [desk.new()[1] for _ in range(3)]
    for text in (texts[0], texts[1], texts[0], texts[2]):  # the second is the one used longest ago
        assert await desk.check.check(text)
    assert [desk.check.known(text) is not None for text in texts] == [True, False, True]


async def test_closing_gives_up_what_waits(desk: Desk) -> None:
    _, text = desk.new()
    waiting = asyncio.create_task(desk.check.check(text))
    await asyncio.sleep(0)
    await desk.check.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
