"""The pool of the delivery client: order, reuse, bounds. What senders promise is in the conformance suite."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from typing import TYPE_CHECKING, Any

from connectors.address_guard import AddressGuard
from connectors.http_sender import HttpSender
from connectors.resolver import Resolver
from tests.conformance.sender_server import OK, Peer, answering, serving
from tests.helpers import eventually_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from schemas.post import PostResult


@contextlib.asynccontextmanager
async def sending(**options: Any) -> AsyncIterator[HttpSender]:
    sender = HttpSender(AddressGuard(allow_private=True), **options)
    try:
        yield sender
    finally:
        await sender.close()


def start(sender: HttpSender, url: str, timeout_s: float = 15.0) -> asyncio.Future[PostResult]:
    future: asyncio.Future[PostResult] = asyncio.get_running_loop().create_future()
    sender.post(sender.route(url, {}, timeout_s), (), b"{}", future.set_result)
    return future


async def test_waiting_requests_are_sent_in_their_order() -> None:
    async with serving(answering(OK)) as server, sending(connections_per_origin_max=1) as sender:
        await asyncio.gather(*[start(sender, server.url(f"/{n}")) for n in range(20)])
    assert [request.line.split()[1] for request in server.requests] == [f"/{n}" for n in range(20)]
    assert server.connections == 1


async def test_the_connection_used_last_is_used_first() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            if len(server.requests) == 3:
                all_here.set()
            await all_here.wait()
            if len(server.requests) == 3 and peer.number != 2:
                await second_answered.wait()
            await peer.send(OK)

    all_here, second_answered = asyncio.Event(), asyncio.Event()
    async with serving(script) as server, sending() as sender:
        first, second, third = (start(sender, server.url()) for _ in range(3))
        await asyncio.wait({first, second, third}, return_when=asyncio.FIRST_COMPLETED)
        second_answered.set()
        await asyncio.gather(first, second, third)
        for _ in range(5):
            await start(sender, server.url())
    used = [request.connection for request in server.requests[3:]]
    assert used == [used[0]] * 5
    assert used[0] != 2, "the connection that became idle first"


async def test_idle_connections_are_bounded_in_all_and_the_oldest_goes() -> None:
    async with (
        serving(answering(OK)) as one,
        serving(answering(OK)) as two,
        serving(answering(OK)) as three,
        sending(idle_connections_max=2) as sender,
    ):
        for server in (one, two, three):
            await start(sender, server.url())
        await eventually_async(lambda: not one.tasks)
        assert (len(two.tasks), len(three.tasks), sender.idle_connections) == (1, 1, 2)
        assert (await start(sender, two.url())).status == 200
        assert two.connections == 1


async def test_an_idle_connection_is_closed_after_a_while() -> None:
    async with serving(answering(OK)) as server, sending(idle_timeout_s=0.1) as sender:
        await start(sender, server.url())
        await eventually_async(lambda: not server.tasks)
        assert (await start(sender, server.url())).status == 200
    assert server.connections == 2


async def test_a_deadline_is_kept_while_the_idle_sweep_is_far_away() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        hanging.set()
        await peer.gone()

    hanging = asyncio.Event()
    async with serving(script) as server, sending(idle_timeout_s=3_600) as sender:
        await start(sender, server.url())
        # Nothing is in flight when the next sweep comes, so it schedules itself an hour ahead.
        await eventually_async(lambda: not sender._sweeping)
        assert (await start(sender, server.url(), timeout_s=0.2)).cause == "timeout"
        assert hanging.is_set()


async def test_a_time_out_gives_its_connection_to_the_next() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number > 1:
            await peer.send(OK)
        await peer.gone()

    async with serving(script) as server, sending(connections_per_origin_max=1) as sender:
        hanging = start(sender, server.url("/hangs"), timeout_s=0.2)
        waiting = start(sender, server.url("/waits"))
        assert [(await hanging).cause, (await waiting).status] == ["timeout", 200]
    assert server.connections_max <= 2


async def test_a_replaced_connection_keeps_its_place() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        while peer.number > 1:
            await peer.send(OK)
            await peer.request()

    async with serving(script) as server, sending(connections_per_origin_max=1) as sender:
        await start(sender, server.url())
        await asyncio.gather(*[start(sender, server.url()) for _ in range(5)])
    assert server.connections == 2


async def test_failed_connections_free_their_place() -> None:
    async with serving(answering(OK)) as server:
        url = server.url()
    async with sending(connections_per_origin_max=2) as sender:
        results = await asyncio.gather(*[start(sender, url) for _ in range(20)])
    assert {result.cause for result in results} == {"connect_failed"}


async def test_a_look_up_that_hangs_ends_with_the_connect_time_out() -> None:
    async def lookup(host: str) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    async with sending(resolver=Resolver(lookup), connect_timeout_s=0.1) as sender:
        result = await start(sender, "http://hooks.test/")
    assert result.cause == "dns_failed"
    assert "in time" in (result.detail or "")


async def test_a_server_that_speaks_first_is_not_believed() -> None:
    async def script(peer: Peer) -> None:
        await peer.send(b"220 mail.test ready\r\n")
        await peer.gone()

    async with serving(script) as server, sending() as sender:
        # Whether the bytes are read before or after the request was sent is up to the scheduler.
        results = [await start(sender, server.url()) for _ in range(10)]
    assert {result.cause for result in results} == {"malformed_response"}
    assert server.connections == 10


async def test_an_origin_without_routes_is_forgotten() -> None:
    async with serving(answering(OK)) as server, sending(idle_timeout_s=0.1) as sender:
        await start(sender, server.url())
        assert sender.origins == 1
        await eventually_async(lambda: not server.tasks)
        gc.collect()
        assert sender.origins == 0


async def test_closing_at_any_moment_leaves_nothing_open() -> None:
    async with serving(answering(OK)) as server:
        for moment in range(40):
            async with sending() as sender:
                answer = start(sender, server.url())
                for _ in range(moment):
                    await asyncio.sleep(0)
                await sender.close()
                result = await answer
                assert result.status == 200 or result.cause == "shutdown"
                assert (sender.in_flight, sender.idle_connections) == (0, 0)
        await eventually_async(lambda: not server.tasks)


async def test_bounds_are_arguments() -> None:
    answer = b"HTTP/1.1 200 OK\r\nx: 0123456789\r\ncontent-length: 10\r\n\r\n0123456789"
    async with serving(answering(answer)) as server:
        async with sending(excerpt_bytes_max=4) as sender:
            assert (await start(sender, server.url())).excerpt == b"0123"
        async with sending(header_bytes_max=16) as sender:
            assert (await start(sender, server.url())).cause == "response_too_large"


async def test_an_answer_ended_by_a_server_that_reads_no_more() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 413 Too Large\r\n\r\nno")
        peer.finish()
        await asyncio.Event().wait()

    async with serving(script) as server, sending() as sender:
        future: asyncio.Future[PostResult] = asyncio.get_running_loop().create_future()
        sender.post(sender.route(server.url(), {}, 5), (), b"x" * 16_000_000, future.set_result)
        assert (await future).status == 413


async def test_trailers_without_end_are_cut_too() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                await peer.send(b"trailer: " + b"x" * 1_000 + b"\r\n")

    async with serving(script) as server, sending() as sender:
        result = await start(sender, server.url())
    assert (result.status, result.excerpt) == (200, b"x")


async def test_the_client_never_resolves_an_address() -> None:
    async def lookup(host: str) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_FAIL, "asked about an address")

    async with serving(answering(OK)) as server, sending(resolver=Resolver(lookup)) as sender:
        assert (await start(sender, server.url())).status == 200


async def test_bytes_before_a_request_is_written_never_answer_it() -> None:
    """A request is written at the loop's next turn; until then its connection has been asked nothing."""
    async with serving(answering(OK)) as server, sending() as sender:
        await start(sender, server.url())
        (connection,) = sender._idle
        answer = start(sender, server.url())
        assert connection.upcoming is not None
        connection.data_received(b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n")
        result = await answer
    assert result.status == 200
    assert [request.connection for request in server.requests] == [1, 2]
