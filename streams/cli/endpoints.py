"""`distributary endpoints list | enable | disable`: the health of endpoints, and the owner's word about it.

What is read is what the workers see: the same tables follow `subscriptions` and `endpoints.state` here, to their ends.
What is written here, workers obey at once; it has no writer's name. This file does not change a subscription: its own
`state` (active, paused, disabled) is `distributary subscriptions put`.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, NamedTuple

import typer

from connectors.admin import require_topics
from connectors.clock import SystemClock
from connectors.endpoints import EndpointTable
from schemas import codec
from schemas.endpoint import OWNER, EndpointState, Kind, Operation, encode_operation, encode_state, url_hash
from schemas.frame import Out
from schemas.subscription import Subscription
from streams.cli.editing import open_editor
from streams.cli.options import AsJson, Bootstrap, Prefix, RegistryUrl, load_settings
from streams.cli.output import emit, note, say, steps
from streams.cli.running import CommandError, run
from streams.cli.subscriptions import Id, read_all, unknown
from streams.cli.values import iso
from streams.settings import Settings
from streams.wiring import client_config

app = typer.Typer(help="See the health of endpoints; disable one, and bring it back.", no_args_is_help=True)

#: Why the engine disables an endpoint, in words.
_REASONS = {OWNER: "by the owner", "gone": "it answered 410", "failing": "nothing but failures"}


class Health(NamedTuple):
    """A subscription, and the state of its endpoint; None for one that nothing is written of."""

    subscription: Subscription
    state: EndpointState | None

    @property
    def good(self) -> bool:
        """Whether nothing speaks against it."""
        state = self.state
        return state is None or not (state.disabled_ms or state.failing_since_ms or state.circuit == "open")


async def read_health(settings: Settings) -> dict[str, Health]:
    """Every subscription by id, with the state that counts: one of another URL does not."""
    config = client_config(settings)
    topics = settings.topics
    await require_topics(config, [topics.endpoints_state, topics.operations])
    subscriptions = await read_all(settings)
    with steps("reading the states of endpoints") as progress:
        table = EndpointTable(config, topics.endpoints_state, on_progress=progress.at)
        await table.start()
        await table.stop()
    found = {}
    for each in subscriptions.values():
        state = table.get(each.id)
        counts = state is not None and state.url_hash == url_hash(each.url)
        found[each.id] = Health(each, state if counts else None)
    return found


@app.command("list")
def list_(
    disabled: Annotated[bool, typer.Option("--disabled", help="Only those that are disabled")] = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """List the endpoints whose health was ever written down, by tenant and id. All others are healthy.

    Example: distributary endpoints list --disabled
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    everything = run(lambda _: read_health(settings)).values()
    chosen = [
        (subscription, state)
        for subscription, state in everything
        if state is not None and (state.disabled_ms or not disabled)
    ]
    for subscription, state in sorted(chosen, key=lambda pair: (pair[0].tenant, pair[0].id)):
        if as_json:
            emit(shown(subscription, state))
        else:
            say(f"{subscription.tenant}  {subscription.id}  {in_words(state)}  {subscription.url}", style_of(state))
    if not chosen:
        note("no endpoint is disabled" if disabled else "nothing is written of any endpoint: all are healthy")


@app.command("enable")
def enable(
    id_: Id,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Count an endpoint as healthy: not disabled, its circuit closed. What is parked for it starts to arrive.

    Example: distributary endpoints enable acme
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)

    async def main(_: asyncio.Event) -> bool:
        health = await _health_of(settings, id_)
        if health.subscription.state != "active":
            note(f"its subscription is {health.subscription.state}; see `distributary subscriptions put`")
        if health.good:
            return False
        now_ms = SystemClock().now_ms()
        await _write(
            settings,
            health.subscription,
            EndpointState(subscription_id=id_, url_hash=url_hash(health.subscription.url), changed_ms=now_ms),
            "endpoint.enabled",
            now_ms,
        )
        return True

    changed = run(main)
    if as_json:
        emit({"id": id_, "enabled": True, "changed": changed})
    else:
        say(f"enabled {id_}" if changed else f"{id_} is enabled and healthy already; nothing was written")


@app.command("disable")
def disable(
    id_: Id,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Stop sending to an endpoint until it is enabled. What is parked stays; what comes now goes to the dead letters.

    Example: distributary endpoints disable acme
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)

    async def main(_: asyncio.Event) -> bool:
        subscription, state = await _health_of(settings, id_)
        if state is not None and state.disabled_ms:
            return False
        now_ms = SystemClock().now_ms()
        await _write(
            settings,
            subscription,
            EndpointState(
                subscription_id=id_,
                failing_since_ms=state.failing_since_ms if state else 0,
                disabled_ms=now_ms,
                disabled_reason=OWNER,
                url_hash=url_hash(subscription.url),
                changed_ms=now_ms,
            ),
            "endpoint.disabled",
            now_ms,
        )
        return True

    changed = run(main)
    if as_json:
        emit({"id": id_, "enabled": False, "changed": changed})
    else:
        say(f"disabled {id_}" if changed else f"{id_} is disabled already; nothing was written")


def shown(subscription: Subscription, state: EndpointState) -> dict[str, Any]:
    """All fields, and whose endpoint it is."""
    fields = {name: getattr(state, name) for name in state.__struct_fields__}
    return fields | {"tenant": subscription.tenant, "url": subscription.url}


def in_words(state: EndpointState) -> str:
    """What somebody has to know of it."""
    said = []
    if state.disabled_ms:
        why = _REASONS.get(state.disabled_reason, state.disabled_reason)
        said.append(f"disabled at {iso(state.disabled_ms)}: {why}")
    elif state.circuit == "open":
        said.append(f"circuit open until {iso(state.until_ms)}")
    if state.failing_since_ms:
        said.append(f"failing since {iso(state.failing_since_ms)}")
    return ", ".join(said) or "healthy"


def style_of(state: EndpointState) -> str:
    """Its colour."""
    if state.disabled_ms:
        return "red"
    return "yellow" if state.circuit == "open" or state.failing_since_ms else ""


async def _health_of(settings: Settings, subscription_id: str) -> Health:
    health = (await read_health(settings)).get(subscription_id)
    if health is None:
        raise unknown(subscription_id)
    return health


async def _write(settings: Settings, subscription: Subscription, state: EndpointState, kind: Kind, now_ms: int) -> None:
    operation = Operation(
        kind=kind,
        subscription_id=subscription.id,
        tenant=subscription.tenant,
        at_ms=now_ms,
        reason=OWNER,
        detail="by `distributary endpoints`",
    )
    key, topics = subscription.id.encode(), settings.topics
    async with open_editor(settings) as editor:
        state_header, header = (codec.wire_header(each) for each in (editor.own.endpoint_state, editor.own.operation))

        def decide() -> list[Out]:
            present = editor.get(subscription.id)
            if present is None:
                raise unknown(subscription.id)
            if present.url != subscription.url:
                raise CommandError(f"{subscription.id} got another URL meanwhile; run it again if that is meant too")
            return [
                (topics.endpoints_state, key, encode_state(state_header, state), -1, None),
                (topics.operations, key, encode_operation(header, operation), -1, None),
                editor.audit(kind.removeprefix("endpoint."), subscription, None, state, "endpoint"),
            ]

        await editor.write(subscription.id, decide)
