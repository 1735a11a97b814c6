"""Discarding dead letters on a pen in memory: how often the keys of a tenant may."""

from __future__ import annotations

from collections.abc import Hashable
from typing import cast

import pytest

from connectors import dead_marks
from connectors.dead_marks import MARK_MS, DeadDesk, MarkTopics, TooManyMarksError
from connectors.pen import Decide, Pen
from schemas.access import SCOPES, Principal
from schemas.audit import Asked
from schemas.codec import wire_header
from schemas.dead_mark import DeadMark, decode_mark
from schemas.replay import Selection
from schemas.topics import Topics

TOPICS = Topics()
NOW = 1_767_600_000_000


class Marks:
    """The table, and the pen that writes into it at once."""

    def __init__(self) -> None:
        self.by_id: dict[str, DeadMark] = {}

    async def change(self, decide: Decide, *, about: Hashable = None) -> None:
        for topic, key, value, _, _ in decide():
            if topic == TOPICS.dead_marks:
                self.by_id[(key or b"").decode()] = decode_mark(value)

    def marks(self) -> list[DeadMark]:
        return list(self.by_id.values())


async def test_how_often_the_keys_of_a_tenant_discard_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_marks, "MARKS_MAX", 3)
    table = Marks()
    topics = MarkTopics(TOPICS.dead_marks, wire_header(1), TOPICS.audit, wire_header(2))
    desk = DeadDesk(cast(Pen, table), topics, table.marks, lambda: str(len(table.by_id)))

    async def discard(tenant: str | None, of: str, at_ms: int = NOW) -> None:
        principal = Principal(actor="key:1", tenant=tenant, scopes=frozenset(SCOPES))
        await desk.discard(Asked(principal=principal, at_ms=at_ms), Selection(source="dead", tenant=of), "why", {0: 1})

    for _ in range(3):
        await discard("a", "a")
    with pytest.raises(TooManyMarksError, match="3 times within 60 days"):
        await discard("a", "a")
    await discard("b", "b")
    await discard(None, "a")
    with pytest.raises(TooManyMarksError):
        await discard("a", "a", NOW + MARK_MS - 1)
    await discard("a", "a", NOW + MARK_MS)
    assert len(table.by_id) == 6
