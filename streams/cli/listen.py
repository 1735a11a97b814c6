"""`distributary listen`: a tenant's events on a developer's machine, which has no public address.

Two roads to the same events: Kafka itself, or the HTTP API for those who have a key and no Kafka. What is made of them
is in `forwarding.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any

import orjson
import typer

from connectors.clock import SystemClock
from connectors.event_feed import EventFeed, Heard, Wanted
from connectors.event_stream import EventStream, StreamLostError, StreamRefusedError
from schemas.errors import InvalidSubscriptionError
from schemas.event import Event
from schemas.post import PostResult
from schemas.rendering import on_one_line
from schemas.subscription import check_event_type_pattern
from streams.cli.forwarding import Forwarder, ForwardFormat
from streams.cli.options import AsJson, Bootstrap, Prefix, RegistryUrl, load_settings, open_registry
from streams.cli.output import emit, note, say
from streams.cli.running import CommandError, run
from streams.cli.values import iso
from streams.new_secrets import new_secret
from streams.settings import Settings
from streams.wiring import client_config

DATA_CHARS_MAX = 200
WAIT_S_MAX = 30.0
LINE_BYTES_MAX = 4_096

Source = AsyncGenerator[Heard, None]


def listen(
    forward_to: Annotated[
        str | None, typer.Option(help="POST each event here, such as http://localhost:3000/webhooks", metavar="URL")
    ] = None,
    events: Annotated[
        list[str] | None, typer.Option(help="Only these types: order.created, order.*; repeat it", show_default="all")
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(help="Whose events", show_default="the key's; without a key everybody's")
    ] = None,
    secret: Annotated[
        str | None,
        typer.Option(help="The whsec_ or whsk_ secret to sign with", show_default="a new one, which is printed"),
    ] = None,
    payload_format: Annotated[
        ForwardFormat, typer.Option("--format", help="What to POST: the format that your subscription will have")
    ] = "standard",
    api_url: Annotated[
        str | None,
        typer.Option(envvar="DISTRIBUTARY_API_URL", help="Listen through this HTTP API instead of Kafka"),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="DISTRIBUTARY_API_KEY", help="Its key, with the scope events:listen", show_default=False),
    ] = None,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show events as they come, and forward them to your machine as signed webhooks, until Ctrl-C.

    Nothing is retried: `r` and Enter sends the last event again, `r 7` the seventh. A connection that is lost is made
    again and goes on after the last event. Without --forward-to, events are shown only.

    Example: distributary listen --forward-to http://localhost:3000/webhooks --events 'order.*'
    """
    wanted = Wanted(tenant, tuple(events or ()))
    try:
        for pattern in wanted.types:
            check_event_type_pattern(pattern)
    except InvalidSubscriptionError as error:
        raise typer.BadParameter(str(error).removeprefix("event_types: "), param_hint="--events") from None
    if api_url is not None and not api_key:
        raise CommandError("the API wants a key: set DISTRIBUTARY_API_KEY to one with the scope events:listen")
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)
    chosen = secret or new_secret()
    source = (
        _of_kafka(settings, wanted)
        if api_url is None
        else _of_api(EventStream(api_url, api_key or ""), wanted, SystemClock())
    )

    async def main(stop: asyncio.Event) -> None:
        async with contextlib.AsyncExitStack() as stack:
            forwarder = None
            if forward_to is not None:
                try:
                    forwarder = await stack.enter_async_context(Forwarder(forward_to, chosen, payload_format))
                except ValueError as error:
                    raise CommandError(f"cannot forward to this: {error}") from None
                if secret is None:
                    note(f"events are signed with {chosen}", style="")
            await _Session(forwarder, as_json).listen(source, stop)

    run(main, graceful=True)


# --- where events come from -------------------------------------------------------------------------------------------


async def _of_kafka(settings: Settings, wanted: Wanted) -> Source:
    async with open_registry(settings) as registry:
        feed = EventFeed(client_config(settings), settings.topics.events, registry)
        async with aclosing(feed.follow(wanted)) as heard:
            async for each in heard:
                yield each


async def _of_api(stream: EventStream, wanted: Wanted, clock: SystemClock) -> Source:
    """Connects again after a while, each time a longer one, and goes on after the last event. CommandError."""
    cursor: str | None = None
    failures = 0
    while True:
        try:
            async with aclosing(stream.follow(wanted, cursor)) as heard:
                async for each in heard:
                    cursor, failures = each.cursor, 0
                    yield each
        except StreamRefusedError as error:
            raise CommandError(f"{error}; correct the key or the request") from None
        except StreamLostError as error:
            wait_s = min(WAIT_S_MAX, 2.0**failures) * (0.5 + clock.jitter() / 2)
            failures += 1
            note(f"{error}; trying again in {wait_s:.0f} s")
            await asyncio.sleep(wait_s)


# --- what is done with them -------------------------------------------------------------------------------------------


class _Session:
    def __init__(self, forwarder: Forwarder | None, as_json: bool) -> None:
        self._forwarder = forwarder
        self._as_json = as_json

    async def listen(self, source: Source, stop: asyncio.Event) -> None:
        """Until `stop`; what is being posted then is answered first."""
        asked: asyncio.Queue[str] = asyncio.Queue()
        stopped = asyncio.ensure_future(stop.wait())
        typed = asyncio.ensure_future(asked.get())
        heard = asyncio.ensure_future(anext(source))
        ready = False
        try:
            async with _typed_lines(asked):
                while True:
                    await asyncio.wait((stopped, typed, heard), return_when=asyncio.FIRST_COMPLETED)
                    if stopped.done():
                        return
                    if typed.done():
                        await self._again(typed.result())
                        typed = asyncio.ensure_future(asked.get())
                    if heard.done():
                        event = heard.result().event
                        if not ready:
                            note("ready: waiting for events; Ctrl-C ends it")
                            ready = True
                        if event is not None:
                            await self._take(event)
                        heard = asyncio.ensure_future(anext(source))
        finally:
            for task in (stopped, typed, heard):
                task.cancel()
            await asyncio.gather(stopped, typed, heard, return_exceptions=True)
            await source.aclose()

    async def _take(self, event: Event) -> None:
        if self._forwarder is None:
            emit(document(event)) if self._as_json else say(_line(event))
        else:
            await self._forward(self._forwarder, self._forwarder.keep(event), event)

    async def _again(self, line: str) -> None:
        word, *numbers = line.split() or [""]
        if self._forwarder is None or word != "r" or len(numbers) > 1 or not all(map(str.isdecimal, numbers)):
            note("r and Enter sends the last event again, r 7 the seventh")
            return
        found = self._forwarder.kept(*map(int, numbers))
        if found is None:
            note("there is no such event any more" if self._forwarder.count else "there was no event yet")
        else:
            await self._forward(self._forwarder, *found)

    async def _forward(self, forwarder: Forwarder, number: int, event: Event) -> None:
        answer = await forwarder.post(event)
        if self._as_json:
            emit(
                {"number": number, "id": event.id, "type": event.type, "tenant": event.tenant}
                | {"status": answer.status, "cause": answer.cause, "duration_ms": answer.duration_us / 1000}
            )
        else:
            say(*_answered(number, event, answer))


def _answered(number: int, event: Event, answer: PostResult) -> tuple[str, str]:
    """(line, style)."""
    said = str(answer.status) if answer.cause is None else f"{answer.cause}: {answer.detail}"
    style = "green" if 200 <= answer.status < 300 else "red"
    return f"#{number}  {event.type}  {event.id}  {answer.duration_us / 1000:.0f} ms  → {said}", style


def _line(event: Event) -> str:
    data = event.data.decode("utf-8", "replace")
    cut = "…" if len(data) > DATA_CHARS_MAX else ""
    return f"{iso(event.time_ms)}  {event.type}  {event.id}  of {event.tenant}  {data[:DATA_CHARS_MAX]}{cut}"


def document(event: Event) -> dict[str, Any]:
    """The event for programs, who read a line for each."""
    return {
        "id": event.id,
        "type": event.type,
        "tenant": event.tenant,
        "time": iso(event.time_ms),
        "subject": event.subject,
        "data": orjson.Fragment(on_one_line(event.data)),
    }


@asynccontextmanager
async def _typed_lines(asked: asyncio.Queue[str]) -> AsyncIterator[None]:
    """Lines of stdin, while there is somebody who types."""
    loop, number = asyncio.get_running_loop(), sys.stdin.fileno()
    rest = b""

    def read() -> None:
        nonlocal rest
        found = os.read(number, LINE_BYTES_MAX)
        if not found:
            loop.remove_reader(number)
        *lines, rest = (rest + found)[-LINE_BYTES_MAX:].split(b"\n")
        for line in lines:
            asked.put_nowait(line.decode("utf-8", "replace"))

    try:
        loop.add_reader(number, read)
    except (OSError, ValueError):  # a file, or nothing: nobody types
        yield
        return
    try:
        yield
    finally:
        loop.remove_reader(number)
