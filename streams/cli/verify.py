"""`distributary subscriptions verify`: ask an endpoint whether it is its owner's, and write down that it is.

How it is asked stands in `streams/verification.py`.
"""

from __future__ import annotations

from connectors.clock import SystemClock
from schemas.subscription import Subscription
from streams.cli.editing import open_editor
from streams.cli.options import AsJson, Bootstrap, Prefix, RegistryUrl, load_settings
from streams.cli.output import emit, say
from streams.cli.running import CommandError, run
from streams.cli.subscriptions import Id, unknown
from streams.secret_keys import SecretKeys
from streams.settings import Settings
from streams.verification import Refused, confirmed
from streams.verifier import open_verifier
from streams.wiring import make_guard


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
    guard, opener = await make_guard(settings), SecretKeys(settings).open
    async with open_editor(settings) as editor, open_verifier(settings, opener, guard) as verifier:
        found = editor.get(id_)
        if found is None:
            raise unknown(id_)
        if found.verification == "none":
            raise CommandError(
                f"{id_} asks for no verification; set its verification to challenge, cloudevents or ping"
            )
        result = await verifier(found)
        if isinstance(result, Refused):
            raise CommandError(f"{id_} is not verified: {result.reason}")
        agreed = result

        def edit(present: Subscription) -> Subscription:
            """What was asked about is this URL, and nothing else of it."""
            if (present.url, present.verification) != (found.url, found.verification):
                raise CommandError(f"{id_} was changed while its endpoint was asked; verify it again")
            return confirmed(present, agreed, SystemClock().now_ms())

        done = await editor.change(id_, edit, action="verified")
        if done is None:
            raise unknown(id_)
        return done
