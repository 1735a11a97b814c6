"""The receiver: endpoints behave as they say, signatures are judged by another package, arrivals are kept."""

from __future__ import annotations

import datetime
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from standardwebhooks import Webhook

from connectors.receiver import Endpoint, Post, Receiver, Stats
from streams.new_secrets import new_secret
from tests.cli import ROOT

SECRET, OLD = new_secret(), new_secret()
BODY = '{"type":"a"}'


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def signed(webhook_id: str, *, secret: str = SECRET, age_s: int = 0) -> dict[str, str]:
    moment = datetime.datetime.now(tz=datetime.UTC) - datetime.timedelta(seconds=age_s)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, moment, BODY),
    }


async def test_each_kind_answers_as_it_says(session: aiohttp.ClientSession) -> None:
    posts: list[Post] = []
    kinds = [Endpoint("/healthy"), Endpoint("/flaky", "flaky", failures=2), Endpoint("/dead", "dead")]
    slow = Endpoint("/slow", "slow", delay_ms=1)
    async with Receiver([*kinds, slow], on_post=posts.append) as receiver:

        async def post(path: str, webhook_id: str) -> int:
            async with session.post(receiver.url(path), data=BODY, headers={"webhook-id": webhook_id}) as response:
                return response.status

        assert [await post("/healthy", "a") for _ in range(2)] == [204, 204]
        assert [await post("/flaky", each) for each in "abaaab"] == [500, 500, 500, 204, 204, 500]
        assert [await post("/dead", "a") for _ in range(3)] == [500, 500, 500]
        assert await post("/slow", "a") == 204
        assert await post("/none", "a") == 404
        assert [(each.webhook_id, each.attempt, each.valid) for each in posts if each.path == "/flaky"][-2:] == [
            ("a", 4, None),
            ("b", 2, None),
        ]
        assert receiver.stats()["/flaky"] == Stats(posts=6, deliveries=2, accepted=2, invalid=0)
        async with session.get(receiver.url("/stats")) as response:
            assert (await response.json())["/flaky"] == {"posts": 6, "deliveries": 2, "accepted": 2, "invalid": 0}
        async with session.get(receiver.url("/arrivals")) as response:
            arrival = (await response.json())["/flaky"]["a"]
        assert (arrival["posts"], arrival["accepted"], arrival["invalid"]) == (4, 2, 0)
        assert arrival["first_ms"] > 0


async def test_signatures_are_judged(session: aiohttp.ClientSession) -> None:
    async with Receiver([Endpoint("/a", secrets=(SECRET, OLD))]) as receiver:

        async def post(headers: dict[str, str]) -> int:
            async with session.post(receiver.url("/a"), data=BODY, headers=headers) as response:
                return response.status

        assert await post(signed("a")) == 204
        assert await post(signed("b", secret=OLD)) == 204
        for bad in (
            {"webhook-id": "c"},
            signed("d", secret=new_secret()),
            signed("e", age_s=3_600),
            signed("f") | {"webhook-id": "g"},
            signed("h") | {"webhook-signature": "nonsense"},
        ):
            assert await post(bad) == 401
        assert receiver.stats()["/a"] == Stats(posts=7, deliveries=7, accepted=2, invalid=5)


def test_endpoints_need_paths_of_their_own() -> None:
    for paths in (["/a", "/a"], ["a"]):
        with pytest.raises(ValueError, match="a path of its own"):
            Receiver([Endpoint(path) for path in paths])


def test_as_a_process(tmp_path: Path) -> None:
    file = tmp_path / "endpoints.json"
    file.write_text('[{"path": "/a", "kind": "dead"}]')
    command = [sys.executable, "-m", "connectors.receiver", "--endpoints", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        assert port > 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    file.write_text('[{"path": "/a", "kind": "odd"}]')
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 1
    assert "odd" in done.stderr
    assert "Traceback" not in done.stderr
