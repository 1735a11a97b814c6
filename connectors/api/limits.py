"""Rates of calls: a token bucket for each caller, and the headers that tell of it. And places for what takes long.

In the memory of one process: several API processes each give their own rate. This file reads no clock.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from connectors.api.problems import ProblemError

#: Buckets that are kept; the one that was used longest ago gives way, and is full again.
CALLERS_MAX = 10_000


class Policy(msgspec.Struct, frozen=True):
    """So many calls a second on the average, and at once. `rate` 0: no limit."""

    rate: float
    burst: int


class Verdict(msgspec.Struct, frozen=True):
    """Whether the call may be made, how many more may now, and in how many seconds there is one more."""

    allowed: bool
    remaining: int
    seconds: int
    burst: int
    window: int

    def headers(self) -> dict[str, str]:
        """draft-ietf-httpapi-ratelimit-headers-10: the policy and what is left of it; RFC 9110, 10.2.3: when again."""
        said = {
            "RateLimit-Policy": f'"default";q={self.burst};w={self.window}',
            "RateLimit": f'"default";r={self.remaining};t={self.seconds}',
        }
        return said if self.allowed else said | {"Retry-After": str(max(1, self.seconds))}


class CallRates:
    """Buckets by caller. Times are seconds of a clock that never goes back."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, as of

    def take(self, caller: str, now: float, rate: float = 0.0) -> Verdict | None:
        """One call of this caller, whose own `rate` stands above the policy's; None where nothing is limited."""
        rate = rate or self._policy.rate
        if rate <= 0:
            return None
        burst = max(1, round(self._policy.burst * rate / self._policy.rate) if self._policy.rate else round(2 * rate))
        tokens, since = self._buckets.pop(caller, (float(burst), now))
        tokens = min(float(burst), tokens + (now - since) * rate)
        allowed = tokens >= 1
        if allowed:
            tokens -= 1
        self._buckets[caller] = (tokens, now)
        if len(self._buckets) > CALLERS_MAX:
            self._buckets.popitem(last=False)
        missing = max(0.0, 1 - tokens) / rate
        return Verdict(allowed, int(tokens), _ceiling(missing), burst, max(1, _ceiling(burst / rate)))

    def give_back(self, caller: str) -> None:
        """The last call that this caller was allowed does not count."""
        tokens, since = self._buckets.get(caller, (0.0, 0.0))
        if caller in self._buckets:
            self._buckets[caller] = (tokens + 1, since)


class Places:
    """For what takes long: so many at a time, and so many of one caller."""

    def __init__(self, of_all: int, of_each: int, refusal: str) -> None:
        """`refusal` is the sentence for who finds none."""
        self._of_all = of_all
        self._of_each = of_each
        self._refusal = refusal
        self._taken: Counter[str] = Counter()

    @contextmanager
    def place(self, caller: str) -> Iterator[None]:
        """One of them, for this caller. ProblemError 429 when there is none."""
        if self._taken.total() >= self._of_all or self._taken[caller] >= self._of_each:
            raise ProblemError(429, self._refusal, headers={"Retry-After": "5"})
        self._taken[caller] += 1
        try:
            yield
        finally:
            self._taken[caller] -= 1
            if not self._taken[caller]:
                del self._taken[caller]


def _ceiling(seconds: float) -> int:
    return int(-(-seconds // 1))
