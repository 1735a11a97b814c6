"""Help is broken into lines by the terminal it is shown in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from streams.cli.root import app


def helps(commands: typer.Typer) -> Iterator[str]:
    for command in commands.registered_commands:
        assert command.help, command.name
        yield command.help
    for group in commands.registered_groups:
        assert group.typer_instance is not None
        yield from helps(group.typer_instance)


@pytest.mark.parametrize("text", list(helps(app)))
def test_a_paragraph_is_one_line(text: str) -> None:
    assert all("\n" not in paragraph for paragraph in text.split("\n\n"))


def test_a_wide_terminal_shows_it_so() -> None:
    shown = typer.unstyle(CliRunner().invoke(app, ["dev", "--help"], env={"COLUMNS": "200"}).output)
    assert "find it. With a cluster named by --bootstrap, that one is used." in shown
    assert "Example: distributary dev --data-dir .distributary" in shown
