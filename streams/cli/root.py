"""The `distributary` command: its options, and the place where errors become sentences."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from streams.cli.commands import Commands
from streams.cli.running import report

app = typer.Typer(
    cls=Commands,
    help="Kafka in, webhooks out.\n\nSettings: options, then DISTRIBUTARY_* variables, then distributary.toml.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _State:
    """What the root's options say."""

    debug = False


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks", envvar="DISTRIBUTARY_DEBUG")] = False,
) -> None:
    """The options of every command."""
    _State.debug = debug


def main() -> None:
    """The entry point. Exit codes: 0, 1 for an error, 2 for wrong usage, 130 when interrupted."""
    try:
        app(prog_name="distributary")
    except Exception as error:  # noqa: BLE001 - whatever it is, people get a sentence
        report(error, debug=_State.debug)
        sys.exit(1)
