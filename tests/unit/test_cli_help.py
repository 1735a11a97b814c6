"""Help is broken into lines by the terminal it is shown in."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from streams.cli.root import app


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("dev", "find it. With a cluster named by --bootstrap, that one is used."),
        ("dev", "Example: distributary dev --data-dir .distributary"),
        ("secret-keys new", "still opens, until `distributary subscriptions reencrypt` is through."),
    ],
)
def test_the_lines_of_the_docstrings_are_not_kept(command: str, line: str) -> None:
    output = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"}).output
    shown = re.sub(r"\x1b\[[0-9;]*m", "", output)  # colours, where they are forced
    assert line in shown
