"""What is known of dead letters besides their records, for the API and the command line.

The rules are in `streams/core/dead.py`; this file follows no topic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from connectors.dead_marks import MarkTopics
from schemas.codec import wire_header
from schemas.dead_letter import Filed
from schemas.dead_mark import DeadMark
from schemas.replay import Progress, Replay, Selection
from schemas.topics import Topics
from streams.core.dead import Acts, acts, candidate
from streams.core.replay import error_class, selects
from streams.wiring import OwnSchemas


class DeadJudge:
    """Implements `connectors.dead_documents.Judge`. `dead_topic` is the full name of `deliveries.dead`."""

    def __init__(
        self,
        dead_topic: str,
        replays: Callable[[], Iterable[tuple[Replay, Progress | None]]],
        marks: Callable[[], Iterable[DeadMark]],
    ) -> None:
        self._topic = dead_topic
        self._replays = replays
        self._marks = marks

    def chosen(self, selection: Selection) -> Callable[[Filed], bool]:
        """See the protocol."""
        selected = selects(selection)
        return lambda filed: selected(candidate(filed))

    def acts(self) -> Acts:
        """See the protocol."""
        return acts(self._topic, self._replays(), self._marks())

    def error_class(self, filed: Filed) -> str:
        """See the protocol."""
        return error_class(filed.letter.last)


def mark_topics(topics: Topics, own: OwnSchemas) -> MarkTopics:
    """Where marks go, with the ids of our schemas."""
    return MarkTopics(topics.dead_marks, wire_header(own.dead_mark), topics.audit, wire_header(own.audit_record))
