"""Replays in words: what is sent, how far it is, and what it costs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from connectors.api.replay_documents import replay_view
from schemas.replay import Place, Progress, Replay, Selection, Span
from streams.cli.replay_view import duration, in_full, line, plan_in_words, size, state, what

NOW = 1_700_000_000_000
ORDER = Replay(id="rpl_1", created_ms=NOW, by="cli:me@here", selection=Selection(source="events"), wanted="running")


def progress(state: Any, position: int = 50, **fields: Any) -> Progress:
    return Progress(id="rpl_1", state=state, spans=(Span("events", 0, 0, 100, position),), **fields)


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        (Selection(source="events"), "events, matched again"),
        (
            Selection(source="deliveries", subscriptions=("a", "b"), event_types=("order.*",)),
            "deliveries as they were for a, b of type order.*",
        ),
        (
            Selection(source="dead", reasons=("exhausted",), error_classes=("5xx", "timeout"), places=(Place(0, 1),)),
            "dead letters given up as exhausted last failed as 5xx, timeout 1 of them by their ids",
        ),
        (
            Selection(source="events", event_ids=tuple("abcde"), since_ms=NOW, until_ms=NOW + 1_000, replayed=True),
            (
                "events, matched again of the events a, b, c and 2 more since 2023-11-14T22:13:20.000Z "
                "before 2023-11-14T22:13:21.000Z replayed ones too"
            ),
        ),
    ],
)
def test_what_is_sent(selection: Selection, words: str) -> None:
    assert what(selection) == words


def test_from_which_offsets_on() -> None:
    said = what(Selection(source="events"), tuple(Place(partition, 7) for partition in range(5)))
    assert said == "events, matched again from 0=7, 1=7, 2=7 and 2 more on"


@pytest.mark.parametrize(
    ("wanted", "now", "words"),
    [
        ("running", progress("counting"), "counting, 50 %"),
        ("paused", progress("counting"), "counting (pausing), 50 %"),
        ("planned", progress("planned", counted=1_234), "planned, 1,234 to send"),
        (
            "running",
            progress("running", counted=1_000, sent=500, skipped=2),
            "running, 50 %, 500 of 1,000 sent, 2 skipped, about 5 s left",
        ),
        (
            "cancelled",
            progress("running", counted=1_000),
            "running (cancelling), 50 %, 0 of 1,000 sent, about 10 s left",
        ),
        ("running", progress("done", counted=5, sent=5), "done, 5 sent"),
        ("running", progress("failed", detail="there is no subscription a"), "failed, there is no subscription a"),
    ],
)
def test_how_far_it_is(wanted: Any, now: Progress, words: str) -> None:
    assert state(replay_view(msgspec.structs.replace(ORDER, wanted=wanted), now, NOW)) == words


def test_a_line_and_all_of_it() -> None:
    order = msgspec.structs.replace(ORDER, why="it was down", selection=Selection(source="dead", tenant="acme"))
    view = replay_view(order, progress("done", counted=5, counted_bytes=4_096, sent=5, finished_ms=NOW + 1_000), NOW)
    assert line(view) == ("rpl_1  2023-11-14T22:13:20.000Z  acme  dead letters  done, 5 sent  it was down", "green")
    assert in_full(view) == [
        "rpl_1  done, 5 sent",
        "  sends     dead letters",
        "  tenant    acme",
        "  ordered   2023-11-14T22:13:20.000Z by cli:me@here: it was down",
        "  pace      at most 100 a second",
        "  begun     -",
        "  counted   5 deliveries, 4.0 KiB",
        "  ended     2023-11-14T22:13:21.000Z",
    ]


def test_what_a_plan_costs() -> None:
    counted = progress("planned", counted=90_000, counted_bytes=3 << 20)
    assert plan_in_words(replay_view(ORDER, counted, NOW)) == "90,000 deliveries, 3.0 MiB, at 100 a second about 15 min"
    fast = msgspec.structs.replace(ORDER, rate_max=0.0)
    one = progress("planned", counted=1, counted_bytes=7)
    assert plan_in_words(replay_view(fast, one, NOW)) == "1 delivery, 7 bytes, as fast as it goes"


def test_sizes_and_durations() -> None:
    assert [size(each) for each in (0, 1_023, 1_024, 5 << 30)] == ["0 bytes", "1,023 bytes", "1.0 KiB", "5.0 GiB"]
    assert [duration(each) for each in (119, 120, 7_199, 7_200, 100_000)] == [
        *("119 s", "2 min", "2 h 0 min", "2 h 0 min", "27 h 47 min"),
    ]
