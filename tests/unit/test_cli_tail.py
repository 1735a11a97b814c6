"""`tail`: how operations of either version are said in a line."""

from __future__ import annotations

from typing import Any

import pytest

from streams.cli.tail import one_line

FIELDS: dict[str, Any] = {"subscription_id": "", "tenant": "", "at_ms": 1, "reason": "", "detail": ""}


@pytest.mark.parametrize(
    ("fields", "said", "style"),
    [
        (
            {"kind": "endpoint.disabled", "subscription_id": "a", "tenant": "acme", "reason": "gone"},
            "endpoint.disabled  a  of acme  gone",
            "red",
        ),
        (
            {"kind": "dead_letters.written", "subscription_id": "a", "tenant": "acme", "detail": "2 gone", "count": 2},
            "dead_letters.written  a  of acme  2 gone  2 in all",
            "red",
        ),
        ({"kind": "quarantine.grew", "reason": "avro", "count": 3}, "quarantine.grew    avro  3 in all", "yellow"),
        ({"kind": "replay.finished", "replay_id": "rpl_1", "reason": "done"}, "replay.finished    rpl_1  done", ""),
    ],
)
def test_an_operation_in_a_line(fields: dict[str, Any], said: str, style: str) -> None:
    document = {"timestamp": "T", "value": FIELDS | fields}
    assert one_line("operations", document) == (f"T  {said}", style)
