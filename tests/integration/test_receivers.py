"""The receivers of docs/receiving.md, run as they stand there, and the public libraries that judge our signatures.

Node and Go are used where they are installed and their libraries can be got; otherwise the test says what is missing.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest

from connectors.clock import SystemClock
from connectors.local_kafka import steady_ports
from schemas.public_key import public_key
from streams.core.signing import Signer
from streams.new_secrets import new_secret
from tests.docs import ROOT, fences

BODY = b'{"type":"order.created","timestamp":"2026-01-01T12:00:00Z","data":{"name":"\xc3\xa9"}}'
PRIVATE = "whsk_" + base64.b64encode(bytes(range(32))).decode()
START_SECONDS = 60.0


def written(folder: Path, name: str) -> Path:
    """A program of the document."""
    (text,) = [fence.text for fence in fences(ROOT / "docs/receiving.md") if fence.info.split()[-1] == name]
    (folder / name).write_text(text)
    return folder / name


def prepared(folder: Path, tool: str, *commands: Sequence[str]) -> None:
    """Run what installs libraries; skip when it is not possible here."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    for command in commands:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            pytest.skip(f"{' '.join(command[:3])} failed, so its library is not here: {done.stderr.strip()[-300:]}")


async def judged(command: Sequence[str], folder: Path) -> None:
    """What each receiver must do: accept what is signed, once, and refuse all else."""
    secret, old = new_secret(), new_secret()
    (port,) = steady_ports(1)
    env = {**os.environ, "WEBHOOK_SECRET": secret, "ADDRESS": f"127.0.0.1:{port}"}
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, env=env, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            assert await process.stdout.readline() == b"listening\n"
        now_ms = SystemClock().now_ms()
        url = f"http://127.0.0.1:{port}/webhooks"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as session:

            async def post(signer: Signer, webhook_id: str, at_ms: int = now_ms, body: bytes = BODY) -> int:
                headers = dict(signer.headers(webhook_id, "application/json", BODY, at_ms))
                async with session.post(url, data=body, headers=headers) as response:
                    return response.status

            ours = Signer([secret])
            assert [await post(ours, "dlv_1") for _ in range(2)] == [204, 204]
            assert await post(Signer([PRIVATE, new_secret(), secret]), "dlv_2") == 204, "during a rotation"
            assert await post(Signer([old]), "dlv_3") == 401
            assert await post(ours, "dlv_4", now_ms - 3_600_000) == 401, "too old"
            assert await post(ours, "dlv_5", body=BODY + b" ") == 401
        process.terminate()
        said, _ = await process.communicate()
        assert said == b"got order.created\n" * 2
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_in_python(tmp_path: Path) -> None:
    await judged([sys.executable, str(written(tmp_path, "receiver.py"))], tmp_path)


NPM = ("npm", "install", "--no-audit", "--no-fund", "--no-save", "--prefix", ".")


@pytest.mark.timeout(400)
async def test_in_node(tmp_path: Path) -> None:
    written(tmp_path, "receiver.js")
    prepared(tmp_path, "node", ["node", "--version"])
    prepared(tmp_path, "npm", [*NPM, "standardwebhooks@1"])
    await judged(["node", "receiver.js"], tmp_path)


@pytest.mark.timeout(600)  # the first build of Go's own HTTP server takes a minute or two
async def test_in_go(tmp_path: Path) -> None:
    written(tmp_path, "main.go")
    build = ["go", "build", "-o", "receiver", "."]
    prepared(tmp_path, "go", ["go", "mod", "init", "receiver"], ["go", "mod", "tidy"])
    await asyncio.to_thread(subprocess.run, build, cwd=tmp_path, check=True, timeout=500)
    await judged(["./receiver"], tmp_path)


JUDGE = """
import crypto from "node:crypto";
import Stripe from "stripe";
import { verify } from "@octokit/webhooks-methods";
const { secret, publicKey, body, headers } = JSON.parse(process.argv[2]);
const judge = async (text) => {
  const found = {};
  try {
    new Stripe("sk_test_x").webhooks.constructEvent(text, headers["stripe-signature"], secret);
    found.stripe = true;
  } catch { found.stripe = false; }
  found.github = await verify(secret, text, headers["x-hub-signature-256"]);
  const content = `${headers["webhook-id"]}.${headers["webhook-timestamp"]}.${text}`;
  const x = Buffer.from(publicKey.slice(5), "base64").toString("base64url");
  const key = crypto.createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
  const ours = headers["webhook-signature"].split(" ").find((each) => each.startsWith("v1a,"));
  found.v1a = crypto.verify(null, Buffer.from(content), key, Buffer.from(ours.slice(4), "base64"));
  return found;
};
console.log(JSON.stringify([await judge(body), await judge(body + " ")]));
"""


@pytest.mark.timeout(400)
def test_the_libraries_of_stripe_and_github_and_node_s_own_cryptography_agree(tmp_path: Path) -> None:
    (tmp_path / "judge.mjs").write_text(JUDGE)
    prepared(tmp_path, "node", ["node", "--version"])
    prepared(tmp_path, "npm", [*NPM, "stripe@23", "@octokit/webhooks-methods@6"])
    secret = new_secret()
    signer = Signer([secret, PRIVATE], signatures=("standard", "github", "stripe"))
    headers = dict(signer.headers("dlv_1", "application/json", BODY, SystemClock().now_ms()))
    asked = {"secret": secret, "publicKey": public_key(PRIVATE), "body": BODY.decode(), "headers": headers}
    command = ["node", "judge.mjs", json.dumps(asked)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    right, forged = json.loads(done.stdout)
    assert right == {"stripe": True, "github": True, "v1a": True}
    assert forged == {"stripe": False, "github": False, "v1a": False}
