"""Discarding dead letters: the table of marks on `dead.marks`, and making one, for the HTTP API and the command line.

A mark is written with the pen, in one transaction with its audit record. This file does not know which dead letters a
mark is about (`streams/core/dead.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from connectors.keyed import KeyedTable
from connectors.pen import Pen
from schemas.audit import Asked, audit_out, audit_record
from schemas.dead_mark import MARK_PREFIX, DeadMark, End, checked_mark, decode_mark, encode_mark
from schemas.frame import Out
from schemas.replay import Selection

KIND = "dead_letters"


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
    """`draw` makes a text that nobody else has."""

    def __init__(self, pen: Pen, topics: MarkTopics, draw: Callable[[], str]) -> None:
        self._pen = pen
        self._topics = topics
        self._draw = draw

    async def discard(self, asked: Asked, selection: Selection, why: str, ends: Mapping[int, int]) -> DeadMark:
        """Mark what the selection selects below these offsets, by partition. InvalidMarkError; the errors of
        `Pen.change`."""
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
            return [
                (topics.marks, mark.id.encode(), encode_mark(topics.marks_header, mark), -1, None),
                audit_out(topics.audit, topics.audit_header, record),
            ]

        await self._pen.change(decide)
        return mark
