"""What a worker counts: names and reasons in one place, so that a log line, a test and a metric agree.

This file does not publish anything.
"""

from __future__ import annotations

from collections import Counter

#: `name` or `name:reason`, as `quarantined:truncated`. Bounded: reasons are closed sets.
Counters = Counter[str]


def line(counters: Counters) -> str:
    """For a log: sorted `name=count` pairs."""
    return " ".join(f"{name}={count}" for name, count in sorted(counters.items())) or "nothing yet"
