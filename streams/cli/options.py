"""Options that commands share, and the settings that come of them.

This file does not say what a setting does (`streams/settings.py`).
"""

from __future__ import annotations

import datetime
import difflib
import getpass
import os
import re
import socket
import tomllib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from connectors.registry_client import ConfluentRegistry
from connectors.registry_folder import FolderRegistry
from streams.cli.running import CommandError
from streams.settings import Settings
from streams.wiring import make_registry

_CLUSTER = "Cluster"

PREFIX = "DISTRIBUTARY_"
FILE = "distributary.toml"
#: Variables with our prefix that are read elsewhere: by the command line itself, and by the clients of the API.
_OTHERS = frozenset({"DISTRIBUTARY_DEBUG", "DISTRIBUTARY_API_URL", "DISTRIBUTARY_API_KEY"})
#: What Kubernetes sets in every pod for a Service whose name starts with `distributary`.
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT(_[0-9]+_(TCP|UDP|SCTP)(_[A-Z]+)?)?$")

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
    _check_variables()
    if os.path.lexists(FILE) and not Path(FILE).is_file():  # a container's mount of a file that is not there
        raise CommandError(f"{FILE} is no file that can be read; remove it, or put the settings there")
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise CommandError(_wrong(error.errors(include_url=False, include_input=False)[0])) from None
    except SettingsError as error:
        named = re.search(r'field "(\w+)"', str(error))
        name = named[1] if named else "settings"
        said = f" ({error.__cause__})" if error.__cause__ else ""
        raise CommandError(f"the setting {name} is not JSON{said}; correct {PREFIX}{name.upper()}") from None
    except tomllib.TOMLDecodeError as error:
        raise CommandError(f"{FILE} is not TOML: {error}; correct it") from None
    except UnicodeDecodeError:
        raise CommandError(f"{FILE} is not UTF-8 text; save it as that") from None


def _check_variables() -> None:
    """A variable with our prefix that nobody reads is a slip of the pen, which would go unseen. CommandError."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | _OTHERS
    for variable in sorted(os.environ):
        if variable.startswith(PREFIX) and variable not in known and not _SERVICE_LINK.search(variable):
            raise CommandError(f"there is no setting {variable}{_nearest(variable, known)}; correct or unset it")


def _wrong(error: ErrorDetails) -> str:
    """What is wrong with a setting's value, with what the setting is for where the rule alone does not teach that."""
    name = ".".join(str(part) for part in error["loc"]) or "settings"
    if error["type"] == "extra_forbidden":
        return f"{FILE} has a setting {name}, which there is not{_nearest(name, Settings.model_fields)}; correct it"
    said = error["msg"].removeprefix("Value error, ")
    if error["type"] == "string_pattern_mismatch":
        said += f" ({Settings.model_fields[name].description})"
    variable = f"{PREFIX}{name.split('.')[0].upper()}"
    return f"the setting {name} is wrong: {said}; correct its option, {variable} or {FILE}"


def _nearest(name: str, known: Iterable[str]) -> str:
    """What may have been meant."""
    near = difflib.get_close_matches(name, known, 1, 0.8)
    return f" (did you mean {near[0]}?)" if near else ""


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
