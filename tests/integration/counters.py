"""A table of counters on a compacted topic, and a process that counts with the pen until it is killed.

As a process: `counters.py BOOTSTRAP TOPIC PEN NAME` adds one to the counter NAME for ever, and prints each sum that was
acknowledged.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from connectors.clock import SystemClock
from connectors.compacted import Follower
from connectors.pen import Pen
from schemas.frame import Out


class Counters(Follower[tuple[str, int]]):
    """Follows the topic; a value is the sum as text."""

    def __init__(self, conf: dict[str, Any], topic: str) -> None:
        self.sums: dict[str, int] = {}
        self.decided: dict[str, int] = {}
        super().__init__(conf, topic, what="counter", decode=_decoded, apply=self._apply_sum, keep_offsets=True)

    def adding(self, name: str, *, most: int = 10**9) -> Callable[[], list[Out]]:
        """To be decided: one more, kept in `decided`: when it is acknowledged, others may have added to the sum.

        OverflowError at `most`.
        """

        def decide() -> list[Out]:
            before = self.sums.get(name, 0)
            if before >= most:
                raise OverflowError(f"{name} is {before}")
            self.decided[name] = before + 1
            return [(self.topic, name.encode(), str(before + 1).encode(), 0, None)]

        return decide

    def _apply_sum(self, change: tuple[str, int] | str) -> tuple[str, int] | None:
        if isinstance(change, str):
            self.sums.pop(change, None)
        else:
            self.sums[change[0]] = change[1]
        return None


def _decoded(key: bytes | None, value: bytes | None) -> tuple[str, int] | str:
    name = (key or b"").decode()
    return name if value is None else (name, int(value.rstrip()))


async def main(bootstrap: str, topic: str, pen_id: str, name: str) -> None:
    conf = {"bootstrap.servers": bootstrap}
    table = Counters(conf, topic)
    await table.start()
    pen = Pen(conf, pen_id, [table], SystemClock().jitter)
    await pen.start()
    while True:
        await pen.change(table.adding(name))
        sys.stdout.write(f"{table.decided[name]}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
