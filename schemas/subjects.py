"""Registry subjects and their versions: what a look-up answers, and which subject an event's schema belongs to.

This file fetches nothing (`streams/ports.py:Registry` does) and parses no schema.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

#: The number that stands for the newest version that is not deleted.
LATEST = -1


class Version(NamedTuple):
    """One version of a subject: the schema's id, its number in the subject (from 1), its JSON text."""

    id: int
    version: int
    text: str


def subject_of(versions: Sequence[tuple[str, int]], full_name: str, events_topic: str) -> tuple[str, int] | None:
    """The (subject, version) among those of a writer's schema that pinned versions count in; None for none.

    The first that there is: the subject named as the record (RecordNameStrategy), as topic and record
    (TopicRecordNameStrategy), as the topic (TopicNameStrategy), any other, by name. Of several versions of the subject
    with one schema, the newest.
    """
    by_subject: dict[str, int] = {}
    for subject, version in versions:
        by_subject[subject] = max(version, by_subject.get(subject, 0))
    wanted = (full_name, f"{events_topic}-{full_name}", f"{events_topic}-value")
    if not by_subject:
        return None
    subject = next((name for name in wanted if name in by_subject), min(by_subject))
    return subject, by_subject[subject]


def no_version(subject: str, number: int) -> str:
    """The sentence that says that there is no such version."""
    which = "no version" if number == LATEST else f"no version {number}"
    return f"the subject {subject} has {which}; register it, or ask for one that `distributary schemas list` shows"
