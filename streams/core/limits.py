"""How much an endpoint is sent: so many a second, and so many at a time.

Each class is one limit of one endpoint and knows nothing of the others; whoever starts POSTs asks all that apply. This
file reads no clock, holds no deliveries, and does not say when to stop altogether (`streams/core/breaker.py`).
"""

from __future__ import annotations

from math import isqrt


class TokenBucket:
    """At most `rate_per_s` takes a second, and `burst` at once after a pause.

    Kept as the time at which the bucket is full again (the generic cell rate algorithm), so nothing is refilled. Times
    are seconds of a clock that is never set back.
    """

    __slots__ = ("_full_s", "_interval_s", "_slack_s", "burst", "rate_per_s")

    def __init__(self, rate_per_s: float, burst: float) -> None:
        """ValueError when the rate is not above 0, or the burst is below 1."""
        if not 0 < rate_per_s < float("inf"):
            raise ValueError("rate_per_s must be above 0")
        if not 1 <= burst < float("inf"):
            raise ValueError("burst must be at least 1")
        self.rate_per_s = rate_per_s
        self.burst = burst
        self._interval_s = 1 / rate_per_s
        # A microsecond more: who waits for just as long as told must not be told to wait for a rounding error.
        self._slack_s = (burst - 1) / rate_per_s + 1e-6
        self._full_s = float("-inf")

    def wait_s(self, now_s: float) -> float:
        """Seconds until there is a token; 0.0 when there is one."""
        return max(0.0, self._full_s - self._slack_s - now_s)

    def take(self, now_s: float) -> None:
        """Take a token. Without one it is owed, and the next wait is longer by as much."""
        self._full_s = max(self._full_s, now_s) + self._interval_s


class GradientLimit:
    """How many POSTs may be under way, found out by their latency; of the family of TCP Vegas.

    While the median of a window of POSTs is near the floor (what the endpoint takes when it is not queueing ours), the
    limit grows, if it is used: it doubles until latency says for the first time that ours wait, and then grows by its
    root. When the median is well above, ours wait there, and the limit shrinks by about what waits. A POST without an
    answer shrinks it too. So it comes to rest where the endpoint is busy and little waits: one to one and a half times
    what it serves at a time.

    The floor follows what is measured down. It is learnt anew at half the limit now and then, and when the endpoint
    seems to be faster; and whenever the limit is at its least: an endpoint that has become slower for good drops it
    there, and it grows from there again.

    Answers that come together find fewer and fewer under way, as do the last ones of a burst of work, which have waited
    longest. So all of a window count, and the limit as used when one of them found it used up.
    """

    __slots__ = (
        "_above", "_doubling", "_exact", "_floor_us", "_samples", "_skip", "_used", "_windows", "limit", "limit_max",
        "limit_min",
    )  # fmt: skip

    #: A window is two rounds of the limit, and at least so many POSTs.
    WINDOW_MIN = 8
    #: Up to so much above the floor is near it; from so much on, POSTs wait. Between, the limit stays.
    NEAR = 1.25
    FAR = 1.5
    #: The part of the way that the floor goes down to a lower median: one lucky window is not believed.
    FLOOR_STEP = 0.3
    #: Below this part of the floor, the endpoint has become faster, and the floor is learnt anew at once.
    FASTER = 0.6
    #: What is left of the limit after a POST without an answer. Those under way then do not count again.
    FAILED = 0.7
    #: So many windows from one learning of the floor to the next.
    RELEARN_WINDOWS = 35

    def __init__(self, limit_max: int, limit_min: int = 1) -> None:
        """It starts at the least. ValueError unless 1 <= limit_min <= limit_max."""
        if not 1 <= limit_min <= limit_max:
            raise ValueError("limit_min must be at least 1, and limit_max at least as much")
        self.limit_max = limit_max
        self.limit_min = limit_min
        self.limit = limit_min
        self._exact = float(limit_min)
        self._floor_us = 1.0
        self._samples: list[int] = []
        self._used = False  # whether one of the samples found the limit used up
        self._doubling = True  # no window since the limit was at its least was above the floor
        self._skip = 0  # POSTs still to come that began under another limit
        self._windows = 0
        self._above: float | None = None  # the limit to return to, while the floor is learnt below it

    def observe(self, duration_us: int, in_flight: int, ok: bool) -> None:
        """What became of one POST: how long it took, how many were under way when it ended, itself included, and
        whether it says how fast the endpoint is. False for time-outs, failures and answers like 429."""
        if self._skip > 0:
            self._skip -= 1
            return
        if not ok:
            self._above = None
            self._doubling = False
            self._become(self._exact * self.FAILED, in_flight)
            return
        samples = self._samples
        samples.append(duration_us)
        if in_flight >= self.limit:
            self._used = True
        if len(samples) >= self.WINDOW_MIN and len(samples) >= 2 * self.limit:
            self._judge(in_flight)

    def _judge(self, in_flight: int) -> None:
        """Draw the conclusion of a window."""
        self._samples.sort()
        median = max(self._samples[len(self._samples) // 2], 1)
        used = self._used
        self._samples.clear()
        self._used = False
        if self._above is not None:
            self._floor_us = median
            exact, self._above = self._above, None
        elif self.limit == self.limit_min:
            self._floor_us = median
            self._doubling = True
            exact = self._exact + 1 if used else self._exact
        else:
            faster = median < self.FASTER * self._floor_us
            exact = self._exact if faster else self._adapted(median, used)
            self._windows += 1
            if faster or self._windows >= self.RELEARN_WINDOWS:
                self._windows = 0
                self._above = exact
                exact /= 2
        self._become(exact, in_flight)

    def _adapted(self, median_us: float, used: bool) -> float:
        if median_us < self._floor_us:
            self._floor_us += (median_us - self._floor_us) * self.FLOOR_STEP
        above_floor = median_us / self._floor_us
        self._doubling = self._doubling and above_floor <= self.NEAR
        if above_floor > self.FAR:
            return self._exact * max(self.NEAR / above_floor, 0.5)
        if above_floor <= self.NEAR and used:
            return self._exact + (self.limit if self._doubling else isqrt(self.limit))
        return self._exact

    def _become(self, exact: float, in_flight: int) -> None:
        self._exact = min(max(exact, self.limit_min), self.limit_max)
        limit = int(self._exact)
        if limit == self.limit:
            return
        self.limit = limit
        self._skip = in_flight - 1  # the others under way
        self._samples.clear()
        self._used = False


class SlowStart:
    """How many POSTs may be under way to an endpoint that has just come back: one, and one more for each success."""

    __slots__ = ("limit", "limit_max")

    def __init__(self, limit_max: int) -> None:
        self.limit = 1
        self.limit_max = limit_max

    def succeeded(self) -> None:
        """An endpoint that takes what it gets may get more."""
        if self.limit < self.limit_max:
            self.limit += 1


def parse_allowed_rate(text: str | None) -> float | None:
    """POSTs a second that an endpoint asks for with `WebHook-Allowed-Rate`; None when it asks for no limit.

    CloudEvents 1.0, HTTP webhook binding, section 4.2.2: a positive number of requests a minute, or an asterisk. What
    is neither asks for nothing.
    """
    text = text.strip() if text else ""
    if not (text.isascii() and text.isdigit()):
        return None
    return int(text[:10]) / 60 or None
