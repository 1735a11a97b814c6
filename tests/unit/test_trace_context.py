"""What of `traceparent` and `tracestate` is valid, by the examples and rules of W3C Trace Context."""

from __future__ import annotations

import pytest

from schemas.trace_context import TRACESTATE_LENGTH_MAX, TraceContext, parse_traceparent, usable_tracestate

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),  # with the flag of level 2 that the trace id is random
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"cc-{TRACE}-{SPAN}-01-what-will-be", True),
    ],
)
def test_a_valid_one(text: str, sampled: bool) -> None:
    assert parse_traceparent(text) == TraceContext(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "00-1-2-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f" 00-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.what-will-be",
    ],
)
def test_what_is_none(text: str | None) -> None:
    assert parse_traceparent(text) is None


def test_a_tracestate_that_a_header_can_hold() -> None:
    longest = "a=" + "1" * (TRACESTATE_LENGTH_MAX - 2)
    assert usable_tracestate(" rojo=00f067aa0ba902b7,congo=t61rcWkgMzE ") == "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
    assert usable_tracestate(longest) == longest
    for bad in (None, "", "  ", longest + "1", "a=é", "a=1\r\nx: y"):
        assert usable_tracestate(bad) is None
