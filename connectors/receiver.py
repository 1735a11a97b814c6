"""A receiver of webhooks, for the demo, `distributary dev` and tests: endpoints that are healthy, flaky, dead or slow.

It verifies every signature with the `standardwebhooks` package where an endpoint has secrets, and remembers what
arrived: GET /stats sums it up by endpoint, GET /arrivals lists it by webhook-id. Run it inside another program
(`Receiver`), or as a process of its own that prints its port as one line of JSON:

    python -m connectors.receiver --endpoints endpoints.json [--port 0]

It is a tool to send to, not a model for a receiver: it keeps everything in memory and answers without doing any work.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
import uvloop
from aiohttp import web

from connectors.clock import SystemClock

#: Beyond this many webhook-ids of an endpoint, new ones are counted and not remembered.
REMEMBERED_MAX = 1_000_000
BODY_BYTES_MAX = 16 << 20

Kind = Literal["healthy", "flaky", "dead", "slow"]


class StandardWebhooksMissing(Exception):
    """Signatures are to be verified, and the package that does it is not installed."""


class Endpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a path behaves.

    `healthy` answers 204. `flaky` answers 500 to the first `failures` attempts of each webhook-id, then 204. `dead`
    always answers 500. `slow` answers 204 after `delay_ms`. Signatures count as valid where one of the
    `secrets` (whsec_...) made them; without secrets they are not looked at.
    """

    path: str
    kind: Kind = "healthy"
    secrets: tuple[str, ...] = ()
    failures: int = 2
    delay_ms: int = 1_000

    @property
    def needs_count(self) -> int:
        """Attempts of one webhook-id that fail before one succeeds."""
        return self.failures if self.kind == "flaky" else 0


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
    """One POST, for `on_post`. `valid` is None where the endpoint has no secrets."""

    path: str
    webhook_id: str
    attempt: int
    status: int
    valid: bool | None
    body: bytes


class _Hook:
    """One endpoint and what has arrived there."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.arrivals: dict[str, Arrival] = {}
        self.posts = self.accepted = self.invalid = 0
        self._verify = [_verifier(secret) for secret in endpoint.secrets]

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
        fails = self.endpoint.kind == "dead" or arrival.posts <= self.endpoint.needs_count
        accepted = not fails and valid is not False
        arrival.accepted += accepted
        arrival.invalid += valid is False
        self.posts += 1
        self.accepted += accepted
        self.invalid += valid is False
        # 401 for a bad signature: what a real receiver answers.
        return arrival.posts, 500 if fails else 204 if accepted else 401

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


def _verifier(secret: str) -> Callable[[bytes, Mapping[str, str]], bool]:
    package = require_standardwebhooks()
    webhook = package.Webhook(secret)

    def verify(body: bytes, headers: Mapping[str, str]) -> bool:
        try:
            webhook.verify(body, headers, json_parse=False)
        except (package.WebhookVerificationError, ValueError):  # ValueError: a header or body that is no text
            return False
        return True

    return verify


class Receiver:
    """Endpoints on one port of 127.0.0.1; an async context manager."""

    def __init__(
        self, endpoints: Sequence[Endpoint], *, port: int = 0, on_post: Callable[[Post], None] | None = None
    ) -> None:
        """`on_post` is told of every POST, before it is answered. ValueError, StandardWebhooksMissing."""
        self._hooks = {endpoint.path: _Hook(endpoint) for endpoint in endpoints}
        if len(self._hooks) != len(endpoints) or not all(path.startswith("/") for path in self._hooks):
            raise ValueError("each endpoint needs a path of its own that starts with /")
        self._on_post = on_post
        self._clock = SystemClock()
        self._wanted_port = port
        self.port = 0

    def url(self, path: str) -> str:
        """Where to send to. Once it runs."""
        return f"http://127.0.0.1:{self.port}{path}"

    def stats(self) -> dict[str, Stats]:
        """Sums by path."""
        return {path: hook.stats() for path, hook in self._hooks.items()}

    def arrivals(self) -> dict[str, dict[str, Arrival]]:
        """By path and webhook-id."""
        return {path: hook.arrivals for path, hook in self._hooks.items()}

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.add_routes([web.get("/stats", self._get_stats), web.get("/arrivals", self._get_arrivals)])
        app.add_routes([web.post(path, self._post) for path in self._hooks])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._wanted_port).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _post(self, request: web.Request) -> web.Response:
        now_ms = self._clock.now_ms()  # of arrival: before the body and the signature
        hook = self._hooks[request.path]
        body = await request.read()
        webhook_id = request.headers.get("webhook-id", "")
        valid = hook.valid(body, request.headers)
        attempt, status = hook.take(webhook_id, now_ms, valid)
        if self._on_post is not None:
            self._on_post(Post(request.path, webhook_id, attempt, status, valid, body))
        if hook.endpoint.kind == "slow":
            await asyncio.sleep(hook.endpoint.delay_ms / 1000)
        return web.Response(status=status)

    async def _get_stats(self, _: web.Request) -> web.Response:
        return _json(self.stats())

    async def _get_arrivals(self, _: web.Request) -> web.Response:
        return _json(self.arrivals())


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
