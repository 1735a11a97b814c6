"""The list of commands: it says what they say of themselves, and costs nothing that is not needed for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from streams.cli.commands import COMMANDS, Commands
from streams.cli.root import app


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_the_command_says_of_itself(name: str) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, Commands)
    command = group.get_command(None, name)
    first, _, _ = command.help.partition("\n\n")
    assert " ".join(first.split()) == COMMANDS[name].summary
    assert (command.name, command.rich_help_panel) == (name, COMMANDS[name].panel)


@pytest.mark.parametrize(
    ("words", "needless"),
    [
        (["--help"], {"aiohttp", "pydantic_settings", "fastavro", "cryptography"}),
        (["schemas", "check", "--help"], {"aiohttp", "faust", "opentelemetry"}),
        (["topics", "check", "--help"], {"aiohttp", "faust", "opentelemetry"}),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_help_imports_nothing_that_it_does_not_need(words: list[str], needless: set[str]) -> None:
    code = (
        "import atexit, sys; from streams.cli import main;"
        "atexit.register(lambda: print('imported:', *sys.modules)); main()"
    )
    plain = os.environ | {"_TYPER_FORCE_DISABLE_TERMINAL": "1"}  # also where colours are forced, as on GitHub
    run = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, timeout=120, env=plain
    )
    shown, _, imported = run.stdout.rpartition("imported:")
    assert "Usage: distributary" in shown
    assert "streams.cli.commands" in imported.split()
    assert not needless & set(imported.split())


def test_what_is_mistyped_is_guessed() -> None:
    said = CliRunner().invoke(app, ["subscription"])
    assert said.exit_code == 2
    assert "subscriptions" in said.output
