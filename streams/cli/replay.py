"""`distributary replay`: its commands.

What each does is in files of their own.
"""

from __future__ import annotations

import typer

from streams.cli.replay_offsets import offsets

app = typer.Typer(help="Send again what was sent before.", no_args_is_help=True)
app.command("offsets")(offsets)
