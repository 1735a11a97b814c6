"""How much work filters do: lines of their code that run, which no other load on the machine changes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
CODE = (str(ROOT / "schemas/filter_"), str(ROOT / "streams/core/filter"))
#: Lines for any pattern whatever: it is bounded by the size of patterns, not by what was given.
PARSE_STEPS_MAX = 300_000


def steps(call: Callable[[], object]) -> int:
    """The lines of filters' code that `call` runs."""
    count = 0

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return line

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        return line if frame.f_code.co_filename.startswith(CODE) else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        call()
    finally:
        sys.settrace(before)
    return count
