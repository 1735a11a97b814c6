"""Rotating secrets: the new one in front, the old one for a while, and none that has expired."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InvalidSubscriptionError
from schemas.rotation import OVERLAP_MS, OVERLAP_MS_MAX, expiries, rotated, without_expired
from schemas.subscription import Subscription, checked
from tests.unit.stages import subscription

NOW = 1_800_000_000_000
DAY = 24 * 3600 * 1000


def whsec(number: int) -> str:
    return "whsec_" + base64.b64encode(bytes([number]) * 32).decode()


def whsk(number: int) -> str:
    return "whsk_" + base64.b64encode(bytes([number]) * 32).decode()


def having(*secrets: str, expire_ms: tuple[int, ...] = ()) -> Subscription:
    return subscription(secrets=secrets, secrets_expire_ms=expire_ms)


def test_both_sign_for_a_day_and_the_new_one_stands_first() -> None:
    after = rotated(having(whsec(1)), whsec(2), NOW)
    assert after.secrets == (whsec(2), whsec(1))
    assert after.secrets_expire_ms == (0, NOW + DAY)
    assert (OVERLAP_MS, after.updated_ms) == (DAY, NOW)


def test_without_overlap_the_old_one_is_gone() -> None:
    after = rotated(having(whsec(1), whsec(3), expire_ms=(0, NOW + 5)), whsec(2), NOW, 0)
    assert (after.secrets, after.secrets_expire_ms) == ((whsec(2),), ())


def test_rotating_again_does_not_keep_an_older_one_for_longer() -> None:
    once = rotated(having(whsec(1)), whsec(2), NOW, 1_000)
    twice = rotated(once, whsec(3), NOW + 500, 10_000)
    assert (twice.secrets, twice.secrets_expire_ms) == ((whsec(3), whsec(2), whsec(1)), (0, NOW + 10_500, NOW + 1_000))
    late = rotated(twice, whsec(4), NOW + 1_000, 500)
    assert (late.secrets, late.secrets_expire_ms) == ((whsec(4), whsec(3), whsec(2)), (0, NOW + 1_500, NOW + 1_500))


def test_each_kind_is_rotated_by_itself() -> None:
    both = having(whsec(1), whsk(1))
    assert rotated(both, whsk(2), NOW).secrets_expire_ms == (0, 0, NOW + DAY)
    assert rotated(both, whsk(2), NOW).secrets == (whsk(2), whsec(1), whsk(1))
    assert rotated(both, whsec(2), NOW).secrets_expire_ms == (0, NOW + DAY, 0)
    assert rotated(having(whsec(1)), whsk(2), NOW).secrets_expire_ms == ()  # nothing was replaced


def test_more_than_five_in_force_are_refused_with_the_way_out() -> None:
    five = having(*(whsec(n) for n in range(5)), expire_ms=(0, *(NOW + n for n in range(1, 5))))
    with pytest.raises(InvalidSubscriptionError, match=r"5 are in force.*wait until one expires.*overlap of 0"):
        rotated(five, whsec(9), NOW)
    assert len(rotated(five, whsec(9), NOW + 1).secrets) == 5
    assert rotated(five, whsec(9), NOW, 0).secrets == (whsec(9),)


@pytest.mark.parametrize("overlap_ms", [-1, OVERLAP_MS_MAX + 1])
def test_an_overlap_out_of_bounds(overlap_ms: int) -> None:
    with pytest.raises(InvalidSubscriptionError, match="overlap: not between"):
        rotated(having(whsec(1)), whsec(2), NOW, overlap_ms)


def test_the_secret_in_force_is_no_new_one() -> None:
    with pytest.raises(InvalidSubscriptionError, match="give another one") as error:
        rotated(having(whsec(1)), whsec(1), NOW)
    assert whsec(1) not in str(error.value)


def test_what_has_expired_is_left_out_at_the_next_write() -> None:
    one = having(whsec(2), whsec(1), expire_ms=(0, NOW))
    assert without_expired(one, NOW - 1) is one
    assert without_expired(one, NOW) == having(whsec(2))
    assert expiries(having(whsec(1), whsec(2), expire_ms=(7,))) == (7, 0)


@given(st.lists(st.tuples(st.integers(0, 3 * DAY), st.integers(0, 2 * DAY), st.booleans()), max_size=20))
def test_however_it_is_rotated_it_stays_valid_and_something_signs(steps: list[tuple[int, int, bool]]) -> None:
    one, now = having(whsec(0)), NOW
    for number, (wait_ms, overlap_ms, private) in enumerate(steps, 1):
        now += wait_ms
        try:
            one = rotated(one, whsk(number) if private else whsec(number), now, overlap_ms)
        except InvalidSubscriptionError:
            continue
        checked(one)
        assert all(at_ms == 0 or at_ms > now for at_ms in expiries(one))
        kinds = [secret[:5] for secret, at_ms in zip(one.secrets, expiries(one), strict=True) if at_ms == 0]
        assert len(kinds) == len(set(kinds))
        assert "whsec" in kinds
