"""`distributary subscriptions verify`: ask an endpoint whether it is its owner's, and write down that it is.

How it is asked stands in `streams/verification.py`.
"""

from __future__ import annotations

from connectors.clock import SystemClock
from connectors.feed import Writer
from schemas.subscription import Subscription
from streams.cli.options import AsJson, Bootstrap, Prefix, RegistryUrl, load_settings, open_registry
from streams.cli.output import emit, say
from streams.cli.running import CommandError, run
from streams.cli.subscriptions import Id, read_all, unknown
from streams.cli.values import subscription_value
from streams.secret_keys import SecretKeys
from streams.settings import Settings
from streams.verification import Refused, confirmed
from streams.verifier import open_verifier
from streams.wiring import client_config, register_own_schemas


def verify(
    id_: Id,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Ask the endpoint whether its owner wants these webhooks, by the subscription's `verification`, now.

    Until then nothing is sent to a URL that asks for verification. Exit code 1 when the endpoint does not agree.

    Example: distributary subscriptions verify acme
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    done = run(lambda _: _verify(settings, id_))
    if as_json:
        emit({"id": id_, "verified": True, "rate_limit": done.rate_limit})
    else:
        limit = f", at most {done.rate_limit:g} deliveries a second" if done.rate_limit else ""
        say(f"verified {id_}: {done.url}{limit}")


async def _verify(settings: Settings, id_: str) -> Subscription:
    found = (await read_all(settings)).get(id_)
    if found is None:
        raise unknown(id_)
    if found.verification == "none":
        raise CommandError(f"{id_} asks for no verification; set its verification to challenge, cloudevents or ping")
    async with open_verifier(settings, SecretKeys(settings).open) as verifier:
        result = await verifier(found)
    if isinstance(result, Refused):
        raise CommandError(f"{id_} is not verified: {result.reason}")
    # It may have been changed or deleted meanwhile: what was asked about is this URL, and nothing else of it.
    present = (await read_all(settings)).get(id_)
    if present is None or (present.url, present.verification) != (found.url, found.verification):
        raise CommandError(f"{id_} was changed while its endpoint was asked; verify it again")
    after = confirmed(present, result, SystemClock().now_ms())
    async with open_registry(settings) as registry:
        ids = await register_own_schemas(registry, settings.topics)
    async with Writer(client_config(settings)) as writer:
        await writer.write(settings.topics.subscriptions, id_.encode(), subscription_value(ids.subscription, after))
    return after
