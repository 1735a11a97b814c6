"""Which subject's versions count for a writer's schema."""

from __future__ import annotations

import pytest

from schemas.subjects import subject_of


@pytest.mark.parametrize(
    ("versions", "chosen"),
    [
        ([], None),
        ([("b", 1), ("a", 2)], ("a", 2)),
        ([("a", 1), ("events-value", 4)], ("events-value", 4)),
        ([("events-value", 4), ("events-acme.Order", 3)], ("events-acme.Order", 3)),
        ([("events-value", 4), ("events-acme.Order", 3), ("acme.Order", 2)], ("acme.Order", 2)),
        ([("acme.Order", 2), ("acme.Order", 5), ("acme.Order", 3)], ("acme.Order", 5)),
    ],
)
def test_the_record_comes_before_topic_and_record_before_the_topic_before_any_other(
    versions: list[tuple[str, int]], chosen: tuple[str, int] | None
) -> None:
    assert subject_of(versions, "acme.Order", "events") == chosen
