"""Percentiles from buckets are never too low, and too high by one bucket's width at most."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from connectors.history.histogram import PER_OCTAVE, bucket, percentile_us, upper_us


@given(st.lists(st.integers(0, 10**12), min_size=1), st.floats(0.001, 1.0))
def test_a_percentile_is_that_of_the_values_or_a_little_more(values: list[int], part: float) -> None:
    exact = max(1, sorted(values)[max(1, math.ceil(len(values) * part)) - 1])
    found = percentile_us(Counter(map(bucket, values)), part)
    assert found is not None
    assert exact * (1 - 1e-9) <= found <= exact * 2 ** (1 / PER_OCTAVE) * (1 + 1e-9)


@given(st.integers(2, 10**15))
def test_a_bucket_ends_where_the_next_one_begins(us: int) -> None:
    number = bucket(us)
    assert upper_us(number - 1) * (1 - 1e-9) < us <= upper_us(number) * (1 + 1e-9)


def test_of_nothing_there_is_none_and_no_time_is_the_least() -> None:
    assert percentile_us({}, 0.5) is None
    assert [bucket(us) for us in (-5, 0, 1, 2)] == [0, 0, 0, PER_OCTAVE]
    assert percentile_us({0: 1, 8: 1}, 0.5) == 1.0
    assert percentile_us({0: 1, 8: 1}, 0.51) == 2.0
