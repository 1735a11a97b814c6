"""Latencies as counts in buckets that grow geometrically, so percentiles of any window are sums of counts.

A value's bucket is a whole number that databases can add up; what a percentile reads too high is one bucket's width at
most, 9 %. Nothing is sorted and no value is kept. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

#: Each bucket ends 2 ** (1 / 8) times later than the one before.
PER_OCTAVE = 8
HOUR_MS = 3_600_000

#: What is measured: one POST, and an event from its record in Kafka to the end of the POST that delivered it.
KINDS = ("attempt", "delivered")


def bucket(us: int) -> int:
    """The bucket of a latency in microseconds; all below 1 are in the first."""
    return math.ceil(math.log2(us) * PER_OCTAVE) if us > 1 else 0


def upper_us(number: int) -> float:
    """The largest latency of a bucket, in microseconds."""
    return float(2 ** (number / PER_OCTAVE))


def percentile_us(counts: Mapping[int, int], part: float) -> float | None:
    """A latency that at least this part of the values do not exceed (nearest rank), one bucket too high at most; None
    without values."""
    total = sum(counts.values())
    if not total:
        return None
    rank = max(1, math.ceil(total * part))
    seen = 0
    for number in sorted(counts):
        seen += counts[number]
        if seen >= rank:
            return upper_us(number)
    raise AssertionError("the counts add up to their sum")
