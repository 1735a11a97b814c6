"""Discarding dead letters: the table of marks on `dead.marks`, and making one, for the HTTP API and the command line.

A mark is written with the pen, in one transaction with its audit record. This file does not know which dead letters a
mark is about (`streams/core/dead.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from connectors.keyed import KeyedTable
from connectors.pen import Pen
from schemas.audit import Asked, audit_out, audit_record
from schemas.dead_mark import MARK_PREFIX, DeadMark, End, checked_mark, decode_mark, encode_mark
from schemas.frame import Out
from schemas.replay import Selection

KIND = "dead_letters"
#: Marks that the keys of one tenant make within `MARK_MS`; those of operators are not counted. Each is held in memory,
#: and asked about each dead letter of the tenant.
MARKS_MAX = 1_000
#: As long as Kafka keeps them (`schemas.topics`).
MARK_MS = 60 * 86_400_000


class TooManyMarksError(Exception):
    """The tenant has made as many as it may; one sentence with the next step."""


class DeadMarksTable(KeyedTable[DeadMark]):
    """The key of a record is the mark's id, its value a framed dead_mark.v1."""

    def __init__(self, conf: Mapping[str, Any], topic: str) -> None:
        super().__init__(
            conf,
            topic,
            what="mark",
            key="the mark's id",
            decode=decode_mark,
            id_of=lambda mark: mark.id,
            keep_offsets=True,
        )

    def marks(self) -> list[DeadMark]:
        """All of them."""
        return list(self._by_id.values())


class MarkTopics(NamedTuple):
    """Where the records go, and what stands before them (`schemas.codec.wire_header`)."""

    marks: str
    marks_header: bytes
    audit: str
    audit_header: bytes


class DeadDesk:
    """`marks` are all there are; `draw` makes a text that nobody else has."""

    def __init__(
        self, pen: Pen, topics: MarkTopics, marks: Callable[[], Iterable[DeadMark]], draw: Callable[[], str]
    ) -> None:
        self._pen = pen
        self._marks = marks
        self._topics = topics
        self._draw = draw

    async def discard(self, asked: Asked, selection: Selection, why: str, ends: Mapping[int, int]) -> DeadMark:
        """Mark what the selection selects below these offsets, by partition. InvalidMarkError;
        TooManyMarksError; the errors of `Pen.change`."""
        mark = checked_mark(
            DeadMark(
                id=f"{MARK_PREFIX}{self._draw()}",
                at_ms=asked.at_ms,
                by=asked.principal.actor,
                why=why,
                selection=selection,
                ends=tuple(End(partition, offset) for partition, offset in sorted(ends.items())),
            )
        )
        topics = self._topics
        record = audit_record(asked, "discarded", KIND, mark.id, selection.tenant, None, mark)

        def decide() -> list[Out]:
            self._check_count(asked)
            return [
                (topics.marks, mark.id.encode(), encode_mark(topics.marks_header, mark), -1, None),
                audit_out(topics.audit, topics.audit_header, record),
            ]

        await self._pen.change(decide)
        return mark

    def _check_count(self, asked: Asked) -> None:
        tenant = asked.principal.tenant
        if tenant is None:
            return
        times = [mark.at_ms for mark in self._marks() if mark.selection.tenant == tenant]
        if sum(asked.at_ms - at_ms < MARK_MS for at_ms in times) >= MARKS_MAX:
            raise TooManyMarksError(
                f"dead letters were discarded {MARKS_MAX:,} times within {MARK_MS // 86_400_000} days; "
                "ask an operator to discard more, and discard many at once, with filters or all"
            )
