"""`distributary subscriptions rotate-secret | reencrypt`: what becomes of secrets that are in Kafka already.

What rotating and sealing are stands in `schemas/rotation.py` and `schemas/sealing.py`. No secret is printed but a new
symmetric one, once.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer

from connectors.clock import SystemClock
from schemas.errors import UnsealableError
from schemas.public_key import public_key
from schemas.rotation import OVERLAP_MS_MAX, expiries, rotated, without_expired
from schemas.sealing import key_of, texts_of
from schemas.subscription import Subscription
from streams.cli.editing import CHUNK, Editor, open_editor
from streams.cli.options import AsJson, Bootstrap, Prefix, RegistryUrl, load_settings
from streams.cli.output import emit, note, say, steps
from streams.cli.running import CommandError, run
from streams.cli.subscriptions import Id, unknown
from streams.cli.values import iso
from streams.new_secrets import new_private_key, new_secret
from streams.secret_keys import SecretKeys

#: What cannot be opened is named up to so often.
NAMED_MAX = 5

_SPAN = re.compile(r"(?P<number>\d{1,6})(?P<unit>[smhd])|0")
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def rotate_secret(
    id_: Id,
    overlap: Annotated[
        str, typer.Option(help="How long the old secret goes on signing, such as 24h; 0 to end it now")
    ] = ("24h"),
    v1a: Annotated[bool, typer.Option("--v1a", help="Make an ed25519 key; the receiver needs its public half")] = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Give a subscription a new secret. Until the overlap is over, deliveries are signed with the old one too.

    The new secret is printed here and never again. With --v1a, it is a private key, which stays, and its public half is
    printed; old private keys end, and symmetric secrets stay.

    Example: distributary subscriptions rotate-secret acme --overlap 48h
    """
    overlap_ms = span_ms(overlap)
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    keys = SecretKeys(settings)
    secret = new_private_key() if v1a else new_secret()
    now_ms = SystemClock().now_ms()

    async def main(_: asyncio.Event) -> Subscription:
        async with open_editor(settings) as editor:
            changed = await editor.change(
                id_,
                lambda before: keys.seal(rotated(keys.open(before), secret, now_ms, overlap_ms)),
                action="secret-rotated",
            )
        if changed is None:
            raise unknown(id_)
        return changed

    after = run(main)
    shown = {"public_key": public_key(secret)} if v1a else {"secret": secret}
    ends_ms = now_ms + overlap_ms if now_ms + overlap_ms in expiries(after) else 0
    if as_json:
        emit({"id": id_, **shown, "old_until_ms": ends_ms})
    else:
        said = "its new public key" if v1a else "its new secret, shown once"
        until = f"; what it replaces signs until {iso(ends_ms)}" if ends_ms else ""
        say(f"rotated {id_}  {said}: {next(iter(shown.values()))}{until}")


class Sealed(msgspec.Struct, frozen=True):
    """What there was to do, in subscriptions: sealed from `clear`, `moved` from another key, in order already, and
    those that do not open. `keys`: how many secrets each key has sealed afterwards."""

    subscriptions: int
    clear: int
    moved: int
    already: int
    locked: int
    keys: dict[str, int]


def reencrypt(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count")] = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Seal all secrets with the first secret key: those that are in clear, and those that another key has sealed.

    It may be stopped and started again at any time: what is done is left alone. Secrets that expired are left out. The
    exit code is 1 when something could not be opened; everything else is done then.

    Example: distributary subscriptions reencrypt --dry-run
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    keys = SecretKeys(settings)
    if not keys.keyring:
        raise CommandError(
            "there is no secret key to seal with; make one with `distributary secret-keys new`, and name its file in"
            " DISTRIBUTARY_SECRET_KEYS_FILE"
        )

    async def main(_: asyncio.Event) -> Sealed:
        async with open_editor(settings) as editor:
            return await _reencrypt(editor, keys, dry_run=dry_run)

    done = run(main)
    if as_json:
        emit(msgspec.to_builtins(done) | {"key": keys.keyring.primary, "dry_run": dry_run})
    else:
        for line in lines(done, keys.keyring.primary, dry_run=dry_run):
            say(line)
    if done.locked:
        raise typer.Exit(1)


def span_ms(text: str) -> int:
    """Milliseconds of `90s`, `30m`, `24h`, `7d` or `0`. BadParameter."""
    shape = _SPAN.fullmatch(text)
    ms = int(shape["number"]) * _UNITS_MS[shape["unit"]] if shape and shape["unit"] else 0
    if shape is None or ms > OVERLAP_MS_MAX:
        raise typer.BadParameter(
            f"{text!r} is not a time such as 24h or 30m, of 30 days at most", param_hint="--overlap"
        )
    return ms


async def _reencrypt(editor: Editor, keys: SecretKeys, *, dry_run: bool) -> Sealed:
    everything = editor.all()
    primary = keys.keyring.primary
    found: Counter[str] = Counter()
    left: Counter[str] = Counter()
    wanted: list[str] = []
    for each in everything:
        used = {key_of(text) for text in texts_of(each)}
        if used == {primary}:
            found["already"] += 1
            left.update(key_of(text) for text in texts_of(each))
            continue
        try:
            after = keys.reseal(each)
        except UnsealableError as error:
            found["locked"] += 1
            left.update(key_of(text) or "clear" for text in texts_of(each))
            if found["locked"] <= NAMED_MAX:
                note(str(error))
            continue
        found["clear" if "" in used else "moved"] += 1
        left.update(key_of(text) for text in texts_of(after))
        wanted.append(each.id)
    if not dry_run:
        await _write(editor, keys, wanted)
    return Sealed(len(everything), found["clear"], found["moved"], found["already"], found["locked"], dict(left))


async def _write(editor: Editor, keys: SecretKeys, wanted: Sequence[str]) -> None:
    now_ms = SystemClock().now_ms()

    def seal(before: Subscription) -> Subscription:
        return keys.reseal(without_expired(before, now_ms))

    with steps("sealing", total=len(wanted)) as progress:
        for start in range(0, len(wanted), CHUNK):
            chunk = wanted[start : start + CHUNK]
            await asyncio.gather(*(editor.change(id_, seal, action="reencrypted") for id_ in chunk))
            progress.at(start + len(chunk))


def lines(done: Sealed, primary: str, *, dry_run: bool) -> list[str]:
    """What is said of it."""
    verb = "would be sealed" if dry_run else "sealed"
    clear = f"{done.clear} of {done.subscriptions} subscriptions {verb} with {primary} that were in clear"
    said = [f"{clear}, {done.moved} that had another key; {done.already} were in order"]
    others = sorted(name for name in done.keys if name != primary)
    if done.locked:
        said.append(f"{done.locked} do not open and stay as they are: add the keys that they name, and start again")
    if others:
        said.append(f"still needed beside {primary}: {', '.join(others)}")
    elif not dry_run and not done.locked:
        said.append(f"no subscription needs another key than {primary} any more")
    return said
