"""`dead`: how dead letters are shown, as a line, as a page, and counted.

This file reads no topic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from connectors.dead_documents import DeadDocument, DeadView, PayloadView, Tally, TryView
from streams.cli.output import clean, many
from streams.cli.values import iso

STYLES = {"open": "red", "retried": "green", "discarded": "dim"}


def one_line(view: DeadView) -> tuple[str, str]:
    """(line, style)."""
    came = str(view.status or view.cause or view.detail or "-")
    what = f"{view.delivery_id} → {view.subscription_id}  {view.event_type}  {view.event_id}"
    line = f"{view.id}  {iso(view.dead_ms)}  {view.state:<9}  {view.reason}  {came}  {what}  of {view.tenant}"
    return line, STYLES[view.state]


def page(it: DeadDocument) -> Iterator[str]:
    """All about it, for people."""
    yield _row("letter", f"{it.id}  {it.state}")
    yield _row("died", f"{iso(it.dead_ms)}  {it.reason}" + (f": {it.detail}" if it.detail else ""))
    if it.hint:
        yield _row("look at", it.hint)
    about = f", about {it.subject}" if it.subject else ""
    yield _row("event", f"{it.event_id}  {it.event_type}  of {it.tenant}{about}  {iso(it.event_time_ms)}")
    again = f", sent by {it.replay}" if it.replay else ""
    yield _row("delivery", f"{it.delivery_id} → {it.subscription_id}  {many(it.attempts, 'attempt')}{again}")
    for each in it.tries:
        yield _row(f"  #{each.number}", _try(each))
    for act in it.acts:
        yield _row(act.state, f"{iso(act.at_ms)}  by {act.by}  {act.id}" + (f": {act.why}" if act.why else ""))
    for name, value in it.headers.items():
        yield _row("header", f"{name}: {value}")
    yield _row("payload", f"{it.content_type}  {many(it.payload_bytes, 'byte')}")
    yield from _payload(it.payload)


def counts(tally: Tally, unreadable: int) -> Iterator[str]:
    """Counted, for people."""
    states = ", ".join(f"{tally.states[state]:,} {state}" for state in STYLES)
    yield f"{many(tally.count, 'dead letter')}: {states}; {many(tally.payload_bytes, 'byte')} of payload"
    if not tally.count:
        return
    yield _row("from", f"{iso(tally.oldest_ms)} to {iso(tally.newest_ms)}")
    yield _row("reasons", _most(tally.reasons))
    yield _row("failed as", _most(tally.error_classes))
    for each in tally.subscriptions():
        yield _row("for", f"{each.id} of {each.tenant}: {each.count:,}, {each.open:,} open")
    if unreadable:
        yield _row("and", f"{many(unreadable, 'record')}, no dead letter")


def document(tally: Tally, unreadable: int) -> dict[str, object]:
    """Counted, for programs."""
    names = ("count", "payload_bytes", "states", "reasons", "error_classes", "oldest_ms", "newest_ms")
    found: dict[str, object] = {name: getattr(tally, name) for name in names}
    return found | {"subscriptions": msgspec.to_builtins(tally.subscriptions()), "unreadable": unreadable}


def _most(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counted.items(), key=lambda each: -each[1]))


def _try(each: TryView) -> str:
    said = f"  {each.excerpt!r}" if each.excerpt else ""
    hint = f"  ({each.hint})" if each.hint else ""
    return f"{iso(each.started_ms)}  {each.status or each.cause}  {each.duration_us / 1000:,.0f} ms{said}{hint}"


def _payload(view: PayloadView) -> Iterator[str]:
    if view.form == "json":
        text = msgspec.json.format(msgspec.json.encode(view.content), indent=2).decode()
    else:
        text = view.content if view.form == "text" else f"base64: {view.content}"
    for line in text.splitlines():
        yield clean(f"{'':12}{line}")
    if view.cut:
        yield f"{'':12}… (--raw writes all)"


def _row(name: str, text: str) -> str:
    return clean(f"{name:<12}{text}")
