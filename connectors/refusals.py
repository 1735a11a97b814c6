"""What was refused at the receiving door, counted by source and reason, and told in the log without filling it.

The sender is told nothing of this. This file refuses nothing itself.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from schemas.signed_request import Refused

log = logging.getLogger(__name__)

#: One line at most in this time for each source and reason.
LOG_SECONDS = 10.0
#: Sources that are counted; of what nobody can make up, since unknown ones are counted together.
COUNTED_MAX = 10_000
UNKNOWN = "-"


class Refusals:
    """For one event loop. `monotonic` are seconds that never go back."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._counts: dict[str, Counter[str]] = {}
        self._logged: dict[tuple[str, str], tuple[float, int]] = {}

    def note(self, source_id: str, refused: Refused) -> None:
        """Count it, and say so unless that was said of the same just now."""
        if source_id not in self._counts and len(self._counts) >= COUNTED_MAX:
            self._counts.clear()
            self._logged.clear()
        counts = self._counts.setdefault(source_id, Counter())
        counts[refused.reason] += 1
        now = self._monotonic()
        at, told = self._logged.get((source_id, refused.reason), (-LOG_SECONDS, 0))
        if now - at < LOG_SECONDS:
            return
        count = counts[refused.reason]
        self._logged[source_id, refused.reason] = (now, count)
        log.warning("source %s refused %d (%s), the last: %s", source_id, count - told, refused.reason, refused.detail)

    def of(self, source_id: str) -> dict[str, int]:
        """How many were refused since this process started, by reason."""
        return dict(self._counts.get(source_id, ()))
