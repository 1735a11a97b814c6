"""An answer that its origin gave before is not parsed again, and nobody can tell."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from connectors.address_guard import AddressGuard
from connectors.http_sender import ANSWER_BYTES_MAX, HttpSender, _Connection

if TYPE_CHECKING:
    from schemas.post import PostResult

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
ANSWERS = (
    OK,
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 429 Slow\r\nwebhook-allowed-rate: 60\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(OK), OK),
    b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (ANSWER_BYTES_MAX, bytes(ANSWER_BYTES_MAX)),
    OK + OK,
    OK + b"\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok",
    b"HTTP/2 200\r\n\r\n",
)


class Wire(asyncio.Transport):
    """A connection whose other end is the test."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def abort(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


class Endpoint:
    """One origin of a sender, which is asked one POST after the other."""

    def __init__(self) -> None:
        self.sender = HttpSender(AddressGuard(allow_private=True))
        self.route = self.sender.route("http://127.0.0.1:9/", {}, 15)

    async def ask(self, reads: list[bytes]) -> tuple[PostResult, bool]:
        """The result, without its duration, when these reads come and then the end; whether the connection is kept."""
        origin = self.route.pool
        results: list[PostResult] = []
        if not origin.idle:
            opened = _Connection(self.sender, origin)
            opened.connection_made(Wire())
            opened.holds_slot = True
            origin.slots += 1
            self.sender._release(opened, 0.0)
        connection = origin.idle[-1]
        self.sender.post(self.route, (), b"{}", results.append)
        await asyncio.sleep(0)  # it is written at the loop's next turn
        for read in reads:
            if not connection.gone:
                connection.data_received(read)
        if not results:
            connection.connection_lost(None)
        (result,) = results
        return msgspec.structs.replace(result, duration_us=0), not connection.gone


@st.composite
def exchanges(draw: st.DrawFn) -> list[bytes]:
    """The reads of one answer: whole, cut after the first head, or cut anywhere."""
    answer = draw(st.sampled_from(ANSWERS))
    anywhere = st.lists(st.integers(1, len(answer) - 1), max_size=3)
    cuts = draw(st.just([]) | st.just([answer.index(b"\r\n\r\n") + 4]) | anywhere)
    edges = sorted({0, len(answer), *cuts})
    return [answer[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(exchanges(), max_size=12))
def test_what_was_answered_before_changes_no_answer(answers: list[list[bytes]]) -> None:
    async def run() -> None:
        known = Endpoint()
        for reads in answers:
            fresh = Endpoint()
            assert await known.ask(reads) == await fresh.ask(reads)
            await fresh.sender.close()
        await known.sender.close()

    asyncio.run(run())


async def test_a_small_answer_is_remembered_until_the_next() -> None:
    endpoint = Endpoint()
    origin = endpoint.route.pool
    for answer in ANSWERS[:4]:
        await endpoint.ask([answer])
        assert origin.answer_bytes == answer
    for answer in (ANSWERS[6], ANSWERS[7], ANSWERS[9], ANSWERS[10], ANSWERS[12], ANSWERS[13]):
        await endpoint.ask([answer])
        assert origin.answer_bytes == ANSWERS[3], "closed the connection, too large, or not whole"
    await endpoint.sender.close()
