"""Options that commands share, and the settings that come of them.

This file does not say what a setting does (`streams/settings.py`).
"""

from __future__ import annotations

import datetime
import getpass
import os
import socket
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from connectors.registry_client import ConfluentRegistry
from connectors.registry_folder import FolderRegistry
from streams.cli.running import CommandError
from streams.settings import Settings
from streams.wiring import make_registry

_CLUSTER = "Cluster"

Bootstrap = Annotated[
    str | None,
    typer.Option(
        envvar="DISTRIBUTARY_BOOTSTRAP", help="Kafka's bootstrap servers: host:port,host:port", rich_help_panel=_CLUSTER
    ),
]
Prefix = Annotated[
    str | None,
    typer.Option(envvar="DISTRIBUTARY_PREFIX", help="Put before every topic and group name", rich_help_panel=_CLUSTER),
]
RegistryUrl = Annotated[
    str | None,
    typer.Option(
        envvar="DISTRIBUTARY_REGISTRY_URL",
        help="A Confluent-compatible schema registry; default: our own schemas, and those of DISTRIBUTARY_SCHEMAS",
        rich_help_panel=_CLUSTER,
    ),
]
Store = Annotated[
    str | None,
    typer.Option(
        envvar="DISTRIBUTARY_HISTORY",
        show_default="sqlite:///distributary-history.db",
        help="The database of attempts: sqlite:///file, sqlite:////folder/file or postgresql://user@host/database",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON lines, for programs")]


def actor() -> str:
    """Who runs this command, for the audit trail."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in containers
        user = str(os.getuid())
    return f"cli:{user}@{socket.gethostname()}"


def load_settings(**given: Any) -> Settings:
    """The settings, where an option that was given wins over the environment, and that over the file. CommandError."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        said = first["msg"].removeprefix("Value error, ")
        raise CommandError(
            f"the setting {name} is wrong: {said}; correct its option, DISTRIBUTARY_{name.upper()} or distributary.toml"
        ) from None
    except SettingsError as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise CommandError(f"{error}{cause}; it must be JSON") from None
    except tomllib.TOMLDecodeError as error:
        raise CommandError(f"distributary.toml is not TOML: {error}; correct it") from None


def time_option_ms(text: str, option: str) -> int:
    """Milliseconds since the epoch of an RFC 3339 time. BadParameter."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time such as 2026-08-01T12:00:00Z", param_hint=option) from None
    if moment.tzinfo is None:
        raise typer.BadParameter(f"{text!r} has no time zone; add Z or an offset", param_hint=option)
    return int(moment.timestamp() * 1000)


@asynccontextmanager
async def open_registry(settings: Settings) -> AsyncIterator[FolderRegistry | ConfluentRegistry]:
    """The registry of the settings, closed at the end."""
    registry = make_registry(settings)
    assert isinstance(registry, FolderRegistry | ConfluentRegistry)
    try:
        yield registry
    finally:
        await registry.close()
