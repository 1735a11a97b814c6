"""A small OAuth2 authorization server (RFC 6749) with an endpoint that its tokens open, on aiohttp.

It is strict about what a client must do, since it judges ours: the grant, one way of authentication and no more, the
form's encoding, the scope. It signs nothing and keeps everything in memory.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from typing import NamedTuple, Self
from urllib.parse import parse_qsl, unquote_plus

from aiohttp import web


class Client(NamedTuple):
    secret: str
    scopes: frozenset[str] = frozenset()


class OAuth2Server:
    """`/token` gives tokens to `clients`, `/hook` takes POSTs that have one: 204, else 401."""

    def __init__(self, life_s: int = 3_600, **clients: Client) -> None:
        self.life_s = life_s
        self.clients = clients
        self.issued = 0
        self.refused: Counter[str] = Counter()  # token requests, by the error
        self.ways: Counter[str] = Counter()  # how clients authenticated
        #: What came to `/hook`: (webhook-id, status).
        self.hooked: list[tuple[str, int]] = []
        self._tokens: dict[str, float] = {}  # until when they are good (loop time)
        self.port = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        app = web.Application()
        app.add_routes([web.post("/token", self._token), web.post("/hook", self._hook)])
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()

    def revoke_tokens(self) -> None:
        """None that was issued so far is good any more."""
        self._tokens.clear()

    async def _token(self, request: web.Request) -> web.Response:
        try:
            scope = self._judged(request, await request.text())
        except _RefusedError as error:
            self.refused[error.code] += 1
            status = 401 if error.code == "invalid_client" else 400
            return web.json_response({"error": error.code, "error_description": "no"}, status=status)
        token = secrets.token_urlsafe(24)
        self.issued += 1
        self._tokens[token] = asyncio.get_running_loop().time() + self.life_s
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": self.life_s, "scope": scope}
        return web.json_response(answer, headers={"cache-control": "no-store"})

    def _judged(self, request: web.Request, body: str) -> str:
        if request.content_type != "application/x-www-form-urlencoded" or request.query_string:
            raise _RefusedError("invalid_request")
        pairs = parse_qsl(body, keep_blank_values=True, strict_parsing=True)
        form = dict(pairs)
        if len(form) < len(pairs):
            raise _RefusedError("invalid_request")
        client_id, secret = self._credentials(request.headers.get("authorization"), form)
        client = self.clients.get(client_id)
        if client is None or not secrets.compare_digest(client.secret.encode(), secret.encode()):
            raise _RefusedError("invalid_client")
        if form.get("grant_type") != "client_credentials":
            raise _RefusedError("unsupported_grant_type")
        asked = form.get("scope", "")
        if not set(asked.split()) <= client.scopes:
            raise _RefusedError("invalid_scope")
        return asked

    def _credentials(self, header: str | None, form: dict[str, str]) -> tuple[str, str]:
        if header is None:
            self.ways["post"] += 1
            return form.get("client_id", ""), form.get("client_secret", "")
        if "client_secret" in form:  # 2.3: no more than one way
            raise _RefusedError("invalid_request")
        self.ways["basic"] += 1
        try:
            user, _, password = base64.b64decode(header.removeprefix("Basic "), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise _RefusedError("invalid_client") from None
        return unquote_plus(user), unquote_plus(password)

    async def _hook(self, request: web.Request) -> web.Response:
        await request.read()
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        good = self._tokens.get(token, 0.0) > asyncio.get_running_loop().time()
        status = 204 if good else 401
        self.hooked.append((request.headers["webhook-id"], status))
        return web.Response(status=status)


class _RefusedError(Exception):
    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code
