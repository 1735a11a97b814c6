"""What the audit shows people, on stderr: lines while it runs, tables at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from streams.cli.audit_faults import Made
from streams.cli.audit_judge import Verdict
from streams.cli.output import note


def show_progress(seconds: float, sent: int, events: int, ended: int, expected: int, workers: int) -> None:
    """How far it is."""
    note(f"{seconds:6.1f} s  {sent} of {events} events, {ended} of {expected} deliveries ended, {workers} workers run")


def show_verdict(verdict: Verdict, made: Sequence[Made], workers_ended: int) -> None:
    """The tables, and the sentences."""
    _show_table(_endpoints(verdict))
    _show_table(_faults(verdict, made))
    result = verdict.result
    latency = "" if result.p50_ms is None else f"; event to POST p50 {result.p50_ms} ms, p99 {result.p99_ms} ms"
    note(
        f"{result.expected} deliveries: {result.delivered} delivered, {result.dead} dead, {result.pending} pending,"
        f" {result.lost} lost, {result.duplicates} duplicates ({result.duplicate_rate:.4%}), {result.faults} faults,"
        f" {workers_ended} workers ended unasked{latency}",
        style="bold red" if verdict.problems else "bold green",
    )
    for problem in verdict.problems:
        note(problem, style="red")


def _show_table(rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as they need to be, wherever it is shown; the first row is the header."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for number, row in enumerate(cells):
        first, *others = (
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        note("  ".join((first, *others)), style="dim" if number == 0 else "")


def _endpoints(verdict: Verdict) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = [
        ("endpoints", "", "expected", "delivered", "dead", "pending", "lost", "duplicates", "POSTs", "attempts")
    ]
    for kind, row in sorted(verdict.by_kind.items()):
        sums = (row.expected, row.delivered, row.dead, row.pending, row.lost, row.duplicates, row.posts, row.attempts)
        rows.append((kind, row.endpoints, *(number or "" for number in sums)))
    return rows


def _faults(verdict: Verdict, made: Sequence[Made]) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = [("faults", "made", "seconds", "duplicates")]
    counts = Counter(each.fault.kind for each in made)
    for kind, count in sorted(counts.items()):
        seconds = sum(each.end_ms - each.start_ms for each in made if each.fault.kind == kind) / 1000
        rows.append((kind, count, f"{seconds:.0f}", verdict.by_fault[kind] or ""))
    if verdict.by_fault[""]:
        rows.append(("no fault", "", "", verdict.by_fault[""]))
    return rows
