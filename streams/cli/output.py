"""Printing: answers go to stdout, everything that is only for people who watch goes to stderr.

What comes from Kafka is printed without control characters, so that a record cannot write to somebody's terminal as
it likes. This file knows no records.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

#: C0, DEL and C1: escape sequences begin with one of them. And the marks that reorder text.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

watching = Console(stderr=True, highlight=False)
answers = Console(highlight=False)


def clean(text: str) -> str:
    """Without anything that a terminal would obey."""
    return _CONTROL.sub("·", text)


def emit(document: Any) -> None:
    """One JSON document on one line of stdout."""
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_NON_STR_KEYS).decode() + "\n")
    sys.stdout.flush()


def say(text: str, style: str = "") -> None:
    """One line of the answer on stdout; on a terminal cut to its width."""
    line = Text(clean(text), style=style)
    if answers.is_terminal:
        answers.print(line, no_wrap=True, overflow="ellipsis", crop=True)
    else:
        sys.stdout.write(line.plain + "\n")
        sys.stdout.flush()


def note(text: str, style: str = "dim") -> None:
    """One line on stderr, for people who watch."""
    watching.print(Text(clean(text), style=style), soft_wrap=True)


def complain(text: str) -> None:
    """An error's sentence on stderr."""
    watching.print(Text.assemble(("error: ", "bold red"), clean(text)), soft_wrap=True)


class Steps:
    """Progress of one long thing; nothing is shown when stderr is no terminal."""

    def __init__(self, progress: Progress, title: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total)

    def at(self, completed: int, total: int | None = None, title: str | None = None) -> None:
        """So much is done."""
        self._progress.update(self._task, completed=completed, total=total, description=title)


@contextmanager
def steps(title: str, total: int | None = None) -> Iterator[Steps]:
    """Show progress while the block runs, and remove it after."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=watching, transient=True, disable=not watching.is_terminal) as progress:
        yield Steps(progress, title, total)


def many(count: int, noun: str, nouns: str = "") -> str:
    """So many of them, as 1 delivery or 1,200 deliveries; `nouns` where an s is not enough."""
    return f"{count:,} {noun if count == 1 else nouns or f'{noun}s'}"
