"""A cut cable: what runs through it ends, is refused, or stands still; and goes on when it is mended."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from connectors.control import Control, ControlError, helper
from connectors.cutter import Route, _End
from tests.helpers import eventually_async
from tests.integration.moody import held_port

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """A server that sends everything back, and remembers how connections ended."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
            self.ends.append("closed")
        except ConnectionError:
            self.ends.append("reset")
        finally:
            writer.close()


class Cable:
    """A cutter process with two routes to the same server."""

    def __init__(self, control: Control, ports: list[int], server: Echo) -> None:
        self.control = control
        self.ports = ports
        self.server = server

    async def order(self, do: str, *routes: int) -> int:
        met = await self.control.ask({"do": do, "routes": routes})
        assert isinstance(met, int)
        return met

    async def connect(self, route: int = 0) -> Streams:
        return await asyncio.open_connection("127.0.0.1", self.ports[route])


@pytest.fixture
async def cable(tmp_path: Path) -> AsyncIterator[Cable]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, helper("connectors.cutter", str(port), str(port), log=tmp_path / "cutter.log") as cutter:
        yield Cable(cutter.control, cutter.said["ports"], echo)


async def echoed(streams: Streams, data: bytes) -> bytes:
    streams[1].write(data)
    return await asyncio.wait_for(streams[0].readexactly(len(data)), 60)


async def ended(streams: Streams) -> str:
    """How the other side let go."""
    try:
        assert await asyncio.wait_for(streams[0].read(1), 60) == b""
        return "closed"
    except ConnectionResetError:
        return "reset"
    finally:
        streams[1].close()


async def test_bytes_pass_unchanged_in_both_directions(cable: Cable) -> None:
    first, second = await cable.connect(0), await cable.connect(1)
    assert await echoed(first, b"one") == b"one"
    large = os.urandom(8 << 20)  # more than any buffer on the way
    assert await echoed(second, large) == large
    first[1].close()
    second[1].close()
    await eventually_async(lambda: cable.server.ends == ["closed", "closed"], message="the end passes too")


async def test_a_cut_resets_what_there_is_on_its_route_and_nothing_else(cable: Cable) -> None:
    cut, other = [await cable.connect(0), await cable.connect(0)], await cable.connect(1)
    for each in (*cut, other):
        await echoed(each, b"x")
    assert await cable.order("cut", 0) == 2
    assert [await ended(each) for each in cut] == ["reset", "reset"]
    await eventually_async(lambda: cable.server.ends == ["reset", "reset"], message="both sides notice")
    assert await echoed(other, b"still") == b"still"
    again = await cable.connect(0)
    assert await echoed(again, b"again") == b"again"
    assert await cable.order("cut", 0, 1) == 2
    assert [await ended(each) for each in (other, again)] == ["reset", "reset"]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    probe: Callable[[], bool | Awaitable[bool]] = condition
    await eventually_async(probe)


async def refused(cable: Cable) -> bool:
    return not await listens(cable)


async def listens(cable: Cable) -> bool:
    try:
        _, writer = await cable.connect()
    except ConnectionError:
        return False
    writer.close()
    return True


async def test_refusing_lasts_until_it_is_mended(cable: Cable) -> None:
    before = await cable.connect()
    await echoed(before, b"x")
    assert await cable.order("refuse", 0) == 1
    assert await ended(before) == "reset"
    await until(lambda: refused(cable))
    assert await cable.order("refuse", 0) == 0
    await cable.order("mend", 0)
    await until(lambda: listens(cable))
    after = await cable.connect()
    assert await echoed(after, b"y") == b"y"
    after[1].close()


async def test_a_stalled_connection_stands_and_goes_on_where_it_was(cable: Cable) -> None:
    old = await cable.connect()
    await echoed(old, b"x")
    assert await cable.order("stall", 0) == 1
    new = await cable.connect()
    old[1].write(b"late")
    new[1].write(b"later")
    elsewhere = await cable.connect(1)
    await echoed(elsewhere, b"x")  # a round trip: what could have come would be here
    assert not old[0]._buffer  # type: ignore[attr-defined]  # nothing has
    assert cable.server.ends == []
    assert await cable.order("mend", 0) == 2
    assert await asyncio.wait_for(old[0].readexactly(4), 60) == b"late"
    assert await asyncio.wait_for(new[0].readexactly(5), 60) == b"later"
    for each in (old, new, elsewhere):
        each[1].close()


class Closing(asyncio.Transport):
    """As uvloop's are while they are closed: without a socket."""

    aborted = False

    def get_extra_info(self, name: str, default: object = None) -> None:
        return None

    def abort(self) -> None:
        self.aborted = True


def test_a_connection_that_has_lost_its_socket_is_reset_all_the_same() -> None:
    route, closing = Route(1), Closing()
    route.mode = "refuse"
    _End(route, None).connection_made(closing)
    assert closing.aborted
    route._place.close()


async def test_where_nobody_listens_nobody_answers(tmp_path: Path) -> None:
    with held_port() as port:
        async with helper("connectors.cutter", str(port), log=tmp_path / "cutter.log") as cutter:
            assert await ended(await asyncio.open_connection("127.0.0.1", cutter.said["ports"][0])) == "reset"


async def test_a_helper_that_has_gone_is_named(tmp_path: Path) -> None:
    async with helper("connectors.cutter", "1", log=tmp_path / "cutter.log") as cutter:
        cutter.process.signal(signal.SIGTERM)
        await eventually_async(cutter.process.ended)
        with pytest.raises(ControlError, match="has gone"):
            await cutter.control.ask({"do": "cut", "routes": [0]})
        with pytest.raises(ControlError, match="does not answer"):
            async with Control(cutter.said["control"]):
                pass
    with pytest.raises(ControlError, match=r"did not start: .*invalid int value: 'door'"):
        async with helper("connectors.cutter", "door", log=tmp_path / "no.log"):
            pass


async def test_orders_that_make_no_sense_are_refused(cable: Cable) -> None:
    orders: list[tuple[dict[str, Any], str]] = [
        ({"do": "burn", "routes": [0]}, "'burn' is no order"),
        ({"do": "cut", "routes": [2]}, "routes are 0 to 1"),
        ({"do": "cut"}, "KeyError"),
    ]
    for order, why in orders:
        with pytest.raises(ControlError, match=why):
            await cable.control.ask(order)
    assert await cable.order("cut", 0) == 0  # it still takes orders
