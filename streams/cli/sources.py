"""`distributary sources put | list | get | delete | reencrypt | providers | test`: whose webhooks become events.

Changes go through the pen, as those of the API do, and into the audit trail. What a source is, and how it is changed,
is elsewhere (`schemas/source.py`, `connectors/source_desk.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from connectors.admin import require_topics
from connectors.clock import SystemClock
from connectors.providers import providers
from connectors.source_desk import SourceDesk, UnknownSourceError, place
from connectors.sources import SourcesTable
from schemas.audit import Asked
from schemas.errors import InvalidSourceError, UnsealableError
from schemas.received import challenge_answer, events, read
from schemas.signed_request import Refused, Request, verify
from schemas.source import Source, provider_of, shown
from streams.cli.options import (
    AsJson,
    Bootstrap,
    Prefix,
    RegistryUrl,
    load_settings,
    time_option_ms,
)
from streams.cli.output import emit, note, say
from streams.cli.running import CommandError, run
from streams.cli.subscriptions import parse_objects, read_input
from streams.cli.writing import open_table
from streams.secret_keys import SecretKeys
from streams.settings import Settings
from streams.source_wiring import source_sealer, source_topics
from streams.wiring import client_config

app = typer.Typer(help="Receive webhooks of providers as events.", no_args_is_help=True)

REQUEST_BYTES_MAX = 16 << 20
Id = Annotated[str, typer.Argument(help="The source's id", metavar="ID")]


@asynccontextmanager
async def open_desk(settings: Settings) -> AsyncIterator[tuple[SourceDesk, Asked]]:
    """Where sources are changed, and this command as who asks."""
    topics = settings.topics
    async with open_table(settings, topics.sources, SourcesTable) as (table, own, pen, asked):
        yield SourceDesk(table, pen, source_topics(topics, own), source_sealer(SecretKeys(settings))), asked


async def read_all(settings: Settings) -> list[Source]:
    """Every source, by tenant and id."""
    config = client_config(settings)
    await require_topics(config, [settings.topics.sources])
    table = SourcesTable(config, settings.topics.sources)
    await table.start()
    await table.stop()
    return table.sources()


@app.command("put")
def put(
    file: Annotated[str, typer.Argument(help="A JSON object or JSON lines; - is stdin", metavar="FILE")],
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Create or replace sources. All are validated before the first is written.

    Without "secrets", a source that exists keeps its own.

    Example: echo '{"id": "pay", "provider": "stripe", "secrets": ["whsec_..."]}' | distributary sources put -
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    objects = parse_objects(read_input(file))

    async def main(_: asyncio.Event) -> list[tuple[Source, bool]]:
        async with open_desk(settings) as (desk, asked):
            for where, fields in objects:
                try:
                    desk.prepared(fields, desk.table.get(str(fields.get("id", ""))), asked.at_ms)
                except InvalidSourceError as error:
                    raise CommandError(f"{where} is no source: {error}; correct it, nothing was written") from None
            return [await desk.put(asked, fields) for _, fields in objects]

    for source, created in run(main):
        if as_json:
            emit({"id": source.id, "created": created, "path": path(source)})
        else:
            say(f"{'created' if created else 'replaced'} {source.id}  {source.provider} posts to {path(source)}")


@app.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="Only those of this tenant")] = None,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """List the sources, by tenant and id.

    Example: distributary sources list --tenant acme
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix)
    chosen = [each for each in run(lambda _: read_all(settings)) if tenant in (None, each.tenant)]
    for each in chosen:
        if as_json:
            emit(shown(each))
        else:
            say(f"{each.tenant}  {each.id}  {each.provider}  {each.state}  {path(each)}")
    if not chosen:
        note("there are no sources" + (f" of the tenant {tenant}" if tenant else ""))


@app.command("get")
def get(id_: Id, bootstrap: Bootstrap = None, prefix: Prefix = None) -> None:
    """Print one source as JSON, without its secrets.

    Example: distributary sources get pay
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix)
    emit(shown(found(run(lambda _: read_all(settings)), id_)))


@app.command("delete")
def delete(
    id_: Id,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Delete a source. From then on its provider is answered with 401.

    Example: distributary sources delete pay
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)

    async def main(_: asyncio.Event) -> None:
        async with open_desk(settings) as (desk, asked):
            try:
                await desk.delete(asked, id_)
            except UnknownSourceError:
                raise unknown(id_) from None

    run(main)
    if as_json:
        emit({"id": id_, "deleted": True})
    else:
        say(f"deleted {id_}")


@app.command("reencrypt")
def reencrypt(
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Seal the secrets of all sources with the first secret key: those in clear, and those that another key has sealed.

    It may be stopped and started again at any time. The exit code is 1 when something could not be opened; everything
    else is done then.

    Example: distributary sources reencrypt
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    if not SecretKeys(settings).keyring:
        raise CommandError("there is no secret key to seal with; make one with `distributary secret-keys new`")

    async def main(_: asyncio.Event) -> tuple[int, int, list[str]]:
        locked = []
        done = 0
        async with open_desk(settings) as (desk, asked):
            sources = desk.table.sources()
            for each in sources:
                try:
                    done += await desk.reseal(asked, each.id)
                except UnknownSourceError:
                    continue  # deleted meanwhile
                except UnsealableError as error:
                    note(str(error))
                    locked.append(each.id)
        return len(sources), done, locked

    count, done, locked = run(main)
    if as_json:
        emit({"sources": count, "sealed": done, "locked": locked})
    else:
        say(f"sealed the secrets of {done} of {count} sources" + (f"; {len(locked)} do not open" if locked else ""))
    if locked:
        raise typer.Exit(1)


@app.command("providers")
def providers_(as_json: AsJson = False) -> None:
    """List the providers that are known, and what their secrets are.

    Example: distributary sources providers
    """
    for each in providers().values():
        if as_json:
            emit({name: getattr(each, name) for name in ("name", "title", "secret", "unsigned", "documentation")})
        else:
            say(f"{each.name}  {each.title}: {each.secret}")


@app.command("test")
def try_request(
    id_: Id,
    body: Annotated[Path, typer.Option(help="The request's body, as it came", exists=True, dir_okay=False)],
    header: Annotated[
        list[str] | None, typer.Option("--header", help="'name: value', as it came; may be repeated")
    ] = None,
    url: Annotated[str, typer.Option(help="What was posted to, where the provider signs it", show_default=False)] = "",
    at: Annotated[str | None, typer.Option(help="When it came, as an RFC 3339 time; default: now")] = None,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
) -> None:
    """Say what would become of a request: its events, or why it is refused. Nothing is published.

    Example: distributary sources test pay --body request.json --header "stripe-signature: t=..."
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix)
    headers = tuple(_header(text) for text in header or ())
    now_ms = time_option_ms(at, "--at") if at is not None else SystemClock().now_ms()
    source = found(run(lambda _: read_all(settings)), id_)
    with body.open("rb") as file:
        request = Request(
            url=url or settings.public_url.rstrip("/") + path(source),
            headers=headers,
            body=file.read(REQUEST_BYTES_MAX),
        )
    sealer = source_sealer(SecretKeys(settings))
    secrets = [sealer.open(text, place(source.id)) for _, text in source.secrets_at(now_ms)]
    verdict = judged(source, request, secrets, now_ms)
    emit(verdict)
    if "refused" in verdict:
        raise typer.Exit(1)


def judged(source: Source, request: Request, secrets: list[str], now_ms: int) -> dict[str, Any]:
    """What the receiving door would do, but for the address."""
    provider = provider_of(source, providers())
    verified = verify(provider, request, secrets, now_ms)
    if isinstance(verified, Refused):
        return {"refused": verified.reason, "detail": verified.detail}
    document = read(provider, request)
    if isinstance(document, Refused):
        return {"refused": document.reason, "detail": document.detail}
    if (answer := challenge_answer(provider, request, document, secrets)) is not None:
        return {"challenge": answer.body}
    made = events(
        provider,
        request,
        document,
        verified,
        source_id=source.id,
        tenant=source.tenant,
        type_prefix=source.event_type_prefix,
        now_ms=now_ms,
    )
    if isinstance(made, Refused):
        return {"refused": made.reason, "detail": made.detail}
    names = ("id", "type", "tenant", "time_ms", "subject")
    return {
        "events": [{name: getattr(each, name) for name in names} | {"data": orjson.loads(each.data)} for each in made]
    }


def path(source: Source) -> str:
    """Where its provider posts to, behind the API's URL."""
    asks = any(challenge.method == "GET" for challenge in provider_of(source, providers()).challenges)
    return f"/v1/sources/{source.id}" + ("/hook" if asks else "")


def found(sources: list[Source], source_id: str) -> Source:
    """The one of this id. CommandError."""
    for each in sources:
        if each.id == source_id:
            return each
    raise unknown(source_id)


def unknown(source_id: str) -> CommandError:
    """There is no source of this id."""
    return CommandError(f"there is no source {source_id!r}; see `distributary sources list`")


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise typer.BadParameter(f"{text[:80]!r} is not 'name: value'", param_hint="--header")
    return name.strip().lower(), value.strip()
