"""`distributary audit-log`: who changed what, as the topic `audit` has it.

Not to be confused with `distributary audit`, which makes faults and counts what becomes of them.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer

from connectors.admin import require_topics
from connectors.api.trail import Audit, AuditQuery, newest_audits
from connectors.newest import NewestFirst
from streams.cli.options import AsJson, Bootstrap, Prefix, load_settings, time_option_ms
from streams.cli.output import emit, note, say
from streams.cli.running import run
from streams.cli.values import iso
from streams.wiring import client_config


def audit_log(
    tenant: Annotated[str | None, typer.Option(help="Only what is this tenant's")] = None,
    kind: Annotated[str | None, typer.Option(help="Only things of this kind: subscription, key, …")] = None,
    id_: Annotated[str | None, typer.Option("--id", help="Only the thing with this id")] = None,
    actor: Annotated[str | None, typer.Option(help="Only what this one did: key:ID, cli:USER@HOST")] = None,
    since: Annotated[str | None, typer.Option(help="Not before this time: 2026-08-01T12:00:00Z")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many")] = 50,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Print who changed what, the newest first. Secrets are never in it.

    Example: distributary audit-log --tenant acme --kind subscription
    """
    since_ms = time_option_ms(since, "--since") if since else 0
    query = AuditQuery(kind=kind, resource_id=id_, actor=actor, since_ms=since_ms)
    settings = load_settings(bootstrap=bootstrap, prefix=prefix)
    config, topic = client_config(settings), settings.topics.audit

    async def main(_: asyncio.Event) -> int:
        await require_topics(config, [topic])
        newest = NewestFirst(config, topic)
        count, before = 0, None
        try:
            while count < limit:
                page, before = await newest_audits(newest, before, tenant, query.wants, limit - count)
                for record in page:
                    emit(msgspec.to_builtins(record)) if as_json else say(in_words(record))
                count += len(page)
                if before is None:
                    break
        finally:
            await newest.close()
        return count

    if not run(main):
        note("nothing of that kind was changed, as far back as the topic keeps it")


def in_words(record: Audit) -> str:
    """A change on one line."""
    whose = f" of {record.tenant}" if record.tenant else ""
    changed = ",".join(
        name
        for name in sorted({*(record.before or {}), *(record.after or {})})
        if record.before and record.after and record.before.get(name) != record.after.get(name)
    )
    what = f"{record.action} {record.kind} {record.resource_id}{whose}"
    return f"{iso(record.at_ms)}  {record.actor}  {what}  {changed}".rstrip()
