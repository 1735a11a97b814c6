"""A receiver of webhooks for `distributary receive`, `dev`, `demo` and tests: endpoints that do as they are told.

It verifies every signature where an endpoint has secrets, with the `standardwebhooks` package or, where they are
asymmetric, with `cryptography`; answers who asks whether the endpoint is theirs; and remembers what arrived: GET
/stats sums it up by endpoint, GET /arrivals lists it by webhook-id. Run it inside another program (`Receiver`), or as a
process of its own that prints its port as one line of JSON:

    python -m connectors.receiver --endpoints endpoints.json [--port 0]

It is a tool to send to, not a model for a receiver: it keeps everything in memory and answers without doing any work.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import signal
import ssl
import sys
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
import uvloop
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from connectors.clock import SystemClock
from schemas.public_key import PUBLIC

#: Beyond this many webhook-ids of an endpoint, new ones are counted and not remembered.
REMEMBERED_MAX = 1_000_000
BODY_BYTES_MAX = 16 << 20
#: The path of an endpoint that takes what no other does.
ANY_PATH = "*"
#: How far a timestamp may be from now (Standard Webhooks 1.0 leaves it to receivers; the package has the same).
TOLERANCE_MS = 300_000

Kind = Literal["healthy", "flaky", "dead", "slow", "hanging"]


class StandardWebhooksMissing(Exception):
    """Signatures are to be verified, and the package that does it is not installed."""


class Endpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a path behaves.

    `healthy` answers 204. `flaky` answers 500 to the first `failures` attempts of each webhook-id, then 204. `dead`
    always answers 500. `slow` answers 204 after `delay_ms`. `hanging` never answers. `status` is answered in place of
    500 or, below 300, of 204; `wait_ms` is waited before any answer, and `retry_after` is sent with each failure.
    Signatures count as valid where one of the `secrets` (whsec_..., or the public whpk_...) made them; without secrets
    they are not looked at. `ANY_PATH` is every path that no other endpoint has.
    """

    path: str
    kind: Kind = "healthy"
    secrets: tuple[str, ...] = ()
    failures: int = 2
    delay_ms: int = 1_000
    status: int = 0
    wait_ms: int = 0
    retry_after: str = ""

    @property
    def needs_count(self) -> int:
        """Attempts of one webhook-id that fail before one succeeds."""
        return self.failures if self.kind == "flaky" else 0

    @property
    def answers(self) -> tuple[int, int]:
        """The statuses of a success and of a failure."""
        return (self.status, 500) if 0 < self.status < 300 else (204, self.status or 500)

    @property
    def pause_ms(self) -> int:
        """How long an answer takes."""
        return self.wait_ms + (self.delay_ms if self.kind == "slow" else 0)


class Arrival(msgspec.Struct, gc=False):
    """What is remembered of one webhook-id: when its first POST came, and how many of which kind there were."""

    first_ms: int
    posts: int = 0
    accepted: int = 0
    invalid: int = 0


class Stats(msgspec.Struct, frozen=True):
    """Sums for one endpoint. `deliveries` counts different webhook-ids."""

    posts: int
    deliveries: int
    accepted: int
    invalid: int


class Post(msgspec.Struct, frozen=True):
    """One POST, for `on_post`. `valid` is None where the endpoint has no secrets; `status` 0 is no answer at all."""

    path: str
    webhook_id: str
    attempt: int
    status: int
    valid: bool | None
    body: bytes
    headers: Mapping[str, str] = {}


class _Hook:
    """One endpoint and what has arrived there."""

    def __init__(self, endpoint: Endpoint, clock: SystemClock) -> None:
        self.endpoint = endpoint
        self.arrivals: dict[str, Arrival] = {}
        self.posts = self.accepted = self.invalid = 0
        self._verify = [_verifier(secret, clock) for secret in endpoint.secrets]

    def valid(self, body: bytes, headers: Mapping[str, str]) -> bool | None:
        return any(verify(body, headers) for verify in self._verify) if self._verify else None

    def take(self, webhook_id: str, now_ms: int, valid: bool | None) -> tuple[int, int]:
        """(which attempt it is, the status to answer)."""
        arrival = self.arrivals.get(webhook_id)
        if arrival is None:
            arrival = Arrival(now_ms)
            if len(self.arrivals) < REMEMBERED_MAX:
                self.arrivals[webhook_id] = arrival
        arrival.posts += 1
        success, failure = self.endpoint.answers
        fails = self.endpoint.kind in ("dead", "hanging") or arrival.posts <= self.endpoint.needs_count
        accepted = not fails and valid is not False
        arrival.accepted += accepted
        arrival.invalid += valid is False
        self.posts += 1
        self.accepted += accepted
        self.invalid += valid is False
        # 401 for a bad signature: what a real receiver answers.
        status = failure if fails else success if accepted else 401
        return arrival.posts, 0 if self.endpoint.kind == "hanging" else status

    def stats(self) -> Stats:
        return Stats(self.posts, len(self.arrivals), self.accepted, self.invalid)


def require_standardwebhooks() -> Any:
    """The package. StandardWebhooksMissing says how to get it."""
    try:
        return importlib.import_module("standardwebhooks")
    except ImportError:
        raise StandardWebhooksMissing(
            "signatures are checked with the package standardwebhooks; install it with pip install 'distributary[demo]'"
        ) from None


Verifier = Callable[[bytes, Mapping[str, str]], bool]


def _verifier(secret: str, clock: SystemClock) -> Verifier:
    """ValueError for what is no secret; StandardWebhooksMissing."""
    if secret.startswith(PUBLIC):
        return _asymmetric(secret, clock)
    package = require_standardwebhooks()
    webhook = package.Webhook(secret)

    def verify(body: bytes, headers: Mapping[str, str]) -> bool:
        try:
            webhook.verify(body, headers, json_parse=False)
        except (package.WebhookVerificationError, ValueError):  # ValueError: a header or body that is no text
            return False
        return True

    return verify


def _asymmetric(public: str, clock: SystemClock) -> Verifier:
    """Of Standard Webhooks' `v1a`, which the package does not know."""
    try:
        key = Ed25519PublicKey.from_public_bytes(b64decode(public.removeprefix(PUBLIC), validate=True))
    except ValueError:
        raise ValueError("a whpk_ secret is base64 of the 32 bytes of an ed25519 public key") from None

    def verify(body: bytes, headers: Mapping[str, str]) -> bool:
        webhook_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        if not timestamp.isdecimal() or abs(int(timestamp) * 1000 - clock.now_ms()) > TOLERANCE_MS:
            return False
        content = f"{webhook_id}.{timestamp}.".encode() + body
        for each in headers.get("webhook-signature", "").split():
            version, _, text = each.partition(",")
            try:
                if version == "v1a":
                    key.verify(b64decode(text, validate=True), content)
                    return True
            except (InvalidSignature, ValueError):
                continue
        return False

    return verify


class Receiver:
    """Endpoints on one port; an async context manager."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        on_post: Callable[[Post], None] | None = None,
    ) -> None:
        """`on_post` is told of every POST, before it is answered. ValueError, StandardWebhooksMissing."""
        self._clock = SystemClock()
        self._hooks = {endpoint.path: _Hook(endpoint, self._clock) for endpoint in endpoints}
        named = [path for path in self._hooks if path != ANY_PATH]
        if len(self._hooks) != len(endpoints) or not all(path.startswith("/") for path in named):
            raise ValueError("each endpoint needs a path of its own that starts with /")
        self._on_post = on_post
        self._host = host
        self._tls = tls
        self._wanted_port = port
        self.port = 0

    def url(self, path: str) -> str:
        """Where to send to. Once it runs."""
        shown = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._tls else 'http'}://{shown}:{self.port}{path}"

    def stats(self) -> dict[str, Stats]:
        """Sums by path."""
        return {path: hook.stats() for path, hook in self._hooks.items()}

    def arrivals(self) -> dict[str, dict[str, Arrival]]:
        """By path and webhook-id."""
        return {path: hook.arrivals for path, hook in self._hooks.items()}

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.add_routes([web.get("/stats", self._get_stats), web.get("/arrivals", self._get_arrivals)])
        app.add_routes([web.post("/{path:.*}", self._post), web.get("/{path:.*}", _challenge)])
        app.add_routes([web.options("/{path:.*}", _consent)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._wanted_port, ssl_context=self._tls).start()
        except OSError:
            await self._runner.cleanup()
            raise
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _post(self, request: web.Request) -> web.Response:
        now_ms = self._clock.now_ms()  # of arrival: before the body and the signature
        hook = self._hooks.get(request.path) or self._hooks.get(ANY_PATH)
        if hook is None:
            raise web.HTTPNotFound
        body = await request.read()
        webhook_id = request.headers.get("webhook-id", "")
        valid = hook.valid(body, request.headers)
        attempt, status = hook.take(webhook_id, now_ms, valid)
        if self._on_post is not None:
            self._on_post(Post(request.path, webhook_id, attempt, status, valid, body, dict(request.headers)))
        if not status:
            await asyncio.Event().wait()  # until the sender, or whoever stops us, has had enough
        if hook.endpoint.pause_ms:
            await asyncio.sleep(hook.endpoint.pause_ms / 1000)
        again = {"Retry-After": hook.endpoint.retry_after} if status >= 300 and hook.endpoint.retry_after else None
        return web.Response(status=status, headers=again)

    async def _get_stats(self, _: web.Request) -> web.Response:
        return _json(self.stats())

    async def _get_arrivals(self, _: web.Request) -> web.Response:
        return _json(self.arrivals())


async def _challenge(request: web.Request) -> web.Response:
    """Who asks with `?challenge=` whether the endpoint is theirs gets it back."""
    challenge = request.query.get("challenge")
    if challenge is None:
        raise web.HTTPNotFound
    return web.Response(text=challenge)


async def _consent(request: web.Request) -> web.Response:
    """CloudEvents, HTTP 1.1 Web Hooks 1.0, section 4: whoever asks may send."""
    origin = request.headers.get("WebHook-Request-Origin", "*")
    return web.Response(headers={"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": "*", "Allow": "POST"})


def _json(document: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), content_type="application/json")


async def _serve(endpoints: Sequence[Endpoint], port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with Receiver(endpoints, port=port) as receiver:
        sys.stdout.write(f'{{"port":{receiver.port}}}\n')
        sys.stdout.flush()
        await stop.wait()


def main() -> int:
    """The process; 0, or 1 with a sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m connectors.receiver", description="Receive webhooks.")
    parser.add_argument("--endpoints", type=Path, required=True, help="a JSON file: [{path, kind, secrets, ...}, ...]")
    parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1; 0 takes a free one (default)")
    arguments = parser.parse_args()
    try:
        endpoints = msgspec.json.decode(arguments.endpoints.read_bytes(), type=list[Endpoint])
        uvloop.run(_serve(endpoints, arguments.port))
    except (OSError, OverflowError, ValueError, StandardWebhooksMissing) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
