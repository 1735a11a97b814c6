"""Replays in words, for people who watch them.

What is shown as JSON is the view of the HTTP API (`connectors/api/replay_documents.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from connectors.api.replay_documents import ReplayView
from schemas.replay import Place, Selection
from streams.cli.output import many
from streams.cli.values import iso

_SOURCES = {"events": "events, matched again", "deliveries": "deliveries as they were", "dead": "dead letters"}
_STYLES = {"done": "green", "failed": "red", "cancelled": "yellow", "paused": "yellow"}


def line(view: ReplayView) -> tuple[str, str]:
    """One line of a list, and its style."""
    whose = view.tenant or "all tenants"
    why = f"  {view.why}" if view.why else ""
    return (
        f"{view.id}  {iso(view.created_ms)}  {whose}  {what(view.selection, view.starts)}  {state(view)}{why}",
        style(view),
    )


def style(view: ReplayView) -> str:
    """Its colour."""
    return _STYLES.get(view.state, "")


def state(view: ReplayView) -> str:
    """How far it is."""
    said = [view.state if view.wanted == view.state or view.state in _STYLES else _going(view)]
    if view.state in ("counting", "running", "paused"):
        said.append(f"{view.percent:.0f} %")
    if view.sent or view.state in ("running", "done"):
        of = f" of {view.counted:,}" if view.counted is not None and view.state != "done" else ""
        said.append(f"{view.sent:,}{of} sent")
    elif view.counted is not None:
        said.append(f"{view.counted:,} to send")
    if view.skipped:
        said.append(f"{view.skipped:,} skipped")
    if view.seconds_left is not None and view.state in ("running", "paused"):
        said.append(f"about {duration(view.seconds_left)} left")
    if view.detail:
        said.append(view.detail)
    return ", ".join(said)


def _going(view: ReplayView) -> str:
    """The state, and what it becomes."""
    wanted = {"paused": "pausing", "cancelled": "cancelling"}.get(view.wanted)
    return f"{view.state} ({wanted})" if wanted else view.state


def what(selection: Selection, starts: Sequence[Place] = ()) -> str:
    """What is sent again."""
    said = [_SOURCES[selection.source]]
    for name, words in (
        ("subscriptions", "for"),
        ("event_types", "of type"),
        ("event_ids", "of the events"),
        ("reasons", "given up as"),
        ("error_classes", "last failed as"),
    ):
        if found := getattr(selection, name):
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            said.append(f"{words} {', '.join(found[:3])}{more}")
    if selection.places:
        said.append(f"{len(selection.places)} of them by their ids")
    if starts:
        more = f" and {len(starts) - 3} more" if len(starts) > 3 else ""
        said.append(f"from {', '.join(f'{each.partition}={each.offset}' for each in starts[:3])}{more} on")
    if selection.since_ms is not None:
        said.append(f"since {iso(selection.since_ms)}")
    if selection.until_ms is not None:
        said.append(f"before {iso(selection.until_ms)}")
    if selection.replayed:
        said.append("replayed ones too")
    return " ".join(said)


def plan_in_words(view: ReplayView) -> str:
    """The cost of a plan that is counted."""
    seconds = "" if view.seconds_left is None else f" about {duration(view.seconds_left)}"
    pace = f"at {view.rate_max:g} a second{seconds}" if view.rate_max else "as fast as it goes"
    counted = view.counted or 0
    return f"{many(counted, 'delivery', 'deliveries')}, {size(view.counted_bytes or 0)}, {pace}"


def in_full(view: ReplayView) -> list[str]:
    """Lines that say all that people ask."""
    said = [
        f"{view.id}  {state(view)}",
        f"  sends     {what(view.selection, view.starts)}",
        f"  tenant    {view.tenant or 'all'}",
        f"  ordered   {iso(view.created_ms)} by {view.by}" + (f": {view.why}" if view.why else ""),
        f"  pace      {f'at most {view.rate_max:g} a second' if view.rate_max else 'as fast as it goes'}",
        f"  begun     {iso(view.started_ms)}",
    ]
    if view.counted is not None:
        said.append(f"  counted   {many(view.counted, 'delivery', 'deliveries')}, {size(view.counted_bytes or 0)}")
    if view.finished_ms:
        said.append(f"  ended     {iso(view.finished_ms)}")
    return said


def document(view: ReplayView) -> Any:
    """As the HTTP API shows it."""
    return msgspec.to_builtins(view)


def size(count: int) -> str:
    """Bytes, as people read them."""
    amount, units = float(count), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return many(count, "byte") if units[0] == "bytes" else f"{amount:.1f} {units[0]}"


def duration(seconds: int) -> str:
    """As 45 s, 12 min or 3 h 20 min."""
    if seconds < 120:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
