"""W3C Trace Context: what `traceparent` and `tracestate` say, read strictly.

Whatever is not valid counts as not there (Trace Context, section 3.2.2.3): a trace must never cost an event. This file
makes no spans (`streams/ports.py`, Tracer) and passes nothing on by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
#: Section 3.3.1.5: at least so much should be passed on. More is left out as a whole, since a part of it means nothing.
TRACESTATE_LENGTH_MAX = 512

#: What a span does: something inside, a request to another, work on a message.
Kind = Literal["internal", "client", "consumer"]
#: What is said of it, by the names of OpenTelemetry's semantic conventions or ours, which begin with `distributary.`.
Attributes = Mapping[str, str | int | bool]

#: Versions above 00 may go on after the flags (section 3.2.4).
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACESTATE = re.compile(r"[\x20-\x7e]+")


class TraceContext(NamedTuple):
    """A span somewhere: its trace, itself, and whether it is recorded. The ids are 32 and 16 hexadecimal digits."""

    trace_id: str
    span_id: str
    sampled: bool


def parse_traceparent(text: str | None) -> TraceContext | None:
    """The context, or None where there is none that is valid."""
    found = _TRACEPARENT.fullmatch(text) if text else None
    if found is None or (found[1] == "00" and found[5]):
        return None
    return TraceContext(found[2], found[3], bool(int(found[4], 16) & 1))


def usable_tracestate(text: str | None) -> str | None:
    """A `tracestate` that may stand in a header; None for one that is empty, too long or not printable ASCII."""
    text = text.strip() if text else ""
    return text if len(text) <= TRACESTATE_LENGTH_MAX and _TRACESTATE.fullmatch(text) else None
