"""Events as they come, for a developer's machine: a stream of server-sent events that goes on until somebody ends it.

`distributary listen` reads it. How events are written is in `connectors/event_stream.py`, where they come from in
`connectors/event_feed.py`. A stream ends by itself after an hour, when its key is not valid any more, and when the
process stops; who listens comes again with `Last-Event-ID` and misses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from connectors.admin import ClusterError
from connectors.api.limits import Places
from connectors.api.principal import acts_for
from connectors.api.problems import Fault, ProblemError
from connectors.api.routes import Answer, Call, Header, Route
from connectors.event_feed import EventFeed, Heard, InvalidCursorError, Wanted, check_cursor
from connectors.event_stream import HEARTBEAT_SECONDS, MEDIA_TYPE, PATH, heartbeat, message
from schemas.errors import InvalidSubscriptionError
from schemas.subscription import EVENT_TYPES_MAX, check_event_type_pattern

#: Streams of one process, and of one caller.
STREAMS_MAX = 32
STREAMS_OF_CALLER_MAX = 4
STREAM_SECONDS_MAX = 3_600.0
#: Who does not read for so long is let go.
WRITE_SECONDS = 30.0
LAST_EVENT_ID = "Last-Event-ID"


class Listeners:
    """A service: the feed, and how many streams there are. `monotonic` are seconds that never go back."""

    def __init__(self, feed: EventFeed, monotonic: Callable[[], float], *, streams_max: int = STREAMS_MAX) -> None:
        self.feed = feed
        self.monotonic = monotonic
        self.stopping = False
        refusal = "as many listen as may; end one that is not needed, or try again"
        self.places = Places(streams_max, STREAMS_OF_CALLER_MAX, refusal)

    async def stop(self, _: web.Application) -> None:
        """End all streams, soon."""
        self.stopping = True


class ListenQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which events."""

    type: Annotated[
        tuple[str, ...],
        Meta(
            max_length=EVENT_TYPES_MAX,
            description="Event types: exact, order.* or *; repeat it for several, leave it out for all",
        ),
    ] = ()
    tenant: Annotated[str | None, Meta(description="Whose events, for an operator's key; without it everybody's")] = (
        None
    )


async def listen(call: Call) -> web.StreamResponse:
    """Events from now on, or from the last one that was seen."""
    for pattern in call.query.type:
        try:
            check_event_type_pattern(pattern)
        except InvalidSubscriptionError:
            sentence = f"{pattern[:80]!r} is neither an event type, nor a prefix with .*, nor *"
            raise ProblemError(400, sentence, errors=[Fault("?type", sentence)]) from None
    wanted = Wanted(acts_for(call.principal, call.query.tenant), call.query.type)
    cursor = call.header(LAST_EVENT_ID) or None
    listeners = call.get(Listeners)
    try:
        if cursor is not None:
            check_cursor(cursor)
        with listeners.places.place(call.principal.caller):
            async with aclosing(listeners.feed.follow(wanted, cursor)) as heard:
                first = await anext(heard)  # whatever is wrong is said before the stream begins
                response = web.StreamResponse(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
                response.content_type = MEDIA_TYPE
                response.headers["X-Request-Id"] = call.request_id
                await response.prepare(call.request)
                if call.request.method != "HEAD":
                    await _write(call, response, first, heard)
                return response
    except InvalidCursorError as error:
        raise ProblemError(400, str(error)) from None
    except ClusterError as error:
        raise ProblemError(503, str(error)) from None


async def _write(call: Call, response: web.StreamResponse, first: Heard, heard: AsyncIterator[Heard]) -> None:
    listeners = call.get(Listeners)
    began = said = checked = listeners.monotonic()
    place = first.cursor
    try:
        await response.write(message(first))
        async for each in heard:
            now = listeners.monotonic()
            if listeners.stopping or now - began > STREAM_SECONDS_MAX or call.request.transport is None:
                return
            if now - checked >= HEARTBEAT_SECONDS:
                await call.services.authenticate(call.request)  # it may have been revoked
                checked = now
            if each.event is None:
                if now - said < HEARTBEAT_SECONDS:
                    continue
                line = message(each) if each.cursor != place else heartbeat()
            else:
                line = message(each)
            async with asyncio.timeout(WRITE_SECONDS):
                await response.write(line)
            place, said = each.cursor, now
    except (ConnectionError, TimeoutError, ClusterError, ProblemError):
        return  # the answer has begun: the end of it says all that can be said


ROUTES = [
    Route(
        method="GET",
        path=PATH,
        handler=listen,
        summary="Events as they come, as server-sent events",
        description="The id of each is the place after it; send it as Last-Event-ID to go on there.",
        tag="events",
        scope="events:listen",
        query=ListenQuery,
        headers=(Header(LAST_EVENT_ID, "Go on after this event"),),
        answers={200: Answer(type=str, media=MEDIA_TYPE, description="A stream that goes on until somebody ends it")},
        streams=True,
    ),
]
