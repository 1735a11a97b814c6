"""A frame: the records of one partition that are handed over together, and the ledger that follows them.

Shared by the Faust transport, which makes frames, and the stages, which work on them. This file holds shapes only;
what may be committed is decided in `streams/core/ledger.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Headers = list[tuple[str, bytes | None]]

#: A record to be written: topic, key, value, partition (-1: by the key's murmur2 hash), headers. A plain tuple, since
#: hundreds of thousands of them are made a second.
Out = tuple[str, bytes | None, bytes | None, int, Headers | None]


class Record(Protocol):
    """A consumed record, as confluent_kafka.Message shapes it: kept as it is, because copying costs more than
    decoding."""

    def value(self) -> bytes | None: ...
    def key(self) -> bytes | None: ...
    def offset(self) -> int: ...
    def timestamp(self) -> tuple[int, int]:
        """(kind, milliseconds since the epoch); kind 0 means that there is none."""

    def headers(self) -> Headers | None: ...


class OffsetLedger(Protocol):
    """What a frame's consumer must tell about its offsets. One ledger per partition and assignment epoch."""

    @property
    def live(self) -> bool:
        """False once the partition was given up or lost: nothing of this epoch may be written any more."""

    @property
    def retiring(self) -> bool:
        """True once the partition is about to be given up: no more records are taken, what is under way may finish."""

    @property
    def full(self) -> bool:
        """True when no more offsets may be opened until some are finished: progress must fit into commit metadata."""

    @property
    def restoring(self) -> bool:
        """True while records may come that were finished before a restart, or that stand before such."""

    def open(self, offsets: list[int]) -> list[int]:
        """Register offsets, ascending and above all earlier ones; the returned ones were finished before a restart."""

    def finish(self, offset: int) -> None:
        """The result of this offset is durable, or will be with the next transaction that carries `progress()`."""

    def finish_all(self, offsets: Sequence[int]) -> None: ...

    def progress(self) -> tuple[int, str]:
        """(next offset to commit, metadata that names the finished offsets beyond it; at most 4,096 bytes)."""

    @property
    def pending(self) -> int:
        """How many opened offsets are not finished."""

    def retire(self) -> None:
        """`retiring` is True from now on."""

    def close(self) -> None:
        """End of the epoch: `live` is False from now on."""


class Frame:
    """Records of one partition, ascending by offset; at least one, until it is opened."""

    __slots__ = ("ledger", "partition", "records", "topic")

    def __init__(self, topic: str, partition: int, records: Sequence[Record], ledger: OffsetLedger) -> None:
        self.topic = topic
        self.partition = partition
        self.records = records
        self.ledger = ledger

    def open(self) -> list[int]:
        """Open the offsets in the ledger, once, and keep the records that were not finished before a restart; the
        offsets of the others."""
        already = self.ledger.open([record.offset() for record in self.records])
        if already:
            finished = frozenset(already)
            self.records = [record for record in self.records if record.offset() not in finished]
        return already

    def __repr__(self) -> str:
        offsets = f"{self.records[0].offset()}..{self.records[-1].offset()}" if self.records else "nothing"
        return f"Frame({self.topic}[{self.partition}] {offsets})"
