"""Settings of consumers that read for themselves: in no group, from where they are told, without commits.

Whoever makes one adds how much it fetches and how long it waits. This file makes no consumer.
"""

from __future__ import annotations

from typing import Any


def unsubscribed(name: str) -> dict[str, Any]:
    """librdkafka's, to be put behind those of the connection. Records are read committed; the end of a partition is
    told; where retention has removed the wanted offset, reading goes on with what is left."""
    return {
        "group.id": f"distributary-{name}",  # required, and unused: no subscription, no commit
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
    }
