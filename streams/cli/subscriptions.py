"""`distributary subscriptions put | get | list | delete`, on the compacted topic itself.

What is read is what the workers see: the same table follows the topic here, to its end. Secrets are printed once, when
they are made, and otherwise only when asked for.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import orjson
import typer

from connectors.admin import require_topics
from connectors.clock import SystemClock
from connectors.subscriptions import ById, SubscriptionsTable
from schemas.credentials import is_sealed
from schemas.errors import InvalidSubscriptionError, UnsealableError
from schemas.public_key import public_keys
from schemas.redaction import redacted
from schemas.rotation import without_expired
from schemas.sealing import texts_of
from schemas.subscription import Subscription, json_form, subscription_from_json
from streams.cli.editing import CHUNK, open_editor
from streams.cli.options import AsJson, Bootstrap, Prefix, RegistryUrl, load_settings, open_registry
from streams.cli.output import emit, note, say, steps
from streams.cli.running import CommandError, run
from streams.new_secrets import new_secret
from streams.secret_keys import SecretKeys
from streams.settings import Settings
from streams.wiring import client_config

app = typer.Typer(help="Manage subscriptions: who wants which events, and where they go.", no_args_is_help=True)

INPUT_BYTES_MAX = 256 << 20

Id = Annotated[str, typer.Argument(help="The subscription's id", metavar="ID")]
Reveal = Annotated[bool, typer.Option("--reveal", help="Print the secrets too")]


async def read_all(settings: Settings) -> dict[str, Subscription]:
    """Every subscription in force, by id. What is bad on the topic is logged as a warning and left out."""
    config = client_config(settings)
    await require_topics(config, [settings.topics.subscriptions])
    index = ById()
    async with open_registry(settings) as registry:
        with steps("reading subscriptions") as progress:
            table = SubscriptionsTable(
                config,
                settings.topics.subscriptions,
                index=index,
                schemas=registry,
                on_progress=progress.at,
            )
            await table.start()
            await table.stop()
    return {each.id: each for each in index.after(None)}


@app.command("put")
def put(
    file: Annotated[str, typer.Argument(help="A JSON object or JSON lines; - is stdin", metavar="FILE")],
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    json_values: Annotated[bool, typer.Option("--as-json", help="Write JSON values instead of Avro")] = False,
    as_json: AsJson = False,
) -> None:
    """Create or replace subscriptions. All are validated before the first is written.

    Without "secrets", a new subscription gets one of 32 random bytes, printed here and never again, and one that exists
    keeps its own. With secret keys in the settings, secrets are sealed before they are written.

    Example: echo '{"id": "acme", "url": "https://acme.example/hooks", "event_types": ["order.*"]}' |
    distributary subscriptions put -
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    keys = SecretKeys(settings)
    objects = parse_objects(read_input(file))

    async def main(_: asyncio.Event) -> list[dict[str, Any]]:
        now_ms = SystemClock().now_ms()
        async with open_editor(settings) as editor:
            wanted = [Wanted(fields, place, now_ms, keys) for place, fields in objects]
            _refuse_twice([each.made(editor.get(each.id)) for each in wanted])
            for start in range(0, len(wanted), CHUNK):
                chunk = wanted[start : start + CHUNK]
                await asyncio.gather(*(editor.put(each.id, each.made, as_json=json_values) for each in chunk))
        return [
            {"id": each.id, "created": each.created} | ({"secret": each.secret} if each.secret else {})
            for each in wanted
        ]

    for done in run(main):
        if as_json:
            emit(done)
        else:
            secret = f"  its secret, shown once: {done['secret']}" if "secret" in done else ""
            say(f"{'created' if done['created'] else 'replaced'} {done['id']}{secret}")


@app.command("get")
def get(
    id_: Id,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    reveal: Reveal = False,
) -> None:
    """Print one subscription as JSON.

    Example: distributary subscriptions get acme
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    keys = SecretKeys(settings) if reveal else None
    found = run(lambda _: read_all(settings)).get(id_)
    if found is None:
        raise unknown(id_)
    emit(shown(found if keys is None else revealed(found, keys), reveal=reveal))


@app.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="Only those of this tenant")] = None,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    reveal: Reveal = False,
    as_json: AsJson = False,
) -> None:
    """List the subscriptions, by tenant and id.

    Example: distributary subscriptions list --tenant acme --json
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    keys = SecretKeys(settings) if reveal else None
    everything = run(lambda _: read_all(settings)).values()
    chosen = [each for each in everything if tenant is None or each.tenant == tenant]
    if keys is not None:
        chosen = [revealed(each, keys) for each in chosen]
    for each in sorted(chosen, key=lambda each: (each.tenant, each.id)):
        if as_json:
            emit(shown(each, reveal=reveal))
        else:
            said = f"  {' '.join(each.secrets)}" if reveal else ""
            say(f"{each.tenant}  {each.id}  {each.state}  {','.join(each.event_types)}  {each.url}{said}")
    if not chosen:
        note("there are no subscriptions" + (f" of the tenant {tenant}" if tenant else ""))


@app.command("delete")
def delete(
    id_: Id,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Delete a subscription. What is still to be delivered for it is cancelled.

    Example: distributary subscriptions delete acme
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)

    async def main(_: asyncio.Event) -> None:
        async with open_editor(settings) as editor:
            if not await editor.delete(id_):
                raise unknown(id_)

    run(main)
    if as_json:
        emit({"id": id_, "deleted": True})
    else:
        say(f"deleted {id_}")


def shown(subscription: Subscription, *, reveal: bool) -> dict[str, Any]:
    """All fields, as JSON; secrets hidden unless revealed, and so are headers, which may carry credentials.

    In place of hidden private keys, their public ones are shown.
    """
    if not reveal:
        keys = public_keys(subscription.secrets)
        return json_form(redacted(subscription)) | ({"public_keys": keys} if keys else {})
    return json_form({name: getattr(subscription, name) for name in subscription.__struct_fields__})


def revealed(subscription: Subscription, keys: SecretKeys) -> Subscription:
    """With its secrets opened; one of which a secret does not open as it is, with a note."""
    try:
        return keys.open(subscription)
    except UnsealableError as error:
        note(str(error))
        return subscription


def parse_objects(text: bytes) -> list[tuple[str, dict[str, Any]]]:
    """(where it stands, object) of one JSON object or of JSON lines. CommandError."""
    try:
        whole = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        lines = [(f"line {n}", line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
        if not lines:
            raise CommandError("there is no JSON object in the input; see --help for an example") from None
        try:
            found = [(place, orjson.loads(line)) for place, line in lines]
        except orjson.JSONDecodeError:
            raise CommandError(f"the input is not JSON: {error}; give one object, or one on each line") from None
    else:
        found = [("the input", whole)]
    for place, each in found:
        if not isinstance(each, dict):
            raise CommandError(f"{place} is not a JSON object; see --help for an example")
    return found


class Wanted:
    """What somebody wants to put."""

    def __init__(self, fields: dict[str, Any], place: str, now_ms: int, keys: SecretKeys) -> None:
        self._fields = fields
        self._place = place
        self._now_ms = now_ms
        self._keys = keys
        self._new_secret = new_secret()
        self.id = str(fields.get("id", ""))
        #: Whether it is new, and the secret that was made for it; of the last time that it was `made`.
        self.created = False
        self.secret = ""

    def made(self, before: Subscription | None) -> Subscription:
        """The subscription to write, sealed, in the place of this one. CommandError names what is wrong."""
        fields, now_ms = self._fields, self._now_ms
        self.created, self.secret = before is None, ""
        if before is not None:
            kept = without_expired(before, now_ms)
            if "secrets" not in fields:
                fields = fields | {"secrets": kept.secrets, "secrets_expire_ms": kept.secrets_expire_ms}
            fields = {"verified_url": before.verified_url} | fields  # what was verified is not for its owner to say
        elif "secrets" not in fields:
            self.secret = self._new_secret
            fields = fields | {"secrets": [self.secret]}
        try:
            subscription = subscription_from_json(orjson.dumps(fields))
            known = texts_of(before) if before is not None else ()
            if any(is_sealed(text) and text not in known for text in texts_of(subscription)):
                self._keys.open(subscription)  # sealed elsewhere, or for another subscription: it would be of no use
        except (InvalidSubscriptionError, UnsealableError) as error:
            raise CommandError(f"{self._place} is no subscription: {error}; correct it, nothing was written") from None
        created_ms = subscription.created_ms or (before.created_ms if before else now_ms)
        return msgspec.structs.replace(self._keys.seal(subscription), created_ms=created_ms, updated_ms=now_ms)


def _refuse_twice(subscriptions: Sequence[Subscription]) -> None:
    seen: set[str] = set()
    for each in subscriptions:
        if each.id in seen:
            raise CommandError(f"the id {each.id} stands twice in the input; keep one of them, nothing was written")
        seen.add(each.id)


def unknown(subscription_id: str) -> CommandError:
    """There is no subscription of this id."""
    return CommandError(f"there is no subscription {subscription_id!r}; see `distributary subscriptions list`")


def read_input(file: str) -> bytes:
    """All of a file, or of stdin for `-`. CommandError."""
    if file == "-":
        text = sys.stdin.buffer.read(INPUT_BYTES_MAX + 1)
    else:
        with Path(file).open("rb") as source:
            text = source.read(INPUT_BYTES_MAX + 1)
    if len(text) > INPUT_BYTES_MAX:
        raise CommandError(f"the input is larger than {INPUT_BYTES_MAX >> 20} MiB; put it in parts")
    return text
