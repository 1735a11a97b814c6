"""The system's time and randomness: the only file that reads either.

Everything else gets them as arguments (the `Clock` port), so that tests and the simulation decide both.
Nothing here waits: sleeping belongs to the event loop of whoever needs it.
"""

from __future__ import annotations

import random
import time


class SystemClock:
    """The clock of the machine, and its generator of random numbers."""

    def now_ms(self) -> int:
        """Wall-clock milliseconds since the epoch; may jump when the machine's clock is set."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds that never go back, from an arbitrary start."""
        return time.monotonic()

    def jitter(self) -> float:
        """Uniform in [0, 1). Spreads retries; not for secrets."""
        return random.random()  # nosec B311
