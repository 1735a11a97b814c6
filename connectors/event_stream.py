"""Events over HTTP as server-sent events (WHATWG HTML, section 9.2): how they are written, and the client that reads.

An event's `id` is the place after it: who comes again with `Last-Event-ID` goes on there. A comment now and then shows
that the connection lives. The server's side is `connectors/api/listening.py`; this file forwards nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import NamedTuple

import aiohttp
import msgspec

from connectors.event_feed import Heard, Wanted
from schemas.event import Event

MEDIA_TYPE = "text/event-stream"
PATH = "/v1/events/listen"
#: So often the server says something.
HEARTBEAT_SECONDS = 15.0
#: After so long of nothing the client takes the connection for dead.
SILENCE_SECONDS = 3 * HEARTBEAT_SECONDS
CONNECT_SECONDS = 10.0
#: The largest event is smaller: its data have 7 MiB at most.
MESSAGE_BYTES_MAX = 16 << 20
PROBLEM_BYTES_MAX = 64 << 10


class StreamRefusedError(Exception):
    """The API does not let this listener in; one sentence with the next step."""


class StreamLostError(Exception):
    """The connection was not made, or ended; come again. One sentence."""


class Listened(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event as it is sent: the fields of the envelope, `data` byte for byte."""

    id: str
    type: str
    tenant: str
    time_ms: int
    data: msgspec.Raw
    subject: str | None = None
    source: str | None = None


class _Problem(msgspec.Struct):
    """RFC 9457, as far as it is shown."""

    detail: str = ""
    title: str = ""


_decoder = msgspec.json.Decoder(Listened)


def message(heard: Heard) -> bytes:
    """One server-sent event; without data where nothing was heard, which only moves the place on."""
    event = heard.event
    if event is None:
        return f"id: {heard.cursor}\n\n".encode()
    listened = Listened(
        event.id, event.type, event.tenant, event.time_ms, msgspec.Raw(event.data), event.subject, event.source
    )
    # A carriage return in JSON is white space; a line feed ends a line here, and is put back by who reads.
    lines = msgspec.json.encode(listened).replace(b"\r", b" ").split(b"\n")
    data = b"".join([b"data: %b\n" % line for line in lines])
    return b"id: %b\nevent: event\n%b\n" % (heard.cursor.encode(), data)


def heartbeat() -> bytes:
    """A comment."""
    return b": \n\n"


class Message(NamedTuple):
    """One server-sent event: its id (empty: none was sent) and its data."""

    id: str
    data: bytes


class MessageParser:
    """From bytes as they come to messages; only what our server writes is understood, and anything else passed over."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[Message]:
        """What is complete now. StreamLostError when a message is too large."""
        *blocks, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        if len(self._rest) > MESSAGE_BYTES_MAX:
            raise StreamLostError("the API sends an event that is too large")
        return [_parsed(block) for block in blocks]


def _parsed(block: bytes) -> Message:
    cursor, data = "", []
    for line in block.split(b"\n"):
        name, _, text = line.partition(b":")
        text = text.removeprefix(b" ")
        if name == b"id":
            cursor = text.decode("utf-8", "replace")
        elif name == b"data":
            data.append(text)
    return Message(cursor, b"\n".join(data))


class EventStream:
    """The client of one API."""

    def __init__(self, url: str, key: str) -> None:
        """`url` is the API's own, such as https://hooks.example.com; `key` an API key with the scope events:listen."""
        self._url = url.rstrip("/") + PATH
        self._headers = {"Authorization": f"Bearer {key}", "Accept": MEDIA_TYPE}

    async def follow(self, wanted: Wanted, cursor: str | None = None) -> AsyncGenerator[Heard, None]:
        """What is sent on one connection, from the cursor on or else from now on; the first item says where that is.

        StreamRefusedError, StreamLostError.
        """
        headers = self._headers | ({"Last-Event-ID": cursor} if cursor else {})
        query = [("type", each) for each in wanted.types] + ([("tenant", wanted.tenant)] if wanted.tenant else [])
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(self._url, params=query, headers=headers, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    await _refuse(response)
                parser = MessageParser()
                async for chunk in response.content.iter_any():
                    for each in parser.feed(chunk):
                        if each.id:
                            yield Heard(each.id, _event(each.data) if each.data else None)
        except TimeoutError:
            raise StreamLostError("the API says nothing any more") from None
        except aiohttp.InvalidURL:
            raise StreamRefusedError(f"{self._url} is no URL; give that of the API, such as https://host") from None
        except aiohttp.ClientError as error:
            raise StreamLostError(f"the API at {self._url} is out of reach ({error})") from None
        raise StreamLostError("the API has ended the connection")


async def _refuse(response: aiohttp.ClientResponse) -> None:
    body = await response.content.read(PROBLEM_BYTES_MAX)
    try:
        problem = msgspec.json.decode(body, type=_Problem)
        said = problem.detail or problem.title
    except msgspec.DecodeError:
        said = "without a reason; is it the URL of a Distributary API?"
    sentence = f"the API answers {response.status}: {said}"
    raise (
        StreamLostError(sentence) if response.status == 429 or response.status >= 500 else StreamRefusedError(sentence)
    )


def _event(data: bytes) -> Event:
    try:
        sent = _decoder.decode(data)
    except msgspec.DecodeError:
        raise StreamRefusedError("what the API sends is no event; is this command as new as the API?") from None
    return Event(
        sent.id, sent.type, sent.tenant, sent.time_ms, bytes(sent.data), subject=sent.subject, source=sent.source
    )
