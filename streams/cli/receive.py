"""`distributary receive`: an endpoint to send to, that shows what comes and answers as it is told.

The receiver itself is `connectors/receiver.py`. It is for trying things; docs/receiving.md has models for receivers.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path
from typing import Annotated

import orjson
import typer

from connectors.receiver import ANY_PATH, Endpoint, Kind, Post, Receiver
from streams.cli.options import AsJson
from streams.cli.output import emit, many, note, say
from streams.cli.running import CommandError, run

BODY_CHARS_MAX = 2_000
DELAY_S_MAX = 3_600.0
_DURATION = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>ms|s|m)?")
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000}
#: Headers that are the webhook's, and no client's or proxy's.
_SHOWN_HEADERS = re.compile(r"(webhook|ce|x|stripe)-.*|signature(-input)?|content-(type|digest)|traceparent")


def receive(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 8000,
    host: Annotated[str, typer.Option(help="The address to listen on")] = "127.0.0.1",
    secret: Annotated[
        list[str] | None,
        typer.Option(help="Verify signatures with this whsec_ or public whpk_ key; repeat it for a rotation"),
    ] = None,
    status: Annotated[
        int | None, typer.Option(min=200, max=599, help="What to answer; from 300 on, a failure", show_default="204")
    ] = None,
    fail: Annotated[int, typer.Option(min=0, help="Fail the first so many attempts of each webhook, then accept")] = 0,
    delay: Annotated[str, typer.Option(help="Wait before each answer: 2s, 500ms, 1m")] = "0s",
    hang: Annotated[bool, typer.Option("--hang", help="Never answer")] = False,
    retry_after: Annotated[
        str, typer.Option(help="Send Retry-After with each failure: seconds, or an HTTP date", show_default="not sent")
    ] = "",
    at: Annotated[
        list[str] | None,
        typer.Option(
            help="Answer a path in its own way: '/slow delay=2s', '/bad status=503 fail=3 retry-after=30', '/dead hang'"
        ),
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="Serve HTTPS with this PEM certificate chain")] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key", show_default="in the certificate's file")] = None,
    headers: Annotated[bool, typer.Option("--headers", help="Show the headers of each webhook too")] = False,
    as_json: AsJson = False,
) -> None:
    """Receive webhooks, show them, and answer as told, until Ctrl-C.

    Any path takes them. A wrong signature is answered with 401. Who asks whether the endpoint is theirs, with a
    challenge or with CloudEvents' OPTIONS, is told yes.

    Example: distributary receive --port 8000 --fail 2 --at '/slow delay=2s'
    """
    secrets = tuple(secret or ())
    base = endpoint(ANY_PATH, secrets, status=status or 0, fail=fail, delay=delay, hang=hang, retry_after=retry_after)
    endpoints = [base, *(programme(text, secrets) for text in at or ())]
    tls = None if certificate is None else _tls(certificate, key)
    if key is not None and certificate is None:
        raise typer.BadParameter("it needs --certificate", param_hint="--key")

    def show(post: Post) -> None:
        emit(_document(post)) if as_json else _print(post, headers)

    async def main(stop: asyncio.Event) -> None:
        try:
            receiver = Receiver(endpoints, host=host, port=port, tls=tls, on_post=show)
        except ValueError as error:
            raise CommandError(f"this cannot be received with: {error}") from None
        try:
            async with receiver:
                note(f"ready: send webhooks to {receiver.url('/')}, or any path below it; Ctrl-C ends it")
                await stop.wait()
        except OSError as error:
            raise CommandError(f"cannot listen on port {port} of {host}: {error.strerror}; choose another") from None

    run(main, graceful=True)


# --- what to answer ---------------------------------------------------------------------------------------------------


def endpoint(
    path: str,
    secrets: tuple[str, ...],
    *,
    status: int = 0,
    fail: int = 0,
    delay: str = "0s",
    hang: bool = False,
    retry_after: str = "",
) -> Endpoint:
    """One that does this. BadParameter."""
    kind: Kind = "hanging" if hang else "flaky" if fail else "dead" if status >= 300 else "healthy"
    return Endpoint(
        path, kind, secrets, failures=fail, status=status, wait_ms=duration_ms(delay), retry_after=retry_after
    )


def programme(text: str, secrets: tuple[str, ...]) -> Endpoint:
    """The endpoint of `--at`: a path, and then words. BadParameter."""
    path, *words = text.split() or [""]
    said: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in ("status", "fail", "delay", "retry-after", "hang") or bool(equals) == (name == "hang"):
            raise typer.BadParameter(
                f"{word!r} is none of status=…, fail=…, delay=…, retry-after=… and hang", param_hint="--at"
            )
        said[name] = value
    numbers = {name: said[name] for name in ("status", "fail") if name in said}
    if not all(value.isdecimal() for value in numbers.values()) or not 200 <= int(numbers.get("status", "200")) <= 599:
        raise typer.BadParameter(f"in {text!r}, status is 200 to 599 and fail a number", param_hint="--at")
    return endpoint(
        path,
        secrets,
        status=int(numbers.get("status", "0")),
        fail=int(numbers.get("fail", "0")),
        delay=said.get("delay", "0s"),
        hang="hang" in said,
        retry_after=said.get("retry-after", ""),
    )


def duration_ms(text: str) -> int:
    """Milliseconds of `2s`, `500ms`, `1m` or a number of seconds. BadParameter."""
    shape = _DURATION.fullmatch(text)
    if shape is None or (ms := float(shape["number"]) * _UNITS_MS[shape["unit"] or "s"]) > DELAY_S_MAX * 1000:
        raise typer.BadParameter(f"{text!r} is no time such as 2s, 500ms or 1m, of an hour at most", param_hint="delay")
    return round(ms)


def _tls(certificate: Path, key: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # SSLError is one
        said = getattr(error, "reason", None) or error.strerror or "no PEM"
        raise CommandError(f"{certificate} cannot be served with: {said}; give a PEM certificate and its key") from None
    return context


# --- what came --------------------------------------------------------------------------------------------------------


def _document(post: Post) -> dict[str, object]:
    return {
        "path": post.path,
        "webhook_id": post.webhook_id,
        "attempt": post.attempt,
        "status": post.status,
        "valid": post.valid,
        "headers": post.headers,
        "body": post.body.decode("utf-8", "replace"),
    }


def _print(post: Post, with_headers: bool) -> None:
    sign = {True: "signature ok", False: "SIGNATURE BAD", None: "signature not checked"}[post.valid]
    answer = f"→ {post.status}" if post.status else "→ no answer"
    style = "red" if post.valid is False else "" if 0 < post.status < 300 else "yellow"
    number = f"  attempt {post.attempt}" if post.attempt > 1 else ""
    say(f"POST {post.path}  {post.webhook_id or 'no webhook-id'}{number}  {sign}  {answer}", style)
    if with_headers:
        for name, value in post.headers.items():
            if _SHOWN_HEADERS.fullmatch(name.lower()):
                say(f"  {name}: {value}", "dim")
    for line in _lines(post):
        say(f"  {line}", "dim")


def _lines(post: Post) -> list[str]:
    """The body, as a person reads it."""
    try:
        text = orjson.dumps(orjson.loads(post.body), option=orjson.OPT_INDENT_2).decode()
    except orjson.JSONDecodeError:
        if not post.body.isascii():
            return [many(len(post.body), "byte")]
        text = post.body.decode()
    cut = text[:BODY_CHARS_MAX]
    return [*cut.splitlines(), *(["…"] if len(text) > BODY_CHARS_MAX else [])]
