"""`distributary subscriptions create`: one new subscription, which may start in the past.

What came before it is replayed for it: the order is written in the same transaction. `subscriptions put` takes whole
records.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated, Any

import typer

from connectors.admin import require_topics
from connectors.api.subscription_start import EARLIEST
from connectors.clock import SystemClock
from connectors.replay_desk import order_records, start_of
from schemas.event import DEFAULT_TENANT
from schemas.frame import Out
from schemas.subscription import Subscription
from streams.cli.editing import open_editor
from streams.cli.options import AsJson, Bootstrap, Prefix, RegistryUrl, load_settings, time_option_ms
from streams.cli.output import emit, note, say
from streams.cli.running import CommandError, run
from streams.cli.subscriptions import Wanted
from streams.replay_wiring import new_replay_id, replay_topics
from streams.secret_keys import SecretKeys
from streams.wiring import client_config


def create(
    url: Annotated[str, typer.Argument(help="Where its webhooks go", metavar="URL")],
    event_type: Annotated[list[str], typer.Option(help="order.created, order.* or *; may be repeated")],
    id_: Annotated[str | None, typer.Option("--id", help="Its id", show_default="a random one")] = None,
    tenant: Annotated[str, typer.Option(help="Whose events it gets")] = DEFAULT_TENANT,
    description: Annotated[str, typer.Option(help="For people")] = "",
    start_at: Annotated[
        str | None,
        typer.Option(
            help="Also what came since then, such as 2026-08-01T12:00:00Z; or earliest",
            show_default="now",
            metavar="ISO",
        ),
    ] = None,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Create a subscription. Its secret is printed here and never again.

    With --start-at, a replay sends it what came before, and new events come besides; one that both know comes twice,
    under one webhook-id.

    Example: distributary subscriptions create https://acme.example/hooks --id acme --event-type "order.*" --start-at
    2026-08-01T12:00:00Z
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    now_ms = SystemClock().now_ms()
    since_ms = time_option_ms(start_at, "--start-at") if start_at not in (None, EARLIEST) else None
    if since_ms is not None and not 0 <= since_ms <= now_ms:
        raise typer.BadParameter("it is not in the past; leave it out to start now", param_hint="--start-at")
    replay_id = new_replay_id() if start_at is not None else None
    fields = {
        "id": id_ if id_ is not None else f"sub_{secrets.token_hex(12)}",
        "tenant": tenant,
        "url": url,
        "event_types": event_type,
        "description": description,
    }
    wanted = Wanted(fields, "this", now_ms, SecretKeys(settings))

    async def main(_: asyncio.Event) -> dict[str, Any]:
        if replay_id is not None:
            await require_topics(client_config(settings), [settings.topics.replays])
        async with open_editor(settings) as editor:

            def made(before: Subscription | None) -> Subscription:
                if before is not None:
                    raise CommandError(f"there is a subscription {wanted.id} already; choose another id")
                return wanted.made(None)

            def started(subscription: Subscription) -> list[Out]:
                if replay_id is None:
                    return []
                order = start_of(editor.asked, replay_id, subscription, since_ms)
                return order_records(replay_topics(settings.topics, editor.own), editor.asked, None, order)

            await editor.put(wanted.id, made, further=started)
        return {"id": wanted.id, "secret": wanted.secret} | ({"replay": replay_id} if replay_id else {})

    done = run(main)
    if as_json:
        emit(done)
        return
    say(f"created {done['id']}  its secret, shown once: {done['secret']}")
    if replay_id is not None:
        note(f"what came before is replayed by {replay_id}; see `distributary replay show {replay_id} --follow`")
