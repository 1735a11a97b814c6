"""Secrets in Kafka by the command line: sealed when there are keys, rotated with an overlap, sealed anew."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.admin import apply_topics
from connectors.feed import Reader
from connectors.local_kafka import Cluster
from schemas.credentials import secret_key
from schemas.public_key import public_key
from schemas.topics import Topics
from tests.cli import Cli

ACME: dict[str, Any] = {"id": "acme", "url": "https://acme.example/hooks", "event_types": ["order.*"]}
KEYS = {name: base64.b64encode(name.encode() * 16).decode() for name in ("k1", "k2")}
BEARER = {"type": "bearer", "token": "token-in-clear"}


@pytest.fixture
async def cli(tmp_path: Path, kafka: Cluster, prefix: str) -> Cli:
    await apply_topics({"bootstrap.servers": kafka.bootstrap}, Topics(prefix, 2).specs(), -1)
    return Cli(tmp_path, {"bootstrap": kafka.bootstrap, "prefix": prefix})


def with_keys(cli: Cli, *names: str) -> Cli:
    file = cli.directory / "keys"
    file.write_text("".join(f"{name}:{KEYS[name]}\n" for name in names))
    return msgspec.structs.replace(cli, settings=cli.settings | {"secret_keys_file": str(file)})


def put(cli: Cli, *objects: dict[str, Any]) -> list[Any]:
    return cli.lines("subscriptions", "put", "-", "--json", stdin="\n".join(map(json.dumps, objects)))


def get(cli: Cli, *options: str) -> Any:
    (found,) = cli.lines("subscriptions", "get", "acme", *options)
    return found


def raw_values(cli: Cli) -> bytes:
    async def read() -> bytes:
        topic = f"{cli.settings['prefix']}subscriptions"
        config = {"bootstrap.servers": cli.settings["bootstrap"]}
        async with Reader(config, [topic], from_beginning=True) as reader:
            return b"".join([one.value() or b"" async for batch in reader.batches(follow=False) for one in batch])

    return asyncio.run(read())


def test_what_is_put_with_keys_is_sealed_and_only_revealed_with_them(cli: Cli) -> None:
    keyed = with_keys(cli, "k1")
    (created,) = put(keyed, ACME | {"auth": BEARER})
    values = raw_values(cli)
    assert created["secret"].encode() not in values
    assert b"token-in-clear" not in values
    assert get(cli)["secrets"] == ["sealed:k1:…"]
    shown = get(keyed, "--reveal")
    assert (shown["secrets"], shown["auth"]) == ([created["secret"]], BEARER)

    without = cli.run("subscriptions", "get", "acme", "--reveal")
    assert "acme/secrets is sealed with the key 'k1', which is not here; add it" in without.stderr
    assert created["secret"] not in without.stdout
    assert json.loads(without.stdout)["secrets"][0].startswith("sealed:k1:")

    kept = put(keyed, ACME)  # whoever leaves the secrets out keeps them
    assert kept == [{"id": "acme", "created": False}]
    assert get(keyed, "--reveal")["secrets"] == [created["secret"]]


def test_a_sealed_secret_of_another_subscription_is_refused(cli: Cli) -> None:
    keyed = with_keys(cli, "k1")
    put(keyed, ACME)
    taken = get(cli, "--reveal")["secrets"]
    assert "other/secrets does not open with the key 'k1'" in keyed.fails(
        "subscriptions", "put", "-", stdin=json.dumps(ACME | {"id": "other", "secrets": taken})
    )
    assert put(keyed, ACME | {"secrets": taken}) == [{"id": "acme", "created": False}]


def test_rotated_with_an_overlap_and_without(cli: Cli) -> None:
    keyed = with_keys(cli, "k1")
    (created,) = put(keyed, ACME)
    said = keyed.run("subscriptions", "rotate-secret", "acme", "--overlap", "48h").stdout
    assert said.startswith("rotated acme  its new secret, shown once: whsec_")
    after = get(keyed, "--reveal")
    new, old = after["secrets"]
    assert (new in said, old) == (True, created["secret"])
    assert after["secrets_expire_ms"] == [0, after["updated_ms"] + 48 * 3600 * 1000]

    (third,) = keyed.lines("subscriptions", "rotate-secret", "acme", "--overlap", "0", "--json")
    assert third["old_until_ms"] == 0
    assert get(keyed, "--reveal")["secrets"] == [third["secret"]]
    assert len(secret_key(third["secret"])) == 32
    assert third["secret"].encode() not in raw_values(cli)

    (private,) = keyed.lines("subscriptions", "rotate-secret", "acme", "--v1a", "--json")
    whsk, whsec = get(keyed, "--reveal")["secrets"]
    assert (private["public_key"], whsec) == (public_key(whsk), third["secret"])
    assert "secret" not in private


def test_what_cannot_be_rotated(cli: Cli) -> None:
    assert cli.fails("subscriptions", "rotate-secret", "no").startswith("there is no subscription 'no'")
    put(with_keys(cli, "k1"), ACME)
    assert "is sealed with the key 'k1', which is not here" in cli.fails("subscriptions", "rotate-secret", "acme")
    assert "is not a time such as 24h" in cli.misused("subscriptions", "rotate-secret", "acme", "--overlap", "31d")
    assert "is not a time such as 24h" in cli.misused("subscriptions", "rotate-secret", "acme", "--overlap", "soon")


def test_everything_is_sealed_anew_and_the_old_key_is_not_needed_any_more(cli: Cli) -> None:
    assert cli.fails("subscriptions", "reencrypt").startswith("there is no secret key to seal with; make one with")
    (clear,) = put(cli, ACME | {"id": "clear", "auth": BEARER})
    (old,) = put(with_keys(cli, "k1"), ACME | {"id": "old"})
    both = with_keys(cli, "k2", "k1")
    (dry,) = both.lines("subscriptions", "reencrypt", "--dry-run", "--json")
    counted = {"subscriptions": 2, "clear": 1, "moved": 1, "already": 0, "locked": 0, "keys": {"k2": 3}, "key": "k2"}
    assert dry == counted | {"dry_run": True}
    assert [each["secrets"] for each in cli.lines("subscriptions", "list", "--json")] == [["whsec_…"], ["sealed:k1:…"]]

    assert both.run("subscriptions", "reencrypt").stdout.splitlines() == [
        "1 of 2 subscriptions sealed with k2 that were in clear, 1 that had another key; 0 were in order",
        "no subscription needs another key than k2 any more",
    ]
    new = with_keys(cli, "k2")
    shown = {each["id"]: each for each in new.lines("subscriptions", "list", "--json", "--reveal")}
    assert (shown["clear"]["secrets"], shown["clear"]["auth"]) == ([clear["secret"]], BEARER)
    assert shown["old"]["secrets"] == [old["secret"]]
    (again,) = new.lines("subscriptions", "reencrypt", "--json")
    assert (again["already"], again["clear"], again["moved"]) == (2, 0, 0)


def test_what_does_not_open_is_named_and_everything_else_is_sealed(cli: Cli) -> None:
    put(cli, ACME | {"id": "clear"})
    put(with_keys(cli, "k1"), ACME | {"id": "lost"})
    result = with_keys(cli, "k2").run("subscriptions", "reencrypt", code=1)
    assert "lost/secrets is sealed with the key 'k1', which is not here" in result.stderr
    assert result.stdout.splitlines()[1:] == [
        "1 do not open and stay as they are: add the keys that they name, and start again",
        "still needed beside k2: k1",
    ]
    assert [each["secrets"] for each in cli.lines("subscriptions", "list", "--json")] == [
        ["sealed:k2:…"],
        ["sealed:k1:…"],
    ]
