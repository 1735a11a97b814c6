"""The record that keeps what cannot be decoded or routed: original key, value and headers, and why it is here.

This file does not decide what is bad.
"""

from __future__ import annotations

from schemas.frame import Headers, Out

#: Headers added to the original ones.
SOURCE_TOPIC = "distributary-source-topic"
SOURCE_PARTITION = "distributary-source-partition"
SOURCE_OFFSET = "distributary-source-offset"
REASON = "distributary-reason"
DETAIL = "distributary-detail"
DETAIL_LENGTH_MAX = 1_000


def quarantined(
    quarantine_topic: str,
    source: tuple[str, int, int],
    key: bytes | None,
    value: bytes | None,
    headers: Headers | None,
    reason: str,
    detail: str,
) -> Out:
    """The record for the quarantine topic. `source` is (topic, partition, offset)."""
    topic, partition, offset = source
    marks: Headers = [
        (SOURCE_TOPIC, topic.encode()),
        (SOURCE_PARTITION, str(partition).encode()),
        (SOURCE_OFFSET, str(offset).encode()),
        (REASON, reason.encode()),
        (DETAIL, detail[:DETAIL_LENGTH_MAX].encode()),
    ]
    return (quarantine_topic, key, value, -1, [*(headers or ()), *marks])
