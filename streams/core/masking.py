"""Credentials that an endpoint sends back: struck out of what is kept of its answers.

Echo services, proxies and debug pages repeat the request's headers, and what is kept of an answer is in `attempts`, in
dead letters and in what everybody prints. This file does not know where credentials come from.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from schemas.post import PostDone, PostResult

#: Shorter values are words, not credentials: striking them out would make answers unreadable and hide nothing.
LENGTH_MIN = 8
STRUCK = b"***"


class Mask:
    """Strikes out some values."""

    __slots__ = ("_values",)

    def __init__(self, values: Iterable[str]) -> None:
        # The longest first: one may be a part of another, and would leave the rest of it.
        known = {value.encode() for value in values if len(value) >= LENGTH_MIN}
        self._values = sorted(known, key=len, reverse=True)

    def __bool__(self) -> bool:
        """Whether there is anything to strike out."""
        return bool(self._values)

    def apply(self, excerpt: bytes) -> bytes:
        """The bytes without any of the values, nor the beginning of one that the excerpt's end cuts off."""
        for value in self._values:
            excerpt = excerpt.replace(value, STRUCK)
        for value in self._values:
            for length in range(min(len(value) - 1, len(excerpt)), LENGTH_MIN - 1, -1):
                if excerpt.endswith(value[:length]):
                    return excerpt[:-length] + STRUCK
        return excerpt


def masked(mask: Mask, done: PostDone, result: PostResult) -> None:
    """Hand a result on, as `done` would get it, without the values in its excerpt."""
    if result.excerpt:
        result = msgspec.structs.replace(result, excerpt=mask.apply(result.excerpt))
    done(result)
