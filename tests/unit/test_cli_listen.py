"""What `distributary listen` prints of an event for programs."""

from __future__ import annotations

import json

import pytest

from schemas.event import Event
from streams.cli.listen import document
from streams.cli.output import emit


def test_an_event_is_one_line_however_its_data_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    data = b'{\r\n  "text": "a\\nb",\n  "sum": 1.10\n}'
    emit(document(Event("e1", "order.created", "acme", 1_700_000_000_000, data)))
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "\r" not in printed
    assert json.loads(printed)["data"] == json.loads(data)
    assert '"sum": 1.10' in printed  # to the last digit
