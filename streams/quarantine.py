"""Quarantine: the record that keeps what cannot be decoded or routed, with its original key, value and headers and why.

Used by every stage, so that each bad record is counted, logged and kept in the same way; and what is written when one
of them is resent or discarded. This file does not decide what is bad, or what is mended.
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
_MARKS = (SOURCE_TOPIC, SOURCE_PARTITION, SOURCE_OFFSET, REASON, DETAIL)

#: Headers of a record that was resent: where it first stood. They stay, also when it comes back and is resent again.
ORIGINAL_TOPIC = "distributary-original-topic"
ORIGINAL_PARTITION = "distributary-original-partition"
ORIGINAL_OFFSET = "distributary-original-offset"
#: Header of a marker: a record without a value, in the partition of the quarantined record that it says was resent,
#: with that record's offset.
RESENT = "distributary-resent"
#: The same of one that was discarded, with who and why.
DISCARDED = "distributary-discarded"
BY = "distributary-by"
WHY = "distributary-why"


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


def resent(
    place: tuple[str, int, int], source: tuple[str, int, int], key: bytes | None, value: bytes | None, headers: Headers
) -> list[Out]:
    """What is written to resend the quarantined record at `place`, and says so: both or neither, in one transaction.

    `source` is where it stood, as (topic, partition, offset): it goes to the same partition again, with its key, so
    that records of one key stay in one place whatever partitioner their producer has. `headers` are those of the
    quarantined record.
    """
    topic, partition, offset = source
    kept = [(name, data) for name, data in headers if name not in _MARKS]
    if not any(name == ORIGINAL_TOPIC for name, _ in kept):
        kept += [
            (ORIGINAL_TOPIC, topic.encode()),
            (ORIGINAL_PARTITION, str(partition).encode()),
            (ORIGINAL_OFFSET, str(offset).encode()),
        ]
    marker: Headers = [(RESENT, str(place[2]).encode())]
    return [(topic, key, value, partition, kept), (place[0], key, None, place[1], marker)]


def discarded(place: tuple[str, int, int], key: bytes | None, by: str, why: str) -> Out:
    """The marker that says who discarded the quarantined record at `place`, and why. The record stays."""
    topic, partition, offset = place
    marker: Headers = [(DISCARDED, str(offset).encode()), (BY, by.encode()), (WHY, why.encode())]
    return (topic, key, None, partition, marker)
