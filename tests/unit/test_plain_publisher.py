"""What the publisher without transactions holds back. How it writes, the conformance suite of publishers shows."""

from __future__ import annotations

import pytest

from connectors.plain_publisher import in_order
from schemas.frame import Out


def record(topic: str, value: bytes | None) -> Out:
    return (topic, b"key", value, 0, None)


RESULT, LETTER, MARK, FENCE = (
    record("attempts", b"a"),
    record("dead", b"d"),
    record("parked", None),
    record("log", None),
)


@pytest.mark.parametrize(
    ("records", "parts"),
    [
        ([], [[]]),
        ([RESULT, LETTER], [[RESULT, LETTER]]),
        ([RESULT, MARK, LETTER, FENCE], [[RESULT, LETTER], [MARK, FENCE]]),
        ([FENCE], [[], [FENCE]]),
    ],
)
def test_what_says_that_something_is_over_is_written_after_what_became_of_it(
    records: list[Out], parts: list[list[Out]]
) -> None:
    assert in_order(records) == parts
