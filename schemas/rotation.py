"""Rotating a signing secret without a moment in which a receiver that has either one refuses.

Pure: times and the new secret are arguments. This file draws no secret, seals nothing (`schemas/sealing.py`) and writes
nothing.
"""

from __future__ import annotations

import msgspec

from schemas.credentials import PRIVATE, SECRETS_MAX
from schemas.errors import InvalidSubscriptionError
from schemas.subscription import Subscription

OVERLAP_MS = 24 * 3600 * 1000
OVERLAP_MS_MAX = 30 * OVERLAP_MS


def expiries(subscription: Subscription) -> tuple[int, ...]:
    """When each secret expires, by position; 0 for never."""
    given = subscription.secrets_expire_ms
    return given + (0,) * (len(subscription.secrets) - len(given))


def without_expired(subscription: Subscription, now_ms: int) -> Subscription:
    """The subscription without the secrets that have expired; for whoever writes it next."""
    both = list(zip(subscription.secrets, expiries(subscription), strict=True))
    left = [(secret, at_ms) for secret, at_ms in both if not 0 < at_ms <= now_ms]
    return subscription if left == both else _with(subscription, left)


def rotated(subscription: Subscription, new_secret: str, now_ms: int, overlap_ms: int = OVERLAP_MS) -> Subscription:
    """With a new secret in front, and those of its kind that it replaces signing for `overlap_ms` longer, or not at all
    with 0. A `whsk_` key replaces private keys, any other secret the symmetric ones.

    Give the subscription opened and seal what comes back: the kind of a sealed secret cannot be seen, and counts as the
    symmetric one. InvalidSubscriptionError when more than `SECRETS_MAX` would be in force.
    """
    if not 0 <= overlap_ms <= OVERLAP_MS_MAX:
        raise InvalidSubscriptionError("overlap: not between 0 and 30 days")
    ends_ms = now_ms + overlap_ms
    kept = [(new_secret, 0)]
    for secret, at_ms in zip(subscription.secrets, expiries(subscription), strict=True):
        if secret == new_secret:
            raise InvalidSubscriptionError("secrets: the new secret is one of those in force; give another one")
        if _is_private(secret) == _is_private(new_secret):
            kept.append((secret, min(at_ms or ends_ms, ends_ms)))
        else:
            kept.append((secret, at_ms))
    kept = [(secret, at_ms) for secret, at_ms in kept if not 0 < at_ms <= now_ms]
    if len(kept) > SECRETS_MAX:
        raise InvalidSubscriptionError(
            f"secrets: {SECRETS_MAX} are in force, replaced ones among them; wait until one expires, or end all that"
            " are replaced now with an overlap of 0"
        )
    return msgspec.structs.replace(_with(subscription, kept), updated_ms=now_ms)


def _is_private(secret: str) -> bool:
    return secret.startswith(PRIVATE)


def _with(subscription: Subscription, secrets: list[tuple[str, int]]) -> Subscription:
    times = tuple(at_ms for _, at_ms in secrets)
    return msgspec.structs.replace(
        subscription,
        secrets=tuple(secret for secret, _ in secrets),
        secrets_expire_ms=times if any(times) else (),
    )
