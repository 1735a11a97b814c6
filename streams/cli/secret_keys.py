"""`distributary secret-keys new`: a key to seal secrets with."""

from __future__ import annotations

import base64
import datetime
import secrets
from typing import Annotated

import typer

from connectors.clock import SystemClock
from schemas.credentials import KEY_ID_PATTERN
from schemas.sealing import KEY_BYTES
from streams.cli.options import AsJson
from streams.cli.output import emit, say

app = typer.Typer(help="Keys that the secrets of subscriptions are sealed with.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """A group, also with one command."""


@app.command("new")
def new(
    id_: Annotated[
        str | None, typer.Option("--id", help="Its id, part of every text that it seals; default: by the day")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it as a line of the file that DISTRIBUTARY_SECRET_KEYS_FILE names. It is kept nowhere.

    Put it first in the file, so that it seals; leave those before it in, so that what they sealed still opens, until
    `distributary subscriptions reencrypt` is through.

    Example: distributary secret-keys new > keys
    """
    if id_ is None:
        today = datetime.datetime.fromtimestamp(SystemClock().now_ms() / 1000, datetime.UTC)
        id_ = f"k{today:%Y-%m-%d}"
    elif not KEY_ID_PATTERN.fullmatch(id_):
        raise typer.BadParameter("not 1 to 64 characters of A-Z a-z 0-9 _ -", param_hint="--id")
    key = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    if as_json:
        emit({id_: key})
    else:
        say(f"{id_}:{key}")
