"""What the demo shows while it runs: a live table on a terminal, plain lines elsewhere. All on stderr."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streams.cli.demo_audit import Result, Tally
from streams.cli.demo_plan import TARGETS
from streams.cli.output import note, watching

REFRESHES_A_SECOND = 8
#: Without a terminal, a line for every so many parts of the whole.
PARTS = 4


class View:
    """Follows a tally."""

    def __init__(self, tally: Tally, total_events: int) -> None:
        self._tally = tally
        self._total_events = total_events
        self._told = 0
        self.sent = 0
        self._live = Live(console=watching, refresh_per_second=REFRESHES_A_SECOND, get_renderable=self._table)

    def __enter__(self) -> Self:
        if watching.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if watching.is_terminal:
            self._live.stop()

    def advanced(self) -> None:
        """Something was settled."""
        if watching.is_terminal or not self._tally.expected:
            return
        settled = len(self._tally.settled)
        part = settled * PARTS // len(self._tally.expected)
        if part > self._told:
            self._told = part
            note(f"{settled} of {len(self._tally.expected)} deliveries are settled")

    def _table(self) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for column in ("endpoint", "settled", "of", "retries"):
            table.add_column(column, justify="left" if column == "endpoint" else "right")
        wanted = {target.id: 0 for target in TARGETS}
        for each in self._tally.expected.values():
            wanted[each.target.id] += 1
        for target in TARGETS:
            done = self._tally.by_target[target.id]
            style = "green" if done == wanted[target.id] else ""
            retries = self._tally.retries[target.id]
            table.add_row(
                target.id, Text(str(done), style=style), str(wanted[target.id]), str(retries) if retries else ""
            )
        return Group(Text(f"{self.sent} of {self._total_events} events sent"), table)


def show_result(result: Result, problems: list[str]) -> None:
    """The end, for people."""
    latency = "" if result.p50_ms is None else f"; event to POST p50 {result.p50_ms} ms, p99 {result.p99_ms} ms"
    note(
        f"{result.events} events, {result.deliveries} deliveries: {result.delivered} delivered, {result.dead} dead,"
        f" {result.retried} retried, {result.attempts} attempts, {result.lost} lost,"
        f" {result.invalid_signatures} badly signed{latency}",
        style="bold red" if problems else "bold green",
    )
    for problem in problems:
        note(problem, style="red")
