"""Quarantine: the record that keeps what cannot be decoded or routed, with its original key, value and headers and why.

Used by every stage, so that each bad record is counted, logged and kept in the same way. This file does not decide what
is bad.
"""

from __future__ import annotations

import logging

from schemas.errors import UndecodableError
from schemas.frame import Headers, Out, Record
from streams.counters import Counters

logger = logging.getLogger(__name__)

#: Headers added to the original ones.
SOURCE_TOPIC = "distributary-source-topic"
SOURCE_PARTITION = "distributary-source-partition"
SOURCE_OFFSET = "distributary-source-offset"
REASON = "distributary-reason"
DETAIL = "distributary-detail"
DETAIL_LENGTH_MAX = 1_000


def quarantined(
    quarantine_topic: str, topic: str, partition: int, record: Record, error: UndecodableError, counters: Counters
) -> Out:
    """Count and log a bad record of this topic and partition; the record for the quarantine topic."""
    counters[f"quarantined:{error.reason}"] += 1
    logger.warning("quarantined %s[%s]@%s: %s (%s)", topic, partition, record.offset(), error.detail, error.reason)
    marks: Headers = [
        (SOURCE_TOPIC, topic.encode()),
        (SOURCE_PARTITION, str(partition).encode()),
        (SOURCE_OFFSET, str(record.offset()).encode()),
        (REASON, error.reason.encode()),
        (DETAIL, error.detail[:DETAIL_LENGTH_MAX].encode()),
    ]
    return (quarantine_topic, record.key(), record.value(), -1, [*(record.headers() or ()), *marks])
