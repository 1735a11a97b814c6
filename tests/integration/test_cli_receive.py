"""`distributary receive`: what it shows, and that it answers as it is told."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import signal
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme

from connectors.clock import SystemClock
from schemas.public_key import public_key
from streams.core.signing import Signer
from streams.new_secrets import new_secret
from tests.cli import Cli, Started

SECRET = new_secret()
PRIVATE = "whsk_" + base64.b64encode(bytes(range(32))).decode()
BODY = b'{"type":"order.created","data":{"total":12.5}}'


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path, {})


@contextmanager
def receiving(cli: Cli, *arguments: str) -> Iterator[tuple[Started, str]]:
    """The running command, and its URL."""
    with cli.started("receive", "--port", "0", *arguments) as started:
        said = started.said("ready: ", on=started.err)
        found = re.search(r"(https?://\S+/),", said)
        assert found is not None, said
        yield started, found[1]


async def post(url: str, webhook_id: str = "msg_1", secret: str = SECRET, **options: object) -> aiohttp.ClientResponse:
    headers = dict(Signer([secret]).headers(webhook_id, "application/json", BODY, SystemClock().now_ms()))
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session,
        session.post(url, data=BODY, headers=headers, **options) as response,  # type: ignore[arg-type]
    ):
        return response


async def test_webhooks_are_verified_and_shown(cli: Cli) -> None:
    with receiving(cli, "--secret", SECRET, "--secret", public_key(PRIVATE), "--headers") as (started, url):
        assert (await post(url + "orders")).status == 204
        assert (await post(url, "msg_2", PRIVATE)).status == 204
        assert (await post(url, "msg_3", new_secret())).status == 401
        other = "whsk_" + base64.b64encode(bytes(32)).decode()
        assert (await post(url, "msg_4", other)).status == 401
        said = started.said("msg_4")
        started.process.send_signal(signal.SIGINT)
        started.ends(0)
    assert "POST /orders  msg_1  signature ok  → 204" in said
    assert '    "total": 12.5' in said
    assert "  webhook-signature: v1a," in said
    assert "msg_2  signature ok" in said
    assert "msg_3  SIGNATURE BAD  → 401" in said


async def test_it_fails_as_it_is_told(cli: Cli) -> None:
    told = [
        "--fail",
        "2",
        "--status",
        "503",
        "--retry-after",
        "7",
        "--at",
        "/gone status=410",
        "--at",
        "/slow delay=5ms",
    ]
    with receiving(cli, *told, "--json") as (started, url):
        answers = [await post(url) for _ in range(3)]
        assert [(each.status, each.headers.get("Retry-After")) for each in answers] == [
            (503, "7"),
            (503, "7"),
            (204, None),
        ]
        assert (await post(url + "gone")).status == 410
        assert (await post(url + "slow")).status == 204
        lines = [json.loads(line) for line in started.said("/slow").splitlines()]
    assert [(each["path"], each["attempt"], each["status"]) for each in lines] == [
        ("/", 1, 503), ("/", 2, 503), ("/", 3, 204), ("/gone", 1, 410), ("/slow", 1, 204),
    ]  # fmt: skip
    assert lines[0]["valid"] is None
    assert lines[0]["body"] == BODY.decode()


async def test_it_hangs_and_stops_all_the_same(cli: Cli) -> None:
    with receiving(cli, "--hang") as (started, url):
        posting = asyncio.create_task(post(url))
        assert "→ no answer" in await asyncio.to_thread(started.said, "msg_1")
        assert not posting.done()
        posting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await posting
        started.process.send_signal(signal.SIGTERM)
        started.ends(0)


async def test_who_asks_whether_the_endpoint_is_theirs_is_told_yes(cli: Cli) -> None:
    with receiving(cli) as (_, url):
        async with aiohttp.ClientSession() as session:
            async with session.get(url + "hooks", params={"challenge": "a b"}) as response:
                assert (response.status, await response.text()) == (200, "a b")
            async with session.get(url + "hooks") as response:
                assert response.status == 404
            async with session.options(url, headers={"WebHook-Request-Origin": "us.example"}) as response:
                assert response.headers["WebHook-Allowed-Origin"] == "us.example"


async def test_over_tls(cli: Cli, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with receiving(cli, "--certificate", "server.pem") as (_, url):
        assert url.startswith("https://")
        assert (await post(url, ssl=context)).status == 204
    (tmp_path / "bad.pem").write_text("nothing")
    for name in ("bad.pem", "none.pem"):
        assert f"{name} cannot be served with" in cli.fails("receive", "--certificate", name)


def test_wrong_usage(cli: Cli) -> None:
    for wrong, said in (
        (["--at", "/a fast"], "'fast' is none of status="),
        (["--at", "/a hang=1"], "'hang=1' is none of"),
        (["--at", "/a status=99"], "status is 200 to 599"),
        (["--delay", "soon"], "'soon' is no time"),
        (["--delay", "2h"], "'2h' is no time"),
        (["--key", "key.pem"], "it needs --certificate"),
    ):
        assert said in cli.misused("receive", "--port", "0", *wrong)
    assert "a path of its own" in cli.fails("receive", "--port", "0", "--at", "hooks")
    assert "whpk_" in cli.fails("receive", "--port", "0", "--secret", "whpk_short")
    with receiving(cli) as (_, url):
        port = url.rstrip("/").rpartition(":")[2]
        assert "cannot listen on port" in cli.fails("receive", "--port", port)
