"""`distributary keys create | list | rotate | revoke`: who may use the HTTP API, on the topic itself.

The first key of all is made here: with the API, one needs a key to make keys. Changes go through the pen, as those of
the API do, and into the audit trail, by `cli:<user>@<host>`. What a key is, and how it is changed, is elsewhere
(`schemas/api_key.py`, `connectors/key_desk.py`).
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer

from connectors.admin import require_topics
from connectors.api.key_check import KeyCheck
from connectors.api.keys import KeyView, key_fields
from connectors.api_keys import KeysTable
from connectors.clock import SystemClock
from connectors.key_desk import KeyDesk
from schemas.access import SCOPES
from schemas.api_key import ApiKey
from schemas.audit import Asked
from streams.cli.options import AsJson, Bootstrap, Prefix, RegistryUrl, load_settings
from streams.cli.output import emit, note, say
from streams.cli.running import run
from streams.cli.values import iso
from streams.cli.writing import open_table
from streams.settings import Settings
from streams.wiring import client_config, key_topics

app = typer.Typer(help="Give and take access to the HTTP API.", no_args_is_help=True)

_UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
Id = Annotated[str, typer.Argument(help="The key's id: the part of its text between the first two _", metavar="ID")]


@asynccontextmanager
async def open_desk(settings: Settings) -> AsyncIterator[tuple[KeyDesk, Asked]]:
    """Where keys are changed, and this command as who asks."""
    topics = settings.topics
    async with open_table(settings, topics.api_keys, KeysTable) as (table, own, pen, asked):
        check = KeyCheck(table.get, SystemClock().now_ms)
        try:
            yield KeyDesk(table, pen, key_topics(topics, own), secrets.token_bytes, check.compute), asked
        finally:
            await check.close()


@app.command("create")
def create(
    operator: Annotated[bool, typer.Option("--operator", help="For all tenants; default: with all scopes")] = False,
    tenant: Annotated[str | None, typer.Option(help="For this tenant alone")] = None,
    scope: Annotated[list[str] | None, typer.Option("--scope", help="What it may be used for; may be repeated")] = None,
    name: Annotated[str, typer.Option(help="For people")] = "",
    expires: Annotated[str | None, typer.Option(help="After 90d, 12h or 30m; default: never")] = None,
    rate: Annotated[float, typer.Option(help="Calls a second; 0 for DISTRIBUTARY_API_RATE")] = 0.0,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. Its text is printed here and never again.

    Example: distributary keys create --tenant acme --scope events:write --expires 90d --name "ACME's order system"
    """
    if operator == (tenant is not None):
        raise typer.BadParameter("name either --operator or --tenant", param_hint="--operator")
    if not scope and not operator:
        raise typer.BadParameter(f"at least one is needed, of {', '.join(SCOPES)}", param_hint="--scope")
    life_ms = duration_ms(expires, "--expires") if expires else 0
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)

    async def main(_: asyncio.Event) -> tuple[ApiKey, str]:
        async with open_desk(settings) as (desk, asked):
            return await desk.create(
                asked,
                tenant=tenant,
                scopes=tuple(scope or SCOPES),
                name=name,
                expires_ms=asked.at_ms + life_ms if life_ms else 0,
                rate=rate,
            )

    key, text = run(main)
    if as_json:
        emit(shown(key, key.created_ms) | {"key": text})
    else:
        say(f"created {key.id}  the key, shown once: {text}")


@app.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="Only those of this tenant")] = None,
    operator: Annotated[bool, typer.Option("--operator", help="Only those of operators")] = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """List keys, by tenant and age.

    Example: distributary keys list --tenant acme
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix)

    async def main(_: asyncio.Event) -> list[ApiKey]:
        config = client_config(settings)
        await require_topics(config, [settings.topics.api_keys])
        table = KeysTable(config, settings.topics.api_keys)
        await table.start()
        await table.stop()
        return table.every()

    now_ms = SystemClock().now_ms()
    chosen = [key for key in run(main) if tenant in (None, key.tenant) and not (operator and key.tenant is not None)]
    for key in sorted(chosen, key=lambda key: (key.tenant or "", key.created_ms)):
        if as_json:
            emit(shown(key, now_ms))
        else:
            say(in_words(key, now_ms), "" if key.state(now_ms) == "active" else "dim")
    if not chosen:
        note("there is no such key; make one with `distributary keys create`")


@app.command("rotate")
def rotate(
    id_: Id,
    overlap: Annotated[str, typer.Option(help="How long the text before stays valid: 24h, 7d, 0m")] = "24h",
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Replace a key's secret. The new text is printed here and never again; the one before stays valid for a while.

    Example: distributary keys rotate 5d3f0c1a9b7e2460 --overlap 1h
    """
    overlap_ms = duration_ms(overlap, "--overlap")
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)

    async def main(_: asyncio.Event) -> tuple[ApiKey, str]:
        async with open_desk(settings) as (desk, asked):
            return await desk.rotate(asked, id_, overlap_ms)

    key, text = run(main)
    if as_json:
        emit(shown(key, key.rotated_ms) | {"key": text})
    else:
        say(f"rotated {key.id}  the key, shown once: {text}")


@app.command("revoke")
def revoke(
    id_: Id,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """End a key, and the portal links that were made with it, at once and for good.

    Example: distributary keys revoke 5d3f0c1a9b7e2460
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)

    async def main(_: asyncio.Event) -> ApiKey:
        async with open_desk(settings) as (desk, asked):
            return await desk.revoke(asked, id_)

    key = run(main)
    if as_json:
        emit(shown(key, key.revoked_ms))
    else:
        say(f"revoked {key.id}")


def duration_ms(text: str, option: str) -> int:
    """Milliseconds of a text such as 90d. BadParameter."""
    match = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a time such as 90d, 12h or 30m", param_hint=option)
    return int(match[1]) * _UNITS_MS[match[2]]


def shown(key: ApiKey, now_ms: int) -> dict[str, Any]:
    """All that may be shown."""
    return {name: key_fields(key, now_ms)[name] for name in KeyView.__struct_fields__}


def in_words(key: ApiKey, now_ms: int) -> str:
    """A key on one line."""
    state: str = key.state(now_ms)
    if state == "active" and key.expires_ms:
        state += f" until {iso(key.expires_ms)}"
    named = f"  {key.name}" if key.name else ""
    return f"{key.tenant or 'operator'}  {key.id}  {state}  {','.join(key.scopes)}{named}"
