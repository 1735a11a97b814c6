"""`distributary subscriptions create`: one new subscription, which may start in the past.

What came before it is replayed for it: the order is written in the same transaction. `subscriptions put` takes whole
records.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from typing import Annotated, Any

import typer

from connectors.admin import require_topics
from connectors.api.subscription_start import EARLIEST
from connectors.clock import SystemClock
from connectors.extents import TopicExtents
from connectors.replay_desk import Since, order_records, start_of, wrong_start
from schemas.event import DEFAULT_TENANT
from schemas.frame import Out
from schemas.replay import PLACES_MAX, Place
from schemas.subscription import Subscription
from streams.cli.editing import open_editor
from streams.cli.options import AsJson, Bootstrap, Prefix, RegistryUrl, load_settings, time_option_ms
from streams.cli.output import emit, note, say
from streams.cli.running import CommandError, run
from streams.cli.subscriptions import Wanted
from streams.replay_wiring import new_replay_id, replay_topics
from streams.secret_keys import SecretKeys
from streams.wiring import client_config

OFFSETS = "offsets:"
_PAIR = re.compile(r"[0-9]{1,9}=[0-9]{1,18}")


def create(
    url: Annotated[str, typer.Argument(help="Where its webhooks go", metavar="URL")],
    event_type: Annotated[list[str], typer.Option(help="order.created, order.* or *; may be repeated")],
    id_: Annotated[str | None, typer.Option("--id", help="Its id", show_default="a random one")] = None,
    tenant: Annotated[str, typer.Option(help="Whose events it gets")] = DEFAULT_TENANT,
    description: Annotated[str, typer.Option(help="For people")] = "",
    start_at: Annotated[
        str | None,
        typer.Option(
            help="Also what came since 2026-08-01T12:00:00Z, earliest, or offsets:0=120,1=98 of events' partitions",
            show_default="now",
            metavar="WHEN",
        ),
    ] = None,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Create a subscription. Its secret is printed here and never again.

    With --start-at, a replay sends it what came before, and new events come besides; one that both know comes twice,
    under one webhook-id. Of partitions that offsets: does not name, it gets what comes from now on.

    Example: distributary subscriptions create https://acme.example/hooks --id acme --event-type "order.*" --start-at
    2026-08-01T12:00:00Z
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    now_ms = SystemClock().now_ms()
    since = Since() if start_at is None else _since(start_at, now_ms)
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
            config, topics = client_config(settings), settings.topics
            await require_topics(config, [topics.replays, topics.events])
            if since.starts:
                wrong = wrong_start(topics.events, since.starts, await TopicExtents(config)(topics.events, None, None))
                if wrong is not None:
                    raise CommandError(f"--start-at: {wrong}")
        async with open_editor(settings) as editor:

            def made(before: Subscription | None) -> Subscription:
                if before is not None:
                    raise CommandError(f"there is a subscription {wanted.id} already; choose another id")
                return wanted.made(None)

            def started(subscription: Subscription) -> list[Out]:
                if replay_id is None:
                    return []
                order = start_of(editor.asked, replay_id, subscription, since)
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


def _since(text: str, now_ms: int) -> Since:
    """What --start-at says. BadParameter."""
    if text == EARLIEST:
        return Since()
    if text.startswith(OFFSETS):
        return Since(starts=_starts(text.removeprefix(OFFSETS)))
    since_ms = time_option_ms(text, "--start-at")
    if not 0 <= since_ms <= now_ms:
        raise typer.BadParameter("it is not in the past; leave it out to start now", param_hint="--start-at")
    return Since(since_ms)


def _starts(text: str) -> tuple[Place, ...]:
    pairs = text.split(",")
    if len(pairs) > PLACES_MAX or not all(_PAIR.fullmatch(pair) for pair in pairs):
        raise typer.BadParameter(f"{text[:80]!r} is not as offsets:0=120,1=98", param_hint="--start-at")
    starts = tuple(Place(*map(int, pair.split("="))) for pair in pairs)
    if len({place.partition for place in starts}) < len(starts):
        raise typer.BadParameter("a partition is named twice", param_hint="--start-at")
    return starts
